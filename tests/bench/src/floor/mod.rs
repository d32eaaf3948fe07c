//! The floor under recording: the bare batched INSERT of the same events, in a process of its own.
//!
//! `reference/*.sql` hold the events, a key for each and the totals. A transaction writes all
//! three with as few statements as it can; there is no RPC, no check, no price and no fingerprint.
//! Events are made before the clock starts.

mod postgres;
mod rows;
mod sqlite;

use std::io::{BufRead as _, BufReader, Write as _, stdin, stdout};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::client::{enough, rate};
use crate::data::{Batch, Generator};
use crate::figures::Tally;
use crate::place::Made;

/// What a floor process has to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) made: Made,
    pub(crate) seed: u64,
    pub(crate) start_us: i64,
    /// Events of one tenant in a row, as a call brings them.
    pub(crate) call_events: usize,
    /// Calls of one transaction.
    pub(crate) calls: usize,
    /// Connections that write at once; SQLite has one.
    pub(crate) connections: usize,
}

/// A floor process, idle between slices.
pub(crate) struct Floor {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    made: Made,
}

impl Floor {
    /// Starts it with an empty database.
    pub(crate) fn start(task: &Task) -> Self {
        let mut child = Command::new("/proc/self/exe")
            .arg("floor")
            .arg(serde_json::to_string(task).expect("a task is JSON"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this binary can be run again");
        Self {
            input: child.stdin.take().expect("stdin is piped"),
            output: BufReader::new(child.stdout.take().expect("stdout is piped")),
            child,
            made: task.made.clone(),
        }
    }

    /// Where it writes.
    pub(crate) fn made(&self) -> &Made {
        &self.made
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

enum Database {
    Sqlite(Box<sqlite::Database>),
    Postgres(postgres::Database),
}

/// The floor process: reads how long, in milliseconds a line; answers a tally a line.
pub(crate) async fn run(task: &str) {
    let task: Task = serde_json::from_str(task).expect("a task");
    let mut database = match &task.made {
        Made::Sqlite(path) => Database::Sqlite(Box::new(sqlite::Database::open(path).await)),
        Made::Postgres(url) => {
            Database::Postgres(postgres::Database::open(url, task.connections).await)
        }
    };
    let mut generator = Generator::new(task.seed, task.start_us);
    let mut per_second = 60_000;
    for line in stdin().lines() {
        let line = line.expect("stdin can be read");
        let slice = Duration::from_millis(line.parse().expect("milliseconds"));
        let transactions = enough(per_second, slice) / (task.call_events * task.calls);
        let prepared: Vec<Vec<Batch>> = (0..transactions + task.connections)
            .map(|_| {
                (0..task.calls)
                    .map(|_| generator.batch(task.call_events))
                    .collect()
            })
            .collect();
        let tally = match &mut database {
            Database::Sqlite(database) => database.write_for(slice, prepared).await,
            Database::Postgres(database) => database.write_for(slice, prepared).await,
        };
        per_second = rate(&tally);
        let tally = serde_json::to_string(&tally).expect("a tally is JSON");
        writeln!(stdout(), "{tally}").expect("somebody reads");
    }
}
