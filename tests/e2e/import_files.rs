//! Files of usage events and tables go into the store, and the store says the same as the file.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use serde_json::{Value, json};
use tokenmeter_tests::{Server, shared_data};

use crate::support::{Clients, nano_usd};

/// The Azure trace: rows, prompt tokens, generated tokens, as `awk` adds them up.
const AZURE: (i64, i64, i64) = (8_819, 18_059_974, 245_896);

fn run(server: &Server, format: &str, file: &str, more: &[&str]) -> Value {
    let words = ["import", format, file, "--report", "json"];
    let words = words.into_iter().chain(more.iter().copied());
    server.run(words).success().json()
}

fn gzip(path: &Path, text: &str) {
    let file = fs::File::create(path).unwrap();
    let mut packed = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    packed.write_all(text.as_bytes()).unwrap();
    packed.finish().unwrap();
}

/// What the trace's columns are.
const TRACE: [&str; 10] = [
    "--map",
    "request_time=TIMESTAMP",
    "--map",
    "prompt=ContextTokens",
    "--map",
    "output=GeneratedTokens",
    "--set",
    "provider=openai",
    "--set",
    "model=gpt-4o",
];

#[tokio::test]
async fn a_trace_of_a_service_stands_as_its_rows_add_up() {
    let Some(file) = shared_data("azure_llm_code_2023.csv") else {
        return;
    };
    let file = file.canonicalize().unwrap();
    let rows = fs::read_to_string(&file).unwrap();
    let mut sums = (0, 0, 0);
    for row in rows.lines().skip(1) {
        let mut columns = row.split(',').skip(1).map(|n| n.parse::<i64>().unwrap());
        sums.0 += 1;
        sums.1 += columns.next().unwrap();
        sums.2 += columns.next().unwrap();
    }
    assert_eq!(sums, AZURE);

    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let report = run(&server, "csv", file.to_str().unwrap(), &TRACE);
    assert_eq!(report["equal"], true, "{report}");
    assert_eq!(report["recorded"], AZURE.0);
    assert_eq!(report["undated"], 0);
    let mut clients = Clients::of(&server).await;
    let totals = clients.lifetime("").await;
    assert_eq!(totals.requests, AZURE.0);
    assert_eq!(
        (totals.prompt_tokens, totals.completion_tokens),
        (AZURE.1, AZURE.2)
    );
    // gpt-4o: $2.50 and $10 per million tokens.
    let cost = AZURE.1 * 2_500 + AZURE.2 * 10_000;
    assert_eq!(nano_usd(totals.cost.as_ref()), cost);

    // A compressed copy is the same file: every row is found recorded.
    let packed = folder.path().join("trace.csv.gz");
    gzip(&packed, &rows);
    let again = run(&server, "csv", packed.to_str().unwrap(), &TRACE);
    assert_eq!(
        (&again["recorded"], &again["duplicates"]),
        (&json!(0), &json!(AZURE.0))
    );
    assert_eq!(again["store"], report["store"]);
    assert_eq!(clients.lifetime("").await, totals);
}

#[tokio::test]
async fn a_table_with_bad_rows_says_which_column_and_why() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let table = "\u{feff}id,who,when,model,in,read,out,tag\r\n\
                 a,ada,1767225600.5,\"gpt-4o\",100,20,7,x\r\n\
                 b,bob,1767225601,gpt-4o,-1,0,7,x\r\n\
                 \"c\"\"\n,1\",ada,1767225602,gpt-4o,5,6,7,\r\n\
                 d,,1767225603,gpt-4o,5,5,7,y\r\n\
                 e,ada,then,gpt-4o,5,5,7,y";
    fs::write(folder.path().join("table.csv"), table).unwrap();
    let words = [
        "--map",
        "event_id=id",
        "--map",
        "user_id=who",
        "--map",
        "request_time=when",
        "--map",
        "model=model",
        "--map",
        "prompt=in",
        "--map",
        "cache_read=read",
        "--map",
        "output=out",
        "--map",
        "label.tag=tag",
        "--set",
        "provider=openai",
        "--time-unit",
        "s",
        "--user",
        "eve",
    ];
    let report = run(&server, "csv", "table.csv", &words);
    assert_eq!(report["recorded"], 2, "{report}");
    assert_eq!(
        report["refused"],
        json!({"ROW_INVALID": 2, "USAGE_CONTRADICTORY": 1})
    );
    let refused: Vec<_> = report["refused_rows"].as_array().unwrap().iter().collect();
    assert_eq!(
        refused.iter().map(|row| &row["line"]).collect::<Vec<_>>(),
        [2, 3, 6]
    );
    assert_eq!(
        refused[0]["message"],
        "column 5 (\"in\"), prompt: is not a whole number from 0 to 1000000000"
    );
    assert_eq!(report["equal"], true);
    let mut clients = Clients::of(&server).await;
    let event = clients.find("a").await.unwrap();
    assert_eq!(event.counts.unwrap().input, 80);
    assert_eq!(event.request_time.unwrap().nanos, 500_000_000);
    assert_eq!(event.labels[0].value, "x");
    assert_eq!(clients.find("d").await.unwrap().user_id, "eve");

    // What would make every row wrong changes nothing.
    let wrong = server.run(["import", "csv", "table.csv", "--map", "output=tokens"]);
    assert!(!wrong.status.success());
    assert!(
        wrong.stderr.contains("provider is required"),
        "{}",
        wrong.stderr
    );
}

#[tokio::test]
async fn usage_events_are_read_in_both_spellings_and_again_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let rows = [
        r#"{"eventId":"a","userId":"ada","provider":"anthropic","requestTime":"2026-07-01T00:00:00Z","lines":{"lines":[{"model":"claude-sonnet-4-5","counts":{"input":"120","cacheRead":"2000","cacheWrite":{"ttl5m":"300"},"output":"85"}}]}}"#,
        r#"{"event_id":"b","session_id":"s","provider":"openai","labels":[{"key":"k","value":"v"}],"provider_usage":{"api":"chat_completions","model":"gpt-4o","usage_json":"{\"prompt_tokens\":7,\"completion_tokens\":3,\"total_tokens\":10}"}}"#,
        r#"{"eventId":"c","provider":"openai","prompt":"secret"}"#,
        "",
        r#"{"provider":"openai","lines":{"lines":[{"model":"gpt-4o","counts":{"input":1}}]}}"#,
        r#"{"eventId":"a","userId":"ada","provider":"anthropic","lines":{"lines":[{"model":"claude-sonnet-4-5","counts":{"input":1}}]}}"#,
    ]
    .join("\n");
    gzip(&folder.path().join("events.jsonl.gz"), &rows);
    let report = run(&server, "events-jsonl", "events.jsonl.gz", &[]);
    assert_eq!(report["recorded"], 3, "{report}");
    assert_eq!(
        report["refused"],
        json!({"EVENT_CONFLICT": 1, "ROW_INVALID": 1})
    );
    let message = report["refused_rows"][0]["message"].as_str().unwrap();
    assert!(
        message.starts_with("the row has the key \"prompt\""),
        "{message}"
    );
    assert_eq!(report["file"]["total"], 2_505 + 10 + 1);
    assert_eq!(report["equal"], true);

    fs::write(folder.path().join("events.jsonl"), &rows).unwrap();
    let again = run(&server, "events-jsonl", "events.jsonl", &["--restart"]);
    assert_eq!(
        (&again["recorded"], &again["duplicates"]),
        (&json!(0), &json!(3))
    );
    assert_eq!(again["store"], report["store"]);
}
