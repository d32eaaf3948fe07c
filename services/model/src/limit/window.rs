//! Windows: over which time a limit counts.
//!
//! A window is made of buckets. What is charged at a time falls into one bucket; at a moment the
//! buckets that count are those from [`Window::open_from`] on. Minute and hour slide in 60 parts, and
//! a part counts until all of it is out, so that no moment of any 60 seconds (minutes) is left out.

use serde::{Deserialize, Serialize};

use super::words;
use crate::zone::Zone;

const SECOND_US: i64 = 1_000_000;
const MINUTE_US: i64 = 60 * SECOND_US;
const HOUR_US: i64 = 60 * MINUTE_US;
/// Most that the clocks of two zones differ, from UTC-12 to UTC+14.
const SPREAD_US: i64 = 26 * HOUR_US;

words! {
    /// The time over which a limit counts.
    Window {
        /// One single request: nothing accumulates.
        Request = "request",
        /// The last 60 seconds, in parts of a second.
        Minute = "minute",
        /// The last 60 minutes, in parts of a minute.
        Hour = "hour",
        /// The calendar day.
        Day = "day",
        /// The calendar month.
        Month = "month",
        /// The life of the session.
        Session = "session",
        /// The session's token budget: its life, with the estimates of tools. Not in the contract.
        Budget = "budget",
    }
}

/// The calendar of a tenant: its zone, and since when if another one applied before. A change of zone
/// takes effect with the next month of the zone before, so that no time is counted in two days or
/// months, nor in none. At the change the first day and the first month of the new zone begin, which
/// are up to 26 hours shorter or longer than others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zoned {
    /// The zone that applies before `change`.
    pub zone: Zone,
    /// The zone that applies from a time on, in microseconds since the Unix epoch: the first instant
    /// of a month of `zone`.
    pub change: Option<(i64, Zone)>,
}

impl Zoned {
    /// One zone for ever.
    pub fn always(zone: Zone) -> Self {
        Self { zone, change: None }
    }

    /// The zone that applies at a time.
    pub fn at(&self, at_us: i64) -> &Zone {
        match &self.change {
            Some((from_us, zone)) if at_us >= *from_us => zone,
            _ => &self.zone,
        }
    }
}

impl Window {
    /// The start of the bucket into which a charge time falls, in microseconds since the Unix epoch; 0
    /// for windows of one bucket.
    pub fn bucket(self, zoned: &Zoned, charge_time_us: i64) -> i64 {
        match self {
            Self::Minute => charge_time_us - charge_time_us.rem_euclid(SECOND_US),
            Self::Hour => charge_time_us - charge_time_us.rem_euclid(MINUTE_US),
            Self::Day => zoned.start(charge_time_us, Zone::start_of_day),
            Self::Month => zoned.start(charge_time_us, Zone::start_of_month),
            Self::Request | Self::Session | Self::Budget => 0,
        }
    }

    /// The first bucket that counts at a moment.
    pub fn open_from(self, zoned: &Zoned, now_us: i64) -> i64 {
        match self {
            // A part counts until its last instant is a whole window ago.
            Self::Minute => self.bucket(zoned, now_us - MINUTE_US),
            Self::Hour => self.bucket(zoned, now_us - HOUR_US),
            Self::Request | Self::Day | Self::Month | Self::Session | Self::Budget => {
                self.bucket(zoned, now_us)
            }
        }
    }

    /// When a bucket no longer counts, in microseconds since the Unix epoch; none for windows that do
    /// not end.
    pub fn closes(self, zoned: &Zoned, bucket_us: i64) -> Option<i64> {
        match self {
            Self::Minute => Some(bucket_us + SECOND_US + MINUTE_US),
            Self::Hour => Some(bucket_us + MINUTE_US + HOUR_US),
            Self::Day => Some(zoned.end(bucket_us, Zone::next_day)),
            Self::Month => Some(zoned.end(bucket_us, Zone::next_month)),
            Self::Request | Self::Session | Self::Budget => None,
        }
    }

    /// Whether it slides: minute and hour.
    pub fn slides(self) -> bool {
        matches!(self, Self::Minute | Self::Hour)
    }
}

impl Zoned {
    /// When the calendar span of a time began.
    fn start(&self, at_us: i64, start: impl Fn(&Zone, i64) -> i64) -> i64 {
        match self.changed(at_us) {
            Some((change_us, first_us, zone)) => {
                let began = start(zone, at_us.max(first_us));
                if began <= first_us { change_us } else { began }
            }
            None => start(&self.zone, at_us),
        }
    }

    /// When the calendar span of a time ends: where the zone changes at the latest.
    fn end(&self, at_us: i64, end: impl Fn(&Zone, i64) -> i64) -> i64 {
        match (self.changed(at_us), &self.change) {
            (Some((_, first_us, zone)), _) => end(zone, at_us.max(first_us)),
            (None, Some((change_us, _))) => end(&self.zone, at_us).min(*change_us),
            (None, None) => end(&self.zone, at_us),
        }
    }

    /// If the zone had changed by a time: when, the instant of the new zone's calendar with which its
    /// first day and month begin, and the zone. Where the new zone's month has begun already, that is
    /// the change itself; where it begins some hours later, it is that beginning, and the hours until
    /// then belong to it: they would else be a day and a month of their own, with a quota of their own.
    fn changed(&self, at_us: i64) -> Option<(i64, i64, &Zone)> {
        let (change_us, zone) = self.change.as_ref()?;
        if at_us < *change_us {
            return None;
        }
        let next_us = zone.next_month(*change_us);
        let soon = next_us - change_us <= SPREAD_US;
        Some((*change_us, if soon { next_us } else { *change_us }, zone))
    }
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
