//! [`Retention`] and [`Reconciling`] on PostgreSQL.

use async_trait::async_trait;
use tokenmeter_model::id::TenantId;

use super::Postgres;
use crate::ledger::Error;
use crate::ledger::reconcile::{
    Drift, DriftQuery, Reconciled, Reconciling, Resolve, ResolveOutcome,
};
use crate::ledger::retention::{Purged, Retention};

fn later<T>() -> Result<T, Error> {
    Err(Error::Unavailable("not built".into()))
}

#[async_trait]
impl Retention for Postgres {
    async fn sealed_before(&self) -> Result<i64, Error> {
        later()
    }

    async fn purge(&self, _before_us: i64, _dry_run: bool) -> Result<Purged, Error> {
        later()
    }

    async fn oldest_kept(&self, _tenant: &TenantId) -> Result<Option<i64>, Error> {
        later()
    }

    async fn log_start(&self, _tenant: &TenantId) -> Result<i64, Error> {
        later()
    }
}

#[async_trait]
impl Reconciling for Postgres {
    async fn reconcile(
        &self,
        _tenant: &TenantId,
        _user_id: &str,
        _fix: bool,
        _reconcile_id: &str,
        _now_us: i64,
    ) -> Result<Reconciled, Error> {
        later()
    }

    async fn drifts(&self, _tenant: &TenantId, _query: &DriftQuery) -> Result<Vec<Drift>, Error> {
        later()
    }

    async fn resolve_drift(&self, _resolve: Resolve) -> Result<ResolveOutcome, Error> {
        later()
    }
}
