//! Imports against a store in memory that fails on demand.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::time::Duration;

use tokenmeter_api::convert::money::from_nano_usd;
use tokenmeter_api::status::Failure;
use tokenmeter_api::v1;
use tokenmeter_api::v1::ErrorReason;
use tokenmeter_api::v1::record_result::Result as Outcome;
use tokenmeter_model::counts::TokenCounts;
use tokio::time::sleep;
use tonic::Status;

use super::deliver::Store;
use super::plan::{Defaults, RowsOfLines};
use super::readback::{Standing, read_back};
use super::report::Report;
use super::run::{Done, Import, leave_out};
use super::state::StateFile;
use super::{events, provider};
use crate::cli::error::Error;
use crate::cli::retry::Retry;

/// What goes wrong with one call.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// Nothing.
    None,
    /// The call never arrives.
    Unreachable,
    /// The call is done, and its answer is lost.
    AnswerLost,
    /// Every second event may be sent again.
    Overloaded,
    /// The call is not allowed.
    Denied,
}

/// A store in memory.
#[derive(Default)]
struct Fake {
    events: RefCell<BTreeMap<String, v1::UsageEvent>>,
    faults: RefCell<VecDeque<Fault>>,
    /// Sizes of the batches received.
    batches: RefCell<Vec<usize>>,
    /// How many seconds each call takes.
    delays: RefCell<VecDeque<u64>>,
    /// Largest batch that is taken.
    most: Option<usize>,
    voided: Option<String>,
    /// Lists nothing but what is asked for by id.
    lists_by_id_only: bool,
    /// Answers other counts than the documents say.
    wrong: bool,
}

/// One input token for each digit after `n` of the document `{"n":1}`.
fn counts(event: &v1::UsageEvent) -> Option<TokenCounts> {
    let Some(v1::usage_event::Usage::ProviderUsage(usage)) = &event.usage else {
        return None;
    };
    let json: serde_json::Value = serde_json::from_str(&usage.usage_json).unwrap();
    Some(TokenCounts {
        input: json["prompt_tokens"].as_i64()?,
        output: json["completion_tokens"].as_i64()?,
        ..Default::default()
    })
}

impl Fake {
    fn record_one(&self, event: &v1::UsageEvent) -> Outcome {
        let error = |reason: ErrorReason| {
            Outcome::Error(v1::ItemError {
                reason: reason.into(),
                message: "refused".into(),
                ..Default::default()
            })
        };
        let Some(mut counts) = counts(event) else {
            return error(ErrorReason::UsageMissing);
        };
        let mut events = self.events.borrow_mut();
        let outcome = match events.get(&event.event_id) {
            Some(first) if first == event => v1::RecordOutcome::Duplicate,
            Some(_) => return error(ErrorReason::EventConflict),
            None => v1::RecordOutcome::Recorded,
        };
        events.insert(event.event_id.clone(), event.clone());
        counts.input += i64::from(self.wrong);
        Outcome::Recorded(v1::RecordedUsage {
            outcome: outcome.into(),
            lines: vec![v1::RecordedLine::default()],
            counts: Some(counts.into()),
            ..Default::default()
        })
    }

    fn fault(&self) -> Fault {
        self.faults.borrow_mut().pop_front().unwrap_or(Fault::None)
    }
}

impl Store for Fake {
    async fn record(&self, events: Vec<v1::UsageEvent>) -> Result<Vec<v1::RecordResult>, Status> {
        let delay = self.delays.borrow_mut().pop_front().unwrap_or_default();
        sleep(Duration::from_secs(delay)).await;
        if self.most.is_some_and(|most| events.len() > most) {
            return Err(Failure::new(ErrorReason::MessageTooLarge, "too large").into());
        }
        self.batches.borrow_mut().push(events.len());
        let fault = self.fault();
        if let Fault::Unreachable = fault {
            return Err(Status::unavailable("connection refused"));
        }
        if let Fault::Denied = fault {
            return Err(Failure::new(ErrorReason::PermissionDenied, "needs role meter").into());
        }
        let mut results = Vec::new();
        for (n, event) in events.iter().enumerate() {
            let result = match fault {
                Fault::Overloaded if n % 2 == 1 => Outcome::Error(v1::ItemError {
                    reason: ErrorReason::Overloaded.into(),
                    retryable: true,
                    ..Default::default()
                }),
                _ => self.record_one(event),
            };
            results.push(v1::RecordResult {
                result: Some(result),
            });
        }
        match fault {
            Fault::AnswerLost => Err(Status::unknown("transport error")),
            _ => Ok(results),
        }
    }

    async fn list(
        &self,
        request: v1::ListUsageEventsRequest,
    ) -> Result<v1::ListUsageEventsResponse, Status> {
        let from: usize = request.page_token.parse().unwrap_or_default();
        let by_id = !request.event_id.is_empty();
        let events = self.events.borrow();
        let matching: Vec<_> = events
            .values()
            .filter(|event| match by_id {
                true => event.event_id == request.event_id,
                false => !self.lists_by_id_only && event.user_id == request.user_id,
            })
            .map(|event| v1::RecordedEvent {
                event_id: event.event_id.clone(),
                voided: self.voided.as_ref() == Some(&event.event_id),
                lines: vec![v1::RecordedLine {
                    counts: counts(event).map(Into::into),
                    cost: event.event_id.starts_with('p').then(|| from_nano_usd(7)),
                    ..Default::default()
                }],
                ..Default::default()
            })
            .collect();
        // Pages may be shorter than asked for.
        let page: Vec<_> = matching.iter().skip(from).take(100).cloned().collect();
        let next = from + page.len();
        let more = next < matching.len();
        Ok(v1::ListUsageEventsResponse {
            events: page,
            next_page_token: if more {
                next.to_string()
            } else {
                String::new()
            },
        })
    }

    async fn caller(&self) -> Result<String, Status> {
        Ok("me".into())
    }
}

/// A row that uses `prompt` and one token of output.
fn row(id: &str, prompt: u64) -> String {
    let total = prompt + 1;
    format!(
        r#"{{"provider":"openai","api":"/v1/chat/completions","request_model":"m","response_id":"{id}","usage":{{"prompt_tokens":{prompt},"completion_tokens":1,"total_tokens":{total}}}}}"#
    )
}

fn rows(count: u64) -> String {
    (0..count)
        .map(|n| row(&format!("p{n}"), n) + "\n")
        .collect()
}

fn source(file: &str) -> RowsOfLines<&[u8]> {
    let defaults = Defaults {
        user: "u".into(),
        file_hash: "f".repeat(64),
        ..Default::default()
    };
    RowsOfLines::new(file.as_bytes(), defaults, provider::plan)
}

struct Run {
    folder: tempfile::TempDir,
    keep_trying: Duration,
}

impl Run {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            keep_trying: Duration::from_secs(60),
        }
    }

    fn state(&self) -> StateFile {
        let path = self.folder.path().join("state.json");
        StateFile::open(Some(path), "key", false).unwrap()
    }

    fn retry(&self) -> Retry {
        Retry {
            keep_trying: self.keep_trying,
            notice: Box::new(|_| {}),
        }
    }

    async fn import(&self, store: &Fake, file: &str) -> Result<Done, Error> {
        let import = Import {
            store,
            retry: &self.retry(),
        };
        import.run(source(file), &self.state(), |_| {}).await
    }

    async fn standing(&self, store: &Fake, done: &Done) -> Standing {
        read_back(store, &self.retry(), &done.accepted)
            .await
            .unwrap()
    }

    /// Imports and compares, as the command does.
    async fn report(&self, store: &Fake, file: &str) -> serde_json::Value {
        let mut done = self.import(store, file).await.unwrap();
        let standing = self.standing(store, &done).await;
        leave_out(&mut done, source(file), standing.voided.clone()).unwrap();
        self.state().remove().unwrap();
        serde_json::to_value(Report::new(&done, Some(standing))).unwrap()
    }

    fn state_exists(&self) -> bool {
        Path::exists(&self.folder.path().join("state.json"))
    }
}

#[tokio::test]
async fn conflicts_and_refusals_are_counted_and_never_stop_the_import() {
    let file = [
        row("a", 1),
        row("b", 2),
        "not json".to_owned(),
        row("a", 3),
        String::new(),
        r#"{"provider":"openai","request_model":"m"}"#.to_owned(),
        row("b", 2),
        row("p", 5),
    ]
    .join("\n");
    let report = Run::new().report(&Fake::default(), &file).await;
    assert_eq!(report["read"], 7);
    assert_eq!(report["recorded"], 3);
    assert_eq!(report["duplicates"], 1);
    let refused = serde_json::json!({"EVENT_CONFLICT": 1, "ROW_INVALID": 1, "USAGE_MISSING": 1});
    assert_eq!(report["refused"], refused);
    assert_eq!(report["file"]["events"], 3);
    assert_eq!(report["file"]["input"], 8);
    assert_eq!(report["store"]["total"], 11);
    assert_eq!(report["store"]["cost_nano_usd"], 7);
    assert_eq!(report["unpriced"], 2);
    assert_eq!(report["equal"], true);
    let lines: Vec<_> = report["refused_rows"].as_array().unwrap().iter().collect();
    let lines: Vec<_> = lines
        .iter()
        .map(|row| row["line"].as_u64().unwrap())
        .collect();
    assert_eq!(lines, [2, 3, 5]);
}

#[tokio::test(start_paused = true)]
async fn voided_events_of_an_export_are_left_out_and_counted_once() {
    let (run, store) = (Run::new(), Fake::default());
    let event = |id: &str| {
        let usage = r#"{\"prompt_tokens\":4,\"completion_tokens\":1,\"total_tokens\":5}"#;
        format!(
            r#"{{"eventId":"{id}","provider":"openai","providerUsage":{{"model":"m","usageJson":"{usage}"}}}}"#
        )
    };
    let voided = r#"{"eventId":"v","position":"7","voided":true}"#;
    let file = [voided.to_owned(), event("a"), event("a"), voided.to_owned()].join("\n");
    let import = async || {
        let (store, retry) = (&store, &run.retry());
        let rows = RowsOfLines::new(file.as_bytes(), Defaults::default(), events::plan);
        let import = Import { store, retry };
        import.run(rows, &run.state(), |_| {}).await
    };
    // The first batch passes and is noted, then the server is gone.
    let faults = [Fault::None].into_iter().chain([Fault::Unreachable; 100]);
    store.faults.borrow_mut().extend(faults);
    assert!(import().await.is_err());
    store.faults.borrow_mut().clear();
    let done = import().await.unwrap();
    assert!(done.resumed);
    let report = Report::new(&done, Some(run.standing(&store, &done).await));
    let report = serde_json::to_value(report).unwrap();
    assert_eq!(
        (&report["read"], &report["skipped"]),
        (&4.into(), &2.into())
    );
    assert_eq!(
        (&report["recorded"], &report["duplicates"]),
        (&1.into(), &1.into())
    );
    assert_eq!(
        (&report["file"]["total"], &report["equal"]),
        (&5.into(), &true.into())
    );
}

#[tokio::test]
async fn a_second_import_changes_nothing() {
    let (run, store) = (Run::new(), Fake::default());
    let file = rows(1_533);
    let first = run.report(&store, &file).await;
    assert_eq!(
        (&first["recorded"], &first["duplicates"]),
        (&1_533.into(), &0.into())
    );
    let second = run.report(&store, &file).await;
    assert_eq!(
        (&second["recorded"], &second["duplicates"]),
        (&0.into(), &1_533.into())
    );
    for key in ["file", "store", "equal", "unpriced"] {
        assert_eq!(first[key], second[key]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_row_of_an_id_wins_however_calls_overtake_each_other() {
    let store = Fake::default();
    store.delays.borrow_mut().extend([30, 1]);
    let file = row("a", 1) + "\n" + &rows(1_200) + &row("a", 2);
    let report = Run::new().report(&store, &file).await;
    assert_eq!(report["refused"]["EVENT_CONFLICT"], 1);
    assert_eq!(report["refused_rows"][0]["line"], 1_201);
    assert_eq!(counts(&store.events.borrow()["a"]).unwrap().input, 1);
    assert_eq!(report["equal"], true);
}

#[tokio::test(start_paused = true)]
async fn lost_connections_and_answers_are_retried() {
    let store = Fake::default();
    let faults = [Fault::Unreachable, Fault::AnswerLost, Fault::Overloaded];
    store.faults.borrow_mut().extend(faults);
    let report = Run::new().report(&store, &rows(10)).await;
    assert_eq!(report["file"]["events"], 10);
    assert_eq!(report["refused"], serde_json::json!({}));
    assert_eq!(report["equal"], true);
    assert_eq!(*store.batches.borrow(), [10, 10, 10, 5]);
}

#[tokio::test(start_paused = true)]
async fn patience_ends_and_the_next_run_goes_on_from_there() {
    let (run, store) = (Run::new(), Fake::default());
    // The first batch passes, then the server is gone.
    store.faults.borrow_mut().push_back(Fault::None);
    store
        .faults
        .borrow_mut()
        .extend([Fault::Unreachable; 1_000]);
    let mut file = rows(1_500);
    file += &(row("p3", 77) + "\n" + &row("q", 1));
    let error = run.import(&store, &file).await.unwrap_err().to_string();
    assert!(error.starts_with("gave up after 60 s"), "{error}");
    assert!(run.state_exists());
    assert_eq!(store.events.borrow().len(), 1_000);

    store.faults.borrow_mut().clear();
    store.batches.borrow_mut().clear();
    let report = run.report(&store, &file).await;
    assert_eq!(*store.batches.borrow(), [502]);
    assert_eq!(
        (&report["read"], &report["recorded"]),
        (&1_502.into(), &1_501.into())
    );
    assert_eq!(report["refused"]["EVENT_CONFLICT"], 1);
    assert_eq!(report["file"]["events"], 1_501);
    assert_eq!(report["equal"], true);
    assert!(!run.state_exists());
}

#[tokio::test]
async fn a_refusal_of_the_call_is_not_retried() {
    let store = Fake::default();
    store.faults.borrow_mut().push_back(Fault::Denied);
    let error = Run::new().import(&store, &rows(1)).await.unwrap_err();
    assert_eq!(error.to_string(), "PERMISSION_DENIED: needs role meter");
    assert_eq!(store.batches.borrow().len(), 1);
}

#[tokio::test]
async fn batches_that_are_too_large_are_split() {
    let store = Fake {
        most: Some(30),
        ..Default::default()
    };
    let report = Run::new().report(&store, &rows(100)).await;
    assert_eq!(report["recorded"], 100);
    assert!(store.batches.borrow().iter().all(|size| *size <= 30));
    let store = Fake {
        most: Some(0),
        ..Default::default()
    };
    let report = Run::new().report(&store, &rows(3)).await;
    assert_eq!(report["refused"]["MESSAGE_TOO_LARGE"], 3);
}

#[tokio::test]
async fn what_the_pages_do_not_show_is_asked_for_by_id() {
    let store = Fake {
        lists_by_id_only: true,
        ..Default::default()
    };
    let report = Run::new().report(&store, &rows(50)).await;
    assert_eq!(report["store"]["events"], 50);
    assert_eq!(report["equal"], true);
}

#[tokio::test]
async fn what_was_voided_in_the_store_is_left_out_on_both_sides() {
    let store = Fake {
        voided: Some("p1".into()),
        ..Default::default()
    };
    // The row of the voided event comes again, and with other counts, which is refused.
    let file = rows(3) + &row("p1", 1) + "\n" + &row("p1", 9);
    let report = Run::new().report(&store, &file).await;
    assert_eq!(report["refused"]["EVENT_CONFLICT"], 1);
    assert_eq!(report["store"]["voided"], 1);
    for side in ["file", "store"] {
        assert_eq!(report[side]["events"], 2, "{report}");
        assert_eq!(report[side]["input"], 2, "{report}");
        assert_eq!(report[side]["lines"], 2, "{report}");
    }
    assert_eq!(report["equal"], true);

    // What differs beside it is still seen.
    let (run, wrong) = (Run::new(), Fake::default());
    let mut done = run.import(&wrong, &rows(3)).await.unwrap();
    wrong.events.borrow_mut().remove("p2");
    let mut standing = run.standing(&wrong, &done).await;
    standing.voided.insert("p1".into());
    leave_out(&mut done, source(&rows(3)), standing.voided.clone()).unwrap();
    assert!(!Report::new(&done, Some(standing)).equal());
}

#[tokio::test]
async fn missing_and_other_counts_are_unequal() {
    let (run, store) = (Run::new(), Fake::default());
    let done = run.import(&store, &rows(3)).await.unwrap();
    store.events.borrow_mut().remove("p1");
    let standing = run.standing(&store, &done).await;
    assert_eq!(standing.events, 2);
    assert!(!Report::new(&done, Some(standing)).equal());

    let store = Fake {
        wrong: true,
        ..Default::default()
    };
    let report = Run::new().report(&store, &rows(3)).await;
    assert_eq!(
        (&report["mismatches"], &report["equal"]),
        (&3.into(), &false.into())
    );
}

#[tokio::test]
async fn an_empty_file_is_equal_to_nothing() {
    let report = Run::new().report(&Fake::default(), "\n\n").await;
    assert_eq!(
        (&report["read"], &report["equal"]),
        (&0.into(), &true.into())
    );
}
