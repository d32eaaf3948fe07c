//! Refusals, in words and fields (R21).

use tokenmeter_model::limit::{Amounts, Enforcement, Metric, Scope, Window};
use tokenmeter_store::counters::{Rule, Standing};

use super::States;

/// What kind of refusal it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A limit of requests is reached.
    Rate,
    /// A limit of tokens is reached.
    Tokens,
    /// A limit of cost is reached.
    Cost,
    /// The request alone is larger than a limit for a single request allows.
    TooLarge,
    /// The token budget of the session is used up.
    SessionBudget,
    /// A hard limit of cost applies, and the model has no price.
    Unpriced,
}

/// Which limit refused, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What kind of refusal it is.
    pub cause: Cause,
    /// For people: which limit, how much is left, when to retry.
    pub message: String,
    /// The limit.
    pub rule: Rule,
    /// How it stands.
    pub standing: Standing,
    /// What was asked of it, in the metric's unit.
    pub asked: i64,
    /// How long to wait until the same request can fit, in microseconds; none if waiting does not help.
    pub retry_after_us: Option<i64>,
}

/// What a request asks, where refusals are told.
pub(super) struct Asked<'a> {
    /// How much more than what is held already.
    pub(super) amounts: Amounts,
    /// How much in the whole, which limits of a single request look at.
    pub(super) whole: Amounts,
    /// The model, if its cost has no bound.
    pub(super) unpriced: Option<&'a str>,
    pub(super) now_us: i64,
}

impl Asked<'_> {
    /// Whether a rule refuses what has no price.
    pub(super) fn refuses_unpriced(&self, rule: &Rule) -> bool {
        self.unpriced.is_some() && rule.limit.metric == Metric::Cost && rule.limit.hard
    }

    /// Sets right what rules of cost say of a call without a price, which was asked as if its cost had
    /// no bound: hard ones are exceeded, others are not.
    pub(super) fn correct(&self, states: &mut States) {
        if self.unpriced.is_none() {
            return;
        }
        for (rule, standing) in states.rules.iter().zip(&mut states.standings) {
            if rule.limit.metric == Metric::Cost {
                standing.exceeded = rule.limit.hard;
                standing.retry_us = None;
            }
        }
    }

    /// The refusal by one rule. `retry_us` is when it can fit.
    fn by(&self, rule: &Rule, standing: &Standing, retry_us: Option<i64>) -> Refusal {
        let limit = &rule.limit;
        let unpriced = self.unpriced.filter(|_| self.refuses_unpriced(rule));
        let cause = match (limit.window, limit.metric) {
            _ if unpriced.is_some() => Cause::Unpriced,
            (Window::Request, _) => Cause::TooLarge,
            (Window::Budget, _) => Cause::SessionBudget,
            (_, Metric::Requests) => Cause::Rate,
            (_, Metric::Cost) => Cause::Cost,
            _ => Cause::Tokens,
        };
        let asked = match limit.window {
            _ if unpriced.is_some() => 0,
            Window::Request => self.whole.of(limit.metric),
            _ => self.amounts.of(limit.metric),
        };
        let retry_after_us = match unpriced {
            Some(_) => None,
            None => retry_us.map(|at| (at - self.now_us).max(1)),
        };
        let why = match unpriced {
            Some(model) => format!(
                "model {model:.64} has no price, so that the cost cannot be bounded; send \
                 estimate.cost, or have the model priced"
            ),
            None => why(rule, standing, asked, retry_after_us),
        };
        Refusal {
            cause,
            message: format!("{}: {why}", name(rule)),
            rule: rule.clone(),
            standing: *standing,
            asked,
            retry_after_us,
        }
    }

    /// The refusal of a request, by the rule at a place; when it can fit looks at every rule.
    pub(super) fn refusal(&self, states: &States, place: usize) -> Option<Refusal> {
        let rules = || states.all().enumerate();
        let blocks = |rule: &Rule| rule.limit.enforcement == Enforcement::Block;
        // Other limits of cost only stood in the way of a cost without bound.
        let unpriced = rules().find(|(_, (rule, _))| blocks(rule) && self.refuses_unpriced(rule));
        let first = rules().nth(place)?;
        let by_cost = first.1.0.limit.metric == Metric::Cost;
        let (_, (rule, standing)) = unpriced.filter(|_| by_cost).unwrap_or(first);
        // All that refuse have to let go: the last of their times, and none if one never does.
        let retry_us = states
            .all()
            .filter(|(rule, standing)| blocks(rule) && standing.exceeded)
            .map(|(_, standing)| standing.retry_us)
            .reduce(|one, other| Some(one?.max(other?)))
            .flatten();
        Some(self.by(rule, standing, retry_us))
    }

    /// The limits in shadow mode that would have refused.
    pub(super) fn shadows(&self, states: &States) -> Vec<Refusal> {
        states
            .limits()
            .filter(|(rule, standing)| {
                rule.limit.enforcement == Enforcement::Shadow && standing.exceeded
            })
            .map(|(rule, standing)| self.by(rule, standing, standing.retry_us))
            .collect()
    }
}

/// Which limit it is, of whom.
fn name(rule: &Rule) -> String {
    let (limit, subject) = (&rule.limit, &rule.subject);
    match (limit.window, limit.scope) {
        (Window::Budget, _) => format!("token budget of session {subject:.64}"),
        (_, Scope::Tenant) => format!("limit {:.64} of the tenant", limit.name),
        (_, Scope::ApiKey) => format!("limit {:.64} of API key {subject:.64}", limit.name),
        (_, scope) => format!(
            "limit {:.64} of {} {subject:.64}",
            limit.name,
            scope.as_str()
        ),
    }
}

/// What stands in the way, and what helps.
fn why(rule: &Rule, standing: &Standing, asked: i64, retry_after_us: Option<i64>) -> String {
    let (metric, amount) = (rule.limit.metric, rule.limit.amount);
    let unit = unit(metric);
    let figure = |amount| figure(metric, amount);
    if asked > amount {
        return format!(
            "{} {unit} asked, at most {} allowed; ask for less",
            figure(asked),
            figure(amount)
        );
    }
    let mut text = format!(
        "{} of {} {unit} used",
        figure(standing.used),
        figure(amount)
    );
    if standing.held > 0 {
        text.push_str(&format!(", {} held", figure(standing.held)));
    }
    if metric != Metric::Requests {
        text.push_str(&format!(", {} asked", figure(asked)));
    }
    text.push_str(&match (retry_after_us, rule.limit.window) {
        (Some(wait_us), _) => format!("; retry in {} s", seconds_up(wait_us)),
        (None, Window::Budget) => "; set a larger budget or reset it".to_owned(),
        (None, _) => "; it does not reset by itself".to_owned(),
    });
    text
}

fn unit(metric: Metric) -> &'static str {
    match metric {
        Metric::Requests => "requests",
        Metric::InputTokens => "input tokens",
        Metric::UncachedInputTokens => "uncached input tokens",
        Metric::OutputTokens => "output tokens",
        Metric::TotalTokens => "tokens",
        Metric::Cost => "USD",
    }
}

/// An amount as people read it: USD with nine digits at most, all else whole.
fn figure(metric: Metric, amount: i64) -> String {
    const NANOS: u64 = 1_000_000_000;
    if metric != Metric::Cost {
        return amount.to_string();
    }
    let sign = if amount < 0 { "-" } else { "" };
    let (units, nanos) = (amount.unsigned_abs() / NANOS, amount.unsigned_abs() % NANOS);
    let digits = format!("{nanos:09}");
    let digits = digits.trim_end_matches('0');
    match digits.is_empty() {
        true => format!("{sign}{units}"),
        false => format!("{sign}{units}.{digits}"),
    }
}

/// Whole seconds, rounded up, so that who waits as long does not come too early.
pub(crate) fn seconds_up(us: i64) -> i64 {
    us.max(0).saturating_add(999_999) / 1_000_000
}
