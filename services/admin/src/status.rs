//! How the server is: version, uptime, and the state and latency of each dependency.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

/// How long a dependency may take to answer before it counts as down.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Asks one dependency whether it works.
#[async_trait]
pub trait Probe: Send + Sync + 'static {
    /// What it is: `ledger`, `counters`, `feed`.
    fn name(&self) -> &'static str;
    /// What serves it: `sqlite`, `memory`.
    fn backend(&self) -> &'static str;
    /// Answers when it works; the error is for administrators.
    async fn check(&self) -> Result<(), String>;
}

/// How a dependency is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    /// What it is.
    pub name: &'static str,
    /// What serves it.
    pub backend: &'static str,
    /// How long it took to answer; none when it did not.
    pub latency: Option<Duration>,
    /// What is wrong with it; none when it works.
    pub fault: Option<String>,
}

/// How the server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// How long the process has been running.
    pub uptime: Duration,
    /// Whether it is shutting down.
    pub draining: bool,
    /// Its dependencies.
    pub dependencies: Vec<Dependency>,
}

/// Answers how the server is.
pub struct StatusAdmin {
    started: Instant,
    probes: Vec<Box<dyn Probe>>,
    draining: CancellationToken,
    /// What this process runs.
    pub(crate) roles: Vec<String>,
    /// The number of the last migration of the ledger.
    pub(crate) schema_version: i64,
    /// This process among the nodes.
    pub(crate) node_id: String,
}

impl StatusAdmin {
    /// A service over the dependencies' probes; `draining` is cancelled when shutdown begins.
    pub fn new(
        probes: Vec<Box<dyn Probe>>,
        draining: CancellationToken,
        roles: Vec<String>,
        schema_version: i64,
        node_id: String,
    ) -> Self {
        Self {
            started: Instant::now(),
            probes,
            draining,
            roles,
            schema_version,
            node_id,
        }
    }

    /// Asks every dependency.
    pub async fn status(&self) -> Status {
        let mut dependencies = Vec::with_capacity(self.probes.len());
        for probe in &self.probes {
            let asked = Instant::now();
            let answer = tokio::time::timeout(PROBE_TIMEOUT, probe.check()).await;
            let fault = match answer {
                Ok(Ok(())) => None,
                Ok(Err(fault)) => Some(fault),
                Err(_) => Some(format!("no answer within {} s", PROBE_TIMEOUT.as_secs())),
            };
            dependencies.push(Dependency {
                name: probe.name(),
                backend: probe.backend(),
                latency: fault.is_none().then(|| asked.elapsed()),
                fault,
            });
        }
        Status {
            uptime: self.started.elapsed(),
            draining: self.draining.is_cancelled(),
            dependencies,
        }
    }
}
