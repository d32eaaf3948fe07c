//! What HTTP clients know as rate-limit headers, in the metadata of an answer (R21).
//!
//! Both spellings carry the same: the older `x-ratelimit-*`, and `ratelimit-*` of the IETF's draft.
//! They tell of one limit: the one that refused, else the one with the smallest share left.

use tonic::metadata::{MetadataMap, MetadataValue};

use crate::admission::seconds_up;
use crate::admission::{Authorization, States};
use tokenmeter_model::limit::Enforcement;
use tokenmeter_store::counters::{Rule, Standing};

/// Puts the metadata of a decision on its answer.
pub(crate) fn put(metadata: &mut MetadataMap, decided: &Authorization, now_us: i64) {
    let refused = decided.refusal.as_ref();
    let tightest = match refused {
        Some(refusal) => Some((&refusal.rule, &refusal.standing)),
        None => tightest(&decided.states),
    };
    if let Some((rule, standing)) = tightest {
        let left = left(rule, standing);
        let reset = standing.reset_us.map(|at| seconds_up(at - now_us));
        for (name, value) in [
            ("x-ratelimit-limit", Some(rule.limit.amount)),
            ("x-ratelimit-remaining", Some(left)),
            ("x-ratelimit-reset", reset),
            ("ratelimit-limit", Some(rule.limit.amount)),
            ("ratelimit-remaining", Some(left)),
            ("ratelimit-reset", reset),
        ] {
            if let Some(value) = value {
                metadata.insert(name, MetadataValue::from(value));
            }
        }
    }
    if let Some(wait_us) = refused.and_then(|refusal| refusal.retry_after_us) {
        metadata.insert("retry-after", MetadataValue::from(seconds_up(wait_us)));
    }
}

fn left(rule: &Rule, standing: &Standing) -> i64 {
    let taken = standing.used.saturating_add(standing.held);
    rule.limit.amount.saturating_sub(taken).max(0)
}

/// The limit that blocks and has the smallest share left; of several the first.
fn tightest(states: &States) -> Option<(&Rule, &Standing)> {
    let blocking = states
        .limits()
        .filter(|(rule, _)| rule.limit.enforcement == Enforcement::Block);
    blocking.min_by(|one, other| {
        // left₁ / amount₁ against left₂ / amount₂, without a division.
        let share = |(rule, standing): (&Rule, &Standing), of: (&Rule, &Standing)| {
            i128::from(left(rule, standing)) * i128::from(of.0.limit.amount.max(1))
        };
        share(*one, *other).cmp(&share(*other, *one))
    })
}
