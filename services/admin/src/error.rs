//! Why an administrator's request was refused, and what the caller is told.

use tokenmeter_api::page::WrongToken;
use tokenmeter_api::status::{Failure, request_conflict};
use tokenmeter_api::v1::ErrorReason;
use tokenmeter_model::bounds::Violation;
use tokenmeter_store::ledger;

/// Why a request was refused. Nothing was changed, except that steps of a
/// reprice run before it stand.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Fields are out of bounds.
    #[error("{} fields are out of bounds", .0.len())]
    Invalid(Vec<Violation>),
    /// Prices are not consistent.
    #[error("{} prices are not consistent", .0.len())]
    Price(Vec<Violation>),
    /// The file cannot be read.
    #[error("import: {0}")]
    Import(String),
    /// The page token is not one of this list's.
    #[error(transparent)]
    PageToken(#[from] WrongToken),
    /// The request's name stands for another request.
    #[error("request {0} stands with another content")]
    RequestConflict(String),
    /// The book is not the one that was expected.
    #[error("prices changed since the dry run")]
    RepriceStale,
    /// The month is not over.
    #[error("period {0} is not over")]
    PeriodOpen(String),
    /// A run of the tenant is under way.
    #[error("a reprice run is under way")]
    RepriceRunning,
    /// A reconciliation of the tenant is under way.
    #[error("a reconciliation is under way")]
    ReconcileRunning,
    /// There is no such drift in the caller's tenant.
    #[error("drift {0} not found")]
    NoDrift(String),
    /// The ledger could not answer.
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
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
            Error::Price(violations) => {
                let mut failure = Self::from(violations);
                failure.reason = ErrorReason::PriceInvalid;
                failure
            }
            Error::Import(text) => Self::new(ErrorReason::ImportInvalid, format!("content {text}"))
                .violation("content", text),
            Error::PageToken(wrong) => wrong.into(),
            Error::RequestConflict(request_id) => request_conflict(request_id),
            Error::RepriceStale => Self::new(
                ErrorReason::RepriceStale,
                "the price book's highest version is not expected_price_version; do a dry run again",
            ),
            Error::PeriodOpen(period_id) => Self::new(
                ErrorReason::PeriodStateInvalid,
                "the month is not over; close it when it is, or leave period_id empty for the last \
                 one",
            )
            .resource("period", period_id),
            Error::RepriceRunning => Self::new(
                ErrorReason::JobRunning,
                "a reprice run of this tenant is under way; wait for its end, then send this again",
            )
            .resource("job", "reprice"),
            Error::ReconcileRunning => Self::new(
                ErrorReason::JobRunning,
                "a reconciliation of this tenant is under way; send the same request again for its \
                 answer",
            )
            .resource("job", "reconciliation"),
            Error::NoDrift(drift_id) => Self::new(ErrorReason::NotFound, "there is no such drift")
                .resource("drift", drift_id),
            Error::Ledger(error @ ledger::Error::NotRetained { .. }) => error.fault().into(),
            Error::Ledger(error) => {
                // The text is for the log; callers are told the kind of fault.
                tracing::error!(%error, "administration");
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
