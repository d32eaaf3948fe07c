//! Sessions and the service as a whole: totals by model, response times, reach.

use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgConnection, PgPool};
use tokenmeter_model::totals::{Totals, split};

use super::read::{ALWAYS, LIFETIME, snapshot};
use super::reports::{fetch, lines_by_model};
use super::{retention, sums, unavailable};
use crate::ledger::reports::Part;
use crate::ledger::{Error, Latencies, ModelTotals, Range, ServiceQuery, ServiceUsage, Session};
use crate::rows::{sealed, totals};

/// One session with its totals, from one snapshot.
pub(super) async fn session(
    pool: &PgPool,
    tenant: &str,
    session: &str,
) -> Result<Option<Session>, Error> {
    let mut snapshot = snapshot(pool).await?;
    retention::hold(&mut snapshot).await?;
    let mut facts: Vec<(String, i64, i64, i64, i64)> =
        sqlx::query_as(include_str!("queries/session.sql"))
            .bind(tenant)
            .bind(session)
            .fetch_all(&mut *snapshot)
            .await
            .map_err(unavailable)?;
    let dropped = sqlx::query_as(
        "SELECT user_id, users, turns, first_time, last_time FROM sealed_sessions \
         WHERE tenant_id = $1 AND session_id = $2",
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
    // Its lines and theirs alone are of these times; its sealed sums are of all of it.
    let part = Part {
        session_id: session.to_owned(),
        ..Part::default()
    };
    let kept = Range {
        from_us: first_us,
        to_us: last_us.saturating_add(1),
    };
    let models = fetch(lines_by_model(tenant, &part, kept), &mut snapshot).await?;
    let sql = format!(
        "SELECT {}, updated_at FROM usage_totals \
         WHERE tenant_id = $1 AND scope = 'session' AND subject = $2 AND bucket = 0",
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
        models: totals::models(&models)?,
    }))
}

/// The tenant's usage as a whole, from one snapshot. Users and sessions of the lifetime are those
/// with sealed usage, too; of a range, and response times, those of the events that are kept.
pub(super) async fn usage(
    pool: &PgPool,
    tenant: &str,
    query: &ServiceQuery,
) -> Result<ServiceUsage, Error> {
    let mut snapshot = snapshot(pool).await?;
    retention::hold(&mut snapshot).await?;
    let mut models = model_totals(&mut snapshot, tenant, query.range).await?;
    models.retain(|one| {
        (query.provider.is_empty() || one.provider == query.provider)
            && (query.model.is_empty() || one.model == query.model)
    });
    let range = query.range.unwrap_or(ALWAYS);
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
    let mut latencies = async |metric| latencies(&mut snapshot, tenant, query, range, metric).await;
    Ok(ServiceUsage {
        models,
        response_times: latencies("latency_ms").await?,
        first_tokens: latencies("time_to_first_token_ms").await?,
        users,
        sessions,
    })
}

/// Totals of each of the tenant's models, in one statement.
pub(super) async fn model_totals(
    connection: &mut PgConnection,
    tenant: &str,
    range: Option<Range>,
) -> Result<Vec<ModelTotals>, Error> {
    let split = range.map_or(LIFETIME, |range| split(range.from_us, range.to_us));
    if range.is_some() {
        sealed::check_edges(&split, retention::sealed_before(&mut *connection).await?)?;
    }
    let sql = include_str!("queries/model_totals.sql")
        .replace("{sums}", &sums::of_totals())
        .replace("{line_sums}", &sums::of_lines());
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(tenant)
        .bind(split.buckets.0)
        .bind(split.buckets.1)
        .bind(split.before.0)
        .bind(split.before.1)
        .bind(split.after.0)
        .bind(split.after.1)
        .fetch_all(connection)
        .await
        .map_err(unavailable)?;
    totals::models(&rows)
}

async fn latencies(
    connection: &mut PgConnection,
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
