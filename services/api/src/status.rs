//! From a failure to a gRPC status with google.rpc details, and back.

use std::collections::HashMap;
use std::time::Duration;

use tokenmeter_model::bounds::{Kind, Violation};
use tokenmeter_model::fault::Fault;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::DOMAIN;
use crate::convert::time::from_micros;
use crate::v1::{self, ErrorReason};

/// Why an RPC failed: everything that its status tells the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The gRPC code; [`Failure::new`] takes the reason's own.
    pub code: Code,
    /// Why, for programs.
    pub reason: ErrorReason,
    /// Why, for people: lower case, no full stop, nothing internal.
    pub message: String,
    /// Fields out of bounds, each with what is wrong, the bound and the mend.
    pub violations: Vec<(String, String)>,
    /// When to retry.
    pub retry_after: Option<Duration>,
    /// Type and name of the resource concerned.
    pub resource: Option<(String, String)>,
    /// Further facts, as the reason documents them.
    pub metadata: HashMap<String, String>,
}

impl Failure {
    /// A failure with the reason's own gRPC code.
    pub fn new(reason: ErrorReason, message: impl Into<String>) -> Self {
        Self {
            code: code_of(reason),
            reason,
            message: message.into(),
            violations: Vec::new(),
            retry_after: None,
            resource: None,
            metadata: HashMap::new(),
        }
    }

    /// Adds a field that is out of bounds.
    #[must_use]
    pub fn violation(mut self, field: impl Into<String>, description: impl Into<String>) -> Self {
        self.violations.push((field.into(), description.into()));
        self
    }

    /// Says when to retry.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// Names the resource concerned.
    #[must_use]
    pub fn resource(mut self, kind: impl Into<String>, name: impl Into<String>) -> Self {
        self.resource = Some((kind.into(), name.into()));
        self
    }

    /// Adds a further fact.
    #[must_use]
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }
}

/// A request whose `request_id` stands for a request with another content.
pub fn request_conflict(request_id: impl Into<String>) -> Failure {
    let text = "request_id stands for another request; send a retry unchanged, or give a new \
                request an id of its own";
    Failure::new(ErrorReason::RequestIdConflict, text).resource("request", request_id)
}

/// An event, or something beside it, whose time is sealed.
pub fn too_old(oldest_us: i64) -> Failure {
    Failure::new(
        ErrorReason::EventTooOld,
        "the time lies before what retention still accepts; nothing was changed",
    )
    .metadata("oldest_accepted_time", from_micros(oldest_us).to_string())
}

/// When to come back after a store could not do its work.
const RETRY_LATER: Duration = Duration::from_secs(1);

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Unavailable => Self::new(
                ErrorReason::LedgerUnavailable,
                "the ledger cannot be reached or cannot commit; keep what you hold and send it again with the \
                 same ids, in case it was applied",
            )
            .retry_after(RETRY_LATER),
            Fault::Overloaded => Self::new(
                ErrorReason::Overloaded,
                "too many events wait for the ledger; nothing was changed, retry later",
            )
            .retry_after(RETRY_LATER),
            Fault::OutOfRange => Self::new(
                ErrorReason::CostOutOfRange,
                "the event would take a total past 64 bits; nothing was changed",
            ),
            Fault::NotRetained { oldest_us } => Self::new(
                ErrorReason::RangeNotRetained,
                "a part of the range is sealed, and its events are not kept; begin at oldest_time of \
                 the metadata or later, or at a whole quarter-hour",
            )
            .metadata("oldest_time", from_micros(oldest_us).to_string()),
            Fault::Corrupt => Self::new(
                ErrorReason::Internal,
                "an internal error; nothing was changed",
            ),
        }
    }
}

impl From<Vec<Violation>> for Failure {
    /// Fields out of bounds; the first one's kind gives the reason.
    fn from(violations: Vec<Violation>) -> Self {
        let text = match &violations[..] {
            [one] => one.to_string(),
            [first, rest @ ..] => format!("{first}; and {} more", rest.len()),
            [] => "the request is invalid".to_owned(),
        };
        let reason = reason_of_violations(&violations);
        violations
            .into_iter()
            .fold(Self::new(reason, text), |failure, violation| {
                failure.violation(violation.field, violation.description)
            })
    }
}

/// The reason that a refusal for these violations names: that of the first one's kind.
pub fn reason_of_violations(violations: &[Violation]) -> ErrorReason {
    match violations.first().map(|violation| violation.kind) {
        Some(Kind::EventIdMissing) => ErrorReason::EventIdMissing,
        Some(Kind::UsageMissing) => ErrorReason::UsageMissing,
        Some(Kind::TooManyLines) => ErrorReason::TooManyLines,
        Some(Kind::TimeInFuture) => ErrorReason::EventTimeInFuture,
        Some(Kind::Range) => ErrorReason::RangeInvalid,
        Some(Kind::Limit) => ErrorReason::LimitInvalid,
        Some(Kind::Field) | None => ErrorReason::FieldInvalid,
    }
}

impl From<Failure> for v1::ItemError {
    fn from(failure: Failure) -> Self {
        let failure = failure.bounded();
        let retryable = matches!(failure.code, Code::Unavailable | Code::ResourceExhausted);
        let millis = |delay: Duration| i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
        Self {
            reason: failure.reason.into(),
            message: failure.message,
            violations: failure
                .violations
                .into_iter()
                .map(|(field, description)| v1::FieldViolation { field, description })
                .collect(),
            retryable,
            retry_after_ms: failure.retry_after.map(millis),
        }
    }
}

/// Most fields named in one answer, and most bytes of a text in it. A status travels in HTTP/2
/// headers, of which common clients read 8 to 16 KiB, all the rest of the answer included.
const MAX_VIOLATIONS: usize = 8;
const MAX_FIELD_BYTES: usize = 96;
const MAX_DESCRIPTION_BYTES: usize = 256;
const MAX_MESSAGE_BYTES: usize = 512;

/// At most `max` bytes of a text, cut between characters.
fn cut(mut text: String, max: usize) -> String {
    if text.len() > max {
        let end = (0..=max)
            .rev()
            .find(|at| text.is_char_boundary(*at))
            .unwrap_or_default();
        text.truncate(end);
        text.push('…');
    }
    text
}

impl Failure {
    /// The same failure, small enough to travel: the first fields, and texts of bounded length.
    /// `violations_omitted` in the metadata says how many fields are left out.
    fn bounded(mut self) -> Self {
        let omitted = self.violations.len().saturating_sub(MAX_VIOLATIONS);
        if omitted > 0 {
            self.violations.truncate(MAX_VIOLATIONS);
            self.metadata
                .insert("violations_omitted".to_owned(), omitted.to_string());
        }
        self.message = cut(self.message, MAX_MESSAGE_BYTES);
        for (field, description) in &mut self.violations {
            *field = cut(std::mem::take(field), MAX_FIELD_BYTES);
            *description = cut(std::mem::take(description), MAX_DESCRIPTION_BYTES);
        }
        self
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let failure = failure.bounded();
        let mut details = ErrorDetails::new();
        details.set_error_info(name_of(failure.reason), DOMAIN, failure.metadata);
        if !failure.violations.is_empty() {
            details.set_bad_request(
                failure
                    .violations
                    .into_iter()
                    .map(|(field, description)| FieldViolation::new(field, description))
                    .collect::<Vec<_>>(),
            );
        }
        if let Some(delay) = failure.retry_after {
            details.set_retry_info(Some(delay));
        }
        if let Some((kind, name)) = failure.resource {
            details.set_resource_info(kind, name, "", "");
        }
        Status::with_error_details(failure.code, failure.message, details)
    }
}

/// Reads a failure from a status of this service; `None` if it has no `ErrorInfo` of ours, or
/// one with a reason that this version does not know.
pub fn failure_of(status: &Status) -> Option<Failure> {
    let details = status.get_error_details();
    let info = details.error_info()?;
    if info.domain != DOMAIN {
        return None;
    }
    Some(Failure {
        code: status.code(),
        reason: reason_of(&info.reason)?,
        message: status.message().to_owned(),
        violations: details
            .bad_request()
            .map(|bad| {
                bad.field_violations
                    .iter()
                    .map(|v| (v.field.clone(), v.description.clone()))
                    .collect()
            })
            .unwrap_or_default(),
        retry_after: details.retry_info().and_then(|retry| retry.retry_delay),
        resource: details
            .resource_info()
            .map(|r| (r.resource_type.clone(), r.resource_name.clone())),
        metadata: info.metadata.clone(),
    })
}

/// Prefix of the enum's names, which `ErrorInfo.reason` leaves out.
const PREFIX: &str = "ERROR_REASON_";

/// The code as the gRPC documents spell it.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// The reason's name in `ErrorInfo`, such as `EVENT_CONFLICT`.
pub fn name_of(reason: ErrorReason) -> &'static str {
    let name = reason.as_str_name();
    name.strip_prefix(PREFIX).unwrap_or(name)
}

/// The reason of a name in `ErrorInfo`.
pub fn reason_of(name: &str) -> Option<ErrorReason> {
    ErrorReason::from_str_name(&format!("{PREFIX}{name}"))
}

/// The gRPC code that the contract documents for a reason.
pub fn code_of(reason: ErrorReason) -> Code {
    use ErrorReason as R;
    match reason {
        R::FieldInvalid
        | R::MessageUndecodable
        | R::PageTokenInvalid
        | R::ResumeTokenInvalid
        | R::ResumeTokenFilterMismatch
        | R::StreamProtocolViolation
        | R::EventTimeInFuture
        | R::EventIdMissing
        | R::TooManyLines
        | R::ModelMissing
        | R::CostOutOfRange
        | R::UnknownProvider
        | R::UsageJsonInvalid
        | R::UsageTooLarge
        | R::UsageMissing
        | R::UsageShapeUnknown
        | R::UsageCountInvalid
        | R::UsageNegativeRemainder
        | R::UsageContradictory
        | R::ReservationMismatch
        | R::LimitInvalid
        | R::PriceInvalid
        | R::ImportInvalid
        | R::TimeZoneUnknown
        | R::RangeInvalid => Code::InvalidArgument,
        R::MessageTooLarge | R::Overloaded | R::TooManyStreams | R::ResourceLimit => {
            Code::ResourceExhausted
        }
        R::NotYetImplemented => Code::Unimplemented,
        R::TimedOut => Code::DeadlineExceeded,
        R::Unspecified | R::Internal => Code::Internal,
        R::Unauthenticated => Code::Unauthenticated,
        R::PermissionDenied => Code::PermissionDenied,
        R::IdentityUnavailable
        | R::LedgerUnavailable
        | R::CountersUnavailable
        | R::FeedUnavailable
        | R::ShuttingDown => Code::Unavailable,
        R::NotFound | R::ReservationNotFound => Code::NotFound,
        R::AlreadyExists | R::RequestIdConflict | R::EventConflict => Code::AlreadyExists,
        R::EtagMismatch | R::AcksUnread | R::RepriceStale => Code::Aborted,
        R::ResumeTokenExpired | R::EventTooOld | R::RangeNotRetained => Code::OutOfRange,
        R::TenantDisabled
        | R::EventVoided
        | R::ReservationExpired
        | R::ReservationSettled
        | R::ReservationReleased
        | R::CallAlreadyOpen
        | R::CallTakenOver
        | R::ProfileInUse
        | R::JobRunning
        | R::PeriodStateInvalid => Code::FailedPrecondition,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_of_any_size_is_small_enough_to_travel() {
        let mut failure = Failure::new(ErrorReason::FieldInvalid, "ü".repeat(100_000));
        for n in 0..1_000 {
            failure = failure.violation(format!("{n}{}", "f".repeat(5_000)), "ü".repeat(5_000));
        }
        let status = Status::from(failure);
        assert!(
            status.details().len() < 6_000,
            "{} bytes",
            status.details().len()
        );
        assert!(status.message().len() < 600);
        let read = failure_of(&status).unwrap();
        assert_eq!(read.violations.len(), MAX_VIOLATIONS);
        assert_eq!(read.metadata["violations_omitted"], "992");
    }
}
