//! [`Retention`] and [`Reconciling`] on PostgreSQL. What takes long has a connection of its own, and
//! goes on when its caller does not wait for it any more.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use tokenmeter_model::id::TenantId;
use tokenmeter_model::totals::bucket;

use super::connect::{self, State};
use super::reconcile::{self, Findings, Which};
use super::{Config, Postgres, retention};
use crate::ledger::Error;
use crate::ledger::periods::Periods as _;
use crate::ledger::reconcile::{
    Drift, DriftQuery, Reconciled, Reconciling, Resolve, ResolveOutcome, Scope,
};
use crate::ledger::retention::{Purged, Retention, month_of};

/// How often a comparison is made again because others corrected totals meanwhile.
const ATTEMPTS: usize = 5;

impl Postgres {
    /// A connection of its own to the primary.
    async fn apart(&self) -> Result<PgConnection, Error> {
        connect::watcher(&self.config, &self.state).await
    }
}

/// One step, on a connection whose locks end with it.
async fn purge_step(config: Config, state: Arc<State>, before_us: i64) -> Result<Purged, Error> {
    let mut connection = connect::watcher(&config, &state).await?;
    let purged = retention::purge_step(&mut connection, before_us).await;
    if let Err(error) = connection.close().await {
        tracing::debug!(%error, "closing a connection of the ledger");
    }
    purged
}

#[async_trait]
impl Retention for Postgres {
    async fn sealed_before(&self) -> Result<i64, Error> {
        retention::sealed_before(&self.primary).await
    }

    async fn purge(&self, before_us: i64, dry_run: bool) -> Result<Purged, Error> {
        if dry_run {
            return retention::dry_run(&self.primary, before_us).await;
        }
        let sealed_us = month_of(before_us);
        if retention::sealed_before(&self.primary).await? < sealed_us {
            let mut connection = self.apart().await?;
            retention::seal(&mut connection, sealed_us).await?;
        }
        // From now on nothing comes to the months before. What did is kept with them, and only then
        // dropped.
        self.settle_periods(sealed_us).await?;
        // A month may take longer than its caller waits; half of it would be for nothing.
        let step = purge_step(self.config.clone(), Arc::clone(&self.state), before_us);
        let ended = tokio::spawn(step).await;
        ended.map_err(|error| Error::Unavailable(error.to_string()))?
    }

    async fn oldest_kept(&self, tenant: &TenantId) -> Result<Option<i64>, Error> {
        retention::oldest_kept(&self.primary, tenant.as_str()).await
    }

    async fn log_start(&self, tenant: &TenantId) -> Result<i64, Error> {
        retention::log_start(&self.primary, tenant.as_str()).await
    }
}

#[async_trait]
impl Reconciling for Postgres {
    async fn reconcile(
        &self,
        tenant: &TenantId,
        user_id: &str,
        fix: bool,
        reconcile_id: &str,
        now_us: i64,
    ) -> Result<Reconciled, Error> {
        let which = match user_id {
            "" => Which::All,
            user => Which::Subject(Scope::User, user),
        };
        let mut connection = self.apart().await?;
        for _ in 0..ATTEMPTS {
            let findings = Findings {
                tenant: tenant.as_str(),
                reconcile_id,
                fix,
                now_us,
                compared: reconcile::compare(&mut connection, tenant.as_str(), which).await?,
            };
            if let Some(reconciled) = reconcile::record(&mut connection, &findings).await? {
                return Ok(reconciled);
            }
        }
        Err(contended())
    }

    async fn drifts(&self, tenant: &TenantId, query: &DriftQuery) -> Result<Vec<Drift>, Error> {
        reconcile::list(&self.primary, tenant.as_str(), query).await
    }

    async fn resolve_drift(&self, resolve: Resolve) -> Result<ResolveOutcome, Error> {
        let tenant = resolve.request.tenant.as_str();
        let mut connection = self.apart().await?;
        for _ in 0..ATTEMPTS {
            let mut compared = None;
            let drift = reconcile::one(&mut connection, tenant, resolve.number).await?;
            if let (Some(Drift { key, .. }), true) = (drift, resolve.correct) {
                let which = Which::Subject(key.scope, &key.subject);
                let now = reconcile::compare(&mut connection, tenant, which).await?;
                if key.bucket > 0 && key.bucket < bucket(now.sealed_before_us) {
                    let oldest_us = now.sealed_before_us;
                    return Err(Error::NotRetained { oldest_us });
                }
                compared = Some(now);
            }
            let done = reconcile::resolve(&mut connection, &resolve, compared.as_ref()).await?;
            if let Some(outcome) = done {
                return Ok(outcome);
            }
        }
        Err(contended())
    }
}

fn contended() -> Error {
    Error::Unavailable("others correct the same totals again and again".into())
}
