//! One client: a process of its own that records until it is told to stop, and that can be killed.
//!
//! It keeps two files, to which it only adds lines: the numbers of the events that it sent, each written
//! before the event leaves, and what it was told of each. When it starts it reads both, and sends again
//! what it was not told of: that is all that a client has to do to be exact.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::process::parent_id;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tokenmeter_api::v1;
use tokenmeter_api::v1::metering_service_client::MeteringServiceClient;
use tokenmeter_api::v1::record_result::Result as Outcome;
use tokenmeter_tests::{Chance, Process};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::support::{counts, event, line, lines, nano_usd};

/// What a process needs to know to be a client: its number, the seed of its events, the folder of its
/// files, and the servers.
const BRIEF: &str = "TOKENMETER_CRASH_CLIENT";
/// The most events of one batch.
const BATCH: u8 = 60;
/// How long one call may take before the client gives it up and sends again.
const CALL_LIMIT: Duration = Duration::from_secs(5);
/// How long a client that is told to stop may take to be told of everything that it sent.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);
/// 1 January 2026, and for how many seconds after it events are charged: half a year.
const FIRST_SECOND: i64 = 1_767_225_600;
const SECONDS: u64 = 180 * 86_400;

/// Users and sessions of all clients, and the models of their lines.
pub(super) const USERS: u64 = 5;
const SESSIONS: u64 = 40;
const MODELS: [&str; 2] = ["claude-sonnet-4-5", "claude-opus-4-5"];

/// Tokens and nano-USD of an event.
pub(super) type Figures = (i64, i64);

/// What a client knows: what it sent, and each figure that it was told of an event, with whether it was
/// recorded just then.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) sent: BTreeSet<u64>,
    pub(super) told: BTreeMap<u64, Vec<(Figures, bool)>>,
}

impl Known {
    fn unsettled(&self) -> BTreeSet<u64> {
        let sent = self.sent.iter();
        sent.filter(|n| !self.told.contains_key(n))
            .copied()
            .collect()
    }
}

/// A client's place: its number, the seed and the folder of its files.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) number: u64,
    pub(super) seed: u64,
    pub(super) folder: PathBuf,
}

impl Place {
    /// Starts a process that is this client: this test binary again.
    pub(super) fn start(&self, servers: &[SocketAddr]) -> Process {
        let servers: Vec<_> = servers.iter().map(SocketAddr::to_string).collect();
        let folder = self.folder.to_str().unwrap();
        let words = [&self.number.to_string(), &self.seed.to_string(), folder];
        let brief = format!("{} {}", words.join(" "), servers.join(" "));
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "crash_nodes::client::a_client_of_its_own"])
            .arg("--nocapture")
            .env(BRIEF, brief);
        Process::spawn(&mut command)
    }

    fn file(&self, what: &str) -> PathBuf {
        self.folder.join(format!("client-{}.{what}", self.number))
    }

    /// How much it was told of, in bytes: grows with every acknowledgement.
    pub(super) fn progress(&self) -> u64 {
        fs::metadata(self.file("told")).map_or(0, |file| file.len())
    }

    pub(super) fn known(&self) -> Known {
        let mut known = Known::default();
        for words in rows(&self.file("sent")) {
            known.sent.insert(words[0].try_into().unwrap());
        }
        for words in rows(&self.file("told")) {
            let told = known.told.entry(words[0].try_into().unwrap()).or_default();
            told.push(((words[1], words[2]), words[3] == 1));
        }
        known
    }

    /// The file in the folder that tells all clients to stop.
    pub(super) fn stop(folder: &Path) -> PathBuf {
        folder.join("stop")
    }

    pub(super) fn event_id(&self, n: u64) -> String {
        format!("client-{}-{n}", self.number)
    }

    /// The `n`th event, the same whenever it is asked for.
    pub(super) fn event(&self, n: u64) -> v1::UsageEvent {
        let mut chance = Chance::seeded(self.seed ^ (self.number << 48) ^ n);
        // Two in five are of one user, whose totals every node then writes.
        let user = chance.below(USERS + 3).saturating_sub(3);
        let mut models = MODELS.iter().skip(usize::from(chance.below(3) == 0));
        let count = 1 + usize::from(chance.below(4) == 0);
        let one = |model: &&str| {
            let mut tokens = counts();
            tokens.output += i64::try_from(chance.below(5_000)).unwrap();
            v1::UsageLine {
                model: (*model).to_owned(),
                ..line(tokens)
            }
        };
        let all = models.by_ref().take(count).map(one).collect();
        let seconds = FIRST_SECOND + i64::try_from(chance.below(SECONDS)).unwrap();
        v1::UsageEvent {
            user_id: format!("user-{user}"),
            session_id: format!("session-{}", chance.below(SESSIONS)),
            usage: Some(lines(all)),
            request_time: Some(prost_types::Timestamp { seconds, nanos: 0 }),
            ..event(&self.event_id(n))
        }
    }
}

/// The numbers of every whole line: one that a kill cut off counts as not written.
fn rows(file: &Path) -> Vec<Vec<i64>> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let number = |word: &str| word.parse().unwrap();
    let row = |line: &str| line.split(' ').map(number).collect();
    whole.lines().map(row).collect()
}

/// A file to add lines to, without the part of a line that a kill left.
fn added_to(path: &Path) -> File {
    let mut options = OpenOptions::new();
    let options = options.create(true).read(true).append(true);
    let mut file = options.open(path).unwrap();
    let mut text = Vec::new();
    file.read_to_end(&mut text).unwrap();
    let whole = text.iter().rposition(|byte| *byte == b'\n');
    file.set_len(whole.map_or(0, |end| end as u64 + 1)).unwrap();
    file
}

/// A client at work.
struct Client {
    place: Place,
    chance: Chance,
    servers: Vec<MeteringServiceClient<Channel>>,
    sent: File,
    told: File,
    next: u64,
    /// Sent, and not told of.
    unsettled: BTreeSet<u64>,
}

impl Client {
    fn new(place: Place, servers: &[&str]) -> Self {
        let (sent, told) = (added_to(&place.file("sent")), added_to(&place.file("told")));
        let known = place.known();
        let server = |address: &&str| {
            let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
            let endpoint = endpoint.timeout(CALL_LIMIT).connect_timeout(CALL_LIMIT);
            MeteringServiceClient::new(endpoint.connect_lazy())
        };
        Self {
            // What it does next depends on what it knows, so that it does not repeat itself.
            chance: Chance::seeded(place.seed ^ (place.number << 32) ^ place.progress()),
            servers: servers.iter().map(server).collect(),
            sent,
            told,
            next: known.sent.last().map_or(0, |n| n + 1),
            unsettled: known.unsettled(),
            place,
        }
    }

    async fn run(mut self) {
        let parent = parent_id();
        let stop = Place::stop(&self.place.folder);
        let mut stopping: Option<Instant> = None;
        let mut again = Vec::new();
        while parent_id() == parent {
            if stopping.is_none() && stop.exists() {
                stopping = Some(Instant::now() + SETTLE_LIMIT);
            }
            let mut batch: BTreeSet<u64> = again.drain(..).collect();
            batch.extend(self.unsettled.iter().take(usize::from(BATCH) / 2));
            match stopping {
                None => batch.extend(self.new_events()),
                Some(_) if self.unsettled.is_empty() => return,
                Some(limit) => assert!(Instant::now() < limit, "{:?} remain", self.unsettled),
            }
            let batch: Vec<u64> = batch.into_iter().collect();
            for (server, answer) in self.send(&batch).await {
                match answer {
                    Ok(answers) => self.note(&batch, &answers),
                    Err(status) => {
                        may_pass(&status);
                        println!("server {server}: {status}");
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
            }
            // Now and then what was acknowledged is sent again, to whichever server.
            if self.chance.below(4) == 0 {
                again.extend(batch.into_iter().take(5));
            }
        }
    }

    /// New events, written down as sent.
    fn new_events(&mut self) -> Vec<u64> {
        let first = self.next;
        self.next += 1 + self.chance.below(BATCH.into());
        let new: Vec<u64> = (first..self.next).collect();
        let mut text = String::new();
        for n in &new {
            writeln!(text, "{n}").unwrap();
        }
        self.sent.write_all(text.as_bytes()).unwrap();
        self.unsettled.extend(&new);
        new
    }

    /// Sends a batch to one server, or now and then to two at the same time.
    async fn send(&mut self, batch: &[u64]) -> Vec<(usize, Result<Vec<Outcome>, Status>)> {
        let events: Vec<_> = batch.iter().map(|n| self.place.event(*n)).collect();
        let count = self.servers.len();
        let first = self.chance.pick(count);
        let second = (first + 1) % count;
        let (mut one, mut other) = (self.servers[first].clone(), self.servers[second].clone());
        if self.chance.below(8) > 0 {
            return vec![(first, record(&mut one, events).await)];
        }
        let (a, b) = tokio::join!(
            record(&mut one, events.clone()),
            record(&mut other, events.clone())
        );
        vec![(first, a), (second, b)]
    }

    fn note(&mut self, batch: &[u64], answers: &[Outcome]) {
        assert_eq!(answers.len(), batch.len());
        let mut text = String::new();
        for (n, answer) in batch.iter().zip(answers) {
            match answer {
                Outcome::Recorded(recorded) => {
                    assert_eq!(recorded.event_id, self.place.event_id(*n));
                    let (tokens, cost) = figures_of(recorded);
                    let new = recorded.outcome() == v1::RecordOutcome::Recorded;
                    writeln!(text, "{n} {tokens} {cost} {}", u8::from(new)).unwrap();
                    self.unsettled.remove(n);
                }
                Outcome::Error(error) => assert!(error.retryable, "{n}: {error:?}"),
            }
        }
        self.told.write_all(text.as_bytes()).unwrap();
    }
}

fn figures_of(recorded: &v1::RecordedUsage) -> Figures {
    (recorded.total_tokens, nano_usd(recorded.cost.as_ref()))
}

async fn record(
    server: &mut MeteringServiceClient<Channel>,
    events: Vec<v1::UsageEvent>,
) -> Result<Vec<Outcome>, Status> {
    let request = v1::BatchRecordUsageRequest {
        events,
        ..Default::default()
    };
    let answer = server.batch_record_usage(request).await?.into_inner();
    let results = answer.results.into_iter();
    Ok(results.map(|one| one.result.unwrap()).collect())
}

/// Only what a crash explains is sent again.
fn may_pass(status: &Status) {
    let passing = [
        Code::Unavailable,
        Code::Unknown,
        Code::Internal,
        Code::Cancelled,
        Code::DeadlineExceeded,
    ];
    assert!(passing.contains(&status.code()), "{status:?}");
}

/// Is a client where the environment makes it one, and nothing else.
#[tokio::test]
async fn a_client_of_its_own() {
    let Ok(brief) = std::env::var(BRIEF) else {
        return;
    };
    let mut words = brief.split(' ');
    let mut word = || words.next().unwrap();
    let place = Place {
        number: word().parse().unwrap(),
        seed: word().parse().unwrap(),
        folder: word().into(),
    };
    let servers: Vec<&str> = words.collect();
    Client::new(place, &servers).run().await;
}
