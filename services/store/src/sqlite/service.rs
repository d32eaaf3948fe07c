//! Sessions and the service as a whole: totals by model, response times, reach.

use sqlx::AssertSqlSafe;
use sqlx::sqlite::{SqliteConnection, SqlitePool};
use tokenmeter_model::totals::{Totals, split};

use super::read::bind_split;
use super::reports::{fetch, lines_by_model};
use super::totals::of_line;
use super::{retention, unavailable};
use crate::ledger::reports::Part;
use crate::ledger::{Error, Latencies, ModelTotals, Range, ServiceQuery, ServiceUsage, Session};
use crate::rows::{sealed, totals};

/// One session with its totals, from one snapshot.
pub(super) async fn session(
    pool: &SqlitePool,
    tenant: &str,
    session: &str,
) -> Result<Option<Session>, Error> {
    let mut snapshot = pool.begin().await.map_err(unavailable)?;
    let mut facts: Vec<(String, i64, i64, i64, i64)> =
        sqlx::query_as(include_str!("queries/session.sql"))
            .bind(tenant)
            .bind(session)
            .fetch_all(&mut *snapshot)
            .await
            .map_err(unavailable)?;
    let dropped = sqlx::query_as(
        "SELECT user_id, users, turns, first_time, last_time FROM sealed_sessions \
         WHERE tenant_id = ?1 AND session_id = ?2",
    )
    .bind(tenant)
    .bind(session)
    .fetch_optional(&mut *snapshot)
    .await
    .map_err(unavailable)?;
    facts.extend(dropped);
    let Some((user_id, users, turns, first_us, last_us)) = facts.into_iter().reduce(sealed::joined)
    else {
        return Ok(None);
    };
    let part = Part {
        session_id: session.to_owned(),
        ..Part::default()
    };
    let query = lines_by_model(tenant, &part);
    let models = totals::models(&fetch(query, &mut snapshot).await?)?;
    let sql = format!(
        "SELECT {}, updated_at FROM usage_totals \
         WHERE tenant_id = ?1 AND scope = 'session' AND subject = ?2 AND bucket = 0",
        totals::sum_columns(str::to_owned)
    );
    let row = sqlx::query(AssertSqlSafe(sql))
        .bind(tenant)
        .bind(session)
        .fetch_optional(&mut *snapshot)
        .await
        .map_err(unavailable)?;
    let totals = row.map_or_else(|| Ok(Totals::default()), |row| totals::read(&row, 0))?;
    Ok(Some(Session {
        user_id,
        users,
        turns,
        first_us,
        last_us,
        totals,
        models,
    }))
}

/// The tenant's usage as a whole, from one snapshot. Users and sessions of the lifetime are those
/// with sealed usage, too; of a range, and response times, those of the events that are kept.
pub(super) async fn usage(
    pool: &SqlitePool,
    tenant: &str,
    query: &ServiceQuery,
) -> Result<ServiceUsage, Error> {
    let mut snapshot = pool.begin().await.map_err(unavailable)?;
    let mut models = model_totals(&mut snapshot, tenant, query.range).await?;
    models.retain(|one| {
        (query.provider.is_empty() || one.provider == query.provider)
            && (query.model.is_empty() || one.model == query.model)
    });
    let range = query.range.unwrap_or(Range {
        from_us: i64::MIN,
        to_us: i64::MAX,
    });
    let (users, sessions) = sqlx::query_as(include_str!("queries/reach.sql"))
        .bind(tenant)
        .bind(range.from_us)
        .bind(range.to_us)
        .bind(&query.provider)
        .bind(&query.model)
        .bind(query.range.is_none())
        .fetch_one(&mut *snapshot)
        .await
        .map_err(unavailable)?;
    Ok(ServiceUsage {
        models,
        response_times: latencies(&mut snapshot, tenant, query, range, "latency_ms").await?,
        first_tokens: latencies(
            &mut snapshot,
            tenant,
            query,
            range,
            "time_to_first_token_ms",
        )
        .await?,
        users,
        sessions,
    })
}

pub(super) async fn model_totals(
    connection: &mut SqliteConnection,
    tenant: &str,
    range: Option<Range>,
) -> Result<Vec<ModelTotals>, Error> {
    let named = totals::sum_columns(str::to_owned);
    let sums = totals::sum_columns(|name| format!("sum({name})"));
    let of_line = totals::sum_columns(of_line);
    let split = range.map(|range| split(range.from_us, range.to_us));
    if let Some(split) = &split {
        sealed::check_edges(split, retention::sealed_before(&mut *connection).await?)?;
    }
    let sql = if split.is_none() {
        format!(
            "SELECT subject, {named}, updated_at FROM usage_totals \
             WHERE tenant_id = ?1 AND scope = 'model' AND bucket = 0"
        )
    } else {
        let edge = format!(
            "SELECT provider || '/' || model, {of_line}, recorded_at FROM usage_lines \
             WHERE tenant_id = ?1 AND charge_time"
        );
        format!(
            "WITH parts (subject, {named}, updated_at) AS (\
             SELECT subject, {named}, updated_at FROM usage_totals \
             WHERE tenant_id = ?1 AND scope = 'model' AND bucket >= ?2 AND bucket < ?3 \
             UNION ALL {edge} >= ?4 AND charge_time < ?5 \
             UNION ALL {edge} >= ?6 AND charge_time < ?7) \
             SELECT subject, {sums}, max(updated_at) FROM parts GROUP BY subject"
        )
    };
    let query = sqlx::query(AssertSqlSafe(sql)).bind(tenant);
    let query = match &split {
        Some(split) => bind_split(query, split),
        None => query,
    };
    totals::models(&query.fetch_all(connection).await.map_err(unavailable)?)
}

async fn latencies(
    connection: &mut SqliteConnection,
    tenant: &str,
    query: &ServiceQuery,
    range: Range,
    metric: &'static str,
) -> Result<Latencies, Error> {
    let sql = include_str!("queries/latency.sql").replace("{metric}", metric);
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(tenant)
        .bind(range.from_us)
        .bind(range.to_us)
        .bind(&query.provider)
        .bind(&query.model)
        .fetch_all(connection)
        .await
        .map_err(unavailable)?;
    totals::latencies(&rows)
}
