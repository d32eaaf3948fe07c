//! A bound on the streams that one node holds open at once. A stream lives for hours, so it takes
//! a place of its own and not one of those for calls, which are given back within seconds.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::status::Failure;
use crate::v1::ErrorReason;

/// When a caller that found no place may come back: streams end by the minute, not by the second.
const RETRY_LATER: Duration = Duration::from_secs(1);

/// The places of a node. Clones share them.
#[derive(Debug, Clone)]
pub struct Streams {
    places: Arc<Semaphore>,
    max: usize,
}

/// The place of one open stream, given back when it is dropped.
#[derive(Debug)]
#[must_use = "a place is given back when its permit is dropped"]
pub struct Permit {
    _place: OwnedSemaphorePermit,
}

impl Streams {
    /// At most `max` streams at once.
    pub fn new(max: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(max)),
            max,
        }
    }

    /// Takes a place for one stream, to be held as long as it is open.
    ///
    /// # Errors
    /// `TOO_MANY_STREAMS` if there is none.
    pub fn open(&self) -> Result<Permit, Failure> {
        match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => Ok(Permit { _place: place }),
            Err(_) => Err(Failure::new(
                ErrorReason::TooManyStreams,
                format!(
                    "this node has {} streams open, as many as it allows; close one, share one, or \
                     retry later",
                    self.max
                ),
            )
            .retry_after(RETRY_LATER)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_taken_until_its_permit_is_dropped() {
        let streams = Streams::new(2);
        let first = streams.clone().open().unwrap();
        let _second = streams.open().unwrap();
        let refused = streams.open().unwrap_err();
        assert_eq!(refused.reason, ErrorReason::TooManyStreams);
        assert!(
            refused.message.contains("2 streams open"),
            "{}",
            refused.message
        );
        drop(first);
        assert!(streams.open().is_ok());
    }
}
