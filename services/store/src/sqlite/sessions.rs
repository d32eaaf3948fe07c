//! Lists of sessions: which ones, in one statement; then what they are, by the index of sessions.

use sqlx::AssertSqlSafe;
use sqlx::sqlite::{SqliteConnection, SqlitePool, SqliteRow};

use super::reports::{ALWAYS, json};
use super::totals::of_line;
use super::unavailable;
use crate::ledger::Error;
use crate::ledger::reports::{Listed, Moment, Page, SessionOrder, SessionQuery, SessionSummary};
use crate::rows::reports::Sessions;
use crate::rows::totals;

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
    let found = details(&mut snapshot, &wanted).await?;
    let entries = found.in_order(&ids);
    Ok(Listed { entries, as_of })
}

/// The last position of the ledger.
pub(super) async fn last_position(connection: &mut SqliteConnection) -> Result<i64, Error> {
    sqlx::query_scalar("SELECT last_position FROM ledger_state WHERE id = 1")
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
    /// Whether all of a session counts, so that what is sealed of it does.
    fn whole(&self) -> bool {
        self.query.user_id.is_empty() && self.query.range.is_none()
    }

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

/// What the sessions are and have.
async fn details(
    connection: &mut SqliteConnection,
    wanted: &Wanted<'_>,
) -> Result<Sessions, Error> {
    let whole = if wanted.whole() { "true" } else { "false" };
    let facts = include_str!("queries/session_facts.sql").replace("{whole}", whole);
    let mut found = Sessions::of_facts(&wanted.fetch(connection, &facts).await?)?;
    let models = include_str!("queries/session_models.sql")
        .replace("{whole}", whole)
        .replace("{columns}", &totals::sum_columns(str::to_owned))
        .replace("{of_line}", &totals::sum_columns(of_line))
        .replace(
            "{sums}",
            &totals::sum_columns(|name| format!("sum({name})")),
        );
    found.add_models(&wanted.fetch(connection, &models).await?)?;
    let tools = include_str!("queries/session_tools.sql");
    found.add_tools(&wanted.fetch(connection, tools).await?)?;
    let messages = include_str!("queries/session_messages.sql");
    found.add_messages(&wanted.fetch(connection, messages).await?)?;
    Ok(found)
}
