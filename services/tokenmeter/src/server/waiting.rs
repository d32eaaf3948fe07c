//! Before the ledger is reached: the port is open, health says that nothing is ready, and every other
//! call is told to come back. So a server may be started before its PostgreSQL.

use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::Either;
use http::{Request, Response};
use tokenmeter_api::status::Failure;
use tokenmeter_api::v1::ErrorReason;
use tokenmeter_store::address::Address;
use tokenmeter_store::postgres;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::Status;
use tonic::body::Body;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tower::Service;
use tower::layer::layer_fn;

use super::health;
use crate::config::Config;

/// How often the ledger is looked for, and when a caller may come back.
const RETRY: Duration = Duration::from_secs(1);
/// How long calls that were being refused may take to end.
const FAREWELL: Duration = Duration::from_secs(1);

/// Answers on the listener until the ledger is reached, and then the listener; none if `stop` resolved
/// first.
///
/// # Errors
/// Why the listener cannot be used.
pub(super) async fn for_ledger(
    config: &Config,
    listener: TcpListener,
    mut stop: Pin<&mut impl Future<Output = ()>>,
) -> Result<Option<TcpListener>, String> {
    let Address::Postgres(url) = &config.ledger else {
        return Ok(Some(listener));
    };
    if postgres::is_reached(url).await {
        return Ok(Some(listener));
    }
    tracing::warn!(ledger = %config.ledger, "the ledger is not reached yet; waiting for it");
    let failed = |error: std::io::Error| format!("listen: {error}");
    let kept = listener.into_std().map_err(failed)?;
    let lent = kept.try_clone().and_then(TcpListener::from_std);
    let (told, end) = oneshot::channel::<()>();
    let serving = Server::builder()
        .layer(layer_fn(Refusing))
        .add_service(health::waiting(&config.roles).await)
        .serve_with_incoming_shutdown(TcpIncoming::from(lent.map_err(failed)?), async {
            let _ = end.await;
        });
    let serving = tokio::spawn(serving);
    let reached = tokio::select! {
        () = reached(url) => true,
        () = stop.as_mut() => false,
    };
    let _ = told.send(());
    // Who holds a connection open finds it closed.
    let _ = tokio::time::timeout(FAREWELL, serving).await;
    if !reached {
        return Ok(None);
    }
    tracing::info!("the ledger is reached");
    TcpListener::from_std(kept).map(Some).map_err(failed)
}

async fn reached(url: &str) {
    loop {
        tokio::time::sleep(RETRY).await;
        if postgres::is_reached(url).await {
            return;
        }
    }
}

/// Lets health through and refuses all else.
#[derive(Debug, Clone)]
struct Refusing<S>(S);

impl<S, B> Service<Request<B>> for Refusing<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if request.uri().path().starts_with("/grpc.health.") {
            return Either::Left(self.0.call(request));
        }
        let text = "the ledger is not reached yet; nothing was changed, retry later";
        let failure = Failure::new(ErrorReason::LedgerUnavailable, text).retry_after(RETRY);
        Either::Right(ready(Ok(Status::from(failure).into_http())))
    }
}
