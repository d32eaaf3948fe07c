//! exactly_once and ack_is_durable with three nodes on one PostgreSQL, judged from what clients wrote
//! down: nodes, the database and the clients are killed in the middle of their work, again and again.

mod client;
mod judge;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokenmeter_tests::postgres::{self, quiet_port};
use tokenmeter_tests::{
    Chance, Process, Server, Start, planted, postgres_only, rounds, wait_until,
};

use client::Place;
use judge::judge;

const NODES: usize = 3;
const CLIENTS: u64 = 4;
/// How many things are killed, one after the other.
const ROUNDS: u32 = 30;
/// How long it may take from a kill to new acknowledgements, and to a client's end.
const PATIENCE: Duration = Duration::from_secs(90);
/// How much clients are told of between kills, at least, in bytes of their files: some 50 events.
const PROGRESS: u64 = 1_200;

/// Three nodes on one database, and clients that record through all of them.
struct Nodes {
    database: postgres::Server,
    servers: Vec<Server>,
    clients: Vec<Process>,
    places: Vec<Place>,
    addresses: Vec<SocketAddr>,
    folder: TempDir,
}

impl Nodes {
    fn start(seed: u64, planted: Option<(PathBuf, &str)>) -> Self {
        let database = postgres::Server::start();
        let url = database.database("nodes");
        let folder = tempfile::tempdir().unwrap();
        let one = |n: usize| {
            let home = folder.path().join(format!("node-{n}"));
            std::fs::create_dir(&home).unwrap();
            // A port that no client is given to dial from while the server is down.
            let listen = SocketAddr::from(([127, 0, 0, 1], quiet_port()));
            let mut start = Start::new(home).listen(listen);
            start = start.argument("--ledger").argument(&url);
            if let Some((program, fault)) = &planted {
                start = start.program(program.clone());
                start = start.variable("TOKENMETER_FAULT", *fault);
            }
            start.serve()
        };
        let servers: Vec<Server> = (0..NODES).map(one).collect();
        let addresses: Vec<_> = servers.iter().map(Server::address).collect();
        let place = |number| Place {
            number,
            seed,
            folder: folder.path().to_owned(),
        };
        let places: Vec<Place> = (0..CLIENTS).map(place).collect();
        let clients = places.iter().map(|place| place.start(&addresses)).collect();
        Self {
            database,
            servers,
            clients,
            places,
            addresses,
            folder,
        }
    }

    /// Waits until clients were told of more than `bytes` since; answers whether all are at work still.
    fn await_progress(&mut self, bytes: u64) -> bool {
        let told = |places: &[Place]| places.iter().map(Place::progress).sum::<u64>();
        let enough = told(&self.places) + bytes;
        wait_until("acknowledgements", PATIENCE, || {
            for server in &mut self.servers {
                assert_eq!(server.ended(), None, "a server ended");
            }
            if self
                .clients
                .iter_mut()
                .any(|client| client.ended().is_some())
            {
                return Some(false);
            }
            (told(&self.places) >= enough).then_some(true)
        })
    }

    fn kill_node(&mut self, chance: &mut Chance) {
        let n = chance.pick(NODES);
        self.servers[n].restart();
    }

    /// Stops the database as a crash does; sometimes a node dies while it is down.
    fn kill_database(&mut self, chance: &mut Chance) {
        self.database.crash();
        let n = chance.pick(3 * NODES);
        if let Some(server) = self.servers.get_mut(n) {
            server.kill();
        }
        self.database.start_again();
        if let Some(server) = self.servers.get_mut(n) {
            server.restart();
        }
    }

    fn kill_client(&mut self, chance: &mut Chance) {
        let n = chance.pick(self.clients.len());
        self.clients[n].kill();
        self.clients[n] = self.places[n].start(&self.addresses);
    }

    /// Lets clients send until they were told of everything; answers those that found something wrong
    /// themselves, with the end of what they wrote.
    fn settle(&mut self) -> Vec<String> {
        std::fs::write(Place::stop(self.folder.path()), "").unwrap();
        let clients = std::mem::take(&mut self.clients).into_iter();
        let ended = clients.map(|client| client.finish(PATIENCE));
        let failed = ended.filter(|client| !client.status.success());
        failed
            .map(|client| {
                let text = client.stdout + &client.stderr;
                let last: Vec<_> = text.lines().rev().take(30).collect();
                let last: Vec<_> = last.into_iter().rev().collect();
                format!("a client: {}: {}", client.status, last.join("\n"))
            })
            .collect()
    }
}

/// Kills things while clients record; answers everything that is wrong in the end.
async fn record_under_fire(
    rounds: u32,
    chance: &mut Chance,
    planted: Option<(PathBuf, &str)>,
) -> Vec<String> {
    let seed = chance.below(1 << 40);
    tokio::task::block_in_place(|| {
        let mut nodes = Nodes::start(seed, planted);
        let mut longest = Duration::ZERO;
        // Of each three rounds one is for each kind, in any order.
        let mut kinds = Vec::new();
        for _ in 0..rounds {
            if kinds.is_empty() {
                kinds = vec![0, 1, 2];
            }
            let began = Instant::now();
            // One that ended found something wrong.
            if !nodes.await_progress(PROGRESS + chance.below(8 * PROGRESS)) {
                break;
            }
            longest = longest.max(began.elapsed());
            let kind = chance.pick(kinds.len());
            match kinds.swap_remove(kind) {
                0 => nodes.kill_node(chance),
                1 => nodes.kill_database(chance),
                _ => nodes.kill_client(chance),
            }
        }
        nodes.await_progress(PROGRESS);
        let mut wrong = nodes.settle();
        let sent: usize = nodes.places.iter().map(|one| one.known().sent.len()).sum();
        println!("{rounds} rounds, {sent} events; at most {longest:?} to the next kill");
        let least = 10 * usize::try_from(rounds).unwrap();
        assert!(sent >= least || !wrong.is_empty(), "only {sent} events");
        // Whichever node is asked, and however often it was killed.
        let n = chance.pick(NODES);
        let runtime = tokio::runtime::Handle::current();
        wrong.extend(runtime.block_on(judge(&nodes.servers[n], &nodes.places)));
        wrong
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_three_nodes_acknowledged_stands_exactly_once_after_kills() {
    if !postgres_only("several nodes share a ledger in PostgreSQL only") {
        return;
    }
    let mut chance = Chance::new("kills of nodes, database and clients");
    let began = Instant::now();
    let wrong = record_under_fire(ROUNDS * rounds(), &mut chance, None).await;
    println!("{:?} in all", began.elapsed());
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn planted_faults_are_seen_in_what_stands_after_kills_of_nodes() {
    if !postgres_only("several nodes share a ledger in PostgreSQL only") {
        return;
    }
    let Some(binary) = planted() else { return };
    for fault in ["RecordRetries", "AnswerWithoutCommit", "SkipTotals"] {
        let mut chance = Chance::new(fault);
        let planted = Some((binary.clone(), fault));
        let wrong = record_under_fire(3, &mut chance, planted).await;
        assert!(
            !wrong.is_empty(),
            "{fault} was planted and nothing turned red"
        );
        println!("{fault}: {} findings, such as {}", wrong.len(), wrong[0]);
    }
}
