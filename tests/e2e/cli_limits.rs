//! The commands of limits against a running server, for people and for programs.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokenmeter_tests::Server;

/// How long what is effective within a second may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a command prints for programs.
fn told(server: &Server, words: &str) -> Value {
    let words = words.split(' ').chain(["--output", "json"]);
    let finished = server.run(words).success();
    assert_eq!(finished.stdout.lines().count(), 1, "one object on one line");
    finished.json()
}

/// What a command prints for people.
fn shown(server: &Server, words: &str) -> String {
    server.run(words.split(' ')).success().stdout
}

/// What a command that fails says.
fn refused(server: &Server, words: &str) -> String {
    let finished = server.run(words.split(' '));
    assert_eq!(finished.status.code(), Some(1), "{finished:?}");
    assert_eq!(finished.stderr.lines().count(), 1, "{finished:?}");
    finished.stderr
}

fn specs(profile: &Value) -> Vec<&str> {
    let limits = profile["limits"].as_array().unwrap().iter();
    limits.map(|one| one["spec"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_profile_is_set_given_and_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let all = told(&server, "limits profiles");
    let ids: Vec<_> = all["profiles"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["profile_id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["enterprise", "free", "pro", "unlimited"]);
    let free = told(&server, "limits show free");
    assert_eq!(
        specs(&free),
        [
            "user:requests/minute=10,name=requests-per-minute",
            "user:requests/hour=50,name=requests-per-hour",
            "user:tokens/month=1000000,name=tokens-per-month"
        ]
    );
    let table = shown(&server, "limits show free");
    for words in ["profile free", "requests/minute", "1,000,000", "block"] {
        assert!(table.contains(words), "{words} is not shown:\n{table}");
    }

    let set = "limits set team --limit requests/minute=30 \
               --limit team:cost/month=250.50,overage,name=team-budget";
    let created = told(&server, set);
    assert_eq!(
        specs(&created),
        [
            "user:requests/minute=30,name=user-requests-minute",
            "team:cost/month=250.5,overage,name=team-budget"
        ]
    );
    assert_eq!(created["limits"][1]["amount"], 250_500_000_000_i64);
    // What is not given stays.
    let named = told(&server, "limits set team --name Plan --session-budget 5000");
    assert_eq!(specs(&named), specs(&created));
    assert_eq!(
        (&named["display_name"], &named["session_budget_max_tokens"]),
        (&json!("Plan"), &json!(5_000))
    );
    assert_ne!(named["etag"], created["etag"]);

    let given = told(&server, "limits assign team --user ada");
    assert_eq!(
        (
            &given["scope"],
            &given["subject"],
            &given["previous_profile_id"]
        ),
        (&json!("user"), &json!("ada"), &json!(""))
    );
    let given = shown(&server, "limits assign team --everyone");
    assert_eq!(given, "everyone has profile team");
    let in_use = refused(&server, "limits delete team");
    assert!(in_use.contains("PROFILE_IN_USE"), "{in_use}");
    let list = told(&server, "limits assignments --profile team");
    assert_eq!(list["assignments"].as_array().unwrap().len(), 2);
    let list = shown(&server, "limits assignments --scope user");
    assert!(
        list.contains("user ada") && !list.contains("everyone"),
        "{list}"
    );

    let taken = shown(&server, "limits unassign --user ada");
    assert_eq!(taken, "user ada has no profile of its own; team applies");
    let taken = told(&server, "limits unassign --everyone");
    assert_eq!(taken["effective_profile_id"], "free");
    assert_eq!(
        shown(&server, "limits delete team"),
        "profile team is deleted"
    );
    let absent = refused(&server, "limits show team");
    assert!(absent.contains("NOT_FOUND"), "{absent}");
}

#[tokio::test]
async fn what_applies_is_shown_with_where_it_is_from() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let own = told(
        &server,
        "limits own --user ada --limit tokens/day=5_000,shadow",
    );
    assert_eq!(
        specs(&own),
        ["user:tokens/day=5000,shadow,name=user-total-tokens-day"]
    );
    let effective = told(&server, "limits effective --user ada");
    assert_eq!(effective["profile"]["profile_id"], "free");
    assert_eq!(effective["profile_scope"], Value::Null);
    assert_eq!(
        specs(&json!({"limits": effective["own_limits"]})),
        specs(&own)
    );
    let table = shown(&server, "limits effective --user ada");
    for words in [
        "profile free, by default",
        "user-total-tokens-day",
        "5,000",
        "shadow",
    ] {
        assert!(table.contains(words), "{words} is not shown:\n{table}");
    }
    let wrong = refused(&server, "limits own --user ada --limit team:tokens/day=1");
    assert!(
        wrong.contains("LIMIT_INVALID") && wrong.contains("limits[0].scope"),
        "{wrong}"
    );
    let none = shown(&server, "limits own --user ada --none");
    assert_eq!(none, "user ada has no limits of its own");
    let hits = told(&server, "limits hits --user ada");
    assert_eq!(hits, json!({"hits": [], "more": false}));
}

/// A question about a call of a model with a price.
const ASK: &str = "authorize --user ada --session s --provider anthropic --model claude-sonnet-4-5";

#[tokio::test]
async fn a_call_is_asked_for_settled_and_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let state = |answer: &Value, name: &str| {
        let states = answer["limits"].as_array().unwrap();
        let found = states.iter().find(|one| one["name"] == name);
        found.unwrap_or_else(|| panic!("{answer}")).clone()
    };
    let dry = told(
        &server,
        &format!("{ASK} --input 200 --max-output 100 --dry-run"),
    );
    assert_eq!(
        (&dry["decision"], &dry["hold"]),
        (&json!("allowed"), &Value::Null)
    );
    let settled = told(
        &server,
        &format!("{ASK} --input 200 --max-output 100 --settle 200,40"),
    );
    assert_eq!(settled["hold"]["output_tokens"], 100);
    assert_eq!(state(&settled, "tokens-per-month")["held"], 300);
    let after = &settled["settled"];
    assert_eq!(
        (
            &after["state"],
            &after["total_tokens"],
            &after["released_tokens"]
        ),
        (&json!("settled"), &json!(240), &json!(60))
    );
    let month = state(after, "tokens-per-month");
    assert_eq!(
        (&month["used"], &month["held"], &month["remaining"]),
        (&json!(240), &json!(0), &json!(999_760))
    );
    let given_back = told(&server, &format!("{ASK} --max-output 100 --release"));
    assert_eq!(given_back["released"], true);
    let held = shown(
        &server,
        &format!("{ASK} --max-output 100 --hold 60 --request-id r"),
    );
    for words in [
        "allowed: reservation",
        "100 output tokens",
        "session s:",
        "requests-per-hour",
    ] {
        assert!(held.contains(words), "{words} is not shown:\n{held}");
    }
    let again = told(
        &server,
        &format!("{ASK} --max-output 100 --hold 60 --request-id r"),
    );
    assert_eq!(again["replayed"], true);
    assert!(held.contains(again["hold"]["reservation_id"].as_str().unwrap()));

    let effective = told(&server, "limits effective --user ada");
    let effective = json!({"limits": effective["states"]});
    let minute = state(&effective, "requests-per-minute");
    assert_eq!(
        (&minute["used"], &minute["held"], &minute["remaining"]),
        (&json!(1), &json!(1), &json!(8))
    );
    assert_eq!(minute["profile_id"], "free");
    // 240 tokens in 24 hours do not use up a million before the month is over.
    assert_eq!(
        state(&effective, "tokens-per-month")["exhaustion_time"],
        Value::Null
    );
}

#[tokio::test]
async fn a_call_that_may_not_run_has_an_exit_code_of_its_own_and_is_listed() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    told(
        &server,
        "limits own --user ada --limit output/request=50,name=short-answers",
    );
    let words = format!("{ASK} --max-output 51 --output json");
    // Own limits are effective within a second; a question in a dry run uses nothing up meanwhile.
    let asked = Instant::now();
    let dry = format!("{words} --dry-run");
    while server.run(dry.split(' ')).status.code() != Some(3) {
        assert!(asked.elapsed() < PATIENCE, "the limit does not apply");
    }
    let denied = server.run(words.split(' '));
    assert_eq!(denied.status.code(), Some(3), "{denied:?}");
    assert_eq!(denied.stderr, "");
    let answer = denied.json();
    assert_eq!(
        (&answer["decision"], &answer["hold"]),
        (&json!("denied"), &Value::Null)
    );
    let refusal = &answer["refusal"];
    assert_eq!(
        (
            &refusal["cause"],
            &refusal["limit"]["name"],
            &refusal["asked"]
        ),
        (
            &json!("request_too_large"),
            &json!("short-answers"),
            &json!(51)
        )
    );
    let people = server.run(format!("{ASK} --max-output 51").split(' '));
    assert_eq!(people.status.code(), Some(3));
    let first = people.stdout.lines().next().unwrap();
    assert!(
        first.starts_with("denied: ") && first.contains("short-answers"),
        "{first}"
    );

    // Hits are written once a second.
    let mut hits = told(&server, "limits hits --user ada");
    let asked = Instant::now();
    let count = |hits: &Value| {
        let hits = hits["hits"].as_array().unwrap();
        hits.iter()
            .map(|one| one["count"].as_i64().unwrap())
            .sum::<i64>()
    };
    while count(&hits) < 2 {
        assert!(asked.elapsed() < PATIENCE, "{hits}");
        hits = told(&server, "limits hits --user ada");
    }
    let hit = &hits["hits"][0];
    assert_eq!(
        (&hit["cause"], &hit["enforcement"], &hit["state"]["name"]),
        (
            &json!("request_too_large"),
            &json!("block"),
            &json!("short-answers")
        )
    );
    let table = shown(&server, "limits hits --name short-answers --scope user");
    for words in ["short-answers", "user ada", "output/request", "block"] {
        assert!(table.contains(words), "{words} is not shown:\n{table}");
    }
    let none = told(&server, "limits hits --scope team");
    assert_eq!(none["hits"], json!([]));
}
