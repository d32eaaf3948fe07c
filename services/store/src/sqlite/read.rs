//! Reading: every answer is one statement, so it is one snapshot.

use std::collections::HashMap;

use sqlx::sqlite::{SqliteConnection, SqlitePool, SqliteRow};
use sqlx::{AssertSqlSafe, QueryBuilder, Row as _, Sqlite};
use tokenmeter_model::price::Quote;
use tokenmeter_model::totals::{Split, Totals, split};

use super::lines::{self, corrupt};
use super::{retention, totals, unavailable};
use crate::fault::{Planted, is_planted};
use crate::ledger::correction::{RepriceCandidate, RepriceQuery};
use crate::ledger::{
    Error, EventQuery, PricedLine, Range, Recorded, Subject, Unpriced, UnpricedPage, Voided,
};

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
    let of_line = totals::sum_columns(totals::of_line);
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
            retention::check_edges(&split, oldest_us)?;
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
        let position: i64 = row.try_get("position").map_err(corrupt)?;
        let lines: i64 = row.try_get("line_count").map_err(corrupt)?;
        positions.extend(position + 1..position + lines);
    }
    let mut further: HashMap<String, Vec<SqliteRow>> = HashMap::new();
    for row in by_position(&mut snapshot, "position", &positions).await? {
        further
            .entry(row.try_get("event_id").map_err(corrupt)?)
            .or_default()
            .push(row);
    }
    let mut events = Vec::with_capacity(firsts.len());
    for first in firsts {
        let mut rows = vec![first];
        let id: String = rows[0].try_get("event_id").map_err(corrupt)?;
        rows.extend(further.remove(&id).unwrap_or_default());
        events.push(lines::read(&rows)?);
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
    let mut first = lines::read(&rows)?;
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
    let (reprices, mut voids) = corrections(connection, &positions, through).await?;
    for event in events {
        event.voided = voids.remove(&event.position);
        for (quote, position) in event.quotes.iter_mut().zip(event.position..) {
            if let Some(reprice) = reprices.get(&position) {
                add_quote(quote.get_or_insert_default(), reprice);
            }
        }
    }
    Ok(())
}

/// The sums of the reprices of lines, and their voids, by the positions of the lines.
async fn corrections(
    connection: &mut SqliteConnection,
    positions: &[i64],
    through: i64,
) -> Result<(HashMap<i64, Quote>, HashMap<i64, Voided>), Error> {
    let mut reprices: HashMap<i64, Quote> = HashMap::new();
    let mut voids = HashMap::new();
    for row in by_position(connection, "of_position", positions).await? {
        if row.try_get::<i64, _>("position").map_err(corrupt)? > through {
            continue;
        }
        let of: i64 = row.try_get("of_position").map_err(corrupt)?;
        if row.try_get::<&str, _>("kind").map_err(corrupt)? == "void" {
            let voided = Voided {
                at_us: row.try_get("recorded_at").map_err(corrupt)?,
                reason: row
                    .try_get::<Option<_>, _>("correction")
                    .map_err(corrupt)?
                    .unwrap_or_default(),
            };
            voids.insert(of, voided);
        } else if let Some(quote) = lines::read_quote(&row)? {
            add_quote(reprices.entry(of).or_default(), &quote);
        }
    }
    Ok((reprices, voids))
}

/// The sums of the reprices of lines alone, by the positions of the lines.
async fn reprice_sums(
    connection: &mut SqliteConnection,
    positions: &[i64],
) -> Result<HashMap<i64, Quote>, Error> {
    let list = serde_json::to_string(positions).map_err(|e| Error::Corrupt(e.to_string()))?;
    let rows = sqlx::query(include_str!("queries/reprice_sums.sql"))
        .bind(list)
        .fetch_all(connection)
        .await
        .map_err(unavailable)?;
    let mut sums = HashMap::with_capacity(rows.len());
    for row in rows {
        if let Some(sum) = lines::read_quote(&row)? {
            sums.insert(row.try_get("of_position").map_err(corrupt)?, sum);
        }
    }
    Ok(sums)
}

pub(super) fn add_quote(quote: &mut Quote, correction: &Quote) {
    quote.cost_nano_usd += correction.cost_nano_usd;
    quote.cache_saving_nano_usd += correction.cache_saving_nano_usd;
    quote.cache_write_extra_nano_usd += correction.cache_write_extra_nano_usd;
    quote.price_version = correction.price_version;
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
        .map(|row| {
            Ok(Unpriced {
                provider: row.try_get("provider").map_err(corrupt)?,
                model: row.try_get("model").map_err(corrupt)?,
                lines: row.try_get("lines").map_err(corrupt)?,
                tokens: row.try_get("tokens").map_err(corrupt)?,
                first_us: row.try_get("first_us").map_err(corrupt)?,
                last_us: row.try_get("last_us").map_err(corrupt)?,
            })
        })
        .collect::<Result<_, Error>>()?;
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
    let mut candidates = Vec::with_capacity(rows.len());
    for row in rows {
        let position: i64 = row.try_get("position").map_err(corrupt)?;
        let line: i64 = row.try_get("line").map_err(corrupt)?;
        candidates.push(RepriceCandidate {
            position,
            event_position: position - line,
            provider: row.try_get("provider").map_err(corrupt)?,
            service_tier: row.try_get("service_tier").map_err(corrupt)?,
            charge_time_us: row.try_get("charge_time").map_err(corrupt)?,
            priced: PricedLine {
                line: lines::read_line(&row)?,
                quote: lines::read_quote(&row)?,
            },
        });
    }
    let positions: Vec<i64> = candidates.iter().map(|one| one.position).collect();
    let reprices = reprice_sums(&mut snapshot, &positions).await?;
    for candidate in &mut candidates {
        if let Some(reprice) = reprices.get(&candidate.position) {
            add_quote(candidate.priced.quote.get_or_insert_default(), reprice);
        }
    }
    Ok(candidates)
}
