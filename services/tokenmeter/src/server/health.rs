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

/// Reports that the process runs and that nothing is ready, for as long as the ledger was not reached.
pub(crate) async fn waiting(roles: &[ServeRole]) -> HealthServer<impl HealthApi> {
    let (reporter, server) = health_reporter();
    reporter
        .set_service_status(LIVENESS, ServingStatus::Serving)
        .await;
    report(&reporter, roles, |_| false).await;
    server
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
    let mut judge = Judge::default();
    judge.begin(&ask(&*ledger).await);
    report(&reporter, roles, |role| judge.serves(role)).await;
    let watch = tokio::spawn(follow(reporter.clone(), roles.to_vec(), ledger, judge));
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

/// Follows the ledger for as long as it runs.
async fn follow(
    reporter: HealthReporter,
    roles: Vec<ServeRole>,
    ledger: Arc<dyn Ledger>,
    mut judge: Judge,
) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        if judge.judge(&ask(&*ledger).await) {
            let (writes, reads) = (judge.writes.ready, judge.reads.ready);
            tracing::warn!(writes, reads, "readiness changed with the ledger");
            report(&reporter, &roles, |role| judge.serves(role)).await;
        }
    }
}

async fn ask(ledger: &dyn Ledger) -> Answers {
    let (writes, reads) = tokio::join!(
        tokio::time::timeout(TIMEOUT, ledger.check()),
        tokio::time::timeout(TIMEOUT, ledger.check_reads()),
    );
    Answers {
        writes: writes.ok().map(|answer| answer.is_ok()),
        reads: reads.ok().map(|answer| answer.is_ok()),
        written: ledger.written(),
    }
}

/// What the ledger answered; none if it did not in time.
#[derive(Debug)]
struct Answers {
    writes: Option<bool>,
    reads: Option<bool>,
    /// The last position that this node has written: others' commits say nothing of its writers.
    written: i64,
}

/// What counts of the ledger.
#[derive(Debug, Default)]
struct Judge {
    /// The last position that this node had written at the last check.
    written: i64,
    writes: Steady,
    reads: Steady,
}

impl Judge {
    /// Whether it can write, and whether it can be read, by these answers alone.
    fn works(&mut self, answers: &Answers) -> (bool, bool) {
        let commits = self.written != answers.written;
        self.written = answers.written;
        (
            answers.writes.unwrap_or(commits),
            answers.reads.unwrap_or(false),
        )
    }

    /// Takes the first answers as they are.
    fn begin(&mut self, answers: &Answers) {
        self.written = answers.written;
        let (writes, reads) = self.works(answers);
        self.writes.ready = writes;
        self.reads.ready = reads;
    }

    /// Takes answers in; says whether this changed what counts.
    fn judge(&mut self, answers: &Answers) -> bool {
        let (writes, reads) = self.works(answers);
        // Both are taken in, whatever becomes of the first.
        self.writes.note(writes) | self.reads.note(reads)
    }

    /// Whether a role has what it needs: recording, administration and jobs write, analytics read.
    fn serves(&self, role: ServeRole) -> bool {
        match role {
            ServeRole::Metering | ServeRole::Admin | ServeRole::Jobs => self.writes.ready,
            ServeRole::Analytics => self.reads.ready,
        }
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

    fn answers(writes: Option<bool>, reads: Option<bool>, written: i64) -> Answers {
        Answers {
            writes,
            reads,
            written,
        }
    }

    /// A judge of a ledger that works.
    fn ready() -> Judge {
        let mut judge = Judge::default();
        judge.begin(&answers(Some(true), Some(true), 7));
        judge
    }

    #[test]
    fn it_takes_checks_in_a_row_to_change_what_counts() {
        let mut steady = ready().writes;
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

    #[test]
    fn nothing_is_ready_before_the_ledger_answered() {
        let mut judge = Judge::default();
        judge.begin(&answers(None, None, 7));
        for role in ServeRole::ALL {
            assert!(!judge.serves(role), "{role:?}");
            assert!(ready().serves(role), "{role:?}");
        }
    }

    #[test]
    fn a_writer_who_is_late_and_commits_is_busy_and_works() {
        let mut judge = ready();
        for written in 8..20 {
            assert!(!judge.judge(&answers(None, Some(true), written)));
        }
        let stuck = [(); 3].map(|()| judge.judge(&answers(None, Some(true), 19)));
        assert_eq!(stuck, [false, false, true]);
        assert!(!judge.serves(ServeRole::Metering) && !judge.serves(ServeRole::Jobs));
        assert!(judge.serves(ServeRole::Analytics));
    }

    #[test]
    fn analytics_need_reads_and_nothing_else_does() {
        let mut judge = ready();
        for _ in 0..FAILURES {
            judge.judge(&answers(Some(true), Some(false), 7));
        }
        let serving = ServeRole::ALL.map(|role| judge.serves(role));
        assert_eq!(serving, [true, false, true, true]);
    }
}
