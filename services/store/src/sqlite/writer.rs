//! The one task that writes. Calls gather while the transaction before them commits (group
//! commit, no timer), and each group is one transaction: keys, settlements, lines, totals, position.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use sqlx::Connection as _;
use sqlx::sqlite::SqliteConnection;
use tokenmeter_model::id::TenantId;
use tokenmeter_model::price::Price;
use tokio::sync::{mpsc, oneshot, watch};

use super::group::{self, Inserts, Key, Prepared};
use super::reconcile::Findings;
use super::retention::{self, OldItems};
use super::{correct, items, prices, read, reconcile, requests, unavailable};
use crate::fault::{Planted, is_planted};
use crate::ledger::correction::{
    PriceSet, PricesOutcome, Remembered, RepriceStep, Request, Void, VoidOutcome,
};
use crate::ledger::items::{ItemOutcome, ItemSubmission};
use crate::ledger::reconcile::{Reconciled, Resolve, ResolveOutcome};
use crate::ledger::retention::Purged;
use crate::ledger::{Error, Outcome, Submission};
use crate::metrics;
use crate::queue::{Batched, EventCall, Events, Group};
use crate::rows::drifts::Compared;
use crate::touched::{Given, Touched};

/// Events that one transaction takes at most, whole calls aside: a call of 1,000 events may join a
/// group of 999. More would make everybody in the group wait longer for little.
const GROUP_EVENTS: usize = 1_000;

/// Outcomes of one batch, in its order.
pub(super) type Outcomes = Result<Vec<Result<Outcome, Error>>, Error>;

/// Work for the writer.
pub(super) enum Job {
    Record(EventCall),
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
    SetPrices {
        set: PriceSet,
        reply: oneshot::Sender<Result<PricesOutcome, Error>>,
    },
    Remember {
        request: Request,
        answer: String,
        reply: oneshot::Sender<Result<Remembered, Error>>,
    },
    Purge {
        before_us: i64,
        items: OldItems,
        reply: oneshot::Sender<Result<Purged, Error>>,
    },
    Drifts {
        findings: Findings,
        reply: oneshot::Sender<Result<Option<Reconciled>, Error>>,
    },
    Resolve {
        resolve: Resolve,
        compared: Option<Compared>,
        reply: oneshot::Sender<Result<Option<ResolveOutcome>, Error>>,
    },
    /// Rare work, with the connection.
    Other(Other),
    Check {
        reply: oneshot::Sender<Result<(), Error>>,
    },
    Close {
        reply: oneshot::Sender<()>,
    },
}

/// Does its work and answers who asked.
pub(super) type Other = Box<
    dyn for<'c> FnOnce(&'c mut SqliteConnection) -> Pin<Box<dyn Future<Output = ()> + Send + 'c>>
        + Send,
>;

/// The writer with its connection and prepared inserts.
pub(super) struct Writer {
    connection: SqliteConnection,
    inserts: Arc<Inserts>,
    /// Told the last position after every commit, before anyone is answered.
    committed: watch::Sender<i64>,
    /// Told whose rows a commit has, before `committed` is.
    touched: Arc<Touched>,
}

impl Writer {
    pub(super) fn new(
        connection: SqliteConnection,
        committed: watch::Sender<i64>,
        touched: Arc<Touched>,
    ) -> Self {
        Self {
            connection,
            inserts: Arc::default(),
            committed,
            touched,
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
                    let group = Group::of(first);
                    next = self.record(group, &mut jobs).await;
                }
                Job::Items(first) => {
                    let mut group = Group::of(first);
                    next = group.fill(&mut jobs, GROUP_EVENTS, items_of);
                    self.record_items(group).await;
                }
                Job::Close { reply } => {
                    if let Err(error) = self.connection.close().await {
                        tracing::warn!(%error, "closing the ledger");
                    }
                    let _ = reply.send(());
                    return;
                }
                other => self.one(other).await,
            }
        }
    }

    /// Does a job that is a transaction of its own, and answers it.
    async fn one(&mut self, job: Job) {
        let connection = &mut self.connection;
        match job {
            Job::Void { void, reply } => {
                let done = correct::void(connection, &self.inserts.totals, &void).await;
                let _ = reply.send(done.map(|(outcome, given)| {
                    self.publish(given, [&void.request.tenant]);
                    outcome
                }));
            }
            Job::Reprice { step, reply } => {
                let done = correct::reprice(connection, &self.inserts.totals, &step).await;
                let _ = reply.send(done.map(|given| {
                    self.publish(given, [&step.request.tenant]);
                    given.is_some()
                }));
            }
            Job::AddPrices {
                tenant,
                prices,
                now_us,
                reply,
            } => {
                let added = prices::add(connection, &tenant, prices, now_us).await;
                let _ = reply.send(added);
            }
            Job::SetPrices { set, reply } => {
                let _ = reply.send(prices::set(connection, set).await);
            }
            Job::Check { reply } => {
                let _ = reply.send(self.check().await);
            }
            Job::Remember {
                request,
                answer,
                reply,
            } => {
                let _ = reply.send(requests::remember(connection, &request, answer).await);
            }
            Job::Purge {
                before_us,
                items,
                reply,
            } => {
                let _ = reply.send(retention::purge_step(connection, before_us, &items).await);
            }
            Job::Drifts { findings, reply } => {
                let _ = reply.send(reconcile::record(connection, &findings).await);
            }
            Job::Resolve {
                resolve,
                compared,
                reply,
            } => {
                let done = reconcile::resolve(connection, &resolve, compared.as_ref()).await;
                let _ = reply.send(done);
            }
            Job::Other(work) => work(connection).await,
            // The loop does these itself.
            Job::Record(_) | Job::Items(_) | Job::Close { .. } => {}
        }
    }

    /// Records a group, and those that gather meanwhile; answers the job of another kind that
    /// ended the last one.
    ///
    /// What waits when a group begins and fills the next one is bound on another thread while
    /// SQLite is at this one. Less than that waits on, so that it gathers more until its turn.
    async fn record(&mut self, mut group: Events, jobs: &mut mpsc::Receiver<Job>) -> Option<Job> {
        let mut after = group.fill(jobs, GROUP_EVENTS, events_of);
        let mut prepared = None;
        while !group.calls.is_empty() {
            let mut following = Group::default();
            after = after.or_else(|| following.fill(jobs, GROUP_EVENTS, events_of));
            let ahead = (following.len >= GROUP_EVENTS).then(|| {
                let batches: Vec<_> = following
                    .calls
                    .iter()
                    .map(|one| one.batch.clone())
                    .collect();
                let last = *self.committed.borrow() + lines_of(&group);
                let inserts = Arc::clone(&self.inserts);
                tokio::spawn(async move { group::prepare(&inserts, last, &batches) })
            });
            self.record_one(group, prepared).await;
            prepared = match ahead {
                // What could not be bound ahead is bound again, and then says why.
                Some(ahead) => ahead.await.ok().and_then(Result::ok),
                None => {
                    after = after.or_else(|| following.fill(jobs, GROUP_EVENTS, events_of));
                    None
                }
            };
            group = following;
        }
        after
    }

    /// Records one group and answers each call in it.
    async fn record_one(&mut self, group: Events, prepared: Option<Prepared>) {
        let submissions = group.submissions();
        let started = Instant::now();
        let outcomes = self.write_parts(&submissions, prepared).await;
        metrics::group_ended(submissions.len(), started.elapsed(), outcomes.is_err());
        group.answer(outcomes);
    }

    /// Records a group of items in one transaction and answers each call in it.
    async fn record_items(&mut self, group: Group<ItemSubmission, ItemOutcome>) {
        let batches = group.calls.iter().flat_map(|one| one.batch.iter());
        let outcomes = write_items(&mut self.connection, batches).await;
        group.answer(outcomes);
    }

    /// Records what fits: a part that does not fit is halved until what does not fit is alone, so
    /// that the others stand.
    async fn write_parts(
        &mut self,
        submissions: &[&Submission],
        mut prepared: Option<Prepared>,
    ) -> Outcomes {
        let mut outcomes = Vec::with_capacity(submissions.len());
        let mut parts = vec![submissions];
        while let Some(part) = parts.pop() {
            match self.write(part, prepared.take()).await {
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

    /// One transaction: keys, settlements, lines, totals, position. Nothing is acknowledged before its
    /// commit.
    async fn write(
        &mut self,
        submissions: &[&Submission],
        mut prepared: Option<Prepared>,
    ) -> Result<Vec<Outcome>, Error> {
        let mut refused = HashMap::new();
        loop {
            let written = self.attempt(submissions, prepared.take(), &refused);
            if let Some(outcomes) = written.await? {
                return Ok(outcomes);
            }
            refused = group::refused(&mut self.connection, submissions).await?;
        }
    }

    /// [`Writer::write`] without those that are known to be refused, each with the event that has its
    /// reservation. Answers none, and leaves nothing behind, if there are others.
    async fn attempt(
        &mut self,
        submissions: &[&Submission],
        prepared: Option<Prepared>,
        refused: &HashMap<usize, String>,
    ) -> Result<Option<Vec<Outcome>>, Error> {
        let Self {
            connection,
            inserts,
            ..
        } = self;
        let mut transaction = connection
            .begin_with("BEGIN IMMEDIATE")
            .await
            .map_err(unavailable)?;
        let after = last_position(&mut transaction).await?;
        let oldest_us = retention::sealed_before(&mut *transaction).await?;
        let out = out(submissions, refused, oldest_us);
        // Bound for other events, or for other positions than those that are free now, nothing of
        // it can be used.
        let whole = out.iter().all(Option::is_none);
        let prepared = prepared.filter(|prepared| prepared.last == after && whole);
        let taken = submissions.iter().zip(&out);
        let taken = taken.filter_map(|(one, out)| out.is_none().then_some(*one));
        let (numbered, last) = group::number(taken, after);
        let (keys, rest) = match prepared {
            Some(prepared) => (prepared.keys, Some((prepared.rows, prepared.sums))),
            None => (group::bind_keys(inserts, &numbered)?, None),
        };
        // SQLite has a thread of its own: while it takes the keys, the lines are bound as if every
        // key were free, as nearly all are, and while it writes the lines, the totals are.
        let (new, rest) =
            tokio::join!(group::take_keys(&mut transaction, keys, &numbered), async {
                match rest {
                    Some(rest) => Ok(rest),
                    None => group::bind_rest(inserts, numbered.iter()),
                }
            });
        let new = new?;
        if !group::settle(&mut transaction, inserts, &numbered, &new).await? {
            transaction.rollback().await.map_err(unavailable)?;
            return Ok(None);
        }
        let free = |key: &Key| matches!(key, Key::New) || is_planted(Planted::RecordRetries);
        let (rows, sums) = if new.iter().all(free) {
            rest
        } else {
            let fresh = numbered.iter().zip(&new).filter(|(_, key)| free(key));
            group::bind_rest(inserts, fresh.map(|(one, _)| one))
        }?;
        let (written, sums) = tokio::join!(rows.execute(&mut transaction), async {
            sums.bind(&inserts.totals)
        });
        written.map_err(unavailable)?;
        let sums = sums?;
        if !is_planted(Planted::SkipTotals) {
            sums.execute(&mut transaction).await.map_err(unavailable)?;
        }
        set_last_position(&mut transaction, last).await?;

        let written = outcomes(&mut transaction, &numbered, new, oldest_us).await?;
        let mut written = written.into_iter();
        let outcomes: Vec<_> = out
            .into_iter()
            .filter_map(|out| out.or_else(|| written.next()))
            .collect();
        if is_planted(Planted::AnswerWithoutCommit) {
            return Ok(Some(outcomes));
        }
        transaction.commit().await.map_err(unavailable)?;
        let recorded = submissions.iter().zip(&outcomes);
        let recorded = recorded.filter(|(_, outcome)| matches!(outcome, Outcome::Recorded { .. }));
        let tenants = recorded.map(|(submission, _)| &submission.tenant);
        self.publish(Some(Given { after, last }), tenants);
        Ok(Some(outcomes))
    }

    /// Tells of a commit that gave positions out, and whose rows are in it.
    fn publish<'a>(&self, given: Option<Given>, tenants: impl IntoIterator<Item = &'a TenantId>) {
        if let Some(given) = given {
            self.touched.add(given, tenants);
            self.committed.send_replace(given.last);
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

fn events_of(job: Job) -> Result<EventCall, Job> {
    match job {
        Job::Record(call) => Ok(call),
        other => Err(other),
    }
}

fn items_of(job: Job) -> Result<Batched<ItemSubmission, ItemOutcome>, Job> {
    match job {
        Job::Items(call) => Ok(call),
        other => Err(other),
    }
}

/// Positions that all events of a group take.
fn lines_of(group: &Events) -> i64 {
    let events = group.calls.iter().flat_map(|one| one.batch.iter());
    events.map(group::lines).sum()
}

/// What is known of each submission before its key is looked at; none of those that may be recorded.
fn out(
    submissions: &[&Submission],
    refused: &HashMap<usize, String>,
    oldest_us: i64,
) -> Vec<Option<Outcome>> {
    let out = |(index, one): (usize, &&Submission)| match refused.get(&index) {
        _ if one.charge_time_us < oldest_us => Some(Outcome::TooOld { oldest_us }),
        Some(event_id) => Some(Outcome::ReservationSettled {
            event_id: event_id.clone(),
        }),
        None => None,
    };
    submissions.iter().enumerate().map(out).collect()
}

/// What became of those whose keys were taken, or were not free.
async fn outcomes(
    connection: &mut SqliteConnection,
    numbered: &[(&Submission, i64)],
    keys: Vec<Key>,
    oldest_us: i64,
) -> Result<Vec<Outcome>, Error> {
    let mut outcomes = Vec::with_capacity(numbered.len());
    for ((submission, position), key) in numbered.iter().zip(keys) {
        outcomes.push(match key {
            Key::New => Outcome::Recorded {
                position: *position,
            },
            Key::Stands { position, same } => {
                let first = read::first_record(
                    connection,
                    submission.tenant.as_str(),
                    &submission.event.event_id,
                    position,
                )
                .await?;
                match first.filter(|first| first.charge_time_us >= oldest_us) {
                    None if oldest_us == 0 => return Err(read::lost()),
                    None => Outcome::TooOld { oldest_us },
                    Some(first) if same => Outcome::Duplicate(Box::new(first)),
                    Some(first) => Outcome::Conflict(Box::new(first)),
                }
            }
        });
    }
    Ok(outcomes)
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
    let oldest_us = retention::sealed_before(&mut *transaction).await?;
    let mut outcomes = Vec::new();
    for submission in submissions {
        outcomes.push(match submission.time_us() < oldest_us {
            true => ItemOutcome::TooOld { oldest_us },
            false => items::record(&mut transaction, submission).await?,
        });
    }
    transaction.commit().await.map_err(unavailable)?;
    Ok(outcomes)
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
