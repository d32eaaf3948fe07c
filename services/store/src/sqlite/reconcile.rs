//! Reconciliation: totals compared with what they are the sums of, in one snapshot; differences are
//! recorded, and added, in one transaction of the writer.
//!
//! Between the two others may have corrected the same totals. Corrections are counted in the
//! snapshot and again in the transaction: when there are more, the comparison is made again.

use futures_util::TryStreamExt as _;
use sqlx::sqlite::{SqliteConnection, SqlitePool, SqliteRow};
use sqlx::{AssertSqlSafe, Connection as _, QueryBuilder, Row as _, Sqlite};
use tokenmeter_model::totals::{Totals, bucket};

use super::lines::corrupt;
use super::{requests, retention, totals, unavailable};
use crate::ledger::Error;
use crate::ledger::reconcile::{
    Drift, DriftQuery, DriftState, MAX_DRIFTS, Reconciled, Resolve, ResolveOutcome, Scope,
    TotalKey, is_large,
};

/// What a comparison found.
#[derive(Debug, Default)]
pub(super) struct Compared {
    /// Fields that differ, the first [`MAX_DRIFTS`].
    pub(super) found: Vec<Difference>,
    /// How many differ.
    pub(super) count: i64,
    /// How many totals were compared.
    checked: i64,
    /// Corrections of the tenant's totals that the snapshot has seen.
    corrections: i64,
    /// Before when events are sealed, in microseconds since the Unix epoch: quarter-hours before it
    /// were not compared.
    pub(super) sealed_before_us: i64,
}

/// A field of a total that differs.
#[derive(Debug, Clone)]
pub(super) struct Difference {
    key: TotalKey,
    field: &'static str,
    recorded: i64,
    computed: i64,
}

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
        let sql = sql_of(*scope);
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

impl Compared {
    /// Adds the fields of one total that differ.
    fn add(&mut self, scope: Scope, row: &SqliteRow) -> Result<(), Error> {
        let differences = totals::read_sums(row, 2)?;
        let recorded = totals::read_sums(row, 2 + Totals::SUMS.len())?;
        let fields = Totals::SUMS.iter().zip(differences).zip(recorded);
        for ((field, difference), recorded) in fields {
            if difference == 0 {
                continue;
            }
            self.count += 1;
            if self.found.len() < MAX_DRIFTS {
                self.found.push(Difference {
                    key: TotalKey {
                        scope,
                        subject: row.try_get(0).map_err(corrupt)?,
                        bucket: row.try_get(1).map_err(corrupt)?,
                    },
                    field,
                    recorded,
                    computed: recorded.saturating_add(difference),
                });
            }
        }
        Ok(())
    }
}

/// The statement that compares the totals of a scope.
fn sql_of(scope: Scope) -> String {
    let (subject, sealed, sealed_scope) = match scope {
        Scope::User => ("user_id", "subject", "user"),
        Scope::Team => ("team_id", "subject", "team"),
        Scope::Session => ("session_id", "subject", "session"),
        // Every line has one user, so that the users' sums are the models', too.
        Scope::Model => (
            "provider || '/' || model",
            "provider || '/' || model",
            "user",
        ),
    };
    // Lines without a team or session count for none.
    let counted = match scope {
        Scope::User | Scope::Model => "true",
        Scope::Team => "team_id <> ''",
        Scope::Session => "session_id <> ''",
    };
    let differs: Vec<String> = Totals::SUMS
        .iter()
        .map(|name| format!("d.{name} <> 0"))
        .collect();
    include_str!("queries/compare_totals.sql")
        .replace("{scope}", scope.as_str())
        .replace("{sealed_scope}", sealed_scope)
        .replace("{subject}", subject)
        .replace("{sealed}", sealed)
        .replace("{counted}", counted)
        .replace("{columns}", &totals::sum_columns(str::to_owned))
        .replace(
            "{of_lines}",
            &totals::sum_columns(|name| format!("sum({}) AS {name}", totals::of_line(name))),
        )
        .replace(
            "{sums}",
            &totals::sum_columns(|name| format!("sum({name}) AS {name}")),
        )
        .replace(
            "{negative}",
            &totals::sum_columns(|name| format!("-{name} AS {name}")),
        )
        .replace(
            "{differences}",
            &totals::sum_columns(|name| format!("d.{name}")),
        )
        .replace(
            "{recorded}",
            &totals::sum_columns(|name| format!("t.{name}")),
        )
        .replace("{differs}", &differs.join(" OR "))
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
        let state = match is_large(difference.recorded, difference.computed) {
            true => DriftState::Flagged,
            false if findings.fix => DriftState::Corrected,
            false => DriftState::Reported,
        };
        let new = insert_drift(&mut transaction, findings, difference, state).await?;
        if new && state == DriftState::Corrected {
            correct(&mut transaction, tenant, difference, findings.now_us).await?;
        }
    }
    let mut reconciled = Reconciled {
        totals_checked: compared.checked,
        ..Reconciled::default()
    };
    let counts: Vec<(String, i64)> = sqlx::query_as(
        "SELECT state, count(*) FROM drifts WHERE tenant_id = ?1 AND reconcile_id = ?2 \
         GROUP BY state",
    )
    .bind(tenant)
    .bind(&findings.reconcile_id)
    .fetch_all(&mut *transaction)
    .await
    .map_err(unavailable)?;
    for (state, count) in counts {
        match DriftState::parse(&state) {
            Some(DriftState::Corrected) => reconciled.corrected = count,
            Some(DriftState::Flagged) => reconciled.flagged = count,
            _ => {}
        }
        reconciled.drift_count += count;
    }
    reconciled.drift_count = reconciled.drift_count.max(compared.count);
    transaction.commit().await.map_err(unavailable)?;
    Ok(Some(reconciled))
}

/// Records a drift; answers whether the run had not recorded it before.
async fn insert_drift(
    connection: &mut SqliteConnection,
    findings: &Findings,
    difference: &Difference,
    state: DriftState,
) -> Result<bool, Error> {
    let drift = Drift {
        number: 0,
        reconcile_id: findings.reconcile_id.clone(),
        key: difference.key.clone(),
        field: difference.field.to_owned(),
        recorded: difference.recorded,
        computed: difference.computed,
        state,
        found_us: findings.now_us,
        resolved_us: (state == DriftState::Corrected).then_some(findings.now_us),
    };
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
        .bind(difference.computed.saturating_sub(difference.recorded))
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
    row.as_ref().map(read).transpose()
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
    rows.iter().map(read).collect()
}

fn read(row: &SqliteRow) -> Result<Drift, Error> {
    let text = |column: &str| row.try_get::<String, _>(column).map_err(corrupt);
    let number = |column: &str| row.try_get::<i64, _>(column).map_err(corrupt);
    let unknown = || Error::Corrupt("a drift of an unknown scope or state".into());
    Ok(Drift {
        number: number("number")?,
        reconcile_id: text("reconcile_id")?,
        key: TotalKey {
            scope: Scope::parse(&text("scope")?).ok_or_else(unknown)?,
            subject: text("subject")?,
            bucket: number("bucket")?,
        },
        field: text("field")?,
        recorded: number("recorded")?,
        computed: number("computed")?,
        state: DriftState::parse(&text("state")?).ok_or_else(unknown)?,
        found_us: number("found_at")?,
        resolved_us: row.try_get("resolved_at").map_err(corrupt)?,
    })
}
