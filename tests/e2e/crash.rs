//! exactly_once and ack_is_durable, judged from what clients were told: the server and the importer
//! are killed (SIGKILL) in the middle of their work, again and again.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokenmeter_api::v1;
use tokenmeter_api::v1::record_result::Result as Outcome;
use tokenmeter_tests::{
    Chance, Finished, Process, Server, Start, planted, rounds, shared_data, wait_until,
};
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::Channel;

use crate::support::{Clients, counts, event, line, lines, nano_usd};

/// Rows of the file that is imported under fire.
const ROWS: usize = 20_000;
/// Users that the rows belong to.
const USERS: usize = 5;
/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

fn user(n: usize) -> String {
    format!("user-{}", n % USERS)
}

/// A file with more rows than one batch, each with an id of its own: the recorded rows again and
/// again, or generated ones where those are absent.
fn rows_file(folder: &Path) -> PathBuf {
    let recorded = shared_data("provider_usage.jsonl").map(|file| {
        let text = fs::read_to_string(file).unwrap();
        let rows = text.lines().map(|row| serde_json::from_str(row).unwrap());
        rows.collect::<Vec<Value>>()
    });
    let generated = || {
        let row = |n: i64| {
            json!({"provider": "openai", "request_model": "gpt-4o", "usage": {
                "prompt_tokens": 100 + n, "completion_tokens": n, "total_tokens": 100 + 2 * n,
                "prompt_tokens_details": {"cached_tokens": n}}})
        };
        (1..=100).map(row).collect()
    };
    let rows = recorded.unwrap_or_else(generated);
    let mut text = String::new();
    for n in 0..ROWS {
        let mut row = rows[n % rows.len()].clone();
        row["event_id"] = format!("row-{n}").into();
        row["user"] = user(n).into();
        row["session"] = format!("session-{}", n % 40).into();
        row["time"] = "2026-01-31T12:00:00Z".into();
        text.push_str(&row.to_string());
        text.push('\n');
    }
    let file = folder.join("rows.jsonl");
    fs::write(&file, text).unwrap();
    file
}

/// One import of the file into one server, with its state at a known place.
struct Import {
    file: PathBuf,
    state: PathBuf,
}

impl Import {
    fn command(&self, server: &Server) -> Command {
        let words = ["import", "provider-jsonl", self.file.to_str().unwrap()];
        let state = ["--state", self.state.to_str().unwrap(), "--report", "json"];
        server.client(words.into_iter().chain(state))
    }

    /// Waits until this many lines of the file are done; none if the importer ended before.
    fn reaches(&self, line: u64, importer: &mut Process) -> Option<()> {
        let what = format!("line {line} of the import");
        wait_until(&what, PATIENCE, || {
            if importer.ended().is_some() {
                return Some(None);
            }
            // The file is replaced in one step, so it is whole whenever it is there.
            let state = fs::read_to_string(&self.state).ok()?;
            let state: Value = serde_json::from_str(&state).unwrap();
            (state["next_line"].as_u64().unwrap() >= line).then_some(Some(()))
        })
    }
}

/// The totals of every user of the file.
async fn totals(server: &Server) -> BTreeMap<String, v1::UsageTotals> {
    let mut clients = Clients::of(server).await;
    let mut totals = BTreeMap::new();
    for n in 0..USERS {
        totals.insert(user(n), clients.lifetime(&user(n)).await);
    }
    totals
}

/// What an import that was broken off has to report in the end.
fn is_complete(finished: &Finished) -> Value {
    let report = finished.clone().success().json();
    let count = |key: &str| report[key].as_u64().unwrap();
    let refused: u64 = report["refused"]
        .as_object()
        .unwrap()
        .values()
        .map(|n| n.as_u64().unwrap())
        .sum();
    assert_eq!(count("read"), ROWS as u64);
    assert_eq!(
        count("recorded") + count("duplicates") + refused,
        ROWS as u64
    );
    assert_eq!(report["equal"], true, "{report}");
    report
}

/// Lines of the file at which something is killed: one in each of `parts` parts of the first 85 %.
fn kill_points(chance: &mut Chance, parts: u64) -> Vec<u64> {
    let part = ROWS as u64 * 85 / 100 / parts;
    (0..parts)
        .map(|n| n * part + 1 + chance.below(part))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_through_kills_of_server_and_importer_ends_as_one_without() {
    let mut chance = Chance::new("kills in mid-import");
    let files = tempfile::tempdir().unwrap();
    let file = rows_file(files.path());
    let mut import = Import {
        file,
        state: files.path().join("undisturbed.json"),
    };
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let undisturbed = is_complete(&Finished::of(&mut import.command(&server)));
    let expected = totals(&server).await;
    assert!(
        expected.values().all(|user| user.requests > 1_000),
        "{expected:#?}"
    );
    drop(server);
    for round in 0..rounds() {
        let folder = tempfile::tempdir().unwrap();
        let mut server = Server::start(folder.path());
        import.state = files.path().join(format!("round-{round}.json"));
        let mut landed = 0;
        let mut importer = Process::spawn(&mut import.command(&server));
        for (n, line) in kill_points(&mut chance, 4).into_iter().enumerate() {
            if import.reaches(line, &mut importer).is_none() {
                continue;
            }
            landed += 1;
            match n % 3 {
                0 => server.restart(),
                1 => {
                    importer.kill();
                    importer = Process::spawn(&mut import.command(&server));
                }
                _ => {
                    importer.kill();
                    server.restart();
                    importer = Process::spawn(&mut import.command(&server));
                }
            }
        }
        assert!(landed >= 3, "only {landed} kills landed in mid-import");
        let report = is_complete(&importer.finish(PATIENCE));
        assert_eq!(report["store"], undisturbed["store"]);
        assert_eq!(report["refused"], undisturbed["refused"]);
        let got = totals(&server).await;
        for (user, totals) in &expected {
            assert_eq!(&got[user], totals, "{user} in round {round}");
        }
    }
}

/// What the clients know: what they sent, and what they were told.
#[derive(Debug, Default)]
struct Log {
    sent: HashMap<String, v1::UsageEvent>,
    /// Each id with the tokens and cost it was acknowledged with.
    acknowledged: HashMap<String, (i64, i64)>,
    broken: Vec<String>,
}

impl Log {
    fn told(&mut self, recorded: &v1::RecordedUsage) {
        let id = recorded.event_id.clone();
        let stands = (recorded.total_tokens, nano_usd(recorded.cost.as_ref()));
        let first = self.acknowledged.insert(id.clone(), stands);
        match (recorded.outcome(), first) {
            (v1::RecordOutcome::Recorded, Some(_)) => {
                self.broken.push(format!("{id} was recorded a second time"));
            }
            (_, Some(first)) if first != stands => {
                self.broken
                    .push(format!("{id} answered {stands:?} after {first:?}"));
            }
            _ => {}
        }
    }
}

/// A client that records until told to stop, and logs what it is told.
struct Recorder {
    name: usize,
    chance: Chance,
    channel: Channel,
    log: Arc<Mutex<Log>>,
    acknowledged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Recorder {
    fn event(&mut self, n: u64) -> v1::UsageEvent {
        let mut tokens = counts();
        tokens.output += i64::try_from(self.chance.below(5_000)).unwrap();
        v1::UsageEvent {
            user_id: user(self.name),
            session_id: format!("session-{}", self.name),
            usage: Some(lines(vec![line(tokens)])),
            ..event(&format!("direct-{}-{n}", self.name))
        }
    }

    async fn run(mut self) {
        let mut metering =
            v1::metering_service_client::MeteringServiceClient::new(self.channel.clone());
        let mut next = 0;
        let mut again: Vec<v1::UsageEvent> = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let mut events = std::mem::take(&mut again);
            for _ in 0..=self.chance.below(12) {
                events.push(self.event(next));
                next += 1;
            }
            let copies = events
                .iter()
                .map(|event| (event.event_id.clone(), event.clone()));
            self.log.lock().unwrap().sent.extend(copies);
            let answers = if events.len() == 1 {
                let event = events.first().cloned();
                let request = v1::RecordUsageRequest {
                    event,
                    ..Default::default()
                };
                metering
                    .record_usage(request)
                    .await
                    .map(|answer| vec![Outcome::Recorded(answer.into_inner().recorded.unwrap())])
            } else {
                let request = v1::BatchRecordUsageRequest {
                    events: events.clone(),
                    ..Default::default()
                };
                metering.batch_record_usage(request).await.map(|answer| {
                    answer
                        .into_inner()
                        .results
                        .into_iter()
                        .map(|one| one.result.unwrap())
                        .collect()
                })
            };
            match answers {
                Ok(answers) => {
                    assert_eq!(answers.len(), events.len());
                    self.note(answers);
                    // Now and then what was acknowledged is sent again.
                    if self.chance.below(4) == 0 {
                        again.extend(events.into_iter().take(2));
                    }
                }
                Err(status) => {
                    let passing = [
                        Code::Unavailable,
                        Code::Unknown,
                        Code::Internal,
                        Code::Cancelled,
                    ];
                    assert!(passing.contains(&status.code()), "{status:?}");
                    // Half of what was not acknowledged is sent again, the rest may stand or not.
                    events.retain(|_| self.chance.below(2) == 0);
                    again = events;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }
    }

    fn note(&self, answers: Vec<Outcome>) {
        let mut log = self.log.lock().unwrap();
        for answer in answers {
            match answer {
                Outcome::Recorded(recorded) => log.told(&recorded),
                Outcome::Error(error) => log.broken.push(format!("{error:?}")),
            }
        }
        let acknowledged = u64::try_from(log.acknowledged.len()).unwrap();
        drop(log);
        self.acknowledged.fetch_max(acknowledged, Ordering::Relaxed);
    }
}

/// Records with several clients while the server is killed `kills` times; answers their log.
async fn record_under_fire(server: &mut Server, kills: u32, chance: &mut Chance) -> Log {
    let log = Arc::new(Mutex::new(Log::default()));
    let acknowledged = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let mut recorders = JoinSet::new();
    for name in 0..4 {
        let recorder = Recorder {
            name,
            chance: chance.fork(),
            channel: server.channel().await,
            log: Arc::clone(&log),
            acknowledged: Arc::clone(&acknowledged),
            stop: Arc::clone(&stop),
        };
        recorders.spawn(recorder.run());
    }
    for _ in 0..kills {
        let enough = acknowledged.load(Ordering::Relaxed) + 50 + chance.below(400);
        tokio::task::block_in_place(|| {
            wait_until("acknowledgements", PATIENCE, || {
                (acknowledged.load(Ordering::Relaxed) >= enough).then_some(())
            });
            server.restart();
        });
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = recorders.join_next().await {
        ended.unwrap();
    }
    Arc::into_inner(log).unwrap().into_inner().unwrap()
}

/// Everything that is wrong with the store by the clients' own log.
async fn judge(server: &Server, log: &Log) -> Vec<String> {
    let mut wrong = log.broken.clone();
    let mut clients = Clients::of(server).await;
    let mut sums: BTreeMap<String, (i64, i64, i64)> = BTreeMap::new();
    let mut standing: HashMap<String, (i64, i64)> = HashMap::new();
    for event in clients.all_events().await {
        let stands = (event.total_tokens, nano_usd(event.cost.as_ref()));
        let sum = sums.entry(event.user_id.clone()).or_default();
        *sum = (sum.0 + 1, sum.1 + stands.0, sum.2 + stands.1);
        if !log.sent.contains_key(&event.event_id) {
            wrong.push(format!("{} was never sent", event.event_id));
        }
        if standing.insert(event.event_id.clone(), stands).is_some() {
            wrong.push(format!("{} stands twice", event.event_id));
        }
    }
    for (id, told) in &log.acknowledged {
        if standing.get(id) != Some(told) {
            wrong.push(format!(
                "{id}: told {told:?}, stands {:?}",
                standing.get(id)
            ));
        }
    }
    // The same by id, for a part: lists and look-ups take other ways.
    for id in log.acknowledged.keys().take(500) {
        if clients.find(id).await.is_none() {
            wrong.push(format!("{id} is not found"));
        }
    }
    for name in 0..4 {
        let user = user(name);
        let totals = clients.lifetime(&user).await;
        let got = (
            totals.requests,
            totals.total_tokens,
            nano_usd(totals.cost.as_ref()),
        );
        let sum = sums.get(&user).copied().unwrap_or_default();
        if got != sum {
            wrong.push(format!("{user}: totals {got:?}, events {sum:?}"));
        }
    }
    wrong
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_was_acknowledged_stands_exactly_once_after_kills() {
    let mut chance = Chance::new("kills of a server that records");
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path());
    let log = record_under_fire(&mut server, 6 * rounds(), &mut chance).await;
    println!(
        "{} events sent, {} acknowledged",
        log.sent.len(),
        log.acknowledged.len()
    );
    assert!(log.acknowledged.len() >= 300);
    let wrong = judge(&server, &log).await;
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn planted_faults_are_seen_in_what_stands_after_kills() {
    let Some(binary) = planted() else { return };
    for fault in ["RecordRetries", "AnswerWithoutCommit", "SkipTotals"] {
        let mut chance = Chance::new(fault);
        let folder = tempfile::tempdir().unwrap();
        let start = Start::new(folder.path()).program(binary.clone());
        let mut server = start.variable("TOKENMETER_FAULT", fault).serve();
        let log = record_under_fire(&mut server, 1, &mut chance).await;
        let wrong = judge(&server, &log).await;
        assert!(
            !wrong.is_empty(),
            "{fault} was planted and nothing turned red"
        );
        println!("{fault}: {} findings, such as {}", wrong.len(), wrong[0]);
    }
}
