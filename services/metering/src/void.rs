//! Taking an event out of every total (R10).

use tokenmeter_identity::Caller;
use tokenmeter_model::bounds;
use tokenmeter_model::event::Recorded;
use tokenmeter_model::fingerprint::Canonical;
use tokenmeter_store::ledger::correction::{Request, Void, VoidOutcome};

use crate::admission::States;
use crate::error::Error;
use crate::service::Metering;

/// The RPC, as requests are remembered.
const RPC: &str = "VoidUsage";

/// What a void took out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VoidedUsage {
    /// The event with the quotes that stood when it was voided; `voided` is set.
    pub event: Recorded,
    /// Whether an earlier request had voided it, so that this one changed nothing.
    pub already: bool,
    /// The closed period that it changed, by its name.
    pub adjusted_period: Option<String>,
    /// How the limits stand that got budget back.
    pub states: States,
}

impl Metering {
    /// Voids an event. The same request again gets its first answer.
    ///
    /// # Errors
    /// Why nothing was changed.
    pub async fn void(
        &self,
        caller: &Caller,
        request_id: String,
        event_id: String,
        reason: String,
    ) -> Result<VoidedUsage, Error> {
        let mut violations = Vec::new();
        for (field, value) in [
            ("request_id", &request_id),
            ("event_id", &event_id),
            ("reason", &reason),
        ] {
            bounds::required_text(field, value, &mut violations);
        }
        if !violations.is_empty() {
            return Err(Error::Invalid(violations));
        }
        let void = Void {
            request: Request {
                tenant: caller.tenant.clone(),
                request_id: request_id.clone(),
                rpc: RPC,
                fingerprint: Canonical::new().text(&event_id).text(&reason).finish(),
                user_id: caller.user.clone(),
                at_us: (self.clock)(),
            },
            event_id: event_id.clone(),
            reason,
        };
        match self.ledger.void(void).await? {
            VoidOutcome::Voided { event, already } => {
                let voided_us = event
                    .voided
                    .as_ref()
                    .map_or(i64::MIN, |voided| voided.at_us);
                let period = self.ledger.closed_period(
                    &caller.tenant,
                    &event.event.user_id,
                    event.charge_time_us,
                    voided_us,
                );
                Ok(VoidedUsage {
                    adjusted_period: period.await?,
                    states: self.admission.voided(&caller.tenant, &event).await,
                    event: *event,
                    already,
                })
            }
            VoidOutcome::TooOld { oldest_us } => Err(Error::TooOld { oldest_us }),
            VoidOutcome::NotFound => Err(Error::NoEvent(event_id)),
            VoidOutcome::RequestConflict => Err(Error::RequestConflict(request_id)),
        }
    }
}
