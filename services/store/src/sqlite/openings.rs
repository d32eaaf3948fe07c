//! When the ledger was opened: what tells the tokens of its own past from those of a future that was
//! undone by restoring a copy.

use std::sync::Arc;

use sqlx::sqlite::SqliteConnection;

use super::unavailable;
use crate::ledger::Error;

/// Openings that are kept; tokens of older ones have expired.
const KEPT: i64 = 10_000;

/// The openings, oldest first, each with the last position before it.
pub(super) struct Openings(Vec<(String, i64)>);

impl Openings {
    /// Begins another one after the last position of the ledger.
    pub(super) async fn begin(
        connection: &mut SqliteConnection,
        last_position: i64,
    ) -> Result<Self, Error> {
        sqlx::query(
            "INSERT INTO openings (opening, after_position) \
             VALUES (lower(hex(randomblob(8))), ?1)",
        )
        .bind(last_position)
        .execute(&mut *connection)
        .await
        .map_err(unavailable)?;
        sqlx::query("DELETE FROM openings WHERE number <= (SELECT max(number) FROM openings) - ?1")
            .bind(KEPT)
            .execute(&mut *connection)
            .await
            .map_err(unavailable)?;
        let all = "SELECT opening, after_position FROM openings ORDER BY number";
        let openings = sqlx::query_as(all).fetch_all(connection).await;
        Ok(Self(openings.map_err(unavailable)?))
    }

    /// The one that is open now.
    pub(super) fn current(&self) -> Arc<str> {
        self.0.last().map_or("", |(opening, _)| opening).into()
    }

    /// Whether a position of that opening still stands: the next opening began no earlier, and the
    /// last one has come so far.
    pub(super) fn holds(&self, opening: &str, position: i64, last: i64) -> bool {
        let Some(at) = self.0.iter().position(|(name, _)| name == opening) else {
            return false;
        };
        let end = self.0.get(at + 1).map_or(last, |(_, after)| *after);
        position <= end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_holds_up_to_where_the_next_opening_began() {
        let openings = Openings(vec![("a".into(), 0), ("b".into(), 10), ("c".into(), 15)]);
        assert_eq!(&*openings.current(), "c");
        // The file was copied at 10 in opening a, which went on to 20; then the copy took its place.
        assert!(openings.holds("a", 10, 30));
        assert!(!openings.holds("a", 11, 30));
        assert!(openings.holds("b", 3, 30) && openings.holds("b", 15, 30));
        assert!(openings.holds("c", 30, 30) && !openings.holds("c", 31, 30));
        assert!(!openings.holds("unknown", 1, 30));
    }
}
