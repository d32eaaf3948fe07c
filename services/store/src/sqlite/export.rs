//! Exports: events by charge time, as they stood at one moment.

use sqlx::sqlite::SqlitePool;
use sqlx::{QueryBuilder, Sqlite};

use super::log::Past;
use super::unavailable;
use crate::ledger::log::ExportQuery;
use crate::ledger::{Error, Recorded};

/// One page, from one snapshot. Pages of one moment are alike whenever they are read, because rows
/// are never changed and those after the moment are left out.
pub(super) async fn page(
    pool: &SqlitePool,
    tenant: &str,
    wanted: &ExportQuery,
) -> Result<Vec<Recorded>, Error> {
    let mut snapshot = pool.begin().await.map_err(unavailable)?;
    let firsts: Vec<(i64, i64)> = firsts(tenant, wanted)
        .build_query_as()
        .fetch_all(&mut *snapshot)
        .await
        .map_err(unavailable)?;
    let positions: Vec<i64> = firsts
        .iter()
        .flat_map(|(first, lines)| *first..first + lines)
        .collect();
    let past = Past::read(&mut snapshot, &positions).await?;
    firsts
        .iter()
        .map(|(first, _)| past.event(*first, wanted.as_of))
        .collect()
}

fn firsts(tenant: &str, wanted: &ExportQuery) -> QueryBuilder<Sqlite> {
    let mut query = QueryBuilder::new(
        "SELECT position, line_count FROM usage_lines AS l \
         WHERE line = 0 AND kind = 'usage' AND tenant_id = ",
    );
    query.push_bind(tenant.to_owned());
    query.push(" AND position <= ").push_bind(wanted.as_of);
    if !wanted.user_id.is_empty() {
        query
            .push(" AND user_id = ")
            .push_bind(wanted.user_id.clone());
    }
    if let Some(range) = wanted.range {
        query.push(" AND charge_time < ").push_bind(range.to_us);
        // The cursor, where there is one, is past the beginning already.
        if wanted.after.is_none() {
            query.push(" AND charge_time >= ").push_bind(range.from_us);
        }
    }
    if let Some((time, position)) = wanted.after {
        query.push(" AND charge_time >= ").push_bind(time);
        query
            .push(" AND (charge_time, position) > (")
            .push_bind(time);
        query.push(", ").push_bind(position).push(")");
    }
    if !wanted.include_voided {
        query
            .push(
                " AND NOT EXISTS (SELECT 1 FROM usage_lines AS v \
                 WHERE v.of_position = l.position AND v.kind = 'void' AND v.position <= ",
            )
            .push_bind(wanted.as_of)
            .push(")");
    }
    query
        .push(" ORDER BY charge_time, position LIMIT ")
        .push_bind(wanted.limit);
    query
}
