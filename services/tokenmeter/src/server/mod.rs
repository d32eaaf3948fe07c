//! The server: config → build → serve → drain.

mod call;
mod counters;
mod guard;
mod health;
mod jobs;
pub(crate) mod ledger;
mod limits;
mod metrics;
mod page;
mod process;
mod telemetry;
mod waiting;
mod wiring;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tokenmeter_store::address::Address;
use tokenmeter_store::ledger::Ledger;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;

use crate::config::{Config, Raw, ServeArgs, ServeRole};

/// How long the ledger may take to write what it accepted, whatever is left of the grace period.
const FLUSH_AT_LEAST: Duration = Duration::from_secs(5);

/// Serves until told to stop, then drains.
///
/// # Errors
/// Why the server could not start, a line each.
pub(crate) async fn serve(args: ServeArgs) -> Result<(), String> {
    let raw = Raw::gather(&args, |name| std::env::var(name).ok());
    let config = Config::read(&raw).map_err(|errors| errors.join("\n"))?;
    let telemetry = telemetry::start(&config)?;
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|error| format!("listen: {} cannot be bound: {error}", config.listen))?;
    let scrapes = scrapes(&config).await?;
    let stop = stop_signal().map_err(|error| format!("signals: {error}"))?;
    let result = run(config, listener, scrapes, stop).await;
    telemetry.stop();
    result
}

/// The port of the metrics page and what is gathered for it, where one is configured.
async fn scrapes(config: &Config) -> Result<Option<Scrapes>, String> {
    let Some(address) = config.metrics_listen else {
        return Ok(None);
    };
    let failed = |error| format!("metrics_listen: {address} cannot be bound: {error}");
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    process::start();
    Ok(Some(Scrapes {
        address: listener.local_addr().map_err(failed)?,
        listener,
        gathered: metrics::install()?,
    }))
}

/// A bound port for scrapes.
struct Scrapes {
    listener: TcpListener,
    address: SocketAddr,
    gathered: PrometheusHandle,
}

impl Scrapes {
    /// Serves the page until what it answers is dropped.
    fn serve(self, config: &Config, node: &wiring::Node) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        tasks.spawn(metrics::upkeep(self.gathered.clone()));
        let source = metrics::Source {
            gathered: self.gathered,
            ledger: Arc::clone(&node.ledger),
            file: match &config.ledger {
                Address::Sqlite(path) => Some(path.clone()),
                Address::Postgres(_) => None,
            },
        };
        tasks.spawn(page::serve(self.listener, source));
        tasks
    }
}

/// Resolves at the first SIGTERM or SIGINT.
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Serves on a bound listener until `stop` resolves, then drains for at most the grace period.
async fn run(
    config: Config,
    listener: TcpListener,
    scrapes: Option<Scrapes>,
    stop: impl Future<Output = ()>,
) -> Result<(), String> {
    let address = listener
        .local_addr()
        .map_err(|error| format!("listen: {error}"))?;
    let mut stop = std::pin::pin!(stop);
    let Some(listener) = waiting::for_ledger(&config, listener, stop.as_mut()).await? else {
        return Ok(());
    };
    let draining = CancellationToken::new();
    // Opening the ledger may wait for others, such as for one that migrates it.
    let node = tokio::select! {
        node = wiring::build(&config, draining.clone()) => node?,
        () = stop.as_mut() => {
            tracing::info!("stopped before the ledger was open");
            return Ok(());
        }
    };
    let page = scrapes.as_ref().map(|scrapes| scrapes.address);
    // Scrapes are answered to the end of the drain.
    let scrapes = scrapes.map(|scrapes| scrapes.serve(&config, &node));
    println!("{}", greeting(&config, address, page));
    tracing::info!(
        roles = ?config.roles,
        retention_days = config.retention_days,
        "serving"
    );

    let jobs = config.roles.contains(&ServeRole::Jobs).then(|| {
        let stop = draining.child_token();
        jobs::start(&config, &node.ledger, wiring::node_id(), stop)
    });

    // Counters follow the ledger until the last call has its answer.
    let idle = CancellationToken::new();
    let following = node.admission.clone().map(|admission| {
        let idle = idle.clone();
        tokio::spawn(async move {
            admission.run(idle).await;
            admission.close().await;
        })
    });

    let (told, drain) = oneshot::channel::<()>();
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let serving = node.router.serve_with_incoming_shutdown(incoming, async {
        let _ = drain.await;
    });
    let mut serving = std::pin::pin!(serving);
    let mut health = node.health;
    let ended = tokio::select! {
        ended = &mut serving => Some(ended),
        () = async {
            stop.await;
            tracing::info!(delay = ?config.shutdown_delay, "not ready any more");
            health.stop().await;
            // Calls are answered as before until those who look at health have seen it.
            tokio::time::sleep(config.shutdown_delay).await;
        } => None,
    };
    let deadline = Instant::now() + config.shutdown_grace;
    let ended = match ended {
        Some(ended) => ended,
        None => {
            tracing::info!(grace = ?config.shutdown_grace, "draining");
            draining.cancel();
            let _ = told.send(());
            let watches_end = async {
                node.guard.drained().await;
                health.end().await;
            };
            let drained = async { tokio::join!(serving, watches_end).0 };
            let drained = tokio::time::timeout_at(deadline, drained).await;
            drained.unwrap_or_else(|_| {
                tracing::warn!("the grace period ended with calls still open");
                Ok(())
            })
        }
    };
    drop(scrapes);
    if let Some(jobs) = jobs {
        // Also where serving ended by itself.
        draining.cancel();
        // They break off what they do, and give their leases back.
        if tokio::time::timeout_at(deadline, jobs).await.is_err() {
            tracing::warn!("the grace period ended before the jobs");
        }
    }
    idle.cancel();
    if let Some(following) = following {
        let deadline = deadline.max(Instant::now() + FLUSH_AT_LEAST);
        if tokio::time::timeout_at(deadline, following).await.is_err() {
            tracing::warn!("the counters did not close in time; the journal has every hold");
        }
    }
    close(&*node.ledger, deadline).await;
    tracing::info!("stopped");
    ended.map_err(|error| format!("serving: {error}"))
}

/// Everything that was accepted is on disk before the process ends. What a ledger that does not
/// answer could not take was never acknowledged, and is not waited for without end.
async fn close(ledger: &dyn Ledger, deadline: Instant) {
    let deadline = deadline.max(Instant::now() + FLUSH_AT_LEAST);
    if tokio::time::timeout_at(deadline, ledger.close())
        .await
        .is_err()
    {
        tracing::warn!(
            "the ledger did not close in time; what it did not take was not acknowledged"
        );
    }
}

/// The first line: where, how open, and what to try next.
fn greeting(config: &Config, address: SocketAddr, page: Option<SocketAddr>) -> String {
    let who = if address.ip().is_loopback() {
        "no credentials, loopback only"
    } else {
        "NO CREDENTIALS: everyone who reaches this port may do everything"
    };
    let page = page.map(|page| format!(", metrics http://{page}/metrics"));
    let page = page.unwrap_or_default();
    format!(
        "tokenmeter {} listening on {address} ({who}), ledger {}{page}; try next: \
         grpcurl -plaintext {address} list",
        env!("CARGO_PKG_VERSION"),
        config.ledger
    )
}
