//! Reconciliation: totals compared with what they are the sums of, in one snapshot; differences are
//! recorded, and added, in one transaction.
//!
//! Between the two others may have corrected the same totals. Corrections are counted in the
//! snapshot and again in the transaction: when there are more, the comparison is made again.

use std::collections::{BTreeMap, HashSet};

use futures_util::TryStreamExt as _;
use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{AssertSqlSafe, Connection as _, Postgres, QueryBuilder};
use tokenmeter_model::totals::bucket;

use super::sums::of_line;
use super::{requests, retention, unavailable};
use crate::ledger::Error;
use crate::ledger::reconcile::{
    Drift, DriftQuery, DriftState, Reconciled, Resolve, ResolveOutcome, Scope, TotalKey,
};
use crate::rows::drifts::{self, Compared, Difference, comparison};
use crate::rows::totals;

/// What to compare: everything, or one subject.
#[derive(Debug, Clone, Copy)]
pub(super) enum Which<'a> {
    All,
    Subject(Scope, &'a str),
}

/// Compares a tenant's totals with what they are the sums of, in one snapshot.
pub(super) async fn compare(
    connection: &mut PgConnection,
    tenant: &str,
    which: Which<'_>,
) -> Result<Compared, Error> {
    let mut snapshot = connection
        .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        .await
        .map_err(unavailable)?;
    retention::hold(&mut snapshot).await?;
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
            "SELECT count(*) FROM usage_totals WHERE tenant_id = $1 AND scope = $2 \
             AND (bucket = 0 OR bucket >= $3) AND ($4 = '' OR subject = $4)",
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
            .persistent(false)
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
async fn corrections(connection: &mut PgConnection, tenant: &str) -> Result<i64, Error> {
    sqlx::query_scalar("SELECT count(*) FROM drifts WHERE tenant_id = $1 AND state = 'corrected'")
        .bind(tenant)
        .fetch_one(connection)
        .await
        .map_err(unavailable)
}

/// A run's findings, to be recorded.
#[derive(Debug)]
pub(super) struct Findings<'a> {
    pub(super) tenant: &'a str,
    pub(super) reconcile_id: &'a str,
    pub(super) fix: bool,
    pub(super) now_us: i64,
    pub(super) compared: Compared,
}

/// Records what a run found, and corrects what is small if asked to, in one transaction. None when
/// others corrected totals since the comparison: compare again.
pub(super) async fn record(
    connection: &mut PgConnection,
    findings: &Findings<'_>,
) -> Result<Option<Reconciled>, Error> {
    let Findings {
        tenant,
        reconcile_id,
        now_us,
        compared,
        ..
    } = findings;
    let mut transaction = connection.begin().await.map_err(unavailable)?;
    requests::lock(&mut transaction, tenant).await?;
    if corrections(&mut transaction, tenant).await? != compared.corrections {
        return Ok(None);
    }
    let new = insert_drifts(&mut transaction, findings).await?;
    let small = compared
        .found
        .iter()
        .zip(1..)
        .filter(|(one, n)| new.contains(n) && one.state(findings.fix) == DriftState::Corrected);
    correct(&mut transaction, tenant, small.map(|(one, _)| one), *now_us).await?;
    let counts: Vec<(String, i64)> = sqlx::query_as(
        "SELECT state, count(*) FROM drifts WHERE tenant_id = $1 AND reconcile_id = $2 \
         GROUP BY state",
    )
    .bind(tenant)
    .bind(reconcile_id)
    .fetch_all(&mut *transaction)
    .await
    .map_err(unavailable)?;
    transaction.commit().await.map_err(unavailable)?;
    Ok(Some(compared.reconciled(&counts)))
}

/// Records drifts; answers which, counted from 1, the run had not recorded before.
async fn insert_drifts(
    connection: &mut PgConnection,
    findings: &Findings<'_>,
) -> Result<HashSet<i64>, Error> {
    let Findings {
        tenant,
        reconcile_id,
        fix,
        now_us,
        compared,
    } = findings;
    let drifts = compared.found.iter();
    let drifts: Vec<Drift> = drifts
        .map(|one| one.drift(reconcile_id, one.state(*fix), *now_us))
        .collect();
    let texts = |of: fn(&Drift) -> &str| drifts.iter().map(of).collect::<Vec<_>>();
    let numbers = |of: fn(&Drift) -> i64| drifts.iter().map(of).collect::<Vec<_>>();
    let rates: Vec<Option<i64>> = drifts.iter().map(Drift::ppm).collect();
    let new: Vec<i64> = sqlx::query_scalar(include_str!("queries/insert_drifts.sql"))
        .bind(tenant)
        .bind(reconcile_id)
        .bind(texts(|one| one.key.scope.as_str()))
        .bind(texts(|one| &one.key.subject))
        .bind(numbers(|one| one.key.bucket))
        .bind(texts(|one| &one.field))
        .bind(numbers(|one| one.recorded))
        .bind(numbers(|one| one.computed))
        .bind(rates)
        .bind(texts(|one| one.state.as_str()))
        .bind(now_us)
        .fetch_all(connection)
        .await
        .map_err(unavailable)?;
    Ok(new.into_iter().collect())
}

/// The order in which totals are locked, as groups lock them.
fn lock_order(key: &TotalKey) -> (u8, &str, i64) {
    let rank = match key.scope {
        Scope::Session => 0,
        Scope::User => 1,
        Scope::Team => 2,
        Scope::Model => 3,
    };
    (rank, &key.subject, key.bucket)
}

/// Adds differences to totals, which are made if they are missing.
async fn correct(
    connection: &mut PgConnection,
    tenant: &str,
    differences: impl Iterator<Item = &Difference>,
    now_us: i64,
) -> Result<(), Error> {
    let mut by_key: BTreeMap<_, Vec<&Difference>> = BTreeMap::new();
    for one in differences {
        by_key.entry(lock_order(&one.key)).or_default().push(one);
    }
    for fields in by_key.into_values() {
        let Some(TotalKey {
            scope,
            subject,
            bucket,
        }) = fields.first().map(|one| &one.key)
        else {
            continue;
        };
        // The figures are numbers; nothing in the statement is from outside.
        let missing = |name: &str| fields.iter().find(|one| one.field == name);
        let values =
            totals::sum_columns(|name| missing(name).map_or(0, |one| one.missing()).to_string());
        let adds: Vec<String> = fields
            .iter()
            .map(|one| format!("{0} = t.{0} + excluded.{0}", one.field))
            .collect();
        let sql = format!(
            "INSERT INTO usage_totals AS t (tenant_id, scope, subject, bucket, {}, updated_at) \
             VALUES ($1, $2, $3, $4, {values}, $5) \
             ON CONFLICT (tenant_id, scope, subject, bucket) DO UPDATE SET {}",
            totals::sum_columns(str::to_owned),
            adds.join(", ")
        );
        sqlx::query(AssertSqlSafe(sql))
            .persistent(false)
            .bind(tenant)
            .bind(scope.as_str())
            .bind(subject)
            .bind(bucket)
            .bind(now_us)
            .execute(&mut *connection)
            .await
            .map_err(unavailable)?;
    }
    Ok(())
}

/// Corrects or accepts a flagged drift, with all others that are flagged for the same field. None
/// when others corrected totals since the comparison: compare again.
pub(super) async fn resolve(
    connection: &mut PgConnection,
    resolve: &Resolve,
    compared: Option<&Compared>,
) -> Result<Option<ResolveOutcome>, Error> {
    let request = &resolve.request;
    let tenant = request.tenant.as_str();
    let mut transaction = connection.begin().await.map_err(unavailable)?;
    requests::lock(&mut transaction, tenant).await?;
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
        let found = compared.found.iter().find(same);
        correct(&mut transaction, tenant, found.into_iter(), request.at_us).await?;
    }
    sqlx::query(
        "UPDATE drifts SET state = $6, resolved_at = $7 WHERE tenant_id = $1 AND scope = $2 \
         AND subject = $3 AND bucket = $4 AND field = $5 AND state = 'flagged'",
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
    connection: &mut PgConnection,
    tenant: &str,
    number: i64,
) -> Result<Option<Drift>, Error> {
    let row = sqlx::query("SELECT * FROM drifts WHERE tenant_id = $1 AND number = $2")
        .bind(tenant)
        .bind(number)
        .fetch_optional(connection)
        .await
        .map_err(unavailable)?;
    row.as_ref().map(drifts::drift).transpose()
}

/// Drifts that were found.
pub(super) async fn list(
    pool: &PgPool,
    tenant: &str,
    wanted: &DriftQuery,
) -> Result<Vec<Drift>, Error> {
    let mut query: QueryBuilder<Postgres> =
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
        query.push(" ORDER BY drift_ppm DESC NULLS FIRST, number");
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
