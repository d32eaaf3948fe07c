//! Why an event was not recorded, and what the caller is told.

use tokenmeter_api::status::{Failure, reason_of};
use tokenmeter_api::v1::ErrorReason;
use tokenmeter_model::bounds::Violation;
use tokenmeter_model::provider;
use tokenmeter_store::ledger;

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
    #[error("unknown provider {0:.64}")]
    UnknownProvider(String),
    /// The provider is not one whose usage documents are read.
    #[error("no documents of provider {0:.64} are read")]
    UnreadProvider(String),
    /// The id stands with another payload.
    #[error("event {0} stands with another payload")]
    Conflict(String),
    /// The ledger could not answer.
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
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
            Error::UnknownProvider(name) => {
                let mend = "or set a price for it first";
                unknown_provider("provider", &name, "is no known provider", mend)
            }
            Error::UnreadProvider(name) => {
                let what = "is no provider whose usage documents are read";
                unknown_provider("provider_usage.provider", &name, what, "or send lines")
            }
            Error::Conflict(id) => Self::new(
                ErrorReason::EventConflict,
                "event_id stands with another payload; send the event as it was first sent, or \
                 give this one an id of its own",
            )
            .resource("usage_event", id),
            Error::Ledger(error) => {
                // The text is for the log; callers are told the kind of fault.
                tracing::error!(%error, "recording");
                error.fault().into()
            }
        }
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
