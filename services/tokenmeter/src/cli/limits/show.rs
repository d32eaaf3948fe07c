//! Limits and how they stand, for people and for programs.

use serde::Serialize;
use tokenmeter_api::v1;

use super::super::render::{self, count, name, usd_of};
use super::super::time;
use super::spec;

/// A limit, for programs: names and units of the contract.
#[derive(Serialize)]
pub(super) struct LimitJson<'a> {
    name: &'a str,
    scope: String,
    metric: String,
    window: String,
    amount: i64,
    enforcement: String,
    hard: bool,
    alert_percents: &'a [i32],
    provider: &'a str,
    model: &'a str,
    /// As `--limit` takes it.
    spec: String,
}

impl<'a> From<&'a v1::Limit> for LimitJson<'a> {
    fn from(limit: &'a v1::Limit) -> Self {
        Self {
            name: &limit.name,
            scope: scope(limit.scope()),
            metric: metric(limit.metric()),
            window: window(limit.window()),
            amount: limit.amount,
            enforcement: enforcement(limit.enforcement()),
            hard: limit.hard,
            alert_percents: &limit.alert_percents,
            provider: &limit.provider,
            model: &limit.model,
            spec: spec::write(limit),
        }
    }
}

/// How a limit stands, for programs.
#[derive(Serialize)]
pub(crate) struct StateJson<'a> {
    name: &'a str,
    scope: String,
    subject: &'a str,
    metric: String,
    window: String,
    limit: i64,
    used: i64,
    held: i64,
    remaining: i64,
    reset_time: Option<String>,
    enforcement: String,
    hard: bool,
    degraded: bool,
    exceeded: bool,
    overage: i64,
    profile_id: &'a str,
    exhaustion_time: Option<String>,
}

impl<'a> From<&'a v1::LimitState> for StateJson<'a> {
    fn from(state: &'a v1::LimitState) -> Self {
        Self {
            name: &state.name,
            scope: scope(state.scope()),
            subject: &state.subject,
            metric: metric(state.metric()),
            window: window(state.window()),
            limit: state.limit,
            used: state.used,
            held: state.held,
            remaining: state.remaining,
            reset_time: time::format(state.reset_time.as_ref()),
            enforcement: enforcement(state.enforcement()),
            hard: state.hard,
            degraded: state.degraded,
            exceeded: state.exceeded,
            overage: state.overage,
            profile_id: &state.profile_id,
            exhaustion_time: time::format(state.exhaustion_time.as_ref()),
        }
    }
}

pub(super) fn scope(value: v1::LimitScope) -> String {
    name("LIMIT_SCOPE_", value.as_str_name())
}

fn metric(value: v1::LimitMetric) -> String {
    name("LIMIT_METRIC_", value.as_str_name())
}

fn window(value: v1::LimitWindow) -> String {
    name("LIMIT_WINDOW_", value.as_str_name())
}

pub(super) fn enforcement(value: v1::Enforcement) -> String {
    name("ENFORCEMENT_", value.as_str_name())
}

/// An amount in its metric's unit, for people.
pub(crate) fn amount(metric: v1::LimitMetric, amount: i64) -> String {
    match metric {
        v1::LimitMetric::Cost => usd_of(amount),
        _ => count(amount),
    }
}

/// A subject, for people: `user ada`, or `everyone`.
pub(crate) fn subject(scope: v1::LimitScope, id: &str) -> String {
    match scope {
        v1::LimitScope::Tenant => "everyone".to_owned(),
        _ => format!("{} {id}", spec::scope_word(scope)),
    }
}

/// Limits of a profile or a subject, for people.
pub(super) fn limits(limits: &[v1::Limit]) -> comfy_table::Table {
    let mut table = render::table(&[
        "limit", "of each", "of what", "#at most", "then", "only for", "hard",
    ]);
    for limit in limits {
        let only = [&*limit.provider, &*limit.model]
            .into_iter()
            .filter(|text| !text.is_empty());
        table.add_row(vec![
            limit.name.clone(),
            spec::scope_word(limit.scope()).to_owned(),
            spec::rule_words(limit.metric(), limit.window()),
            amount(limit.metric(), limit.amount),
            spec::enforcement_word(limit.enforcement()).to_owned(),
            only.collect::<Vec<_>>().join(" "),
            if limit.hard { "yes" } else { "" }.to_owned(),
        ]);
    }
    table
}

/// How limits stand, for people; when they run out only if that is told of any.
pub(crate) fn states(states: &[v1::LimitState]) -> comfy_table::Table {
    let mut headings = vec![
        "limit", "of", "of what", "#limit", "#used", "#held", "#left", "resets", "then", "from",
    ];
    let tells_the_end = states.iter().any(|state| state.exhaustion_time.is_some());
    if tells_the_end {
        headings.push("runs out");
    }
    let mut table = render::table(&headings);
    for state in states {
        let mut row = row(state);
        if tells_the_end {
            row.push(time::seconds(state.exhaustion_time.as_ref()));
        }
        table.add_row(row);
    }
    table
}

/// How one limit stands.
fn row(state: &v1::LimitState) -> Vec<String> {
    let of_metric = |value| amount(state.metric(), value);
    vec![
        state.name.clone(),
        subject(state.scope(), &state.subject),
        spec::rule_words(state.metric(), state.window()),
        of_metric(state.limit),
        of_metric(state.used),
        of_metric(state.held),
        match state.overage {
            0 => of_metric(state.remaining),
            over => format!("{} over", of_metric(over)),
        },
        time::seconds(state.reset_time.as_ref()),
        spec::enforcement_word(state.enforcement()).to_owned(),
        match &*state.profile_id {
            "" => "own".to_owned(),
            profile => profile.to_owned(),
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_runs_out_says_when() {
        let mut state = v1::LimitState {
            name: "budget".into(),
            scope: v1::LimitScope::Tenant.into(),
            metric: v1::LimitMetric::Cost.into(),
            window: v1::LimitWindow::Month.into(),
            limit: 2_000_000_000,
            used: 2_500_000_000,
            overage: 500_000_000,
            ..v1::LimitState::default()
        };
        let table = states(std::slice::from_ref(&state)).to_string();
        for words in [
            "budget",
            "everyone",
            "cost/month",
            "$2.5",
            "$0.5 over",
            "own",
        ] {
            assert!(table.contains(words), "{words}: {table}");
        }
        assert!(!table.contains("runs out"), "{table}");
        state.exhaustion_time = Some(prost_types::Timestamp {
            seconds: 60,
            nanos: 1,
        });
        let table = states(&[state]).to_string();
        assert!(
            table.contains("runs out") && table.contains("1970-01-01T00:01:01Z"),
            "{table}"
        );
    }
}
