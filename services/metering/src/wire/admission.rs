//! Authorize, ExtendReservation and ReleaseReservation, and how limits and holds stand.

use tokenmeter_api::convert::{limit, time};
use tokenmeter_api::v1;
use tokenmeter_model::bounds::Violation;
use tokenmeter_model::event::Thinking;
use tokenmeter_model::id::TenantId;
use tokenmeter_model::limit::{Estimate, Scope};
use tokenmeter_store::counters::{Hold, HoldState, Rule, Standing};

use crate::admission::{Authorization, Authorize, Call, Cause, Extend, Extended, Refusal, States};
use crate::error::Error;
use crate::wire::budget;

/// Reads what Authorize asks.
pub(crate) fn authorize(asked: v1::AuthorizeRequest) -> Result<Authorize, Error> {
    let mut out = Vec::new();
    let call = asked.call.map(call);
    if call.is_none() {
        out.push(Violation::new("call", "is required; send a CallInfo"));
    }
    let estimate = estimate("estimate", asked.estimate, &mut out);
    let hold_us = life(asked.hold_duration, &mut out);
    if !out.is_empty() {
        return Err(Error::Invalid(out));
    }
    Ok(Authorize {
        request_id: asked.request_id,
        call: call.unwrap_or_default(),
        estimate: estimate.unwrap_or_default(),
        hold_us,
        dry_run: asked.dry_run,
    })
}

/// Reads what ExtendReservation asks.
pub(crate) fn extend(asked: v1::ExtendReservationRequest) -> Result<Extend, Error> {
    let mut out = Vec::new();
    let total = estimate("total", asked.total, &mut out);
    let hold_us = life(asked.hold_duration, &mut out);
    if !out.is_empty() {
        return Err(Error::Invalid(out));
    }
    Ok(Extend {
        request_id: asked.request_id,
        reservation_id: asked.reservation_id,
        total,
        hold_us,
    })
}

fn call(call: v1::CallInfo) -> Call {
    let mut labels: Vec<_> = call
        .labels
        .into_iter()
        .map(|label| (label.key, label.value))
        .collect();
    labels.sort_unstable();
    Call {
        user_id: call.user_id,
        team_id: call.team_id,
        session_id: call.session_id,
        turn: call.turn,
        provider: call.provider,
        model: call.model,
        service_tier: call.service_tier,
        thinking: call.thinking.map(|thinking| Thinking {
            enabled: thinking.enabled,
            budget_tokens: thinking.budget_tokens,
        }),
        labels,
    }
}

fn estimate(field: &str, wire: Option<v1::Estimate>, out: &mut Vec<Violation>) -> Option<Estimate> {
    let read = wire.map(|wire| limit::estimate(field, &wire)).transpose();
    read.unwrap_or_else(|violation| {
        out.push(violation);
        None
    })
}

fn life(wire: Option<prost_types::Duration>, out: &mut Vec<Violation>) -> Option<i64> {
    let read = wire.map(|wire| time::duration_to_micros("hold_duration", &wire));
    read.transpose().unwrap_or_else(|violation| {
        out.push(violation);
        None
    })
}

/// The answer of Authorize.
pub(crate) fn authorization(tenant: &TenantId, decided: Authorization) -> v1::AuthorizeResponse {
    v1::AuthorizeResponse {
        decision: decision(decided.refusal.is_some()).into(),
        hold: decided.hold.as_ref().map(hold),
        limits: limits(tenant, &decided.states),
        session_budget: decided.session_budget.map(budget::token_budget),
        refusal: decided.refusal.map(|one| refusal(tenant, one)),
        shadow_refusals: decided
            .shadow_refusals
            .into_iter()
            .map(|one| refusal(tenant, one))
            .collect(),
        degraded: false,
        replayed: decided.replayed,
        price_found: decided.price_found,
    }
}

/// The answer of ExtendReservation.
pub(crate) fn extended(tenant: &TenantId, decided: Extended) -> v1::ExtendReservationResponse {
    v1::ExtendReservationResponse {
        decision: decision(decided.refusal.is_some()).into(),
        hold: Some(hold(&decided.hold)),
        limits: limits(tenant, &decided.states),
        refusal: decided.refusal.map(|one| refusal(tenant, one)),
        degraded: false,
    }
}

fn decision(refused: bool) -> v1::Decision {
    match refused {
        true => v1::Decision::Denied,
        false => v1::Decision::Allowed,
    }
}

/// What a reservation holds.
pub(crate) fn hold(hold: &Hold) -> v1::Hold {
    limit::Held {
        reservation_id: &hold.reservation_id,
        state: match hold.state {
            HoldState::Active => v1::HoldState::Active,
            HoldState::Settled => v1::HoldState::Settled,
            HoldState::Released => v1::HoldState::Released,
            HoldState::Expired => v1::HoldState::Expired,
        },
        amounts: hold.amounts,
        price_version: hold.price_version,
        admit_us: hold.admit_us,
        expire_us: hold.expire_us,
    }
    .into()
}

/// How limits stand, in the order in which they are checked.
pub(crate) fn limits(tenant: &TenantId, states: &States) -> Vec<v1::LimitState> {
    let limits = states.limits();
    limits
        .map(|(rule, standing)| state(tenant, rule, standing))
        .collect()
}

fn state(tenant: &TenantId, rule: &Rule, standing: &Standing) -> v1::LimitState {
    limit::State {
        limit: &rule.limit,
        subject: match rule.limit.scope {
            Scope::Tenant => tenant.as_str(),
            _ => &rule.subject,
        },
        profile_id: &rule.profile_id,
        used: standing.used,
        held: standing.held,
        reset_us: standing.reset_us,
        exceeded: standing.exceeded,
        degraded: false,
    }
    .into()
}

fn refusal(tenant: &TenantId, refusal: Refusal) -> v1::Refusal {
    let cause = match refusal.cause {
        Cause::Unpriced => v1::RefusalCause::Unpriced,
        _ => limit::refusal_cause(&refusal.rule.limit),
    };
    let state = state(tenant, &refusal.rule, &refusal.standing);
    let wait_us = refusal.retry_after_us;
    limit::refusal(cause, refusal.message, Some(state), refusal.asked, wait_us)
}
