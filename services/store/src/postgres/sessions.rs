//! Lists of sessions: which ones, in one statement; then what they are, by the index of sessions.

use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgConnection, PgPool, PgRow};

use super::read::{ALWAYS, snapshot};
use super::{retention, sums, unavailable};
use crate::ledger::reports::{Listed, Moment, Page, SessionOrder, SessionQuery, SessionSummary};
use crate::ledger::{Error, Range};
use crate::rows::reports::Sessions;
use crate::rows::totals;

/// All tokens of a row of `usage_lines` or `usage_totals`.
pub(super) const TOKENS: &str = "input + cache_read + cache_write_5m + cache_write_30m + cache_write_1h \
                      + cache_write_12h + cache_write_unspecified + output";

const DAY_US: i64 = 86_400_000_000;
/// How far back the latest sessions are looked for before all of them are, in days.
const RECENT_DAYS: [i64; 2] = [1, 31];

/// A page of sessions, from one snapshot.
pub(super) async fn list(
    pool: &PgPool,
    tenant: &str,
    query: &SessionQuery,
    page: Page,
    as_of: Moment,
) -> Result<Listed<SessionSummary>, Error> {
    let mut snapshot = snapshot(pool).await?;
    retention::hold(&mut snapshot).await?;
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
    let rank = Rank {
        tenant,
        query,
        page,
        as_of,
    };
    let range = query.range.unwrap_or(ALWAYS);
    match query.order {
        SessionOrder::LastEvent => rank.by_last_event(connection).await,
        _ if query.user_id.is_empty() && query.range.is_none() => {
            let totals = include_str!("queries/session_rank_totals.sql");
            rank.fetch(connection, totals, range).await
        }
        _ => {
            let lines = include_str!("queries/session_rank_lines.sql");
            rank.fetch(connection, lines, range).await
        }
    }
}

/// Which sessions a page has.
struct Rank<'a> {
    tenant: &'a str,
    query: &'a SessionQuery,
    page: Page,
    as_of: Moment,
}

impl Rank<'_> {
    /// Runs a statement that ranks sessions.
    async fn fetch(
        &self,
        connection: &mut PgConnection,
        sql: &str,
        range: Range,
    ) -> Result<Vec<String>, Error> {
        let figure = match self.query.order {
            SessionOrder::Tokens | SessionOrder::LastEvent => TOKENS,
            SessionOrder::Cost => "cost_nano_usd",
        };
        let sql = sql
            .replace("{figure}", figure)
            .replace("{user}", &of_user(self.query, "$7"));
        sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(self.tenant)
            .bind(self.as_of.position)
            .bind(self.page.limit)
            .bind(self.page.skip)
            .bind(range.from_us)
            .bind(range.to_us)
            .bind(&self.query.user_id)
            .fetch_all(connection)
            .await
            .map_err(unavailable)
    }

    /// Latest first: those of the last days are read first, and are all if they fill the page.
    async fn by_last_event(&self, connection: &mut PgConnection) -> Result<Vec<String>, Error> {
        let sql = include_str!("queries/session_rank_last.sql");
        let range = self.query.last_event.unwrap_or(ALWAYS);
        let newest = self.newest(connection, range).await?.unwrap_or(i64::MIN);
        for days in RECENT_DAYS {
            let from_us = newest.saturating_sub(days * DAY_US);
            if from_us <= range.from_us {
                break;
            }
            let recent = Range { from_us, ..range };
            let ids = self.fetch(connection, sql, recent).await?;
            if i64::try_from(ids.len()) == Ok(self.page.limit) {
                return Ok(ids);
            }
        }
        self.fetch(connection, sql, range).await
    }

    /// The last charge time in a range, of whatever event.
    async fn newest(
        &self,
        connection: &mut PgConnection,
        range: Range,
    ) -> Result<Option<i64>, Error> {
        let sql = format!(
            "SELECT charge_time FROM usage_lines \
             WHERE tenant_id = $1 AND charge_time >= $2 AND charge_time < $3 AND {} \
             ORDER BY charge_time DESC LIMIT 1",
            of_user(self.query, "$4")
        );
        sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(self.tenant)
            .bind(range.from_us)
            .bind(range.to_us)
            .bind(&self.query.user_id)
            .fetch_optional(connection)
            .await
            .map_err(unavailable)
    }
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
    // Of a user or a range, nothing is known of what was dropped.
    let whole = match wanted.query.user_id.is_empty() && wanted.query.range.is_none() {
        true => "true",
        false => "false",
    };
    let facts = include_str!("queries/session_facts.sql").replace("{whole}", whole);
    let mut found = Sessions::of_facts(&wanted.fetch(connection, &facts).await?)?;
    let models = include_str!("queries/session_models.sql")
        .replace("{whole}", whole)
        .replace("{columns}", &totals::sum_columns(str::to_owned))
        .replace("{line_sums}", &sums::of_lines())
        .replace("{sums}", &sums::of_totals());
    found.add_models(&wanted.fetch(connection, &models).await?)?;
    let tools = include_str!("queries/session_tools.sql");
    found.add_tools(&wanted.fetch(connection, tools).await?)?;
    let messages = include_str!("queries/session_messages.sql");
    found.add_messages(&wanted.fetch(connection, messages).await?)?;
    Ok(found)
}
