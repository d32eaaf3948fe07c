//! Limits, profiles and subjects both ways, and how limits and holds stand, from plain fields.

use tokenmeter_model::bounds::{self, Kind, Violation};
use tokenmeter_model::limit::{
    Amounts, Enforcement, Estimate, FailureMode, Limit, MAX_LIMITS, Metric, OvershootCause,
    Profile, Scope, Window,
};
use tokenmeter_model::provider::Provider;

use super::{money, time};
use crate::v1;

impl From<Scope> for v1::LimitScope {
    fn from(scope: Scope) -> Self {
        match scope {
            Scope::Tenant => Self::Tenant,
            Scope::Team => Self::Team,
            Scope::User => Self::User,
            Scope::Session => Self::Session,
            Scope::ApiKey => Self::ApiKey,
        }
    }
}

impl From<Metric> for v1::LimitMetric {
    fn from(metric: Metric) -> Self {
        match metric {
            Metric::Requests => Self::Requests,
            Metric::InputTokens => Self::InputTokens,
            Metric::UncachedInputTokens => Self::UncachedInputTokens,
            Metric::OutputTokens => Self::OutputTokens,
            Metric::TotalTokens => Self::TotalTokens,
            Metric::Cost => Self::Cost,
        }
    }
}

impl From<Window> for v1::LimitWindow {
    fn from(window: Window) -> Self {
        match window {
            Window::Request => Self::Request,
            Window::Minute => Self::Minute,
            Window::Hour => Self::Hour,
            Window::Day => Self::Day,
            Window::Month => Self::Month,
            // The token budget runs as long as its session.
            Window::Session | Window::Budget => Self::Session,
        }
    }
}

impl From<Enforcement> for v1::Enforcement {
    fn from(enforcement: Enforcement) -> Self {
        match enforcement {
            Enforcement::Block => Self::Block,
            Enforcement::RecordOverage => Self::RecordOverage,
            Enforcement::Shadow => Self::Shadow,
        }
    }
}

impl From<FailureMode> for v1::FailureMode {
    fn from(mode: FailureMode) -> Self {
        match mode {
            FailureMode::Open => Self::Open,
            FailureMode::Closed => Self::Closed,
        }
    }
}

impl From<OvershootCause> for v1::OvershootCause {
    fn from(cause: OvershootCause) -> Self {
        match cause {
            OvershootCause::AboveHold => Self::AboveHold,
            OvershootCause::AfterExpiry => Self::AfterExpiry,
            OvershootCause::WithoutHold => Self::WithoutHold,
            OvershootCause::Reprice => Self::Reprice,
            OvershootCause::LimitLowered => Self::LimitLowered,
            OvershootCause::Degraded => Self::Degraded,
            OvershootCause::CounterLoss => Self::CounterLoss,
            OvershootCause::OverageAllowed => Self::OverageAllowed,
        }
    }
}

/// The value of the model that a number of the contract's enum stands for.
fn read<M: Copy, W: From<M> + Into<i32>>(all: &[M], number: i32) -> Option<M> {
    all.iter()
        .copied()
        .find(|one| Into::<i32>::into(W::from(*one)) == number)
}

fn unread(field: &str, number: i32, name: &str) -> Violation {
    let what = if number == 0 {
        "is required"
    } else {
        "is not known"
    };
    Violation::new(field, format!("{what}; send one of {name}"))
}

/// A scope as received; `field` is its path in the request.
///
/// # Errors
/// A violation of `field` when the number is no scope; unspecified is none.
pub fn scope(field: &str, number: i32) -> Result<Scope, Violation> {
    read::<_, v1::LimitScope>(Scope::ALL, number).ok_or_else(|| unread(field, number, "LimitScope"))
}

/// A scope that filters; unspecified does not filter.
///
/// # Errors
/// A violation of `field` when the number is no scope.
pub fn scope_filter(field: &str, number: i32) -> Result<Option<Scope>, Violation> {
    match number {
        0 => Ok(None),
        _ => scope(field, number).map(Some),
    }
}

/// A metric as received; `field` is its path in the request.
///
/// # Errors
/// A violation of `field` when the number is no metric; unspecified is none.
pub fn metric(field: &str, number: i32) -> Result<Metric, Violation> {
    read::<_, v1::LimitMetric>(Metric::ALL, number)
        .ok_or_else(|| unread(field, number, "LimitMetric"))
}

/// A window as received; `field` is its path in the request. Never [`Window::Budget`].
///
/// # Errors
/// A violation of `field` when the number is no window; unspecified is none.
pub fn window(field: &str, number: i32) -> Result<Window, Violation> {
    // A session's life comes before its budget, which the contract does not tell from it.
    read::<_, v1::LimitWindow>(Window::ALL, number)
        .ok_or_else(|| unread(field, number, "LimitWindow"))
}

/// An enforcement as received; unspecified means to block.
///
/// # Errors
/// A violation of `field` when the number is no enforcement.
pub fn enforcement(field: &str, number: i32) -> Result<Enforcement, Violation> {
    match number {
        0 => Ok(Enforcement::Block),
        _ => read::<_, v1::Enforcement>(Enforcement::ALL, number)
            .ok_or_else(|| unread(field, number, "Enforcement")),
    }
}

/// A failure mode as received; unspecified means open.
///
/// # Errors
/// A violation of `field` when the number is no failure mode.
pub fn failure_mode(field: &str, number: i32) -> Result<FailureMode, Violation> {
    match number {
        0 => Ok(FailureMode::Open),
        _ => read::<_, v1::FailureMode>(FailureMode::ALL, number)
            .ok_or_else(|| unread(field, number, "FailureMode")),
    }
}

impl From<&Limit> for v1::Limit {
    /// With the name that answers use, so that no answer has a limit without one.
    fn from(limit: &Limit) -> Self {
        Self {
            name: limit.called().into_owned(),
            scope: v1::LimitScope::from(limit.scope).into(),
            metric: v1::LimitMetric::from(limit.metric).into(),
            window: v1::LimitWindow::from(limit.window).into(),
            amount: limit.amount,
            enforcement: v1::Enforcement::from(limit.enforcement).into(),
            hard: limit.hard,
            alert_percents: limit.alert_percents.clone(),
            provider: limit.provider.clone(),
            model: limit.model.clone(),
        }
    }
}

/// Limits as received; `field` is the path of the list in the request. Those that cannot be read are
/// in `out` instead. At most one more than [`MAX_LIMITS`] is read, which
/// [`tokenmeter_model::limit::check_set`] then refuses, as it checks all bounds.
pub fn limits(field: &str, limits: Vec<v1::Limit>, out: &mut Vec<Violation>) -> Vec<Limit> {
    let wire = limits.into_iter().take(MAX_LIMITS + 1).enumerate();
    wire.filter_map(|(n, wire)| limit(&format!("{field}[{n}]"), wire, out))
        .collect()
}

/// A limit as received; none if it cannot be read, as `out` then says.
fn limit(field: &str, wire: v1::Limit, out: &mut Vec<Violation>) -> Option<Limit> {
    let mut keep = |violation: Violation| out.push(violation.kind(Kind::Limit));
    let scope = scope(&format!("{field}.scope"), wire.scope).map_err(&mut keep);
    let metric = metric(&format!("{field}.metric"), wire.metric).map_err(&mut keep);
    let window = window(&format!("{field}.window"), wire.window).map_err(&mut keep);
    let enforcement =
        enforcement(&format!("{field}.enforcement"), wire.enforcement).map_err(&mut keep);
    Some(Limit {
        name: wire.name,
        scope: scope.ok()?,
        metric: metric.ok()?,
        window: window.ok()?,
        amount: wire.amount,
        enforcement: enforcement.ok()?,
        hard: wire.hard,
        alert_percents: wire.alert_percents,
        provider: spelled(wire.provider),
        model: wire.model,
    })
}

/// A provider as events have it: a known one by its OpenTelemetry name, another as it came.
fn spelled(provider: String) -> String {
    match Provider::parse(&provider) {
        Some(known) => known.as_str().to_owned(),
        None => provider,
    }
}

/// A profile as received; `field` is its path in the request. Output fields are ignored, bounds are
/// left to `Profile::check`.
///
/// # Errors
/// Every field that cannot be read, such as a limit without a scope; or that there is no profile.
pub fn profile(field: &str, wire: Option<v1::Profile>) -> Result<Profile, Vec<Violation>> {
    let Some(wire) = wire else {
        return Err(vec![Violation::new(field, "is required; send a Profile")]);
    };
    let mut out = Vec::new();
    let limits = limits(&format!("{field}.limits"), wire.limits, &mut out);
    let failure_mode = failure_mode(&format!("{field}.failure_mode"), wire.failure_mode)
        .map_err(|violation| out.push(violation));
    let max_hold = wire.max_hold.map(|life| {
        time::duration_to_micros(&format!("{field}.max_hold"), &life)
            .map_err(|violation| out.push(violation))
    });
    match (failure_mode, max_hold.transpose()) {
        (Ok(failure_mode), Ok(max_hold_us)) if out.is_empty() => Ok(Profile {
            profile_id: wire.profile_id,
            display_name: wire.display_name,
            limits,
            failure_mode,
            session_budget_max_tokens: wire.session_budget_max_tokens,
            enforce_session_budget: wire.enforce_session_budget,
            max_hold_us,
        }),
        _ => Err(out),
    }
}

/// A profile as it stands. `etag` names its state; times are in microseconds since the Unix epoch.
pub fn from_profile(
    profile: &Profile,
    etag: String,
    shipped: bool,
    created_us: i64,
    updated_us: i64,
) -> v1::Profile {
    v1::Profile {
        profile_id: profile.profile_id.clone(),
        display_name: profile.display_name.clone(),
        limits: profile.limits.iter().map(Into::into).collect(),
        failure_mode: v1::FailureMode::from(profile.failure_mode).into(),
        session_budget_max_tokens: profile.session_budget_max_tokens,
        enforce_session_budget: profile.enforce_session_budget,
        etag,
        created_time: Some(time::from_micros(created_us)),
        updated_time: Some(time::from_micros(updated_us)),
        shipped,
        max_hold: profile.max_hold_us.map(time::duration_from_micros),
    }
}

/// Whom a request names: a scope, and the subject's id, which is empty for the tenant.
///
/// # Errors
/// What is missing or out of its bound; `field` is the path of the subject.
pub fn subject(field: &str, wire: Option<v1::Subject>) -> Result<(Scope, String), Vec<Violation>> {
    let Some(wire) = wire else {
        return Err(vec![Violation::new(field, "is required; send a Subject")]);
    };
    let scope =
        scope(&format!("{field}.scope"), wire.scope).map_err(|violation| vec![violation])?;
    let mut out = Vec::new();
    match scope {
        Scope::Tenant if wire.id.is_empty() => {}
        Scope::Tenant => out.push(Violation::new(
            format!("{field}.id"),
            "is of a tenant, which is always the caller's own; leave it empty",
        )),
        _ => bounds::required_text(format_args!("{field}.id"), &wire.id, &mut out),
    }
    if out.is_empty() {
        Ok((scope, wire.id))
    } else {
        Err(out)
    }
}

/// A subject as the wire has it.
pub fn from_subject(scope: Scope, id: String) -> v1::Subject {
    v1::Subject {
        scope: v1::LimitScope::from(scope).into(),
        id,
    }
}

/// An estimate as received; `field` is its path in the request. Bounds are left to `Estimate::check`.
///
/// # Errors
/// A cost that is no amount in USD.
pub fn estimate(field: &str, wire: &v1::Estimate) -> Result<Estimate, Violation> {
    let cost = wire.cost.as_ref();
    Ok(Estimate {
        input_tokens: wire.input_tokens,
        cache_read_tokens: wire.cache_read_tokens,
        max_output_tokens: wire.max_output_tokens,
        cost_nano_usd: cost
            .map(|cost| money::to_nano_usd(&format!("{field}.cost"), cost))
            .transpose()?,
    })
}

/// How a limit stands for one subject.
#[derive(Debug, Clone, Copy)]
pub struct State<'a> {
    /// The limit.
    pub limit: &'a Limit,
    /// The tenant, team, user, session or API key whose use counts.
    pub subject: &'a str,
    /// The profile that the limit is from; empty for an own limit.
    pub profile_id: &'a str,
    /// Settled in the windows that count now, in the metric's unit.
    pub used: i64,
    /// Reserved by calls in flight, in the metric's unit.
    pub held: i64,
    /// When it resets, in microseconds since the Unix epoch; none for windows that do not.
    pub reset_us: Option<i64>,
    /// Whether what was asked does not fit.
    pub exceeded: bool,
    /// Whether the figures may be lower than the truth.
    pub degraded: bool,
}

impl From<State<'_>> for v1::LimitState {
    fn from(state: State<'_>) -> Self {
        let limit = state.limit;
        let taken = state.used.saturating_add(state.held);
        Self {
            name: limit.called().into_owned(),
            scope: v1::LimitScope::from(limit.scope).into(),
            subject: state.subject.to_owned(),
            metric: v1::LimitMetric::from(limit.metric).into(),
            window: v1::LimitWindow::from(limit.window).into(),
            limit: limit.amount,
            used: state.used,
            held: state.held,
            remaining: limit.amount.saturating_sub(taken).max(0),
            reset_time: state.reset_us.map(time::from_micros),
            enforcement: v1::Enforcement::from(limit.enforcement).into(),
            hard: limit.hard,
            degraded: state.degraded,
            exceeded: state.exceeded,
            overage: state.used.saturating_sub(limit.amount).max(0),
            profile_id: state.profile_id.to_owned(),
            exhaustion_time: None,
        }
    }
}

/// The cause of a refusal by a limit.
pub fn refusal_cause(limit: &Limit) -> v1::RefusalCause {
    match (limit.window, limit.metric) {
        (Window::Request, _) => v1::RefusalCause::RequestTooLarge,
        (Window::Budget, _) => v1::RefusalCause::SessionBudget,
        (_, Metric::Requests) => v1::RefusalCause::Rate,
        (_, Metric::Cost) => v1::RefusalCause::Cost,
        (
            _,
            Metric::InputTokens
            | Metric::UncachedInputTokens
            | Metric::OutputTokens
            | Metric::TotalTokens,
        ) => v1::RefusalCause::Tokens,
    }
}

/// A refusal of what asked for `asked` in the limit's metric; `wait_us` is how long to wait until it
/// can fit, in microseconds, none if waiting does not help.
pub fn refusal(
    cause: v1::RefusalCause,
    message: String,
    limit: Option<v1::LimitState>,
    asked: i64,
    wait_us: Option<i64>,
) -> v1::Refusal {
    v1::Refusal {
        cause: cause.into(),
        message,
        limit,
        asked,
        retry_after: wait_us.map(|wait_us| time::duration_from_micros(wait_us.max(0))),
    }
}

/// By how much settled use passed a limit, and why; what counts is named by scope, metric and window.
pub fn overshoot(
    limit_name: String,
    subject: String,
    (scope, metric, window): (Scope, Metric, Window),
    amount: i64,
    cause: OvershootCause,
) -> v1::Overshoot {
    v1::Overshoot {
        limit_name,
        scope: v1::LimitScope::from(scope).into(),
        subject,
        metric: v1::LimitMetric::from(metric).into(),
        window: v1::LimitWindow::from(window).into(),
        amount,
        cause: v1::OvershootCause::from(cause).into(),
    }
}

/// What a reservation holds.
#[derive(Debug, Clone, Copy)]
pub struct Held<'a> {
    /// The reservation.
    pub reservation_id: &'a str,
    /// Where it stands.
    pub state: v1::HoldState,
    /// What it reserves.
    pub amounts: Amounts,
    /// The price version that it pins; none if unpriced.
    pub price_version: Option<i64>,
    /// When it was admitted, in microseconds since the Unix epoch.
    pub admit_us: i64,
    /// When it ends by itself.
    pub expire_us: i64,
}

impl From<Held<'_>> for v1::Hold {
    fn from(held: Held<'_>) -> Self {
        // Without a price a cost is held only if the request named one.
        let has_cost = held.price_version.is_some() || held.amounts.cost_nano_usd != 0;
        Self {
            reservation_id: held.reservation_id.to_owned(),
            state: held.state.into(),
            input_tokens: held.amounts.input,
            output_tokens: held.amounts.output,
            cost: has_cost.then(|| money::from_nano_usd(held.amounts.cost_nano_usd)),
            price_version: held.price_version,
            admit_time: Some(time::from_micros(held.admit_us)),
            expire_time: Some(time::from_micros(held.expire_us)),
        }
    }
}

#[cfg(test)]
#[path = "limit_tests.rs"]
mod tests;
