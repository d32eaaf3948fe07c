//! Up to where the log is complete: positions below it were committed, or never will be.

use std::sync::Arc;

use tokenmeter_model::id::TenantId;
use tokio::sync::watch;

use super::Config;
use super::connect::State;
use crate::ledger::Error;

/// Bits of a position that number the rows of one transaction.
pub(super) const ROW_BITS: u32 = 15;

/// Follows the horizon.
pub(super) struct Horizon {
    committed: watch::Receiver<i64>,
    nudge: Nudge,
}

/// Tells the horizon that this node has committed a position.
#[derive(Clone)]
pub(super) struct Nudge(Arc<watch::Sender<i64>>);

impl Nudge {
    /// Everything of a transaction of this node up to the position is on disk.
    pub(super) fn acknowledged(&self, position: i64) {
        self.0.send_if_modified(|last| {
            let further = position > *last;
            *last = position.max(*last);
            further
        });
    }
}

impl Horizon {
    /// Begins to follow it.
    pub(super) async fn start(_config: &Config, _state: Arc<State>) -> Result<Self, Error> {
        let (_, committed) = watch::channel(0);
        Ok(Self {
            committed,
            nudge: Nudge(Arc::new(watch::Sender::new(0))),
        })
    }

    pub(super) fn nudge(&self) -> Nudge {
        self.nudge.clone()
    }

    pub(super) fn committed(&self) -> watch::Receiver<i64> {
        self.committed.clone()
    }

    /// Waits until the horizon covers what this node has acknowledged.
    pub(super) async fn last_position(&self) -> Result<i64, Error> {
        let acknowledged = *self.nudge.0.borrow();
        let mut committed = self.committed();
        let covered = committed.wait_for(|at| *at >= acknowledged).await;
        covered
            .map(|at| *at)
            .map_err(|_| Error::Unavailable("the ledger is closed".into()))
    }

    pub(super) fn touched(&self, _tenant: &TenantId, _since: i64) -> bool {
        true
    }

    pub(super) async fn close(&self) {}
}
