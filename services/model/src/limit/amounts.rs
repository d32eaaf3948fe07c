//! Amounts in every metric at once, so that one counter serves all limits of a subject and window.

use serde::{Deserialize, Serialize};

use super::Metric;
use crate::counts::Line;
use crate::price::Quote;

/// What is used or held, in every metric. Never a float; sums are exact.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amounts {
    /// Calls.
    pub requests: i64,
    /// Prompt tokens.
    pub input: i64,
    /// The part of `input` that was neither read from nor written to a cache.
    pub uncached_input: i64,
    /// Output tokens.
    pub output: i64,
    /// Cost in nano-USD.
    pub cost_nano_usd: i64,
}

impl Amounts {
    /// Nothing.
    pub const ZERO: Self = Self {
        requests: 0,
        input: 0,
        uncached_input: 0,
        output: 0,
        cost_nano_usd: 0,
    };

    /// What one line of an event adds; `first` marks the event's first line, which carries the call.
    pub fn of_line(line: &Line, quote: Option<&Quote>, first: bool) -> Self {
        Self {
            requests: i64::from(first),
            input: line.counts.prompt(),
            uncached_input: line.counts.input,
            output: line.counts.output,
            cost_nano_usd: quote.map_or(0, |quote| quote.cost_nano_usd),
        }
    }

    /// The amount in one metric.
    pub fn of(&self, metric: Metric) -> i64 {
        match metric {
            Metric::Requests => self.requests,
            Metric::InputTokens => self.input,
            Metric::UncachedInputTokens => self.uncached_input,
            Metric::OutputTokens => self.output,
            Metric::TotalTokens => self.input.saturating_add(self.output),
            Metric::Cost => self.cost_nano_usd,
        }
    }

    /// Both together, each amount at most as far as 64 bits go.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            requests: self.requests.saturating_add(other.requests),
            input: self.input.saturating_add(other.input),
            uncached_input: self.uncached_input.saturating_add(other.uncached_input),
            output: self.output.saturating_add(other.output),
            cost_nano_usd: self.cost_nano_usd.saturating_add(other.cost_nano_usd),
        }
    }

    /// Without the other; may be negative.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(other.requests),
            input: self.input.saturating_sub(other.input),
            uncached_input: self.uncached_input.saturating_sub(other.uncached_input),
            output: self.output.saturating_sub(other.output),
            cost_nano_usd: self.cost_nano_usd.saturating_sub(other.cost_nano_usd),
        }
    }

    /// Whether it is nothing.
    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counts::{CacheWrites, TokenCounts};

    fn line() -> Line {
        Line {
            model: "m".into(),
            counts: TokenCounts {
                input: 1,
                cache_read: 20,
                cache_write: CacheWrites {
                    ttl_1h: 300,
                    ..CacheWrites::default()
                },
                output: 4_000,
                reasoning: 3_000,
                ..TokenCounts::default()
            },
            ..Line::default()
        }
    }

    #[test]
    fn a_line_counts_in_every_metric() {
        let quote = Quote {
            cost_nano_usd: 50_000,
            ..Quote::default()
        };
        let first = Amounts::of_line(&line(), Some(&quote), true);
        let amounts: Vec<_> = Metric::ALL.iter().map(|metric| first.of(*metric)).collect();
        assert_eq!(amounts, [1, 321, 1, 4_000, 4_321, 50_000]);
        // The call is counted once, and what has no price costs nothing.
        let second = Amounts::of_line(&line(), None, false);
        assert_eq!((second.requests, second.cost_nano_usd), (0, 0));
    }

    #[test]
    fn what_is_added_and_taken_away_is_nothing() {
        let some = Amounts::of_line(&line(), None, true);
        let other = Amounts {
            cost_nano_usd: 7,
            ..some
        };
        assert_eq!(some.plus(&other).minus(&other), some);
        assert!(some.minus(&some).is_zero() && !other.is_zero());
        let most = Amounts {
            output: i64::MAX,
            ..Amounts::ZERO
        };
        assert_eq!(most.plus(&some).of(Metric::TotalTokens), i64::MAX);
    }
}
