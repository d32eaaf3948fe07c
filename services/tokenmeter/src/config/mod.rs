//! Configuration: one table of settings, read from flags, environment, file and defaults, checked
//! as a whole, so that every error is told at once.

mod parse;
mod source;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokenmeter_model::zone::Zone;
use tokenmeter_store::address::Address;

pub(crate) use source::{Raw, ServeArgs};

/// One setting: its key in the file, from which flag (`--time-zone`) and environment variable
/// (`TOKENMETER_TIME_ZONE`) follow.
pub(crate) struct Setting {
    pub(crate) key: &'static str,
    pub(crate) default: &'static str,
    pub(crate) help: &'static str,
}

const fn setting(key: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting { key, default, help }
}

/// Every setting, in the order in which `config print` shows them.
pub(crate) const SETTINGS: &[Setting] = &[
    setting(
        "listen",
        "127.0.0.1:50051",
        "Address and port to listen on; port 0 takes a free one. Other than a loopback address \
         needs insecure_anonymous, because this version knows no credentials",
    ),
    setting(
        "insecure_anonymous",
        "false",
        "true lets everyone who reaches the port act as any user with all roles: only behind \
         something that keeps others out",
    ),
    setting(
        "ledger",
        "sqlite:data/tokenmeter.db",
        "Where every event and total is kept: sqlite:PATH for one node, or \
         postgres://USER:PASSWORD@HOST/DATABASE?sslmode=verify-full for many; a URL with a password \
         is better given by environment or file than by flag, which others on the machine can read",
    ),
    setting(
        "ledger_replica",
        "",
        "PostgreSQL URL of a read replica that answers analytics; empty asks the ledger itself",
    ),
    setting(
        "ledger_writers",
        "2",
        "Connections that write to a PostgreSQL ledger, 1 to 16",
    ),
    setting(
        "ledger_readers",
        "20",
        "Connections that read from a PostgreSQL ledger, at most, 1 to 1000",
    ),
    setting(
        "ledger_group_events",
        "1000",
        "Events that one transaction of a PostgreSQL ledger takes, at most, 1 to 1000",
    ),
    setting(
        "ledger_queue_events",
        "16384",
        "Events that may wait for a PostgreSQL ledger, 1000 to 1000000; more are refused with \
         OVERLOADED",
    ),
    setting(
        "ledger_unsafe_durability",
        "false",
        "true takes a PostgreSQL ledger with fsync, full_page_writes or synchronous_commit off, \
         which can lose what was acknowledged",
    ),
    setting(
        "migrate_on_start",
        "true",
        "true brings the ledger to the newest schema at the start; false refuses to start on one \
         that is behind, and tokenmeter migrate is run before",
    ),
    setting(
        "retention_days",
        "90",
        "Days that events are kept before their sums are sealed and they are dropped, 0 to 36500; \
         0 keeps them for ever",
    ),
    setting(
        "counters",
        "memory:",
        "Where windows and holds are kept: memory: in this process, or memory:PATH with a journal there \
         that holds outlive the process by; with a SQLite ledger the journal is beside its file unless \
         named (redis: comes with a later version)",
    ),
    setting(
        "feed",
        "memory:",
        "Where progress events pass: memory: (redis: comes with a later version)",
    ),
    setting(
        "roles",
        "metering,analytics,admin,jobs",
        "What this process does: a comma list of metering, analytics, admin, and jobs (periodic \
         work)",
    ),
    setting(
        "time_zone",
        "UTC",
        "IANA time zone of calendar days and months",
    ),
    setting(
        "max_message_bytes",
        "4194304",
        "Largest message accepted, in bytes, 65536 to 67108864",
    ),
    setting(
        "max_concurrent_requests",
        "4096",
        "Calls answered at once, 1 to 1000000; more are refused with OVERLOADED",
    ),
    setting(
        "max_streams_per_connection",
        "1024",
        "HTTP/2 streams open at once on one connection, 1 to 1000000; more wait",
    ),
    setting(
        "max_open_streams",
        "4096",
        "Streaming RPCs open at once, 1 to 1000000; more are refused with TOO_MANY_STREAMS",
    ),
    setting(
        "request_timeout_ms",
        "30000",
        "Longest time for one unary call, in milliseconds, 1 to 3600000",
    ),
    setting(
        "shutdown_grace_ms",
        "20000",
        "How long a shutdown waits for open calls, in milliseconds, 0 to 600000",
    ),
    setting(
        "shutdown_delay_ms",
        "0",
        "How long a shutdown goes on as before once health says NOT_SERVING, so that load balancers \
         notice, in milliseconds, 0 to 600000; the grace follows it",
    ),
    setting(
        "log",
        "info",
        "What is logged: error, warn, info, debug, trace, or a filter such as tokenmeter=debug,warn",
    ),
    setting(
        "log_format",
        "human",
        "How logs are written to standard error: human or json",
    ),
    setting(
        "metrics_listen",
        "",
        "Address and port of the metrics page, http://ADDRESS/metrics for Prometheus, such as \
         127.0.0.1:9464; port 0 takes a free one; empty serves none",
    ),
    setting(
        "otlp_endpoint",
        "",
        "OTLP/gRPC endpoint that traces are sent to, such as http://127.0.0.1:4317; empty sends none",
    ),
];

/// What a process serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServeRole {
    Metering,
    Analytics,
    Admin,
    /// Periodic work; it has no service of its own.
    Jobs,
}

impl ServeRole {
    pub(crate) const ALL: [Self; 4] = [Self::Metering, Self::Analytics, Self::Admin, Self::Jobs];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Metering => "metering",
            Self::Analytics => "analytics",
            Self::Admin => "admin",
            Self::Jobs => "jobs",
        }
    }
}

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Human,
    Json,
}

/// How a PostgreSQL ledger is used.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    pub(crate) replica: Option<Address>,
    pub(crate) writers: u32,
    pub(crate) readers: u32,
    pub(crate) group_events: usize,
    pub(crate) queue_events: usize,
    pub(crate) unsafe_durability: bool,
}

/// The configuration, checked.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) listen: SocketAddr,
    pub(crate) ledger: Address,
    /// Of a PostgreSQL ledger only.
    pub(crate) pool: Pool,
    pub(crate) migrate_on_start: bool,
    /// The journal of holds, if one is named.
    pub(crate) holds: Option<PathBuf>,
    /// Whole days that events are kept; none keeps them for ever.
    pub(crate) retention_days: Option<u32>,
    pub(crate) roles: Vec<ServeRole>,
    pub(crate) zone: Zone,
    pub(crate) max_message_bytes: usize,
    pub(crate) max_concurrent_requests: usize,
    pub(crate) max_streams_per_connection: u32,
    pub(crate) max_open_streams: usize,
    pub(crate) request_timeout: Duration,
    pub(crate) shutdown_delay: Duration,
    pub(crate) shutdown_grace: Duration,
    pub(crate) log: String,
    pub(crate) log_format: LogFormat,
    pub(crate) metrics_listen: Option<SocketAddr>,
    pub(crate) otlp_endpoint: Option<String>,
}

/// `config print` and `config check`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print the configuration in force as a commented file, with where each value comes from
    ///
    /// Example: tokenmeter config print > tokenmeter.toml
    Print(ServeArgs),
    /// Check the configuration and tell every error in it
    ///
    /// Example: tokenmeter config check --config tokenmeter.toml
    Check(ServeArgs),
}

/// Runs `config print` or `config check`.
///
/// # Errors
/// Every error in the configuration, a line each.
pub(crate) fn run(command: ConfigCommand) -> Result<(), String> {
    let (args, print) = match command {
        ConfigCommand::Print(args) => (args, true),
        ConfigCommand::Check(args) => (args, false),
    };
    let raw = Raw::gather(&args, |name| std::env::var(name).ok());
    if print {
        print!("{}", raw.to_file());
    }
    Config::read(&raw).map_err(|errors| errors.join("\n"))?;
    if !print {
        println!("the configuration is valid");
    }
    Ok(())
}
