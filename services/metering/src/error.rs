//! Why an event was not recorded, and what the caller is told.

use std::time::Duration;

use tokenmeter_api::status::{
    Failure, name_of, reason_of, reason_of_violations, request_conflict, too_old,
};
use tokenmeter_api::v1::ErrorReason;
use tokenmeter_model::bounds::Violation;
use tokenmeter_model::fault::Fault;
use tokenmeter_model::provider;
use tokenmeter_store::{counters, ledger};

use crate::service::wrong_size;
use crate::stream::End;

/// Why an event was not recorded. In every case nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Fields are out of bounds.
    #[error("{} fields are out of bounds", .0.len())]
    Invalid(Vec<Violation>),
    /// The provider's documents do not add up to usage.
    #[error(transparent)]
    Usage(#[from] provider::Error),
    /// The provider is neither one whose usage is known nor one with a price.
    #[error("unknown provider {1:.64}")]
    UnknownProvider(&'static str, String),
    /// The provider is not one whose usage documents are read.
    #[error("no documents of provider {0:.64} are read")]
    UnreadProvider(String),
    /// The id stands with another payload.
    #[error("event {event_id} stands with another payload")]
    Conflict {
        /// The id.
        event_id: String,
        /// The fields in which the payloads differ.
        differing: Vec<&'static str>,
    },
    /// The id stands for an item with another content.
    #[error("{field} {id} stands with another content")]
    ItemConflict {
        /// The field that carries the id.
        field: &'static str,
        /// The id.
        id: String,
    },
    /// The id stands for an event that was voided, with another payload.
    #[error("event {0} was voided")]
    Voided(String),
    /// The time is sealed, or the event was dropped.
    #[error("events are kept from {oldest_us} on")]
    TooOld {
        /// The earliest time that is accepted, in microseconds since the Unix epoch.
        oldest_us: i64,
    },
    /// There is no such event in the caller's tenant.
    #[error("event {0} not found")]
    NoEvent(String),
    /// Another event, this one, has settled the reservation.
    #[error("the reservation was settled by event {0}")]
    ReservationSettled(String),
    /// No reservation of this id is known.
    #[error("reservation {0:.64} is not known")]
    NoReservation(String),
    /// The hold of this reservation has expired.
    #[error("reservation {0} has expired")]
    ReservationExpired(String),
    /// The hold of this reservation was given back.
    #[error("reservation {0} was released")]
    ReservationReleased(String),
    /// The reservation is of another call than the request says, by this field.
    #[error("the reservation has another {0}")]
    ReservationMismatch(&'static str),
    /// The session is another user's.
    #[error("the session is another user's")]
    NotYours,
    /// The request's name stands for another request.
    #[error("request {0} stands with another content")]
    RequestConflict(String),
    /// The ledger could not answer.
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    /// The counters could not answer.
    #[error(transparent)]
    Counters(#[from] counters::Error),
}

/// When to come back after counters could not answer.
const COUNTERS_LATER: Duration = Duration::from_secs(1);

impl Error {
    /// The reason that the caller is told, as the contract names it, for metrics.
    pub(crate) fn reason_name(&self) -> &'static str {
        name_of(match self {
            Self::Invalid(violations) => reason_of_violations(violations),
            Self::Usage(error) => return error.reason(),
            Self::UnknownProvider(..) | Self::UnreadProvider(_) => ErrorReason::UnknownProvider,
            Self::Conflict { .. } | Self::ItemConflict { .. } => ErrorReason::EventConflict,
            Self::Voided(_) => ErrorReason::EventVoided,
            Self::TooOld { .. } => ErrorReason::EventTooOld,
            Self::NoEvent(_) => ErrorReason::NotFound,
            Self::ReservationSettled(_) => ErrorReason::ReservationSettled,
            Self::RequestConflict(_) => ErrorReason::RequestIdConflict,
            Self::NoReservation(_) => ErrorReason::ReservationNotFound,
            Self::ReservationExpired(_) => ErrorReason::ReservationExpired,
            Self::ReservationReleased(_) => ErrorReason::ReservationReleased,
            Self::ReservationMismatch(_) => ErrorReason::ReservationMismatch,
            Self::NotYours => ErrorReason::PermissionDenied,
            Self::Counters(counters::Error::Unavailable(_)) => ErrorReason::CountersUnavailable,
            Self::Counters(counters::Error::Full(_)) => ErrorReason::Overloaded,
            Self::Ledger(error) => match error.fault() {
                Fault::Unavailable => ErrorReason::LedgerUnavailable,
                Fault::Overloaded => ErrorReason::Overloaded,
                Fault::OutOfRange => ErrorReason::CostOutOfRange,
                Fault::NotRetained { .. } => ErrorReason::RangeNotRetained,
                Fault::Corrupt => ErrorReason::Internal,
            },
        })
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(violations) => violations.into(),
            Error::Usage(error) => {
                let reason = reason_of(error.reason()).unwrap_or(ErrorReason::UsageJsonInvalid);
                let text = error.to_string();
                Self::new(reason, text.clone()).violation("provider_usage", text)
            }
            Error::UnknownProvider(field, name) => {
                let mend = "or set a price for it first";
                unknown_provider(field, &name, "is no known provider", mend)
            }
            Error::UnreadProvider(name) => {
                let what = "is no provider whose usage documents are read";
                unknown_provider("provider_usage.provider", &name, what, "or send lines")
            }
            Error::ReservationSettled(event_id) => Self::new(
                ErrorReason::ReservationSettled,
                format!(
                    "the reservation was settled by event {event_id}; record this one without it"
                ),
            )
            .metadata("event_id", event_id),
            Error::NoReservation(id) => Self::new(
                ErrorReason::ReservationNotFound,
                "no reservation of this id is known; it never was, or ended more than 24 hours ago",
            )
            .resource("reservation", id),
            Error::ReservationExpired(id) => Self::new(
                ErrorReason::ReservationExpired,
                "the hold has expired; ask again under a new request_id, or record the usage all the \
                 same",
            )
            .resource("reservation", id),
            Error::ReservationReleased(id) => Self::new(
                ErrorReason::ReservationReleased,
                "the hold was released; ask again under a new request_id",
            )
            .resource("reservation", id),
            Error::ReservationMismatch(field) => {
                let text = "is not that of the reservation; name the reservation of this call, or none";
                let message = format!("{field} {text}");
                Self::new(ErrorReason::ReservationMismatch, message).violation(field, text)
            }
            Error::NotYours => Self::new(
                ErrorReason::PermissionDenied,
                "the session is another user's; role read_own reads the caller's own",
            ),
            Error::Conflict {
                event_id,
                differing,
            } => Self::new(
                ErrorReason::EventConflict,
                "event_id stands with another payload; send the event as it was first sent, or \
                 give this one an id of its own",
            )
            .resource("usage_event", event_id)
            .metadata("differing_fields", differing.join(",")),
            Error::ItemConflict { field, id } => Self::new(
                ErrorReason::EventConflict,
                format!(
                    "{field} stands with another content; send the item as it was first sent, or \
                     give this one an id of its own"
                ),
            )
            .resource(field.trim_end_matches("_id"), id),
            Error::Voided(event_id) => Self::new(
                ErrorReason::EventVoided,
                "event_id stands for an event that was voided; record the correct usage under an id \
                 of its own",
            )
            .resource("usage_event", event_id),
            Error::TooOld { oldest_us } => too_old(oldest_us),
            Error::NoEvent(event_id) => {
                Self::new(ErrorReason::NotFound, "there is no such event").resource("usage_event", event_id)
            }
            Error::RequestConflict(request_id) => request_conflict(request_id),
            Error::Ledger(error) => {
                // The text is for the log; callers are told the kind of fault.
                tracing::error!(%error, "the ledger could not do its work");
                error.fault().into()
            }
            Error::Counters(error) => {
                tracing::error!(%error, "the counters could not do their work");
                let (reason, text) = match error {
                    counters::Error::Unavailable(_) => (
                        ErrorReason::CountersUnavailable,
                        "the counter store cannot be reached; retry later",
                    ),
                    counters::Error::Full(_) => (
                        ErrorReason::Overloaded,
                        "too much is counted or held at once; nothing was changed, retry later",
                    ),
                };
                Self::new(reason, text).retry_after(COUNTERS_LATER)
            }
        }
    }
}

/// What the client is told at the end of its stream; nothing if all is well. Messages that could not
/// be read tell their own story (`tokenmeter_api::codec::unreadable`).
pub(crate) fn stream_end<E>(end: &End<E>) -> Option<Failure> {
    match end {
        End::Closed => None,
        End::Size(events) => Some(wrong_size(*events).into()),
        End::ShuttingDown => Some(Failure::new(
            ErrorReason::ShuttingDown,
            "the server is shutting down; what has a result stands, connect again and send the rest \
             again",
        )),
        End::AcksUnread => Some(Failure::new(
            ErrorReason::AcksUnread,
            "results stayed unread for too long; send events without a result again with the same \
             ids, and read while you send",
        )),
        End::Unreadable(_) | End::Gone => Some(Failure::new(
            ErrorReason::Internal,
            "an internal error; what has a result stands, send the rest again",
        )),
    }
}

/// Says which providers are known instead of `name`.
fn unknown_provider(field: &str, name: &str, what: &str, mend: &str) -> Failure {
    let known: Vec<_> = provider::Provider::ALL
        .iter()
        .map(|provider| provider.as_str())
        .collect();
    let text = format!(
        "{name:.64} {what}; send one of {}, {mend}",
        known.join(", ")
    );
    Failure::new(ErrorReason::UnknownProvider, format!("{field}: {text}")).violation(field, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_name_the_reason_that_the_caller_is_told() {
        let errors = [
            Error::Invalid(vec![Violation::new("events", "is empty")]),
            Error::Usage(provider::Error::ModelMissing),
            Error::UnknownProvider("provider", "x".into()),
            Error::UnreadProvider("x".into()),
            Error::Conflict {
                event_id: "e".into(),
                differing: vec!["lines"],
            },
            Error::ItemConflict {
                field: "message_id",
                id: "m".into(),
            },
            Error::Voided("e".into()),
            Error::NoEvent("e".into()),
            Error::TooOld { oldest_us: 1 },
            Error::RequestConflict("r".into()),
            Error::NoReservation("r".into()),
            Error::ReservationExpired("r".into()),
            Error::ReservationReleased("r".into()),
            Error::ReservationMismatch("user_id"),
            Error::NotYours,
            counters::Error::Unavailable("x".into()).into(),
            counters::Error::Full("x".into()).into(),
            ledger::Error::Unavailable("x".into()).into(),
            ledger::Error::Overloaded(1).into(),
            ledger::Error::OutOfRange("x".into()).into(),
            ledger::Error::Corrupt("x".into()).into(),
        ];
        for error in errors {
            let name = error.reason_name();
            assert_eq!(name, name_of(Failure::from(error).reason));
        }
    }
}
