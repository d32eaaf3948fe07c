//! The tasks that write, each with a connection of its own. Whichever is free takes what waits (group
//! commit, no timer); while the statement of one runs, another binds and sends the next.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::timeout;

use super::connect::State;
use super::failure::Failure;
use super::group::{self, Plan};
use super::horizon::Nudge;
use super::link::Link;
use super::partitions::Partitions;
use super::{Config, correct, items};
use crate::ledger::correction::{RepriceStep, Void, VoidOutcome};
use crate::ledger::items::{ItemOutcome, ItemSubmission};
use crate::ledger::{Error, Outcome, Submission};
use crate::metrics;
use crate::queue::{Batched, EventCall, Events, Group, Places};

/// How often a group is tried that others get in the way of.
const ATTEMPTS: u32 = 20;
/// How long a job may take before its connection is given up: longer than the server lets a statement
/// run, so that it only matters when the server hangs.
const JOB_TIMEOUT: Duration = Duration::from_secs(20);

type ItemCall = Batched<ItemSubmission, ItemOutcome>;

/// Work for a writer.
enum Job {
    Record(EventCall),
    Items(ItemCall),
    Void {
        void: Void,
        reply: oneshot::Sender<Result<VoidOutcome, Error>>,
    },
    Reprice {
        step: RepriceStep,
        reply: oneshot::Sender<Result<bool, Error>>,
    },
    Check {
        reply: oneshot::Sender<Result<(), Error>>,
    },
    Close {
        reply: oneshot::Sender<()>,
    },
}

/// The writers of a node.
pub(super) struct Writers {
    jobs: mpsc::Sender<Job>,
    places: Places,
    count: u32,
}

fn closed() -> Error {
    Error::Unavailable("the ledger is closed".into())
}

impl Writers {
    /// Connects the writers and lets them go.
    pub(super) async fn start(
        config: &Config,
        state: Arc<State>,
        nudge: Nudge,
    ) -> Result<Self, Error> {
        let (jobs, waiting) = mpsc::channel(config.queue_events.max(1));
        let waiting = Arc::new(Mutex::new(waiting));
        let partitions = Arc::new(Partitions::default());
        let count = config.writers.max(1);
        for _ in 0..count {
            let writer = Writer {
                link: Link::open(config, Arc::clone(&state)).await?,
                jobs: Arc::clone(&waiting),
                group_events: config.group_events,
                nudge: nudge.clone(),
                partitions: Arc::clone(&partitions),
                retries: false,
            };
            tokio::spawn(writer.run());
        }
        Ok(Self {
            jobs,
            places: Places::new(config.queue_events),
            count,
        })
    }

    pub(super) async fn record(
        &self,
        batch: Arc<[Submission]>,
    ) -> Result<Vec<Result<Outcome, Error>>, Error> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let queued = self.places.take(batch.len())?;
        self.ask(|reply| {
            Job::Record(Batched {
                batch,
                reply,
                queued,
            })
        })
        .await
    }

    pub(super) async fn record_items(
        &self,
        batch: Arc<[ItemSubmission]>,
    ) -> Result<Vec<ItemOutcome>, Error> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let queued = self.places.take(batch.len())?;
        self.ask(|reply| {
            Job::Items(Batched {
                batch,
                reply,
                queued,
            })
        })
        .await
    }

    pub(super) async fn void(&self, void: Void) -> Result<VoidOutcome, Error> {
        self.ask(|reply| Job::Void { void, reply }).await
    }

    pub(super) async fn reprice(&self, step: RepriceStep) -> Result<bool, Error> {
        self.ask(|reply| Job::Reprice { step, reply }).await
    }

    pub(super) async fn check(&self) -> Result<(), Error> {
        self.ask(|reply| Job::Check { reply }).await
    }

    /// Waits until everything accepted is on disk, and ends the writers.
    pub(super) async fn close(&self) {
        for _ in 0..self.count {
            let (reply, closed) = oneshot::channel();
            if self.jobs.send(Job::Close { reply }).await.is_ok() {
                let _ = closed.await;
            }
        }
    }

    /// Hands a job to the writers and waits for its answer.
    async fn ask<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Job,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(job(reply)).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }
}

/// One writer.
struct Writer {
    link: Link,
    jobs: Arc<Mutex<mpsc::Receiver<Job>>>,
    group_events: usize,
    nudge: Nudge,
    partitions: Arc<Partitions>,
    /// Whether the last group met a key that was taken: then the next one looks first.
    retries: bool,
}

fn events_of(job: Job) -> Result<EventCall, Job> {
    match job {
        Job::Record(call) => Ok(call),
        other => Err(other),
    }
}

fn items_of(job: Job) -> Result<ItemCall, Job> {
    match job {
        Job::Items(call) => Ok(call),
        other => Err(other),
    }
}

impl Writer {
    /// Writes until told to close, or until nobody can send any more.
    async fn run(mut self) {
        let mut next = None;
        loop {
            let job = match next.take() {
                Some(job) => Some(job),
                None => self.jobs.lock().await.recv().await,
            };
            match job {
                Some(Job::Record(first)) => {
                    let mut group = Group::of(first);
                    next = self.fill(&mut group, events_of);
                    self.record(group).await;
                }
                Some(Job::Items(first)) => {
                    let mut group = Group::of(first);
                    next = self.fill(&mut group, items_of);
                    let done = self.items(&group.submissions()).await;
                    group.answer(done);
                }
                Some(Job::Void { void, reply }) => {
                    let _ = reply.send(self.void(&void).await);
                }
                Some(Job::Reprice { step, reply }) => {
                    let _ = reply.send(self.reprice(&step).await);
                }
                Some(Job::Check { reply }) => {
                    let _ = reply.send(self.check().await);
                }
                Some(Job::Close { reply }) => {
                    self.link.close().await;
                    let _ = reply.send(());
                    return;
                }
                None => return,
            }
        }
    }

    /// Takes what waits. Where another writer waits for work, nothing does.
    fn fill<S, O>(
        &self,
        group: &mut Group<S, O>,
        kind: impl Fn(Job) -> Result<Batched<S, O>, Job>,
    ) -> Option<Job> {
        let mut jobs = self.jobs.try_lock().ok()?;
        group.fill(&mut jobs, self.group_events, kind)
    }

    /// Records a group and answers each call in it.
    async fn record(&mut self, group: Events) {
        let submissions = group.submissions();
        let (events, started) = (submissions.len(), Instant::now());
        let outcomes = self.write_parts(&submissions).await;
        metrics::group_ended(events, started.elapsed(), outcomes.is_err());
        group.answer(outcomes);
    }

    /// Records what fits: a part that does not fit is halved until what does not fit is alone, so
    /// that the others stand.
    async fn write_parts(
        &mut self,
        submissions: &[&Submission],
    ) -> Result<Vec<Result<Outcome, Error>>, Error> {
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
                Err(error) => {
                    let failed = || Err(Error::Unavailable(error.to_string()));
                    outcomes.extend(part.iter().map(|_| failed()));
                }
            }
        }
        Ok(outcomes)
    }

    /// Records a part of a group, whole. Nothing is acknowledged before it is committed.
    async fn write(&mut self, submissions: &[&Submission]) -> Result<Vec<Outcome>, Error> {
        let mut plan = Plan::new(submissions);
        let written = timeout(JOB_TIMEOUT, self.write_plan(&mut plan)).await;
        let done = match written {
            Ok(Ok(start)) => {
                let connection = &mut self.link.get().await?.connection;
                let outcomes = timeout(JOB_TIMEOUT, plan.outcomes(connection, start));
                outcomes.await.unwrap_or_else(|_| Err(hangs()))
            }
            Ok(Err(failure)) => Err(failure),
            Err(_) => Err(hangs()),
        };
        if let Err(Failure::Lost(_)) = &done {
            self.link.lose();
        }
        done.map_err(Error::from)
    }

    /// Makes the statement until nothing is in its way; answers what positions are counted from.
    async fn write_plan(&mut self, plan: &mut Plan<'_>) -> Result<i64, Failure> {
        let link = self.link.get().await?;
        let connection = &mut link.connection;
        if self.retries {
            self.retries = plan.leave_out_standing(connection).await?;
        }
        let mut attempt = 0;
        while !plan.is_empty() {
            // No partition is made of a month that is sealed: it may have been dropped.
            if self.partitions.lacks(plan.times_us()) && plan.leave_out_sealed(connection).await? {
                continue;
            }
            self.partitions.ensure(connection, plan.times_us()).await?;
            let written = plan.write(connection, link.types).await;
            attempt += 1;
            match written {
                Ok((start, last)) => {
                    self.nudge.acknowledged(last);
                    return Ok(start);
                }
                Err(failure) if attempt == ATTEMPTS => return Err(failure),
                Err(Failure::KeyTaken) => {
                    self.retries = plan.leave_out_standing(connection).await?;
                }
                Err(Failure::Settled) => plan.leave_out_settled(connection).await?,
                Err(Failure::TooOld) => {
                    plan.leave_out_sealed(connection).await?;
                }
                Err(Failure::NoPartition) => self.partitions.forget(),
                Err(Failure::Contended(_)) => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(0)
    }

    /// Records a group of items in one transaction.
    async fn items(&mut self, submissions: &[&ItemSubmission]) -> Result<Vec<ItemOutcome>, Error> {
        let mut attempt = 0;
        loop {
            let link = self.link.get().await?;
            let done = timeout(JOB_TIMEOUT, items::record(link, submissions)).await;
            attempt += 1;
            // Groups that end the same tools in another order get in each other's way.
            if matches!(done, Ok(Err(Failure::Contended(_)))) && attempt < ATTEMPTS {
                continue;
            }
            let (outcomes, last) = self.ended(done).await?;
            self.nudge.acknowledged(last);
            return Ok(outcomes);
        }
    }

    async fn void(&mut self, void: &Void) -> Result<VoidOutcome, Error> {
        let link = self.link.get().await?;
        let done = timeout(JOB_TIMEOUT, correct::void(link, void)).await;
        let (outcome, last) = self.ended(done).await?;
        self.nudge.acknowledged(last);
        Ok(outcome)
    }

    async fn reprice(&mut self, step: &RepriceStep) -> Result<bool, Error> {
        let link = self.link.get().await?;
        let done = timeout(JOB_TIMEOUT, correct::reprice(link, step)).await;
        let last = self.ended(done).await?;
        self.nudge.acknowledged(last.unwrap_or_default());
        Ok(last.is_some())
    }

    /// Takes a lock that every group takes, and gives it back.
    async fn check(&mut self) -> Result<(), Error> {
        let link = self.link.get().await?;
        let done = timeout(JOB_TIMEOUT, group::check(&mut link.connection)).await;
        self.ended(done).await
    }

    /// What a job came to. A connection on which it failed is examined before it is used again.
    async fn ended<T>(
        &mut self,
        done: Result<Result<T, Failure>, tokio::time::error::Elapsed>,
    ) -> Result<T, Error> {
        match done {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(failure)) => {
                self.link.examine().await;
                Err(failure.into())
            }
            Err(_) => {
                self.link.lose();
                Err(hangs().into())
            }
        }
    }
}

/// The server does not answer.
fn hangs() -> Failure {
    Failure::Lost("the server of the ledger does not answer in time".into())
}
