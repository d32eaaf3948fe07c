//! Readiness that follows the ledger and bears a blip, liveness that does not follow, and an end that
//! loses nothing.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use sqlx::{Connection as _, Executor as _, PgConnection};
use tokenmeter_api::v1;
use tokenmeter_test_postgres as postgres;
use tokenmeter_tests::{
    Backend, Process, Server, Start, backend, binary, free_port, postgres_only, wait_until,
};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::{Clients, event, refusal};

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
const METERING: &str = "tokenmeter.v1.MeteringService";
const ANALYTICS: &str = "tokenmeter.v1.AnalyticsService";
const ADMIN: &str = "tokenmeter.v1.AdminService";

/// Takes the write lock of a SQLite file for some seconds, or until it is killed.
const HOLD: &str = r#"
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"#;

/// Another process that holds the write lock of a server's file.
fn hold(server: &Server, seconds: &str) -> Process {
    let file = server.folder().join("data/tokenmeter.db");
    let mut command = Command::new("python3");
    command.args(["-c", HOLD]).arg(file).arg(seconds);
    let holder = Process::spawn(&mut command);
    wait_until("the lock", PATIENCE, || {
        (!holder.stdout().is_empty()).then_some(())
    });
    holder
}

/// A server with a ledger that can be made unavailable.
struct Outage {
    server: Server,
    _folder: tempfile::TempDir,
    postgres: Option<postgres::Server>,
    holder: Option<Process>,
}

impl Outage {
    fn prepare() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (start, postgres) = match backend() {
            Backend::Sqlite => (Start::new(folder.path()), None),
            Backend::Postgres => {
                let postgres = postgres::Server::start();
                let url = postgres.database("ready");
                let start = Start::new(folder.path()).argument(format!("--ledger={url}"));
                (start, Some(postgres))
            }
        };
        Self {
            server: start.serve(),
            _folder: folder,
            postgres,
            holder: None,
        }
    }

    fn begin(&mut self) {
        match &self.postgres {
            Some(postgres) => postgres.crash(),
            None => self.holder = Some(hold(&self.server, "600")),
        }
    }

    fn end(&mut self) {
        match &self.postgres {
            Some(postgres) => postgres.start_again(),
            None => drop(self.holder.take()),
        }
    }
}

async fn check(channel: &Channel, service: &str) -> Result<ServingStatus, Status> {
    let service = service.to_owned();
    let request = HealthCheckRequest { service };
    let answer = HealthClient::new(channel.clone()).check(request).await;
    answer.map(|answer| answer.into_inner().status())
}

/// Asks again and again until all of these services have this status.
async fn wait_for(channel: &Channel, services: &[&str], status: ServingStatus) {
    let deadline = Instant::now() + PATIENCE;
    for service in services {
        while check(channel, service).await.unwrap() != status {
            assert!(Instant::now() < deadline, "{service:?} is never {status:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Watches a service from its status of now on; answers what it becomes.
async fn watch(channel: &Channel, service: &str) -> tokio::task::JoinHandle<Vec<ServingStatus>> {
    let service = service.to_owned();
    let request = HealthCheckRequest { service };
    let answer = HealthClient::new(channel.clone()).watch(request).await;
    let mut watch = answer.unwrap().into_inner();
    let first = watch.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
    tokio::spawn(async move {
        let mut seen = Vec::new();
        while let Ok(Some(answer)) = watch.message().await {
            seen.push(answer.status());
        }
        seen
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_follows_the_ledger_and_liveness_does_not() {
    let mut outage = Outage::prepare();
    let channel = outage.server.channel().await;
    let mut clients = Clients::of(&outage.server).await;
    clients.record(event("before")).await.unwrap();
    let liveness = watch(&channel, "liveness").await;
    outage.begin();
    wait_for(&channel, &[METERING, ADMIN, ""], ServingStatus::NotServing).await;
    // A file that is locked for writing can be read; a server that is gone can not.
    match backend() {
        Backend::Sqlite => {
            let analytics = check(&channel, ANALYTICS).await.unwrap();
            assert_eq!(analytics, ServingStatus::Serving);
        }
        Backend::Postgres => {
            wait_for(&channel, &[ANALYTICS], ServingStatus::NotServing).await;
        }
    }
    let status = clients.admin.get_status(v1::GetStatusRequest {}).await;
    let status = status.unwrap().into_inner();
    let ledger = status.dependencies.iter().find(|one| one.name == "ledger");
    let ledger = ledger.unwrap();
    assert_eq!(ledger.state(), v1::ServingState::Down, "{ledger:?}");
    assert_eq!(ledger.backend, backend().name());
    assert!(!ledger.detail.is_empty(), "{ledger:?}");
    assert!(!ledger.detail.contains("127.0.0.1"), "{ledger:?}");
    outage.end();
    let all = [METERING, ANALYTICS, ADMIN, ""];
    wait_for(&channel, &all, ServingStatus::Serving).await;
    clients.record(event("after")).await.unwrap();
    assert!(clients.find("before").await.is_some());
    let status = clients.admin.get_status(v1::GetStatusRequest {}).await;
    let status = status.unwrap().into_inner();
    let ledger = status.dependencies.iter().find(|one| one.name == "ledger");
    assert_eq!(ledger.unwrap().state(), v1::ServingState::Ok);
    outage.server.kill();
    assert_eq!(liveness.await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blip_of_the_ledger_changes_no_readiness() {
    let folder = tempfile::tempdir().unwrap();
    let (mut server, database) = match backend() {
        Backend::Sqlite => (Server::start(folder.path()), None),
        Backend::Postgres => {
            let url = postgres::shared().database("blip");
            let start = Start::new(folder.path()).argument(format!("--ledger={url}"));
            (start.serve(), Some(url))
        }
    };
    let channel = server.channel().await;
    let mut clients = Clients::of(&server).await;
    let seen = watch(&channel, METERING).await;
    // Longer than a check may take, shorter than it takes to change what counts.
    match database {
        None => drop(hold(&server, "3").wait(PATIENCE)),
        Some(url) => {
            // In one transaction.
            let blip = "LOCK TABLE ledger_state; SELECT pg_sleep(3)";
            let locked = tokio::task::spawn_blocking(move || postgres::sql(&url, blip));
            locked.await.unwrap();
        }
    }
    let deadline = Instant::now() + PATIENCE;
    while clients.record(event("e")).await.is_err() {
        assert!(Instant::now() < deadline, "recording never works again");
    }
    assert_eq!(
        check(&channel, METERING).await.unwrap(),
        ServingStatus::Serving
    );
    server.kill();
    assert_eq!(seen.await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_writer_stays_ready() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path());
    let channel = server.channel().await;
    let clients = Clients::of(&server).await;
    let seen = watch(&channel, "").await;
    let until = Instant::now() + Duration::from_secs(5);
    let busy: Vec<_> = (0..12)
        .map(|task| {
            let mut clients = clients.clone();
            tokio::spawn(async move {
                for round in 0.. {
                    let id = |n| format!("e-{task}-{round}-{n}");
                    let batch = (0..1_000).map(|n| event(&id(n))).collect();
                    clients.batch(batch).await.unwrap();
                    if Instant::now() > until {
                        break;
                    }
                }
            })
        })
        .collect();
    for task in busy {
        task.await.unwrap();
    }
    assert_eq!(check(&channel, "").await.unwrap(), ServingStatus::Serving);
    server.kill();
    assert_eq!(seen.await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_in_mid_batch_loses_nothing_that_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path());
    let clients = Clients::of(&server).await;
    let (told, mut acknowledged) = tokio::sync::mpsc::unbounded_channel();
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let (mut clients, told) = (clients.clone(), told.clone());
            tokio::spawn(async move {
                for round in 0.. {
                    let id = |n| format!("e-{task}-{round}-{n}");
                    let batch = (0..50).map(|n| event(&id(n))).collect();
                    let Ok(results) = clients.batch(batch).await else {
                        return;
                    };
                    for (n, result) in results.iter().enumerate() {
                        if matches!(result, v1::record_result::Result::Recorded(_)) {
                            told.send(id(n)).unwrap();
                        }
                    }
                }
            })
        })
        .collect();
    drop(told);
    let mut stands = Vec::new();
    while stands.len() < 1_000 {
        stands.push(acknowledged.recv().await.unwrap());
    }
    server.ask_to_end();
    for task in tasks {
        task.await.unwrap();
    }
    while let Some(id) = acknowledged.recv().await {
        stands.push(id);
    }
    let status = wait_until("the end", PATIENCE, || server.ended());
    assert_eq!(status.code(), Some(0));
    server.restart();
    let mut clients = Clients::of(&server).await;
    let events = clients.all_events().await;
    let ids = events.into_iter().map(|one| one.event_id);
    let ids: std::collections::HashSet<_> = ids.collect();
    let lost: Vec<_> = stands.iter().filter(|id| !ids.contains(*id)).collect();
    assert!(lost.is_empty(), "acknowledged and gone: {lost:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_answered_until_load_balancers_have_noticed() {
    const DELAY: Duration = Duration::from_secs(3);
    let folder = tempfile::tempdir().unwrap();
    let delay = format!("--shutdown-delay-ms={}", DELAY.as_millis());
    let mut server = Start::new(folder.path()).argument(delay).serve();
    let channel = server.channel().await;
    let asked = Instant::now();
    server.ask_to_end();
    wait_for(&channel, &["", METERING], ServingStatus::NotServing).await;
    assert_eq!(
        check(&channel, "liveness").await.unwrap(),
        ServingStatus::Serving
    );
    // On a new connection too: the listener is still open.
    let mut clients = Clients::of(&server).await;
    clients.record(event("late")).await.unwrap();
    assert!(asked.elapsed() < DELAY, "too slow a machine to tell");
    drop((channel, clients));
    let status = wait_until("the end", PATIENCE, || server.ended());
    assert_eq!(status.code(), Some(0));
    assert!(asked.elapsed() >= DELAY, "{:?}", asked.elapsed());
    server.restart();
    let mut clients = Clients::of(&server).await;
    assert!(clients.find("late").await.is_some());
}

#[tokio::test]
async fn a_node_of_jobs_alone_is_ready_and_answers_no_calls() {
    let folder = tempfile::tempdir().unwrap();
    let server = Start::new(folder.path()).argument("--roles=jobs").serve();
    let channel = server.channel().await;
    assert_eq!(check(&channel, "").await.unwrap(), ServingStatus::Serving);
    let status = check(&channel, METERING).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let mut clients = Clients::of(&server).await;
    let status = clients.record(event("e")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
}

/// A connection to an address that something listens on sooner or later.
async fn connected(address: SocketAddr) -> Channel {
    let deadline = Instant::now() + PATIENCE;
    let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
    loop {
        match endpoint.connect().await {
            Ok(channel) => return channel,
            Err(error) => assert!(Instant::now() < deadline, "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What a server answers that has not reached its ledger yet.
async fn expect_waiting(channel: &Channel) {
    for service in ["", METERING, ANALYTICS, ADMIN] {
        let status = check(channel, service).await.unwrap();
        assert_eq!(status, ServingStatus::NotServing, "{service:?}");
    }
    let liveness = check(channel, "liveness").await.unwrap();
    assert_eq!(liveness, ServingStatus::Serving);
    let request = v1::RecordUsageRequest {
        event: Some(event("early")),
        ..Default::default()
    };
    let mut metering = v1::metering_service_client::MeteringServiceClient::new(channel.clone());
    let status = metering.record_usage(request).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let failure = refusal(&status);
    assert_eq!(failure.reason, v1::ErrorReason::LedgerUnavailable);
    assert!(failure.retry_after.is_some(), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_waits_for_its_ledger_says_so_and_ends_when_asked() {
    let folder = tempfile::tempdir().unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    // Nobody listens on port 1.
    let mut process = Process::spawn(
        Command::new(binary())
            .args(["serve", "--ledger=postgres://u:geheim@127.0.0.1:1/t"])
            .args(["--listen", &address.to_string()])
            .current_dir(folder.path()),
    );
    expect_waiting(&connected(address).await).await;
    process.terminate();
    let finished = process.finish(PATIENCE);
    assert_eq!(finished.status.code(), Some(0), "{finished:?}");
    assert!(finished.stderr.contains("not reached yet"), "{finished:?}");
    assert!(!finished.stderr.contains("geheim"), "{finished:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_may_be_started_before_its_postgres() {
    if !postgres_only("a file is there or can be made") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let postgres = postgres::Server::start();
    let url = postgres.database("early");
    postgres.stop();
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let start = Start::new(folder.path())
        .listen(address)
        .argument(format!("--ledger={url}"));
    let starting = tokio::task::spawn_blocking(move || start.serve());
    expect_waiting(&connected(address).await).await;
    postgres.start_again();
    let server = starting.await.unwrap();
    let channel = server.channel().await;
    wait_for(
        &channel,
        &["", METERING, ANALYTICS, ADMIN],
        ServingStatus::Serving,
    )
    .await;
    Clients::of(&server).await.record(event("e")).await.unwrap();
}

/// Another process holds up what a server does first with its ledger, as a long migration would.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_opens_its_ledger_ends_when_asked() {
    if !postgres_only("a file is opened at once") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let start = Start::new(folder.path());
    drop(start.clone().serve());
    let mut other = PgConnection::connect(&start.ledger()).await.unwrap();
    let lock = "BEGIN; LOCK TABLE _sqlx_migrations IN ACCESS EXCLUSIVE MODE";
    other.execute(lock).await.unwrap();
    let mut process = Process::spawn(
        Command::new(binary())
            .args(["serve", "--listen=127.0.0.1:0"])
            .env("TOKENMETER_LEDGER", start.ledger())
            .current_dir(folder.path()),
    );
    let waiting = "SELECT count(*) FROM pg_locks \
                   WHERE NOT granted AND relation = '_sqlx_migrations'::REGCLASS";
    while sqlx::query_scalar::<_, i64>(waiting)
        .fetch_one(&mut other)
        .await
        .unwrap()
        == 0
    {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    process.terminate();
    let status = process.wait(Duration::from_secs(10));
    assert_eq!(status.code(), Some(0), "{:?}", process.finish(PATIENCE));
}
