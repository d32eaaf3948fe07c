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
    /// There is no such profile in the caller's tenant.
    #[error("profile {0} not found")]
    NoProfile(String),
    /// There is a profile of this id already.
    #[error("profile {0} exists")]
    ProfileExists(String),
    /// The profile was changed since.
    #[error("profile {0} has another etag")]
    EtagMismatch(String),
    /// The settings of the tenant were changed since.
    #[error("tenant {0} has another etag")]
    TenantEtagMismatch(String),
    /// The profile is assigned, the tenant's default, or shipped.
    #[error("profile {0} is in use")]
    ProfileInUse(String),
    /// The tenant has as many profiles as it may have.
    #[error("there are {0} profiles")]
    TooManyProfiles(i64),
    /// There is no such time zone; the text says how to mend it.
    #[error("{0}")]
    UnknownZone(String),
    /// Settings that this version does not keep.
    #[error("{} settings are not kept", .0.len())]
    NotKept(Vec<Violation>),
    /// The caller may not; the text says what it may.
    #[error("{0}")]
    Denied(&'static str),
    /// Refused as it stands by who was asked.
    #[error("{}", .0.message)]
    Refused(Box<Failure>),
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
            Error::NoProfile(id) => Self::new(
                ErrorReason::NotFound,
                "there is no such profile; ListProfiles has those that are",
            )
            .resource("profile", id),
            Error::ProfileExists(id) => Self::new(
                ErrorReason::AlreadyExists,
                "there is a profile of this id already; choose another id, or update the one there is",
            )
            .resource("profile", id),
            Error::EtagMismatch(id) => etag_mismatch("profile", id),
            Error::TenantEtagMismatch(id) => etag_mismatch("tenant", id),
            Error::ProfileInUse(id) => Self::new(
                ErrorReason::ProfileInUse,
                "the profile is assigned, is the tenant's default, or ships with tokenmeter; assign \
                 another first, or update it",
            )
            .resource("profile", id),
            Error::TooManyProfiles(maximum) => Self::new(
                ErrorReason::ResourceLimit,
                format!("a tenant has at most {maximum} profiles; delete some"),
            )
            .metadata("maximum", maximum.to_string()),
            Error::UnknownZone(text) => Self::new(ErrorReason::TimeZoneUnknown, &*text)
                .violation("settings.time_zone", text),
            Error::NotKept(violations) => violations.into_iter().fold(
                Self::new(
                    ErrorReason::NotYetImplemented,
                    "the settings have some that this version does not keep for a tenant",
                ),
                |failure, one| failure.violation(one.field, one.description),
            ),
            Error::Denied(text) => Self::new(ErrorReason::PermissionDenied, text),
            Error::Refused(failure) => *failure,
            Error::Ledger(error @ ledger::Error::NotRetained { .. }) => error.fault().into(),
            Error::Ledger(error) => {
                // The text is for the log; callers are told the kind of fault.
                tracing::error!(%error, "administration");
                error.fault().into()
            }
        }
    }
}

/// What was read before is not what stands.
fn etag_mismatch(kind: &str, name: String) -> Failure {
    let text = format!(
        "the {kind} was changed since; read it again, apply the change to what was read, and send it \
         with the new etag"
    );
    Failure::new(ErrorReason::EtagMismatch, text).resource(kind, name)
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        Failure::from(error).into()
    }
}
