//! feed_complete with three nodes on one PostgreSQL: subscribers who go from node to node with their
//! token, while nodes record, a node is killed and the database crashes, all see the same log.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokenmeter_api::v1::analytics_service_client::AnalyticsServiceClient;
use tokenmeter_api::v1::stream_token_events_response::Event;
use tokenmeter_tests::postgres::{self, quiet_port};
use tokenmeter_tests::{Server, Start, postgres_only};
use tokio::time::{sleep, timeout};
use tonic::Code;
use tonic::transport::Channel;

use crate::feed::{asked, is_complete, writer};
use crate::support::{Clients, event};

const NODES: usize = 3;
/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(90);
/// Events that a subscriber takes from one node before it goes to the next.
const TURN: usize = 40;
/// Events that are recorded before, between and after what happens.
const STRETCH: u64 = 150;

fn lazy(address: SocketAddr) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
    endpoint.connect_lazy()
}

/// A subscriber with its place in the log.
struct Follower {
    nodes: Vec<SocketAddr>,
    node: usize,
    token: String,
    seen: Vec<String>,
}

impl Follower {
    /// Takes some events from the next node; answers whether the last one was among them.
    async fn take_turn(&mut self, last: &str) -> bool {
        self.node = (self.node + 1) % self.nodes.len();
        let mut client = AnalyticsServiceClient::new(lazy(self.nodes[self.node]));
        let subscribed = client.stream_token_events(asked(&self.token)).await;
        let mut feed = match subscribed {
            Ok(feed) => feed.into_inner(),
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                sleep(Duration::from_millis(50)).await;
                return false;
            }
        };
        for _ in 0..TURN {
            let Ok(Some(response)) = feed.message().await else {
                break;
            };
            self.token = response.resume_token;
            match response.event.unwrap() {
                Event::UsageRecorded(event) if event.event_id == last => return true,
                Event::UsageRecorded(event) => self.seen.push(event.event_id),
                Event::Heartbeat(_) => {}
                Event::Reconnect(_) => break,
                other => panic!("{other:?}"),
            }
        }
        false
    }
}

async fn until(acknowledged: &AtomicU64, count: u64) {
    let enough = async {
        while acknowledged.load(Ordering::Relaxed) < count {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, enough).await.expect("acknowledgements");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribers_who_go_from_node_to_node_all_see_one_log() {
    if !postgres_only("it takes several nodes on one ledger") {
        return;
    }
    let database = postgres::Server::start();
    let url = database.database("feed");
    let folder = tempfile::tempdir().unwrap();
    let start = |n: usize| {
        let home = folder.path().join(format!("node-{n}"));
        std::fs::create_dir(&home).unwrap();
        // A port that nobody is given to dial from while the node is down.
        let listen = SocketAddr::from(([127, 0, 0, 1], quiet_port()));
        let start = Start::new(home).listen(listen);
        start.argument("--ledger").argument(&url).serve()
    };
    let mut servers: Vec<Server> = (0..NODES).map(start).collect();
    let nodes: Vec<SocketAddr> = servers.iter().map(Server::address).collect();

    let mut followers = Vec::new();
    for node in 0..NODES {
        let mut client = AnalyticsServiceClient::new(lazy(nodes[node]));
        let feed = client.stream_token_events(asked("")).await.unwrap();
        let first = feed.into_inner().message().await.unwrap().unwrap();
        followers.push(Follower {
            nodes: nodes.clone(),
            node,
            token: first.resume_token,
            seen: Vec::new(),
        });
    }
    let following: Vec<_> = followers
        .into_iter()
        .map(|mut follower| {
            tokio::spawn(async move {
                while !follower.take_turn("end-0").await {}
                follower.seen
            })
        })
        .collect();
    let (stop, acknowledged): (Arc<AtomicBool>, _) = (Arc::default(), Arc::new(AtomicU64::new(0)));
    let writers: Vec<_> = ["a", "b", "c"]
        .into_iter()
        .zip(&nodes)
        .map(|(name, node)| writer(lazy(*node), name, &stop, &acknowledged))
        .collect();
    until(&acknowledged, STRETCH).await;
    tokio::task::block_in_place(|| servers[1].restart());
    until(&acknowledged, 2 * STRETCH).await;
    tokio::task::block_in_place(|| {
        database.crash();
        database.start_again();
    });
    let before = acknowledged.load(Ordering::Relaxed);
    until(&acknowledged, before + STRETCH).await;
    stop.store(true, Ordering::Relaxed);
    let mut sent = Vec::new();
    for writer in writers {
        sent.push(writer.await.unwrap());
    }
    let mut clients = Clients::of(&servers[0]).await;
    clients.record(event("end-0")).await.unwrap();
    let mut first: Option<Vec<String>> = None;
    for follower in following {
        let seen = timeout(PATIENCE, follower).await.expect("the last event");
        let seen = seen.unwrap();
        is_complete(&seen, &sent);
        assert_eq!(&seen, first.get_or_insert_with(|| seen.clone()));
    }
    let all: usize = sent.iter().map(Vec::len).sum();
    println!("{all} events on {NODES} nodes, seen by {NODES} subscribers in one order");
}
