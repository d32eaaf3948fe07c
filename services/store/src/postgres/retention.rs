//! Retention: sealing, and dropping what is sealed a month at a time: its sums move and its rows go in
//! one transaction, and the empty partition is dropped after it.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::postgres::{PgConnection, PgPool, PgRow};
use sqlx::{AssertSqlSafe, Connection as _, PgExecutor};
use tokenmeter_model::id::TenantId;
use tokenmeter_model::totals::Totals;

use super::read::snapshot;
use super::{partitions, sums, unavailable};
use crate::fault::{Planted, is_planted};
use crate::ledger::Error;
use crate::ledger::retention::{Dropped, Purged, month_of};
use crate::rows::{Row as _, totals};

/// The advisory lock that a purge holds: one node drops at a time.
const PURGES: i64 = 0x746f_6b65_6e6d_7075;
/// How long others may be held up by a lock that a purge waits for.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '200ms'";
/// How often such a lock is tried, and the pause in between: a question that reads the month may take
/// a while, and those who wait behind a try have most of the time for themselves.
const ATTEMPTS: u32 = 60;
const PAUSE: Duration = Duration::from_secs(1);
/// Tools, messages, champion cases, limit hits and commits that one step drops of each kind at most.
const ROWS: i64 = 10_000;
/// Tables of what is kept beside usage, with the column of their time.
const ITEM_TABLES: [(&str, &str); 4] = [
    ("tool_invocations", "start_time"),
    ("messages", "time"),
    ("champion_cases", "time"),
    ("limit_hits", "second"),
];

/// Before when events are sealed, in microseconds since the Unix epoch; 0 when nothing is.
pub(super) async fn sealed_before(executor: impl PgExecutor<'_>) -> Result<i64, Error> {
    sqlx::query_scalar("SELECT sealed_before FROM ledger_state WHERE id = 1")
        .fetch_one(executor)
        .await
        .map_err(unavailable)
}

/// The position from which on a tenant's log is whole.
pub(super) async fn log_start(executor: impl PgExecutor<'_>, tenant: &str) -> Result<i64, Error> {
    let start: Option<i64> =
        sqlx::query_scalar("SELECT position FROM log_starts WHERE tenant_id = $1")
            .bind(tenant)
            .fetch_optional(executor)
            .await
            .map_err(unavailable)?;
    Ok(start.unwrap_or_default())
}

/// The earliest charge time of a tenant's lines.
pub(super) async fn oldest_kept(pool: &PgPool, tenant: &str) -> Result<Option<i64>, Error> {
    sqlx::query_scalar(
        "SELECT charge_time FROM usage_lines WHERE tenant_id = $1 ORDER BY charge_time LIMIT 1",
    )
    .bind(tenant)
    .fetch_optional(pool)
    .await
    .map_err(unavailable)
}

/// One step of a purge: seals, and drops the oldest month that is sealed, or some of what is recorded
/// beside usage when no month is left.
pub(super) async fn purge_step(
    connection: &mut PgConnection,
    before_us: i64,
) -> Result<Purged, Error> {
    sqlx::query("SELECT pg_advisory_lock($1)")
        .bind(PURGES)
        .execute(&mut *connection)
        .await
        .map_err(unavailable)?;
    let mut purged = Purged {
        sealed_before_us: seal(connection, month_of(before_us)).await?,
        ..Purged::default()
    };
    let mut months = months(connection).await?;
    months.retain(|month| *month < purged.sealed_before_us);
    match months.first() {
        Some(month) => drop_month(connection, *month, &mut purged).await?,
        None => purged.complete = drop_rows(connection, &mut purged).await?,
    }
    // The session, and the lock with it, ends with the step.
    Ok(purged)
}

/// Seals the ledger before a time, unless it is sealed further; answers before when it is. Waits for
/// the groups in flight, which hold a lock on the row; those that come meanwhile wait in line behind
/// this, so that it is no matter how many there are.
pub(super) async fn seal(connection: &mut PgConnection, before_us: i64) -> Result<i64, Error> {
    let sealed = sealed_before(&mut *connection).await?;
    if sealed >= before_us {
        return Ok(sealed);
    }
    let mut transaction = connection.begin().await.map_err(unavailable)?;
    locked(
        &mut transaction,
        "LOCK TABLE ledger_state IN EXCLUSIVE MODE",
    )
    .await?;
    let sealed = sqlx::query_scalar(
        "UPDATE ledger_state SET sealed_before = greatest(sealed_before, $1) WHERE id = 1 \
         RETURNING sealed_before",
    )
    .bind(before_us)
    .fetch_one(&mut *transaction)
    .await
    .map_err(unavailable)?;
    transaction.commit().await.map_err(unavailable)?;
    Ok(sealed)
}

/// Runs a statement that needs a lock which others hold, again and again, each time for a moment only.
async fn locked(connection: &mut PgConnection, sql: &str) -> Result<(), Error> {
    for attempt in 1.. {
        let mut part = connection.begin().await.map_err(unavailable)?;
        sqlx::query(LOCK_TIMEOUT)
            .execute(&mut *part)
            .await
            .map_err(unavailable)?;
        let done = sqlx::query(AssertSqlSafe(sql.to_owned()))
            .persistent(false)
            .execute(&mut *part)
            .await;
        match done {
            Ok(_) => {
                part.commit().await.map_err(unavailable)?;
                break;
            }
            Err(error) if is_contended(&error) && attempt < ATTEMPTS => {
                part.rollback().await.map_err(unavailable)?;
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(unavailable(error)),
        }
    }
    Ok(())
}

/// Whether a lock was not to be had (lock_not_available, deadlock_detected).
pub(super) fn is_contended(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code == "55P03" || code == "40P01")
}

/// The months that have a partition, by their first instant, oldest first.
async fn months(connection: &mut PgConnection) -> Result<Vec<i64>, Error> {
    sqlx::query_scalar(
        "SELECT (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \\(''(\\d+)''\\)'))[1]::BIGINT \
         FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid \
         WHERE i.inhparent = 'usage_lines'::REGCLASS ORDER BY 1",
    )
    .fetch_all(connection)
    .await
    .map_err(unavailable)
}

/// Moves the sums of a month and empties its partition, in one transaction; then drops the partition.
///
/// Nobody writes to the month any more: it is sealed. Who reads it holds a lock on its partition, so
/// that emptying it waits for them; it is tried again until there is a moment without.
async fn drop_month(
    connection: &mut PgConnection,
    month: i64,
    purged: &mut Purged,
) -> Result<(), Error> {
    let partition = partitions::name(month);
    let mut transaction = connection.begin().await.map_err(unavailable)?;
    let sealing = match is_planted(Planted::DropUnsealed) {
        true => "false",
        false => "true",
    };
    let sql = include_str!("queries/seal_totals.sql")
        .replace("{partition}", &partition)
        .replace("{columns}", &totals::sum_columns(str::to_owned))
        .replace(
            "{figures}",
            &totals::sum_columns(|name| format!("coalesce({name}, 0)")),
        )
        .replace("{line_sums}", &sums::of_lines())
        .replace("{sums}", &sums::of_totals())
        .replace("{sealing}", sealing)
        .replace(
            "{adds}",
            &totals::sum_columns(|name| format!("{name} = t.{name} + excluded.{name}")),
        );
    let rows = sqlx::query(AssertSqlSafe(sql))
        .persistent(false)
        .bind(month)
        .fetch_all(&mut *transaction)
        .await
        .map_err(unavailable)?;
    add_events(purged, &rows)?;
    for sql in [
        include_str!("queries/seal_sessions.sql"),
        include_str!("queries/log_starts.sql"),
        include_str!("queries/drop_overshoots.sql"),
    ] {
        let sql = sql.replace("{partition}", &partition);
        sqlx::query(AssertSqlSafe(sql))
            .persistent(false)
            .execute(&mut *transaction)
            .await
            .map_err(unavailable)?;
    }
    locked(&mut transaction, &format!("TRUNCATE TABLE {partition}")).await?;
    transaction.commit().await.map_err(unavailable)?;
    locked(connection, &format!("DROP TABLE {partition}")).await
}

/// Adds rows of a tenant, its sums and its events.
fn add_events(purged: &mut Purged, rows: &[PgRow]) -> Result<(), Error> {
    for row in rows {
        let dropped = Dropped {
            events: row.value(Totals::SUMS.len() + 2)?,
            other_rows: 0,
            sealed: totals::read(row, 1)?,
        };
        add(purged, row.value(0)?, &dropped)?;
    }
    Ok(())
}

fn add(purged: &mut Purged, tenant: &str, dropped: &Dropped) -> Result<(), Error> {
    let tenant = TenantId::new(tenant).map_err(|error| Error::Corrupt(error.to_string()))?;
    purged.tenants.entry(tenant).or_default().add(dropped);
    Ok(())
}

fn add_items(purged: &mut Purged, counts: BTreeMap<String, i64>) -> Result<(), Error> {
    for (tenant, other_rows) in counts {
        let dropped = Dropped {
            other_rows,
            ..Dropped::default()
        };
        add(purged, &tenant, &dropped)?;
    }
    Ok(())
}

/// Drops some items, and commits of which no line is left; answers whether that were all. The last
/// commit stays: it says how far the log has come.
async fn drop_rows(connection: &mut PgConnection, purged: &mut Purged) -> Result<bool, Error> {
    let mut complete = true;
    for (table, time) in ITEM_TABLES {
        let sql = format!(
            "DELETE FROM {table} WHERE ctid = ANY(ARRAY(\
                 SELECT ctid FROM {table} WHERE {time} < $1 LIMIT {ROWS})) \
             AND {time} < $1 RETURNING tenant_id"
        );
        let tenants: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(purged.sealed_before_us)
            .fetch_all(&mut *connection)
            .await
            .map_err(unavailable)?;
        complete &= tenants.is_empty();
        let mut counts = BTreeMap::new();
        for tenant in tenants {
            *counts.entry(tenant).or_default() += 1;
        }
        add_items(purged, counts)?;
    }
    let sql = format!(
        "DELETE FROM commits WHERE ctid = ANY(ARRAY(\
             SELECT ctid FROM commits WHERE last_charge_time < $1 \
               AND last_position < (SELECT max(last_position) FROM commits) LIMIT {ROWS}))"
    );
    let commits = sqlx::query(AssertSqlSafe(sql))
        .bind(purged.sealed_before_us)
        .execute(&mut *connection)
        .await
        .map_err(unavailable)?;
    Ok(complete && commits.rows_affected() == 0)
}

/// What a purge would drop, from one snapshot.
pub(super) async fn dry_run(pool: &PgPool, before_us: i64) -> Result<Purged, Error> {
    let mut snapshot = snapshot(pool).await?;
    let sealed_before_us = sealed_before(&mut *snapshot)
        .await?
        .max(month_of(before_us));
    let mut purged = Purged {
        sealed_before_us,
        complete: true,
        ..Purged::default()
    };
    let sql = include_str!("queries/would_drop.sql").replace("{line_sums}", &sums::of_lines());
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(sealed_before_us)
        .fetch_all(&mut *snapshot)
        .await
        .map_err(unavailable)?;
    add_events(&mut purged, &rows)?;
    for (table, time) in ITEM_TABLES {
        let sql =
            format!("SELECT tenant_id, count(*) FROM {table} WHERE {time} < $1 GROUP BY tenant_id");
        let counts: Vec<(String, i64)> = sqlx::query_as(AssertSqlSafe(sql))
            .bind(sealed_before_us)
            .fetch_all(&mut *snapshot)
            .await
            .map_err(unavailable)?;
        add_items(&mut purged, counts.into_iter().collect())?;
    }
    Ok(purged)
}

/// Keeps lines from being dropped until the transaction ends. It has to come before the transaction
/// sees anything: a partition that is dropped after that is gone, and its sums are not yet seen.
pub(super) async fn hold(connection: &mut PgConnection) -> Result<(), Error> {
    sqlx::query("LOCK TABLE usage_lines IN ACCESS SHARE MODE")
        .execute(connection)
        .await
        .map_err(unavailable)?;
    Ok(())
}
