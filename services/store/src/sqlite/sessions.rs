//! Lists of sessions: which ones, in one statement; then what they are, by the index of sessions.

use std::collections::HashMap;

use sqlx::sqlite::{SqliteConnection, SqlitePool, SqliteRow};
use sqlx::{AssertSqlSafe, Row as _};

use super::lines::corrupt;
use super::reports::{ALWAYS, json};
use super::{totals, unavailable};
use crate::ledger::reports::{Listed, Moment, Page, SessionOrder, SessionQuery, SessionSummary};
use crate::ledger::{Error, ModelTotals};

/// All tokens of a row of `usage_lines` or `usage_totals`.
pub(super) const TOKENS: &str = "input + cache_read + cache_write_5m + cache_write_30m + cache_write_1h \
                      + cache_write_12h + cache_write_unspecified + output";

/// A page of sessions, from one snapshot.
pub(super) async fn list(
    pool: &SqlitePool,
    tenant: &str,
    query: &SessionQuery,
    page: Page,
) -> Result<Listed<SessionSummary>, Error> {
    let mut snapshot = pool.begin().await.map_err(unavailable)?;
    let as_of = match page.as_of {
        Some(as_of) => as_of,
        None => Moment {
            position: last_position(&mut snapshot).await?,
            item: 0,
        },
    };
    let ids = ranked(&mut snapshot, tenant, query, page, as_of).await?;
    let wanted = Wanted {
        tenant,
        ids: json(&ids)?,
        query,
        as_of,
    };
    let mut found = facts(&mut snapshot, &wanted).await?;
    add_models(&mut snapshot, &wanted, &mut found).await?;
    add_items(&mut snapshot, &wanted, &mut found).await?;
    let entries = ids.iter().filter_map(|id| found.remove(id)).collect();
    Ok(Listed { entries, as_of })
}

/// The last position of the ledger.
pub(super) async fn last_position(connection: &mut SqliteConnection) -> Result<i64, Error> {
    sqlx::query_scalar("SELECT coalesce(max(position), 0) FROM usage_lines")
        .fetch_one(connection)
        .await
        .map_err(unavailable)
}

/// The condition on the user, who is bound as this parameter.
fn of_user(query: &SessionQuery, parameter: &str) -> String {
    if query.user_id.is_empty() {
        format!("{parameter} = ''")
    } else {
        format!("user_id = {parameter}")
    }
}

/// The ids of the page's sessions in order.
async fn ranked(
    connection: &mut SqliteConnection,
    tenant: &str,
    query: &SessionQuery,
    page: Page,
    as_of: Moment,
) -> Result<Vec<String>, Error> {
    let figure = match query.order {
        SessionOrder::Tokens | SessionOrder::LastEvent => TOKENS,
        SessionOrder::Cost => "cost_nano_usd",
    };
    let (sql, range) = match query.order {
        SessionOrder::LastEvent => (
            include_str!("queries/session_rank_last.sql"),
            query.last_event,
        ),
        _ if query.user_id.is_empty() && query.range.is_none() => {
            (include_str!("queries/session_rank_totals.sql"), None)
        }
        _ => (include_str!("queries/session_rank_lines.sql"), query.range),
    };
    let range = range.unwrap_or(ALWAYS);
    let index = match query.user_id.is_empty() {
        true => "usage_lines_by_session",
        false => "usage_lines_by_user",
    };
    let sql = sql
        .replace("{figure}", figure)
        .replace("{index}", index)
        .replace("{user}", &of_user(query, "?7"));
    sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(tenant)
        .bind(as_of.position)
        .bind(page.limit)
        .bind(page.skip)
        .bind(range.from_us)
        .bind(range.to_us)
        .bind(&query.user_id)
        .fetch_all(connection)
        .await
        .map_err(unavailable)
}

/// Sessions whose details are read.
struct Wanted<'a> {
    tenant: &'a str,
    /// Their ids, for `json_each`.
    ids: String,
    query: &'a SessionQuery,
    as_of: Moment,
}

impl Wanted<'_> {
    /// Runs a statement over these sessions.
    async fn fetch(
        &self,
        connection: &mut SqliteConnection,
        sql: &str,
    ) -> Result<Vec<SqliteRow>, Error> {
        let range = self.query.range.unwrap_or(ALWAYS);
        let sql = sql.replace("{user}", &of_user(self.query, "?6"));
        sqlx::query(AssertSqlSafe(sql))
            .bind(self.tenant)
            .bind(&self.ids)
            .bind(self.as_of.position)
            .bind(range.from_us)
            .bind(range.to_us)
            .bind(&self.query.user_id)
            .fetch_all(connection)
            .await
            .map_err(unavailable)
    }
}

async fn facts(
    connection: &mut SqliteConnection,
    wanted: &Wanted<'_>,
) -> Result<HashMap<String, SessionSummary>, Error> {
    let rows = wanted
        .fetch(connection, include_str!("queries/session_facts.sql"))
        .await?;
    rows.iter()
        .map(|row| {
            let session_id: String = row.try_get(0).map_err(corrupt)?;
            let summary = SessionSummary {
                session_id: session_id.clone(),
                user_id: row.try_get(1).map_err(corrupt)?,
                turns: row.try_get(2).map_err(corrupt)?,
                messages: row.try_get(3).map_err(corrupt)?,
                first_us: row.try_get(4).map_err(corrupt)?,
                last_us: row.try_get(5).map_err(corrupt)?,
                ..SessionSummary::default()
            };
            Ok((session_id, summary))
        })
        .collect()
}

async fn add_models(
    connection: &mut SqliteConnection,
    wanted: &Wanted<'_>,
    found: &mut HashMap<String, SessionSummary>,
) -> Result<(), Error> {
    let sums = totals::sum_columns(|name| format!("sum({})", totals::of_line(name)));
    let sql = include_str!("queries/session_models.sql").replace("{sums}", &sums);
    for row in wanted.fetch(connection, &sql).await? {
        let session_id: &str = row.try_get(0).map_err(corrupt)?;
        let model = ModelTotals {
            provider: row.try_get(1).map_err(corrupt)?,
            model: row.try_get(2).map_err(corrupt)?,
            totals: totals::read(&row, 3)?,
        };
        // A model whose events are all voided has no line left.
        if let Some(summary) = found.get_mut(session_id).filter(|_| model.totals.lines > 0) {
            summary.models.push(model);
        }
    }
    for summary in found.values_mut() {
        // Stable, so that ties stay by provider and model.
        summary
            .models
            .sort_by_key(|model| std::cmp::Reverse(model.totals.total()));
    }
    Ok(())
}

/// What sessions have beside usage.
async fn add_items(
    connection: &mut SqliteConnection,
    wanted: &Wanted<'_>,
    found: &mut HashMap<String, SessionSummary>,
) -> Result<(), Error> {
    let tools = include_str!("queries/session_tools.sql");
    for row in wanted.fetch(connection, tools).await? {
        let session_id: &str = row.try_get(0).map_err(corrupt)?;
        if let Some(summary) = found.get_mut(session_id) {
            let tool = row.try_get(1).map_err(corrupt)?;
            summary.tools.push((tool, row.try_get(2).map_err(corrupt)?));
        }
    }
    let messages = include_str!("queries/session_messages.sql");
    for row in wanted.fetch(connection, messages).await? {
        let session_id: &str = row.try_get(0).map_err(corrupt)?;
        if let Some(summary) = found.get_mut(session_id) {
            summary.messages += row.try_get::<i64, _>(1).map_err(corrupt)?;
        }
    }
    Ok(())
}
