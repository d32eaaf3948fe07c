//! Tools by their calls, from one statement over the uses that a question is about.

use sqlx::sqlite::SqlitePool;

use super::reports::ALWAYS;
use super::unavailable;
use crate::ledger::Error;
use crate::ledger::reports::{Listed, Moment, Page, ToolQuery, ToolUsage};
use crate::rows::reports;

/// A page of tools, from one snapshot.
pub(super) async fn list(
    pool: &SqlitePool,
    tenant: &str,
    query: &ToolQuery,
    page: Page,
) -> Result<Listed<ToolUsage>, Error> {
    let mut snapshot = pool.begin().await.map_err(unavailable)?;
    let as_of = match page.as_of {
        Some(as_of) => as_of,
        None => Moment {
            position: 0,
            item: sqlx::query_scalar("SELECT coalesce(max(number), 0) FROM tool_invocations")
                .fetch_one(&mut *snapshot)
                .await
                .map_err(unavailable)?,
        },
    };
    let range = query.range.unwrap_or(ALWAYS);
    let rows = sqlx::query(include_str!("queries/tools.sql"))
        .bind(tenant)
        .bind(as_of.item)
        .bind(page.limit)
        .bind(page.skip)
        .bind(range.from_us)
        .bind(range.to_us)
        .bind(&query.user_id)
        .bind(&query.session_id)
        .bind(&query.tool)
        .fetch_all(&mut *snapshot)
        .await
        .map_err(unavailable)?;
    let entries = rows.iter().map(reports::tool).collect::<Result<_, _>>()?;
    Ok(Listed { entries, as_of })
}
