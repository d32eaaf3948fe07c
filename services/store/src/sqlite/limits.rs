//! What the ledger keeps for limits: the transactions around `crate::limits`.

use async_trait::async_trait;
use sqlx::Connection as _;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::SqliteConnection;
use tokenmeter_model::id::TenantId;
use tokenmeter_model::limit::{Scope, Zoned};

use super::{Sqlite, requests, seeds, unavailable};
use crate::counters::{CounterKey, Seed, Seen};
use crate::ledger::Error;
use crate::ledger::correction::Request;
use crate::ledger::limits::{
    Assignment, BudgetUse, HitQuery, LimitChange, LimitHit, LimitOutcome, Limits, Overshoot,
    StoredProfile, StoredTenant, SubjectLimits,
};
use crate::limits::{self, MAX_ROWS};
use crate::rows;

impl Sqlite {
    /// A connection that reads.
    async fn reading(&self) -> Result<PoolConnection<sqlx::Sqlite>, Error> {
        self.readers.acquire().await.map_err(unavailable)
    }

    /// Runs a statement for each batch of rows, all in one transaction.
    async fn add(
        &self,
        sql: &'static str,
        tenant: &TenantId,
        batches: Vec<String>,
    ) -> Result<(), Error> {
        if batches.is_empty() {
            return Ok(());
        }
        let tenant = tenant.clone();
        self.write(move |connection| {
            Box::pin(async move {
                let mut transaction = connection
                    .begin_with("BEGIN IMMEDIATE")
                    .await
                    .map_err(unavailable)?;
                for batch in batches {
                    let adding = sqlx::query(sql).bind(tenant.as_str()).bind(batch);
                    adding
                        .execute(&mut *transaction)
                        .await
                        .map_err(unavailable)?;
                }
                transaction.commit().await.map_err(unavailable)
            })
        })
        .await
    }
}

/// Makes a change once for each request: it is remembered in its transaction.
async fn make(
    connection: &mut SqliteConnection,
    request: &Request,
    change: &LimitChange,
) -> Result<LimitOutcome, Error> {
    let mut transaction = connection
        .begin_with("BEGIN IMMEDIATE")
        .await
        .map_err(unavailable)?;
    let tenant = request.tenant.as_str();
    if let Some(before) = requests::find(&mut *transaction, tenant, &request.request_id).await? {
        return limits::replay(&before, request);
    }
    let outcome = limits::change(&mut *transaction, request, change).await?;
    if let Some(answer) = limits::answer(&outcome)? {
        requests::put(&mut transaction, request, &answer).await?;
        transaction.commit().await.map_err(unavailable)?;
    }
    Ok(outcome)
}

#[async_trait]
impl Limits for Sqlite {
    async fn limits_version(&self) -> Result<i64, Error> {
        limits::version(&mut *self.reading().await?).await
    }

    async fn tenant_settings(&self, tenant: &TenantId) -> Result<StoredTenant, Error> {
        limits::tenant(&mut *self.reading().await?, tenant.as_str()).await
    }

    async fn profiles(
        &self,
        tenant: &TenantId,
        after: &str,
        limit: i64,
    ) -> Result<Vec<StoredProfile>, Error> {
        limits::profiles(&mut *self.reading().await?, tenant.as_str(), after, limit).await
    }

    async fn profile(
        &self,
        tenant: &TenantId,
        profile_id: &str,
    ) -> Result<Option<StoredProfile>, Error> {
        limits::profile(&mut *self.reading().await?, tenant.as_str(), profile_id).await
    }

    async fn subject_limits(
        &self,
        tenant: &TenantId,
        subjects: &[(Scope, &str)],
    ) -> Result<Vec<SubjectLimits>, Error> {
        limits::subject_limits(&mut *self.reading().await?, tenant.as_str(), subjects).await
    }

    async fn assignments(
        &self,
        tenant: &TenantId,
        scope: Option<Scope>,
        profile_id: &str,
        after: Option<(Scope, &str)>,
        limit: i64,
    ) -> Result<Vec<Assignment>, Error> {
        let on = &mut *self.reading().await?;
        limits::assignments(on, tenant.as_str(), scope, profile_id, after, limit).await
    }

    async fn change_limits(
        &self,
        request: Request,
        change: LimitChange,
    ) -> Result<LimitOutcome, Error> {
        self.write(move |connection| {
            Box::pin(async move { make(connection, &request, &change).await })
        })
        .await
    }

    async fn budget(&self, tenant: &TenantId, session_id: &str) -> Result<BudgetUse, Error> {
        limits::budget(&mut *self.reading().await?, tenant.as_str(), session_id).await
    }

    async fn add_hits(&self, tenant: &TenantId, hits: &[LimitHit]) -> Result<(), Error> {
        let hits = limits::coalesced(hits);
        let batches = hits
            .chunks(MAX_ROWS)
            .map(limits::json)
            .collect::<Result<_, _>>()?;
        self.add(include_str!("queries/add_hits.sql"), tenant, batches)
            .await
    }

    async fn hits(
        &self,
        tenant: &TenantId,
        query: &HitQuery,
    ) -> Result<Vec<(i64, LimitHit)>, Error> {
        limits::hits(&mut *self.reading().await?, tenant.as_str(), query).await
    }

    async fn add_overshoots(
        &self,
        tenant: &TenantId,
        overshoots: &[Overshoot],
    ) -> Result<(), Error> {
        let overshoots = limits::in_order(overshoots);
        let batches = overshoots
            .chunks(MAX_ROWS)
            .map(limits::json)
            .collect::<Result<_, _>>()?;
        self.add(include_str!("queries/add_overshoots.sql"), tenant, batches)
            .await
    }

    async fn overshoots(
        &self,
        tenant: &TenantId,
        event_ids: &[&str],
    ) -> Result<Vec<Overshoot>, Error> {
        let rows = sqlx::query(include_str!("queries/overshoots.sql"))
            .bind(tenant.as_str())
            .bind(limits::json(event_ids)?)
            .fetch_all(&self.readers)
            .await
            .map_err(unavailable)?;
        rows.iter().map(rows::limits::overshoot).collect()
    }

    async fn seeds(
        &self,
        tenant: &TenantId,
        zoned: &Zoned,
        keys: &[CounterKey],
        now_us: i64,
    ) -> Result<(Vec<Seed>, Seen), Error> {
        seeds::seeds(&self.readers, tenant.as_str(), zoned, keys, now_us).await
    }
}
