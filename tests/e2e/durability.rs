//! ack_is_durable, judged from the system calls: the log of the ledger is flushed before an answer
//! leaves. Kills cannot show that, because the page cache outlives a process.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tokenmeter_tests::trace::{CALLS, Flush, flushed_before_answer};
use tokenmeter_tests::{Start, planted, sqlite_only, tool, wait_until};

use crate::support::{Clients, event};

/// The id of the traced event; request and answer both carry it.
const MARKER: &str = "traced-event-1";

/// The trace of a server that records one event.
async fn trace_of_one_record(folder: &Path, start: Start) -> String {
    let file = folder.join("trace.txt");
    let out = file.to_str().unwrap();
    let strace = tool("strace");
    // With -D the tracer is a grandchild, so that the process started is the server itself.
    let words = [
        strace.to_str().unwrap(),
        "-D",
        "-f",
        "-y",
        "-s",
        "4096",
        "-e",
        CALLS,
        "-o",
        out,
    ];
    let mut server = start.under(words).serve();
    let mut clients = Clients::of(&server).await;
    // The first record also fills caches; the traced one is like any other.
    clients.record(event("not-traced")).await.unwrap();
    clients.record(event(MARKER)).await.unwrap();
    assert!(server.terminate().success());
    wait_until("the end of the trace", Duration::from_secs(30), || {
        let trace = fs::read_to_string(&file).ok()?;
        trace.contains("+++ exited with 0 +++").then_some(trace)
    })
}

// With threads of its own, the client hears that the server ends while the test waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_leaves_after_fdatasync_of_the_log_returned() {
    if !sqlite_only("the trace is of the process that writes the file") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let trace = trace_of_one_record(folder.path(), Start::new(folder.path())).await;
    // fdatasync and not fsync: .cargo/config.toml builds SQLite so.
    assert_eq!(flushed_before_answer(&trace, MARKER), Ok(Flush::Fdatasync));
}

// With threads of its own, the client hears that the server ends while the test waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn planted_faults_are_seen_in_the_trace() {
    if !sqlite_only("the trace is of the process that writes the file") {
        return;
    }
    let Some(binary) = planted() else { return };
    for fault in ["NoSync", "AnswerWithoutCommit"] {
        let folder = tempfile::tempdir().unwrap();
        let start = Start::new(folder.path()).program(binary.clone());
        let start = start.variable("TOKENMETER_FAULT", fault);
        let trace = trace_of_one_record(folder.path(), start).await;
        let missing = flushed_before_answer(&trace, MARKER).unwrap_err();
        println!("{fault}: {missing}");
        assert!(missing.starts_with("the log was"), "{fault}: {missing}");
    }
}
