//! Tools by their calls, from one statement over the uses that a question is about.

use sqlx::postgres::PgPool;

use super::read::ALWAYS;
use super::unavailable;
use crate::ledger::Error;
use crate::ledger::reports::{Listed, Moment, Page, ToolQuery, ToolUsage};
use crate::rows::reports;

/// A page of tools, from one snapshot.
pub(super) async fn list(
    pool: &PgPool,
    tenant: &str,
    query: &ToolQuery,
    page: Page,
    as_of: Moment,
) -> Result<Listed<ToolUsage>, Error> {
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
        .fetch_all(pool)
        .await
        .map_err(unavailable)?;
    let entries = rows.iter().map(reports::tool).collect::<Result<_, _>>()?;
    Ok(Listed { entries, as_of })
}
