//! The server: config → build → serve → drain.

mod guard;
mod health;
mod telemetry;
mod wiring;

use std::future::Future;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;

use crate::config::{Config, Raw, ServeArgs};

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
    let stop = stop_signal().map_err(|error| format!("signals: {error}"))?;
    let result = run(config, listener, stop).await;
    telemetry.stop();
    result
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
    stop: impl Future<Output = ()>,
) -> Result<(), String> {
    let address = listener
        .local_addr()
        .map_err(|error| format!("listen: {error}"))?;
    let draining = CancellationToken::new();
    let node = wiring::build(&config, draining.clone()).await?;
    println!("{}", greeting(&config, address));

    let (told, drain) = oneshot::channel::<()>();
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let serving = node.router.serve_with_incoming_shutdown(incoming, async {
        let _ = drain.await;
    });
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = &mut serving => Some(ended),
        () = stop => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            tracing::info!(grace = ?config.shutdown_grace, "draining");
            draining.cancel();
            node.health.stop().await;
            let _ = told.send(());
            let watches_end = async {
                node.guard.drained().await;
                node.health.end().await;
            };
            let drained = async { tokio::join!(serving, watches_end).0 };
            match tokio::time::timeout(config.shutdown_grace, drained).await {
                Ok(ended) => ended,
                Err(_) => {
                    tracing::warn!("the grace period ended with calls still open");
                    Ok(())
                }
            }
        }
    };
    // Everything that was accepted is on disk before the process ends.
    node.ledger.close().await;
    tracing::info!("stopped");
    ended.map_err(|error| format!("serving: {error}"))
}

/// The first line: where, how open, and what to try next.
fn greeting(config: &Config, address: std::net::SocketAddr) -> String {
    let who = if address.ip().is_loopback() {
        "no credentials, loopback only"
    } else {
        "NO CREDENTIALS: everyone who reaches this port may do everything"
    };
    format!(
        "tokenmeter {} listening on {address} ({who}), ledger {}; try next: \
         grpcurl -plaintext {address} list",
        env!("CARGO_PKG_VERSION"),
        config.ledger.display()
    )
}
