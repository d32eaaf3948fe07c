//! Measures tokenmeter beside its floors, in the same run, and prints one JSON object a line, one
//! line per case. `docs/benchmarks.md` says what each case and each floor is.
//!
//! The rule of this crate: both sides get the same events, made before the clock starts; client,
//! server and floor are processes of their own; the sides take turns in short slices, so that what
//! else the machine does meets both; a ratio is one of totals. Progress goes to stderr.

// A benchmark that cannot go on stops here, and rates are fractions; this crate is no part of the
// service.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::float_arithmetic)]

mod authorize;
mod client;
mod data;
mod fanout;
mod figures;
mod floor;
mod place;
mod read;
mod record;
mod stream;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures tokenmeter beside its floors; prints one JSON object a line.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Recording events durably: cases record_batch_100, record_unary_64 or _256, and more on PostgreSQL
    Record(record::Options),
    /// Asking before a call: cases authorize, authorize_settle, authorize_5000
    Authorize(authorize::Options),
    /// Telling many subscribers of each recorded event
    Fanout(fanout::Options),
    /// Asking for a user's totals: cases read_user_usage and read_user_usage_pages
    Read(read::Options),
    /// Recording events durably over open streams: case stream
    Stream(stream::Options),
    /// A floor, as a process of its own
    #[command(hide = true)]
    Floor { task: String },
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    match Cli::parse().bench {
        Bench::Record(options) => record::run(&runtime, &options),
        Bench::Authorize(options) => authorize::run(&runtime, &options),
        Bench::Fanout(options) => fanout::run(&runtime, &options),
        Bench::Read(options) => read::run(&runtime, &options),
        Bench::Stream(options) => stream::run(&runtime, &options),
        Bench::Floor { task } => runtime.block_on(floor::run(&task)),
    }
}
