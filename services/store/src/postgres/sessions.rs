//! Lists of sessions: which ones, in one statement; then what they are, by the index of sessions.

use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgConnection, PgPool, PgRow};

use super::read::{ALWAYS, snapshot};
use super::{sums, unavailable};
use crate::ledger::Error;
use crate::ledger::reports::{Listed, Moment, Page, SessionOrder, SessionQuery, SessionSummary};
use crate::rows::reports::Sessions;

/// All tokens of a row of `usage_lines` or `usage_totals`.
const TOKENS: &str = "input + cache_read + cache_write_5m + cache_write_30m + cache_write_1h \
                      + cache_write_12h + cache_write_unspecified + output";

/// A page of sessions, from one snapshot.
pub(super) async fn list(
    pool: &PgPool,
    tenant: &str,
    query: &SessionQuery,
    page: Page,
    as_of: Moment,
) -> Result<Listed<SessionSummary>, Error> {
    let mut snapshot = snapshot(pool).await?;
    let ids = ranked(&mut snapshot, tenant, query, page, as_of).await?;
    let wanted = Wanted {
        tenant,
        ids: &ids,
        query,
        as_of,
    };
    let found = details(&mut snapshot, &wanted).await?;
    let entries = found.in_order(&ids);
    Ok(Listed { entries, as_of })
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
    connection: &mut PgConnection,
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
    let sql = sql
        .replace("{figure}", figure)
        .replace("{user}", &of_user(query, "$7"));
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
    ids: &'a [String],
    query: &'a SessionQuery,
    as_of: Moment,
}

impl Wanted<'_> {
    /// Runs a statement over these sessions.
    async fn fetch(&self, connection: &mut PgConnection, sql: &str) -> Result<Vec<PgRow>, Error> {
        let range = self.query.range.unwrap_or(ALWAYS);
        let sql = sql.replace("{user}", &of_user(self.query, "$6"));
        sqlx::query(AssertSqlSafe(sql))
            .bind(self.tenant)
            .bind(self.ids)
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
async fn details(connection: &mut PgConnection, wanted: &Wanted<'_>) -> Result<Sessions, Error> {
    let facts = include_str!("queries/session_facts.sql");
    let mut found = Sessions::of_facts(&wanted.fetch(connection, facts).await?)?;
    let models =
        include_str!("queries/session_models.sql").replace("{line_sums}", &sums::of_lines());
    found.add_models(&wanted.fetch(connection, &models).await?)?;
    let tools = include_str!("queries/session_tools.sql");
    found.add_tools(&wanted.fetch(connection, tools).await?)?;
    let messages = include_str!("queries/session_messages.sql");
    found.add_messages(&wanted.fetch(connection, messages).await?)?;
    Ok(found)
}
