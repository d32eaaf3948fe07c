//! `usage_totals`: one upsert for each distinct key of a batch.

use tokenmeter_model::totals::Totals;

use super::insert::{Bound, Insert};
use crate::columns::Values as _;
use crate::ledger::Error;
use crate::rows::totals::sum_columns;
use crate::sums::Batch;

/// Binds what adds a batch to the ledger's totals.
///
/// # Errors
/// [`Error::OutOfRange`] when a sum passes 64 bits.
pub(super) fn bind(batch: Batch<'_>, upsert: &Insert) -> Result<Bound, Error> {
    let rows = batch.rows()?;
    let bound = upsert.bind(&rows, |((tenant, scope, subject, bucket), totals), row| {
        row.text(tenant).text(scope).text(subject).push(*bucket);
        for sum in totals.sums() {
            row.push(sum);
        }
        row.push(totals.updated_at_us);
    });
    bound.map_err(super::unavailable)
}

/// The upsert of [`bind`].
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
