//! Hits and overshoots: what is written of a batch, and the list of hits.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use sqlx::AssertSqlSafe;

use super::Filter;
use crate::driver::Driver;
use crate::ledger::Error;
use crate::ledger::limits::{HitQuery, LimitHit, Overshoot};
use crate::rows::limits;

/// Rows that one statement adds at most.
pub(crate) const MAX_ROWS: usize = 1_000;

/// The hits of a batch, each limit, subject and second once, in the order of the key: any two batches
/// take rows in the same order.
pub(crate) fn coalesced(hits: &[LimitHit]) -> Vec<LimitHit> {
    let mut by_key: BTreeMap<_, LimitHit> = BTreeMap::new();
    for hit in hits {
        let key = (
            hit.scope.as_str(),
            &hit.subject,
            hit.second_us,
            &hit.limit_name,
            hit.metric,
            hit.window,
        );
        match by_key.entry(key) {
            Entry::Vacant(vacant) => {
                vacant.insert(hit.clone());
            }
            Entry::Occupied(mut first) => {
                let count = &mut first.get_mut().count;
                *count = count.saturating_add(hit.count);
            }
        }
    }
    by_key.into_values().collect()
}

/// Overshoots in the order of the key.
pub(crate) fn in_order(overshoots: &[Overshoot]) -> Vec<&Overshoot> {
    let mut all: Vec<_> = overshoots.iter().collect();
    all.sort_by_key(|one| {
        (
            &one.event_id,
            one.scope.as_str(),
            &one.subject,
            &one.limit_name,
            one.metric,
            one.window,
        )
    });
    all
}

/// Hits, newest first.
pub(crate) async fn hits(
    on: &mut impl Driver,
    tenant: &str,
    query: &HitQuery,
) -> Result<Vec<(i64, LimitHit)>, Error> {
    let mut filter = Filter::of(tenant);
    for (comparison, value) in [
        ("user_id =", &query.user_id),
        ("subject =", &query.subject),
        ("limit_name =", &query.limit_name),
    ] {
        if !value.is_empty() {
            filter.add(comparison, &**value);
        }
    }
    if let Some(scope) = query.scope {
        filter.add("scope =", scope.as_str());
    }
    if let Some(range) = query.range {
        filter.add("second >=", range.from_us);
        filter.add("second <", range.to_us);
    }
    if let Some((second, number)) = query.before {
        filter.add_pair("(second, number) <", second, number);
    }
    let sql = format!(
        "SELECT * FROM limit_hits WHERE {} ORDER BY second DESC, number DESC LIMIT {}",
        filter.conditions, query.limit
    );
    let rows = on.rows(AssertSqlSafe(sql), &filter.binds).await?;
    rows.iter().map(limits::hit).collect()
}
