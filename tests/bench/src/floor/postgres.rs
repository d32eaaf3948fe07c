//! The floor on PostgreSQL: one statement a transaction, every column an array, on a few connections at
//! once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::{Arguments as _, AssertSqlSafe, Connection as _};
use tokio::task::JoinSet;

use super::rows::{COLUMNS, SUMS, add};
use crate::data::{Batch, Event};
use crate::figures::Tally;

const SCHEMA: &str = include_str!("../../reference/postgres.sql");
/// Columns of `events` that are no BIGINT: their type.
const TYPES: [(&str, &str); 18] = [
    ("tenant_id", "text"),
    ("event_id", "text"),
    ("kind", "text"),
    ("user_id", "text"),
    ("team_id", "text"),
    ("session_id", "text"),
    ("provider", "text"),
    ("model", "text"),
    ("tool_requests", "text"),
    ("status", "text"),
    ("service_tier", "text"),
    ("inference_region", "text"),
    ("stop_reason", "text"),
    ("thinking_enabled", "boolean"),
    ("message", "text"),
    ("retrieval_ran", "boolean"),
    ("labels", "text"),
    ("reservation_id", "text"),
];
/// The one more, whose name a total has, too.
const SUCCEEDED: &str = "succeeded";

pub(super) struct Database {
    connections: Vec<PgConnection>,
    statement: Arc<str>,
    position: Arc<AtomicI64>,
}

impl Database {
    pub(super) async fn open(url: &str, connections: usize) -> Self {
        let mut open = Vec::with_capacity(connections);
        for _ in 0..connections {
            open.push(PgConnection::connect(url).await.expect("it connects"));
        }
        let exists: bool = sqlx::query_scalar("SELECT to_regclass('events') IS NOT NULL")
            .fetch_one(&mut open[0])
            .await
            .expect("the catalogue can be read");
        if !exists {
            sqlx::raw_sql(SCHEMA)
                .execute(&mut open[0])
                .await
                .expect("the schema stands");
        }
        Self {
            connections: open,
            statement: statement().into(),
            position: Arc::default(),
        }
    }

    /// One transaction after another on each connection until the time is over or nothing is left.
    pub(super) async fn write_for(&mut self, slice: Duration, prepared: Vec<Vec<Batch>>) -> Tally {
        let started = Instant::now();
        let work = Arc::new(Mutex::new(prepared.into_iter()));
        let mut writers = JoinSet::new();
        for mut connection in self.connections.drain(..) {
            let statement = Arc::clone(&self.statement);
            let (work, position) = (Arc::clone(&work), Arc::clone(&self.position));
            writers.spawn(async move {
                let mut tally = Tally::default();
                loop {
                    let next = work.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(transaction) = next else { break };
                    let begun = Instant::now();
                    tally.done += write(&mut connection, &statement, &position, &transaction)
                        .await
                        .expect("a transaction commits");
                    let micros = u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX);
                    tally.micros.push(micros);
                    if started.elapsed() >= slice {
                        break;
                    }
                }
                (connection, tally)
            });
        }
        let mut all = Tally::default();
        while let Some(done) = writers.join_next().await {
            let (connection, tally) = done.expect("a writer does not panic");
            self.connections.push(connection);
            all.add(tally);
        }
        all.elapsed = started.elapsed();
        all
    }
}

/// Keys, events and totals as one statement.
fn statement() -> String {
    let mut number = 0;
    let mut unnest = |types: &[&str]| {
        let arrays = types.iter().map(|kind| {
            number += 1;
            format!("${number}::{kind}[]")
        });
        format!(
            "SELECT * FROM UNNEST({})",
            arrays.collect::<Vec<_>>().join(", ")
        )
    };
    let keys = unnest(&["text", "text", "bytea", "bigint"]);
    let types = COLUMNS.map(|column| {
        let named = TYPES.iter().find(|(name, _)| *name == column);
        match named {
            Some((_, kind)) => kind,
            None if column == SUCCEEDED => "boolean",
            None => "bigint",
        }
    });
    let events = unnest(&types);
    let mut types = vec!["text", "text", "text", "bigint"];
    types.extend([&"bigint"; SUMS.len() + 1]);
    let totals = unnest(&types);
    let sums = SUMS.map(|name| format!("{name} = t.{name} + excluded.{name}"));
    format!(
        "WITH keys AS (INSERT INTO dedup (tenant_id, event_id, fingerprint, position) {keys} \
           ON CONFLICT DO NOTHING), \
         lines AS (INSERT INTO events ({}) {events}) \
         INSERT INTO totals AS t (tenant_id, scope, subject, bucket, {}, updated_at) {totals} \
         ON CONFLICT (tenant_id, scope, subject, bucket) DO UPDATE SET {}, \
           updated_at = greatest(t.updated_at, excluded.updated_at)",
        COLUMNS.join(", "),
        SUMS.join(", "),
        sums.join(", ")
    )
}

async fn write(
    connection: &mut PgConnection,
    statement: &Arc<str>,
    position: &AtomicI64,
    batches: &[Batch],
) -> Result<u64, sqlx::Error> {
    let mut rows: Vec<(&Arc<str>, &Event)> = batches
        .iter()
        .flat_map(|batch| batch.events.iter().map(|event| (&batch.tenant, event)))
        .collect();
    // In the order of the keys, so that two writers never wait for each other.
    rows.sort_unstable_by_key(|(tenant, event)| (Arc::clone(tenant), Arc::clone(&event.id)));
    let count = i64::try_from(rows.len()).expect("few rows");
    let first = position.fetch_add(count, Ordering::Relaxed) + 1;
    let mut sums = BTreeMap::new();
    for (tenant, event) in &rows {
        add(&mut sums, tenant, event);
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    // The totals that everybody adds to come last: their locks are held shortest.
    let rank = |scope| {
        ["session", "user", "team", "model"]
            .iter()
            .position(|one| *one == scope)
    };
    sums.sort_by_key(|((_, scope, _, _), _)| rank(*scope));

    let mut values = Values(PgArguments::default());
    values.texts(rows.iter().map(|(tenant, _)| &***tenant));
    values.texts(rows.iter().map(|(_, event)| &*event.id));
    values.push(rows.iter().map(|_| vec![1_u8; 17]).collect::<Vec<_>>());
    values.push((first..first + count).collect::<Vec<_>>());
    bind_events(&mut values, &rows, first, count);
    values.texts(sums.iter().map(|((tenant, ..), _)| &**tenant));
    values.texts(sums.iter().map(|((_, scope, ..), _)| *scope));
    values.texts(sums.iter().map(|((_, _, subject, _), _)| &**subject));
    values.push(
        sums.iter()
            .map(|((.., bucket), _)| *bucket)
            .collect::<Vec<_>>(),
    );
    for at in 0..SUMS.len() {
        values.push(sums.iter().map(|(_, sums)| sums[at]).collect::<Vec<_>>());
    }
    values.push(vec![0_i64; sums.len()]);
    sqlx::query_with(AssertSqlSafe(Arc::clone(statement)), values.0)
        .execute(connection)
        .await?;
    Ok(u64::try_from(rows.len()).expect("few rows"))
}

/// The values of a statement, a column after the other.
struct Values(PgArguments);

impl Values {
    fn push<'t, T: sqlx::Encode<'t, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>>(
        &mut self,
        column: T,
    ) {
        self.0.add(column).expect("it can be bound");
    }

    fn texts<'t>(&mut self, column: impl Iterator<Item = &'t str>) {
        self.push(column.collect::<Vec<_>>());
    }
}

/// Binds `events`, in the order of [`COLUMNS`].
fn bind_events(values: &mut Values, rows: &[(&Arc<str>, &Event)], first: i64, count: i64) {
    macro_rules! numbers {
        ($($one:expr),+ $(,)?) => {
            $(values.push(rows.iter().map(|(_, event)| $one(*event)).collect::<Vec<i64>>());)+
        };
    }
    macro_rules! texts {
        ($($one:expr),+ $(,)?) => {
            $({
                let one: fn(&Event) -> &str = $one;
                values.texts(rows.iter().map(|(_, event)| one(event)));
            })+
        };
    }
    let none = || vec![None::<i64>; rows.len()];
    let text = || vec![None::<&str>; rows.len()];
    let flag = || vec![None::<bool>; rows.len()];
    values.push((first..first + count).collect::<Vec<_>>());
    values.texts(rows.iter().map(|(tenant, _)| &***tenant));
    texts!(|e| &e.id);
    numbers!(|_| 0, |_| 1);
    texts!(|_| "usage", |e| &e.user, |e| &e.team, |e| &e.session);
    numbers!(|e: &Event| e.turn);
    texts!(|e| e.model.provider, |e| e.model.name);
    numbers!(|e: &Event| e.time_us, |e: &Event| e.time_us, |e: &Event| e
        .time_us);
    numbers!(|_| 1, |_| 0);
    numbers!(
        |e: &Event| e.input,
        |e: &Event| e.cache_read,
        |e: &Event| e.cache_write_5m
    );
    numbers!(|_| 0, |_| 0, |_| 0, |_| 0);
    numbers!(|e: &Event| e.output, |e: &Event| e.reasoning);
    numbers!(|_| 0, |_| 0, |_| 0, |_| 0, |_| 0, |_| 0);
    values.push(text());
    numbers!(
        |e: &Event| (e.input + e.output * 5) * 3_000,
        |e: &Event| e.cache_read * 2_700,
        |e: &Event| e.cache_write_5m * 750,
        |_| 1,
    );
    texts!(|_| "succeeded");
    numbers!(|e: &Event| e.latency_ms, |e: &Event| e.first_token_ms);
    texts!(|_| "standard", |_| "", |e| e.stop_reason());
    values.push(flag());
    values.push(none());
    values.push(text());
    values.push(flag());
    values.push(none());
    values.push(flag());
    let labels: Vec<String> = rows
        .iter()
        .map(|(_, event)| {
            let [(first_key, first), (second_key, second)] = event.labels;
            format!(r#"[["{first_key}","{first}"],["{second_key}","{second}"]]"#)
        })
        .collect();
    values.push(labels);
    texts!(|_| "");
}
