//! The import itself: batches in flight, acknowledged in the order of the file.

use std::collections::{HashSet, VecDeque};

use futures_util::stream::{FuturesOrdered, StreamExt as _};
use tokenmeter_api::v1;
use tokenmeter_api::v1::record_result::Result as Outcome;
use tokenmeter_model::counts::TokenCounts;

use super::deliver::{Store, deliver};
use super::plan::{Item, MAX_BYTES, Source, Used};
use super::state::{Progress, StateFile};
use crate::cli::error::Error;
use crate::cli::retry::Retry;

/// Most events of a batch.
const MAX_BATCH: usize = 1_000;
/// Most batches in flight.
const IN_FLIGHT: usize = 4;
/// Most users and sessions that are told apart, to narrow the reading back.
const MAX_SUBJECTS: usize = 16;

/// An import of one file.
pub(super) struct Import<'a, S> {
    pub(super) store: &'a S,
    pub(super) retry: &'a Retry,
}

/// What an import did.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// Whether an earlier run had done a part of it.
    pub(super) resumed: bool,
    pub(super) progress: Progress,
    pub(super) accepted: Accepted,
}

/// The events of the file that stand in the store, by what the file itself says of them.
#[derive(Debug, Default)]
pub(super) struct Accepted {
    /// Every id; about 100 bytes of memory a row.
    pub(super) ids: HashSet<Box<str>>,
    /// Ids that are left out: their events were voided in the store.
    voided: HashSet<Box<str>>,
    /// Lines of all.
    pub(super) lines: i64,
    /// Counts of all.
    pub(super) counts: TokenCounts,
    /// Events without a time of their own.
    pub(super) undated: i64,
    /// Users and sessions, each with an event; no more than [`MAX_SUBJECTS`] + 1.
    pub(super) subjects: HashSet<(String, String)>,
}

impl Accepted {
    /// Adds an event. The first row of an id counts, as it does in the store.
    fn add(&mut self, event: &v1::UsageEvent, used: Used) {
        let id = event.event_id.as_str();
        if self.voided.contains(id) || !self.ids.insert(id.into()) {
            return;
        }
        self.lines += used.lines;
        self.counts.add(&used.counts);
        self.undated += i64::from(used.undated);
        let subject = (event.user_id.clone(), event.session_id.clone());
        if self.subjects.len() <= MAX_SUBJECTS && !self.subjects.contains(&subject) {
            self.subjects.insert(subject);
        }
    }

    /// Whether `subjects` has all there are.
    pub(super) fn knows_subjects(&self) -> bool {
        self.subjects.len() <= MAX_SUBJECTS
    }
}

/// Rows that are sent together, with those between them that are not sent.
#[derive(Debug, Default)]
struct Batch {
    items: Vec<Item>,
}

impl Batch {
    fn events(&self) -> impl Iterator<Item = &v1::UsageEvent> {
        let planned = self.items.iter().filter_map(Item::event);
        planned.map(|planned| &planned.event)
    }
}

impl<S: Store> Import<'_, S> {
    /// Runs the import from where `state` left off. `at` is told how far it is, in bytes.
    pub(super) async fn run(
        &self,
        source: impl Source,
        state: &StateFile,
        at: impl Fn(u64),
    ) -> Result<Done, Error> {
        let mut rows = Rows { source, held: None };
        let progress = state.load()?;
        let mut done = Done {
            resumed: progress.next_line > 0,
            progress,
            accepted: Accepted::default(),
        };
        rows.replay(&mut done)?;
        at(done.progress.offset);
        let mut flying = Flying::default();
        let mut answers = FuturesOrdered::new();
        loop {
            while answers.len() < IN_FLIGHT {
                let Some(batch) = rows.batch(&flying.ids)? else {
                    break;
                };
                answers.push_back(self.send(batch.events().cloned().collect()));
                flying.push(batch);
            }
            let Some(outcomes) = answers.next().await else {
                return Ok(done);
            };
            let outcomes = outcomes?;
            let Some(batch) = flying.pop() else {
                return Ok(done);
            };
            acknowledge(&mut done, batch, outcomes);
            state.save(&done.progress)?;
            at(done.progress.offset);
        }
    }

    async fn send(&self, events: Vec<v1::UsageEvent>) -> Result<Vec<Outcome>, Error> {
        deliver(self.store, self.retry, &events).await
    }
}

/// Leaves the events that stand voided in the store out of what the file says: it is read again,
/// from `source`, and summed up without them.
pub(super) fn leave_out(
    done: &mut Done,
    source: impl Source,
    voided: HashSet<Box<str>>,
) -> Result<(), Error> {
    done.accepted = Accepted {
        voided,
        ..Default::default()
    };
    Rows { source, held: None }.replay(done)
}

/// Batches in flight, in the order of the file.
#[derive(Default)]
struct Flying {
    batches: VecDeque<Batch>,
    ids: HashSet<String>,
}

impl Flying {
    fn push(&mut self, batch: Batch) {
        let ids = batch.events().map(|event| event.event_id.clone());
        self.ids.extend(ids);
        self.batches.push_back(batch);
    }

    fn pop(&mut self) -> Option<Batch> {
        let batch = self.batches.pop_front()?;
        for event in batch.events() {
            self.ids.remove(&event.event_id);
        }
        Some(batch)
    }
}

/// The rows of the file as they are needed.
struct Rows<S> {
    source: S,
    held: Option<Item>,
}

impl<S: Source> Rows<S> {
    fn next(&mut self) -> Result<Option<Item>, Error> {
        if let Some(item) = self.held.take() {
            return Ok(Some(item));
        }
        self.source
            .next()
            .map_err(|error| Error::Input(format!("the file cannot be read: {error}")))
    }

    /// Passes over what is done, and adds up again what of it was accepted.
    fn replay(&mut self, done: &mut Done) -> Result<(), Error> {
        while let Some(item) = self.next()? {
            if item.line >= done.progress.next_line {
                self.held = Some(item);
                return Ok(());
            }
            if done.progress.is_refused(item.line) {
                continue;
            }
            if let Some(planned) = item.event() {
                done.accepted
                    .add(&planned.event, planned.used.unwrap_or_default());
            }
        }
        Ok(())
    }

    /// The next batch. It has no id twice, and none that is in flight: which of two rows with one
    /// id comes first is then as in the file. None at the end of the file, and while the next row
    /// has to wait.
    fn batch(&mut self, flying: &HashSet<String>) -> Result<Option<Batch>, Error> {
        let mut batch = Batch::default();
        let mut ids = HashSet::new();
        let mut bytes = 0;
        while batch.items.len() < MAX_BATCH {
            let Some(item) = self.next()? else { break };
            if let Some(planned) = item.event() {
                let id = &planned.event.event_id;
                let full = bytes > 0 && bytes + planned.bytes > MAX_BYTES;
                if full || ids.contains(id) || flying.contains(id) {
                    self.held = Some(item);
                    break;
                }
                bytes += planned.bytes;
                ids.insert(id.clone());
            }
            batch.items.push(item);
        }
        Ok((!batch.items.is_empty()).then_some(batch))
    }
}

/// Notes what became of a batch.
fn acknowledge(done: &mut Done, batch: Batch, outcomes: Vec<Outcome>) {
    let mut outcomes = outcomes.into_iter();
    let progress = &mut done.progress;
    for item in batch.items {
        progress.read += 1;
        progress.next_line = item.line + 1;
        progress.offset = item.end;
        let planned = match item.planned {
            Ok(Some(planned)) => planned,
            Ok(None) => {
                progress.skipped += 1;
                continue;
            }
            Err(refusal) => {
                progress.refuse(item.line, &refusal.reason, refusal.message);
                continue;
            }
        };
        match outcomes.next() {
            Some(Outcome::Recorded(recorded)) => {
                if recorded.outcome() == v1::RecordOutcome::Duplicate {
                    progress.duplicates += 1;
                } else {
                    progress.recorded += 1;
                }
                let used = planned.used.unwrap_or_default();
                let answered: TokenCounts = recorded.counts.map(Into::into).unwrap_or_default();
                let same_lines = i64::try_from(recorded.lines.len()) == Ok(used.lines);
                if answered != used.counts || !same_lines {
                    progress.mismatches += 1;
                }
                done.accepted.add(&planned.event, used);
            }
            Some(Outcome::Error(error)) => {
                let reason = tokenmeter_api::status::name_of(error.reason());
                progress.refuse(item.line, reason, message(&error));
            }
            // `deliver` answers as many outcomes as it is given events.
            None => progress.refuse(item.line, "INTERNAL", "no outcome".into()),
        }
    }
}

/// A refusal in one line, fields included.
fn message(error: &v1::ItemError) -> String {
    let mut text = error.message.clone();
    for violation in &error.violations {
        if text.contains(&violation.description) {
            continue;
        }
        text.push_str(&format!("; {}: {}", violation.field, violation.description));
    }
    text
}
