//! Reading: every answer is of one snapshot, and mostly of one statement.
//!
//! Wherever the charge time of rows is known, it is in the statement, so that only the partitions in
//! question are read: all rows of an event have its charge time, its corrections included.

use std::collections::HashMap;

use sqlx::postgres::{PgArguments, PgConnection, PgPool, PgRow, Postgres};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, QueryBuilder, Transaction};
use tokenmeter_model::totals::{Split, Totals, split};

use super::{retention, sums, unavailable};
use crate::fault::{Planted, is_planted};
use crate::ledger::correction::{RepriceCandidate, RepriceQuery};
use crate::ledger::{Error, EventQuery, Range, Recorded, Subject, UnpricedPage};
use crate::rows::events::{self, Corrections};
use crate::rows::{Row as _, sealed, totals};

/// All times.
pub(super) const ALWAYS: Range = Range {
    from_us: i64::MIN,
    to_us: i64::MAX,
};

/// Several statements of one snapshot.
pub(super) async fn snapshot(pool: &PgPool) -> Result<Transaction<'static, Postgres>, Error> {
    pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        .await
        .map_err(unavailable)
}

/// Totals of one subject over several ranges: for its lifetime one look-up by the primary key, for a
/// range its whole buckets and the lines of the ragged edges.
pub(super) async fn totals_of(
    pool: &PgPool,
    tenant: &str,
    subject: Subject<'_>,
    ranges: &[Option<Range>],
) -> Result<Vec<Totals>, Error> {
    let (buckets, edges) = parts(subject, ranges);
    let mut answers = vec![Totals::default(); ranges.len()];
    if buckets.is_empty() && edges.is_empty() {
        return Ok(answers);
    }
    let query = totals_query("", tenant, subject, (&buckets, &edges));
    let rows = query.fetch_all(pool).await.map_err(unavailable)?;
    for row in &rows {
        let number: i64 = row.value(0)?;
        if number == SEALED {
            let oldest_us = row.value(1)?;
            for (_, (from_us, to_us)) in &edges {
                let (from_us, to_us) = (*from_us, *to_us);
                sealed::check_range(Range { from_us, to_us }, oldest_us)?;
            }
            continue;
        }
        let answer = usize::try_from(number)
            .ok()
            .and_then(|number| answers.get_mut(number))
            .ok_or_else(|| Error::Corrupt("a sum of no range".into()))?;
        *answer = answer
            .checked_add(&totals::read(row, 1)?)
            .ok_or_else(|| Error::OutOfRange("the sum of a range passes 64 bits".into()))?;
    }
    Ok(answers)
}

/// What the server says of how it reads totals: the text of `EXPLAIN (ANALYZE, BUFFERS)`.
pub(super) async fn explain_totals_of(
    pool: &PgPool,
    tenant: &str,
    subject: Subject<'_>,
    ranges: &[Option<Range>],
) -> Result<String, Error> {
    let (buckets, edges) = parts(subject, ranges);
    let verb = "EXPLAIN (ANALYZE, BUFFERS) ";
    let rows = totals_query(verb, tenant, subject, (&buckets, &edges))
        .fetch_all(pool)
        .await
        .map_err(unavailable)?;
    let lines: Result<Vec<String>, Error> = rows.iter().map(|row| row.value(0)).collect();
    Ok(lines?.join("\n"))
}

/// The statement of [`totals_of`], after `verb`: one for the buckets and the edges of all ranges, of
/// which there is one at least.
fn totals_query<'q>(
    verb: &str,
    tenant: &'q str,
    subject: Subject<'q>,
    (buckets, edges): (&[Part], &[Part]),
) -> Query<'q, Postgres, PgArguments> {
    let (scope, column, id) = match subject {
        Subject::User(id) => ("user", "user_id", id),
        Subject::Team(id) => ("team", "team_id", id),
        Subject::Session(id) => ("session", "session_id", id),
    };
    let mut sums = Vec::new();
    if !buckets.is_empty() {
        let parts = values(buckets, FIRST_PART);
        let sql = include_str!("queries/bucket_sums.sql").replace("{parts}", &parts);
        sums.push(sql.replace("{sums}", &sums::of_totals()));
    }
    if !edges.is_empty() {
        let parts = values(edges, FIRST_PART + 2 * buckets.len());
        let sql = include_str!("queries/edge_sums.sql").replace("{parts}", &parts);
        let sql = sql.replace("{line_sums}", &sums::of_lines());
        sums.push(sql.replace("{column}", column));
        sums.push(sealed_row());
    }
    let sql = format!("{verb}{}", sums.join(" UNION ALL "));
    let mut query = sqlx::query(AssertSqlSafe(sql))
        .bind(tenant)
        .bind(scope)
        .bind(id);
    for (_, (from, to)) in buckets.iter().chain(edges) {
        query = query.bind(*from).bind(*to);
    }
    query
}

/// The number of the row that says before when events are sealed.
const SEALED: i64 = -1;

/// A row like those of sums: [`SEALED`], and the time in place of the first sum. In the same statement,
/// so that it is of the same snapshot and costs no round trip.
fn sealed_row() -> String {
    let figures = vec!["0"; Totals::SUMS.len()].join(", ");
    format!("SELECT {SEALED}::BIGINT, sealed_before, {figures} FROM ledger_state WHERE id = 1")
}

/// A stretch of buckets or of times, `[from, to)`, and the number of the range that it is a part of.
type Part = (usize, (i64, i64));

/// The parameter that the first stretch begins with; tenant, scope and subject stand before it.
const FIRST_PART: usize = 4;

/// The whole buckets of ranges, and their ragged edges.
fn parts(subject: Subject<'_>, ranges: &[Option<Range>]) -> (Vec<Part>, Vec<Part>) {
    let (mut buckets, mut edges) = (Vec::new(), Vec::new());
    for (number, range) in ranges.iter().enumerate() {
        let split = match (range, subject) {
            (None, _) => LIFETIME,
            // Sessions keep no buckets: all of the range comes from their lines.
            (Some(range), Subject::Session(_)) => Split {
                buckets: (0, 0),
                before: (range.from_us, range.to_us),
                after: (0, 0),
            },
            (Some(range), _) => split(range.from_us, range.to_us),
        };
        buckets.push((number, split.buckets));
        edges.push((number, split.before));
        edges.push((number, split.after));
    }
    for parts in [&mut buckets, &mut edges] {
        parts.retain(|(_, (from, to))| from < to);
    }
    (buckets, edges)
}

/// Rows of VALUES for stretches that are bound from the parameter `next` on. As rows, not as arrays,
/// because then the planner knows how few they are, and keeps one plan for all callers.
fn values(parts: &[Part], next: usize) -> String {
    let rows: Vec<_> = (next..)
        .step_by(2)
        .zip(parts)
        .map(|(at, (number, _))| format!("({number}::BIGINT, ${at}, ${})", at + 1))
        .collect();
    rows.join(", ")
}

/// All time is the one bucket 0.
pub(super) const LIFETIME: Split = Split {
    buckets: (0, 1),
    before: (0, 0),
    after: (0, 0),
};

/// Events of a tenant, newest first, with the quotes that stand today.
pub(super) async fn events(
    pool: &PgPool,
    tenant: &str,
    wanted: &EventQuery,
) -> Result<Vec<Recorded>, Error> {
    let rows = events_query(tenant, wanted)
        .build()
        .fetch_all(pool)
        .await
        .map_err(unavailable)?;
    let (mut events, corrections) = split_rows(rows)?;
    Corrections::of(&corrections, i64::MAX)?.apply(&mut events);
    Ok(events)
}

fn events_query(tenant: &str, wanted: &EventQuery) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::new(
        "WITH firsts AS (SELECT tenant_id, position, charge_time, line_count \
         FROM usage_lines AS l WHERE line = 0 AND kind = 'usage'",
    );
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
        for column in ["position", "charge_time"] {
            query
                .push(format!(
                    " AND {column} = (SELECT {column} FROM event_keys WHERE tenant_id = "
                ))
                .push_bind(tenant.to_owned())
                .push(" AND event_id = ")
                .push_bind(wanted.event_id.clone())
                .push(")");
        }
    }
    if !wanted.model.is_empty() {
        query
            .push(format!(
                " AND EXISTS (SELECT 1 FROM usage_lines AS m WHERE {} AND m.model = ",
                of_event("m")
            ))
            .push_bind(wanted.model.clone())
            .push(" OFFSET 0)");
    }
    push_facts(&mut query, wanted);
    if wanted.unpriced_only {
        query.push(format!(
            " AND EXISTS (SELECT 1 FROM usage_lines AS u WHERE {} AND u.unpriced_lines = 1 \
             AND NOT EXISTS (SELECT 1 FROM usage_lines AS c WHERE c.tenant_id = u.tenant_id \
               AND c.of_position = u.position AND c.charge_time = u.charge_time OFFSET 0) OFFSET 0)",
            of_event("u")
        ));
    }
    if let Some(range) = wanted.range {
        query.push(" AND charge_time >= ").push_bind(range.from_us);
        query.push(" AND charge_time < ").push_bind(range.to_us);
    }
    if let Some((time, position)) = wanted.before {
        // Said twice: partitions are told by the time alone.
        query.push(" AND charge_time <= ").push_bind(time);
        query
            .push(" AND (charge_time, position) < (")
            .push_bind(time);
        query.push(", ").push_bind(position).push(")");
    }
    query
        .push(" ORDER BY charge_time DESC, position DESC LIMIT ")
        .push_bind(wanted.limit)
        .push(") ")
        .push(include_str!("queries/event_rows.sql"));
    query
}

/// Conditions on the facts of an event's first line.
fn push_facts(query: &mut QueryBuilder<Postgres>, wanted: &EventQuery) {
    if !wanted.statuses.is_empty() {
        let statuses: Vec<_> = wanted.statuses.iter().map(|one| one.as_str()).collect();
        query
            .push(" AND status = ANY(")
            .push_bind(statuses)
            .push(")");
    }
    for (key, value) in &wanted.labels {
        query
            .push(" AND EXISTS (SELECT 1 FROM jsonb_array_elements(l.labels::JSONB) AS label WHERE label ->> 0 = ")
            .push_bind(key.clone())
            .push(" AND label ->> 1 = ")
            .push_bind(value.clone())
            .push(")");
    }
    if let Some(turn) = wanted.turn {
        query.push(" AND turn = ").push_bind(turn);
    }
}

/// The condition that a row is a line of the event that begins at the row `l`.
///
/// `OFFSET 0` after it keeps the planner from reading all lines of the tenant to join them: a page
/// looks a few events up.
fn of_event(row: &str) -> String {
    format!(
        "{row}.tenant_id = l.tenant_id AND {row}.charge_time = l.charge_time \
         AND {row}.position >= l.position AND {row}.position < l.position + l.line_count \
         AND {row}.kind = 'usage'"
    )
}

/// Makes events of the rows that event_rows.sql reads, with their own quotes, and gives back the rows
/// of their corrections.
fn split_rows(rows: Vec<PgRow>) -> Result<(Vec<Recorded>, Vec<PgRow>), Error> {
    let (mut lines, mut corrections) = (Vec::with_capacity(rows.len()), Vec::new());
    for row in rows {
        match row.value::<&str>("kind")? {
            "usage" => lines.push(row),
            _ => corrections.push(row),
        }
    }
    Ok((events::events(lines)?, corrections))
}

/// The rows of the events that begin at these places (position and charge time): the events with their
/// own quotes, and the rows of their corrections.
async fn rows_at(
    connection: &mut PgConnection,
    tenant: &str,
    places: &[(i64, i64)],
) -> Result<(Vec<Recorded>, Vec<PgRow>), Error> {
    if places.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let (positions, times): (Vec<i64>, Vec<i64>) = places.iter().copied().unzip();
    let rows = sqlx::query(concat!(
        "WITH firsts AS (",
        include_str!("queries/firsts_at.sql"),
        ") ",
        include_str!("queries/event_rows.sql")
    ))
    .bind(tenant)
    .bind(positions)
    .bind(times)
    .fetch_all(connection)
    .await
    .map_err(unavailable)?;
    split_rows(rows)
}

/// The events that begin at these places (position and charge time), by position, as they stood right
/// after `through`.
pub(super) async fn events_at(
    connection: &mut PgConnection,
    tenant: &str,
    places: &[(i64, i64)],
    through: i64,
) -> Result<HashMap<i64, Recorded>, Error> {
    let (mut events, corrections) = rows_at(connection, tenant, places).await?;
    Corrections::of(&corrections, through)?.apply(&mut events);
    Ok(by_position(events))
}

/// The events that begin at these places, by position, as they were first recorded, each with the void
/// that took it out since.
pub(super) async fn first_records(
    connection: &mut PgConnection,
    tenant: &str,
    places: &[(i64, i64)],
) -> Result<HashMap<i64, Recorded>, Error> {
    let (mut events, corrections) = rows_at(connection, tenant, places).await?;
    Corrections::of(&corrections, i64::MAX)?.apply_voids(&mut events);
    Ok(by_position(events))
}

fn by_position(events: Vec<Recorded>) -> HashMap<i64, Recorded> {
    events.into_iter().map(|one| (one.position, one)).collect()
}

/// Models with lines that wait for a price.
pub(super) async fn unpriced(
    pool: &PgPool,
    tenant: &str,
    after: Option<(&str, &str)>,
    limit: i64,
) -> Result<UnpricedPage, Error> {
    let mut snapshot = snapshot(pool).await?;
    let models = super::service::model_totals(&mut snapshot, tenant, None).await?;
    let sealed: i64 = sqlx::query_scalar(
        "SELECT coalesce(sum(unpriced_lines), 0)::BIGINT FROM sealed_totals \
         WHERE tenant_id = $1 AND scope = 'user'",
    )
    .bind(tenant)
    .fetch_one(&mut *snapshot)
    .await
    .map_err(unavailable)?;
    let waiting = models.iter().map(|model| model.totals.unpriced_lines);
    let total_lines = waiting.sum::<i64>() - sealed;
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

/// The position of the last of so many lines of a tenant after a position, or `until` if there are
/// fewer before it.
pub(super) async fn stretch(
    pool: &PgPool,
    tenant: &str,
    after: i64,
    until: i64,
    lines: i64,
) -> Result<i64, Error> {
    let end: Option<i64> = sqlx::query_scalar(
        "SELECT position FROM usage_lines \
         WHERE tenant_id = $1 AND position > $2 AND position <= $3 \
         ORDER BY position OFFSET $4 LIMIT 1",
    )
    .bind(tenant)
    .bind(after)
    .bind(until)
    .bind(lines.max(1) - 1)
    .fetch_optional(pool)
    .await
    .map_err(unavailable)?;
    Ok(end.unwrap_or(until))
}

/// Lines to price anew.
pub(super) async fn reprice_candidates(
    pool: &PgPool,
    tenant: &str,
    query: &RepriceQuery,
    after: i64,
    through: i64,
) -> Result<Vec<RepriceCandidate>, Error> {
    let mut snapshot = snapshot(pool).await?;
    let range = query.range.unwrap_or(ALWAYS);
    // What is sealed keeps its price.
    let oldest_us = retention::sealed_before(&mut *snapshot).await?;
    let rows = sqlx::query(include_str!("queries/reprice_candidates.sql"))
        .bind(tenant)
        .bind(after)
        // The statement adds the lines of an event to it.
        .bind(through.min(i64::MAX - 16))
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
    let (positions, times): (Vec<i64>, Vec<i64>) = candidates
        .iter()
        .map(|one| (one.position, one.charge_time_us))
        .unzip();
    let sums = sqlx::query(include_str!("queries/reprice_sums.sql"))
        .bind(tenant)
        .bind(positions)
        .bind(times)
        .fetch_all(&mut *snapshot)
        .await
        .map_err(unavailable)?;
    events::add_reprice_sums(&mut candidates, &sums)?;
    Ok(candidates)
}
