//! When limits run out, if use goes on as it did over the last 24 hours.

use tokenmeter_identity::Caller;
use tokenmeter_model::limit::{Amounts, Scope, Window};
use tokenmeter_model::totals::Totals;
use tokenmeter_store::counters::{Rule, Standing};
use tokenmeter_store::ledger::{Range, Subject};

use super::LimitAdmin;
use crate::error::Error;

/// The time over which the velocity is taken, in microseconds (24 hours).
const LOOK_BACK_US: i64 = 24 * 3_600_000_000;

impl LimitAdmin {
    /// When each rule runs out, in microseconds since the Unix epoch, in the order of the rules; none
    /// where it does not before it resets, or where that is not reckoned: for limits that slide or are
    /// of one request, of a tenant or an API key, or for some models only.
    pub(super) async fn exhaustion(
        &self,
        caller: &Caller,
        states: &[(Rule, Standing)],
    ) -> Result<Vec<Option<i64>>, Error> {
        let now_us = (self.clock)();
        let last_day = Range {
            from_us: now_us - LOOK_BACK_US,
            to_us: now_us + 1,
        };
        let mut used: Vec<(Scope, Amounts)> = Vec::new();
        let mut times = Vec::with_capacity(states.len());
        for (rule, standing) in states {
            let Some(subject) = reckoned(rule) else {
                times.push(None);
                continue;
            };
            // An owner has one subject of a scope.
            let scope = rule.limit.scope;
            let known = used.iter().find(|(one, _)| *one == scope);
            let in_a_day = if let Some((_, known)) = known {
                *known
            } else {
                let totals = self
                    .ledger
                    .totals_of(&caller.tenant, subject, &[Some(last_day)])
                    .await?;
                let amounts = totals.first().map(amounts).unwrap_or_default();
                used.push((scope, amounts));
                amounts
            };
            let in_a_day = in_a_day.of(rule.limit.metric);
            times.push(runs_out(rule.limit.amount, standing, in_a_day, now_us));
        }
        Ok(times)
    }
}

/// Whose totals tell the velocity of a rule; none if no totals do.
fn reckoned(rule: &Rule) -> Option<Subject<'_>> {
    let limit = &rule.limit;
    let whole = matches!(limit.window, Window::Day | Window::Month | Window::Session);
    if !whole || !limit.provider.is_empty() || !limit.model.is_empty() {
        return None;
    }
    match limit.scope {
        Scope::User => Some(Subject::User(&rule.subject)),
        Scope::Team => Some(Subject::Team(&rule.subject)),
        Scope::Session => Some(Subject::Session(&rule.subject)),
        Scope::Tenant | Scope::ApiKey => None,
    }
}

fn amounts(totals: &Totals) -> Amounts {
    Amounts {
        requests: totals.requests,
        input: totals.prompt(),
        uncached_input: totals.input,
        output: totals.output,
        cost_nano_usd: totals.cost_nano_usd,
    }
}

/// When what remains is used, at so much in 24 hours; now if nothing remains.
fn runs_out(limit: i64, standing: &Standing, in_a_day: i64, now_us: i64) -> Option<i64> {
    let taken = standing.used.saturating_add(standing.held);
    let remaining = limit.saturating_sub(taken).max(0);
    if in_a_day <= 0 {
        return None;
    }
    let wait_us = i128::from(remaining) * i128::from(LOOK_BACK_US) / i128::from(in_a_day);
    let at_us = now_us.checked_add(i64::try_from(wait_us).ok()?)?;
    let resets_first = standing.reset_us.is_some_and(|reset_us| reset_us <= at_us);
    (!resets_first).then_some(at_us)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_runs_out_when_what_remains_is_used_at_the_last_days_pace() {
        let standing = |used, reset_us| Standing {
            used,
            held: 10,
            reset_us,
            ..Standing::default()
        };
        let hour = LOOK_BACK_US / 24;
        // 100 of 240 in 24 hours remain: at 240 a day, that is 10 hours.
        assert_eq!(
            runs_out(240, &standing(130, None), 240, 5),
            Some(5 + 10 * hour)
        );
        let resets = |reset_us| runs_out(240, &standing(130, Some(reset_us)), 240, 5);
        assert_eq!(resets(5 + 10 * hour), None);
        assert_eq!(resets(6 + 10 * hour), Some(5 + 10 * hour));
        assert_eq!(runs_out(240, &standing(300, None), 240, 5), Some(5));
        assert_eq!(runs_out(240, &standing(130, None), 0, 5), None);
        assert_eq!(runs_out(i64::MAX, &standing(0, None), 1, 5), None);
    }
}
