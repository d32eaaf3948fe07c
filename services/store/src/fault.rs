//! Faults that tests plant, to see an invariant's test turn red. Only with the feature
//! `planted-faults`, which no release has; without it every question answers no at compile time.

/// A fault that can be planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// A retry is recorded again: breaks exactly_once.
    RecordRetries,
    /// The answer leaves and the transaction does not commit: breaks ack_is_durable.
    AnswerWithoutCommit,
    /// SQLite does not wait for the disk: breaks ack_is_durable, as only a system-call trace shows.
    NoSync,
    /// Lists forget whose they are: breaks tenant_isolated.
    ForgetTenant,
    /// The queue before the writer has no bound: breaks bounded.
    EndlessQueue,
    /// Totals leave out a line: breaks the sum of totals and events.
    SkipTotals,
    /// A void leaves totals alone: breaks the sum of totals and events less voids.
    SkipVoidTotals,
    /// A purge drops events and leaves their sums out of sealed totals: breaks the sum of totals and
    /// events.
    DropUnsealed,
    /// A subscriber that fell behind goes on with what is still kept: breaks feed_complete.
    SkipWhatIsBehind,
    /// Every node takes every job: breaks that exactly one does each.
    RunEverywhere,
    /// Closed periods follow what comes later: breaks that they never change.
    ReopenPeriods,
    /// What came after the close goes with what is dropped: breaks that closed periods keep it.
    ForgetAdjustments,
    /// The end of the log passes transactions that are still open: breaks feed_complete.
    PassOpenTransactions,
    /// The end of the log waits for every transaction of the instance: breaks feed_complete.
    WaitForAnybody,
    /// A dump that was restored is taken for the database it was made of: breaks feed_complete.
    ForgetRestore,
    /// A server that was started again is taken for the one before: breaks feed_complete.
    ForgetOpenings,
    /// A node hears of no commits but its own: breaks feed_complete.
    DeafToOthers,
    /// Counters are not told what was recorded by the call that recorded it, as if the process had
    /// ended in between: the sweeper has to tell them.
    LeaveToSweeper,
    /// A call is admitted and nothing is reserved for it: breaks no_overspend.
    HoldNothing,
    /// Holds are not read again when the counters are opened: breaks no_overspend.
    ForgetHolds,
    /// A change that was counted counts again when it is swept: breaks counters_equal_ledger.
    CountTwice,
}

#[cfg(feature = "planted-faults")]
mod on {
    use std::sync::Mutex;

    use super::Planted;

    static PLANTED: Mutex<Option<Planted>> = Mutex::new(None);

    /// Plants a fault in this process, or takes it out.
    pub fn plant(fault: Option<Planted>) {
        *PLANTED
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner()) = fault;
    }

    /// Whether a fault is planted here, or by the environment variable `TOKENMETER_FAULT`.
    pub fn is_planted(fault: Planted) -> bool {
        let named =
            std::env::var("TOKENMETER_FAULT").is_ok_and(|name| name == format!("{fault:?}"));
        named
            || *PLANTED
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner())
                == Some(fault)
    }
}

#[cfg(feature = "planted-faults")]
pub use on::{is_planted, plant};

/// No fault is planted.
#[cfg(not(feature = "planted-faults"))]
pub const fn is_planted(_: Planted) -> bool {
    false
}
