//! What waits for a writer. The rule: calls are gathered, never timed; the queue is bounded by the
//! events and items in it; each call is answered once its transaction is on disk, or has failed.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::fault::{Planted, is_planted};
use crate::ledger::{Error, Outcome, Submission};
use crate::metrics;

/// The places before a writer, one an event or item.
pub(crate) struct Places {
    free: Arc<Semaphore>,
    bound: usize,
}

/// The places of one call, until it is answered.
pub(crate) struct Queued {
    permit: OwnedSemaphorePermit,
    bound: usize,
}

impl Places {
    pub(crate) fn new(bound: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(bound)),
            bound,
        }
    }

    /// Takes as many places as a call has events or items.
    ///
    /// # Errors
    /// [`Error::Overloaded`] when there are not as many.
    pub(crate) fn take(&self, places: usize) -> Result<Queued, Error> {
        let overloaded = || Error::Overloaded(self.taken());
        let places = match is_planted(Planted::EndlessQueue) {
            true => 0,
            false => u32::try_from(places).map_err(|_| overloaded())?,
        };
        let permit = Arc::clone(&self.free)
            .try_acquire_many_owned(places)
            .map_err(|_| overloaded())?;
        metrics::queued(self.taken());
        Ok(Queued {
            permit,
            bound: self.bound,
        })
    }

    fn taken(&self) -> usize {
        self.bound.saturating_sub(self.free.available_permits())
    }
}

impl Queued {
    /// Gives the places back.
    fn leave(self) {
        let free = Arc::clone(self.permit.semaphore());
        drop(self.permit);
        metrics::queued(self.bound.saturating_sub(free.available_permits()));
    }
}

/// One call's events or items, and its places until it is answered.
pub(crate) struct Batched<S, O> {
    pub(crate) batch: Arc<[S]>,
    pub(crate) reply: oneshot::Sender<Result<Vec<O>, Error>>,
    pub(crate) queued: Queued,
}

/// A call that records events.
pub(crate) type EventCall = Batched<Submission, Result<Outcome, Error>>;

/// Calls that are written together.
pub(crate) struct Group<S, O> {
    pub(crate) calls: Vec<Batched<S, O>>,
    /// Events or items of all calls.
    pub(crate) len: usize,
}

/// Calls that record events.
pub(crate) type Events = Group<Submission, Result<Outcome, Error>>;

impl<S, O> Default for Group<S, O> {
    fn default() -> Self {
        Self {
            calls: Vec::new(),
            len: 0,
        }
    }
}

impl<S, O> Group<S, O> {
    pub(crate) fn of(first: Batched<S, O>) -> Self {
        Self {
            len: first.batch.len(),
            calls: vec![first],
        }
    }

    /// Takes what waits of this kind, up to `most` events or items, whole calls aside; answers the
    /// job of another kind that came before there were as many.
    pub(crate) fn fill<J>(
        &mut self,
        jobs: &mut mpsc::Receiver<J>,
        most: usize,
        kind: impl Fn(J) -> Result<Batched<S, O>, J>,
    ) -> Option<J> {
        while self.len < most {
            match kind(jobs.try_recv().ok()?) {
                Ok(call) => {
                    self.len += call.batch.len();
                    self.calls.push(call);
                }
                Err(other) => return Some(other),
            }
        }
        None
    }

    /// The events or items of all calls, in order.
    pub(crate) fn submissions(&self) -> Vec<&S> {
        self.calls.iter().flat_map(|one| one.batch.iter()).collect()
    }

    /// Gives each call its part of the outcomes.
    pub(crate) fn answer(self, outcomes: Result<Vec<O>, Error>) {
        let outcomes = outcomes.map_err(|error| error.to_string());
        let mut outcomes = outcomes.map(Vec::into_iter);
        for Batched {
            batch,
            reply,
            queued,
        } in self.calls
        {
            let answer = match &mut outcomes {
                Ok(outcomes) => Ok(outcomes.by_ref().take(batch.len()).collect()),
                Err(text) => Err(Error::Unavailable(text.clone())),
            };
            // The caller may have gone; what is committed stands all the same.
            let _ = reply.send(answer);
            queued.leave();
        }
    }
}
