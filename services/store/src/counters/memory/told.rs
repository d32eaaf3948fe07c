//! Which changes of the ledger a tenant's counters were told of: each counts once.

use std::collections::BTreeMap;

use crate::counters::Seen;

/// Changes told directly that no sweep has passed yet; past the bound every counter of the tenant is
/// cold again, and what was told is in their seeds.
pub(super) const MAX_APPLIED: usize = 100_000;

/// What had been told at a moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    swept: i64,
    number: u64,
}

/// Everything up to `swept`, and what was applied directly after it.
#[derive(Debug)]
pub(super) struct Told {
    swept: i64,
    /// By position, and as the how manieth it was told.
    applied: BTreeMap<i64, u64>,
    number: u64,
}

impl Told {
    pub(super) fn new(swept: i64) -> Self {
        Self {
            swept,
            applied: BTreeMap::new(),
            number: 0,
        }
    }

    pub(super) fn swept(&self) -> i64 {
        self.swept
    }

    pub(super) fn mark(&self) -> Mark {
        Mark {
            swept: self.swept,
            number: self.number,
        }
    }

    /// Whether a change was told before.
    pub(super) fn has(&self, position: i64) -> bool {
        position <= self.swept || self.applied.contains_key(&position)
    }

    /// Takes a change that is told directly; answers whether it is the first time.
    pub(super) fn apply(&mut self, position: i64) -> bool {
        if self.has(position) {
            return false;
        }
        self.number += 1;
        self.applied.insert(position, self.number);
        true
    }

    /// Everything up to a position has been told.
    pub(super) fn sweep(&mut self, through: i64) {
        if through > self.swept {
            self.swept = through;
            self.applied = self.applied.split_off(&through.saturating_add(1));
        }
    }

    /// Whether too much was applied that no sweep has passed.
    pub(super) fn is_full(&self) -> bool {
        self.applied.len() > MAX_APPLIED
    }

    /// Forgets what was applied directly: right only when no counter has counted it.
    pub(super) fn forget(&mut self) {
        self.applied.clear();
    }

    /// Whether a reading contains all that was told before a mark. What was told later waits in the
    /// counter that the mark is of, and sweeps tell it what was applied before once more.
    pub(super) fn before(&self, mark: &Mark, seen: &Seen) -> bool {
        // Up to `swept` everything of the ledger was on disk. What a reading leaves out there are others'
        // transactions, which never write to it.
        let up_to_swept = seen.through >= mark.swept;
        let told = |from: i64, to: i64| {
            let mut applied = self.applied.range(from..).take_while(|(at, _)| **at <= to);
            applied.any(|(_, number)| *number <= mark.number)
        };
        let missing = told(seen.through.saturating_add(1), i64::MAX)
            || seen.except.iter().any(|(from, to)| told(*from, *to));
        up_to_swept && !missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(through: i64, except: &[(i64, i64)]) -> Seen {
        Seen {
            through,
            except: except.to_vec(),
        }
    }

    #[test]
    fn a_change_is_told_once() {
        let mut told = Told::new(10);
        assert_eq!(
            [10, 11, 11].map(|position| told.apply(position)),
            [false, true, false]
        );
        told.sweep(12);
        assert_eq!(
            [11, 12, 13].map(|position| told.has(position)),
            [true, true, false]
        );
        told.sweep(5);
        assert_eq!(told.swept(), 12);
    }

    #[test]
    fn a_reading_has_to_have_what_was_told_before_it_was_asked_for() {
        let mut told = Told::new(10);
        told.apply(15);
        let mark = told.mark();
        told.apply(17);
        for (reading, fits) in [
            (seen(15, &[]), true),
            // What came after may be missing, and so may what others have open.
            (seen(20, &[(12, 14), (16, 18)]), true),
            (seen(14, &[]), false),
            (seen(9, &[]), false),
            (seen(20, &[(14, 15)]), false),
            (seen(20, &[(8, 9)]), true),
        ] {
            assert_eq!(told.before(&mark, &reading), fits, "{reading:?}");
        }
    }

    #[test]
    fn too_much_without_a_sweep_is_noticed() {
        let mut told = Told::new(0);
        let bound = i64::try_from(MAX_APPLIED).unwrap();
        for position in 1..=bound {
            told.apply(position);
        }
        assert!(!told.is_full());
        told.apply(bound + 1);
        assert!(told.is_full());
        told.forget();
        assert!(told.apply(1) && !told.is_full());
    }
}
