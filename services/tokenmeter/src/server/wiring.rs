//! What a node is made of: ports, services, layers.

use std::sync::Arc;

use async_trait::async_trait;
use tokenmeter_admin::{
    Configured, JobAdmin, LimitAdmin, PriceAdmin, Probe, ReconcileAdmin, RepriceAdmin,
    RetentionAdmin, RolloverAdmin, Standings, StatusAdmin, Upkeep,
};
use tokenmeter_analytics::{Analytics, Live};
use tokenmeter_api::FILE_DESCRIPTOR_SET;
use tokenmeter_api::streams::Streams;
use tokenmeter_api::v1::admin_service_server::AdminServiceServer;
use tokenmeter_api::v1::analytics_service_server::AnalyticsServiceServer;
use tokenmeter_api::v1::metering_service_server::MeteringServiceServer;
use tokenmeter_identity::IdentityLayer;
use tokenmeter_metering::admission::Admission;
use tokenmeter_metering::stream::{self, UNREAD_LIMIT};
use tokenmeter_metering::{Metering, StreamSettings};
use tokenmeter_model::price::shipped;
use tokenmeter_store::books::Books;
use tokenmeter_store::clock::{self, Clock};
use tokenmeter_store::counters::Counters;
use tokenmeter_store::ledger::Ledger;
use tokenmeter_store::rules::Rules;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use tonic::service::RoutesBuilder;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tower::layer::util::{Identity, Stack};

use super::counters;
use super::guard::GuardLayer;
use super::health::{self, Health};
use super::jobs;
use super::ledger::{self, LedgerProbe, Opened};
use super::limits::OfAdmission;
use crate::config::{Config, ServeRole};

/// Everything outside the network.
pub(crate) struct Node {
    pub(crate) router: Router<Stack<IdentityLayer, Stack<GuardLayer, Identity>>>,
    pub(crate) health: Health,
    pub(crate) guard: GuardLayer,
    pub(crate) ledger: Arc<dyn Ledger>,
    /// Of nodes that serve metering.
    pub(crate) admission: Option<Arc<Admission>>,
    /// Held as long as the process serves.
    pub(crate) _alone: Option<std::fs::File>,
}

/// Opens the ports and puts the services on them.
///
/// # Errors
/// Why a port could not be opened.
pub(crate) async fn build(config: &Config, draining: CancellationToken) -> Result<Node, String> {
    let Opened { ledger, alone } = ledger::open(config).await?;
    ship_prices(&*ledger).await?;
    let (health, health_server) = health::start(&config.roles, Arc::clone(&ledger)).await;
    let mut routes = RoutesBuilder::default();
    routes.add_service(health_server);
    add_reflection(&mut routes)?;
    let books = Arc::new(Books::new(Arc::clone(&ledger)));
    let counters = match config.roles.contains(&ServeRole::Metering) {
        true => Some(counters::open(config)?),
        false => None,
    };
    let admission = counters.as_ref().map(|counters| {
        Arc::new(Admission::new(
            Arc::clone(&ledger),
            Arc::clone(&books),
            Arc::clone(counters),
            Arc::new(Rules::new(Arc::clone(&ledger), config.zone.clone())),
            clock::system(),
        ))
    });
    let ports = Ports {
        ledger: &ledger,
        books: &books,
        counters: counters.as_ref(),
        admission: admission.as_ref(),
    };
    add_services(&mut routes, config, &ports, draining.clone());
    let guard = GuardLayer::new(
        config.max_concurrent_requests,
        config.max_message_bytes,
        config.request_timeout,
        draining,
    );
    let router = Server::builder()
        .max_concurrent_streams(config.max_streams_per_connection)
        .http2_keepalive_interval(Some(std::time::Duration::from_secs(30)))
        .http2_adaptive_window(Some(true))
        .layer(guard.clone())
        .layer(IdentityLayer)
        .add_routes(routes.routes());
    Ok(Node {
        router,
        health,
        guard,
        ledger,
        admission,
        _alone: alone,
    })
}

/// The prices that ship with this version; those that stand already keep their versions.
async fn ship_prices(ledger: &dyn Ledger) -> Result<(), String> {
    let prices = shipped::shipped().map_err(|error| format!("shipped prices: {error}"))?;
    let added = ledger
        .add_prices(None, prices, clock::system()())
        .await
        .map_err(|error| format!("shipped prices: {error}"))?;
    super::metrics::shipped(added.len());
    let new = added.iter().filter(|(_, new)| *new).count();
    if new > 0 {
        tracing::info!(new, "shipped prices added to the price book");
    }
    Ok(())
}

/// Reflection in both versions: grpcurl of old asks for v1alpha. Each knows of the other.
fn add_reflection(routes: &mut RoutesBuilder) -> Result<(), String> {
    use tonic_reflection::pb::{v1, v1alpha};
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // google.rpc details, so that grpcurl can show what an error carries.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let broken = |error: tonic_reflection::server::Error| format!("reflection: {error}");
    let new = builder().register_encoded_file_descriptor_set(v1alpha::FILE_DESCRIPTOR_SET);
    routes.add_service(new.build_v1().map_err(broken)?);
    let old = builder().register_encoded_file_descriptor_set(v1::FILE_DESCRIPTOR_SET);
    routes.add_service(old.build_v1alpha().map_err(broken)?);
    Ok(())
}

/// Puts limits and compression on a generated server.
macro_rules! tuned {
    ($server:expr, $config:expr) => {
        $server
            .max_decoding_message_size($config.max_message_bytes)
            .accept_compressed(CompressionEncoding::Zstd)
            .accept_compressed(CompressionEncoding::Gzip)
            .send_compressed(CompressionEncoding::Zstd)
            .send_compressed(CompressionEncoding::Gzip)
    };
}

/// What services stand on.
struct Ports<'a> {
    ledger: &'a Arc<dyn Ledger>,
    books: &'a Arc<Books>,
    counters: Option<&'a Arc<dyn Counters>>,
    admission: Option<&'a Arc<Admission>>,
}

fn add_services(
    routes: &mut RoutesBuilder,
    config: &Config,
    ports: &Ports<'_>,
    draining: CancellationToken,
) {
    let clock = clock::system();
    let (ledger, books) = (ports.ledger, ports.books);
    let streams = Streams::new(config.max_open_streams);
    for role in &config.roles {
        match role {
            ServeRole::Metering => {
                // Opened for just this role.
                let Some(admission) = ports.admission else {
                    continue;
                };
                let service = Metering::new(
                    Arc::clone(ledger),
                    Arc::clone(books),
                    Arc::clone(&clock),
                    Arc::clone(admission),
                );
                let settings = StreamSettings {
                    streams: streams.clone(),
                    rules: stream::Rules {
                        unread_limit: UNREAD_LIMIT,
                        draining: draining.clone(),
                    },
                    max_message_bytes: config.max_message_bytes,
                };
                let grpc = tokenmeter_metering::Grpc(service, settings);
                let server = MeteringServiceServer::new(grpc);
                routes.add_service(tuned!(server, config));
            }
            ServeRole::Analytics => {
                let service =
                    Analytics::new(Arc::clone(ledger), Arc::clone(&clock), config.zone.clone());
                let live = Live::new(
                    Arc::clone(ledger),
                    streams.clone(),
                    Arc::clone(&clock),
                    draining.clone(),
                );
                let grpc =
                    tokenmeter_analytics::Grpc::new(service, live, ledger.epoch().to_owned());
                routes.add_service(tuned!(AnalyticsServiceServer::new(grpc), config));
            }
            ServeRole::Admin => {
                let prices =
                    PriceAdmin::new(Arc::clone(ledger), Arc::clone(books), Arc::clone(&clock));
                let status = StatusAdmin::new(
                    vec![
                        Box::new(LedgerProbe {
                            ledger: Arc::clone(ledger),
                            backend: config.ledger.backend(),
                        }),
                        counters::probe(ports.counters),
                        Box::new(InMemory("feed")),
                    ],
                    draining.clone(),
                    config
                        .roles
                        .iter()
                        .map(|role| role.as_str().to_owned())
                        .collect(),
                    ledger.schema_version(),
                    node_id(),
                );
                let reprice =
                    RepriceAdmin::new(Arc::clone(ledger), Arc::clone(books), Arc::clone(&clock));
                let upkeep = upkeep(config, ledger, &clock);
                let timeout = config.request_timeout;
                let limits = limits(config, ports, &clock);
                let grpc =
                    tokenmeter_admin::Grpc::new(prices, reprice, limits, status, upkeep, timeout);
                routes.add_service(tuned!(AdminServiceServer::new(grpc), config));
            }
            // Periodic work answers no calls.
            ServeRole::Jobs => {}
        }
    }
}

/// Profiles and limits, by request. Where this process admits no calls, it does not say how they stand.
fn limits(config: &Config, ports: &Ports<'_>, clock: &Clock) -> LimitAdmin {
    let configured = Configured {
        zone: config.zone.clone(),
        retention_days: config.retention_days,
    };
    let standings = ports.admission.map(|admission| {
        let standings: Arc<dyn Standings> = Arc::new(OfAdmission(Arc::clone(admission)));
        standings
    });
    LimitAdmin::new(
        Arc::clone(ports.ledger),
        Arc::clone(clock),
        configured,
        standings,
    )
}

/// What keeps the ledger in order, by request.
fn upkeep(config: &Config, ledger: &Arc<dyn Ledger>, clock: &Clock) -> Upkeep {
    let (zone, clock) = (&config.zone, || Arc::clone(clock));
    let plans = jobs::tasks(config, ledger)
        .iter()
        .map(|task| task.plan)
        .collect();
    let days = config.retention_days;
    Upkeep {
        rollover: RolloverAdmin::new(Arc::clone(ledger), clock(), zone.clone()),
        retention: RetentionAdmin::new(Arc::clone(ledger), clock(), zone.clone(), days),
        reconcile: ReconcileAdmin::new(Arc::clone(ledger), clock()),
        jobs: JobAdmin::new(Arc::clone(ledger), clock(), zone.clone(), plans),
    }
}

/// The host's name where it has one, and the process.
pub(super) fn node_id() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}/{}", host.trim(), std::process::id())
}

/// A port that lives in this process: it works as long as anything does.
pub(super) struct InMemory(pub(super) &'static str);

#[async_trait]
impl Probe for InMemory {
    fn name(&self) -> &'static str {
        self.0
    }

    fn backend(&self) -> &'static str {
        "memory"
    }

    async fn check(&self) -> Result<(), String> {
        Ok(())
    }
}
