//! The root of a pod's file system is read-only: a node writes to its volumes and to nothing else.
//! Judged from the system calls, because whether a file could be written says nothing here.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tokenmeter_tests::{Start, tool, wait_until};

use crate::overlay::Overlay;
use crate::probes::{node, sqlite};

/// The calls that open a file or change a folder.
const CALLS: &str = "trace=open,openat,openat2,creat,mkdir,mkdirat,mknod,mknodat,link,linkat,symlink,symlinkat,\
     rename,renameat,renameat2,unlink,unlinkat,truncate";

/// What of a call's flags makes it a write; the calls other than open are writes anyway.
const WRITES: [&str; 4] = ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC"];

/// The paths outside a folder that a trace shows attempts to write to, in the order of the trace.
/// Those of devices are left out: they are no part of the root.
fn written_outside(trace: &str, folder: &Path) -> Vec<String> {
    let mut outside = Vec::new();
    for line in trace.lines().filter(|line| line.contains('"')) {
        let reads = line.contains(" open") && !WRITES.iter().any(|flag| line.contains(flag));
        if reads {
            continue;
        }
        // Every second part of a line cut at quotes is a path: no path of a test has a quote.
        for path in line.split('"').skip(1).step_by(2) {
            let inside = Path::new(path).starts_with(folder) || path.starts_with("/dev/");
            if !inside {
                outside.push(path.to_owned());
            }
        }
    }
    outside
}

/// The trace of a node that records, answers and ends.
fn trace(start: Start, folder: &Path) -> String {
    let file = folder.join("trace.txt");
    let strace = tool("strace");
    // With -D the tracer is a grandchild, so that the process started is the server itself.
    let mut words = vec![strace.to_str().unwrap(), "-D", "-f", "-s", "4096"];
    words.extend(["-e", CALLS, "-o", file.to_str().unwrap()]);
    let mut server = start.under(words).serve();
    let event = json!({ "event": {
        "event_id": "m-1", "user_id": "ada", "provider": "anthropic",
        "lines": { "lines": [{ "model": "claude-sonnet-4-5", "counts": { "input": 1 } }] },
    } });
    let recorded = server.grpcurl("tokenmeter.v1.MeteringService/RecordUsage", &event);
    recorded.unwrap();
    let asked = server.grpcurl("tokenmeter.v1.AnalyticsService/ListTopSessions", &json!({}));
    asked.unwrap();
    assert!(server.terminate().success());
    wait_until("the end of the trace", Duration::from_secs(30), || {
        let trace = fs::read_to_string(&file).ok()?;
        trace.contains("+++ exited with 0 +++").then_some(trace)
    })
}

#[test]
fn an_embedded_node_writes_to_its_volumes_only() {
    let embedded = Overlay::of("embedded");
    let deployment = embedded.all("Deployment")[0];
    let folder = tempfile::tempdir().unwrap();
    let start = node(&embedded, deployment, folder.path(), &sqlite(folder.path()));
    let trace = trace(start, folder.path());
    assert!(trace.contains("ledger.db"), "{trace}");
    assert_eq!(written_outside(&trace, folder.path()), [""; 0]);
}

#[test]
fn a_node_that_writes_elsewhere_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    // Where the default ledger is: beside the process, which in a pod is the root.
    let start = Start::new(folder.path()).argument("--ledger=sqlite:data/tokenmeter.db");
    let trace = trace(start, folder.path());
    let outside = written_outside(&trace, folder.path());
    assert!(!outside.is_empty(), "{trace}");
    assert!(
        outside.iter().all(|path| path.contains("data")),
        "{outside:?}"
    );
}
