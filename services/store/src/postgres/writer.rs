//! The tasks that write, each with a connection of its own.

use std::sync::Arc;

use super::Config;
use super::connect::State;
use super::horizon::Nudge;
use crate::ledger::correction::{RepriceStep, Void, VoidOutcome};
use crate::ledger::items::{ItemOutcome, ItemSubmission};
use crate::ledger::{Error, Outcome, Submission};

/// The writers of a node.
pub(super) struct Writers;

fn later<T>() -> Result<T, Error> {
    Err(Error::Unavailable("not built".into()))
}

impl Writers {
    pub(super) async fn start(_: &Config, _: Arc<State>, _: Nudge) -> Result<Self, Error> {
        Ok(Self)
    }

    pub(super) async fn record(
        &self,
        _batch: Arc<[Submission]>,
    ) -> Result<Vec<Result<Outcome, Error>>, Error> {
        later()
    }

    pub(super) async fn record_items(
        &self,
        _batch: Arc<[ItemSubmission]>,
    ) -> Result<Vec<ItemOutcome>, Error> {
        later()
    }

    pub(super) async fn void(&self, _void: Void) -> Result<VoidOutcome, Error> {
        later()
    }

    pub(super) async fn reprice(&self, _step: RepriceStep) -> Result<bool, Error> {
        later()
    }

    pub(super) async fn check(&self) -> Result<(), Error> {
        later()
    }

    pub(super) async fn close(&self) {}
}
