//! What the clients of a run know, and what follows from it.
//!
//! Every step takes its place in one order: a call before it is sent, an answer after it has come. So
//! what was admitted before a call was sent, and was not being given back before its answer came, was
//! held at the moment of its decision, whenever that was. Nothing here asks the server.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Limits that a call has to fit, by number, and what it asks of each.
pub(super) type Asked = Vec<(usize, i64)>;

/// One call that was admitted.
#[derive(Debug)]
struct Call {
    /// When its answer came.
    admitted: u64,
    /// What it holds of each limit.
    held: Asked,
    /// When the step that ends its hold was sent, and what it uses then; none while nothing was sent.
    ended: Option<(u64, Asked)>,
    /// When its answer came: from then on it uses all that.
    settled: Option<u64>,
    /// When its void was sent.
    voided: Option<u64>,
}

impl Call {
    /// What it counted of a limit at every moment between two places in the order, at least.
    fn at_least(&self, limit: usize, from: u64, to: u64) -> i64 {
        let of = |asked: &Asked| {
            let found = asked.iter().find(|(number, _)| *number == limit);
            found.map_or(0, |(_, amount)| *amount)
        };
        if self.admitted > from || self.voided.is_some_and(|sent| sent < to) {
            return 0;
        }
        match &self.ended {
            Some((sent, used)) if *sent < to => match self.settled {
                Some(answered) if answered < from => of(used),
                // It was the hold or the usage, whichever came first.
                _ => of(used).min(of(&self.held)),
            },
            _ => of(&self.held),
        }
    }
}

/// The log of all clients.
#[derive(Debug, Default)]
pub(super) struct Log(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    now: u64,
    calls: HashMap<String, Call>,
    limits: Vec<i64>,
    wrong: Vec<String>,
    admitted: usize,
    refused: usize,
}

impl Log {
    /// Of limits of these amounts, by number.
    pub(super) fn of(limits: Vec<i64>) -> Self {
        Self(Mutex::new(Known {
            limits,
            ..Known::default()
        }))
    }

    fn with<T>(&self, step: impl FnOnce(&mut Known) -> T) -> T {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.now += 1;
        step(&mut known)
    }

    /// A call is about to be sent.
    pub(super) fn send(&self) -> u64 {
        self.with(|known| known.now)
    }

    pub(super) fn refused(&self) {
        self.with(|known| known.refused += 1);
    }

    /// A call that was sent then was admitted: was there room?
    pub(super) fn admitted(&self, id: &str, sent: u64, held: Asked) {
        self.with(|known| {
            let now = known.now;
            for (limit, amount) in &held {
                let others = known.calls.values();
                let others: i64 = others.map(|one| one.at_least(*limit, sent, now)).sum();
                let most = known.limits[*limit];
                if others + amount > most {
                    let text = format!(
                        "{id} was admitted for {amount} of limit {limit}, of whose {most} at least \
                         {others} were used or held"
                    );
                    known.wrong.push(text);
                }
            }
            known.admitted += 1;
            let call = Call {
                admitted: now,
                held,
                ended: None,
                settled: None,
                voided: None,
            };
            let before = known.calls.insert(id.to_owned(), call);
            assert!(before.is_none(), "{id} was given out twice");
        });
    }

    /// The step that ends a hold is about to be sent: a release, or usage.
    pub(super) fn ending(&self, id: &str, used: Asked) {
        self.with(|known| {
            let now = known.now;
            known.calls.get_mut(id).unwrap().ended = Some((now, used));
        });
    }

    /// Its answer came.
    pub(super) fn settled(&self, id: &str) {
        self.with(|known| {
            let now = known.now;
            known.calls.get_mut(id).unwrap().settled = Some(now);
        });
    }

    /// Its void is about to be sent.
    pub(super) fn voiding(&self, id: &str) {
        self.with(|known| {
            let now = known.now;
            known.calls.get_mut(id).unwrap().voided = Some(now);
        });
    }

    /// What is used of each limit in the end.
    pub(super) fn used(&self) -> Vec<i64> {
        self.with(|known| {
            let count = known.limits.len();
            let of = |limit| {
                let calls = known.calls.values();
                calls
                    .map(|one| one.at_least(limit, known.now, known.now))
                    .sum()
            };
            (0..count).map(of).collect()
        })
    }

    /// What was wrong, and how many calls were admitted and refused.
    pub(super) fn judged(&self) -> (Vec<String>, usize, usize) {
        self.with(|known| (known.wrong.clone(), known.admitted, known.refused))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_surely_counted_is_held_against_the_limit() {
        let log = Log::of(vec![10]);
        let first = log.send();
        log.admitted("a", first, vec![(0, 6)]);
        // Sent before the answer of the first: either may have been first.
        log.admitted("b", first, vec![(0, 6)]);
        assert!(log.judged().0.is_empty());
        let third = log.send();
        log.ending("a", vec![(0, 0)]);
        log.ending("b", vec![(0, 8)]);
        log.settled("b");
        // The first may have been given back already, and of the second six were held.
        log.admitted("c", third, vec![(0, 4)]);
        assert!(log.judged().0.is_empty());
        let fourth = log.send();
        log.admitted("d", fourth, vec![(0, 1)]);
        assert_eq!(log.judged().0.len(), 1, "8 and 4 and 1 are more than 10");
        assert_eq!(log.used(), [13]);
    }
}
