//! `record`: what durable recording costs, beside the bare insert and beside an empty call.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use tempfile::TempDir;
use tokenmeter_tests::{Server, Start};
use tokio::runtime::Runtime;

use crate::client::{Client, Load};
use crate::data::Generator;
use crate::figures::{Case, Tally};
use crate::floor::{Floor, Task};

/// Events of one call of `record_batch_100`.
pub(crate) const CALL_EVENTS: usize = 100;
/// Calls whose events the server groups into one transaction at most (1,000 events).
const GROUPED_CALLS: usize = 10;
/// Calls in flight of `record_unary_64`.
const UNARY_IN_FLIGHT: usize = 64;
/// A slice that is not counted, so that files and caches are warm.
pub(crate) const WARM_UP: Duration = Duration::from_secs(3);
/// About how long a side runs before it is the other's turn, in seconds.
const SLICE_SECONDS: u32 = 5;

/// What every benchmark of recording is told.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// The ledger: sqlite: in a temporary folder of its own, or sqlite:FOLDER to make that folder
    /// there, which chooses the disk
    #[arg(long, default_value = "sqlite:", value_parser = folder)]
    ledger: PathBuf,
    /// How long each side of each case is measured, in seconds
    #[arg(long, default_value = "30", value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub(crate) seconds: u32,
    /// What the events are made from
    #[arg(long, default_value = "20261121")]
    pub(crate) seed: u64,
}

impl Common {
    /// Tells how to repeat the run.
    pub(crate) fn announce(&self) {
        eprintln!("seed {}, {} s a side", self.seed, self.seconds);
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

pub(crate) fn folder(url: &str) -> Result<PathBuf, String> {
    match url.strip_prefix("sqlite:") {
        Some("") => Ok(std::env::temp_dir()),
        Some(folder) => Ok(folder.into()),
        None => Err("this version measures sqlite: only".to_owned()),
    }
}

/// Runs the cases and prints a line for each.
pub(crate) fn run(runtime: &Runtime, options: &Options) {
    options.common.announce();
    for (name, case) in [
        ("record_batch_100", batch as fn(&Runtime, &Options) -> Case),
        ("record_unary_64", unary),
    ] {
        if options.case.as_deref().is_none_or(|only| only == name) {
            eprintln!("{name}");
            case(runtime, options).print();
        }
    }
}

fn batch(runtime: &Runtime, options: &Options) -> Case {
    let folder = new_folder(&options.common);
    let server = serve(&folder);
    let client = runtime.block_on(Client::connect(server.address()));
    let start_us = now_us();
    let generator = Generator::new(options.common.seed, start_us);
    let mut load = Load::new(generator, CALL_EVENTS, options.batches_in_flight, 50_000);
    let ours = runtime.block_on(client.batches(&mut load, WARM_UP));
    eprintln!("  warm-up: {:.0} events/s", ours.per_second());
    let mut floor = faster_floor(&folder, options.common.seed, start_us);
    let (ours, floor) = alternate(
        options.common.seconds,
        |slice| runtime.block_on(client.batches(&mut load, slice)),
        |slice| floor.slice(slice),
    );
    Case::new("record_batch_100", "sqlite", "events/s", ours, floor)
}

/// The floor with the faster size of transaction: what the server groups at most, or one call.
pub(crate) fn faster_floor(folder: &TempDir, seed: u64, start_us: i64) -> Floor {
    let floors = [GROUPED_CALLS, 1].map(|calls| {
        let own = folder.path().join(format!("floor-{calls}"));
        std::fs::create_dir(&own).expect("a new folder");
        let task = Task {
            seed,
            start_us,
            call_events: CALL_EVENTS,
            calls,
        };
        let mut floor = Floor::start(&own, &task);
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

fn unary(runtime: &Runtime, options: &Options) -> Case {
    let folder = new_folder(&options.common);
    let server = serve(&folder);
    let client = runtime.block_on(Client::connect(server.address()));
    let generator = Generator::new(options.common.seed, now_us());
    let mut load = Load::new(generator, 1, UNARY_IN_FLIGHT, 30_000);
    runtime.block_on(client.unary(&mut load, WARM_UP));
    runtime.block_on(client.empty(UNARY_IN_FLIGHT, WARM_UP));
    let (ours, floor) = alternate(
        options.common.seconds,
        |slice| runtime.block_on(client.unary(&mut load, slice)),
        |slice| runtime.block_on(client.empty(UNARY_IN_FLIGHT, slice)),
    );
    Case::new("record_unary_64", "sqlite", "calls/s", ours, floor)
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

/// The binary as it is released, with its defaults, in a folder of its own.
pub(crate) fn serve(folder: &TempDir) -> Server {
    let own = folder.path().join("server");
    std::fs::create_dir(&own).expect("a new folder");
    Start::new(own)
        .program(tokenmeter_tests::release_binary())
        .serve()
}

pub(crate) fn new_folder(options: &Common) -> TempDir {
    tempfile::Builder::new()
        .prefix("tokenmeter-bench-")
        .tempdir_in(&options.ledger)
        .unwrap_or_else(|error| panic!("{}: {error}", options.ledger.display()))
}

pub(crate) fn now_us() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let micros = now.expect("the clock is past 1970").as_micros();
    i64::try_from(micros).expect("a time of this age")
}
