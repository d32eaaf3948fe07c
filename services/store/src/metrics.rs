//! What the stores tell the metrics page. The rule: one function a happening, called once a group,
//! never once an event; no label names a tenant, a user or a model.

use std::time::Duration;

use ::metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

/// Events that wait for the writer, those in its open transaction included.
pub const QUEUED_EVENTS: &str = "tokenmeter_ledger_queued_events";
/// Events written together, by group.
pub const GROUP_EVENTS: &str = "tokenmeter_ledger_group_events";
/// Time that a group takes from its first statement until it is on disk.
pub const GROUP_DURATION: &str = "tokenmeter_ledger_group_duration_seconds";
/// Groups that could not be written.
pub const GROUP_FAILURES: &str = "tokenmeter_ledger_group_failures_total";
/// How long an open transaction of a writer, or a server that does not answer, has held up the log.
pub const LOG_HELD: &str = "tokenmeter_ledger_log_held_seconds";

/// Says what each metric of the stores means.
pub fn describe() {
    describe_gauge!(
        QUEUED_EVENTS,
        Unit::Count,
        "Events that wait for the ledger's writer, those in its open transaction included"
    );
    describe_histogram!(
        GROUP_EVENTS,
        Unit::Count,
        "Events that the ledger's writer wrote together"
    );
    describe_histogram!(
        GROUP_DURATION,
        Unit::Seconds,
        "Time from a group's first statement until it is on disk"
    );
    describe_counter!(
        GROUP_FAILURES,
        Unit::Count,
        "Groups of events that could not be written"
    );
    describe_gauge!(
        LOG_HELD,
        Unit::Seconds,
        "How long an open transaction of a writer, or a server that does not answer, has held up the \
         log: what was recorded since is not in streams and exports yet"
    );
    gauge!(QUEUED_EVENTS).set(0.0);
    gauge!(LOG_HELD).set(0.0);
    counter!(GROUP_FAILURES).absolute(0);
}

/// So many events wait for the writer.
pub(crate) fn queued(events: usize) {
    gauge!(QUEUED_EVENTS).set(events as f64);
}

/// A group of events was written, or failed as a whole.
pub(crate) fn group_ended(events: usize, elapsed: Duration, failed: bool) {
    if failed {
        counter!(GROUP_FAILURES).increment(1);
    } else {
        histogram!(GROUP_EVENTS).record(events as f64);
        histogram!(GROUP_DURATION).record(elapsed);
    }
}

/// The log has been held up for so long now.
pub(crate) fn log_held(lasting: Duration) {
    gauge!(LOG_HELD).set(lasting.as_secs_f64());
}
