//! When the ledger, or the server that keeps it, was opened: what tells the tokens of its own past
//! from those of a future that was undone by restoring a copy.

use std::sync::Arc;

/// Openings that are kept; tokens of older ones have expired.
pub(crate) const KEPT: i64 = 10_000;

/// The openings, oldest first, each with the last position before it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Openings(Vec<(Arc<str>, i64)>);

/// Up to where the positions of an opening stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stands {
    /// The opening is of another past, or too long ago.
    Unknown,
    /// Up to this one, after which the next opening began.
    UpTo(i64),
    /// It is the opening of now.
    Now,
}

impl Openings {
    /// Of the rows of the table, oldest first.
    pub(crate) fn new(rows: Vec<(String, i64)>) -> Self {
        let rows = rows.into_iter();
        Self(rows.map(|(name, after)| (name.into(), after)).collect())
    }

    /// The one that is open now.
    pub(crate) fn current(&self) -> Arc<str> {
        let last = self.0.last().map(|(opening, _)| Arc::clone(opening));
        last.unwrap_or_default()
    }

    /// What of an opening still stands.
    pub(crate) fn stands(&self, opening: &str) -> Stands {
        let Some(at) = self.0.iter().position(|(name, _)| &**name == opening) else {
            return Stands::Unknown;
        };
        let next = self.0.get(at + 1);
        next.map_or(Stands::Now, |(_, after)| Stands::UpTo(*after))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_holds_up_to_where_the_next_opening_began() {
        let rows = [("a", 0), ("b", 10), ("c", 15)];
        let openings = Openings::new(rows.map(|(name, after)| (name.into(), after)).into());
        assert_eq!(&*openings.current(), "c");
        // The file was copied at 10 in opening a, which went on to 20; then the copy took its place.
        assert_eq!(openings.stands("a"), Stands::UpTo(10));
        assert_eq!(openings.stands("b"), Stands::UpTo(15));
        assert_eq!(openings.stands("c"), Stands::Now);
        assert_eq!(openings.stands("unknown"), Stands::Unknown);
    }
}
