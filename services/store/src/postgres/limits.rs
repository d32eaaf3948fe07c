//! What the ledger keeps for limits.

use async_trait::async_trait;
use tokenmeter_model::id::TenantId;
use tokenmeter_model::limit::{Scope, Zoned};

use super::{Postgres, seeds};
use crate::counters::{CounterKey, Seed, Seen};
use crate::ledger::Error;
use crate::ledger::correction::Request;
use crate::ledger::limits::{
    Assignment, BudgetUse, HitQuery, LimitChange, LimitHit, LimitOutcome, Limits, Overshoot,
    StoredProfile, StoredTenant, SubjectLimits,
};

fn later<T>() -> Result<T, Error> {
    Err(Error::Unavailable("limits are not kept yet".into()))
}

#[async_trait]
impl Limits for Postgres {
    async fn limits_version(&self) -> Result<i64, Error> {
        later()
    }
    async fn tenant_settings(&self, _: &TenantId) -> Result<StoredTenant, Error> {
        later()
    }
    async fn profiles(&self, _: &TenantId, _: &str, _: i64) -> Result<Vec<StoredProfile>, Error> {
        later()
    }
    async fn profile(&self, _: &TenantId, _: &str) -> Result<Option<StoredProfile>, Error> {
        later()
    }
    async fn subject_limits(
        &self,
        _: &TenantId,
        _: &[(Scope, &str)],
    ) -> Result<Vec<SubjectLimits>, Error> {
        later()
    }
    async fn assignments(
        &self,
        _: &TenantId,
        _: Option<Scope>,
        _: &str,
        _: Option<(Scope, &str)>,
        _: i64,
    ) -> Result<Vec<Assignment>, Error> {
        later()
    }
    async fn change_limits(&self, _: Request, _: LimitChange) -> Result<LimitOutcome, Error> {
        later()
    }
    async fn budget(&self, _: &TenantId, _: &str) -> Result<BudgetUse, Error> {
        later()
    }
    async fn add_hits(&self, _: &TenantId, _: &[LimitHit]) -> Result<(), Error> {
        later()
    }
    async fn hits(&self, _: &TenantId, _: &HitQuery) -> Result<Vec<(i64, LimitHit)>, Error> {
        later()
    }
    async fn add_overshoots(&self, _: &TenantId, _: &[Overshoot]) -> Result<(), Error> {
        later()
    }
    async fn overshoots(&self, _: &TenantId, _: &[&str]) -> Result<Vec<Overshoot>, Error> {
        later()
    }
    async fn seeds(
        &self,
        tenant: &TenantId,
        zoned: &Zoned,
        keys: &[CounterKey],
        now_us: i64,
    ) -> Result<(Vec<Seed>, Seen), Error> {
        seeds::seeds(&self.primary, tenant.as_str(), zoned, keys, now_us).await
    }
}
