//! The command line against a running server: JSON for programs, tables for people, the same figures.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;

use serde_json::{Value, json};
use tokenmeter_api::v1;
use tokenmeter_tests::{Server, backend, shared_data};

use crate::support::{Clients, EVENT_NANO_USD, EVENT_TOKENS, event, openai};

/// Entries of the recorded price file, as its makers count them.
const ENTRIES: i64 = 4_553;
/// Rows of the recorded responses.
const ROWS: usize = 1_533;

/// A server with three events: two priced ones and one of a model without a price.
async fn with_events(folder: &std::path::Path) -> Server {
    let server = Server::start(folder);
    let mut clients = Clients::of(&server).await;
    let mut unpriced = openai(
        "e-3",
        r#"{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}"#,
    );
    if let Some(v1::usage_event::Usage::ProviderUsage(usage)) = &mut unpriced.usage {
        usage.model = "unheard-of".into();
    }
    let timed = v1::UsageEvent {
        latency_ms: Some(1_500),
        turn: Some(1),
        ..event("e-1")
    };
    for event in [timed, event("e-2"), unpriced] {
        clients.record(event).await.unwrap();
    }
    server
}

/// What a command prints for programs, and for people.
fn both(server: &Server, words: &[&str]) -> (Value, String) {
    let json = words.iter().copied().chain(["--output", "json"]);
    let json = server.run(json).success();
    assert_eq!(json.stdout.lines().count(), 1, "one object on one line");
    let table = server.run(words.iter().copied()).success().stdout;
    (json.json(), table)
}

fn shows(table: &str, figures: &[&str]) {
    for figure in figures {
        assert!(table.contains(figure), "{figure} is not shown:\n{table}");
    }
}

fn is(totals: &Value, expected: &[(&str, i64)]) {
    for (field, value) in expected {
        assert_eq!(totals[*field], *value, "{field}: {totals}");
    }
}

#[tokio::test]
async fn totals_are_told_by_user_session_and_model() {
    let folder = tempfile::tempdir().unwrap();
    let server = with_events(folder.path()).await;
    let priced = [
        ("requests", 2),
        ("total_tokens", 2 * EVENT_TOKENS),
        ("cost_nano_usd", 2 * EVENT_NANO_USD),
    ];
    let all = [
        ("requests", 3),
        ("total_tokens", 2 * EVENT_TOKENS + 12),
        ("prompt_tokens", 2 * 2_420 + 5),
        ("completion_tokens", 2 * 85 + 7),
        ("cost_nano_usd", 2 * EVENT_NANO_USD),
        ("unpriced_lines", 1),
    ];
    let (json, table) = both(&server, &["usage", "user", "ada"]);
    assert_eq!(json["user_id"], "ada");
    let intervals = json["intervals"].as_array().unwrap();
    let names: Vec<_> = intervals.iter().map(|one| &one["interval"]).collect();
    assert_eq!(names, ["lifetime", "last_24_hours"]);
    for interval in intervals {
        is(&interval["totals"], &all);
        assert_eq!(interval["totals"]["cost_usd"], "0.00672");
    }
    shows(
        &table,
        &["user ada", "lifetime", "5,022", "$0.00672", "4,000"],
    );

    let (json, table) = both(&server, &["usage", "session", "s-1"]);
    assert_eq!(
        (&json["session_id"], &json["user_id"]),
        (&json!("s-1"), &json!("ada"))
    );
    is(&json["totals"], &priced);
    assert_eq!(json["turns"], 1);
    assert_eq!(json["models"][0]["model"], "claude-sonnet-4-5");
    shows(
        &table,
        &[
            "session s-1 of user ada",
            "claude-sonnet-4-5",
            "5,010",
            "$0.00672",
        ],
    );

    let (json, table) = both(&server, &["usage", "models"]);
    is(&json["totals"], &all);
    let models = json["models"].as_array().unwrap();
    assert_eq!(models.len(), 2);
    is(&models[0]["totals"], &priced);
    assert_eq!(models[1]["model"], "unheard-of");
    assert_eq!((&json["users"], &json["sessions"]), (&json!(1), &json!(1)));
    assert_eq!(models[0]["response_time"]["mean_ms"], 1_500);
    shows(
        &table,
        &["anthropic", "unheard-of", "1,500", "1 users, 1 sessions"],
    );
    let (json, _) = both(&server, &["usage", "models", "--provider", "openai"]);
    is(
        &json["totals"],
        &[("requests", 1), ("total_tokens", 12), ("cost_nano_usd", 0)],
    );
    let (json, _) = both(&server, &["usage", "user", "nobody"]);
    is(&json["intervals"][0]["totals"], &[("requests", 0)]);
}

#[tokio::test]
async fn events_and_unpriced_models_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    let server = with_events(folder.path()).await;
    let (json, table) = both(&server, &["events", "list"]);
    let ids = |json: &Value| {
        let events = json["events"].as_array().unwrap().iter();
        events
            .map(|event| event["event_id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(&json), ["e-3", "e-2", "e-1"]);
    assert_eq!(json["more"], false);
    let last = &json["events"][2];
    is(
        last,
        &[
            ("total_tokens", EVENT_TOKENS),
            ("cost_nano_usd", EVENT_NANO_USD),
            ("turn", 1),
            ("latency_ms", 1_500),
        ],
    );
    assert_eq!(last["counts"]["cache_write"]["ttl_5m"], 300);
    assert_eq!(json["events"][0]["cost_nano_usd"], Value::Null);
    shows(
        &table,
        &["e-1", "claude-sonnet-4-5", "2,000", "$0.00336", "unpriced"],
    );
    for (filter, expected) in [
        (vec!["--model", "unheard-of"], vec!["e-3"]),
        (vec!["--unpriced"], vec!["e-3"]),
        (vec!["--session", "s-1", "--turn", "1"], vec!["e-1"]),
        (vec!["--event-id", "e-2"], vec!["e-2"]),
        (vec!["--user", "nobody"], vec![]),
        (vec!["--limit", "1"], vec!["e-3"]),
    ] {
        let words: Vec<_> = ["events", "list"].into_iter().chain(filter).collect();
        let (json, _) = both(&server, &words);
        assert_eq!(ids(&json), expected, "{words:?}");
        assert_eq!(json["more"], words.contains(&"--limit"), "{words:?}");
    }
    let (json, table) = both(&server, &["prices", "unpriced"]);
    assert_eq!(json["total_lines"], 1);
    is(&json["models"][0], &[("lines", 1), ("total_tokens", 12)]);
    assert_eq!(json["models"][0]["priceable"], false);
    shows(&table, &["unheard-of", "12", "1 unpriced lines"]);
}

#[tokio::test]
async fn prices_are_set_and_listed_and_price_what_comes_after() {
    let folder = tempfile::tempdir().unwrap();
    let server = with_events(folder.path()).await;
    let file = "[[price]]\nprovider = \"openai\"\nmodel = \"unheard-of\"\neffective_from = \"always\"\n\
                source = \"the vendor's page\"\n[price.standard]\ninput = \"2.00\"\noutput = \"8.00\"\n";
    fs::write(folder.path().join("prices.toml"), file).unwrap();
    let set = ["prices", "set", "prices.toml", "--output", "json"];
    let dry = server
        .run(set.into_iter().chain(["--dry-run"]))
        .success()
        .json();
    assert_eq!(
        (&dry["dry_run"], &dry["unchanged"]),
        (&json!(true), &json!(0))
    );
    let of = ["prices", "list", "--model", "unheard-of"];
    assert_eq!(
        both(&server, &of).0["prices"],
        json!([]),
        "a dry run changed something"
    );
    let once = server.run(set).success().json();
    assert_eq!(once["prices"].as_array().unwrap().len(), 1);
    let twice = server.run(set).success().json();
    assert_eq!(
        (&twice["prices"], &twice["unchanged"]),
        (&json!([]), &json!(1))
    );
    let (json, table) = both(&server, &of);
    assert_eq!(json["prices"].as_array().unwrap().len(), 1);
    assert_eq!(json["prices"][0]["source"], "the vendor's page");
    shows(
        &table,
        &["unheard-of", "always", "2", "8", "the vendor's page"],
    );
    let usage = r#"{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}"#;
    let mut priced = openai("e-4", usage);
    if let Some(v1::usage_event::Usage::ProviderUsage(usage)) = &mut priced.usage {
        usage.model = "unheard-of".into();
    }
    let mut clients = Clients::of(&server).await;
    let recorded = clients.record(priced).await.unwrap();
    assert_eq!(recorded.cost.unwrap().nanos, 5 * 2_000 + 7 * 8_000);
    // What was recorded before stays unpriced until it is repriced.
    assert_eq!(
        both(&server, &["prices", "unpriced"]).0["models"][0]["priceable"],
        true
    );
    let (json, _) = both(&server, &["prices", "list", "--provider", "anthropic"]);
    let prices = json["prices"].as_array().unwrap();
    assert!(prices.len() > 5 && prices.iter().all(|price| price["provider"] == "anthropic"));
    fs::write(
        folder.path().join("bad.toml"),
        file.replace("2.00", "-2.00"),
    )
    .unwrap();
    let bad = server.run(["prices", "set", "bad.toml"]);
    assert!(
        !bad.status.success() && bad.stderr.starts_with("error: "),
        "{bad:?}"
    );
}

/// The keys of the recorded price file.
fn keys(file: &std::path::Path) -> BTreeSet<String> {
    let mut text = String::new();
    let packed = fs::File::open(file).unwrap();
    flate2::read::GzDecoder::new(packed)
        .read_to_string(&mut text)
        .unwrap();
    let entries: BTreeMap<String, serde_json::value::Value> = serde_json::from_str(&text).unwrap();
    entries.into_keys().collect()
}

#[tokio::test]
async fn a_price_file_is_imported_whole_and_once() {
    let Some(file) = shared_data("litellm_model_prices.json.gz") else {
        return;
    };
    let file = file.canonicalize().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let words = [
        "prices",
        "import",
        file.to_str().unwrap(),
        "--output",
        "json",
    ];
    let dry = server
        .run(words.into_iter().chain(["--dry-run"]))
        .success()
        .json();
    let first = server.run(words).success().json();
    is(&first, &[("entries", ENTRIES), ("invalid", 0)]);
    for count in ["added", "changed", "unchanged", "skipped"] {
        assert_eq!(
            dry[count], first[count],
            "the dry run said otherwise: {count}"
        );
    }
    let count = |report: &Value, key: &str| report[key].as_i64().unwrap();
    let kept = |report: &Value| {
        ["added", "changed", "unchanged"]
            .map(|key| count(report, key))
            .iter()
            .sum::<i64>()
    };
    assert!(count(&first, "added") > 1_000, "{first}");

    // Every entry was imported, or is listed by its key with a reason.
    let keys = keys(&file);
    let mut left_out = BTreeSet::new();
    for problem in first["problems"].as_array().unwrap() {
        let entry = problem["entry"].as_str().unwrap();
        assert!(keys.contains(entry), "{entry} is no entry of the file");
        assert!(
            !problem["description"].as_str().unwrap().is_empty(),
            "{entry}"
        );
        if problem["imported"] == false {
            left_out.insert(entry.to_owned());
        }
    }
    assert_eq!(left_out.len() as i64, count(&first, "skipped"));
    assert_eq!(
        kept(&first) + count(&first, "skipped"),
        ENTRIES,
        "entries are lost"
    );
    assert!(keys.len() as i64 >= ENTRIES);

    let second = server.run(words).success().json();
    is(
        &second,
        &[("entries", ENTRIES), ("added", 0), ("changed", 0)],
    );
    assert_eq!(count(&second, "unchanged"), kept(&first));
    assert_eq!(second["version"], first["version"]);
    assert_eq!(second["changes"], json!([]));
    let table = server.run(words.into_iter().take(3)).success().stdout;
    shows(&table, &["4,553", "entries", "unchanged"]);
}

#[test]
fn every_recorded_row_is_normalised_in_the_documented_order_of_keys() {
    let Some(file) = shared_data("provider_usage.jsonl") else {
        return;
    };
    let file = file.canonicalize().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let text = server
        .run(["normalize", file.to_str().unwrap()])
        .success()
        .stdout;
    assert_eq!(text.lines().count(), ROWS);
    let order = [
        "line",
        "provider",
        "input",
        "cache_read",
        "cache_write",
        "output",
        "reasoning",
        "error",
    ];
    for (n, line) in text.lines().enumerate() {
        let mut from = 0;
        for key in order {
            let key = format!("\"{key}\":");
            let at = line[from..]
                .find(&key)
                .unwrap_or_else(|| panic!("no {key} in its place: {line}"));
            assert!(from == 0 || line[..from + at].ends_with(','), "{line}");
            from += at + key.len();
        }
        let row: Value = serde_json::from_str(line).unwrap();
        assert_eq!(row["line"], n);
        let has_counts = order[2..7].iter().all(|key| row[key].is_i64());
        let has_none = order[2..7].iter().all(|key| row[key].is_null());
        assert!(
            if row["error"].is_null() {
                has_counts
            } else {
                has_none
            },
            "{line}"
        );
    }
}

// With threads of its own, the client hears that the server ends while the test waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_and_errors_are_told_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = with_events(folder.path()).await;
    let (json, table) = both(&server, &["status"]);
    assert_eq!(json["state"], "ok");
    assert_eq!(json["roles"], json!(["metering", "analytics", "admin"]));
    let names: Vec<_> = json["dependencies"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["name"])
        .collect();
    assert_eq!(names, ["ledger", "counters", "feed"]);
    assert_eq!(json["dependencies"][0]["backend"], backend().name());
    let ledger = backend().name();
    shows(&table, &["tokenmeter", "ledger", ledger, "ok", "memory"]);
    let (json, text) = both(&server, &["version"]);
    assert_eq!(
        text,
        format!("tokenmeter {}", json["version"].as_str().unwrap())
    );

    let refused = server.run(["usage", "session", "no-such"]);
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(refused.stdout, "");
    assert!(
        refused.stderr.starts_with("error: NOT_FOUND: "),
        "{}",
        refused.stderr
    );
    assert_eq!(refused.stderr.lines().count(), 1);
    let refused = server.run(["usage", "user", "--tenant", "NO"]);
    assert!(
        refused.stderr.contains("metadata.tokenmeter-tenant"),
        "{}",
        refused.stderr
    );
    // As another user of another tenant, there is nothing.
    let (json, _) = both(&server, &["usage", "models", "--tenant", "other"]);
    is(&json["totals"], &[("requests", 0)]);
    server.terminate();
    let refused = server.run(["status"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        refused.stderr.contains("tokenmeter serve"),
        "{}",
        refused.stderr
    );
}
