//! `usage_totals`: sums gathered in memory, then one upsert for each distinct key.

use std::borrow::Cow;
use std::collections::BTreeMap;

use tokenmeter_model::totals::{Totals, bucket};

use super::insert::{Bound, Insert};
use crate::ledger::Error;
use crate::rows::totals::sum_columns;

/// Bucket of a lifetime total; no event is old enough to fall into it.
const LIFETIME: i64 = 0;

/// Who a line counts for.
pub(super) struct Owner<'a> {
    pub(super) tenant: &'a str,
    pub(super) user: &'a str,
    pub(super) team: &'a str,
    pub(super) session: &'a str,
    pub(super) provider: &'a str,
    pub(super) model: &'a str,
    pub(super) charge_time_us: i64,
}

/// What a batch adds to each total. Ordered by key, so that upserts walk the tree once and any
/// two batches take rows in the same order.
#[derive(Default)]
pub(super) struct Batch<'a> {
    sums: BTreeMap<Key<'a>, Totals>,
    /// Whether a sum passed 64 bits, which the bounds of counts and costs keep a batch from.
    overflow: bool,
}

type Key<'a> = (&'a str, &'static str, Cow<'a, str>, i64);

impl<'a> Batch<'a> {
    /// Adds a line to every total that counts it.
    pub(super) fn add(&mut self, owner: &Owner<'a>, sums: &Totals) {
        let now = bucket(owner.charge_time_us);
        let model: Cow<'a, str> = Cow::Owned(format!("{}/{}", owner.provider, owner.model));
        let user = Cow::Borrowed(owner.user);
        self.one(owner.tenant, "user", user.clone(), LIFETIME, sums);
        self.one(owner.tenant, "user", user, now, sums);
        self.one(owner.tenant, "model", model.clone(), LIFETIME, sums);
        self.one(owner.tenant, "model", model, now, sums);
        if !owner.team.is_empty() {
            let team = Cow::Borrowed(owner.team);
            self.one(owner.tenant, "team", team.clone(), LIFETIME, sums);
            self.one(owner.tenant, "team", team, now, sums);
        }
        if !owner.session.is_empty() {
            let session = Cow::Borrowed(owner.session);
            self.one(owner.tenant, "session", session, LIFETIME, sums);
        }
    }

    fn one(
        &mut self,
        tenant: &'a str,
        scope: &'static str,
        subject: Cow<'a, str>,
        bucket: i64,
        sums: &Totals,
    ) {
        let total = self
            .sums
            .entry((tenant, scope, subject, bucket))
            .or_default();
        match total.checked_add(sums) {
            Some(sum) => *total = sum,
            None => self.overflow = true,
        }
    }

    /// Binds what adds everything to the ledger's totals.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when a sum passes 64 bits.
    pub(super) fn bind(self, upsert: &Insert) -> Result<Bound, Error> {
        if self.overflow {
            return Err(Error::OutOfRange("a batch's sum passes 64 bits".into()));
        }
        let rows: Vec<_> = self.sums.into_iter().collect();
        let bound = upsert.bind(&rows, |((tenant, scope, subject, bucket), totals), row| {
            row.text(tenant).text(scope).text(subject).push(*bucket);
            for sum in totals.sums() {
                row.push(sum);
            }
            row.push(totals.updated_at_us);
        });
        bound.map_err(super::unavailable)
    }
}

/// The upsert of [`Batch::bind`].
pub(super) fn upsert() -> Insert {
    let mut columns = vec!["tenant_id", "scope", "subject", "bucket"];
    columns.extend(Totals::SUMS);
    columns.push("updated_at");
    let sums = sum_columns(|name| format!("{name} = {name} + excluded.{name}"));
    let tail = format!(
        "ON CONFLICT (tenant_id, scope, subject, bucket) DO UPDATE SET {sums}, \
         updated_at = max(updated_at, excluded.updated_at)"
    );
    Insert::new("usage_totals", &columns, &tail)
}

/// The figures of a row of `usage_lines`, in the order of [`Totals::SUMS`], as SQL.
pub(super) fn of_line(name: &str) -> String {
    match name {
        "succeeded" | "failed" | "interrupted" => format!("requests * (status = '{name}')"),
        "latency_ms" => "requests * coalesce(latency_ms, 0)".to_owned(),
        "latency_events" => "requests * (latency_ms IS NOT NULL)".to_owned(),
        "lines" => "CASE kind WHEN 'usage' THEN 1 WHEN 'void' THEN -1 ELSE 0 END".to_owned(),
        "tool_requests" => {
            "coalesce((SELECT sum(value) FROM json_each(tool_requests)), 0)".to_owned()
        }
        other => other.to_owned(),
    }
}
