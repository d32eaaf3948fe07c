//! Exact integer totals: plain sums of lines, nothing rounded, nothing derived.

use crate::counts::{CacheWrites, Line, TokenCounts};
use crate::event::{Event, Status};
use crate::price::Quote;

macro_rules! totals {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// Sums over lines. Each field is the sum of the same figure of its lines; voids and
        /// reprices are lines too, with negative or zero figures.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Totals {
            $($(#[$doc])* pub $name: i64,)+
            /// Latest recorded time in it, in microseconds since the Unix epoch; 0 when empty.
            pub updated_at_us: i64,
        }

        impl Totals {
            /// Names of the summed fields, in the order of [`Totals::sums`].
            pub const SUMS: &'static [&'static str] = &[$(stringify!($name)),+];

            /// The summed fields in the order of [`Totals::SUMS`].
            pub fn sums(&self) -> [i64; Self::SUMS.len()] {
                [$(self.$name),+]
            }

            /// Totals from sums in the order of [`Totals::SUMS`].
            pub fn from_sums(sums: [i64; Self::SUMS.len()], updated_at_us: i64) -> Self {
                let [$($name),+] = sums;
                Self { $($name,)+ updated_at_us }
            }
        }

        impl Totals {
            /// Every sum with the other sign: what takes these totals out again. None when a sum
            /// is the one number that has no opposite in 64 bits.
            pub fn checked_neg(&self) -> Option<Totals> {
                Some(Totals {
                    $($name: self.$name.checked_neg()?,)+
                    updated_at_us: self.updated_at_us,
                })
            }

            /// The sum, each figure at most as far as 64 bits go.
            #[must_use]
            pub fn saturating_add(&self, other: &Totals) -> Totals {
                Totals {
                    $($name: self.$name.saturating_add(other.$name),)+
                    updated_at_us: self.updated_at_us.max(other.updated_at_us),
                }
            }

            /// The exact sum; none when a figure would pass 64 bits.
            pub fn checked_add(&self, other: &Totals) -> Option<Totals> {
                Some(Totals {
                    $($name: self.$name.checked_add(other.$name)?,)+
                    updated_at_us: self.updated_at_us.max(other.updated_at_us),
                })
            }
        }
    };
}

totals! {
    /// Events; an event of several lines counts at its first line.
    requests,
    /// Events that succeeded.
    succeeded,
    /// Events that failed.
    failed,
    /// Events that were interrupted.
    interrupted,
    /// Uncached prompt tokens.
    input,
    /// Prompt tokens read from a cache.
    cache_read,
    /// Prompt tokens written to a cache for 5 minutes.
    cache_write_5m,
    /// Prompt tokens written to a cache for 30 minutes.
    cache_write_30m,
    /// Prompt tokens written to a cache for 1 hour.
    cache_write_1h,
    /// Prompt tokens written to a cache for 12 hours.
    cache_write_12h,
    /// Prompt tokens written to a cache for an unstated time.
    cache_write_unspecified,
    /// Generated tokens, reasoning included.
    output,
    /// Part of `output`.
    reasoning,
    /// Part of `input`.
    input_audio,
    /// Part of `input`.
    input_image,
    /// Part of `input`.
    tool_use_prompt,
    /// Part of `cache_read`.
    cache_read_audio,
    /// Part of `output`.
    output_audio,
    /// Part of `output`.
    output_image,
    /// Requests to server-side tools.
    tool_requests,
    /// Cost of the priced lines in nano-USD.
    cost_nano_usd,
    /// What cache reads saved against the input price, in nano-USD (R14, gross).
    cache_saving_nano_usd,
    /// What cache writes cost above the input price, in nano-USD.
    cache_write_extra_nano_usd,
    /// Lines.
    lines,
    /// Lines without a price (R16); their cost is not in `cost_nano_usd`.
    unpriced_lines,
    /// Σ latency of the events that state one, in milliseconds.
    latency_ms,
    /// Events that state a latency.
    latency_events,
}

impl Totals {
    /// The token sums as counts.
    pub fn counts(&self) -> TokenCounts {
        TokenCounts {
            input: self.input,
            cache_read: self.cache_read,
            cache_write: CacheWrites {
                ttl_5m: self.cache_write_5m,
                ttl_30m: self.cache_write_30m,
                ttl_1h: self.cache_write_1h,
                ttl_12h: self.cache_write_12h,
                unspecified: self.cache_write_unspecified,
            },
            output: self.output,
            reasoning: self.reasoning,
            input_audio: self.input_audio,
            input_image: self.input_image,
            tool_use_prompt: self.tool_use_prompt,
            cache_read_audio: self.cache_read_audio,
            output_audio: self.output_audio,
            output_image: self.output_image,
        }
    }

    /// Prompt tokens: input + cache reads + cache writes.
    pub fn prompt(&self) -> i64 {
        self.input + self.cache_read + self.cache_write()
    }

    /// Σ cache writes over all times-to-live.
    pub fn cache_write(&self) -> i64 {
        self.cache_write_5m
            + self.cache_write_30m
            + self.cache_write_1h
            + self.cache_write_12h
            + self.cache_write_unspecified
    }

    /// Total tokens: prompt + output.
    pub fn total(&self) -> i64 {
        self.prompt() + self.output
    }

    /// What one line of an event adds. `first` marks the event's first line, which carries what
    /// is counted once per event.
    pub fn of_line(
        event: &Event,
        line: &Line,
        quote: Option<&Quote>,
        first: bool,
        recorded_at_us: i64,
    ) -> Self {
        let counts = &line.counts;
        let once = i64::from(first);
        let with_status = |status| i64::from(first && event.status == status);
        let latency = event.latency_ms.filter(|_| first);
        Self {
            requests: once,
            succeeded: with_status(Status::Succeeded),
            failed: with_status(Status::Failed),
            interrupted: with_status(Status::Interrupted),
            input: counts.input,
            cache_read: counts.cache_read,
            cache_write_5m: counts.cache_write.ttl_5m,
            cache_write_30m: counts.cache_write.ttl_30m,
            cache_write_1h: counts.cache_write.ttl_1h,
            cache_write_12h: counts.cache_write.ttl_12h,
            cache_write_unspecified: counts.cache_write.unspecified,
            output: counts.output,
            reasoning: counts.reasoning,
            input_audio: counts.input_audio,
            input_image: counts.input_image,
            tool_use_prompt: counts.tool_use_prompt,
            cache_read_audio: counts.cache_read_audio,
            output_audio: counts.output_audio,
            output_image: counts.output_image,
            tool_requests: line.tool_requests.values().sum(),
            cost_nano_usd: quote.map_or(0, |quote| quote.cost_nano_usd),
            cache_saving_nano_usd: quote.map_or(0, |quote| quote.cache_saving_nano_usd),
            cache_write_extra_nano_usd: quote.map_or(0, |quote| quote.cache_write_extra_nano_usd),
            lines: 1,
            unpriced_lines: i64::from(quote.is_none()),
            latency_ms: latency.unwrap_or_default(),
            latency_events: i64::from(latency.is_some()),
            updated_at_us: recorded_at_us,
        }
    }
}

/// Length of a bucket of totals in microseconds: 15 minutes, which every time zone's offset is a
/// multiple of.
pub const BUCKET_US: i64 = 15 * 60 * 1_000_000;

/// A time range `[from_us, to_us)` split into whole buckets and the ragged edges beside them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    /// Whole buckets, as quarter-hours since the Unix epoch: first (included) and end (excluded).
    pub buckets: (i64, i64),
    /// Range of times before the first whole bucket.
    pub before: (i64, i64),
    /// Range of times after the last whole bucket.
    pub after: (i64, i64),
}

/// Splits `[from_us, to_us)`. Without a whole bucket inside, all of it is `before`.
pub fn split(from_us: i64, to_us: i64) -> Split {
    let to_us = to_us.max(from_us);
    let first = from_us.div_euclid(BUCKET_US) + i64::from(from_us.rem_euclid(BUCKET_US) != 0);
    let end = to_us.div_euclid(BUCKET_US);
    if first >= end {
        return Split {
            buckets: (0, 0),
            before: (from_us, to_us),
            after: (to_us, to_us),
        };
    }
    Split {
        buckets: (first, end),
        before: (from_us, first * BUCKET_US),
        after: (end * BUCKET_US, to_us),
    }
}

/// The bucket that a time falls into, as quarter-hours since the Unix epoch.
pub fn bucket(time_us: i64) -> i64 {
    time_us.div_euclid(BUCKET_US)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_sum_past_64_bits_is_none_rather_than_another() {
        let most = Totals {
            cost_nano_usd: i64::MAX,
            requests: 1,
            ..Totals::default()
        };
        let one = Totals {
            cost_nano_usd: 1,
            requests: 1,
            ..Totals::default()
        };
        assert_eq!(most.checked_add(&one), None);
        assert_eq!(
            one.checked_add(&one)
                .map(|sum| (sum.cost_nano_usd, sum.requests)),
            Some((2, 2))
        );
    }

    proptest! {
        #[test]
        fn a_split_covers_every_time_once(
            from in 0..20 * BUCKET_US, length in 0..5 * BUCKET_US, probe in 0..30 * BUCKET_US,
        ) {
            let to = from + length;
            let split = split(from, to);
            let within = |(a, b): (i64, i64), x: i64| i64::from(a <= x && x < b);
            let times = within(split.before, probe)
                + within(split.after, probe)
                + within(split.buckets, bucket(probe));
            prop_assert_eq!(times, within((from, to), probe));
        }
    }
}
