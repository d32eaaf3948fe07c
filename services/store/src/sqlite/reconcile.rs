//! Reconciliation: totals compared with what they are the sums of, in one snapshot; differences are
//! recorded, and added, in one transaction of the writer.
//!
//! Between the two others may have corrected the same totals. Corrections are counted in the
//! snapshot and again in the transaction: when there are more, the comparison is made again.

use futures_util::TryStreamExt as _;
use sqlx::sqlite::{SqliteConnection, SqlitePool};
use sqlx::{AssertSqlSafe, Connection as _, QueryBuilder, Sqlite};
use tokenmeter_model::totals::bucket;

use super::totals::of_line;
use super::{requests, retention, unavailable};
use crate::ledger::Error;
use crate::ledger::reconcile::{
    Drift, DriftQuery, DriftState, Reconciled, Resolve, ResolveOutcome, Scope, TotalKey,
};
use crate::rows::drifts::{self, Compared, Difference, comparison};
use crate::rows::totals;

/// What to compare: everything, one subject, or one total.
#[derive(Debug, Clone, Copy)]
pub(super) enum Which<'a> {
    All,
    Subject(Scope, &'a str),
}

/// Compares a tenant's totals with what they are the sums of, in one snapshot.
pub(super) async fn compare(
    pool: &SqlitePool,
    tenant: &str,
    which: Which<'_>,
) -> Result<Compared, Error> {
    let mut snapshot = pool.begin().await.map_err(unavailable)?;
    let sealed_before_us = retention::sealed_before(&mut *snapshot).await?;
    let first_bucket = bucket(sealed_before_us);
    let mut compared = Compared {
        sealed_before_us,
        corrections: corrections(&mut snapshot, tenant).await?,
        ..Compared::default()
    };
    let (scopes, subject) = match which {
        Which::All => (&Scope::ALL[..], ""),
        Which::Subject(scope, subject) => (&[scope][..], subject),
    };
    for scope in scopes {
        let checked: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM usage_totals WHERE tenant_id = ?1 AND scope = ?2 \
             AND (bucket = 0 OR bucket >= ?3) AND (?4 = '' OR subject = ?4)",
        )
        .bind(tenant)
        .bind(scope.as_str())
        .bind(first_bucket)
        .bind(subject)
        .fetch_one(&mut *snapshot)
        .await
        .map_err(unavailable)?;
        compared.checked += checked;
        let sql = comparison(include_str!("queries/compare_totals.sql"), *scope, of_line);
        let mut rows = sqlx::query(AssertSqlSafe(sql))
            .bind(tenant)
            .bind(first_bucket)
            .bind(subject)
            .fetch(&mut *snapshot);
        while let Some(row) = rows.try_next().await.map_err(unavailable)? {
            compared.add(*scope, &row)?;
        }
    }
    Ok(compared)
}

/// How many drifts of a tenant were ever corrected.
async fn corrections(connection: &mut SqliteConnection, tenant: &str) -> Result<i64, Error> {
    sqlx::query_scalar("SELECT count(*) FROM drifts WHERE tenant_id = ?1 AND state = 'corrected'")
        .bind(tenant)
        .fetch_one(connection)
        .await
        .map_err(unavailable)
}

/// A run's findings, to be recorded.
#[derive(Debug)]
pub(super) struct Findings {
    pub(super) tenant: String,
    pub(super) reconcile_id: String,
    pub(super) fix: bool,
    pub(super) now_us: i64,
    pub(super) compared: Compared,
}

/// Records what a run found, and corrects what is small if asked to, in one transaction. None when
/// others corrected totals since the comparison: compare again.
pub(super) async fn record(
    connection: &mut SqliteConnection,
    findings: &Findings,
) -> Result<Option<Reconciled>, Error> {
    let Findings {
        tenant, compared, ..
    } = findings;
    let mut transaction = connection
        .begin_with("BEGIN IMMEDIATE")
        .await
        .map_err(unavailable)?;
    if corrections(&mut transaction, tenant).await? != compared.corrections {
        return Ok(None);
    }
    for difference in &compared.found {
        let state = difference.state(findings.fix);
        let new = insert_drift(&mut transaction, findings, difference, state).await?;
        if new && state == DriftState::Corrected {
            correct(&mut transaction, tenant, difference, findings.now_us).await?;
        }
    }
    let counts: Vec<(String, i64)> = sqlx::query_as(
        "SELECT state, count(*) FROM drifts WHERE tenant_id = ?1 AND reconcile_id = ?2 \
         GROUP BY state",
    )
    .bind(tenant)
    .bind(&findings.reconcile_id)
    .fetch_all(&mut *transaction)
    .await
    .map_err(unavailable)?;
    transaction.commit().await.map_err(unavailable)?;
    Ok(Some(compared.reconciled(&counts)))
}

/// Records a drift; answers whether the run had not recorded it before.
async fn insert_drift(
    connection: &mut SqliteConnection,
    findings: &Findings,
    difference: &Difference,
    state: DriftState,
) -> Result<bool, Error> {
    let drift = difference.drift(&findings.reconcile_id, state, findings.now_us);
    let inserted = sqlx::query(include_str!("queries/insert_drift.sql"))
        .bind(&findings.tenant)
        .bind(&drift.reconcile_id)
        .bind(drift.key.scope.as_str())
        .bind(&drift.key.subject)
        .bind(drift.key.bucket)
        .bind(&drift.field)
        .bind(drift.recorded)
        .bind(drift.computed)
        .bind(drift.ppm())
        .bind(state.as_str())
        .bind(drift.found_us)
        .bind(drift.resolved_us)
        .execute(connection)
        .await
        .map_err(unavailable)?;
    Ok(inserted.rows_affected() == 1)
}

/// Adds a difference to a total, which is made if it is missing.
async fn correct(
    connection: &mut SqliteConnection,
    tenant: &str,
    difference: &Difference,
    now_us: i64,
) -> Result<(), Error> {
    let field = difference.field;
    let columns = totals::sum_columns(str::to_owned);
    let values = totals::sum_columns(|name| if name == field { "?5" } else { "0" }.to_owned());
    let sql = format!(
        "INSERT INTO usage_totals (tenant_id, scope, subject, bucket, {columns}, updated_at) \
         VALUES (?1, ?2, ?3, ?4, {values}, ?6) \
         ON CONFLICT (tenant_id, scope, subject, bucket) DO UPDATE \
         SET {field} = {field} + excluded.{field}"
    );
    let TotalKey {
        scope,
        subject,
        bucket,
    } = &difference.key;
    sqlx::query(AssertSqlSafe(sql))
        .bind(tenant)
        .bind(scope.as_str())
        .bind(subject)
        .bind(bucket)
        .bind(difference.missing())
        .bind(now_us)
        .execute(connection)
        .await
        .map_err(unavailable)?;
    Ok(())
}

/// Corrects or accepts a flagged drift, with all others that are flagged for the same field. None
/// when others corrected totals since the comparison: compare again.
pub(super) async fn resolve(
    connection: &mut SqliteConnection,
    resolve: &Resolve,
    compared: Option<&Compared>,
) -> Result<Option<ResolveOutcome>, Error> {
    let request = &resolve.request;
    let tenant = request.tenant.as_str();
    let mut transaction = connection
        .begin_with("BEGIN IMMEDIATE")
        .await
        .map_err(unavailable)?;
    let before = requests::find(&mut *transaction, tenant, &request.request_id).await?;
    if before.as_ref().is_some_and(|before| !before.is(request)) {
        return Ok(Some(ResolveOutcome::RequestConflict));
    }
    let Some(mut drift) = one(&mut transaction, tenant, resolve.number).await? else {
        return Ok(Some(ResolveOutcome::NotFound));
    };
    if before.is_some() {
        return Ok(Some(ResolveOutcome::Resolved(drift)));
    }
    if drift.state != DriftState::Flagged {
        return Ok(Some(ResolveOutcome::NotFlagged(drift.state)));
    }
    drift.state = DriftState::Accepted;
    drift.resolved_us = Some(request.at_us);
    if let Some(compared) = compared {
        if corrections(&mut transaction, tenant).await? != compared.corrections {
            return Ok(None);
        }
        drift.state = DriftState::Corrected;
        let same = |one: &&Difference| one.key == drift.key && one.field == drift.field;
        if let Some(difference) = compared.found.iter().find(same) {
            correct(&mut transaction, tenant, difference, request.at_us).await?;
        }
    }
    sqlx::query(
        "UPDATE drifts SET state = ?6, resolved_at = ?7 WHERE tenant_id = ?1 AND scope = ?2 \
         AND subject = ?3 AND bucket = ?4 AND field = ?5 AND state = 'flagged'",
    )
    .bind(tenant)
    .bind(drift.key.scope.as_str())
    .bind(&drift.key.subject)
    .bind(drift.key.bucket)
    .bind(&drift.field)
    .bind(drift.state.as_str())
    .bind(request.at_us)
    .execute(&mut *transaction)
    .await
    .map_err(unavailable)?;
    requests::put(&mut transaction, request, &resolve.reason).await?;
    transaction.commit().await.map_err(unavailable)?;
    Ok(Some(ResolveOutcome::Resolved(drift)))
}

/// One drift by its number.
pub(super) async fn one(
    connection: &mut SqliteConnection,
    tenant: &str,
    number: i64,
) -> Result<Option<Drift>, Error> {
    let row = sqlx::query("SELECT * FROM drifts WHERE number = ?1 AND tenant_id = ?2")
        .bind(number)
        .bind(tenant)
        .fetch_optional(connection)
        .await
        .map_err(unavailable)?;
    row.as_ref().map(drifts::drift).transpose()
}

/// Drifts that were found.
pub(super) async fn list(
    pool: &SqlitePool,
    tenant: &str,
    wanted: &DriftQuery,
) -> Result<Vec<Drift>, Error> {
    let mut query: QueryBuilder<Sqlite> =
        QueryBuilder::new("SELECT * FROM drifts WHERE tenant_id = ");
    query.push_bind(tenant.to_owned());
    if let Some(state) = wanted.state {
        query.push(" AND state = ").push_bind(state.as_str());
    }
    if !wanted.reconcile_id.is_empty() {
        query
            .push(" AND reconcile_id = ")
            .push_bind(wanted.reconcile_id.clone());
    }
    if wanted.largest_first {
        // One without a rate is of a total that should be nothing: no rate is larger.
        query.push(" ORDER BY drift_ppm IS NULL DESC, drift_ppm DESC, number");
    } else {
        if let Some(before) = wanted.before {
            query.push(" AND number < ").push_bind(before);
        }
        query.push(" ORDER BY number DESC");
    }
    query.push(" LIMIT ").push_bind(wanted.limit);
    let rows = query.build().fetch_all(pool).await.map_err(unavailable)?;
    rows.iter().map(drifts::drift).collect()
}
