//! Retention: sealing, and dropping what is sealed a chunk at a time, each chunk with its sums in one
//! transaction, so that recording goes on in between.

use std::collections::BTreeMap;

use sqlx::sqlite::{SqliteConnection, SqlitePool};
use sqlx::{AssertSqlSafe, Connection as _, SqliteExecutor};
use tokenmeter_model::id::TenantId;
use tokenmeter_model::totals::Totals;
use tokenmeter_model::zone::Zone;

use super::totals::of_line;
use super::unavailable;
use crate::fault::{Planted, is_planted};
use crate::ledger::Error;
use crate::ledger::retention::{Dropped, Purged, month_of};
use crate::rows::{Row as _, totals};

/// Oldest rows that a chunk is made of, with the rest of their sessions: what others wait for.
const CHUNK: i64 = 200;
/// Tools, messages, champion cases and limit hits that one step drops of each kind at most.
const ITEMS: i64 = 1_000;
/// Tables of what is kept beside usage, with the column of their time.
const ITEM_TABLES: [(&str, &str); 4] = [
    ("tool_invocations", "start_time"),
    ("messages", "time"),
    ("champion_cases", "time"),
    ("limit_hits", "second"),
];

/// Before when events are sealed, in microseconds since the Unix epoch; 0 when nothing is.
pub(super) async fn sealed_before(executor: impl SqliteExecutor<'_>) -> Result<i64, Error> {
    sqlx::query_scalar("SELECT sealed_before FROM ledger_state WHERE id = 1")
        .fetch_one(executor)
        .await
        .map_err(unavailable)
}

/// Seals the ledger before a time, unless it is sealed before a later one.
pub(super) async fn seal(connection: &mut SqliteConnection, before_us: i64) -> Result<(), Error> {
    let seal = "UPDATE ledger_state SET sealed_before = max(sealed_before, ?1) WHERE id = 1";
    let sealed = sqlx::query(seal).bind(before_us).execute(connection).await;
    sealed.map_err(unavailable)?;
    Ok(())
}

/// The first position of a tenant's log from which on it is whole.
pub(super) async fn log_start(
    executor: impl SqliteExecutor<'_>,
    tenant: &str,
) -> Result<i64, Error> {
    let start: Option<i64> =
        sqlx::query_scalar("SELECT position FROM log_starts WHERE tenant_id = ?1")
            .bind(tenant)
            .fetch_optional(executor)
            .await
            .map_err(unavailable)?;
    Ok(start.unwrap_or_default())
}

/// The earliest charge time of a tenant's lines.
pub(super) async fn oldest_kept(pool: &SqlitePool, tenant: &str) -> Result<Option<i64>, Error> {
    sqlx::query_scalar(
        "SELECT charge_time FROM usage_lines WHERE tenant_id = ?1 ORDER BY charge_time LIMIT 1",
    )
    .bind(tenant)
    .fetch_optional(pool)
    .await
    .map_err(unavailable)
}

/// Items to drop, found without holding the writer up.
pub(super) struct OldItems {
    /// For each of [`ITEM_TABLES`], the numbers of some.
    numbers: Vec<String>,
}

/// Finds items older than `before_us`, or than what is sealed already.
pub(super) async fn old_items(pool: &SqlitePool, before_us: i64) -> Result<OldItems, Error> {
    let before = month_of(before_us).max(sealed_before(pool).await?);
    let mut numbers = Vec::with_capacity(ITEM_TABLES.len());
    for (table, time) in ITEM_TABLES {
        let sql = format!(
            "SELECT coalesce(json_group_array(number), '[]') \
             FROM (SELECT number FROM {table} WHERE {time} < ?1 LIMIT {ITEMS})"
        );
        let found = sqlx::query_scalar(AssertSqlSafe(sql)).bind(before);
        numbers.push(found.fetch_one(pool).await.map_err(unavailable)?);
    }
    Ok(OldItems { numbers })
}

impl OldItems {
    fn is_empty(&self) -> bool {
        self.numbers.iter().all(|numbers| numbers == "[]")
    }
}

/// One step of a purge, one transaction: seals, and drops one chunk of events and these items.
pub(super) async fn purge_step(
    connection: &mut SqliteConnection,
    before_us: i64,
    items: &OldItems,
) -> Result<Purged, Error> {
    sqlx::query("CREATE TEMP TABLE IF NOT EXISTS dropping (position INTEGER PRIMARY KEY)")
        .execute(&mut *connection)
        .await
        .map_err(unavailable)?;
    let mut transaction = connection
        .begin_with("BEGIN IMMEDIATE")
        .await
        .map_err(unavailable)?;
    let before = sealed_before(&mut *transaction).await?;
    let sealed_before_us = before.max(month_of(before_us));
    if sealed_before_us > before {
        sqlx::query("UPDATE ledger_state SET sealed_before = ?1 WHERE id = 1")
            .bind(sealed_before_us)
            .execute(&mut *transaction)
            .await
            .map_err(unavailable)?;
    }
    let mut purged = Purged {
        sealed_before_us,
        ..Purged::default()
    };
    let next = next_month(&mut transaction, sealed_before_us).await?;
    if let Some((tenant, month)) = &next {
        let dropped = drop_chunk(&mut transaction, tenant, *month).await?;
        add(&mut purged, tenant, &dropped)?;
    }
    drop_items(&mut transaction, items, sealed_before_us, &mut purged).await?;
    transaction.commit().await.map_err(unavailable)?;
    purged.complete = next.is_none() && items.is_empty();
    Ok(purged)
}

fn add(purged: &mut Purged, tenant: &str, dropped: &Dropped) -> Result<(), Error> {
    let tenant = TenantId::new(tenant).map_err(|error| Error::Corrupt(error.to_string()))?;
    purged.tenants.entry(tenant).or_default().add(dropped);
    Ok(())
}

/// A tenant with lines that are sealed, and the month of its oldest. Tenants are found one after the
/// other by the first entry that each has in the index.
async fn next_month(
    connection: &mut SqliteConnection,
    sealed_before: i64,
) -> Result<Option<(String, i64)>, Error> {
    let mut after = String::new();
    loop {
        let next: Option<(String, i64)> = sqlx::query_as(
            "SELECT tenant_id, charge_time FROM usage_lines INDEXED BY usage_lines_by_tenant \
             WHERE tenant_id > ?1 ORDER BY tenant_id, charge_time LIMIT 1",
        )
        .bind(&after)
        .fetch_optional(&mut *connection)
        .await
        .map_err(unavailable)?;
        match next {
            Some((tenant, oldest)) if oldest < sealed_before => {
                return Ok(Some((tenant, month_of(oldest))));
            }
            Some((tenant, _)) => after = tenant,
            None => return Ok(None),
        }
    }
}

/// Drops one chunk of a tenant's month. All of a month that is sealed is sealed.
async fn drop_chunk(
    connection: &mut SqliteConnection,
    tenant: &str,
    month: i64,
) -> Result<Dropped, Error> {
    let run = async |connection: &mut SqliteConnection, sql: String| {
        sqlx::query(AssertSqlSafe(sql))
            .bind(tenant)
            .bind(month)
            .execute(connection)
            .await
            .map_err(unavailable)
    };
    run(connection, "DELETE FROM temp.dropping".to_owned()).await?;
    sqlx::query(include_str!("queries/pick_dropping.sql"))
        .bind(tenant)
        .bind(month)
        .bind(Zone::utc().next_month(month))
        .bind(CHUNK)
        .execute(&mut *connection)
        .await
        .map_err(unavailable)?;
    if !is_planted(Planted::DropUnsealed) {
        for scope in ["user", "team", "session"] {
            run(connection, seal_totals(scope)).await?;
        }
    }
    let sessions = include_str!("queries/seal_sessions.sql");
    run(connection, sessions.to_owned()).await?;
    let dropped = sums_of_dropping(connection).await?;
    let starts = "INSERT INTO log_starts SELECT ?1, max(position) FROM temp.dropping WHERE true \
                  ON CONFLICT DO UPDATE SET position = max(position, excluded.position)";
    run(connection, starts.to_owned()).await?;
    let overshoots = "DELETE FROM limit_overshoots WHERE tenant_id = ?1 AND event_id IN (\
                      SELECT event_id FROM temp.dropping CROSS JOIN usage_lines USING (position))";
    run(connection, overshoots.to_owned()).await?;
    let drop = "DELETE FROM usage_lines WHERE position IN (SELECT position FROM temp.dropping)";
    run(connection, drop.to_owned()).await?;
    Ok(dropped)
}

fn seal_totals(scope: &str) -> String {
    include_str!("queries/seal_totals.sql")
        .replace("{scope}", scope)
        .replace("{columns}", &totals::sum_columns(str::to_owned))
        .replace(
            "{sums}",
            &totals::sum_columns(|name| format!("sum({})", of_line(name))),
        )
        .replace(
            "{adds}",
            &totals::sum_columns(|name| format!("{name} = {name} + excluded.{name}")),
        )
}

/// Events and sums of the rows that are about to be dropped.
async fn sums_of_dropping(connection: &mut SqliteConnection) -> Result<Dropped, Error> {
    let sums = totals::sum_columns(|name| format!("sum({})", of_line(name)));
    let sql = format!(
        "SELECT {sums}, max(recorded_at), coalesce(sum(kind = 'usage' AND line = 0), 0) \
         FROM temp.dropping CROSS JOIN usage_lines USING (position)"
    );
    let row = sqlx::query(AssertSqlSafe(sql))
        .fetch_one(connection)
        .await
        .map_err(unavailable)?;
    read_dropped(&row, 0)
}

/// Sums from column `first` on, then how many events.
fn read_dropped(row: &sqlx::sqlite::SqliteRow, first: usize) -> Result<Dropped, Error> {
    Ok(Dropped {
        events: row.value(first + Totals::SUMS.len() + 1)?,
        other_rows: 0,
        sealed: totals::read(row, first)?,
    })
}

/// Drops items that were found, those that are still there and old.
async fn drop_items(
    connection: &mut SqliteConnection,
    items: &OldItems,
    sealed_before: i64,
    purged: &mut Purged,
) -> Result<(), Error> {
    for ((table, time), numbers) in ITEM_TABLES.iter().zip(&items.numbers) {
        let sql = format!(
            "DELETE FROM {table} WHERE number IN (SELECT value FROM json_each(?1)) \
             AND {time} < ?2 RETURNING tenant_id"
        );
        let dropped: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(numbers)
            .bind(sealed_before)
            .fetch_all(&mut *connection)
            .await
            .map_err(unavailable)?;
        count_items(purged, dropped)?;
    }
    Ok(())
}

fn count_items(purged: &mut Purged, tenants: Vec<String>) -> Result<(), Error> {
    let mut counts: BTreeMap<String, i64> = BTreeMap::new();
    for tenant in tenants {
        *counts.entry(tenant).or_default() += 1;
    }
    for (tenant, other_rows) in counts {
        let dropped = Dropped {
            other_rows,
            ..Dropped::default()
        };
        add(purged, &tenant, &dropped)?;
    }
    Ok(())
}

/// What a purge would drop, from one snapshot.
pub(super) async fn dry_run(pool: &SqlitePool, before_us: i64) -> Result<Purged, Error> {
    let mut snapshot = pool.begin().await.map_err(unavailable)?;
    let sealed_before_us = sealed_before(&mut *snapshot)
        .await?
        .max(month_of(before_us));
    let mut purged = Purged {
        sealed_before_us,
        complete: true,
        ..Purged::default()
    };
    let sums = totals::sum_columns(|name| format!("sum({})", of_line(name)));
    let sql = include_str!("queries/would_drop.sql").replace("{sums}", &sums);
    let rows = sqlx::query(AssertSqlSafe(sql)).bind(sealed_before_us);
    for row in rows.fetch_all(&mut *snapshot).await.map_err(unavailable)? {
        let tenant: &str = row.value(0)?;
        add(&mut purged, tenant, &read_dropped(&row, 1)?)?;
    }
    for (table, time) in ITEM_TABLES {
        let sql =
            format!("SELECT tenant_id, count(*) FROM {table} WHERE {time} < ?1 GROUP BY tenant_id");
        let counts: Vec<(String, i64)> = sqlx::query_as(AssertSqlSafe(sql))
            .bind(sealed_before_us)
            .fetch_all(&mut *snapshot)
            .await
            .map_err(unavailable)?;
        for (tenant, other_rows) in counts {
            let dropped = Dropped {
                other_rows,
                ..Dropped::default()
            };
            add(&mut purged, &tenant, &dropped)?;
        }
    }
    Ok(purged)
}
