//! The client over a real connection: who asks, compression, and a server that comes back.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Parser as _;
use tokenmeter_api::v1;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tonic::codec::CompressionEncoding::Zstd;
use tonic::{Request, Response, Status};
use v1::metering_service_server::{MeteringService, MeteringServiceServer};

use super::deliver::{Store, deliver};
use crate::cli::Cli;
use crate::cli::error::{Error, describe};
use crate::cli::retry::Retry;

/// Remembers ids and tenants.
#[derive(Debug, Clone, Default)]
struct Recorder {
    ids: Arc<Mutex<BTreeSet<String>>>,
    tenants: Arc<Mutex<BTreeSet<String>>>,
}

#[tonic::async_trait]
impl MeteringService for Recorder {
    async fn batch_record_usage(
        &self,
        request: Request<v1::BatchRecordUsageRequest>,
    ) -> Result<Response<v1::BatchRecordUsageResponse>, Status> {
        if let Some(tenant) = request.metadata().get("tokenmeter-tenant") {
            let tenant = tenant.to_str().unwrap().to_owned();
            self.tenants.lock().unwrap().insert(tenant);
        }
        let mut results = Vec::new();
        for event in request.into_inner().events {
            self.ids.lock().unwrap().insert(event.event_id);
            let recorded = v1::RecordedUsage::default();
            results.push(v1::RecordResult {
                result: Some(v1::record_result::Result::Recorded(recorded)),
            });
        }
        Ok(Response::new(v1::BatchRecordUsageResponse { results }))
    }
}

/// Serves on a runtime of its own, which dies with all its connections, as a killed process does.
fn serve(recorder: Recorder, at: SocketAddr) -> (SocketAddr, Runtime) {
    let runtime = Runtime::new().unwrap();
    let listener = std::net::TcpListener::bind(at).unwrap();
    listener.set_nonblocking(true).unwrap();
    let at = listener.local_addr().unwrap();
    let service = MeteringServiceServer::new(recorder).send_compressed(Zstd);
    runtime.spawn(async move {
        let listener = TcpListener::from_std(listener).unwrap();
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming)
            .await
    });
    (at, runtime)
}

fn cli(at: SocketAddr) -> Cli {
    let server = at.to_string();
    let line = [
        "tokenmeter",
        "status",
        "--server",
        &server,
        "--tenant",
        "acme",
    ];
    Cli::try_parse_from(line).unwrap()
}

fn event(id: &str) -> v1::UsageEvent {
    v1::UsageEvent {
        event_id: id.into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn an_import_survives_the_restart_of_the_server() {
    let recorder = Recorder::default();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let (at, server) = serve(recorder.clone(), any);
    let client = cli(at).client.connect().await.unwrap();
    let retry = Retry {
        keep_trying: Duration::from_secs(30),
        notice: Box::new(|_| {}),
    };
    deliver(&client, &retry, &[event("a")]).await.unwrap();
    assert!(recorder.tenants.lock().unwrap().contains("acme"));

    server.shutdown_background();
    let down = loop {
        match Store::record(&client, vec![event("a")]).await {
            Ok(_) => tokio::task::yield_now().await,
            Err(down) => break down,
        }
    };
    assert!(!describe(&down).contains('\n'));
    let (failing, noticed) = oneshot::channel();
    let failing = Mutex::new(Some(failing));
    let retry = Retry {
        keep_trying: Duration::from_secs(30),
        notice: Box::new(move |_| {
            if let Some(failing) = failing.lock().unwrap().take() {
                failing.send(()).unwrap();
            }
        }),
    };
    let events = [event("b")];
    let delivered = deliver(&client, &retry, &events);
    let restarted = async {
        noticed.await.unwrap();
        serve(recorder.clone(), at)
    };
    let (delivered, (_, server)) = tokio::join!(delivered, restarted);
    server.shutdown_background();
    assert_eq!(delivered.unwrap().len(), 1);
    assert!(recorder.ids.lock().unwrap().iter().eq(["a", "b"]));
}

#[tokio::test]
async fn an_absent_server_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    drop(listener);
    let error = cli(at).client.connect().await.unwrap_err();
    assert!(matches!(&error, Error::Unreachable { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains(&at.to_string()) && text.contains("refused"),
        "{text}"
    );
}
