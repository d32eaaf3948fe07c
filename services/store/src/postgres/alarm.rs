//! The alarm of the log: how long one open transaction has held it up, told once.

use std::time::Duration;

use tokio::time::Instant;

/// From when on a transaction that holds up the log is told of.
const AFTER: Duration = Duration::from_secs(10);

/// The transaction that holds up the log, since when, and whether that was told.
#[derive(Debug, Default)]
pub(super) struct Alarm(Option<(i64, Instant, bool)>);

/// What there is to tell.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Tell {
    Nothing,
    /// The transaction lasts too long.
    Held,
    /// The one that was told of has ended.
    Over,
}

impl Alarm {
    /// Takes note of the transaction that holds up the log, if one does; answers for how long it has.
    pub(super) fn see(&mut self, transaction: Option<i64>, now: Instant) -> (Duration, Tell) {
        let before = self.0.take();
        let was_told = before.is_some_and(|(.., told)| told);
        let Some(transaction) = transaction else {
            let tell = if was_told { Tell::Over } else { Tell::Nothing };
            return (Duration::ZERO, tell);
        };
        let same = before.filter(|(known, ..)| *known == transaction);
        let (_, since, told) = same.unwrap_or((transaction, now, false));
        let lasting = now.duration_since(since);
        let tell = match lasting >= AFTER {
            true if !told => Tell::Held,
            _ if was_told && same.is_none() => Tell::Over,
            _ => Tell::Nothing,
        };
        self.0 = Some((transaction, since, told || tell == Tell::Held));
        (lasting, tell)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_lasts_is_told_of_once_and_when_it_is_over() {
        let start = Instant::now();
        let mut alarm = Alarm::default();
        let mut see = |transaction, seconds| {
            let (lasting, tell) = alarm.see(transaction, start + Duration::from_secs(seconds));
            (lasting.as_secs(), tell)
        };
        assert_eq!(see(None, 0), (0, Tell::Nothing));
        // Each of these is short, however long there is always one.
        for (n, second) in (1..30).enumerate() {
            let transaction = i64::try_from(n).ok();
            assert_eq!(see(transaction, second), (0, Tell::Nothing));
        }
        assert_eq!(see(Some(77), 30), (0, Tell::Nothing));
        assert_eq!(see(Some(77), 39), (9, Tell::Nothing));
        assert_eq!(see(Some(77), 40), (10, Tell::Held));
        assert_eq!(see(Some(77), 90), (60, Tell::Nothing));
        assert_eq!(see(Some(78), 91), (0, Tell::Over));
        assert_eq!(see(Some(78), 101), (10, Tell::Held));
        assert_eq!(see(None, 102), (0, Tell::Over));
        assert_eq!(see(None, 103), (0, Tell::Nothing));
    }
}
