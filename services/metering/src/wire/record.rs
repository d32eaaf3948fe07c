//! What was recorded, and what became of the reservations that it named.

use tokenmeter_api::convert::{event, limit, money, time};
use tokenmeter_api::status::Failure;
use tokenmeter_api::v1;
use tokenmeter_model::id::TenantId;
use tokenmeter_model::limit::Metric;
use tokenmeter_store::counters::{Found, Hold, HoldState};
use tokenmeter_store::ledger::limits::Overshoot;

use super::admission::limits;
use crate::admission::Settled;
use crate::error::Error;
use crate::service::Recorded;

/// The outcome of one event of many.
pub(crate) fn record_result(
    tenant: &TenantId,
    result: Result<Recorded, Error>,
) -> v1::RecordResult {
    let result = match result {
        Ok(recorded) => v1::record_result::Result::Recorded(recorded_usage(tenant, recorded)),
        Err(error) => v1::record_result::Result::Error(Failure::from(error).into()),
    };
    v1::RecordResult {
        result: Some(result),
    }
}

pub(crate) fn outcome(duplicate: bool) -> v1::RecordOutcome {
    match duplicate {
        true => v1::RecordOutcome::Duplicate,
        false => v1::RecordOutcome::Recorded,
    }
}

/// The answer to one event that stands.
pub(crate) fn recorded_usage(tenant: &TenantId, recorded: Recorded) -> v1::RecordedUsage {
    let sums = event::sums(&recorded.event.lines, &recorded.quotes);
    let reservation_id = recorded.event.reservation_id;
    v1::RecordedUsage {
        settlement: recorded
            .settled
            .map(|settled| settlement(tenant, reservation_id, settled)),
        limits: recorded
            .states
            .map(|states| limits(tenant, &states))
            .unwrap_or_default(),
        outcome: outcome(recorded.duplicate).into(),
        event_id: recorded.event.event_id,
        lines: sums.lines,
        counts: Some(sums.counts),
        prompt_tokens: sums.prompt_tokens,
        total_tokens: sums.total_tokens,
        cost: sums.cost,
        unpriced_lines: sums.unpriced_lines,
        recorded_time: Some(time::from_micros(recorded.recorded_at_us)),
        charge_time: Some(time::from_micros(recorded.charge_time_us)),
        ..Default::default()
    }
}

fn settlement(tenant: &TenantId, reservation_id: String, settled: Settled) -> v1::Settlement {
    use v1::SettlementState as State;
    let (state, hold) = match &settled.found {
        Found::Settled(hold) => (State::Settled, Some(hold)),
        Found::Ended(hold) if hold.state == HoldState::Released => {
            (State::AfterRelease, Some(hold))
        }
        Found::Ended(hold) => (State::AfterExpiry, Some(hold)),
        Found::Unknown | Found::NoReservation => (State::UnknownReservation, None),
    };
    let held = |metric| hold.map_or(0, |hold| hold.amounts.of(metric));
    // What a hold gave back when it ended went back then, whole.
    let released = |metric| match state {
        State::Settled => held(metric).saturating_sub(settled.used.of(metric)).max(0),
        _ => 0,
    };
    let cost = |amount| {
        hold.filter(holds_cost)
            .map(|_| money::from_nano_usd(amount))
    };
    v1::Settlement {
        reservation_id,
        state: state.into(),
        held_tokens: held(Metric::TotalTokens),
        released_tokens: released(Metric::TotalTokens),
        held_cost: cost(held(Metric::Cost)),
        released_cost: cost(released(Metric::Cost)),
        overshoots: settled
            .overshoots
            .into_iter()
            .map(|one| overshoot(tenant, one))
            .collect(),
    }
}

fn holds_cost(hold: &&Hold) -> bool {
    hold.price_version.is_some() || hold.amounts.cost_nano_usd > 0
}

fn overshoot(tenant: &TenantId, one: Overshoot) -> v1::Overshoot {
    let subject = match one.scope {
        tokenmeter_model::limit::Scope::Tenant => tenant.as_str().to_owned(),
        _ => one.subject,
    };
    let counted = (one.scope, one.metric, one.window);
    limit::overshoot(one.limit_name, subject, counted, one.amount, one.cause)
}
