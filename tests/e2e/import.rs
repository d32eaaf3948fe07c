//! Recorded provider responses go into the store, and the store says the same as the file.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tokenmeter_api::v1;
use tokenmeter_tests::{Finished, Process, Server, repository, shared_data, wait_until};

use crate::support::{Clients, nano_usd};

/// Rows of the recorded file.
const ROWS: i64 = 1_533;
/// At most 1 % of them may be refused or come to nothing.
const AT_MOST_LOST: i64 = 15;

fn import(server: &Server, file: &str, more: &[&str]) -> Value {
    let words = ["import", "provider-jsonl", file, "--report", "json"];
    server
        .run(words.into_iter().chain(more.iter().copied()))
        .success()
        .json()
}

fn refused(report: &Value) -> i64 {
    let reasons = report["refused"].as_object().unwrap().values();
    reasons.map(|n| n.as_i64().unwrap()).sum()
}

/// Rows that are understood and have no token.
fn empty_rows(server: &Server, file: &str) -> i64 {
    let Finished { stdout, .. } = server.run(["normalize", file]).success();
    let empty = stdout.lines().filter(|line| {
        let row: Value = serde_json::from_str(line).unwrap();
        let counts = ["input", "cache_read", "cache_write", "output"];
        row["error"].is_null() && counts.iter().all(|count| row[count] == 0)
    });
    i64::try_from(empty.count()).unwrap()
}

fn every_reason_is_documented(report: &Value) {
    let pages: String = ["docs/normalisation.md", "docs/errors.md"]
        .map(|page| fs::read_to_string(repository(page)).unwrap())
        .concat();
    for reason in report["refused"].as_object().unwrap().keys() {
        assert!(
            pages.contains(&format!("| `{reason}` |")),
            "{reason} is not documented"
        );
    }
    for row in report["refused_rows"].as_array().unwrap() {
        assert!(!row["message"].as_str().unwrap().is_empty(), "{row}");
    }
}

/// File and store agree in every sum that both have.
fn file_equals_store(report: &Value) {
    assert_eq!(report["equal"], true, "{report}");
    for (key, sum) in report["file"].as_object().unwrap() {
        assert_eq!(sum, &report["store"][key], "{key}");
    }
    assert!(report["file"]["total"].as_i64().unwrap() > 0);
    assert!(report["store"]["cost_nano_usd"].as_i64().unwrap() > 0);
}

fn totals_equal_store(totals: &v1::UsageTotals, report: &Value) {
    let counts = totals.counts.unwrap();
    let write = counts.cache_write.unwrap();
    let writes = write.ttl_5m + write.ttl_30m + write.ttl_1h + write.ttl_12h + write.unspecified;
    for (key, total) in [
        ("events", totals.requests),
        ("lines", totals.lines),
        ("input", counts.input),
        ("cache_read", counts.cache_read),
        ("cache_write", writes),
        ("output", counts.output),
        ("reasoning", counts.reasoning),
        ("total", totals.total_tokens),
        ("cost_nano_usd", nano_usd(totals.cost.as_ref())),
    ] {
        assert_eq!(report["store"][key], total, "{key}");
    }
    assert_eq!(report["unpriced"], totals.unpriced_lines);
}

/// The state of an import as it stood in the middle of it.
fn kept_state(server: &Server, file: &str, folder: &Path) -> PathBuf {
    let (state, kept) = (folder.join("running.json"), folder.join("kept.json"));
    let words = ["import", "provider-jsonl", file, "--state"];
    let words = words.into_iter().chain([state.to_str().unwrap()]);
    let mut importer = Process::spawn(&mut server.client(words));
    wait_until("the state of an import", Duration::from_secs(60), || {
        assert_eq!(importer.ended(), None, "it ended before its state was seen");
        fs::copy(&state, &kept).ok()
    });
    importer.kill();
    kept
}

#[tokio::test]
async fn an_import_stands_as_the_file_says_and_a_second_one_changes_nothing() {
    let Some(file) = shared_data("provider_usage.jsonl") else {
        return;
    };
    let file = file.canonicalize().unwrap();
    let file = file.to_str().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let report = import(&server, file, &[]);

    assert_eq!(report["read"], ROWS);
    let (recorded, duplicates) = (&report["recorded"], &report["duplicates"]);
    let answered = recorded.as_i64().unwrap() + duplicates.as_i64().unwrap();
    assert_eq!(answered + refused(&report), ROWS, "{report}");
    let lost = refused(&report) + empty_rows(&server, file);
    assert!(
        lost <= AT_MOST_LOST,
        "{lost} rows are lost: {}",
        report["refused"]
    );
    every_reason_is_documented(&report);
    file_equals_store(&report);
    let mut clients = Clients::of(&server).await;
    let totals = clients.lifetime("").await;
    totals_equal_store(&totals, &report);

    let everything = clients.everything().await;
    // Anew, with another place for the state, and from the state of a run that was broken off.
    let fresh = folder.path().join("fresh.json");
    let kept = kept_state(&server, file, folder.path());
    for more in [
        vec!["--restart"],
        vec!["--state", fresh.to_str().unwrap()],
        vec!["--state", kept.to_str().unwrap()],
    ] {
        let again = import(&server, file, &more);
        assert_eq!(again["read"], ROWS);
        assert_eq!(again["recorded"], 0, "{more:?}");
        assert_eq!(again["duplicates"], answered, "{more:?}");
        assert_eq!(again["refused"], report["refused"], "{more:?}");
        assert_eq!(again["store"], report["store"], "{more:?}");
        file_equals_store(&again);
        assert_eq!(clients.lifetime("").await, totals, "{more:?}");
        assert_eq!(clients.everything().await, everything, "{more:?}");
    }
}

#[tokio::test]
async fn an_import_with_refused_rows_fails_if_it_is_strict_and_says_which() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let rows = [
        r#"{"provider":"openai","response_id":"a","request_model":"gpt-4o","usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}"#,
        r#"{"provider":"openai","response_id":"b","request_model":"gpt-4o","usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":11}}"#,
        "no row",
        r#"{"provider":"openai","response_id":"a","request_model":"gpt-4o","usage":{"prompt_tokens":8,"completion_tokens":3,"total_tokens":11}}"#,
    ];
    fs::write(folder.path().join("rows.jsonl"), rows.join("\n")).unwrap();
    let words = ["import", "provider-jsonl", "rows.jsonl", "--report", "json"];
    let report = server.run(words).success().json();
    assert_eq!(report["read"], 4);
    assert_eq!(report["recorded"], 1);
    let reasons = serde_json::json!({
        "EVENT_CONFLICT": 1, "ROW_INVALID": 1, "USAGE_CONTRADICTORY": 1
    });
    assert_eq!(report["refused"], reasons);
    let lines: Vec<_> = report["refused_rows"].as_array().unwrap().iter().collect();
    assert_eq!(
        lines.iter().map(|row| &row["line"]).collect::<Vec<_>>(),
        [1, 2, 3]
    );
    let strict = server.run(words.into_iter().chain(["--strict"]));
    assert!(!strict.status.success(), "{strict:?}");
    let totals = Clients::of(&server).await.lifetime("").await;
    assert_eq!((totals.requests, totals.total_tokens), (1, 10));
}
