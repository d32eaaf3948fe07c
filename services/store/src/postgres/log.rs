//! The log: rows of `usage_lines` by position, put together to what happened.
//!
//! Lines are found through `commits`, which says what a tenant wrote since, and when it was charged:
//! only the partitions of these times are read. All rows of an event have its charge time.

use sqlx::postgres::{PgConnection, PgPool};
use tokenmeter_model::bounds::MAX_LINES;

use super::horizon::Horizon;
use super::{retention, unavailable};
use crate::history::{self, MAX_ROWS, Past, small};
use crate::ledger::Error;
use crate::ledger::log::{DROPPED, Page};

/// Commits that one page goes through at most.
const MAX_COMMITS: i64 = 256;

/// What a tenant wrote next.
#[derive(sqlx::FromRow)]
struct Stretch {
    commits: i64,
    last: Option<i64>,
    first_charge_time: Option<i64>,
    last_charge_time: Option<i64>,
}

fn nothing_up_to(through: i64) -> Page {
    Page {
        entries: Vec::new(),
        through,
    }
}

/// One page of a tenant's log, as far as it is complete. Positions that nobody was given cost
/// nothing, so that it is rows that `positions` bounds.
pub(super) async fn page(
    pool: &PgPool,
    horizon: &Horizon,
    tenant: &str,
    after: i64,
    positions: i64,
) -> Result<Page, Error> {
    let committed = *horizon.committed().borrow();
    if committed <= after {
        return Ok(nothing_up_to(after));
    }
    let mut connection = pool.acquire().await.map_err(unavailable)?;
    let page = read(&mut connection, tenant, after, committed, positions).await?;
    // Asked last: what was dropped while the page was read is told then.
    if after < retention::log_start(&mut *connection, tenant).await? {
        return Err(Error::Unavailable(DROPPED.into()));
    }
    Ok(page)
}

/// Reads a page of what followed a position, up to what is `committed`.
async fn read(
    connection: &mut PgConnection,
    tenant: &str,
    after: i64,
    committed: i64,
    positions: i64,
) -> Result<Page, Error> {
    let stretch: Stretch = sqlx::query_as(include_str!("queries/log_commits.sql"))
        .bind(tenant)
        .bind(after)
        .bind(committed)
        .bind(MAX_COMMITS)
        .fetch_one(&mut *connection)
        .await
        .map_err(unavailable)?;
    let end = match stretch.last {
        Some(last) if stretch.commits == MAX_COMMITS => last,
        _ => committed,
    };
    let Some(charged) = stretch.first_charge_time.zip(stretch.last_charge_time) else {
        return Ok(nothing_up_to(end));
    };
    // More than the lines of one event, so that there is always a whole one.
    let max_rows = positions.clamp(small(MAX_LINES) + 1, small(MAX_ROWS));
    let rows = sqlx::query(include_str!("queries/log_lines.sql"))
        .bind(tenant)
        .bind(after)
        .bind(end)
        .bind(charged.0)
        .bind(charged.1)
        .bind(max_rows)
        .fetch_all(&mut *connection)
        .await
        .map_err(unavailable)?;
    let full = small(rows.len()) == max_rows;
    let mut groups = history::group(rows)?;
    let mut through = end;
    // The last of a full page may go on past it; it comes first in the next one.
    if full && groups.len() > 1 {
        groups.pop();
        through = groups.last().map_or(end, |last| last.last);
    }
    let corrected = history::corrected(&groups)?;
    let past = past(connection, tenant, &corrected, charged).await?;
    let entries = history::entries(&groups, &past)?;
    Ok(Page { entries, through })
}

/// The events that have lines at these positions, all lines of each, with every correction; `charged`
/// are the first and the last of their charge times.
pub(super) async fn past(
    connection: &mut PgConnection,
    tenant: &str,
    positions: &[i64],
    charged: (i64, i64),
) -> Result<Past, Error> {
    if positions.is_empty() {
        return Ok(Past::default());
    }
    let read = |sql| {
        sqlx::query(sql)
            .bind(tenant)
            .bind(positions)
            .bind(charged.0)
            .bind(charged.1)
    };
    let lines = read(include_str!("queries/past_lines.sql"));
    let lines = lines.fetch_all(&mut *connection).await;
    let corrections = read(include_str!("queries/past_corrections.sql"));
    let corrections = corrections.fetch_all(&mut *connection).await;
    Past::new(
        lines.map_err(unavailable)?,
        &corrections.map_err(unavailable)?,
    )
}
