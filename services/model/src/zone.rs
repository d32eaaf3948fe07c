//! Calendar days and months in an IANA time zone, from the bundled tz data.

use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, Zoned};

/// A time zone by its IANA name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone(TimeZone);

/// A name that the bundled tz data does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:.64} is no IANA time zone; send one such as UTC or Europe/Berlin")]
pub struct UnknownZone(String);

impl Zone {
    /// The zone of a name such as `Europe/Berlin`, whatever the machine's own tz data say.
    ///
    /// # Errors
    /// [`UnknownZone`] when the bundled tz data do not hold it.
    pub fn named(name: &str) -> Result<Self, UnknownZone> {
        TimeZoneDatabase::bundled()
            .get(name)
            .map(Self)
            .map_err(|_| UnknownZone(name.to_owned()))
    }

    /// UTC.
    pub fn utc() -> Self {
        Self(TimeZone::UTC)
    }

    /// When the calendar day of a time began, in microseconds since the Unix epoch.
    pub fn start_of_day(&self, at_us: i64) -> i64 {
        self.start(at_us, |zoned| zoned.start_of_day())
    }

    /// When the calendar month of a time began, in microseconds since the Unix epoch.
    pub fn start_of_month(&self, at_us: i64) -> i64 {
        self.start(at_us, |zoned| zoned.first_of_month()?.start_of_day())
    }

    /// Falls back to the time itself, which only a time at the edge of what jiff knows (year 9999)
    /// can reach.
    fn start(&self, at_us: i64, begin: impl Fn(Zoned) -> Result<Zoned, jiff::Error>) -> i64 {
        Timestamp::from_microsecond(at_us)
            .and_then(|at| begin(at.to_zoned(self.0.clone())))
            .map_or(at_us, |zoned| zoned.timestamp().as_microsecond())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_microsecond()
    }

    #[test]
    fn days_and_months_begin_where_the_zone_says() {
        for (zone, time, day, month) in [
            (
                "UTC",
                "2026-03-08T12:00:00Z",
                "2026-03-08T00:00:00Z",
                "2026-03-01T00:00:00Z",
            ),
            (
                "Asia/Kolkata",
                "2026-03-08T19:00:00Z",
                "2026-03-08T18:30:00Z",
                "2026-02-28T18:30:00Z",
            ),
            // The day on which New York moves its clocks has 23 hours.
            (
                "America/New_York",
                "2026-03-09T03:59:59Z",
                "2026-03-08T05:00:00Z",
                "2026-03-01T05:00:00Z",
            ),
            (
                "America/New_York",
                "2026-11-02T04:59:59Z",
                "2026-11-01T04:00:00Z",
                "2026-11-01T04:00:00Z",
            ),
            (
                "Pacific/Chatham",
                "2026-06-30T11:15:00Z",
                "2026-06-30T11:15:00Z",
                "2026-06-30T11:15:00Z",
            ),
            (
                "Australia/Lord_Howe",
                "2026-10-04T12:59:59Z",
                "2026-10-03T13:30:00Z",
                "2026-09-30T13:30:00Z",
            ),
        ] {
            let named = Zone::named(zone).unwrap();
            assert_eq!(named.start_of_day(at(time)), at(day), "{zone} day");
            assert_eq!(named.start_of_month(at(time)), at(month), "{zone} month");
        }
        assert!(Zone::named("Mars/Olympus").is_err());
    }
}
