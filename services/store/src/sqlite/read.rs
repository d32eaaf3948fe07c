//! Reading: every answer is one statement, so it is one snapshot.

use std::collections::HashMap;

use sqlx::sqlite::{SqliteConnection, SqlitePool, SqliteRow};
use sqlx::{AssertSqlSafe, QueryBuilder, Sqlite};
use tokenmeter_model::totals::{Split, Totals, split};

use super::totals::of_line;
use super::{retention, unavailable};
use crate::fault::{Planted, is_planted};
use crate::ledger::correction::{RepriceCandidate, RepriceQuery};
use crate::ledger::{Error, EventQuery, Range, Recorded, Subject, UnpricedPage, Voided};
use crate::rows::events::{self, Corrections};
use crate::rows::{Row as _, sealed, totals};

fn subject_parts<'a>(subject: &Subject<'a>) -> (&'static str, &'static str, &'a str) {
    match subject {
        Subject::User(id) => ("user", "user_id", id),
        Subject::Team(id) => ("team", "team_id", id),
        Subject::Session(id) => ("session", "session_id", id),
    }
}

/// Totals of one subject over several ranges, from one snapshot.
pub(super) async fn totals_of(
    pool: &SqlitePool,
    tenant: &str,
    subject: Subject<'_>,
    ranges: &[Option<Range>],
) -> Result<Vec<Totals>, Error> {
    let mut snapshot = pool.begin().await.map_err(unavailable)?;
    let oldest_us = retention::sealed_before(&mut *snapshot).await?;
    let mut answers = Vec::with_capacity(ranges.len());
    for range in ranges {
        answers.push(totals(&mut snapshot, tenant, subject, *range, oldest_us).await?);
    }
    Ok(answers)
}

/// Totals of one subject: a primary-key look-up for its lifetime; for a range its whole buckets
/// and the lines of the ragged edges.
async fn totals(
    connection: &mut SqliteConnection,
    tenant: &str,
    subject: Subject<'_>,
    range: Option<Range>,
    oldest_us: i64,
) -> Result<Totals, Error> {
    let (scope, column, id) = subject_parts(&subject);
    let lifetime = totals::sum_columns(str::to_owned);
    let sums = totals::sum_columns(|name| format!("sum({name})"));
    let of_line = totals::sum_columns(of_line);
    let row = match range {
        None => {
            let sql = format!(
                "SELECT {lifetime}, updated_at FROM usage_totals \
                 WHERE tenant_id = ?1 AND scope = ?2 AND subject = ?3 AND bucket = 0"
            );
            let query = sqlx::query(AssertSqlSafe(sql))
                .bind(tenant)
                .bind(scope)
                .bind(id);
            query
                .fetch_optional(connection)
                .await
                .map_err(unavailable)?
        }
        Some(range) => {
            // Sessions keep no buckets: all of the range comes from their lines.
            let split = match subject {
                Subject::Session(_) => Split {
                    buckets: (0, 0),
                    before: (range.from_us, range.to_us),
                    after: (0, 0),
                },
                _ => split(range.from_us, range.to_us),
            };
            sealed::check_edges(&split, oldest_us)?;
            let edge = format!(
                "SELECT {of_line}, recorded_at FROM usage_lines \
                 WHERE tenant_id = ?1 AND {column} = ?3 AND {column} <> '' AND charge_time"
            );
            let named = totals::sum_columns(str::to_owned);
            let sql = format!(
                "WITH parts ({named}, updated_at) AS (\
                 SELECT {lifetime}, updated_at FROM usage_totals \
                 WHERE tenant_id = ?1 AND scope = ?2 AND subject = ?3 \
                   AND bucket >= ?4 AND bucket < ?5 \
                 UNION ALL {edge} >= ?6 AND charge_time < ?7 \
                 UNION ALL {edge} >= ?8 AND charge_time < ?9) \
                 SELECT {sums}, max(updated_at) FROM parts"
            );
            bind_split(
                sqlx::query(AssertSqlSafe(sql))
                    .bind(tenant)
                    .bind(scope)
                    .bind(id),
                &split,
            )
            .fetch_optional(connection)
            .await
            .map_err(unavailable)?
        }
    };
    row.map_or_else(|| Ok(Totals::default()), |row| totals::read(&row, 0))
}

pub(super) type Query<'q> = sqlx::query::Query<'q, Sqlite, sqlx::sqlite::SqliteArguments>;

pub(super) fn bind_split<'q>(query: Query<'q>, split: &Split) -> Query<'q> {
    query
        .bind(split.buckets.0)
        .bind(split.buckets.1)
        .bind(split.before.0)
        .bind(split.before.1)
        .bind(split.after.0)
        .bind(split.after.1)
}

/// Events of a tenant, newest first, with the quotes that stand today.
pub(super) async fn events(
    pool: &SqlitePool,
    tenant: &str,
    wanted: &EventQuery,
) -> Result<Vec<Recorded>, Error> {
    // One read transaction, so that lines and corrections are of one snapshot.
    let mut snapshot = pool.begin().await.map_err(unavailable)?;
    let firsts = events_query(tenant, wanted)
        .build()
        .fetch_all(&mut *snapshot)
        .await
        .map_err(unavailable)?;
    let mut positions = Vec::with_capacity(firsts.len());
    for row in &firsts {
        let position: i64 = row.value("position")?;
        let lines: i64 = row.value("line_count")?;
        positions.extend(position + 1..position + lines);
    }
    let mut further: HashMap<String, Vec<SqliteRow>> = HashMap::new();
    for row in by_position(&mut snapshot, "position", &positions).await? {
        further.entry(row.value("event_id")?).or_default().push(row);
    }
    let mut events = Vec::with_capacity(firsts.len());
    for first in firsts {
        let mut rows = vec![first];
        let id: String = rows[0].value("event_id")?;
        rows.extend(further.remove(&id).unwrap_or_default());
        events.push(events::event(&rows)?);
    }
    apply_corrections(&mut snapshot, &mut events, i64::MAX).await?;
    Ok(events)
}

fn events_query(tenant: &str, wanted: &EventQuery) -> QueryBuilder<Sqlite> {
    let mut query =
        QueryBuilder::new("SELECT * FROM usage_lines AS l WHERE line = 0 AND kind = 'usage'");
    if !is_planted(Planted::ForgetTenant) {
        query.push(" AND tenant_id = ").push_bind(tenant.to_owned());
    }
    for (column, value) in [
        (" AND user_id = ", &wanted.user_id),
        (" AND team_id = ", &wanted.team_id),
        (
            " AND session_id <> '' AND session_id = ",
            &wanted.session_id,
        ),
        (" AND provider = ", &wanted.provider),
    ] {
        if !value.is_empty() {
            query.push(column).push_bind(value.clone());
        }
    }
    if !wanted.event_id.is_empty() {
        query
            .push(" AND position = (SELECT position FROM event_keys WHERE tenant_id = ")
            .push_bind(tenant.to_owned())
            .push(" AND event_id = ")
            .push_bind(wanted.event_id.clone())
            .push(")");
    }
    if !wanted.model.is_empty() {
        query
            .push(
                " AND EXISTS (SELECT 1 FROM usage_lines AS m WHERE m.kind = 'usage' AND m.model = ",
            )
            .push_bind(wanted.model.clone())
            .push(" AND m.position BETWEEN l.position AND l.position + l.line_count - 1)");
    }
    if !wanted.statuses.is_empty() {
        let mut statuses = query.push(" AND status IN (").separated(", ");
        for status in &wanted.statuses {
            statuses.push_bind(status.as_str());
        }
        query.push(")");
    }
    for (key, value) in &wanted.labels {
        query
            .push(" AND EXISTS (SELECT 1 FROM json_each(l.labels) AS label WHERE label.value ->> 0 = ")
            .push_bind(key.clone())
            .push(" AND label.value ->> 1 = ")
            .push_bind(value.clone())
            .push(")");
    }
    if let Some(turn) = wanted.turn {
        query.push(" AND turn = ").push_bind(turn);
    }
    if wanted.unpriced_only {
        query.push(UNPRICED_EVENT);
    }
    if let Some(range) = wanted.range {
        query.push(" AND charge_time >= ").push_bind(range.from_us);
        query.push(" AND charge_time < ").push_bind(range.to_us);
    }
    if let Some((time, position)) = wanted.before {
        query
            .push(" AND (charge_time, position) < (")
            .push_bind(time);
        query.push(", ").push_bind(position).push(")");
    }
    query
        .push(" ORDER BY charge_time DESC, position DESC LIMIT ")
        .push_bind(wanted.limit);
    query
}

/// An event with a line that still waits for a price: one that was neither repriced nor voided.
const UNPRICED_EVENT: &str = " AND EXISTS (SELECT 1 FROM usage_lines AS u \
    WHERE u.position BETWEEN l.position AND l.position + l.line_count - 1 \
      AND u.kind = 'usage' AND u.unpriced_lines = 1 AND NOT EXISTS (\
        SELECT 1 FROM usage_lines AS c WHERE c.of_position = u.position))";

pub(super) async fn by_position(
    connection: &mut SqliteConnection,
    column: &'static str,
    positions: &[i64],
) -> Result<Vec<SqliteRow>, Error> {
    if positions.is_empty() {
        return Ok(Vec::new());
    }
    let list = serde_json::to_string(positions).map_err(|e| Error::Corrupt(e.to_string()))?;
    let sql = format!(
        "SELECT * FROM usage_lines WHERE {column} IN (SELECT value FROM json_each(?1)) \
         ORDER BY position"
    );
    sqlx::query(AssertSqlSafe(sql))
        .bind(list)
        .fetch_all(connection)
        .await
        .map_err(unavailable)
}

/// An event as it was first recorded, with whether it was voided since; none if it was dropped.
pub(super) async fn first_record(
    connection: &mut SqliteConnection,
    tenant: &str,
    event_id: &str,
    position: i64,
) -> Result<Option<Recorded>, Error> {
    let rows = sqlx::query(include_str!("queries/event_rows.sql"))
        .bind(tenant)
        .bind(event_id)
        .bind(position)
        .fetch_all(&mut *connection)
        .await
        .map_err(unavailable)?;
    if rows.is_empty() {
        return Ok(None);
    }
    let mut first = events::event(&rows)?;
    let void: Option<(i64, String)> = sqlx::query_as(
        "SELECT recorded_at, coalesce(correction, '') FROM usage_lines \
         WHERE of_position = ?1 AND kind = 'void'",
    )
    .bind(position)
    .fetch_optional(connection)
    .await
    .map_err(unavailable)?;
    first.voided = void.map(|(at_us, reason)| Voided { at_us, reason });
    Ok(Some(first))
}

/// The rows of an event are gone, and nothing was ever dropped.
pub(super) fn lost() -> Error {
    Error::Corrupt("an event has no first line".into())
}

/// Adds every line's reprices to its quote, and the void of an event to it; those after the position
/// `through` are left out.
pub(super) async fn apply_corrections(
    connection: &mut SqliteConnection,
    events: &mut [Recorded],
    through: i64,
) -> Result<(), Error> {
    let positions: Vec<i64> = events
        .iter()
        .flat_map(|event| event.quotes.iter().zip(event.position..).map(|(_, at)| at))
        .collect();
    let rows = by_position(connection, "of_position", &positions).await?;
    Corrections::of(&rows, through)?.apply(events);
    Ok(())
}

/// Models with lines that wait for a price.
pub(super) async fn unpriced(
    pool: &SqlitePool,
    tenant: &str,
    after: Option<(&str, &str)>,
    limit: i64,
) -> Result<UnpricedPage, Error> {
    let mut snapshot = pool.begin().await.map_err(unavailable)?;
    let total_lines = sqlx::query_scalar(
        "SELECT coalesce(sum(unpriced_lines), 0) \
             - (SELECT coalesce(sum(unpriced_lines), 0) FROM sealed_totals \
                WHERE tenant_id = ?1 AND scope = 'user') \
         FROM usage_totals WHERE tenant_id = ?1 AND scope = 'model' AND bucket = 0",
    )
    .bind(tenant)
    .fetch_one(&mut *snapshot)
    .await
    .map_err(unavailable)?;
    let (provider, model) = after.unwrap_or_default();
    let rows = sqlx::query(include_str!("queries/unpriced.sql"))
        .bind(tenant)
        .bind(provider)
        .bind(model)
        .bind(limit)
        .fetch_all(&mut *snapshot)
        .await
        .map_err(unavailable)?;
    let models = rows
        .iter()
        .map(events::unpriced)
        .collect::<Result<_, _>>()?;
    Ok(UnpricedPage {
        models,
        total_lines,
    })
}

/// Lines to price anew.
pub(super) async fn reprice_candidates(
    pool: &SqlitePool,
    tenant: &str,
    query: &RepriceQuery,
    after: i64,
    through: i64,
) -> Result<Vec<RepriceCandidate>, Error> {
    let mut snapshot = pool.begin().await.map_err(unavailable)?;
    let range = query.range.unwrap_or(Range {
        from_us: i64::MIN,
        to_us: i64::MAX,
    });
    // What is sealed keeps its price.
    let oldest_us = retention::sealed_before(&mut *snapshot).await?;
    let rows = sqlx::query(include_str!("queries/reprice_candidates.sql"))
        .bind(tenant)
        .bind(after)
        .bind(through)
        .bind(&query.provider)
        .bind(&query.model)
        .bind(range.from_us.max(oldest_us))
        .bind(range.to_us)
        .bind(query.include_priced)
        .fetch_all(&mut *snapshot)
        .await
        .map_err(unavailable)?;
    let mut candidates = rows
        .iter()
        .map(events::candidate)
        .collect::<Result<Vec<_>, _>>()?;
    let positions: Vec<i64> = candidates.iter().map(|one| one.position).collect();
    let list = serde_json::to_string(&positions).map_err(|e| Error::Corrupt(e.to_string()))?;
    let sums = sqlx::query(include_str!("queries/reprice_sums.sql"))
        .bind(list)
        .fetch_all(&mut *snapshot)
        .await
        .map_err(unavailable)?;
    events::add_reprice_sums(&mut candidates, &sums)?;
    Ok(candidates)
}
