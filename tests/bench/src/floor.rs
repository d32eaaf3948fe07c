//! The floor under recording: the bare batched INSERT of the same events, in a process of its own.
//!
//! `reference/sqlite.sql` holds the events, a key for each and the totals. A transaction writes all
//! three with as few statements as it can; there is no RPC, no check, no price and no fingerprint.
//! Events are made before the clock starts.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _, stdin, stdout};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous,
};
use sqlx::{Arguments as _, AssertSqlSafe, ConnectOptions as _, Connection as _};

use crate::client::{enough, rate};
use crate::data::{Batch, Event, Generator};
use crate::figures::Tally;

const SCHEMA: &str = include_str!("../reference/sqlite.sql");
/// Rows of one statement, largest first.
const CHUNKS: [usize; 4] = [500, 100, 10, 1];
/// Length of a bucket of totals in microseconds.
const BUCKET_US: i64 = 15 * 60 * 1_000_000;
/// The bucket of lifetime totals.
const LIFETIME: i64 = 0;

/// What a floor process has to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) seed: u64,
    pub(crate) start_us: i64,
    /// Events of one tenant in a row, as a call brings them.
    pub(crate) call_events: usize,
    /// Calls of one transaction.
    pub(crate) calls: usize,
}

/// A floor process, idle between slices.
pub(crate) struct Floor {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Floor {
    /// Starts it with a database in this folder.
    pub(crate) fn start(folder: &Path, task: &Task) -> Self {
        let mut child = Command::new("/proc/self/exe")
            .arg("floor")
            .arg(folder)
            .arg(serde_json::to_string(task).expect("a task is JSON"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this binary can be run again");
        Self {
            input: child.stdin.take().expect("stdin is piped"),
            output: BufReader::new(child.stdout.take().expect("stdout is piped")),
            child,
        }
    }

    /// Has it write for so long.
    pub(crate) fn slice(&mut self, slice: Duration) -> Tally {
        writeln!(self.input, "{}", slice.as_millis()).expect("the floor reads");
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the floor answers");
        serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("the floor said {line:?}: {error}"))
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        // Fails only if it ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The floor process: reads how long, in milliseconds a line; answers a tally a line.
pub(crate) async fn run(folder: &Path, task: &str) {
    let task: Task = serde_json::from_str(task).expect("a task");
    let mut database = Database::open(&folder.join("floor.db")).await;
    let mut generator = Generator::new(task.seed, task.start_us);
    let mut per_second = 60_000;
    for line in stdin().lines() {
        let line = line.expect("stdin can be read");
        let slice = Duration::from_millis(line.parse().expect("milliseconds"));
        let transactions = enough(per_second, slice) / (task.call_events * task.calls) + 1;
        let prepared: Vec<Vec<Batch>> = (0..transactions)
            .map(|_| {
                (0..task.calls)
                    .map(|_| generator.batch(task.call_events))
                    .collect()
            })
            .collect();
        let tally = database.write_for(slice, prepared).await;
        per_second = rate(&tally);
        let tally = serde_json::to_string(&tally).expect("a tally is JSON");
        writeln!(stdout(), "{tally}").expect("somebody reads");
    }
}

struct Database {
    connection: SqliteConnection,
    position: i64,
    dedup: Insert,
    events: Insert,
    totals: Insert,
}

impl Database {
    /// With the pragmas of the ledger.
    async fn open(path: &Path) -> Self {
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
    async fn write_for(&mut self, slice: Duration, prepared: Vec<Vec<Batch>>) -> Tally {
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

type Key = (Arc<str>, &'static str, Arc<str>, i64);

/// The figures of an event, in the order of [`SUMS`].
fn figures(event: &Event) -> [i64; SUMS.len()] {
    let mut sums = [0; SUMS.len()];
    let cost = event.input + event.output * 5;
    for (name, figure) in [
        ("requests", 1),
        ("succeeded", 1),
        ("input", event.input),
        ("cache_read", event.cache_read),
        ("cache_write_5m", event.cache_write_5m),
        ("output", event.output),
        ("reasoning", event.reasoning),
        ("cost_nano_usd", cost * 3_000),
        ("cache_saving_nano_usd", event.cache_read * 2_700),
        ("cache_write_extra_nano_usd", event.cache_write_5m * 750),
        ("lines", 1),
        ("latency_ms", event.latency_ms),
        ("latency_events", 1),
    ] {
        let at = SUMS.iter().position(|sum| *sum == name).expect("a sum");
        sums[at] = figure;
    }
    sums
}

/// The totals that the ledger keeps: of users, teams and models their lifetimes and
/// quarter-hours, of sessions their lifetimes.
fn add(sums: &mut BTreeMap<Key, [i64; SUMS.len()]>, tenant: &Arc<str>, event: &Event) {
    let figures = figures(event);
    let now = event.time_us / BUCKET_US;
    let model: Arc<str> = format!("{}/{}", event.model.provider, event.model.name).into();
    let mut one = |scope, subject: &Arc<str>, bucket| {
        let key = (Arc::clone(tenant), scope, Arc::clone(subject), bucket);
        for (sum, figure) in sums
            .entry(key)
            .or_insert([0; SUMS.len()])
            .iter_mut()
            .zip(figures)
        {
            *sum += figure;
        }
    };
    for bucket in [LIFETIME, now] {
        one("user", &event.user, bucket);
        one("model", &model, bucket);
        if !event.team.is_empty() {
            one("team", &event.team, bucket);
        }
    }
    one("session", &event.session, LIFETIME);
}

/// The sums of a total.
const SUMS: [&str; 27] = [
    "requests",
    "succeeded",
    "failed",
    "interrupted",
    "input",
    "cache_read",
    "cache_write_5m",
    "cache_write_30m",
    "cache_write_1h",
    "cache_write_12h",
    "cache_write_unspecified",
    "output",
    "reasoning",
    "input_audio",
    "input_image",
    "tool_use_prompt",
    "cache_read_audio",
    "output_audio",
    "output_image",
    "tool_requests",
    "cost_nano_usd",
    "cache_saving_nano_usd",
    "cache_write_extra_nano_usd",
    "lines",
    "unpriced_lines",
    "latency_ms",
    "latency_events",
];

/// The columns of `events` that [`bind_event`] writes, in its order.
const COLUMNS: [&str; 51] = [
    "position",
    "tenant_id",
    "event_id",
    "line",
    "line_count",
    "kind",
    "user_id",
    "team_id",
    "session_id",
    "turn",
    "provider",
    "model",
    "request_time",
    "charge_time",
    "recorded_at",
    "requests",
    "unpriced_lines",
    "input",
    "cache_read",
    "cache_write_5m",
    "cache_write_30m",
    "cache_write_1h",
    "cache_write_12h",
    "cache_write_unspecified",
    "output",
    "reasoning",
    "input_audio",
    "input_image",
    "tool_use_prompt",
    "cache_read_audio",
    "output_audio",
    "output_image",
    "tool_requests",
    "cost_nano_usd",
    "cache_saving_nano_usd",
    "cache_write_extra_nano_usd",
    "price_version",
    "status",
    "latency_ms",
    "time_to_first_token_ms",
    "service_tier",
    "inference_region",
    "stop_reason",
    "thinking_enabled",
    "thinking_budget_tokens",
    "message",
    "retrieval_ran",
    "cases_retrieved",
    "succeeded",
    "labels",
    "reservation_id",
];

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
