//! The newest entries of one tenant, bounded in number and bytes.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::ledger::Recorded;
use crate::ledger::log::{Change, Entry, Page};

/// Entries that a ring keeps at most.
const MAX_ENTRIES: usize = 16_384;
/// Bytes that the entries of all rings of a node take together, as [`bytes_of`] reckons them, as
/// long as there are no more rings than shares of [`MIN_BYTES`] in it: 1,024.
const ALL_BYTES: usize = 64 * 1024 * 1024;
/// Bytes that the entries of one ring may take however few and however many rings there are.
const MAX_BYTES: usize = 16 * 1024 * 1024;
const MIN_BYTES: usize = 64 * 1024;
/// Entries that one subscriber takes at a time.
const MAX_TAKEN: usize = 256;

/// The bytes that each of so many rings may take.
pub(super) fn share(rings: usize) -> usize {
    (ALL_BYTES / rings.max(1)).clamp(MIN_BYTES, MAX_BYTES)
}

/// Everything of one tenant in `(from, through]`.
pub(super) struct Ring {
    entries: VecDeque<(Arc<Entry>, usize)>,
    bytes: usize,
    from: i64,
    through: i64,
}

/// What a ring has for a subscriber.
pub(super) enum Taken {
    /// What follows, perhaps nothing yet.
    Page(Page),
    /// The ring begins later than the subscriber's position.
    Behind,
}

impl Ring {
    /// An empty ring that begins after a position.
    pub(super) fn new(start: i64) -> Self {
        Self {
            entries: VecDeque::new(),
            bytes: 0,
            from: start,
            through: start,
        }
    }

    /// Where it begins.
    pub(super) fn from(&self) -> i64 {
        self.from
    }

    /// Adds the page that follows, and lets go of the oldest entries past the bounds: their number,
    /// and this many bytes.
    pub(super) fn push(&mut self, page: Page, max_bytes: usize) {
        for entry in page.entries {
            let bytes = bytes_of(&entry);
            self.bytes += bytes;
            self.entries.push_back((entry, bytes));
        }
        self.through = page.through;
        while self.entries.len() > MAX_ENTRIES || self.bytes > max_bytes {
            let Some((oldest, bytes)) = self.entries.pop_front() else {
                break;
            };
            self.bytes -= bytes;
            self.from = oldest.position;
        }
        // What it held at its fullest is let go of, too.
        if self.entries.capacity() / 4 > self.entries.len() {
            self.entries.shrink_to(self.entries.len() * 2);
        }
    }

    /// What follows a position.
    pub(super) fn after(&self, position: i64) -> Taken {
        if position < self.from {
            return Taken::Behind;
        }
        let start = self
            .entries
            .partition_point(|(entry, _)| entry.position <= position);
        let entries: Vec<_> = self
            .entries
            .range(start..)
            .take(MAX_TAKEN)
            .map(|(entry, _)| Arc::clone(entry))
            .collect();
        let through = match entries.last() {
            Some(last) if start + entries.len() < self.entries.len() => last.position,
            // A subscription can begin at a commit that the follower has yet to read.
            _ => self.through.max(position),
        };
        Taken::Page(Page { entries, through })
    }
}

/// About how much memory an entry takes: its fixed parts, and its texts.
fn bytes_of(entry: &Entry) -> usize {
    let (event, further) = match &entry.change {
        Change::Recorded(event) | Change::Voided(event) => (event, 0),
        Change::Repriced {
            event, previous, ..
        } => (event, size_of_val(&previous[..])),
    };
    size_of::<Entry>() + further + heap_of(event)
}

fn heap_of(recorded: &Recorded) -> usize {
    let event = &recorded.event;
    let texts = [
        &event.event_id,
        &event.user_id,
        &event.team_id,
        &event.session_id,
        &event.provider,
        &event.reservation_id,
        &event.service_tier,
        &event.inference_region,
        &event.stop_reason,
        &recorded.api_key_id,
    ];
    let texts: usize = texts.iter().map(|text| text.len()).sum();
    let tools = |line: &tokenmeter_model::counts::Line| -> usize {
        line.tool_requests.keys().map(|tool| tool.len() + 64).sum()
    };
    let lines: usize = event
        .lines
        .iter()
        .map(|line| size_of_val(line) + line.model.len() + tools(line))
        .sum();
    let labels: usize = event
        .labels
        .iter()
        .map(|label| size_of_val(label) + label.0.len() + label.1.len())
        .sum();
    texts + lines + labels + size_of_val(&recorded.quotes[..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenmeter_model::event::Event;

    fn entry(position: i64, bytes: usize) -> Arc<Entry> {
        let event = Event {
            event_id: "x".repeat(bytes),
            ..Event::default()
        };
        Arc::new(Entry {
            position,
            change: Change::Recorded(Recorded {
                position,
                event,
                quotes: Vec::new(),
                charge_time_us: 0,
                recorded_at_us: 0,
                api_key_id: String::new(),
                voided: None,
            }),
        })
    }

    fn push(ring: &mut Ring, position: i64, bytes: usize, max_bytes: usize) {
        let page = Page {
            entries: vec![entry(position, bytes)],
            through: position,
        };
        ring.push(page, max_bytes);
    }

    fn positions(taken: Taken) -> Option<(Vec<i64>, i64)> {
        match taken {
            Taken::Behind => None,
            Taken::Page(page) => {
                let entries = page.entries.iter().map(|entry| entry.position);
                Some((entries.collect(), page.through))
            }
        }
    }

    #[test]
    fn a_ring_answers_what_follows_and_says_who_is_behind() {
        let mut ring = Ring::new(10);
        assert_eq!(positions(ring.after(9)), None);
        assert_eq!(positions(ring.after(12)), Some((vec![], 12)));
        let page = Page {
            entries: vec![entry(12, 1), entry(15, 1)],
            through: 20,
        };
        ring.push(page, MAX_BYTES);
        assert_eq!(positions(ring.after(10)), Some((vec![12, 15], 20)));
        assert_eq!(positions(ring.after(12)), Some((vec![15], 20)));
        assert_eq!(positions(ring.after(15)), Some((vec![], 20)));
    }

    #[test]
    fn a_ring_is_bounded_in_entries_and_bytes() {
        let mut ring = Ring::new(0);
        for position in 1..=20_000 {
            push(&mut ring, position, 1, MAX_BYTES);
        }
        assert_eq!(ring.entries.len(), MAX_ENTRIES);
        assert_eq!(positions(ring.after(ring.from() - 1)), None);
        let (taken, through) = positions(ring.after(ring.from())).unwrap();
        assert_eq!(taken.len(), MAX_TAKEN);
        assert_eq!(Some(&through), taken.last());
        for position in 20_001..20_100 {
            push(&mut ring, position, 1_000_000, MAX_BYTES);
        }
        assert!(ring.bytes <= MAX_BYTES, "{} bytes", ring.bytes);
        assert_eq!(ring.entries.len(), 16);
    }

    #[test]
    fn rings_share_a_budget_and_shrink_when_others_come() {
        assert_eq!(
            (share(0), share(1), share(4)),
            (MAX_BYTES, MAX_BYTES, MAX_BYTES)
        );
        assert_eq!((share(1_024), share(100_000)), (MIN_BYTES, MIN_BYTES));
        for rings in 5..=1_024 {
            assert!(rings * share(rings) <= ALL_BYTES && share(rings) >= MIN_BYTES);
        }
        let mut ring = Ring::new(0);
        for position in 1..=10_000 {
            push(&mut ring, position, 500, share(1));
        }
        assert_eq!(ring.entries.len(), 10_000);
        // The next stretch has nothing for this ring, and others have come.
        let page = Page {
            entries: Vec::new(),
            through: 10_001,
        };
        ring.push(page, share(1_000));
        assert!(ring.bytes <= share(1_000), "{} bytes", ring.bytes);
        assert!(ring.entries.capacity() < 1_000);
        assert_eq!(positions(ring.after(ring.from() - 1)), None);
        let (taken, through) = positions(ring.after(ring.from())).unwrap();
        assert_eq!((taken.last(), through), (Some(&10_000), 10_001));
        // An entry larger than the share is read from the log by everybody.
        push(&mut ring, 10_002, MIN_BYTES, share(1_024));
        assert_eq!((ring.entries.len(), ring.from()), (0, 10_002));
    }
}
