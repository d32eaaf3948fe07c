//! Exports: events by charge time, as they stood at one moment.

use sqlx::postgres::PgPool;

use super::log::past;
use super::unavailable;
use crate::exports::firsts;
use crate::ledger::log::ExportQuery;
use crate::ledger::{Error, Recorded};

/// One page. Pages of one moment are alike whenever they are read, because rows are never changed and
/// those after the moment are left out. A replica that has not come to the moment is not asked.
pub(super) async fn page(
    readers: &PgPool,
    primary: &PgPool,
    tenant: &str,
    wanted: &ExportQuery,
) -> Result<Vec<Recorded>, Error> {
    let pool = match has(readers, wanted.as_of).await {
        true => readers,
        false => primary,
    };
    let mut connection = pool.acquire().await.map_err(unavailable)?;
    let firsts: Vec<(i64, i64, i64)> = firsts(
        tenant,
        wanted,
        " AND v.tenant_id = l.tenant_id AND v.charge_time = l.charge_time",
    )
    .build_query_as()
    .fetch_all(&mut *connection)
    .await
    .map_err(unavailable)?;
    let positions: Vec<i64> = firsts
        .iter()
        .flat_map(|(first, lines, _)| *first..first + lines)
        .collect();
    let (Some(begin), Some(end)) = (firsts.first(), firsts.last()) else {
        return Ok(Vec::new());
    };
    let past = past(&mut connection, tenant, &positions, (begin.2, end.2)).await?;
    firsts
        .iter()
        .map(|(first, ..)| past.event(*first, wanted.as_of))
        .collect()
}

/// Whether a server has come to a position. One that cannot be asked has not.
async fn has(pool: &PgPool, position: i64) -> bool {
    let asked = sqlx::query_scalar(include_str!("queries/has_position.sql"))
        .bind(position)
        .fetch_one(pool);
    asked.await.unwrap_or(false)
}
