//! What counters begin with, all of one snapshot.

use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgConnection, PgPool, PgRow};
use tokenmeter_model::limit::Zoned;

use super::horizon::ROW_BITS;
use super::read::snapshot;
use super::{retention, unavailable};
use crate::counters::{CounterKey, Seed, Seen};
use crate::ledger::Error;
use crate::seeds::{self, Buckets, FIGURES, Part, Source, Sums};

/// The sums of counters, and the positions that they contain.
pub(super) async fn seeds(
    pool: &PgPool,
    tenant: &str,
    zoned: &Zoned,
    keys: &[CounterKey],
    now_us: i64,
) -> Result<(Vec<Seed>, Seen), Error> {
    let mut snapshot = snapshot(pool).await?;
    if seeds::needs_sealed(keys) {
        retention::hold(&mut snapshot).await?;
    }
    let seen = seen(&mut snapshot).await?;
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

/// Which positions a snapshot contains: those of all transactions before its end, but for those that
/// were in progress.
async fn seen(connection: &mut PgConnection) -> Result<Seen, Error> {
    let (base, end, open): (i64, i64, Vec<i64>) = sqlx::query_as(include_str!("queries/seen.sql"))
        .fetch_one(connection)
        .await
        .map_err(unavailable)?;
    let first = |transaction: i64| base + (transaction << ROW_BITS);
    let range = |transaction| (first(transaction), first(transaction + 1) - 1);
    Ok(Seen {
        through: first(end) - 1,
        except: open.into_iter().map(range).collect(),
    })
}

fn sums() -> String {
    FIGURES
        .map(|figure| format!("sum({figure})::BIGINT"))
        .join(", ")
}

/// The sums of a part, a row a bucket.
async fn rows(
    connection: &mut PgConnection,
    tenant: &str,
    key: &CounterKey,
    part: &Part<'_>,
) -> Result<Vec<PgRow>, Error> {
    let rows = match &part.source {
        Source::Totals {
            scope,
            subjects,
            quarters,
        } => {
            let sql = format!(
                "SELECT t.* FROM unnest($3::TEXT[]) AS wanted (subject) CROSS JOIN LATERAL (\
                 SELECT 0::BIGINT, {} FROM usage_totals \
                 WHERE tenant_id = $1 AND scope = $2 AND subject = wanted.subject \
                   AND bucket >= $4 AND bucket < $5) AS t",
                sums()
            );
            sqlx::query(AssertSqlSafe(sql))
                .bind(tenant)
                .bind(scope)
                .bind(subjects)
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
                "SELECT 0::BIGINT, {} FROM sealed_totals \
                 WHERE tenant_id = $1 AND scope = $5 AND subject = $2 \
                   AND ($3 = '' OR provider = $3) AND ($4 = '' OR model = $4)",
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
            let sql = "SELECT 0::BIGINT, 0::BIGINT, 0::BIGINT, 0::BIGINT, \
                       sum(estimated_tokens)::BIGINT, 0::BIGINT FROM tool_invocations \
                       WHERE tenant_id = $1 AND session_id = $2 AND session_id <> ''";
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
        Some(column) => format!("{column} = $2 AND {column} <> ''"),
        None => "$2 = ''".to_owned(),
    };
    format!(
        "SELECT charge_time - charge_time % {length_us} AS start, {sums} FROM usage_lines \
         WHERE tenant_id = $1 AND {subject} \
           AND ($3 = '' OR provider = $3) AND ($4 = '' OR model = $4) \
           AND charge_time >= $5 AND charge_time < $6 GROUP BY start"
    )
}
