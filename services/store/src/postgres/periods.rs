//! `periods`: closed months of users.

use async_trait::async_trait;
use sqlx::postgres::PgConnection;
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Connection as _};
use tokenmeter_model::id::TenantId;
use tokenmeter_model::totals::bucket;

use super::read::snapshot;
use super::sessions::TOKENS;
use super::{Postgres, retention, sums, unavailable};
use crate::fault::{Planted, is_planted};
use crate::ledger::periods::{CloseStep, Closing, Consumption, Facts, Month, Period, Periods};
use crate::ledger::{Error, Range};
use crate::rows::periods::{self, Closed, Kept, Later, Scope, Settled};

/// Periods that are settled in one transaction.
const SETTLE_STEP: i64 = 200;

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
            let items = items(&mut snapshot, &scope).await?;
            figures.facts.champion_cases = items.champion_cases;
            figures.facts.tool_invocations = items.tool_invocations;
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
        let mut snapshot = snapshot(&self.primary).await?;
        retention::hold(&mut snapshot).await?;
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
        let mut all = Vec::with_capacity(rows.len());
        for row in &rows {
            all.push(adjusted(&mut snapshot, periods::read(row)?, position).await?);
        }
        Ok(all)
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
        if is_planted(Planted::ForgetAdjustments) {
            return Ok(all);
        }
        loop {
            let position = self.position_of_all().await?;
            // Another node may settle and drop the same months: what is read here is from before
            // both, or from after both.
            let mut snapshot = snapshot(&self.primary).await?;
            retention::hold(&mut snapshot).await?;
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
                let kept = periods::read(row)?;
                let scope = kept.scope.clone();
                let period = adjusted(&mut snapshot, kept, position).await?;
                settled.push(Settled::of(scope, &period)?);
            }
            if settled.is_empty() {
                return Ok(all);
            }
            all += i64::try_from(settled.len()).unwrap_or_default();
            snapshot.commit().await.map_err(unavailable)?;
            let mut connection = self.primary.acquire().await.map_err(unavailable)?;
            keep(&mut connection, &settled, before_us, position).await?;
        }
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

/// A period with all that came later, up to a position.
async fn adjusted(
    connection: &mut PgConnection,
    kept: Kept,
    position: i64,
) -> Result<Period, Error> {
    let scope = &kept.scope;
    let sql = include_str!("queries/period_adjustments.sql").replace("{tokens}", TOKENS);
    let changed = bind(scope, &sql, kept.position, position).bind(kept.room());
    let changed = changed.fetch_all(&mut *connection).await;
    let changed = changed.map_err(unavailable)?;
    let later = Later {
        figures: changes(connection, scope, kept.position, position).await?,
        items: items(connection, scope).await?,
        adjustments: changed
            .iter()
            .map(periods::adjustment)
            .collect::<Result<_, _>>()?,
    };
    kept.with(later)
}

/// What the rows of the positions `(after, through]` add to the figures, items aside.
async fn changes(
    connection: &mut PgConnection,
    scope: &Scope,
    after: i64,
    through: i64,
) -> Result<Consumption, Error> {
    let sql = include_str!("queries/period_models.sql").replace("{sums}", &sums::of_lines());
    let rows = bind(scope, &sql, after, through).fetch_all(&mut *connection);
    let models = rows.await.map_err(unavailable)?;
    let models = periods::models(&models)?;
    if models.is_empty() {
        return Ok(Consumption::default());
    }
    let facts = bind(
        scope,
        include_str!("queries/period_facts.sql"),
        after,
        through,
    );
    let row = facts.fetch_one(&mut *connection).await;
    let row = row.map_err(unavailable)?;
    let sessions = bind(
        scope,
        include_str!("queries/period_sessions.sql"),
        after,
        through,
    );
    let sessions = sessions.fetch_one(connection).await.map_err(unavailable)?;
    let facts = periods::facts(&row, &sessions)?;
    Consumption::of(models, facts)
}

/// Champion cases and uses of tools, as they are counted now.
async fn items(connection: &mut PgConnection, scope: &Scope) -> Result<Facts, Error> {
    let Scope {
        tenant,
        user_id,
        range,
    } = scope;
    let row = sqlx::query(include_str!("queries/period_items.sql"))
        .bind(tenant)
        .bind(user_id)
        .bind(range.from_us)
        .bind(range.to_us)
        .fetch_one(connection)
        .await
        .map_err(unavailable)?;
    periods::items(&row)
}

/// A statement about figures and the positions `(after, through]`.
fn bind<'a>(
    scope: &'a Scope,
    sql: &str,
    after: i64,
    through: i64,
) -> Query<'a, sqlx::Postgres, sqlx::postgres::PgArguments> {
    sqlx::query(AssertSqlSafe(sql.to_owned()))
        .bind(&scope.tenant)
        .bind(&scope.user_id)
        .bind(scope.range.from_us)
        .bind(scope.range.to_us)
        .bind(after)
        .bind(through)
}

impl Postgres {
    /// A position that covers all that any node has committed before the call.
    async fn position_of_all(&self) -> Result<i64, Error> {
        let last: i64 = sqlx::query_scalar("SELECT coalesce(max(last_position), 0) FROM commits")
            .fetch_one(&self.primary)
            .await
            .map_err(unavailable)?;
        self.horizon.reach(last).await?.ok_or_else(|| {
            Error::Unavailable("the log is held up by the open transaction of a writer".into())
        })
    }
}
