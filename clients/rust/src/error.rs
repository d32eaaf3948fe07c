//! Why a call failed, as programs want to know it.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use tokenmeter_api::status::{failure_of, name_of};
use tokenmeter_api::v1::{self, ErrorReason};
use tonic::{Code, Status};

/// Why a call failed: everything that the server said, or what became of the connection.
///
/// Branch on [`reason`](Self::reason), and where that is absent on [`code`](Self::code); the message
/// is for people and may change.
#[derive(Debug, Clone)]
pub struct Error {
    /// The gRPC code.
    pub code: Code,
    /// Why, for programs. Absent if the answer is not of this service, such as of a broken
    /// connection or a proxy, or of a reason that this version of the crate does not know.
    pub reason: Option<ErrorReason>,
    /// Why, for people.
    pub message: String,
    /// Fields out of bounds, each with what is wrong, the bound and the mend.
    pub violations: Vec<(String, String)>,
    /// How long to wait before trying again, where the server said so.
    pub retry_after: Option<Duration>,
    /// Type and name of the resource concerned.
    pub resource: Option<(String, String)>,
    /// Further facts, as the reason documents them.
    pub metadata: HashMap<String, String>,
    /// The server's name of the call in its log.
    pub request_id: Option<String>,
    /// That something may have been applied whatever the reason says, as it was sent before.
    unknown: bool,
}

/// What every method of this crate answers.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A failure of this side, such as options that contradict each other.
    pub(crate) fn local(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            reason: None,
            message: message.into(),
            violations: Vec::new(),
            retry_after: None,
            resource: None,
            metadata: HashMap::new(),
            request_id: None,
            unknown: false,
        }
    }

    /// The same of a request that may have been applied by an earlier attempt.
    pub(crate) fn with_unknown(mut self, unknown: bool) -> Self {
        self.unknown |= unknown;
        self
    }

    /// Whether the same request, sent again unchanged, may succeed.
    ///
    /// True of UNAVAILABLE, of DEADLINE_EXCEEDED, of RESOURCE_EXHAUSTED if the server says when, and
    /// of a stream that ended with ACKS_UNREAD. Calls through [`Client`](crate::Client) have been
    /// repeated by then, as far as their deadline let them.
    pub fn is_retryable(&self) -> bool {
        match self.code {
            Code::Unavailable | Code::DeadlineExceeded => true,
            Code::ResourceExhausted => self.retry_after.is_some(),
            Code::Aborted => self.reason == Some(ErrorReason::AcksUnread),
            _ => false,
        }
    }

    /// Whether the request may have been applied although it failed. Send it again with the same
    /// ids then: the server recognises what it has done. False means that it certainly changed
    /// nothing.
    pub fn is_applied_unknown(&self) -> bool {
        use ErrorReason as R;
        if self.unknown {
            return true;
        }
        match self.reason {
            Some(reason) => matches!(
                reason,
                R::Unspecified
                    | R::Internal
                    | R::LedgerUnavailable
                    | R::CountersUnavailable
                    | R::FeedUnavailable
                    | R::ShuttingDown
                    | R::AcksUnread
                    | R::StreamProtocolViolation
                    | R::CallTakenOver
                    | R::TimedOut
            ),
            None => matches!(
                self.code,
                Code::Unavailable
                    | Code::DeadlineExceeded
                    | Code::Cancelled
                    | Code::Aborted
                    | Code::Unknown
                    | Code::Internal
                    | Code::DataLoss
            ),
        }
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        let request_id = status
            .metadata()
            .get("x-request-id")
            .and_then(|id| id.to_str().ok())
            .map(str::to_owned);
        if let Some(failure) = failure_of(&status) {
            return Self {
                code: failure.code,
                reason: Some(failure.reason),
                message: failure.message,
                violations: failure.violations,
                retry_after: failure.retry_after,
                resource: failure.resource,
                metadata: failure.metadata,
                request_id,
                unknown: false,
            };
        }
        let (code, message) = match std::error::Error::source(&status) {
            Some(cause) if has_timed_out(cause) => (
                Code::DeadlineExceeded,
                "no answer within the call's deadline".to_owned(),
            ),
            // Not an answer: what the connection ran into. Whatever code the transport made of it,
            // the connection is gone, and another may be had.
            Some(cause) => (
                Code::Unavailable,
                format!("the connection failed: {}", innermost(cause)),
            ),
            None => (status.code(), status.message().to_owned()),
        };
        Self {
            retry_after: retry_after(&status),
            request_id,
            ..Self::local(code, message)
        }
    }
}

impl From<v1::ItemError> for Error {
    /// Why one item of a batch or stream was refused.
    fn from(item: v1::ItemError) -> Self {
        let reason = item.reason();
        let millis = item.retry_after_ms.and_then(|ms| u64::try_from(ms).ok());
        Self {
            reason: (reason != ErrorReason::Unspecified).then_some(reason),
            violations: item
                .violations
                .into_iter()
                .map(|violation| (violation.field, violation.description))
                .collect(),
            retry_after: millis.map(Duration::from_millis),
            ..Self::local(tokenmeter_api::status::code_of(reason), item.message)
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason {
            Some(reason) => write!(f, "{}: {}", name_of(reason), self.message)?,
            None => write!(f, "{}: {}", self.code, self.message)?,
        }
        for (field, description) in &self.violations {
            if !self.message.contains(description.as_str()) {
                write!(f, "; {field}: {description}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// RetryInfo of a status whatever its domain, as a proxy may send it.
fn retry_after(status: &Status) -> Option<Duration> {
    use tonic_types::StatusExt as _;
    status.get_details_retry_info()?.retry_delay
}

/// Whether the connection ended the call because its time was over.
pub(crate) fn has_timed_out(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .any(|error| error.is::<tonic::TimeoutExpired>())
}

/// The innermost cause of an error, such as `Connection refused`.
pub(crate) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;
    use prost_types::FileDescriptorSet;
    use tokenmeter_api::status::Failure;

    #[test]
    fn a_refusal_is_read_whole() {
        let status = Status::from(
            Failure::new(ErrorReason::Overloaded, "too much")
                .retry_after(Duration::from_millis(250))
                .metadata("maximum", "7"),
        );
        let error = Error::from(status);
        assert_eq!(error.code, Code::ResourceExhausted);
        assert_eq!(error.reason, Some(ErrorReason::Overloaded));
        assert_eq!(error.retry_after, Some(Duration::from_millis(250)));
        assert_eq!(error.metadata["maximum"], "7");
        assert!(error.is_retryable() && !error.is_applied_unknown());
        assert_eq!(error.to_string(), "OVERLOADED: too much");
    }

    #[test]
    fn too_large_a_message_is_not_sent_again() {
        let failure = Failure::new(ErrorReason::MessageTooLarge, "5 MiB");
        assert!(!Error::from(Status::from(failure)).is_retryable());
    }

    #[test]
    fn a_refusal_of_another_service_keeps_its_code() {
        let error = Error::from(Status::unknown("what"));
        assert_eq!((error.code, error.reason), (Code::Unknown, None));
        assert!(error.is_applied_unknown() && !error.is_retryable());
    }

    /// `Not applied` in the contract's comment of a reason is what `is_applied_unknown` denies.
    #[test]
    fn what_may_have_been_applied_is_what_the_contract_says() {
        let set = FileDescriptorSet::decode(tokenmeter_api::FILE_DESCRIPTOR_SET).unwrap();
        let file = set
            .file
            .iter()
            .find(|file| file.name() == "tokenmeter/v1/errors.proto")
            .unwrap();
        let (e, reasons) = (0..)
            .zip(&file.enum_type)
            .find(|(_, one)| one.name() == "ErrorReason")
            .unwrap();
        let locations = &file.source_code_info.as_ref().unwrap().location;
        // Nothing is changed by the calls that these belong to, or their comment says so otherwise.
        use ErrorReason as R;
        let harmless = [
            R::PageTokenInvalid,
            R::ResumeTokenInvalid,
            R::ResumeTokenExpired,
            R::ResumeTokenFilterMismatch,
            R::ReservationNotFound,
            R::PriceInvalid,
            R::TimeZoneUnknown,
            R::RangeInvalid,
            R::RangeNotRetained,
        ];
        for (v, value) in (0..).zip(&reasons.value) {
            let reason = ErrorReason::try_from(value.number()).unwrap();
            let comment = locations
                .iter()
                .find(|location| location.path == [5, e, 2, v])
                .map(|location| location.leading_comments().replace('\n', " "))
                .unwrap();
            let not_applied = comment.contains("Not applied") || comment.contains("Not  applied");
            let error = Error {
                reason: Some(reason),
                ..Error::local(Code::Unknown, "")
            };
            assert_eq!(
                error.is_applied_unknown(),
                !not_applied && !harmless.contains(&reason),
                "{reason:?}: {comment}"
            );
        }
    }
}
