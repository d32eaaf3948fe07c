//! The floor on SQLite: one transaction after another on one connection.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous,
};
use sqlx::{Arguments as _, AssertSqlSafe, ConnectOptions as _, Connection as _};

use super::rows::{COLUMNS, SUMS, add};
use crate::data::{Batch, Event};
use crate::figures::Tally;

const SCHEMA: &str = include_str!("../../reference/sqlite.sql");
/// Rows of one statement, largest first.
const CHUNKS: [usize; 4] = [500, 100, 10, 1];

pub(super) struct Database {
    connection: SqliteConnection,
    position: i64,
    dedup: Insert,
    events: Insert,
    totals: Insert,
}

impl Database {
    /// With the pragmas of the ledger.
    pub(super) async fn open(path: &Path) -> Self {
        let mut connection = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .page_size(4_096)
            .pragma("cache_size", "-65536")
            .pragma("wal_autocheckpoint", "16384")
            .pragma("journal_size_limit", "67108864")
            .connect()
            .await
            .expect("a new database opens");
        sqlx::raw_sql(SCHEMA)
            .execute(&mut connection)
            .await
            .expect("the schema stands");
        let sums = SUMS.map(|name| format!("{name} = {name} + excluded.{name}"));
        let upsert = format!(
            "ON CONFLICT (tenant_id, scope, subject, bucket) DO UPDATE SET {}, \
             updated_at = max(updated_at, excluded.updated_at)",
            sums.join(", ")
        );
        let totals: Vec<_> = ["tenant_id", "scope", "subject", "bucket"]
            .into_iter()
            .chain(SUMS)
            .chain(["updated_at"])
            .collect();
        let dedup = ["tenant_id", "event_id", "fingerprint", "position"];
        Self {
            connection,
            position: 0,
            dedup: Insert::new("dedup", &dedup, "ON CONFLICT DO NOTHING"),
            events: Insert::new("events", &COLUMNS, ""),
            totals: Insert::new("totals", &totals, &upsert),
        }
    }

    /// One transaction after another until the time is over or nothing is left.
    pub(super) async fn write_for(&mut self, slice: Duration, prepared: Vec<Vec<Batch>>) -> Tally {
        let mut tally = Tally::default();
        let started = Instant::now();
        for transaction in prepared {
            let begun = Instant::now();
            tally.done += self
                .write(&transaction)
                .await
                .expect("a transaction commits");
            let micros = u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX);
            tally.micros.push(micros);
            if started.elapsed() >= slice {
                break;
            }
        }
        tally.elapsed = started.elapsed();
        tally
    }

    async fn write(&mut self, batches: &[Batch]) -> Result<u64, sqlx::Error> {
        let Self {
            connection,
            position,
            dedup,
            events,
            totals,
        } = self;
        let rows: Vec<_> = batches
            .iter()
            .flat_map(|batch| batch.events.iter().map(|event| (&batch.tenant, event)))
            .zip(*position + 1..)
            .collect();
        let mut sums = BTreeMap::new();
        for ((tenant, event), _) in &rows {
            add(&mut sums, tenant, event);
        }
        let sums: Vec<_> = sums.into_iter().collect();
        *position += i64::try_from(rows.len()).expect("few rows");

        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
        dedup
            .run(&mut transaction, &rows, |((tenant, event), at), row| {
                row.push(Arc::clone(tenant));
                row.push(Arc::clone(&event.id));
                row.push(vec![1_u8; 17]);
                row.push(*at);
            })
            .await?;
        events
            .run(&mut transaction, &rows, |((tenant, event), at), row| {
                bind_event(tenant, event, *at, row);
            })
            .await?;
        totals
            .run(&mut transaction, &sums, |(key, sums), row| {
                let (tenant, scope, subject, bucket) = key;
                row.push(Arc::clone(tenant));
                row.push(*scope);
                row.push(Arc::clone(subject));
                row.push(*bucket);
                for sum in sums {
                    row.push(*sum);
                }
                row.push(0_i64);
            })
            .await?;
        transaction.commit().await?;
        Ok(u64::try_from(rows.len()).expect("few rows"))
    }
}

fn bind_event(tenant: &Arc<str>, event: &Event, position: i64, row: &mut Row) {
    let none = None::<i64>;
    let [(first_key, first), (second_key, second)] = event.labels;
    row.push(position);
    row.push(Arc::clone(tenant));
    row.push(Arc::clone(&event.id));
    row.push(0_i64);
    row.push(1_i64);
    row.push("usage");
    row.push(Arc::clone(&event.user));
    row.push(Arc::clone(&event.team));
    row.push(Arc::clone(&event.session));
    row.push(event.turn);
    row.push(event.model.provider);
    row.push(event.model.name);
    row.push(event.time_us);
    row.push(event.time_us);
    row.push(event.time_us);
    row.push(1_i64);
    row.push(0_i64);
    for count in [
        event.input,
        event.cache_read,
        event.cache_write_5m,
        0,
        0,
        0,
        0,
        event.output,
        event.reasoning,
        0,
        0,
        0,
        0,
        0,
        0,
    ] {
        row.push(count);
    }
    row.push(none);
    row.push((event.input + event.output * 5) * 3_000);
    row.push(event.cache_read * 2_700);
    row.push(event.cache_write_5m * 750);
    row.push(1_i64);
    row.push("succeeded");
    row.push(event.latency_ms);
    row.push(event.first_token_ms);
    row.push("standard");
    row.push("");
    row.push(event.stop_reason());
    for _ in 0..6 {
        row.push(none);
    }
    row.push(format!(
        r#"[["{first_key}","{first}"],["{second_key}","{second}"]]"#
    ));
    row.push("");
}

/// An insert of many rows, prepared once for each size of chunk.
struct Insert {
    columns: usize,
    statements: [Arc<str>; CHUNKS.len()],
}

struct Row(SqliteArguments);

impl Row {
    fn push<'t, T: sqlx::Encode<'t, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>>(&mut self, value: T) {
        self.0.add(value).expect("it can be bound");
    }
}

impl Insert {
    fn new(table: &str, columns: &[&str], tail: &str) -> Self {
        let row = format!("({})", vec!["?"; columns.len()].join(", "));
        let statements = CHUNKS.map(|rows| {
            let values = vec![row.as_str(); rows].join(", ");
            let columns = columns.join(", ");
            format!("INSERT INTO {table} ({columns}) VALUES {values} {tail}").into()
        });
        Self {
            columns: columns.len(),
            statements,
        }
    }

    async fn run<T>(
        &self,
        connection: &mut SqliteConnection,
        mut rows: &[T],
        bind: impl Fn(&T, &mut Row),
    ) -> Result<(), sqlx::Error> {
        for (size, statement) in CHUNKS.iter().zip(&self.statements) {
            while let Some((chunk, rest)) = rows.split_at_checked(*size) {
                rows = rest;
                let mut values = Row(SqliteArguments::default());
                values.0.reserve(size * self.columns, 0);
                for row in chunk {
                    bind(row, &mut values);
                }
                sqlx::query_with(AssertSqlSafe(Arc::clone(statement)), values.0)
                    .execute(&mut *connection)
                    .await?;
            }
        }
        Ok(())
    }
}
