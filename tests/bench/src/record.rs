//! `record`: what durable recording costs, beside the bare insert and beside an empty call; and whether
//! one busy user holds several nodes up.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use tokenmeter_tests::{Server, Start};
use tokio::runtime::Runtime;

use crate::client::{Client, Load};
use crate::data::Generator;
use crate::figures::{Case, Cost, Tally};
use crate::floor::{Floor, Task};
use crate::place::{Made, Place, Room};

/// Events of one call of `record_batch_100`.
pub(crate) const CALL_EVENTS: usize = 100;
/// Calls whose events the server groups into one transaction at most (1,000 events).
const GROUPED_CALLS: usize = 10;
/// Connections of the floor that inserts one event a transaction.
const INSERTING_CONNECTIONS: usize = 32;
/// A slice that is not counted, so that files and caches are warm.
pub(crate) const WARM_UP: Duration = Duration::from_secs(3);
/// About how long a side runs before it is the other's turn, in seconds.
const SLICE_SECONDS: u32 = 5;

/// What every benchmark of recording is told.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// The ledger: sqlite: in a temporary folder of its own, sqlite:FOLDER to make that folder
    /// there, which chooses the disk, or postgres://… of a server in which databases may be made
    #[arg(long, default_value = "sqlite:", value_parser = Place::read)]
    ledger: Place,
    /// How long each side of each case is measured, in seconds
    #[arg(long, default_value = "30", value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub(crate) seconds: u32,
    /// What the events are made from
    #[arg(long, default_value = "20261121")]
    pub(crate) seed: u64,
}

impl Common {
    /// Tells how to repeat the run; answers where it takes place.
    pub(crate) fn announce(&self) -> &Place {
        eprintln!("seed {}, {} s a side", self.seed, self.seconds);
        &self.ledger
    }

    /// The name of the backend.
    pub(crate) fn backend(&self) -> &'static str {
        self.ledger.backend()
    }
}

/// What `record` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    /// Only this case
    #[arg(long)]
    case: Option<String>,
    /// Calls in flight of record_batch_100
    #[arg(long, default_value = "24")]
    batches_in_flight: usize,
}

type Measure = fn(&Runtime, &Options) -> Case;

/// Runs the cases and prints a line for each.
pub(crate) fn run(runtime: &Runtime, options: &Options) {
    let cases: &[(&str, Measure)] = match options.common.announce() {
        Place::Sqlite(_) => &[("record_batch_100", batch), ("record_unary_64", unary_64)],
        Place::Postgres(_) => &[
            ("record_batch_100", batch),
            ("record_unary_256", unary_256),
            ("record_unary_256_insert", unary_beside_insert),
            ("record_one_user", one_user),
        ],
    };
    for (name, case) in cases {
        if options.case.as_deref().is_none_or(|only| only == *name) {
            eprintln!("{name}");
            case(runtime, options).print();
        }
    }
}

fn batch(runtime: &Runtime, options: &Options) -> Case {
    let mut room = options.common.ledger.room();
    let made = room.make("ledger");
    let server = serve_on(&room, "server", &made);
    let client = runtime.block_on(Client::connect(&[server.address()]));
    let start_us = now_us();
    let generator = Generator::new(options.common.seed, start_us);
    let mut load = Load::new(generator, CALL_EVENTS, options.batches_in_flight, 50_000);
    let ours = runtime.block_on(client.batches(&mut load, WARM_UP));
    eprintln!("  warm-up: {:.0} events/s", ours.per_second());
    let mut floor = faster_floor(&mut room, &options.common, start_us);
    let floor_made = floor.made().clone();
    let (ours, floor) = alternate(
        options.common.seconds,
        |slice| runtime.block_on(client.batches(&mut load, slice)),
        |slice| floor.slice(slice),
    );
    let ours_bytes = runtime.block_on(made.bytes_per_event("event_keys"));
    let floor_bytes = runtime.block_on(floor_made.bytes_per_event("dedup"));
    if let Some((ours, floor)) = ours_bytes.zip(floor_bytes) {
        Cost::new("record_batch_100_bytes", floor, ours, "bytes/event").print();
    }
    let backend = options.common.backend();
    Case::new("record_batch_100", backend, "events/s", ours, floor)
}

/// The floor with the faster size of transaction: what the server groups at most, or one call; on
/// PostgreSQL on two connections, of which measurements say that more gain nothing here.
pub(crate) fn faster_floor(room: &mut Room, common: &Common, start_us: i64) -> Floor {
    let connections = match common.ledger {
        Place::Sqlite(_) => 1,
        Place::Postgres(_) => 2,
    };
    let floors = [GROUPED_CALLS, 1].map(|calls| {
        let task = Task {
            made: room.make(&format!("floor-{calls}")),
            seed: common.seed,
            start_us,
            call_events: CALL_EVENTS,
            calls,
            connections,
        };
        let mut floor = Floor::start(&task);
        let per_second = floor.slice(WARM_UP).per_second();
        eprintln!(
            "  floor of {} events a transaction: {per_second:.0} events/s",
            calls * CALL_EVENTS
        );
        (per_second, floor)
    });
    let [grouped, single] = floors;
    if single.0 > grouped.0 {
        single.1
    } else {
        grouped.1
    }
}

fn unary_64(runtime: &Runtime, options: &Options) -> Case {
    unary(runtime, options, "record_unary_64", 64)
}

fn unary_256(runtime: &Runtime, options: &Options) -> Case {
    unary(runtime, options, "record_unary_256", 256)
}

fn unary(runtime: &Runtime, options: &Options, bench: &'static str, in_flight: usize) -> Case {
    let mut room = options.common.ledger.room();
    let server = serve(&mut room);
    let client = runtime.block_on(Client::connect(&[server.address()]));
    let generator = Generator::new(options.common.seed, now_us());
    let mut load = Load::new(generator, 1, in_flight, 30_000);
    runtime.block_on(client.unary(&mut load, WARM_UP));
    runtime.block_on(client.empty(in_flight, WARM_UP));
    let (ours, floor) = alternate(
        options.common.seconds,
        |slice| runtime.block_on(client.unary(&mut load, slice)),
        |slice| runtime.block_on(client.empty(in_flight, slice)),
    );
    Case::new(bench, options.common.backend(), "calls/s", ours, floor)
}

/// Beside one transaction an event from many connections: what one would write without a ledger.
fn unary_beside_insert(runtime: &Runtime, options: &Options) -> Case {
    let mut room = options.common.ledger.room();
    let server = serve(&mut room);
    let client = runtime.block_on(Client::connect(&[server.address()]));
    let start_us = now_us();
    let generator = Generator::new(options.common.seed, start_us);
    let mut load = Load::new(generator, 1, 256, 30_000);
    runtime.block_on(client.unary(&mut load, WARM_UP));
    let mut floor = Floor::start(&Task {
        made: room.make("floor"),
        seed: options.common.seed,
        start_us,
        call_events: 1,
        calls: 1,
        connections: INSERTING_CONNECTIONS,
    });
    floor.slice(WARM_UP);
    let (ours, floor) = alternate(
        options.common.seconds,
        |slice| runtime.block_on(client.unary(&mut load, slice)),
        |slice| floor.slice(slice),
    );
    let backend = options.common.backend();
    Case::new("record_unary_256_insert", backend, "events/s", ours, floor)
}

/// Three nodes that record for one user, beside three that record for all: one busy user must not be
/// what all of them wait for.
fn one_user(runtime: &Runtime, options: &Options) -> Case {
    let start_us = now_us();
    let mut sides = [true, false].map(|hot| {
        let mut room = options.common.ledger.room();
        let made = room.make("shared");
        let servers = [1, 2, 3].map(|node| serve_on(&room, &format!("node-{node}"), &made));
        let addresses = servers.each_ref().map(tokenmeter_tests::Server::address);
        let client = runtime.block_on(Client::connect(&addresses));
        let generator = match hot {
            true => Generator::one_user(options.common.seed, start_us),
            false => Generator::new(options.common.seed, start_us),
        };
        let mut load = Load::new(generator, CALL_EVENTS, options.batches_in_flight, 50_000);
        runtime.block_on(client.batches(&mut load, WARM_UP));
        (servers, room, client, load)
    });
    let [(_, _, hot_client, hot_load), (_, _, client, load)] = &mut sides;
    let (ours, floor) = alternate(
        options.common.seconds,
        |slice| runtime.block_on(hot_client.batches(hot_load, slice)),
        |slice| runtime.block_on(client.batches(load, slice)),
    );
    let backend = options.common.backend();
    Case::new("record_one_user", backend, "events/s", ours, floor)
}

/// Slices of ours and of the floor in turn, `seconds` each in all.
pub(crate) fn alternate(
    seconds: u32,
    mut ours: impl FnMut(Duration) -> Tally,
    mut floor: impl FnMut(Duration) -> Tally,
) -> (Tally, Tally) {
    let slices = seconds.div_ceil(SLICE_SECONDS);
    let slice = Duration::from_secs(seconds.into()) / slices;
    let mut totals = (Tally::default(), Tally::default());
    for number in 1..=slices {
        let (one, other) = (ours(slice), floor(slice));
        eprintln!(
            "  slice {number} of {slices}: ours {:.0}/s, floor {:.0}/s, ratio {:.3}",
            one.per_second(),
            other.per_second(),
            one.per_second() / other.per_second()
        );
        totals.0.add(one);
        totals.1.add(other);
    }
    totals
}

/// The binary as it is released, with its defaults, on a ledger of its own.
pub(crate) fn serve(room: &mut Room) -> Server {
    let made = room.make("ledger");
    serve_on(room, "server", &made)
}

/// The same on a ledger that others may use, too.
pub(crate) fn serve_on(room: &Room, name: &str, made: &Made) -> Server {
    Start::new(room.folder(name))
        .program(tokenmeter_tests::release_binary())
        .argument("--ledger")
        .argument(made.url())
        .serve()
}

pub(crate) fn now_us() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let micros = now.expect("the clock is past 1970").as_micros();
    i64::try_from(micros).expect("a time of this age")
}
