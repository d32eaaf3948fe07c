//! `GET /metrics` over plain HTTP/1.1, on a port of its own: a scraper gets figures, and nothing
//! that a caller of the service could. Every connection is one request, and all is bounded: how
//! many at once, how large a request, how long an answer.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::metrics::Source;

/// Connections that are answered at once; more wait.
const MAX_CONNECTIONS: usize = 8;
/// Largest request head, in bytes.
const MAX_REQUEST_BYTES: usize = 8 * 1024;
/// Longest time for one connection, from its first byte to its last.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait after a connection could not be taken, as when files run out.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers scrapes for as long as it runs; dropping it ends every connection.
pub(super) async fn serve(listener: TcpListener, source: Source) {
    let source = Arc::new(source);
    let mut open = JoinSet::new();
    loop {
        while open.try_join_next().is_some() {}
        if open.len() == MAX_CONNECTIONS {
            open.join_next().await;
        }
        match listener.accept().await {
            Ok((stream, _)) => {
                open.spawn(tokio::time::timeout(
                    TIMEOUT,
                    answer(stream, Arc::clone(&source)),
                ));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection to the metrics page was not taken");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn answer(stream: TcpStream, source: Arc<Source>) {
    let service = service_fn(|request| {
        let source = Arc::clone(&source);
        async move { Ok::<_, Infallible>(respond(&request, &source).await) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(MAX_REQUEST_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection to the metrics page broke");
    }
}

async fn respond(request: &Request<Incoming>, source: &Source) -> Response<String> {
    let told = |status, text: &str| {
        let mut response = Response::new(text.to_owned());
        *response.status_mut() = status;
        response
    };
    if request.uri().path() != "/metrics" {
        return told(StatusCode::NOT_FOUND, "the page is /metrics\n");
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = told(StatusCode::METHOD_NOT_ALLOWED, "send GET\n");
        let allowed = HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(ALLOW, allowed);
        return response;
    }
    let mut response = Response::new(source.page().await);
    let format = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, format);
    response
}
