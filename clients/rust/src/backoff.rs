//! How long to wait before the next attempt: doubling from a first to a longest time, with jitter,
//! so that clients that lost one server do not all come back at once.

use std::time::Duration;

/// Waits that double.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            next: first,
        }
    }

    /// The next wait: between half of the doubled time and all of it, but no less than the server
    /// asked for.
    pub(crate) fn next(&mut self, asked: Option<Duration>) -> Duration {
        let whole = self.next.min(self.longest);
        self.next = whole.saturating_mul(2).min(self.longest);
        let micros = u64::try_from(whole.as_micros()).unwrap_or(u64::MAX);
        let wait = Duration::from_micros(fastrand::u64(micros / 2..=micros));
        wait.max(asked.unwrap_or_default())
    }

    /// Begins with the first wait again, after something went well.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_begin_again() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(10_000));
        for whole in [100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000] {
            let wait = backoff.next(None);
            assert!(wait >= ms(whole / 2) && wait <= ms(whole), "{wait:?}");
        }
        backoff.reset();
        assert!(backoff.next(None) <= ms(100));
    }

    #[test]
    fn the_server_is_never_asked_before_the_time_that_it_named() {
        let asked = Duration::from_secs(60);
        let mut backoff = Backoff::new(Duration::from_millis(1), Duration::from_secs(1));
        assert_eq!(backoff.next(Some(asked)), asked);
    }
}
