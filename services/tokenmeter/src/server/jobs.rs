//! The role `jobs`: periodic work, each on exactly one of the nodes that have the role (docs/jobs.md).
//!
//! A node looks every few seconds what is due by the configured time zone and not done yet, takes its
//! lease in the ledger, and renews it while it works. What is due is done however late: a night
//! without a node is caught up. A run may be broken off at any moment, because every job can be done
//! twice and goes on where it was broken off; so one whose lease is lost, or whose node shuts down, is
//! dropped as it is.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use tokenmeter_admin::{Due, Plan, ReconcileAdmin, RolloverAdmin};
use tokenmeter_model::zone::Zone;
use tokenmeter_store::clock::{self, Clock};
use tokenmeter_store::ledger::jobs::{Ending, JobState, Jobs, Lease};
use tokenmeter_store::ledger::{self, Ledger, retention};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use tokenmeter_store::address::Address;

use crate::config::Config;

/// How often a node looks what is due.
const TICK: Duration = Duration::from_secs(10);
/// How long a lease lasts without being renewed: so long a job of a node that died waits.
const LEASE: Duration = Duration::from_secs(60);
/// How often it is renewed, and how long that may take.
const RENEW: Duration = Duration::from_secs(20);
/// How long a job that failed waits; twice as long after each further failure.
const FIRST_RETRY: Duration = Duration::from_secs(60);
/// The longest that it waits.
const LAST_RETRY: Duration = Duration::from_secs(3_600);
/// Longest text about a run, in bytes.
const MAX_DETAIL: usize = 500;

/// Runs of jobs that ended, by job and outcome.
const RUNS: &str = "tokenmeter_job_runs_total";
/// When a job was last done, by job.
const LAST_SUCCESS: &str = "tokenmeter_job_last_success_timestamp_seconds";

/// Says what each metric of the jobs means.
pub(super) fn describe() {
    describe_counter!(
        RUNS,
        Unit::Count,
        "Runs of periodic jobs that ended on this node, by outcome: succeeded, failed, stopped or lost"
    );
    describe_gauge!(
        LAST_SUCCESS,
        Unit::Seconds,
        "When this node last did a periodic job, in seconds since the Unix epoch"
    );
}

/// The jobs of nodes with this configuration: not retention where all is kept, and partitions where
/// the ledger has some.
pub(super) fn tasks(config: &Config, ledger: &Arc<dyn Ledger>) -> Vec<Task> {
    let (clock, zone) = (clock::system(), config.zone.clone());
    let rollover = RolloverAdmin::new(Arc::clone(ledger), Arc::clone(&clock), zone.clone());
    let reconcile = ReconcileAdmin::new(Arc::clone(ledger), Arc::clone(&clock));
    let mut tasks = vec![
        Task::new(Plan::ROLLOVER, Rollover(rollover.clone())),
        Task::new(Plan::RECONCILIATION, Reconciliation(reconcile)),
    ];
    if let Some(days) = config.retention_days {
        let work = Retention {
            ledger: Arc::clone(ledger),
            rollover,
            clock: Arc::clone(&clock),
            zone,
            days: days.into(),
        };
        tasks.push(Task::new(Plan::RETENTION, work));
    }
    if matches!(config.ledger, Address::Postgres(_)) {
        let work = Partitions(Arc::clone(ledger), clock);
        tasks.push(Task::new(Plan::PARTITIONS, work));
    }
    tasks
}

/// Begins to run the jobs of a configuration, until told to stop.
pub(super) fn start(
    config: &Config,
    ledger: &Arc<dyn Ledger>,
    node: String,
    stop: CancellationToken,
) -> JoinHandle<()> {
    let runner = Runner {
        ledger: Arc::clone(ledger) as Arc<dyn Jobs>,
        clock: clock::system(),
        zone: config.zone.clone(),
        node,
        tasks: tasks(config, ledger),
    };
    tokio::spawn(runner.run(stop))
}

/// What a job does. It may be dropped at any await, and done again.
#[async_trait]
pub(super) trait Work: Send + Sync + 'static {
    /// Does it, and says in a few words what it did, or what went wrong.
    async fn run(&self) -> Result<String, String>;
}

/// Closes months.
struct Rollover(RolloverAdmin);

#[async_trait]
impl Work for Rollover {
    async fn run(&self) -> Result<String, String> {
        let done = self.0.close_last_months().await;
        done.map_err(|error| error.to_string())
    }
}

/// Drops what is older than retention.
struct Retention {
    ledger: Arc<dyn Ledger>,
    rollover: RolloverAdmin,
    clock: Clock,
    zone: Zone,
    days: i64,
}

#[async_trait]
impl Work for Retention {
    async fn run(&self) -> Result<String, String> {
        let before_us = retention::cut((self.clock)(), self.days, &self.zone);
        let told = |error: ledger::Error| error.to_string();
        let would = self.ledger.purge(before_us, true).await.map_err(told)?;
        if would.tenants.is_empty() {
            // Nothing is sealed either: what is old may be recorded until something is dropped.
            let before = self.zone.date(retention::month_of(before_us));
            return Ok(format!("nothing to drop from before {before}"));
        }
        // What was used in a month is not known any more once its events are dropped.
        let closed = self.rollover.close_before(retention::month_of(before_us));
        let closed = closed.await.map_err(|error| error.to_string())?;
        let (mut events, mut other_rows) = (0, 0);
        loop {
            let step = self.ledger.purge(before_us, false).await.map_err(told)?;
            for dropped in step.tenants.values() {
                events += dropped.events;
                other_rows += dropped.other_rows;
            }
            if step.complete {
                let before = self.zone.date(step.sealed_before_us);
                return Ok(format!(
                    "{events} events and {other_rows} other rows from before {before} dropped, \
                     {closed} periods closed before that"
                ));
            }
        }
    }
}

/// Compares every total with its events.
struct Reconciliation(ReconcileAdmin);

#[async_trait]
impl Work for Reconciliation {
    async fn run(&self) -> Result<String, String> {
        let done = self.0.reconcile_all().await;
        done.map_err(|error| error.to_string())
    }
}

/// Makes the partitions of this month and the next.
struct Partitions(Arc<dyn Ledger>, Clock);

#[async_trait]
impl Work for Partitions {
    async fn run(&self) -> Result<String, String> {
        let made = self.0.make_room((self.1)()).await;
        made.map_err(|error| error.to_string())?;
        Ok("the partitions of this month and the next are there".to_owned())
    }
}

/// A job with what it does.
#[derive(Clone)]
pub(super) struct Task {
    pub(super) plan: Plan,
    pub(super) work: Arc<dyn Work>,
}

impl Task {
    fn new(plan: Plan, work: impl Work) -> Self {
        Self {
            plan,
            work: Arc::new(work),
        }
    }
}

/// Runs the jobs of a node.
#[derive(Clone)]
pub(super) struct Runner {
    pub(super) ledger: Arc<dyn Jobs>,
    pub(super) clock: Clock,
    pub(super) zone: Zone,
    pub(super) node: String,
    pub(super) tasks: Vec<Task>,
}

/// How a run ended.
enum Ended {
    Work(Result<String, String>),
    /// The node shuts down.
    Stopped,
    /// Another node has the lease, or may have it.
    Lost,
}

impl Runner {
    /// Runs what is due until told to stop, then breaks off what runs.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut runs: HashMap<&'static str, JoinHandle<()>> = HashMap::new();
        let mut reachable = true;
        while !stop.is_cancelled() {
            runs.retain(|_, run| !run.is_finished());
            match self.start_due(&mut runs, &stop).await {
                Ok(()) => reachable = true,
                Err(error) if reachable => {
                    tracing::warn!(%error, "looking for jobs that are due");
                    reachable = false;
                }
                // Told once until it works again.
                Err(_) => {}
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(TICK) => {}
            }
        }
        for run in runs.into_values() {
            // One that panicked said so itself; its lease runs out.
            let _ = run.await;
        }
    }

    /// Takes what is due and can be taken, and begins it.
    async fn start_due(
        &self,
        runs: &mut HashMap<&'static str, JoinHandle<()>>,
        stop: &CancellationToken,
    ) -> Result<(), String> {
        let told = |error: ledger::Error| error.to_string();
        let states = self.ledger.jobs().await.map_err(told)?;
        let now_us = (self.clock)();
        for task in &self.tasks {
            let name = task.plan.name;
            let due = task.plan.schedule.last(&self.zone, now_us);
            let state = states.iter().find(|state| state.job == name);
            let waits = |state: &JobState| !state.free || state.last_key >= due.key;
            if runs.contains_key(name) || state.is_some_and(waits) {
                continue;
            }
            let taken = self
                .ledger
                .take_job(name, &self.node, &due.key, LEASE)
                .await
                .map_err(told)?;
            if let Some(held) = taken {
                let failures = state.map_or(0, |state| state.failures);
                let run = self
                    .clone()
                    .run_one(task.clone(), due, held, failures, stop.clone());
                runs.insert(name, tokio::spawn(run));
            }
        }
        Ok(())
    }

    /// Runs one job, and gives its lease back with how it ended.
    async fn run_one(
        self,
        task: Task,
        due: Due,
        held: Lease,
        failures: i64,
        stop: CancellationToken,
    ) {
        let job = task.plan.name;
        tracing::info!(job, period = due.key, "job begins");
        let (outcome, ending, mut detail) = match self.work(&task, &held, &stop).await {
            Ended::Work(Ok(detail)) => ("succeeded", Ending::Done { key: &due.key }, detail),
            Ended::Work(Err(detail)) => {
                let retry_after = backoff(failures);
                ("failed", Ending::Failed { retry_after }, detail)
            }
            Ended::Stopped => {
                let text = "broken off by a shutdown".to_owned();
                ("stopped", Ending::Released, text)
            }
            Ended::Lost => {
                tracing::warn!(job, "the lease was lost, the job was broken off");
                counter!(RUNS, "job" => job, "outcome" => "lost").increment(1);
                return;
            }
        };
        counter!(RUNS, "job" => job, "outcome" => outcome).increment(1);
        match outcome {
            "succeeded" => {
                gauge!(LAST_SUCCESS, "job" => job).set(((self.clock)() / 1_000_000) as f64);
                tracing::info!(job, period = due.key, detail, "job is done");
            }
            "failed" => tracing::error!(job, detail, failures = failures + 1, "job failed"),
            _ => {}
        }
        detail.truncate(detail.floor_char_boundary(MAX_DETAIL));
        let ended = self.ledger.end_job(&held, ending, &detail);
        match tokio::time::timeout(RENEW, ended).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => tracing::warn!(job, "the lease was lost before the job ended"),
            Ok(Err(error)) => tracing::warn!(job, %error, "ending a job"),
            Err(_) => tracing::warn!(job, "ending a job: no answer"),
        }
    }

    /// Works, and renews the lease meanwhile.
    async fn work(&self, task: &Task, held: &Lease, stop: &CancellationToken) -> Ended {
        let mut work = std::pin::pin!(task.work.run());
        let mut renew = tokio::time::interval_at(Instant::now() + RENEW, RENEW);
        renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut until = Instant::now() + LEASE;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ended::Stopped,
                done = &mut work => return Ended::Work(done),
                _ = renew.tick() => {}
            }
            let asked = Instant::now();
            match tokio::time::timeout(RENEW, self.ledger.renew_job(held, LEASE)).await {
                Ok(Ok(true)) => until = asked + LEASE,
                Ok(Ok(false)) => return Ended::Lost,
                // Not told that it is lost; after its time it may be another's.
                Ok(Err(_)) | Err(_) if Instant::now() + RENEW >= until => return Ended::Lost,
                Ok(Err(_)) | Err(_) => {}
            }
        }
    }
}

/// How long to wait after one more failure.
fn backoff(failures: i64) -> Duration {
    let doubled = u32::try_from(failures).unwrap_or(u32::MAX).min(10);
    (FIRST_RETRY * 2_u32.pow(doubled)).min(LAST_RETRY)
}

#[cfg(test)]
#[path = "jobs_tests.rs"]
mod tests;
