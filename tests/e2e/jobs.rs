//! Periodic work: what is due is done, each by exactly one node.

use std::time::Duration;

use prost_types::Timestamp;
use tokenmeter_api::v1;
use tokenmeter_tests::{Backend, Server, Start, backend};

use crate::periods::{at, last_month, periods};
use crate::support::{Clients, event};

/// How long the jobs of a small ledger may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

async fn jobs(clients: &mut Clients) -> Vec<v1::Job> {
    let answer = clients.admin.list_jobs(v1::ListJobsRequest {}).await;
    answer.unwrap().into_inner().jobs
}

/// Waits until every job has ended; answers them.
async fn all_ended(clients: &mut Clients) -> Vec<v1::Job> {
    let asked = tokio::time::Instant::now();
    loop {
        let jobs = jobs(clients).await;
        if jobs.iter().all(|job| job.last_succeeded.is_some()) {
            return jobs;
        }
        assert!(asked.elapsed() < PATIENCE, "{jobs:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn names(jobs: &[v1::Job]) -> Vec<&str> {
    jobs.iter().map(|job| &*job.name).collect()
}

/// The jobs of this backend.
fn expected() -> Vec<&'static str> {
    let mut names = vec!["reconciliation", "retention", "rollover"];
    if backend() == Backend::Postgres {
        names.insert(0, "partitions");
    }
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_due_is_done_by_one_node() {
    let folder = tempfile::tempdir().unwrap();
    let mut before = Server::start(folder.path());
    let mut clients = Clients::of(&before).await;
    assert_eq!(names(&jobs(&mut clients).await), expected());
    let (month, noon) = last_month(&mut clients).await;
    let long_ago = Timestamp {
        seconds: noon.seconds - 150 * 86_400,
        nanos: 0,
    };
    for (id, user, time) in [
        ("a", "ada", noon),
        ("b", "bob", noon),
        ("c", "ada", long_ago),
    ] {
        clients.record(at(id, user, time)).await.unwrap();
    }
    let lifetime = clients.lifetime("ada").await;
    assert!(before.terminate().success());

    // Of SQLite there is one node; PostgreSQL has three that race.
    let nodes = match backend() {
        Backend::Sqlite => 1,
        Backend::Postgres => 3,
    };
    let start = || Start::new(folder.path()).argument("--roles=metering,analytics,admin,jobs");
    let mut servers: Vec<_> = (0..nodes).map(|_| start().serve()).collect();
    let mut clients = Clients::of(&servers[0]).await;
    let done = all_ended(&mut clients).await;
    assert_eq!(names(&done), expected());
    for job in &done {
        assert_eq!(
            (job.last_succeeded, job.running),
            (Some(true), false),
            "{job:?}"
        );
        let next = job.next_start_time.unwrap();
        assert!(next.seconds > job.last_end_time.unwrap().seconds, "{job:?}");
        assert!(!job.node_id.is_empty());
    }
    let detail = |name: &str| {
        &done
            .iter()
            .find(|job| job.name == name)
            .unwrap()
            .last_detail
    };
    assert!(detail("reconciliation").contains(" 0 drifts"), "{done:?}");
    assert!(detail("retention").starts_with("1 events"), "{done:?}");

    // The old month was closed before its event was dropped, whichever of the two jobs came first.
    let closed = periods(&mut clients, "ada").await;
    let ids: Vec<_> = closed.iter().map(|period| &*period.period_id).collect();
    assert_eq!(ids, [&*month, &long_ago.to_string()[..7]]);
    for period in &closed {
        let totals = period.as_closed.as_ref().unwrap().totals.as_ref().unwrap();
        assert_eq!(totals.requests, 1);
        assert_eq!(period.adjusted, period.as_closed);
    }
    assert_eq!(periods(&mut clients, "bob").await.len(), 1);
    assert!(
        clients.find("c").await.is_none(),
        "it is older than retention"
    );
    assert_eq!(clients.lifetime("ada").await, lifetime);

    // A node that comes later finds nothing to do.
    let mut served = Vec::new();
    if backend() == Backend::Sqlite {
        let mut only = servers.remove(0);
        assert!(only.terminate().success());
        served = only.stderr();
    }
    servers.push(start().serve());
    let late = servers.last().unwrap();
    let mut clients = Clients::of(late).await;
    clients.record(event("after")).await.unwrap();
    let again = late.run(["jobs", "--output", "json"]).success().json();
    assert_eq!(again["jobs"].as_array().unwrap().len(), expected().len());
    served.extend(servers.iter().flat_map(Server::stderr));
    for job in &done {
        let ended = |line: &&String| line.contains("job is done") && line.contains(&job.name);
        assert_eq!(served.iter().filter(ended).count(), 1, "{}", job.name);
    }
    assert_eq!(jobs(&mut clients).await, done);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_gives_leases_back() {
    let folder = tempfile::tempdir().unwrap();
    let start = || Start::new(folder.path()).argument("--roles=admin,metering,jobs");
    let mut server = start().serve();
    // Whatever it is at.
    assert!(server.terminate().success());
    let server = start().serve();
    let mut clients = Clients::of(&server).await;
    for job in all_ended(&mut clients).await {
        assert_eq!(job.last_succeeded, Some(true), "{job:?}");
    }
}
