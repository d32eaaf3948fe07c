//! Tools by their calls, from one statement over the uses that a question is about.

use sqlx::Row as _;
use sqlx::sqlite::{SqlitePool, SqliteRow};
use tokenmeter_model::ratio;

use super::lines::corrupt;
use super::reports::ALWAYS;
use super::unavailable;
use crate::ledger::reports::{Listed, Moment, Page, ToolQuery, ToolUsage};
use crate::ledger::{Error, Latency};

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
    let entries = rows.iter().map(read).collect::<Result<_, _>>()?;
    Ok(Listed { entries, as_of })
}

fn read(row: &SqliteRow) -> Result<ToolUsage, Error> {
    let number = |n: usize| {
        row.try_get::<Option<i64>, _>(n)
            .map(Option::unwrap_or_default)
            .map_err(corrupt)
    };
    let measured = number(7)?;
    Ok(ToolUsage {
        tool: row.try_get(0).map_err(corrupt)?,
        calls: number(1)?,
        succeeded: number(2)?,
        failed: number(3)?,
        cancelled: number(4)?,
        estimated_tokens: number(5)?,
        last_start_us: number(6)?,
        duration: Latency {
            measured,
            mean_ms: ratio::mean(number(8)?, measured).unwrap_or_default(),
            p50_ms: number(9)?,
            p90_ms: number(10)?,
            p95_ms: number(11)?,
            p99_ms: number(12)?,
            max_ms: number(13)?,
        },
    })
}
