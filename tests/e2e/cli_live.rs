//! The commands that correct, export and watch, as people run them.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use tokenmeter_api::v1;
use tokenmeter_tests::{Process, Server, wait_until};

use crate::support::{Clients, EVENT_NANO_USD, EVENT_TOKENS, event, line, lines};

/// An event with one token in and one out of a model that has no price.
fn unpriced(event_id: &str) -> v1::UsageEvent {
    let mut one = line(v1::TokenCounts {
        input: 1_000,
        output: 1_000,
        ..Default::default()
    });
    one.model = "in-house-1".into();
    v1::UsageEvent {
        usage: Some(lines(vec![one])),
        ..event(event_id)
    }
}

fn json_of<'a>(server: &Server, words: impl IntoIterator<Item = &'a str>) -> Value {
    let words = words.into_iter().chain(["--output", "json"]);
    server.run(words).success().json()
}

const PRICE: &str = r#"
[[price]]
provider = "anthropic"
model = "in-house-1"

[price.standard]
input = "2"
output = "4"
"#;

#[tokio::test]
async fn a_void_says_what_it_took_out_and_again_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    for id in ["a", "b"] {
        clients.record(event(id)).await.unwrap();
    }
    let words = ["void", "a", "--reason", "wrong user"];
    let voided = json_of(&server, words);
    assert_eq!(voided["total_tokens"], EVENT_TOKENS);
    assert_eq!(voided["cost_nano_usd"], EVENT_NANO_USD);
    assert_eq!(voided["already_voided"], false);
    let totals = clients.lifetime("ada").await;
    assert_eq!((totals.requests, totals.total_tokens), (1, EVENT_TOKENS));
    // The same command is the same request; another reason is another.
    assert_eq!(json_of(&server, words), voided);
    let other = json_of(&server, ["void", "a", "--reason", "another"]);
    assert_eq!(other["already_voided"], true);
    assert_eq!(clients.lifetime("ada").await, totals);

    let text = server
        .run(["void", "b", "--reason", "all of it"])
        .success()
        .stdout;
    assert!(
        text.contains("2,505 tokens") && text.contains("$0.00336"),
        "{text}"
    );
    let listed = json_of(&server, ["events", "list", "--event-id", "b"]);
    assert_eq!(listed["events"][0]["voided"], true);
    assert_eq!(listed["events"][0]["void_reason"], "all of it");
    let absent = server.run(["void", "c", "--reason", "r"]);
    assert!(
        !absent.status.success() && absent.stderr.contains("NOT_FOUND"),
        "{absent:?}"
    );
}

#[tokio::test]
async fn a_reprice_shows_what_it_would_do_wants_a_yes_and_does_it() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    clients.record(event("priced")).await.unwrap();
    for id in ["a", "b"] {
        clients.record(unpriced(id)).await.unwrap();
    }
    let nothing = json_of(&server, ["reprice", "--yes"]);
    assert_eq!(
        (&nothing["lines_priced"], &nothing["lines_unpriced"]),
        (&json!(0), &json!(2))
    );

    fs::write(folder.path().join("prices.toml"), PRICE).unwrap();
    server.run(["prices", "set", "prices.toml"]).success();
    let before = clients.lifetime("ada").await;
    let preview = json_of(&server, ["reprice", "--dry-run"]);
    assert_eq!(
        (&preview["dry_run"], &preview["lines_priced"]),
        (&json!(true), &json!(2))
    );
    let asked = server.run(["reprice"]);
    assert!(
        !asked.status.success() && asked.stderr.contains("--yes"),
        "{asked:?}"
    );
    assert!(asked.stdout.contains("in-house-1"), "{}", asked.stdout);
    assert_eq!(clients.lifetime("ada").await, before);

    let done = json_of(&server, ["reprice", "--model", "in-house-1", "--yes"]);
    assert_eq!(done["models"], preview["models"]);
    // 1,000 × $2 + 1,000 × $4 per million tokens, twice.
    assert_eq!(done["cost_after_nano_usd"], 2 * 6_000_000);
    let after = clients.lifetime("ada").await;
    assert_eq!((before.unpriced_lines, after.unpriced_lines), (2, 0));
    let again = json_of(&server, ["reprice", "--yes"]);
    assert_eq!(again["lines_priced"], 0);
}

#[tokio::test]
async fn the_sessions_with_most_use_are_on_top() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    for (id, session) in [("a", "small"), ("b", "large"), ("c", "large")] {
        let session_id = session.to_owned();
        clients
            .record(v1::UsageEvent {
                session_id,
                ..event(id)
            })
            .await
            .unwrap();
    }
    for by in ["tokens", "cost"] {
        let top = json_of(&server, ["top", "--by", by]);
        assert_eq!(top["sessions"][0]["session_id"], "large");
        assert_eq!(
            top["sessions"][0]["totals"]["total_tokens"],
            2 * EVENT_TOKENS
        );
        assert_eq!(top["sessions"][1]["session_id"], "small");
    }
    let text = server.run(["top", "--limit", "1"]).success().stdout;
    assert!(text.contains("large") && !text.contains("small"), "{text}");
}

#[tokio::test]
async fn an_export_imported_elsewhere_has_equal_totals() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    let events = (0..2_500).map(|n| v1::UsageEvent {
        turn: Some(n % 7),
        session_id: format!("s-{}", n % 11),
        latency_ms: Some(n),
        ..if n % 5 == 0 {
            unpriced(&format!("e{n}"))
        } else {
            event(&format!("e{n}"))
        }
    });
    let events: Vec<_> = events.collect();
    for part in events.chunks(1_000) {
        clients.batch(part.to_vec()).await.unwrap();
    }
    server.run(["void", "e1", "--reason", "r"]).success();

    let words = [
        "export",
        "--include-voided",
        "--out",
        "all.jsonl",
        "--output",
        "json",
    ];
    let exported = server.run(words).success();
    let report: Value = serde_json::from_str(exported.stderr.trim()).unwrap();
    assert_eq!(
        (&report["events"], &report["equal"]),
        (&json!(2_500), &json!(true))
    );
    let file = fs::read_to_string(folder.path().join("all.jsonl")).unwrap();
    assert_eq!(file.lines().count(), 2_500);
    // Without a file the same lines go to standard output, voided ones left out.
    let printed = server.run(["export"]).success().stdout;
    assert_eq!(printed.lines().count(), 2_499);
    // A reader that goes away has a part only, and that is no success.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let gone = server.client(["export"]).stdout(writer).output().unwrap();
    let said = String::from_utf8(gone.stderr).unwrap();
    assert_eq!(gone.status.code(), Some(1), "{said}");
    assert!(said.contains("the export is not whole"), "{said}");

    let words = [
        "import",
        "events-jsonl",
        "all.jsonl",
        "--tenant",
        "copy",
        "--report",
        "json",
    ];
    let imported = server.run(words).success().json();
    assert_eq!(
        (&imported["recorded"], &imported["skipped"]),
        (&json!(2_499), &json!(1))
    );
    assert_eq!(imported["equal"], true, "{imported}");
    for words in [&["usage", "models"][..], &["usage", "session", "s-3"]] {
        let words = words.iter().copied();
        let own = json_of(&server, words.clone());
        let copy = json_of(&server, words.chain(["--tenant", "copy"]));
        assert_eq!(own["totals"], copy["totals"]);
        assert_eq!(own["models"], copy["models"]);
    }

    // What was voided since is left out on both sides.
    let void = ["void", "e2", "--reason", "r", "--tenant", "copy"];
    server.run(void).success();
    let again = server.run(words).success().json();
    assert_eq!(again["equal"], true, "{again}");
    assert_eq!(
        (&again["duplicates"], &again["store"]["voided"]),
        (&json!(2_499), &json!(1))
    );
    assert_eq!(again["file"]["events"], 2_498);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_shows_what_happens_and_goes_on_where_it_ended() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    let file = ["--token-file", "token", "--output", "json"];
    let words = ["watch", "--user", "ada"].into_iter().chain(file);
    let mut watch = Process::spawn(&mut server.client(words.clone()));
    let limit = Duration::from_secs(30);
    let token = folder.path().join("token");
    wait_until("the first token", limit, || fs::read_to_string(&token).ok());

    let bob = v1::UsageEvent {
        user_id: "bob".into(),
        ..event("x")
    };
    clients.record(bob).await.unwrap();
    clients.record(event("a")).await.unwrap();
    wait_until("the event", limit, || watch.stdout().pop());
    // The connection is lost, and found again.
    server.kill();
    server.restart();
    let mut clients = Clients::of(&server).await;
    clients.record(event("b")).await.unwrap();
    server.run(["void", "a", "--reason", "r"]).success();
    let seen = wait_until("the void", limit, || {
        Some(watch.stdout()).filter(|l| l.len() == 3)
    });
    let seen: Vec<Value> = seen
        .iter()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let what = |n: usize| {
        (
            seen[n]["type"].as_str(),
            seen[n]["event"]["event_id"].as_str(),
        )
    };
    assert_eq!(what(0), (Some("usage_recorded"), Some("a")));
    assert_eq!(what(1), (Some("usage_recorded"), Some("b")));
    assert_eq!(what(2), (Some("usage_voided"), Some("a")));
    watch.terminate();
    assert!(watch.wait(limit).success());

    // What happens meanwhile is shown by the next watch.
    clients.record(event("c")).await.unwrap();
    let next = server.run(words.chain(["--count", "1"])).success();
    let shown: Value = serde_json::from_str(next.stdout.trim()).unwrap();
    assert_eq!(shown["event"]["event_id"], "c");
    let token = fs::read_to_string(token).unwrap();
    assert!(next.stderr.contains(token.trim()), "{}", next.stderr);
    let other = server.run(["watch", "--user", "bob", "--resume", token.trim()]);
    assert!(
        other.stderr.contains("RESUME_TOKEN_FILTER_MISMATCH"),
        "{}",
        other.stderr
    );
}
