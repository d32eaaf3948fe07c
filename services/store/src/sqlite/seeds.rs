//! What counters begin with, all of one snapshot.

use sqlx::AssertSqlSafe;
use sqlx::sqlite::{SqliteConnection, SqlitePool, SqliteRow};
use tokenmeter_model::limit::Zoned;

use super::{unavailable, writer};
use crate::counters::{CounterKey, Seed, Seen};
use crate::ledger::Error;
use crate::seeds::{self, Buckets, FIGURES, Part, Source, Sums};

/// The sums of counters, and the last position that they contain.
pub(super) async fn seeds(
    pool: &SqlitePool,
    tenant: &str,
    zoned: &Zoned,
    keys: &[CounterKey],
    now_us: i64,
) -> Result<(Vec<Seed>, Seen), Error> {
    let mut snapshot = pool.begin().await.map_err(unavailable)?;
    let seen = Seen::through(writer::last_position(&mut snapshot).await?);
    let models: Vec<String> = match seeds::needs_models(keys) {
        true => sqlx::query_scalar(include_str!("queries/models.sql"))
            .bind(tenant)
            .fetch_all(&mut *snapshot)
            .await
            .map_err(unavailable)?,
        false => Vec::new(),
    };
    let mut answers = Vec::with_capacity(keys.len());
    for key in keys {
        let mut sums = Sums::default();
        for part in seeds::parts(key, zoned, now_us, &models) {
            for row in &rows(&mut snapshot, tenant, key, &part).await? {
                sums.add(row, part.buckets)?;
            }
        }
        answers.push(sums.seed(key));
    }
    Ok((answers, seen))
}

fn sums() -> String {
    FIGURES.map(|figure| format!("sum({figure})")).join(", ")
}

/// The sums of a part, a row a bucket.
async fn rows(
    connection: &mut SqliteConnection,
    tenant: &str,
    key: &CounterKey,
    part: &Part<'_>,
) -> Result<Vec<SqliteRow>, Error> {
    let rows = match &part.source {
        Source::Totals {
            scope,
            subjects,
            quarters,
        } => {
            let sql = format!(
                "SELECT 0, {} FROM json_each(?3) AS wanted CROSS JOIN usage_totals \
                 WHERE tenant_id = ?1 AND scope = ?2 AND subject = wanted.value \
                   AND bucket >= ?4 AND bucket < ?5",
                sums()
            );
            let subjects = serde_json::to_string(subjects);
            sqlx::query(AssertSqlSafe(sql))
                .bind(tenant)
                .bind(scope)
                .bind(subjects.map_err(|e| Error::Corrupt(e.to_string()))?)
                .bind(quarters.0)
                .bind(quarters.1)
                .fetch_all(connection)
                .await
        }
        Source::Lines(range) => {
            let sql = lines(key, part.buckets);
            sqlx::query(AssertSqlSafe(sql))
                .bind(tenant)
                .bind(&*key.subject)
                .bind(&*key.provider)
                .bind(&*key.model)
                .bind(range.from_us)
                .bind(range.to_us)
                .fetch_all(connection)
                .await
        }
        Source::Sealed(scope) => {
            let sql = format!(
                "SELECT 0, {} FROM sealed_totals \
                 WHERE tenant_id = ?1 AND scope = ?5 AND subject = ?2 \
                   AND (?3 = '' OR provider = ?3) AND (?4 = '' OR model = ?4)",
                sums()
            );
            sqlx::query(AssertSqlSafe(sql))
                .bind(tenant)
                .bind(&*key.subject)
                .bind(&*key.provider)
                .bind(&*key.model)
                .bind(scope)
                .fetch_all(connection)
                .await
        }
        Source::Tools => {
            let sql = "SELECT 0, 0, 0, 0, sum(estimated_tokens), 0 FROM tool_invocations \
                       WHERE tenant_id = ?1 AND session_id = ?2 AND session_id <> ''";
            sqlx::query(sql)
                .bind(tenant)
                .bind(&*key.subject)
                .fetch_all(connection)
                .await
        }
    };
    rows.map_err(unavailable)
}

/// Sums of lines by bucket: by the index of the subject, where there is one.
fn lines(key: &CounterKey, buckets: Buckets) -> String {
    let (sums, length_us) = (sums(), buckets.length_us());
    let subject = match seeds::column(key.scope) {
        Some(column) => format!("{column} = ?2 AND {column} <> ''"),
        None => "?2 = ''".to_owned(),
    };
    format!(
        "SELECT charge_time - charge_time % {length_us} AS start, {sums} FROM usage_lines \
         WHERE tenant_id = ?1 AND {subject} \
           AND (?3 = '' OR provider = ?3) AND (?4 = '' OR model = ?4) \
           AND charge_time >= ?5 AND charge_time < ?6 GROUP BY start"
    )
}
