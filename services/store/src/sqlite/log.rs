//! The log: rows of `usage_lines` by position, put together to what happened.
//!
//! There is no index for it: positions are the rowid, and a range of them is read whoever wrote there.

use sqlx::sqlite::{SqliteConnection, SqlitePool};
use tokenmeter_model::bounds::MAX_LINES;

use super::read::by_position;
use super::{retention, unavailable};
use crate::history::{self, MAX_ROWS, Past, small};
use crate::ledger::Error;
use crate::ledger::log::{DROPPED, Page};

/// One page of a tenant's log, from one snapshot.
pub(super) async fn page(
    pool: &SqlitePool,
    tenant: &str,
    after: i64,
    positions: i64,
) -> Result<Page, Error> {
    let mut snapshot = pool.begin().await.map_err(unavailable)?;
    if after < retention::log_start(&mut *snapshot, tenant).await? {
        return Err(Error::Unavailable(DROPPED.into()));
    }
    let last: i64 = sqlx::query_scalar("SELECT last_position FROM ledger_state WHERE id = 1")
        .fetch_one(&mut *snapshot)
        .await
        .map_err(unavailable)?;
    let end = after.saturating_add(positions.max(1)).min(last);
    if end <= after {
        return Ok(Page {
            entries: Vec::new(),
            through: after,
        });
    }
    // What begins in the range may end past it, by less than the lines of one event.
    let rows = sqlx::query(include_str!("queries/log.sql"))
        .bind(tenant)
        .bind(after)
        .bind(end + small(MAX_LINES))
        .bind(small(MAX_ROWS))
        .fetch_all(&mut *snapshot)
        .await
        .map_err(unavailable)?;
    let full = rows.len() == MAX_ROWS;
    let mut groups = history::group(rows)?;
    groups.retain(|group| group.first <= end);
    let mut through = groups.last().map_or(end, |last| last.last.max(end));
    // The last of a full page may go on past it; it comes first in the next one.
    if full && groups.len() > 1 {
        groups.pop();
        through = groups.last().map_or(through, |last| last.last);
    }
    let past = past(&mut snapshot, &history::corrected(&groups)?).await?;
    let entries = history::entries(&groups, &past)?;
    Ok(Page { entries, through })
}

/// The events that have lines at these positions, all lines of each, with every correction.
pub(super) async fn past(
    connection: &mut SqliteConnection,
    positions: &[i64],
) -> Result<Past, Error> {
    let lines = by_position(connection, "position", positions).await?;
    let corrections = by_position(connection, "of_position", positions).await?;
    Past::new(lines, &corrections)
}
