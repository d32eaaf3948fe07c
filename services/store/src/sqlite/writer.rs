//! The one task that writes. Calls gather while the transaction before them commits (group
//! commit, no timer), and each group is one transaction: keys, lines, totals, position.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection as _, Row as _};
use tokenmeter_model::event::FINGERPRINT_BYTES;
use tokenmeter_model::price::Price;
use tokenmeter_model::totals::Totals;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

use super::insert::{Bound, Insert};
use super::lines::{self, NewLine};
use super::totals::{self, Batch, Owner};
use super::{MAX_QUEUED_EVENTS, correct, items, prices, read, unavailable};
use crate::fault::{Planted, is_planted};
use crate::ledger::correction::{RepriceStep, Void, VoidOutcome};
use crate::ledger::items::{ItemOutcome, ItemSubmission};
use crate::ledger::{Error, Outcome, Submission};
use crate::metrics;

/// Events that one transaction takes at most, whole calls aside: a call of 1,000 events may join a
/// group of 999. More would make everybody in the group wait longer for little.
const GROUP_EVENTS: usize = 1_000;

/// Outcomes of one batch, in its order.
pub(super) type Outcomes = Result<Vec<Result<Outcome, Error>>, Error>;

/// Work for the writer.
pub(super) enum Job {
    Record(Batched<Submission, Result<Outcome, Error>>),
    Items(Batched<ItemSubmission, ItemOutcome>),
    Void {
        void: Void,
        reply: oneshot::Sender<Result<VoidOutcome, Error>>,
    },
    Reprice {
        step: RepriceStep,
        reply: oneshot::Sender<Result<bool, Error>>,
    },
    AddPrices {
        tenant: String,
        prices: Vec<Price>,
        now_us: i64,
        reply: oneshot::Sender<Result<Vec<(i64, bool)>, Error>>,
    },
    Check {
        reply: oneshot::Sender<Result<(), Error>>,
    },
    Close {
        reply: oneshot::Sender<()>,
    },
}

/// One call's events or items, and its places in the queue's bound until it is answered.
pub(super) struct Batched<S, O> {
    pub(super) batch: Arc<[S]>,
    pub(super) reply: oneshot::Sender<Result<Vec<O>, Error>>,
    pub(super) queued: OwnedSemaphorePermit,
}

/// The writer with its connection and prepared inserts.
pub(super) struct Writer {
    connection: SqliteConnection,
    keys: Insert,
    lines: Insert,
    totals: Insert,
    /// Told the last position after every commit, before anyone is answered.
    committed: watch::Sender<i64>,
}

impl Writer {
    pub(super) fn new(connection: SqliteConnection, committed: watch::Sender<i64>) -> Self {
        Self {
            connection,
            keys: Insert::new(
                "event_keys",
                &["tenant_id", "event_id", "fingerprint", "position"],
                "ON CONFLICT DO NOTHING",
            ),
            lines: Insert::new("usage_lines", lines::COLUMNS, ""),
            totals: totals::upsert(),
            committed,
        }
    }

    /// Writes until told to close or until nobody can send any more.
    pub(super) async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut next = None;
        loop {
            let job = match next.take() {
                Some(job) => job,
                None => match jobs.recv().await {
                    Some(job) => job,
                    None => break,
                },
            };
            match job {
                Job::Record(first) => {
                    let (group, after) = gather(first, &mut jobs, |job| match job {
                        Job::Record(more) => Ok(more),
                        other => Err(other),
                    });
                    next = after;
                    self.record(group).await;
                }
                Job::Items(first) => {
                    let (group, after) = gather(first, &mut jobs, |job| match job {
                        Job::Items(more) => Ok(more),
                        other => Err(other),
                    });
                    next = after;
                    self.record_items(group).await;
                }
                Job::Void { void, reply } => {
                    let done = correct::void(&mut self.connection, &self.totals, &void).await;
                    let _ = reply.send(done.map(|(outcome, last)| {
                        self.publish(last);
                        outcome
                    }));
                }
                Job::Reprice { step, reply } => {
                    let done = correct::reprice(&mut self.connection, &self.totals, &step).await;
                    let _ = reply.send(done.map(|last| {
                        self.publish(last);
                        last.is_some()
                    }));
                }
                Job::AddPrices {
                    tenant,
                    prices,
                    now_us,
                    reply,
                } => {
                    let added = prices::add(&mut self.connection, &tenant, prices, now_us).await;
                    let _ = reply.send(added);
                }
                Job::Check { reply } => {
                    let _ = reply.send(self.check().await);
                }
                Job::Close { reply } => {
                    if let Err(error) = self.connection.close().await {
                        tracing::warn!(%error, "closing the ledger");
                    }
                    let _ = reply.send(());
                    return;
                }
            }
        }
    }

    /// Records a group and answers each call in it.
    async fn record(&mut self, group: Vec<Batched<Submission, Result<Outcome, Error>>>) {
        let submissions: Vec<&Submission> = group.iter().flat_map(|one| one.batch.iter()).collect();
        let started = Instant::now();
        let outcomes = self.write_parts(&submissions).await;
        metrics::group_ended(submissions.len(), started.elapsed(), outcomes.is_err());
        answer(group, outcomes);
    }

    /// Records a group of items in one transaction and answers each call in it.
    async fn record_items(&mut self, group: Vec<Batched<ItemSubmission, ItemOutcome>>) {
        let batches = group.iter().flat_map(|one| one.batch.iter());
        let outcomes = write_items(&mut self.connection, batches).await;
        answer(group, outcomes);
    }

    /// Records what fits: a part that does not fit is halved until what does not fit is alone, so
    /// that the others stand.
    async fn write_parts(&mut self, submissions: &[&Submission]) -> Outcomes {
        let mut outcomes = Vec::with_capacity(submissions.len());
        let mut parts = vec![submissions];
        while let Some(part) = parts.pop() {
            match self.write(part).await {
                Ok(written) => outcomes.extend(written.into_iter().map(Ok)),
                Err(Error::OutOfRange(_)) if part.len() > 1 => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                }
                Err(error @ Error::OutOfRange(_)) => outcomes.push(Err(error)),
                Err(error) if part.len() == submissions.len() => return Err(error),
                // Parts before this one stand.
                Err(error) => outcomes.extend(
                    part.iter()
                        .map(|_| Err(Error::Unavailable(error.to_string()))),
                ),
            }
        }
        Ok(outcomes)
    }

    /// One transaction: keys, lines, totals, position. Nothing is acknowledged before its commit.
    async fn write(&mut self, submissions: &[&Submission]) -> Result<Vec<Outcome>, Error> {
        let Self {
            connection,
            keys,
            lines,
            totals,
            committed,
        } = self;
        let mut transaction = connection
            .begin_with("BEGIN IMMEDIATE")
            .await
            .map_err(unavailable)?;
        let mut last = last_position(&mut transaction).await?;
        let mut positions = Vec::with_capacity(submissions.len());
        for submission in submissions {
            positions.push(last + 1);
            last += i64::try_from(submission.event.lines.len()).unwrap_or(1);
        }
        let numbered: Vec<_> = submissions.iter().copied().zip(positions).collect();
        // SQLite has a thread of its own: while it takes the keys, the lines are bound as if every
        // key were free, as nearly all are, and while it writes the lines, the totals are.
        let (new, prepared) = tokio::join!(insert_keys(&mut transaction, keys, &numbered), async {
            prepare(lines, numbered.iter())
        });
        let new = new?;
        let free = |key: &Key| matches!(key, Key::New) || is_planted(Planted::RecordRetries);
        let (rows, sums) = if new.iter().all(free) {
            prepared
        } else {
            let fresh = numbered.iter().zip(&new).filter(|(_, key)| free(key));
            prepare(lines, fresh.map(|(one, _)| one))
        }
        .map_err(unavailable)?;
        let (written, sums) =
            tokio::join!(rows.execute(&mut transaction), async { sums.bind(totals) });
        written.map_err(unavailable)?;
        let sums = sums?;
        if !is_planted(Planted::SkipTotals) {
            sums.execute(&mut transaction).await.map_err(unavailable)?;
        }
        set_last_position(&mut transaction, last).await?;

        let mut outcomes = Vec::with_capacity(numbered.len());
        for ((submission, position), key) in numbered.iter().zip(new) {
            outcomes.push(match key {
                Key::New => Outcome::Recorded {
                    position: *position,
                },
                Key::Stands { position, same } => {
                    let first = read::first_record(
                        &mut transaction,
                        submission.tenant.as_str(),
                        &submission.event.event_id,
                        position,
                    )
                    .await?;
                    match same {
                        true => Outcome::Duplicate(Box::new(first)),
                        false => Outcome::Conflict(Box::new(first)),
                    }
                }
            });
        }
        if is_planted(Planted::AnswerWithoutCommit) {
            return Ok(outcomes);
        }
        transaction.commit().await.map_err(unavailable)?;
        committed.send_replace(last);
        Ok(outcomes)
    }

    /// Tells the last position after a commit that gave one out.
    fn publish(&self, last: Option<i64>) {
        if let Some(last) = last {
            self.committed.send_replace(last);
        }
    }

    /// Takes the write lock and gives it back.
    async fn check(&mut self) -> Result<(), Error> {
        let transaction = self
            .connection
            .begin_with("BEGIN IMMEDIATE")
            .await
            .map_err(unavailable)?;
        transaction.rollback().await.map_err(unavailable)
    }
}

/// Takes what waits of one kind, up to [`GROUP_EVENTS`], and the job of another kind that ended the
/// group.
fn gather<S, O>(
    first: Batched<S, O>,
    jobs: &mut mpsc::Receiver<Job>,
    more: impl Fn(Job) -> Result<Batched<S, O>, Job>,
) -> (Vec<Batched<S, O>>, Option<Job>) {
    let mut gathered = first.batch.len();
    let mut group = vec![first];
    while gathered < GROUP_EVENTS {
        let Ok(job) = jobs.try_recv() else { break };
        match more(job) {
            Ok(more) => {
                gathered += more.batch.len();
                group.push(more);
            }
            Err(other) => return (group, Some(other)),
        }
    }
    (group, None)
}

/// Gives each call of a group its part of the outcomes.
fn answer<S, O>(group: Vec<Batched<S, O>>, outcomes: Result<Vec<O>, Error>) {
    let outcomes = outcomes.map_err(|error| error.to_string());
    let mut outcomes = outcomes.map(Vec::into_iter);
    for Batched {
        batch,
        reply,
        queued,
    } in group
    {
        let answer = match &mut outcomes {
            Ok(outcomes) => Ok(outcomes.by_ref().take(batch.len()).collect()),
            Err(text) => Err(Error::Unavailable(text.clone())),
        };
        // The caller may have gone; what is committed stands all the same.
        let _ = reply.send(answer);
        let queue = Arc::clone(queued.semaphore());
        drop(queued);
        metrics::queued(MAX_QUEUED_EVENTS.saturating_sub(queue.available_permits()));
    }
}

/// One transaction of items. They have no place in the commit order of usage.
async fn write_items(
    connection: &mut SqliteConnection,
    submissions: impl Iterator<Item = &ItemSubmission>,
) -> Result<Vec<ItemOutcome>, Error> {
    let mut transaction = connection
        .begin_with("BEGIN IMMEDIATE")
        .await
        .map_err(unavailable)?;
    let mut outcomes = Vec::new();
    for submission in submissions {
        outcomes.push(items::record(&mut transaction, submission).await?);
    }
    transaction.commit().await.map_err(unavailable)?;
    Ok(outcomes)
}

/// Binds the lines of these submissions and adds up what they add to totals.
fn prepare<'a>(
    lines: &Insert,
    numbered: impl Iterator<Item = &'a (&'a Submission, i64)>,
) -> Result<(Bound, Batch<'a>), sqlx::Error> {
    let mut rows = Vec::new();
    let mut sums = Batch::default();
    for (submission, position) in numbered {
        add_submission(submission, *position, &mut rows, &mut sums);
    }
    Ok((lines.bind(&rows, lines::bind)?, sums))
}

fn add_submission<'a>(
    submission: &'a Submission,
    position: i64,
    rows: &mut Vec<NewLine<'a>>,
    sums: &mut Batch<'a>,
) {
    let event = &submission.event;
    for (index, (line, position)) in event.lines.iter().zip(position..).enumerate() {
        rows.push(NewLine {
            position,
            index,
            submission,
        });
        let owner = Owner {
            tenant: submission.tenant.as_str(),
            user: &event.user_id,
            team: &event.team_id,
            session: &event.session_id,
            provider: &event.provider,
            model: &line.model,
            charge_time_us: submission.charge_time_us,
        };
        let quote = submission.quotes.get(index).and_then(Option::as_ref);
        let line_sums = Totals::of_line(event, line, quote, index == 0, submission.recorded_at_us);
        sums.add(&owner, &line_sums);
    }
}

/// Whether a submission's key was free.
enum Key {
    New,
    Stands { position: i64, same: bool },
}

/// Takes the keys that are free. The common case, all free, is one statement.
async fn insert_keys(
    connection: &mut SqliteConnection,
    insert: &Insert,
    numbered: &[(&Submission, i64)],
) -> Result<Vec<Key>, Error> {
    let bound = insert
        .bind(numbered, |(submission, position), row| {
            row.text(submission.tenant.as_str())
                .text(&submission.event.event_id)
                .push(submission.fingerprint.to_vec())
                .push(*position);
        })
        .map_err(unavailable)?;
    let taken = bound.execute(connection).await.map_err(unavailable)?;
    if usize::try_from(taken) == Ok(numbered.len()) {
        return Ok(numbered.iter().map(|_| Key::New).collect());
    }
    let standing = find_keys(connection, numbered).await?;
    numbered
        .iter()
        .map(|(submission, position)| {
            let id = (
                submission.tenant.as_str().to_owned(),
                submission.event.event_id.clone(),
            );
            let (fingerprint, at) = standing
                .get(&id)
                .ok_or_else(|| Error::Corrupt("a key that was taken is gone".into()))?;
            Ok(if at == position {
                Key::New
            } else {
                Key::Stands {
                    position: *at,
                    same: fingerprint[..] == submission.fingerprint[..],
                }
            })
        })
        .collect()
}

type Standing = HashMap<(String, String), (Vec<u8>, i64)>;

async fn find_keys(
    connection: &mut SqliteConnection,
    numbered: &[(&Submission, i64)],
) -> Result<Standing, Error> {
    let wanted: Vec<_> = numbered
        .iter()
        .map(|(submission, _)| {
            (
                submission.tenant.as_str(),
                submission.event.event_id.as_str(),
            )
        })
        .collect();
    let wanted = serde_json::to_string(&wanted).map_err(|e| Error::Corrupt(e.to_string()))?;
    let rows = sqlx::query(include_str!("queries/find_keys.sql"))
        .bind(wanted)
        .fetch_all(connection)
        .await
        .map_err(unavailable)?;
    let mut standing = HashMap::with_capacity(rows.len());
    for row in rows {
        let fingerprint: Vec<u8> = row.try_get("fingerprint").map_err(lines::corrupt)?;
        if fingerprint.len() != FINGERPRINT_BYTES {
            return Err(Error::Corrupt(format!(
                "a fingerprint of {} bytes",
                fingerprint.len()
            )));
        }
        standing.insert(
            (
                row.try_get("tenant_id").map_err(lines::corrupt)?,
                row.try_get("event_id").map_err(lines::corrupt)?,
            ),
            (
                fingerprint,
                row.try_get("position").map_err(lines::corrupt)?,
            ),
        );
    }
    Ok(standing)
}

pub(super) async fn last_position(connection: &mut SqliteConnection) -> Result<i64, Error> {
    sqlx::query_scalar("SELECT last_position FROM ledger_state WHERE id = 1")
        .fetch_one(connection)
        .await
        .map_err(unavailable)
}

pub(super) async fn set_last_position(
    connection: &mut SqliteConnection,
    last: i64,
) -> Result<(), Error> {
    sqlx::query("UPDATE ledger_state SET last_position = ?1 WHERE id = 1")
        .bind(last)
        .execute(connection)
        .await
        .map_err(unavailable)?;
    Ok(())
}
