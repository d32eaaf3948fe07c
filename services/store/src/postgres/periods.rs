//! `periods`: closed months of users.

use async_trait::async_trait;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Connection as _, Row as _};
use tokenmeter_model::id::TenantId;
use tokenmeter_model::totals::{Totals, bucket};

use super::horizon::ROW_BITS;
use super::{Postgres, unavailable};
use crate::fault::{Planted, is_planted};
use crate::ledger::periods::{
    Adjustment, AdjustmentKind, CloseStep, Closing, Consumption, Facts, MAX_ADJUSTMENTS, Month,
    Period, Periods,
};
use crate::ledger::{Error, ModelTotals, Range};

/// Periods that are settled in one transaction.
const SETTLE_STEP: i64 = 200;

/// Whose figures, and of which times.
#[derive(Debug, Clone)]
struct Scope {
    tenant: String,
    user_id: String,
    range: Range,
}

/// A row of `periods`.
struct Row {
    scope: Scope,
    period_id: String,
    closed_at_us: i64,
    as_closed: Consumption,
    /// The figures and adjustments of all rows up to `position`.
    known: Consumption,
    adjustments: Vec<Adjustment>,
    position: i64,
    settled: bool,
}

/// A period that is closed now.
struct Closed {
    user_id: String,
    as_closed: String,
}

/// A period with what came later, to be kept.
struct Settled {
    scope: Scope,
    period_id: String,
    adjusted: String,
    adjustments: String,
}

#[async_trait]
impl Periods for Postgres {
    async fn close_periods(
        &self,
        tenant: &TenantId,
        step: CloseStep<'_>,
    ) -> Result<Closing, Error> {
        let position = self.horizon.last_position().await?;
        let mut snapshot = self.primary.acquire().await.map_err(unavailable)?;
        let mut closing = Closing::default();
        let mut new = Vec::new();
        for (user_id, used, closed) in users(&mut snapshot, tenant.as_str(), &step).await? {
            closing.through = Some(user_id.clone());
            closing.already += i64::from(closed);
            if closed || !used {
                continue;
            }
            let scope = Scope {
                tenant: tenant.to_string(),
                user_id: user_id.clone(),
                range: step.month.range,
            };
            let mut figures = changes(&mut snapshot, &scope, 0, position).await?;
            add_items(&mut snapshot, &scope, &mut figures.facts).await?;
            new.push(Closed {
                user_id,
                as_closed: figures.to_json()?,
            });
        }
        closing.closed = i64::try_from(new.len()).unwrap_or(i64::MAX);
        if !step.dry_run && !new.is_empty() {
            closing.closed = insert(
                &mut snapshot,
                tenant.as_str(),
                step.month,
                &new,
                position,
                step.now_us,
            )
            .await?;
        }
        Ok(closing)
    }

    async fn periods(
        &self,
        tenant: &TenantId,
        user_id: &str,
        before: &str,
        limit: i64,
    ) -> Result<Vec<Period>, Error> {
        let position = self.horizon.last_position().await?;
        let mut snapshot = self.primary.acquire().await.map_err(unavailable)?;
        let rows = sqlx::query(
            "SELECT * FROM periods \
             WHERE tenant_id = $1 AND user_id = $2 AND ($3 = '' OR period_id < $3) \
             ORDER BY period_id DESC LIMIT $4",
        )
        .bind(tenant.as_str())
        .bind(user_id)
        .bind(before)
        .bind(limit)
        .fetch_all(&mut *snapshot)
        .await
        .map_err(unavailable)?;
        let mut periods = Vec::with_capacity(rows.len());
        for row in &rows {
            let row = read(row)?;
            let (adjusted, adjustments) = adjusted(&mut snapshot, &row, position).await?;
            periods.push(Period {
                month: Month {
                    id: row.period_id,
                    range: row.scope.range,
                },
                closed_at_us: row.closed_at_us,
                as_closed: match is_planted(Planted::ReopenPeriods) {
                    true => adjusted.clone(),
                    false => row.as_closed,
                },
                adjusted,
                adjustments,
            });
        }
        Ok(periods)
    }

    async fn closed_period(
        &self,
        tenant: &TenantId,
        user_id: &str,
        at_us: i64,
        closed_by_us: i64,
    ) -> Result<Option<String>, Error> {
        sqlx::query_scalar(
            "SELECT period_id FROM periods WHERE tenant_id = $1 AND user_id = $2 \
             AND start_time <= $3 AND end_time > $3 AND closed_at <= $4",
        )
        .bind(tenant.as_str())
        .bind(user_id)
        .bind(at_us)
        .bind(closed_by_us)
        .fetch_optional(&self.primary)
        .await
        .map_err(unavailable)
    }

    async fn settle_periods(&self, before_us: i64) -> Result<i64, Error> {
        let mut all = 0;
        loop {
            let position = self.fresh_position().await?;
            let mut snapshot = self.primary.acquire().await.map_err(unavailable)?;
            let rows = sqlx::query(
                "SELECT * FROM periods WHERE start_time < $1 \
                 AND (settled_before IS NULL OR settled_before < end_time) \
                 AND (settled_before IS NULL OR settled_before < $1) LIMIT $2",
            )
            .bind(before_us)
            .bind(SETTLE_STEP)
            .fetch_all(&mut *snapshot)
            .await
            .map_err(unavailable)?;
            let mut settled = Vec::with_capacity(rows.len());
            for row in &rows {
                let row = read(row)?;
                let (adjusted, adjustments) = adjusted(&mut snapshot, &row, position).await?;
                settled.push(Settled {
                    adjusted: adjusted.to_json()?,
                    adjustments: serde_json::to_string(&adjustments)
                        .map_err(|error| Error::Corrupt(error.to_string()))?,
                    scope: row.scope,
                    period_id: row.period_id,
                });
            }
            if settled.is_empty() {
                return Ok(all);
            }
            all += i64::try_from(settled.len()).unwrap_or_default();
            keep(&mut snapshot, &settled, before_us, position).await?;
        }
    }

    async fn oldest_event(&self, tenant: &TenantId) -> Result<Option<i64>, Error> {
        sqlx::query_scalar("SELECT min(charge_time) FROM usage_lines WHERE tenant_id = $1")
            .bind(tenant.as_str())
            .fetch_one(&self.primary)
            .await
            .map_err(unavailable)
    }
}

/// The next users: whether each has usage in the month, and whether it is closed.
async fn users(
    connection: &mut PgConnection,
    tenant: &str,
    step: &CloseStep<'_>,
) -> Result<Vec<(String, bool, bool)>, Error> {
    let Range { from_us, to_us } = step.month.range;
    sqlx::query_as(include_str!("queries/period_users.sql"))
        .bind(tenant)
        .bind(step.after)
        .bind(bucket(from_us))
        .bind(bucket(to_us))
        .bind(step.users)
        .bind(&step.month.id)
        .fetch_all(connection)
        .await
        .map_err(unavailable)
}

/// Writes periods down, those that are not closed yet; answers how many that were.
async fn insert(
    connection: &mut PgConnection,
    tenant: &str,
    month: &Month,
    new: &[Closed],
    position: i64,
    now_us: i64,
) -> Result<i64, Error> {
    let mut transaction = connection.begin().await.map_err(unavailable)?;
    let sealed_before: i64 =
        sqlx::query_scalar("SELECT sealed_before FROM ledger_state WHERE id = 1 FOR SHARE")
            .fetch_one(&mut *transaction)
            .await
            .map_err(unavailable)?;
    // Some of what was read may have been dropped on the way.
    if sealed_before > month.range.from_us {
        return Ok(0);
    }
    let mut closed = 0;
    for one in new {
        let done = sqlx::query(
            "INSERT INTO periods (tenant_id, user_id, period_id, start_time, end_time, closed_at, \
             closed_at_position, as_closed) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
             ON CONFLICT (tenant_id, user_id, period_id) DO NOTHING",
        )
        .bind(tenant)
        .bind(&one.user_id)
        .bind(&month.id)
        .bind(month.range.from_us)
        .bind(month.range.to_us)
        .bind(now_us)
        .bind(position)
        .bind(&one.as_closed)
        .execute(&mut *transaction)
        .await
        .map_err(unavailable)?;
        closed += i64::try_from(done.rows_affected()).unwrap_or_default();
    }
    transaction.commit().await.map_err(unavailable)?;
    Ok(closed)
}

/// Keeps what came later with periods.
async fn keep(
    connection: &mut PgConnection,
    settled: &[Settled],
    before_us: i64,
    position: i64,
) -> Result<(), Error> {
    let mut transaction = connection.begin().await.map_err(unavailable)?;
    for one in settled {
        sqlx::query(
            "UPDATE periods SET settled_before = $4, settled_at_position = $5, adjusted = $6, \
             adjustments = $7 WHERE tenant_id = $1 AND user_id = $2 AND period_id = $3 \
             AND coalesce(settled_at_position, 0) <= $5",
        )
        .bind(&one.scope.tenant)
        .bind(&one.scope.user_id)
        .bind(&one.period_id)
        .bind(before_us)
        .bind(position)
        .bind(&one.adjusted)
        .bind(&one.adjustments)
        .execute(&mut *transaction)
        .await
        .map_err(unavailable)?;
    }
    transaction.commit().await.map_err(unavailable)
}

fn read(row: &PgRow) -> Result<Row, Error> {
    let number = |column: &str| row.try_get::<i64, _>(column).map_err(corrupt);
    let text = |column: &str| row.try_get::<String, _>(column).map_err(corrupt);
    let as_closed = Consumption::from_json(&text("as_closed")?)?;
    let settled: Option<i64> = row.try_get("settled_at_position").map_err(corrupt)?;
    let (known, adjustments) = match settled {
        None => (as_closed.clone(), Vec::new()),
        Some(_) => {
            let adjustments = serde_json::from_str(&text("adjustments")?)
                .map_err(|error| Error::Corrupt(format!("adjustments: {error}")))?;
            (Consumption::from_json(&text("adjusted")?)?, adjustments)
        }
    };
    Ok(Row {
        scope: Scope {
            tenant: text("tenant_id")?,
            user_id: text("user_id")?,
            range: Range {
                from_us: number("start_time")?,
                to_us: number("end_time")?,
            },
        },
        period_id: text("period_id")?,
        closed_at_us: number("closed_at")?,
        as_closed,
        known,
        adjustments,
        position: match settled {
            Some(position) => position,
            None => number("closed_at_position")?,
        },
        settled: settled.is_some(),
    })
}

/// A period's figures with all that came later, up to a position, and what that was.
async fn adjusted(
    connection: &mut PgConnection,
    row: &Row,
    position: i64,
) -> Result<(Consumption, Vec<Adjustment>), Error> {
    let mut later = changes(connection, &row.scope, row.position, position).await?;
    // Tools and cases have no place in the log: they are counted anew as long as they are kept.
    if !row.settled {
        let mut now = Facts::default();
        add_items(connection, &row.scope, &mut now).await?;
        later.facts.champion_cases = now.champion_cases - row.known.facts.champion_cases;
        later.facts.tool_invocations = now.tool_invocations - row.known.facts.tool_invocations;
    }
    let mut adjustments = row.adjustments.clone();
    let room = MAX_ADJUSTMENTS.saturating_sub(adjustments.len());
    adjustments.extend(adjustments_of(connection, row, position, room).await?);
    Ok((row.known.plus(&later)?, adjustments))
}

/// What the rows of the positions `(after, through]` add to the figures, items aside.
async fn changes(
    connection: &mut PgConnection,
    scope: &Scope,
    after: i64,
    through: i64,
) -> Result<Consumption, Error> {
    let sums: Vec<_> = Totals::SUMS
        .iter()
        .map(|name| format!("sum({})::bigint", of_line(name)))
        .collect();
    let sums = sums.join(", ");
    let sql = include_str!("queries/period_models.sql").replace("{sums}", &sums);
    let rows = scope.bind(&sql, after, through).fetch_all(&mut *connection);
    let models = rows.await.map_err(unavailable)?;
    let models = models.iter().map(|row| {
        Ok(ModelTotals {
            provider: row.try_get(0).map_err(corrupt)?,
            model: row.try_get(1).map_err(corrupt)?,
            totals: read_totals(row, 2)?,
        })
    });
    let models: Vec<_> = models.collect::<Result<_, Error>>()?;
    if models.is_empty() {
        return Ok(Consumption::default());
    }
    let facts = scope.bind(include_str!("queries/period_facts.sql"), after, through);
    let row = facts.fetch_one(&mut *connection).await;
    let row = row.map_err(unavailable)?;
    let number = |n: usize| row.try_get::<i64, _>(n).map_err(corrupt);
    let sessions = scope.bind(include_str!("queries/period_sessions.sql"), after, through);
    let sessions = sessions.fetch_one(connection).await.map_err(unavailable)?;
    let facts = Facts {
        sessions: sessions.try_get(0).map_err(corrupt)?,
        judged: number(0)?,
        judged_succeeded: number(1)?,
        retrieval_stated: number(2)?,
        retrieval_ran: number(3)?,
        cases_retrieved: number(4)?,
        ..Facts::default()
    };
    Consumption::of(models, facts)
}

/// Counts champion cases and uses of tools.
async fn add_items(
    connection: &mut PgConnection,
    scope: &Scope,
    facts: &mut Facts,
) -> Result<(), Error> {
    let items = scope.bind(include_str!("queries/period_items.sql"), 0, 0);
    let row = items.fetch_one(connection).await.map_err(unavailable)?;
    facts.champion_cases = row.try_get(0).map_err(corrupt)?;
    facts.tool_invocations = row.try_get(1).map_err(corrupt)?;
    Ok(())
}

async fn adjustments_of(
    connection: &mut PgConnection,
    row: &Row,
    through: i64,
    limit: usize,
) -> Result<Vec<Adjustment>, Error> {
    let sql = include_str!("queries/period_adjustments.sql").replace("{tokens}", TOKENS);
    let rows = row
        .scope
        .bind(&sql, row.position, through)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(connection)
        .await
        .map_err(unavailable)?;
    rows.iter()
        .map(|row| {
            let kind: &str = row.try_get(0).map_err(corrupt)?;
            Ok(Adjustment {
                kind: AdjustmentKind::of_row(kind)
                    .ok_or_else(|| Error::Corrupt(format!("kind {kind:.32}")))?,
                event_id: row.try_get(1).map_err(corrupt)?,
                tokens: row.try_get(2).map_err(corrupt)?,
                cost_nano_usd: row.try_get(3).map_err(corrupt)?,
                at_us: row.try_get(4).map_err(corrupt)?,
            })
        })
        .collect()
}

impl Scope {
    /// A statement about these figures and the positions `(after, through]`.
    fn bind<'a>(
        &'a self,
        sql: &str,
        after: i64,
        through: i64,
    ) -> sqlx::query::Query<'a, sqlx::Postgres, sqlx::postgres::PgArguments> {
        sqlx::query(AssertSqlSafe(sql.to_owned()))
            .bind(&self.tenant)
            .bind(&self.user_id)
            .bind(self.range.from_us)
            .bind(self.range.to_us)
            .bind(after)
            .bind(through)
    }
}

/// All tokens of a row of `usage_lines`.
const TOKENS: &str = "input + cache_read + cache_write_5m + cache_write_30m + cache_write_1h \
                      + cache_write_12h + cache_write_unspecified + output";

/// The figures of a row of `usage_lines`, in the order of [`Totals::SUMS`], as SQL.
fn of_line(name: &str) -> String {
    match name {
        "succeeded" | "failed" | "interrupted" => {
            format!("CASE status WHEN '{name}' THEN requests ELSE 0 END")
        }
        "latency_ms" => "requests * coalesce(latency_ms, 0)".to_owned(),
        "latency_events" => "CASE WHEN latency_ms IS NULL THEN 0 ELSE requests END".to_owned(),
        "lines" => "CASE kind WHEN 'usage' THEN 1 WHEN 'void' THEN -1 ELSE 0 END".to_owned(),
        "tool_requests" => "coalesce((SELECT sum(value::bigint) \
                            FROM json_each_text(tool_requests::json)), 0)"
            .to_owned(),
        other => other.to_owned(),
    }
}

/// Reads sums in the order of [`Totals::SUMS`] from column `first` on, then `updated_at`.
fn read_totals(row: &PgRow, first: usize) -> Result<Totals, Error> {
    let mut sums = [0; Totals::SUMS.len()];
    for (n, sum) in sums.iter_mut().enumerate() {
        *sum = row.try_get(first + n).map_err(corrupt)?;
    }
    let updated_at = row.try_get(first + sums.len()).map_err(corrupt)?;
    Ok(Totals::from_sums(sums, updated_at))
}

/// A column that is missing or of another type.
pub(super) fn corrupt(error: sqlx::Error) -> Error {
    Error::Corrupt(error.to_string())
}

impl Postgres {
    /// A position that covers all that any node has committed before the call.
    async fn fresh_position(&self) -> Result<i64, Error> {
        let transaction: i64 = sqlx::query_scalar("SELECT pg_current_xact_id()::text::bigint")
            .fetch_one(&self.primary)
            .await
            .map_err(unavailable)?;
        // As if this node had written in a transaction of that number: the horizon has to pass it.
        let position = self.state.base + (transaction << ROW_BITS);
        self.horizon.nudge().acknowledged(position);
        self.horizon.last_position().await
    }
}
