//! `grpc.health.v1`: readiness of each service, and a liveness of its own that stays whatever the
//! ledger does.
//!
//! Readiness follows what a service needs of the ledger, with hysteresis: one bad check is no outage
//! and one good one no recovery. A writer who is late with its answer and goes on committing is busy,
//! and works.

use std::sync::Arc;
use std::time::Duration;

use tokenmeter_store::ledger::Ledger;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health as HealthApi, HealthServer};
use tonic_health::server::{HealthReporter, health_reporter};

use crate::config::ServeRole;

/// The name that answers SERVING as long as the process runs.
pub(crate) const LIVENESS: &str = "liveness";
/// How long after a check the next one begins.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long the ledger may take to answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Bad checks in a row after which a service is not ready.
const FAILURES: u32 = 3;
/// Good checks in a row after which it is ready again.
const SUCCESSES: u32 = 2;

/// The health of this process.
pub(crate) struct Health {
    reporter: HealthReporter,
    roles: Vec<ServeRole>,
    watch: tokio::task::JoinHandle<()>,
}

/// The full name of a role's service; none if it has none.
fn service(role: ServeRole) -> Option<&'static str> {
    match role {
        ServeRole::Metering => Some("tokenmeter.v1.MeteringService"),
        ServeRole::Analytics => Some("tokenmeter.v1.AnalyticsService"),
        ServeRole::Admin => Some("tokenmeter.v1.AdminService"),
        ServeRole::Jobs => None,
    }
}

/// Reports every served role, the whole ("") and liveness, and follows the ledger from then on.
/// Nothing is ready before the ledger answered once.
pub(crate) async fn start(
    roles: &[ServeRole],
    ledger: Arc<dyn Ledger>,
) -> (Health, HealthServer<impl HealthApi>) {
    let (reporter, server) = health_reporter();
    reporter
        .set_service_status(LIVENESS, ServingStatus::Serving)
        .await;
    let mut watch = Watch {
        committed: *ledger.committed().borrow(),
        ledger,
        writes: Steady::default(),
        reads: Steady::default(),
    };
    let (writes, reads) = watch.check().await;
    watch.writes.ready = writes;
    watch.reads.ready = reads;
    report(&reporter, roles, |role| watch.serves(role)).await;
    let watch = tokio::spawn(watch.follow(reporter.clone(), roles.to_vec()));
    (
        Health {
            reporter,
            roles: roles.to_vec(),
            watch,
        },
        server,
    )
}

/// Reports each role, and the whole: ready if all that this process does is.
async fn report(reporter: &HealthReporter, roles: &[ServeRole], ready: impl Fn(ServeRole) -> bool) {
    let status = |ready| match ready {
        true => ServingStatus::Serving,
        false => ServingStatus::NotServing,
    };
    for role in roles {
        if let Some(service) = service(*role) {
            let status = status(ready(*role));
            reporter.set_service_status(service, status).await;
        }
    }
    let all = roles.iter().all(|role| ready(*role));
    reporter.set_service_status("", status(all)).await;
}

/// One thing that is checked, and whether it counts as working.
#[derive(Debug, Default)]
struct Steady {
    ready: bool,
    /// Checks in a row that say otherwise.
    against: u32,
}

impl Steady {
    /// Takes a check in; answers whether this changed what it counts as.
    fn note(&mut self, works: bool) -> bool {
        if works == self.ready {
            self.against = 0;
            return false;
        }
        self.against += 1;
        let enough = match self.ready {
            true => FAILURES,
            false => SUCCESSES,
        };
        if self.against < enough {
            return false;
        }
        *self = Self {
            ready: works,
            against: 0,
        };
        true
    }
}

/// Follows the ledger.
struct Watch {
    ledger: Arc<dyn Ledger>,
    /// The last position on disk at the last check.
    committed: i64,
    writes: Steady,
    reads: Steady,
}

impl Watch {
    /// Whether a role has what it needs: recording, administration and jobs write, analytics read.
    fn serves(&self, role: ServeRole) -> bool {
        match role {
            ServeRole::Metering | ServeRole::Admin | ServeRole::Jobs => self.writes.ready,
            ServeRole::Analytics => self.reads.ready,
        }
    }

    async fn follow(mut self, reporter: HealthReporter, roles: Vec<ServeRole>) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            let (writes, reads) = self.check().await;
            // Both are taken in, whatever the first says.
            let changed = self.writes.note(writes) | self.reads.note(reads);
            if changed {
                let (writes, reads) = (self.writes.ready, self.reads.ready);
                tracing::warn!(writes, reads, "readiness changed with the ledger");
                report(&reporter, &roles, |role| self.serves(role)).await;
            }
        }
    }

    /// Whether the ledger can write, and whether it can be read.
    async fn check(&mut self) -> (bool, bool) {
        let (writes, reads) = tokio::join!(
            tokio::time::timeout(TIMEOUT, self.ledger.check()),
            tokio::time::timeout(TIMEOUT, self.ledger.check_reads()),
        );
        let committed = *self.ledger.committed().borrow();
        let busy = std::mem::replace(&mut self.committed, committed) != committed;
        let writes = writes.map_or(busy, |answer| answer.is_ok());
        (writes, matches!(reads, Ok(Ok(()))))
    }
}

impl Health {
    /// Says that this process takes no more calls. Liveness stays: draining is not being stuck.
    pub(crate) async fn stop(&mut self) {
        self.watch.abort();
        // It may be reporting at this moment, and must not do so afterwards.
        let _ = (&mut self.watch).await;
        report(&self.reporter, &self.roles, |_| false).await;
    }

    /// Ends every watch, liveness included: a watch has no end of its own, and the server waits for
    /// open streams.
    pub(crate) async fn end(mut self) {
        let services = self.roles.iter().filter_map(|role| service(*role));
        for name in services.chain(["", LIVENESS]) {
            self.reporter.clear_service_status(name).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_checks_in_a_row_to_change_what_counts() {
        let mut steady = Steady {
            ready: true,
            against: 0,
        };
        let mut after = |checks: &[bool]| {
            for works in checks {
                steady.note(*works);
            }
            steady.ready
        };
        assert!(after(&[false, false, true, false, false, true]));
        assert!(!after(&[false, false, false]));
        assert!(!after(&[true, false, true, false]));
        assert!(after(&[true, true]));
        assert!(after(&[false, false]));
        assert!(!after(&[false]));
    }
}
