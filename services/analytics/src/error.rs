//! Why a question has no answer, and what the caller is told.

use tokenmeter_api::page::WrongToken;
use tokenmeter_api::status::Failure;
use tokenmeter_api::v1::ErrorReason;
use tokenmeter_model::bounds::Violation;
use tokenmeter_store::ledger;

use crate::live::token::TokenError;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Fields are out of bounds.
    #[error("{} fields are out of bounds", .0.len())]
    Invalid(Vec<Violation>),
    /// The page token is not one of this list's.
    #[error(transparent)]
    PageToken(#[from] WrongToken),
    /// The caller reads only itself.
    #[error("another user's data")]
    Denied,
    /// There is no such session, or the caller may not know of it.
    #[error("session {0} not found")]
    NoSession(String),
    /// The resume token cannot be used.
    #[error(transparent)]
    ResumeToken(#[from] TokenError),
    /// Refused as it stands, such as a stream without a place.
    #[error("{}", .0.message)]
    Refused(Box<Failure>),
    /// The server shuts down.
    #[error("shutting down")]
    ShuttingDown,
    /// The ledger could not answer.
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
}

impl From<tokenmeter_identity::Denied> for Error {
    fn from(_: tokenmeter_identity::Denied) -> Self {
        Self::Denied
    }
}

impl From<Failure> for Error {
    /// What `Streams` refuses with.
    fn from(failure: Failure) -> Self {
        Self::Refused(Box::new(failure))
    }
}

impl From<TokenError> for Failure {
    fn from(error: TokenError) -> Self {
        match &error {
            TokenError::Invalid => Self::new(
                ErrorReason::ResumeTokenInvalid,
                format!("{error}; send it as it came, or leave it empty"),
            ),
            TokenError::OtherFilter => Self::new(
                ErrorReason::ResumeTokenFilterMismatch,
                format!("{error}; send the request that it was issued for, or leave it empty"),
            ),
            TokenError::Expired { oldest } => {
                let text = format!("{error}; go on with oldest_resume_token of the metadata");
                Self::new(ErrorReason::ResumeTokenExpired, text)
                    .metadata("oldest_resume_token", oldest)
            }
        }
    }
}

impl From<Violation> for Error {
    fn from(violation: Violation) -> Self {
        Self::Invalid(vec![violation])
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(violations) => violations.into(),
            Error::PageToken(wrong) => wrong.into(),
            Error::Denied => Self::new(
                ErrorReason::PermissionDenied,
                "the role read_own reads the caller's own usage only; leave user_id empty",
            ),
            Error::NoSession(id) => {
                Self::new(ErrorReason::NotFound, "there is no such session with usage")
                    .resource("session", id)
            }
            Error::ResumeToken(error) => error.into(),
            Error::Refused(failure) => *failure,
            Error::ShuttingDown => Self::new(
                ErrorReason::ShuttingDown,
                "the server is shutting down; connect again with the last resume token",
            ),
            Error::Ledger(error @ ledger::Error::NotRetained { .. }) => error.fault().into(),
            Error::Ledger(error) => {
                // The text is for the log; callers are told the kind of fault.
                tracing::error!(%error, "reading");
                error.fault().into()
            }
        }
    }
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        Failure::from(error).into()
    }
}
