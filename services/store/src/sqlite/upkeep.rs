//! [`Retention`] and [`Reconciling`] on SQLite: what is read by readers, what is written by the
//! writer.

use async_trait::async_trait;
use tokenmeter_model::id::TenantId;
use tokenmeter_model::totals::bucket;

use super::reconcile::{self, Findings, Which};
use super::writer::Job;
use super::{Sqlite, retention};
use crate::ledger::Error;
use crate::ledger::periods::Periods as _;
use crate::ledger::reconcile::{
    Drift, DriftQuery, Reconciled, Reconciling, Resolve, ResolveOutcome,
};
use crate::ledger::retention::{Purged, Retention, month_of};

/// How often a comparison is made again because others corrected totals meanwhile.
const ATTEMPTS: usize = 5;

#[async_trait]
impl Retention for Sqlite {
    async fn sealed_before(&self) -> Result<i64, Error> {
        retention::sealed_before(&self.readers).await
    }

    async fn purge(&self, before_us: i64, dry_run: bool) -> Result<Purged, Error> {
        if dry_run {
            return retention::dry_run(&self.readers, before_us).await;
        }
        let sealed_us = month_of(before_us);
        if retention::sealed_before(&self.readers).await? < sealed_us {
            self.write(move |connection| {
                Box::pin(async move { retention::seal(connection, sealed_us).await })
            })
            .await?;
        }
        // From now on nothing comes to the months before. What did is kept with them, and only then
        // dropped.
        self.settle_periods(sealed_us).await?;
        let items = retention::old_items(&self.readers, before_us).await?;
        self.ask(|reply| Job::Purge {
            before_us,
            items,
            reply,
        })
        .await
    }

    async fn oldest_kept(&self, tenant: &TenantId) -> Result<Option<i64>, Error> {
        retention::oldest_kept(&self.readers, tenant.as_str()).await
    }

    async fn log_start(&self, tenant: &TenantId) -> Result<i64, Error> {
        retention::log_start(&self.readers, tenant.as_str()).await
    }
}

#[async_trait]
impl Reconciling for Sqlite {
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
            user => Which::Subject(crate::ledger::reconcile::Scope::User, user),
        };
        for _ in 0..ATTEMPTS {
            let findings = Findings {
                tenant: tenant.to_string(),
                reconcile_id: reconcile_id.to_owned(),
                fix,
                now_us,
                compared: reconcile::compare(&self.readers, tenant.as_str(), which).await?,
            };
            let recorded = self.ask(|reply| Job::Drifts { findings, reply }).await?;
            if let Some(reconciled) = recorded {
                return Ok(reconciled);
            }
        }
        Err(contended())
    }

    async fn drifts(&self, tenant: &TenantId, query: &DriftQuery) -> Result<Vec<Drift>, Error> {
        reconcile::list(&self.readers, tenant.as_str(), query).await
    }

    async fn resolve_drift(&self, resolve: Resolve) -> Result<ResolveOutcome, Error> {
        let tenant = resolve.request.tenant.to_string();
        for _ in 0..ATTEMPTS {
            let mut compared = None;
            if resolve.correct {
                let mut reader = self.readers.acquire().await.map_err(super::unavailable)?;
                let drift = reconcile::one(&mut reader, &tenant, resolve.number).await?;
                drop(reader);
                if let Some(Drift { key, .. }) = drift {
                    let which = Which::Subject(key.scope, &key.subject);
                    let now = reconcile::compare(&self.readers, &tenant, which).await?;
                    if key.bucket > 0 && key.bucket < bucket(now.sealed_before_us) {
                        let oldest_us = now.sealed_before_us;
                        return Err(Error::NotRetained { oldest_us });
                    }
                    compared = Some(now);
                }
            }
            let resolve = resolve.clone();
            let done = self.ask(|reply| Job::Resolve {
                resolve,
                compared,
                reply,
            });
            if let Some(outcome) = done.await? {
                return Ok(outcome);
            }
        }
        Err(contended())
    }
}

fn contended() -> Error {
    Error::Unavailable("others correct the same totals again and again".into())
}
