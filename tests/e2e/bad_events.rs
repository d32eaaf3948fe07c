//! Events outside their documented bounds: each answers which field and which bound, alone and in a
//! batch, and changes nothing; what lies on the bound passes.

use std::time::{SystemTime, UNIX_EPOCH};

use tokenmeter_api::status::Failure;
use tokenmeter_api::v1;
use tokenmeter_api::v1::ErrorReason as R;
use tokenmeter_api::v1::record_result::Result as Outcome;
use tokenmeter_tests::Server;

use crate::support::{Clients, EVENT_TOKENS, counts, event, line, lines, openai, refusal};

/// An event that has to be refused.
struct Bad {
    event: v1::UsageEvent,
    reason: R,
    /// The field within the event.
    field: String,
    /// What the description has to say of the bound.
    says: &'static str,
}

fn bad(reason: R, field: &str, says: &'static str, event: v1::UsageEvent) -> Bad {
    Bad {
        event,
        reason,
        field: field.to_owned(),
        says,
    }
}

/// The event `bad` with a change.
fn with(change: impl FnOnce(&mut v1::UsageEvent)) -> v1::UsageEvent {
    let mut event = event("bad");
    change(&mut event);
    event
}

fn with_line(change: impl FnOnce(&mut v1::UsageLine)) -> v1::UsageEvent {
    let mut one = line(counts());
    change(&mut one);
    with(|event| event.usage = Some(lines(vec![one])))
}

fn with_document(change: impl FnOnce(&mut v1::ProviderUsage)) -> v1::UsageEvent {
    let mut event = openai(
        "bad",
        r#"{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}"#,
    );
    if let Some(v1::usage_event::Usage::ProviderUsage(usage)) = &mut event.usage {
        change(usage);
    }
    event
}

fn seconds_from_now(seconds: i64) -> prost_types::Timestamp {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    prost_types::Timestamp {
        seconds: i64::try_from(now).unwrap() + seconds,
        nanos: 0,
    }
}

pub(crate) fn label(key: impl Into<String>, value: impl Into<String>) -> v1::Label {
    v1::Label {
        key: key.into(),
        value: value.into(),
    }
}

/// A setter of every text of an event, with its field.
pub(crate) type SetText = fn(&mut v1::UsageEvent, String);
pub(crate) const TEXTS: [(&str, SetText); 13] = [
    ("event_id", |e, text| e.event_id = text),
    ("user_id", |e, text| e.user_id = text),
    ("team_id", |e, text| e.team_id = text),
    ("session_id", |e, text| e.session_id = text),
    ("reservation_id", |e, text| e.reservation_id = Some(text)),
    ("service_tier", |e, text| e.service_tier = text),
    ("inference_region", |e, text| e.inference_region = text),
    ("stop_reason", |e, text| e.stop_reason = text),
    ("message.message_id", |e, text| facts(e).message_id = text),
    ("message.type", |e, text| facts(e).r#type = text),
    ("message.tool_use_id", |e, text| facts(e).tool_use_id = text),
    ("message.source_event_id", |e, text| {
        facts(e).source_event_id = text
    }),
    ("lines.lines[0].model", |e, text| {
        if let Some(v1::usage_event::Usage::Lines(usage)) = &mut e.usage {
            usage.lines[0].model = text;
        }
    }),
];

fn facts(event: &mut v1::UsageEvent) -> &mut v1::MessageFacts {
    event.message.get_or_insert_default()
}

/// A setter of every count, with its field.
type SetCount = fn(&mut v1::TokenCounts, i64);
const COUNTS: [(&str, SetCount); 15] = [
    ("input", |c, n| c.input = n),
    ("cache_read", |c, n| c.cache_read = n),
    ("cache_write.ttl_5m", |c, n| writes(c).ttl_5m = n),
    ("cache_write.ttl_30m", |c, n| writes(c).ttl_30m = n),
    ("cache_write.ttl_1h", |c, n| writes(c).ttl_1h = n),
    ("cache_write.ttl_12h", |c, n| writes(c).ttl_12h = n),
    ("cache_write.unspecified", |c, n| writes(c).unspecified = n),
    ("output", |c, n| c.output = n),
    ("reasoning", |c, n| c.reasoning = n),
    ("input_audio", |c, n| c.input_audio = n),
    ("input_image", |c, n| c.input_image = n),
    ("tool_use_prompt", |c, n| c.tool_use_prompt = n),
    ("cache_read_audio", |c, n| c.cache_read_audio = n),
    ("output_audio", |c, n| c.output_audio = n),
    ("output_image", |c, n| c.output_image = n),
];

fn writes(counts: &mut v1::TokenCounts) -> &mut v1::CacheWrites {
    counts.cache_write.get_or_insert_default()
}

fn too_long() -> Vec<Bad> {
    let long = "x".repeat(256);
    let says = "at most 255 bytes";
    let mut all: Vec<_> = TEXTS
        .iter()
        .map(|(field, set)| bad(R::FieldInvalid, field, says, with(|e| set(e, long.clone()))))
        .collect();
    let key = format!("labels[{}].key", "x".repeat(64));
    all.extend([
        bad(
            R::FieldInvalid,
            &key,
            says,
            with(|e| e.labels.push(label(long.clone(), "v"))),
        ),
        bad(
            R::FieldInvalid,
            "labels[k].value",
            says,
            with(|e| e.labels.push(label("k", long.clone()))),
        ),
        bad(
            R::FieldInvalid,
            "provider_usage.api",
            says,
            with_document(|u| u.api = long.clone()),
        ),
        bad(
            R::FieldInvalid,
            "provider_usage.model",
            says,
            with_document(|u| u.model = long.clone()),
        ),
        bad(
            R::FieldInvalid,
            "provider_usage.provider",
            says,
            with_document(|u| u.provider = long.clone()),
        ),
    ]);
    all
}

fn counts_out_of_bounds() -> Vec<Bad> {
    let mut all = Vec::new();
    for (name, set) in COUNTS {
        for n in [-1, i64::MIN, 1_000_000_001] {
            let field = format!("lines.lines[0].counts.{name}");
            let event = with_line(|line| set(line.counts.as_mut().unwrap(), n));
            all.push(bad(R::FieldInvalid, &field, "from 0 to 1000000000", event));
        }
    }
    let tool = |n| v1::ToolRequests {
        tool: "web_search".into(),
        requests: n,
    };
    all.extend([
        bad(
            R::FieldInvalid,
            "lines.lines[0].counts.reasoning",
            "which includes it",
            with_line(|line| line.counts.as_mut().unwrap().reasoning = 86),
        ),
        bad(
            R::FieldInvalid,
            "lines.lines[0].tool_requests[web_search]",
            "from 0 to 1000000",
            with_line(|line| line.tool_requests = vec![tool(-1)]),
        ),
        bad(
            R::FieldInvalid,
            "turn",
            "from 0 to 1000000000",
            with(|e| e.turn = Some(-1)),
        ),
        bad(
            R::FieldInvalid,
            "latency_ms",
            "from 0 to 604800000",
            with(|e| e.latency_ms = Some(-1)),
        ),
        bad(
            R::FieldInvalid,
            "time_to_first_token_ms",
            "latency_ms (5)",
            with(|e| {
                e.latency_ms = Some(5);
                e.time_to_first_token_ms = Some(6);
            }),
        ),
        bad(
            R::FieldInvalid,
            "message.sequence",
            "from 0 to 1000000000",
            with(|e| facts(e).sequence = Some(-1)),
        ),
    ]);
    for budget in [-1, 0, 1_023, 100_001] {
        let thinking = v1::Thinking {
            enabled: true,
            budget_tokens: Some(budget),
        };
        all.push(bad(
            R::FieldInvalid,
            "thinking.budget_tokens",
            "from 1024 to 100000",
            with(|e| e.thinking = Some(thinking)),
        ));
    }
    all
}

fn malformed() -> Vec<Bad> {
    let one_line = |n| Some(lines(vec![line(counts()); n]));
    vec![
        bad(
            R::EventIdMissing,
            "event_id",
            "required",
            with(|e| e.event_id.clear()),
        ),
        bad(
            R::FieldInvalid,
            "provider",
            "1 to 255 bytes",
            with(|e| e.provider.clear()),
        ),
        bad(
            R::UnknownProvider,
            "provider",
            "anthropic",
            with(|e| e.provider = "no-such".into()),
        ),
        bad(R::UnknownProvider, "provider", "anthropic", {
            let mut event = with_document(|_| {});
            event.provider = "no-such".into();
            event
        }),
        bad(
            R::UnknownProvider,
            "provider_usage.provider",
            "anthropic",
            with_document(|u| u.provider = "no-such".into()),
        ),
        bad(
            R::FieldInvalid,
            "status",
            "EventStatus",
            with(|e| e.status = 77),
        ),
        bad(
            R::UsageMissing,
            "usage",
            "lines or provider_usage",
            with(|e| e.usage = None),
        ),
        bad(
            R::TooManyLines,
            "lines.lines",
            "1 to 16",
            with(|e| e.usage = one_line(17)),
        ),
        bad(
            R::TooManyLines,
            "lines.lines",
            "1 to 16",
            with(|e| e.usage = one_line(0)),
        ),
        bad(
            R::FieldInvalid,
            "lines.lines[0].model",
            "required",
            with_line(|line| line.model.clear()),
        ),
    ]
}

fn bad_times_and_labels() -> Vec<Bad> {
    let labels = |n: usize| (0..n).map(|n| label(format!("k{n}"), "v")).collect();
    let at = |seconds, nanos| Some(prost_types::Timestamp { seconds, nanos });
    vec![
        bad(
            R::EventTimeInFuture,
            "request_time",
            "10 minutes",
            with(|e| e.request_time = Some(seconds_from_now(660))),
        ),
        bad(
            R::EventTimeInFuture,
            "request_time",
            "10 minutes",
            with(|e| e.request_time = at(253_402_300_799, 0)),
        ),
        bad(
            R::FieldInvalid,
            "request_time",
            "2000-01-01",
            with(|e| e.request_time = at(0, 0)),
        ),
        bad(
            R::FieldInvalid,
            "request_time.nanos",
            "from 0 to 999999999",
            with(|e| e.request_time = at(1_700_000_000, -1)),
        ),
        bad(
            R::FieldInvalid,
            "request_time.seconds",
            "seconds since",
            with(|e| e.request_time = at(i64::MAX, 0)),
        ),
        bad(
            R::FieldInvalid,
            "labels",
            "at most 64",
            with(|e| e.labels = labels(65)),
        ),
        bad(
            R::FieldInvalid,
            "labels",
            "once",
            with(|e| e.labels = vec![label("k", "a"), label("k", "b")]),
        ),
        bad(
            R::FieldInvalid,
            "labels[].key",
            "required",
            with(|e| e.labels = vec![label("", "v")]),
        ),
        bad(
            R::FieldInvalid,
            "labels[tokenmeter.x].key",
            "reserved",
            with(|e| e.labels = vec![label("tokenmeter.x", "v")]),
        ),
    ]
}

fn bad_documents() -> Vec<Bad> {
    let json = |text: &str| {
        let text = text.to_owned();
        with_document(move |u| u.usage_json = text)
    };
    let too_large = |bytes: usize| {
        let text = format!(r#"{{"x":"{}"}}"#, "x".repeat(bytes - 8));
        bad(R::UsageTooLarge, "provider_usage", "65536", json(&text))
    };
    let usage = |text: &str| json(&format!(r#"{{"usage":{text}}}"#));
    vec![
        too_large(65 * 1024),
        too_large(65_537),
        bad(
            R::UsageTooLarge,
            "provider_usage",
            "1024",
            with_document(|u| {
                u.usage_json.clear();
                u.stream_usage_json = vec!["{}".into(); 1_025];
            }),
        ),
        bad(R::UsageJsonInvalid, "provider_usage", "JSON", json("{")),
        bad(R::UsageJsonInvalid, "provider_usage", "object", json("[1]")),
        bad(R::UsageMissing, "provider_usage", "", json("{}")),
        bad(
            R::UsageCountInvalid,
            "provider_usage",
            "0 to 1000000000",
            usage(r#"{"prompt_tokens":-1,"completion_tokens":1,"total_tokens":0}"#),
        ),
        bad(
            R::UsageNegativeRemainder,
            "provider_usage",
            "",
            usage(
                r#"{"prompt_tokens":5,"completion_tokens":1,"total_tokens":6,"prompt_tokens_details":{"cached_tokens":6}}"#,
            ),
        ),
        bad(
            R::UsageContradictory,
            "provider_usage",
            "",
            usage(r#"{"prompt_tokens":5,"completion_tokens":1,"total_tokens":7}"#),
        ),
        bad(
            R::ModelMissing,
            "provider_usage",
            "model",
            with_document(|u| u.model.clear()),
        ),
        bad(
            R::FieldInvalid,
            "provider_usage",
            "exactly one",
            with_document(|u| u.usage_json.clear()),
        ),
        bad(
            R::FieldInvalid,
            "provider_usage",
            "exactly one",
            with_document(|u| u.stream_usage_json = vec!["{}".into()]),
        ),
    ]
}

/// What is wrong with a refusal, if anything.
fn fault(bad: &Bad, failure: &Failure, prefix: &str) -> Option<String> {
    let field = format!("{prefix}{}", bad.field);
    let found = failure.violations.iter().find(|(name, _)| *name == field);
    let good = failure.reason == bad.reason
        && !failure.message.is_empty()
        && found.is_some_and(|(_, text)| !text.is_empty() && text.contains(bad.says));
    (!good).then(|| format!("{:?} of {field} ({}): {failure:?}", bad.reason, bad.says))
}

fn failure_of_item(error: v1::ItemError) -> Failure {
    let mut failure = Failure::new(error.reason(), error.message);
    let violations = error.violations.into_iter();
    failure.violations = violations.map(|one| (one.field, one.description)).collect();
    failure
}

/// Sends each bad event alone and all of them in one batch between good ones.
async fn all_are_refused(bads: Vec<Bad>) {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    clients.record(event("first")).await.unwrap();
    let before = clients.everything().await;
    let mut faults = Vec::new();
    for bad in &bads {
        match clients.record(bad.event.clone()).await {
            Ok(recorded) => faults.push(format!("{}: passed: {recorded:?}", bad.field)),
            Err(status) => {
                let failure = refusal(&status);
                assert_eq!(failure.code, tonic::Code::InvalidArgument, "{failure:?}");
                faults.extend(fault(bad, &failure, "event."));
            }
        }
    }
    if clients.everything().await != before {
        faults.push("a refused event changed something".into());
    }

    let mut batch = vec![event("good-1")];
    batch.extend(bads.iter().map(|bad| bad.event.clone()));
    batch.push(event("good-2"));
    let mut outcomes = clients.batch(batch).await.unwrap().into_iter();
    let mut good = |id: &str| match outcomes.next().unwrap() {
        Outcome::Recorded(recorded) => assert_eq!(recorded.event_id, id),
        Outcome::Error(error) => panic!("{id}: {error:?}"),
    };
    good("good-1");
    let errors: Vec<_> = outcomes.by_ref().take(bads.len()).collect();
    for (bad, outcome) in bads.iter().zip(errors) {
        match outcome {
            Outcome::Error(error) => {
                assert!(!error.retryable, "{error:?}");
                faults.extend(fault(bad, &failure_of_item(error), ""));
            }
            Outcome::Recorded(recorded) => faults.push(format!("{recorded:?}")),
        }
    }
    assert!(matches!(outcomes.next(), Some(Outcome::Recorded(one)) if one.event_id == "good-2"));
    assert!(faults.is_empty(), "{faults:#?}");
    let totals = clients.lifetime("ada").await;
    assert_eq!(
        (totals.requests, totals.total_tokens),
        (3, 3 * EVENT_TOKENS)
    );
}

#[tokio::test]
async fn texts_of_256_bytes_are_refused() {
    all_are_refused(too_long()).await;
}

#[tokio::test]
async fn numbers_out_of_bounds_are_refused() {
    all_are_refused(counts_out_of_bounds()).await;
}

#[tokio::test]
async fn malformed_events_are_refused() {
    all_are_refused(malformed()).await;
}

#[tokio::test]
async fn times_and_labels_out_of_bounds_are_refused() {
    all_are_refused(bad_times_and_labels()).await;
}

#[tokio::test]
async fn documents_that_are_no_usage_are_refused() {
    all_are_refused(bad_documents()).await;
}

#[tokio::test]
async fn what_lies_on_its_bound_is_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    let mut longest = event("");
    for (_, set) in TEXTS {
        set(&mut longest, "ü".repeat(127) + "x");
    }
    longest.labels = (0..64)
        .map(|n| label(format!("{n:0>255}"), "v".repeat(255)))
        .collect();
    let at = Some(seconds_from_now(590));
    let budget = |n| {
        Some(v1::Thinking {
            enabled: true,
            budget_tokens: Some(n),
        })
    };
    let mut on_bounds = vec![
        longest.clone(),
        v1::UsageEvent {
            thinking: budget(1_024),
            ..event("b-1")
        },
        v1::UsageEvent {
            thinking: budget(100_000),
            ..event("b-2")
        },
        v1::UsageEvent {
            request_time: at,
            ..event("b-3")
        },
        v1::UsageEvent {
            usage: Some(lines(vec![line(counts()); 16])),
            ..event("b-4")
        },
    ];
    let head = r#"{"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2},"x":""#;
    let pad = "x".repeat(65_536 - head.len() - 2);
    on_bounds.push(openai("b-5", &format!("{head}{pad}\"}}")));
    let sent = on_bounds.len();
    for outcome in clients.batch(on_bounds).await.unwrap() {
        assert!(matches!(outcome, Outcome::Recorded(_)), "{outcome:?}");
    }
    assert_eq!(clients.all_events().await.len(), sent);
    let stands = clients.find(&longest.event_id).await.unwrap();
    assert_eq!(stands.labels.len(), 64);
    assert_eq!(stands.message, longest.message);
    assert_eq!(stands.reservation_id, longest.reservation_id.unwrap());
    let thinking = clients.find("b-2").await.unwrap().thinking.unwrap();
    assert_eq!(thinking.budget_tokens, Some(100_000));
}
