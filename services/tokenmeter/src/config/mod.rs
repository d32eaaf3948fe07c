//! Configuration: one table of settings, read from flags, environment, file and defaults, checked
//! as a whole, so that every error is told at once.

mod parse;
mod source;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokenmeter_model::zone::Zone;

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
        "Where every event and total is kept: sqlite:PATH (postgres: comes with a later version)",
    ),
    setting(
        "counters",
        "memory:",
        "Where windows and holds are kept: memory: (redis: comes with a later version)",
    ),
    setting(
        "feed",
        "memory:",
        "Where progress events pass: memory: (redis: comes with a later version)",
    ),
    setting(
        "roles",
        "metering,analytics,admin",
        "What this process serves: a comma list of metering, analytics, admin",
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
}

impl ServeRole {
    pub(crate) const ALL: [Self; 3] = [Self::Metering, Self::Analytics, Self::Admin];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Metering => "metering",
            Self::Analytics => "analytics",
            Self::Admin => "admin",
        }
    }
}

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Human,
    Json,
}

/// The configuration, checked.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) listen: SocketAddr,
    pub(crate) ledger: PathBuf,
    pub(crate) roles: Vec<ServeRole>,
    pub(crate) zone: Zone,
    pub(crate) max_message_bytes: usize,
    pub(crate) max_concurrent_requests: usize,
    pub(crate) max_streams_per_connection: u32,
    pub(crate) max_open_streams: usize,
    pub(crate) request_timeout: Duration,
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
