//! The events that have no result yet, and which of them go into the next message. Knows no network
//! and no clock.

use std::collections::{BTreeMap, VecDeque};

use prost::Message as _;
use tokenmeter_api::v1;
use tokio::sync::oneshot;

use super::{Entry, RecorderOptions};
use crate::client::outcome;
use crate::error::{Error, Result};

/// How many events may be sent and without result: where the server stops reading.
pub(super) const WINDOW: usize = 4_096;

/// Events without result, by their sequence number.
#[derive(Debug)]
pub(super) struct Pending {
    batch_events: usize,
    batch_bytes: usize,
    next: i64,
    entries: BTreeMap<i64, Entry>,
    /// Those that are to be sent on this stream; the others of `entries` are on their way.
    waiting: VecDeque<i64>,
    /// Who waits until no event below this number is without result.
    flushes: Vec<(i64, oneshot::Sender<Result<()>>)>,
    /// After a message was too large, events up to this number go one a message.
    alone_until: Option<i64>,
}

/// What became of a result.
#[derive(Debug)]
pub(super) enum Settled {
    /// The event has its one result.
    Resolved,
    /// The server could not take it for the moment: it waits to be sent again.
    Again(Error),
    /// No event of this number waits for a result.
    Unknown,
}

impl Pending {
    pub(super) fn new(options: &RecorderOptions) -> Self {
        Self {
            batch_events: options.batch_events,
            batch_bytes: options.batch_bytes,
            next: 0,
            entries: BTreeMap::new(),
            waiting: VecDeque::new(),
            flushes: Vec::new(),
            alone_until: None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many events are sent and without result.
    pub(super) fn on_the_way(&self) -> usize {
        self.entries.len() - self.waiting.len()
    }

    /// Whether [`batch`](Self::batch) has something to send.
    pub(super) fn sendable(&self) -> bool {
        !self.waiting.is_empty() && self.on_the_way() < WINDOW
    }

    pub(super) fn add(&mut self, entry: Entry) {
        self.entries.insert(self.next, entry);
        self.waiting.push_back(self.next);
        self.next += 1;
    }

    /// Answers `done` when every event there is now has its result.
    pub(super) fn flush(&mut self, done: oneshot::Sender<Result<()>>) {
        self.flushes.push((self.next, done));
        self.answer_flushes();
    }

    /// The next message: what waits, as far as the window and the bounds of a message let it. They
    /// count as sent.
    pub(super) fn batch(&mut self) -> v1::StreamUsageRequest {
        let most = match self.alone_until {
            Some(_) => 1,
            None => self
                .batch_events
                .min(WINDOW - self.on_the_way().min(WINDOW)),
        };
        let mut message = v1::StreamUsageRequest::default();
        let mut bytes = 0;
        while message.events.len() < most {
            let Some(sequence) = self.waiting.front() else {
                break;
            };
            let Some(entry) = self.entries.get_mut(sequence) else {
                self.waiting.pop_front();
                continue;
            };
            bytes += entry.event.encoded_len();
            if bytes > self.batch_bytes && !message.events.is_empty() {
                break;
            }
            entry.sent = true;
            entry.on_the_way = true;
            message.events.push(v1::StreamedEvent {
                sequence: *sequence,
                event: Some(entry.event.clone()),
            });
            self.waiting.pop_front();
        }
        message
    }

    /// Takes the result of one event.
    pub(super) fn settle(&mut self, result: v1::StreamedResult) -> Settled {
        let sequence = result.sequence;
        let retry = match &result.result {
            Some(v1::RecordResult {
                result: Some(v1::record_result::Result::Error(error)),
            }) if error.retryable => Some(Error::from(error.clone())),
            _ => None,
        };
        let Some(entry) = self.entries.get_mut(&sequence).filter(|one| one.on_the_way) else {
            return Settled::Unknown;
        };
        if let Some(error) = retry {
            entry.on_the_way = false;
            self.waiting.push_back(sequence);
            return Settled::Again(error);
        }
        self.resolve(sequence, outcome(result.result.unwrap_or_default()));
        Settled::Resolved
    }

    /// The stream is lost: everything without result is to be sent again, in its first order.
    pub(super) fn lost(&mut self) {
        for entry in self.entries.values_mut() {
            entry.on_the_way = false;
        }
        self.waiting = self.entries.keys().copied().collect();
    }

    /// The stream was lost because a message was too large. Everything there is now goes alone from
    /// here on; if it did already, the largest event sent is too large by itself, and refused.
    pub(super) fn too_large(&mut self, error: Error) {
        if self.alone_until.is_none() {
            self.alone_until = Some(self.next);
            return;
        }
        let sent = self.entries.iter().filter(|(_, entry)| entry.on_the_way);
        let largest = sent.max_by_key(|(_, entry)| entry.event.encoded_len());
        if let Some(sequence) = largest.map(|(sequence, _)| *sequence) {
            self.resolve(sequence, Err(error));
        }
    }

    /// Ends everything without result.
    pub(super) fn abandon(&mut self, why: &Error) {
        for (_, entry) in std::mem::take(&mut self.entries) {
            entry.abandon(why);
        }
        self.waiting.clear();
        for (_, done) in self.flushes.drain(..) {
            let _ = done.send(Err(why.clone()));
        }
    }

    fn resolve(&mut self, sequence: i64, result: Result<v1::RecordedUsage>) {
        if let Some(entry) = self.entries.remove(&sequence) {
            entry.resolve(result);
        }
        if self.alone_until.is_some_and(|end| self.oldest() >= end) {
            self.alone_until = None;
        }
        self.answer_flushes();
    }

    /// The oldest number without result.
    fn oldest(&self) -> i64 {
        self.entries.keys().next().copied().unwrap_or(self.next)
    }

    fn answer_flushes(&mut self) {
        let oldest = self.oldest();
        for (_, done) in self.flushes.extract_if(.., |(end, _)| oldest >= *end) {
            // Who waited may have gone away.
            let _ = done.send(Ok(()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorder::{Receipt, entry};
    use futures_util::FutureExt as _;
    use std::sync::Arc;
    use tokio::sync::Semaphore;
    use tonic::Code;

    fn pending(options: RecorderOptions, events: usize) -> (Pending, Vec<Receipt>) {
        let mut pending = Pending::new(&options);
        let receipts = (0..events).map(|n| {
            let room = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
            let event = v1::UsageEvent {
                event_id: format!("e-{n}"),
                ..Default::default()
            };
            let (entry, receipt) = entry(event, room);
            pending.add(entry);
            receipt
        });
        let receipts = receipts.collect();
        (pending, receipts)
    }

    fn sequences(message: &v1::StreamUsageRequest) -> Vec<i64> {
        message.events.iter().map(|event| event.sequence).collect()
    }

    fn recorded(sequence: i64) -> v1::StreamedResult {
        let recorded = v1::RecordedUsage::default();
        v1::StreamedResult {
            sequence,
            result: Some(v1::RecordResult {
                result: Some(v1::record_result::Result::Recorded(recorded)),
            }),
        }
    }

    #[test]
    fn no_more_than_the_window_is_on_the_way() {
        let (mut pending, _receipts) = pending(RecorderOptions::default(), 5_000);
        let mut sent = Vec::new();
        while pending.sendable() {
            sent.push(pending.batch().events.len());
        }
        assert_eq!(sent, [1_000, 1_000, 1_000, 1_000, 96]);
        assert!(matches!(pending.settle(recorded(7)), Settled::Resolved));
        assert_eq!(sequences(&pending.batch()), [4_096]);
    }

    #[test]
    fn a_message_is_bounded_in_bytes_and_carries_one_event_at_least() {
        let options = RecorderOptions {
            batch_bytes: 10,
            ..Default::default()
        };
        let (mut pending, _receipts) = pending(options, 3);
        assert_eq!(sequences(&pending.batch()), [0, 1]);
        let options = RecorderOptions {
            batch_bytes: 1,
            ..Default::default()
        };
        let (mut pending, _receipts) = super::tests::pending(options, 2);
        assert_eq!(sequences(&pending.batch()), [0]);
    }

    #[test]
    fn a_lost_stream_sends_all_without_result_again_in_order_and_no_result_counts_twice() {
        let (mut pending, mut receipts) = pending(RecorderOptions::default(), 4);
        pending.batch();
        assert!(matches!(pending.settle(recorded(1)), Settled::Resolved));
        assert!(matches!(pending.settle(recorded(1)), Settled::Unknown));
        assert!(receipts.remove(1).now_or_never().unwrap().is_ok());
        pending.lost();
        assert!(matches!(pending.settle(recorded(2)), Settled::Unknown));
        assert_eq!(sequences(&pending.batch()), [0, 2, 3]);
        assert_eq!(pending.on_the_way(), 3);
    }

    #[test]
    fn what_is_refused_for_the_moment_waits_again() {
        let (mut pending, mut receipts) = pending(RecorderOptions::default(), 1);
        pending.batch();
        let error = v1::ItemError {
            reason: v1::ErrorReason::Overloaded.into(),
            retryable: true,
            retry_after_ms: Some(7),
            ..Default::default()
        };
        let result = v1::StreamedResult {
            sequence: 0,
            result: Some(v1::RecordResult {
                result: Some(v1::record_result::Result::Error(error)),
            }),
        };
        assert!(matches!(pending.settle(result), Settled::Again(_)));
        assert!((&mut receipts[0]).now_or_never().is_none());
        assert_eq!(sequences(&pending.batch()), [0]);
    }

    #[test]
    fn a_flush_waits_for_what_was_there_and_not_for_what_came_later() {
        let (mut pending, _receipts) = pending(RecorderOptions::default(), 2);
        let (done, mut flushed) = oneshot::channel();
        pending.flush(done);
        let (mut later, _more) = super::tests::pending(RecorderOptions::default(), 1);
        pending.add(later.entries.remove(&0).unwrap());
        pending.batch();
        pending.settle(recorded(1));
        assert!(flushed.try_recv().is_err());
        pending.settle(recorded(0));
        assert!(flushed.try_recv().unwrap().is_ok());
        assert!(!pending.is_empty());
    }

    #[test]
    fn of_messages_that_are_too_large_only_the_event_that_is_so_alone_is_refused() {
        let (mut pending, mut receipts) = pending(RecorderOptions::default(), 3);
        pending.entries.get_mut(&1).unwrap().event.user_id = "u".repeat(999);
        let error = Error::local(Code::ResourceExhausted, "too large");
        pending.batch();
        pending.too_large(error.clone());
        pending.lost();
        for sequence in [0, 1, 2] {
            assert_eq!(sequences(&pending.batch()), [sequence]);
        }
        pending.settle(recorded(0));
        pending.too_large(error);
        pending.lost();
        assert!(receipts.remove(1).now_or_never().unwrap().is_err());
        assert_eq!(sequences(&pending.batch()), [2]);
        pending.settle(recorded(2));
        assert!(pending.is_empty() && pending.alone_until.is_none());
    }
}
