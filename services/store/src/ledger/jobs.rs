//! Periodic jobs: who does which, and whether it was done.
//!
//! Exactly one node does a job at a time. It holds a lease, by the ledger's own clock so that the
//! nodes' clocks need not agree, and renews it while it works. A lease that ran out is another
//! node's to take; each taking has a new generation, by which whoever lost it is told. What was done
//! is remembered by the name of its period (a month, a day), so that no two nodes do it one after the
//! other.

use std::time::Duration;

use async_trait::async_trait;
use tokenmeter_model::id::TenantId;

use super::Error;

/// A job that this node has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The job.
    pub job: String,
    /// Another one each time that the lease is taken.
    pub generation: i64,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending<'a> {
    /// It is done for the period of this name and all before.
    Done {
        /// As `2026-07`; names of later periods are greater.
        key: &'a str,
    },
    /// It failed; nobody tries again before this time has passed.
    Failed {
        /// How long to wait.
        retry_after: Duration,
    },
    /// It was broken off, as by a shutdown; whoever can does it again at once.
    Released,
}

/// What is known about a job that ran at least once. Times are by the ledger's clock, in microseconds
/// since the Unix epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobState {
    /// The job.
    pub job: String,
    /// The node that runs it, or ran it last.
    pub node: String,
    /// Whether it runs now.
    pub running: bool,
    /// Whether its lease can be taken now.
    pub free: bool,
    /// When the lease runs out, or a failed job may be tried again.
    pub lease_until_us: i64,
    /// When it last began.
    pub last_start_us: i64,
    /// When it last ended.
    pub last_end_us: Option<i64>,
    /// Whether it ended well then.
    pub succeeded: Option<bool>,
    /// What it did, or what went wrong.
    pub detail: String,
    /// The last period that it was done for; empty when it never was.
    pub last_key: String,
    /// How often it failed since it was last done.
    pub failures: i64,
}

/// The periodic jobs of all nodes.
#[async_trait]
pub trait Jobs: Send + Sync + 'static {
    /// Takes the lease of a job, for this long, to do the period `key`; none when another holds it, or
    /// that period is done.
    async fn take_job(
        &self,
        job: &str,
        node: &str,
        key: &str,
        lease: Duration,
    ) -> Result<Option<Lease>, Error>;

    /// Holds a lease for this long from now on; false when it was lost, and then the job has to stop.
    async fn renew_job(&self, held: &Lease, lease: Duration) -> Result<bool, Error>;

    /// Gives a lease back with how the run ended, and what there is to say about it; false, and
    /// nothing changed, when the lease was lost.
    async fn end_job(&self, held: &Lease, ending: Ending<'_>, detail: &str) -> Result<bool, Error>;

    /// Every job that ever ran, by name.
    async fn jobs(&self) -> Result<Vec<JobState>, Error>;

    /// Makes room for the usage of the calendar month of a time (in microseconds since the Unix epoch)
    /// and of the one after it, ahead of its need, where the ledger keeps months apart. Safe to repeat.
    async fn make_room(&self, now_us: i64) -> Result<(), Error>;

    /// Tenants with usage, in their order, after `after`.
    async fn tenants(&self, after: Option<&TenantId>, limit: i64) -> Result<Vec<TenantId>, Error>;
}
