//! From the first line to the last: configuration, bounds on calls at once, compression, shutdown.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use tokenmeter_api::v1;
use tokenmeter_api::v1::ErrorReason as R;
use tokenmeter_tests::{Backend, Server, Start, backend, postgres_only, sqlite_only, wait_until};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::CompressionEncoding;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::support::{Clients, event, openai, refusal};

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn every_error_of_the_configuration_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("t.toml"), "counters = \"redis://x\"\n").unwrap();
    let wrong = [
        ("ledger", "mysql://x"),
        ("roles", "metering,cook"),
        ("time-zone", "Mars"),
        ("max-message-bytes", "1"),
        ("max-concurrent-requests", "0"),
        ("request-timeout-ms", "soon"),
        ("log-format", "xml"),
        ("otlp-endpoint", "here"),
    ];
    let mut start = Start::new(folder.path())
        .listen("0.0.0.0:0".parse().unwrap())
        .argument("--config")
        .argument("t.toml")
        .variable("TOKENMETER_FEED", "kafka:");
    for (flag, value) in wrong {
        start = start.argument(format!("--{flag}")).argument(value);
    }
    let (status, stderr) = start.refused();
    assert_eq!(status.code(), Some(1), "{stderr}");
    let told = |key: &str, value: &str, from: &str| {
        let head = format!("error: {key}: '{value}' (from {from}) ");
        let line = stderr.lines().find(|line| line.starts_with(&head));
        let line = line.unwrap_or_else(|| panic!("{head:?} is not told: {stderr}"));
        assert!(line.len() > head.len() + 8, "no mend: {line}");
    };
    for (flag, value) in wrong {
        told(&flag.replace('-', "_"), value, &format!("--{flag}"));
    }
    told("listen", "0.0.0.0:0", "--listen");
    told("feed", "kafka:", "TOKENMETER_FEED");
    told("counters", "redis://x", "file");
    assert_eq!(stderr.lines().count(), wrong.len() + 3, "{stderr}");
}

#[test]
fn strangers_are_let_in_by_a_named_flag_only() {
    let folder = tempfile::tempdir().unwrap();
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let start = Start::new(folder.path()).listen(address.parse().unwrap());
        let (status, stderr) = start.refused();
        assert!(!status.success(), "{address}");
        assert!(stderr.contains("--insecure-anonymous"), "{stderr}");
    }
    // Checked and not served: tests listen on loopback only.
    let check = ["config", "check", "--listen", "0.0.0.0:1"];
    let server = Server::start(folder.path());
    assert!(!server.run(check).status.success());
    let finished = server
        .run(check.into_iter().chain(["--insecure-anonymous"]))
        .success();
    assert_eq!(finished.stdout, "the configuration is valid");
}

#[test]
fn one_process_serves_a_ledger() {
    if !sqlite_only("one process holds the lock of a file; a database serves many") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let first = Start::new(folder.path()).serve();
    let (status, stderr) = Start::new(folder.path()).refused();
    assert_eq!(status.code(), Some(1));
    assert!(stderr.contains("is served by another process"), "{stderr}");
    // However the first one ends, the next may serve.
    let mut first = first;
    first.kill();
    Start::new(folder.path()).serve();
}

#[test]
fn a_ledger_that_cannot_be_opened_is_told() {
    if !sqlite_only("the ledger is a file that cannot be made, or is no database") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "no folder").unwrap();
    let start = Start::new(folder.path()).argument("--ledger=sqlite:file/t.db");
    let (status, stderr) = start.refused();
    assert_eq!(status.code(), Some(1));
    assert!(stderr.contains("ledger: file/t.db: "), "{stderr}");
    std::fs::write(folder.path().join("no.db"), "x".repeat(10_000)).unwrap();
    let (status, stderr) = Start::new(folder.path())
        .argument("--ledger=sqlite:no.db")
        .refused();
    assert_eq!(status.code(), Some(1));
    assert!(stderr.contains("not a database"), "{stderr}");
}

/// An acknowledgement says that a crash of the database does not take it back.
#[test]
fn a_postgres_that_may_forget_is_taken_by_a_named_flag_only() {
    if !postgres_only("a file is always synchronised") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let start = Start::new(folder.path());
    let url = start.ledger();
    let (_, name) = url.rsplit_once('/').unwrap();
    let off = format!("ALTER DATABASE {name} SET synchronous_commit = off");
    tokenmeter_test_postgres::sql(&url, &off);
    let (status, stderr) = start.clone().refused();
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("synchronous_commit off"), "{stderr}");
    assert!(stderr.contains("ledger_unsafe_durability"), "{stderr}");
    start.argument("--ledger-unsafe-durability").serve();
}

#[test]
fn the_first_line_tells_where_who_and_what_next() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let lines = server.stdout();
    assert_eq!(lines.len(), 1, "{lines:?}");
    let address = server.address();
    let ledger = match backend() {
        Backend::Sqlite => "data/tokenmeter.db".to_owned(),
        Backend::Postgres => server.ledger(),
    };
    for part in [
        format!("listening on {address} "),
        "no credentials, loopback only".into(),
        format!("ledger {ledger}"),
        format!("try next: grpcurl -plaintext {address} list"),
    ] {
        assert!(lines[0].contains(&part), "{part}: {}", lines[0]);
    }
    let (_, next) = lines[0].split_once("try next: grpcurl ").unwrap();
    let words: Vec<_> = next.split(' ').collect();
    assert_eq!(words[0], "-plaintext");
    let list = server.grpcurl_words(&[], &words[2..]).success().stdout;
    assert!(list.contains("tokenmeter.v1.MeteringService"), "{list}");
    let file = folder.path().join("data/tokenmeter.db");
    assert_eq!(file.is_file(), backend() == Backend::Sqlite);
}

#[tokio::test]
async fn a_node_serves_the_roles_that_it_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let server = Start::new(folder.path())
        .argument("--roles=analytics,admin")
        .serve();
    let mut clients = Clients::of(&server).await;
    let status = clients.record(event("e")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
    assert_eq!(clients.lifetime("").await.requests, 0);
    let mut health = HealthClient::new(clients.channel.clone());
    let mut check = async |service: &str| health.check(asks(service)).await.map(status_of);
    assert_eq!(
        check("tokenmeter.v1.AnalyticsService").await.unwrap(),
        ServingStatus::Serving
    );
    let status = check("tokenmeter.v1.MeteringService").await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

fn asks(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.to_owned(),
    }
}

fn status_of(answer: Response<HealthCheckResponse>) -> ServingStatus {
    answer.into_inner().status()
}

/// A call of RecordUsage whose message is still to come.
struct Held {
    message: mpsc::Sender<v1::RecordUsageRequest>,
    answer: JoinHandle<Result<Response<v1::RecordUsageResponse>, Status>>,
}

impl Held {
    fn open(clients: &Clients) -> Self {
        let (message, messages) = mpsc::channel(1);
        let mut client = tonic::client::Grpc::new(clients.channel.clone());
        let answer = tokio::spawn(async move {
            client.ready().await.unwrap();
            let path = PathAndQuery::from_static("/tokenmeter.v1.MeteringService/RecordUsage");
            let codec = tonic_prost::ProstCodec::default();
            let messages = ReceiverStream::new(messages);
            client
                .client_streaming(Request::new(messages), path, codec)
                .await
        });
        Self { message, answer }
    }

    async fn finish(self, event: v1::UsageEvent) -> Result<v1::RecordedUsage, Status> {
        let event = Some(event);
        let request = v1::RecordUsageRequest {
            event,
            ..Default::default()
        };
        // Fails only if the call ended already, and then the answer says why.
        let _ = self.message.send(request).await;
        drop(self.message);
        let answer = self.answer.await.unwrap()?;
        Ok(answer.into_inner().recorded.unwrap())
    }
}

/// Holds the one call that the server allows at once; answers how a second one is refused.
async fn take_the_only_place(clients: &mut Clients) -> (Held, Status) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let held = Held::open(clients);
        // The question may have the place first, and then the held call is the one refused.
        while !held.answer.is_finished() {
            if let Err(status) = clients.admin.get_status(v1::GetStatusRequest {}).await {
                return (held, status);
            }
            assert!(Instant::now() < deadline, "a second call is never refused");
        }
    }
}

#[tokio::test]
async fn a_call_too_many_is_refused_and_told_when_to_retry() {
    let folder = tempfile::tempdir().unwrap();
    let server = Start::new(folder.path())
        .argument("--max-concurrent-requests=1")
        .serve();
    let mut clients = Clients::of(&server).await;
    let (held, status) = take_the_only_place(&mut clients).await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let failure = refusal(&status);
    assert_eq!(failure.reason, R::Overloaded);
    assert!(
        failure.retry_after.is_some_and(|after| !after.is_zero()),
        "{failure:?}"
    );
    let status = clients.record(event("refused")).await.unwrap_err();
    assert_eq!(refusal(&status).reason, R::Overloaded);
    // Whoever watches the process is answered all the same.
    let mut health = HealthClient::new(clients.channel.clone());
    let answer = health.check(asks("")).await.unwrap();
    assert_eq!(status_of(answer), ServingStatus::Serving);
    held.finish(event("held")).await.unwrap();
    let totals = clients.lifetime("ada").await;
    assert_eq!(totals.requests, 1, "the refused event changed something");
    clients.record(event("refused")).await.unwrap();
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_told_so_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let start = Start::new(folder.path()).argument("--request-timeout-ms=300");
    let server = start.serve();
    let mut clients = Clients::of(&server).await;
    let before = clients.everything().await;
    let held = Held::open(&clients);
    let status = held.answer.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert_eq!(refusal(&status).reason, R::TimedOut);
    assert!(status.message().contains("300 ms"), "{status:?}");
    assert_eq!(clients.everything().await, before);
}

#[tokio::test]
async fn requests_and_answers_travel_compressed() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let clients = Clients::of(&server).await;
    for (encoding, name) in [
        (CompressionEncoding::Gzip, "gzip"),
        (CompressionEncoding::Zstd, "zstd"),
    ] {
        let mut metering = clients
            .metering
            .clone()
            .send_compressed(encoding)
            .accept_compressed(encoding);
        let request = v1::RecordUsageRequest {
            event: Some(event(name)),
            ..Default::default()
        };
        let answer = metering.record_usage(request).await.unwrap();
        assert_eq!(answer.metadata().get("grpc-encoding").unwrap(), name);
        assert_eq!(answer.into_inner().recorded.unwrap().event_id, name);
        let mut analytics = clients
            .analytics
            .clone()
            .send_compressed(encoding)
            .accept_compressed(encoding);
        let list = v1::ListUsageEventsRequest {
            event_id: name.into(),
            ..Default::default()
        };
        let answer = analytics.list_usage_events(list).await.unwrap();
        assert_eq!(answer.metadata().get("grpc-encoding").unwrap(), name);
        assert_eq!(answer.into_inner().events.len(), 1);
    }
    // Who accepts nothing is answered plainly.
    let mut plain = clients.metering.clone();
    let request = v1::RecordUsageRequest {
        event: Some(event("plain")),
        ..Default::default()
    };
    let answer = plain.record_usage(request).await.unwrap();
    assert!(
        answer
            .metadata()
            .get("grpc-encoding")
            .is_none_or(|name| name == "identity")
    );
}

#[tokio::test]
async fn a_message_that_unpacks_to_more_than_the_bound_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    let before = clients.everything().await;
    let document = format!(r#"{{"x":"{}"}}"#, "x".repeat(60_000));
    let events: Vec<_> = (0..170)
        .map(|n| openai(&format!("e-{n}"), &document))
        .collect();
    let plain = clients.metering.clone();
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Zstd] {
        clients.metering = plain.clone().send_compressed(encoding);
        let status = clients.batch(events.clone()).await.unwrap_err();
        assert_eq!(
            status.code(),
            Code::ResourceExhausted,
            "{encoding:?}: {status:?}"
        );
        let failure = refusal(&status);
        assert_eq!(failure.reason, R::MessageTooLarge);
        assert_eq!(failure.metadata["max_message_bytes"], "4194304");
        assert_eq!(clients.everything().await, before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_in_flight_completes_before_the_server_ends() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Start::new(folder.path())
        .argument("--max-concurrent-requests=1")
        .serve();
    let mut clients = Clients::of(&server).await;
    let (held, _) = take_the_only_place(&mut clients).await;
    server.ask_to_end();
    wait_until("new connections to be refused", PATIENCE, || {
        TcpStream::connect(server.address()).is_err().then_some(())
    });
    assert_eq!(server.ended(), None, "it ended before its call");
    let recorded = held.finish(event("last")).await.unwrap();
    assert_eq!(recorded.outcome(), v1::RecordOutcome::Recorded);
    drop(clients);
    // Well before the grace period of 20 s.
    let status = wait_until("the end", Duration::from_secs(10), || server.ended());
    assert_eq!(status.code(), Some(0));
    server.restart();
    let mut clients = Clients::of(&server).await;
    assert!(
        clients.find("last").await.is_some(),
        "what was acknowledged is gone"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_never_ends_holds_the_end_up_for_the_grace_period_only() {
    let folder = tempfile::tempdir().unwrap();
    let start = Start::new(folder.path()).argument("--max-concurrent-requests=1");
    let mut server = start.argument("--shutdown-grace-ms=500").serve();
    let mut clients = Clients::of(&server).await;
    let (held, _) = take_the_only_place(&mut clients).await;
    let began = Instant::now();
    let status = server.terminate();
    assert_eq!(status.code(), Some(0));
    assert!(
        began.elapsed() >= Duration::from_millis(500),
        "{:?}",
        began.elapsed()
    );
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    assert!(held.finish(event("never")).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_watches_health_sees_the_services_go_and_liveness_stay() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path());
    let mut health = HealthClient::new(server.channel().await);
    let mut watches = Vec::new();
    for service in [
        "",
        "tokenmeter.v1.MeteringService",
        "tokenmeter.v1.AnalyticsService",
        "tokenmeter.v1.AdminService",
        "liveness",
    ] {
        let mut watch = health.watch(asks(service)).await.unwrap().into_inner();
        let first = watch.message().await.unwrap().unwrap();
        assert_eq!(first.status(), ServingStatus::Serving, "{service}");
        watches.push((service, watch));
    }
    server.ask_to_end();
    let asked = Instant::now();
    for (service, mut watch) in watches {
        let mut seen = Vec::new();
        // Ends with the connection, if not before.
        while let Ok(Some(answer)) = watch.message().await {
            seen.push(answer.status());
        }
        let expected = match service {
            "liveness" => vec![],
            _ => vec![ServingStatus::NotServing],
        };
        assert_eq!(seen, expected, "{service}");
    }
    let status = wait_until("the end", PATIENCE, || server.ended());
    assert_eq!(status.code(), Some(0));
    // Watches do not hold the end up for the grace period of 20 s.
    assert!(
        asked.elapsed() < Duration::from_secs(10),
        "{:?}",
        asked.elapsed()
    );
}
