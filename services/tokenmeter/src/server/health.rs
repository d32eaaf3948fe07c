//! `grpc.health.v1`: readiness of each service, and a liveness of its own that stays whatever the
//! ledger does.

use std::sync::Arc;
use std::time::Duration;

use tokenmeter_store::ledger::Ledger;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health as HealthApi, HealthServer};
use tonic_health::server::{HealthReporter, health_reporter};

use crate::config::ServeRole;

/// The name that answers SERVING as long as the process runs.
pub(crate) const LIVENESS: &str = "liveness";
/// How often readiness is looked at.
const INTERVAL: Duration = Duration::from_secs(2);
/// How long the ledger may take to answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Answers that the ledger may owe in a row: it asks its writer, who may be busy and is well then.
const MAX_LATE: u32 = 3;

/// The health of this process.
pub(crate) struct Health {
    reporter: HealthReporter,
    roles: Vec<ServeRole>,
    watch: tokio::task::JoinHandle<()>,
}

/// The full name of a role's service.
fn service(role: ServeRole) -> &'static str {
    match role {
        ServeRole::Metering => "tokenmeter.v1.MeteringService",
        ServeRole::Analytics => "tokenmeter.v1.AnalyticsService",
        ServeRole::Admin => "tokenmeter.v1.AdminService",
    }
}

/// Reports every served role, the whole ("") and liveness, and follows the ledger from then on.
pub(crate) async fn start(
    roles: &[ServeRole],
    ledger: Arc<dyn Ledger>,
) -> (Health, HealthServer<impl HealthApi>) {
    let (reporter, server) = health_reporter();
    reporter
        .set_service_status(LIVENESS, ServingStatus::Serving)
        .await;
    report(&reporter, roles, ServingStatus::Serving).await;
    let watch = tokio::spawn(follow(reporter.clone(), roles.to_vec(), ledger));
    (
        Health {
            reporter,
            roles: roles.to_vec(),
            watch,
        },
        server,
    )
}

async fn report(reporter: &HealthReporter, roles: &[ServeRole], status: ServingStatus) {
    reporter.set_service_status("", status).await;
    for role in roles {
        reporter.set_service_status(service(*role), status).await;
    }
}

/// Readiness follows the ledger: nothing can be recorded or read without it.
async fn follow(reporter: HealthReporter, roles: Vec<ServeRole>, ledger: Arc<dyn Ledger>) {
    let mut ready = true;
    let mut late = 0;
    loop {
        tokio::time::sleep(INTERVAL).await;
        let works = match tokio::time::timeout(TIMEOUT, ledger.check()).await {
            Ok(answer) => {
                late = 0;
                answer.is_ok()
            }
            Err(_) => {
                late += 1;
                ready && late < MAX_LATE
            }
        };
        if works != ready {
            tracing::warn!(ready = works, "readiness changed with the ledger");
            ready = works;
            let status = if ready {
                ServingStatus::Serving
            } else {
                ServingStatus::NotServing
            };
            report(&reporter, &roles, status).await;
        }
    }
}

impl Health {
    /// Says that this process takes no more calls. Liveness stays: draining is not being stuck.
    pub(crate) async fn stop(&self) {
        self.watch.abort();
        report(&self.reporter, &self.roles, ServingStatus::NotServing).await;
    }

    /// Ends every watch, liveness included: a watch has no end of its own, and the server waits for
    /// open streams.
    pub(crate) async fn end(mut self) {
        for name in ["", LIVENESS] {
            self.reporter.clear_service_status(name).await;
        }
        for role in self.roles {
            self.reporter.clear_service_status(service(role)).await;
        }
    }
}
