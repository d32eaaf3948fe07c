//! The metrics of this process. Each crate counts through the `metrics` facade and names what it
//! counts in its own `metrics.rs`; here they are gathered, and what is read at each scrape is added.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokenmeter_store::ledger::Ledger;

use super::process;

/// Calls that ended, by method and code.
pub(super) const RPCS: &str = "tokenmeter_rpcs_total";
/// Calls that have not ended, by method.
pub(super) const RPCS_IN_FLIGHT: &str = "tokenmeter_rpcs_in_flight";
/// How long calls took, by method, streams left out.
pub(super) const RPC_DURATION: &str = "tokenmeter_rpc_duration_seconds";
/// One, with the version as a label.
const BUILD: &str = "tokenmeter_build_info";
/// Prices that ship with this version.
const SHIPPED_PRICES: &str = "tokenmeter_shipped_prices";

/// Upper bounds of durations, in seconds: from a lookup in memory to the default timeout.
const SECONDS: [f64; 15] = [
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0,
];
/// Upper bounds of group sizes, in events.
const EVENTS: [f64; 11] = [
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0,
];
/// How often what was measured is added up, so that it does not pile up between scrapes.
const UPKEEP: Duration = Duration::from_secs(5);
/// How long a scrape waits for the ledger; what it does not answer is left out.
const LEDGER_TIMEOUT: Duration = Duration::from_secs(1);

/// Starts to gather. Without this call every count costs a few nanoseconds and is forgotten.
///
/// # Errors
/// When the process gathers already.
pub(super) fn install() -> Result<PrometheusHandle, String> {
    let failed = |error: &dyn std::fmt::Display| format!("metrics_listen: {error}");
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)
        .and_then(|builder| {
            let events = Matcher::Full(tokenmeter_store::metrics::GROUP_EVENTS.into());
            builder.set_buckets_for_metric(events, &EVENTS)
        })
        .map_err(|error| failed(&error))?
        .install_recorder()
        .map_err(|error| failed(&error))?;
    tokenmeter_store::metrics::describe();
    tokenmeter_metering::metrics::describe();
    super::jobs::describe();
    describe_counter!(RPCS, Unit::Count, "Calls that ended, by final code");
    describe_gauge!(RPCS_IN_FLIGHT, Unit::Count, "Calls that have not ended");
    describe_histogram!(
        RPC_DURATION,
        Unit::Seconds,
        "Time from a call's arrival to the end of its answer; streams are left out"
    );
    describe_gauge!(BUILD, "One, labelled with the version");
    describe_gauge!(
        SHIPPED_PRICES,
        Unit::Count,
        "Prices that ship with this version"
    );
    gauge!(BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}

/// Adds up what was measured, for as long as it runs.
pub(super) async fn upkeep(handle: PrometheusHandle) {
    loop {
        tokio::time::sleep(UPKEEP).await;
        handle.run_upkeep();
    }
}

/// So many prices ship with this version.
pub(super) fn shipped(prices: usize) {
    gauge!(SHIPPED_PRICES).set(prices as f64);
}

/// What a scrape is answered from.
pub(super) struct Source {
    pub(super) gathered: PrometheusHandle,
    pub(super) ledger: Arc<dyn Ledger>,
    /// The ledger's file, if it is one.
    pub(super) file: Option<PathBuf>,
}

impl Source {
    /// The page in the Prometheus text format.
    pub(super) async fn page(&self) -> String {
        let mut page = Page(self.gathered.render());
        let position = *self.ledger.committed().borrow();
        page.gauge(
            "tokenmeter_ledger_last_position",
            "Last position in the ledger's commit order that is on disk",
            position,
        );
        let version = self.ledger.last_price_version();
        if let Ok(Ok(version)) = tokio::time::timeout(LEDGER_TIMEOUT, version).await {
            page.gauge(
                "tokenmeter_price_book_version",
                "Last price version in the ledger, over all tenants",
                version,
            );
        }
        if let Some(file) = &self.file {
            let mut log = file.clone().into_os_string();
            log.push("-wal");
            page.file_size(
                "tokenmeter_ledger_database_bytes",
                "Size of the ledger's database file",
                file,
            );
            page.file_size(
                "tokenmeter_ledger_wal_bytes",
                "Size of the ledger's write-ahead log",
                Path::new(&log),
            );
        }
        process::add(&mut page);
        page.0
    }
}

/// A page that metrics are added to which have one value each and no labels.
pub(super) struct Page(String);

impl Page {
    pub(super) fn gauge(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.add(name, "gauge", help, &value);
    }

    pub(super) fn counter(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.add(name, "counter", help, &value);
    }

    /// A file that cannot be asked is left out.
    fn file_size(&mut self, name: &str, help: &str, file: &Path) {
        if let Ok(about) = std::fs::metadata(file) {
            self.gauge(name, help, about.len());
        }
    }

    fn add(&mut self, name: &str, kind: &str, help: &str, value: &dyn std::fmt::Display) {
        // Writing to a String cannot fail.
        let _ = write!(
            self.0,
            "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n\n"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_there_is_left_out() {
        let mut page = Page(String::new());
        page.file_size("a_bytes", "A file", Path::new("/nowhere/at/all"));
        assert_eq!(page.0, "");
        page.counter("b_total", "A number", 7);
        assert_eq!(
            page.0,
            "# HELP b_total A number\n# TYPE b_total counter\nb_total 7\n\n"
        );
    }
}
