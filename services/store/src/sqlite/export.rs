//! Exports: events by charge time, as they stood at one moment.

use sqlx::sqlite::SqlitePool;

use super::log::past;
use super::unavailable;
use crate::exports::firsts;
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
    let firsts: Vec<(i64, i64, i64)> = firsts(tenant, wanted, "")
        .build_query_as()
        .fetch_all(&mut *snapshot)
        .await
        .map_err(unavailable)?;
    let positions: Vec<i64> = firsts
        .iter()
        .flat_map(|(first, lines, _)| *first..first + lines)
        .collect();
    let past = past(&mut snapshot, &positions).await?;
    firsts
        .iter()
        .map(|(first, ..)| past.event(*first, wanted.as_of))
        .collect()
}
