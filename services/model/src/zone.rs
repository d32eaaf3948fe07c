//! Calendar days and months in an IANA time zone, from the bundled tz data.

use jiff::civil::Date;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, ToSpan as _, Zoned};

/// A time zone by its IANA name.
#[derive(Debug, Clone)]
pub struct Zone(TimeZone);

/// The name is enough: all zones are of the bundled tz data. Comparing those would be slow.
impl PartialEq for Zone {
    fn eq(&self, other: &Self) -> bool {
        self.0.iana_name() == other.0.iana_name()
    }
}

impl Eq for Zone {}

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

    /// Its IANA name, such as `Europe/Berlin`.
    pub fn name(&self) -> &str {
        // Zones come from the bundled data, which name them, or are UTC.
        self.0.iana_name().unwrap_or("UTC")
    }

    /// When the calendar day of a time began, in microseconds since the Unix epoch.
    pub fn start_of_day(&self, at_us: i64) -> i64 {
        self.start(at_us, |zoned| zoned.start_of_day())
    }

    /// When the calendar month of a time began, in microseconds since the Unix epoch.
    pub fn start_of_month(&self, at_us: i64) -> i64 {
        self.start(at_us, |zoned| zoned.first_of_month()?.start_of_day())
    }

    /// When the calendar day after that of a time begins, in microseconds since the Unix epoch.
    pub fn next_day(&self, at_us: i64) -> i64 {
        self.start(at_us, |zoned| zoned.tomorrow()?.start_of_day())
    }

    /// When the calendar month after that of a time begins, in microseconds since the Unix epoch.
    pub fn next_month(&self, at_us: i64) -> i64 {
        self.start(at_us, |zoned| {
            zoned.last_of_month()?.tomorrow()?.start_of_day()
        })
    }

    /// When the calendar week of a time began, on its Monday, in microseconds since the Unix epoch.
    pub fn start_of_week(&self, at_us: i64) -> i64 {
        self.start(at_us, |zoned| {
            let days = i64::from(zoned.weekday().to_monday_zero_offset());
            zoned.checked_sub(days.days())?.start_of_day()
        })
    }

    /// When the calendar week after that of a time begins, in microseconds since the Unix epoch.
    pub fn next_week(&self, at_us: i64) -> i64 {
        self.start(self.start_of_week(at_us), |zoned| {
            zoned.checked_add(7.days())?.start_of_day()
        })
    }

    /// When a calendar month such as `2026-07` begins, and when the next one does, in microseconds
    /// since the Unix epoch; none for another text.
    pub fn month_of_name(&self, name: &str) -> Option<(i64, i64)> {
        let (year, month) = name.split_once('-')?;
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        if (year.len(), month.len()) != (4, 2) || !digits(year) || !digits(month) {
            return None;
        }
        let first = Date::new(year.parse().ok()?, month.parse().ok()?, 1).ok()?;
        let from_us = first.to_zoned(self.0.clone()).ok()?;
        let from_us = from_us.timestamp().as_microsecond();
        Some((from_us, self.next_month(from_us)))
    }

    /// The calendar day of a time, as `2026-07-31`.
    pub fn date(&self, at_us: i64) -> String {
        self.write(at_us, "%Y-%m-%d")
    }

    /// The calendar month of a time, as `2026-07`.
    pub fn month(&self, at_us: i64) -> String {
        self.write(at_us, "%Y-%m")
    }

    /// Empty for a time that jiff does not know.
    fn write(&self, at_us: i64, format: &str) -> String {
        Timestamp::from_microsecond(at_us)
            .map(|at| at.to_zoned(self.0.clone()).strftime(format).to_string())
            .unwrap_or_default()
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
    fn a_day_ends_where_the_next_begins_however_long_it_is() {
        for (zone, time, hours, date) in [
            ("UTC", "2026-03-08T12:00:00Z", 24, "2026-03-08"),
            ("America/New_York", "2026-03-08T12:00:00Z", 23, "2026-03-08"),
            ("America/New_York", "2026-11-01T12:00:00Z", 25, "2026-11-01"),
            ("Asia/Kolkata", "2026-12-31T18:30:00Z", 24, "2027-01-01"),
        ] {
            let named = Zone::named(zone).unwrap();
            let length = named.next_day(at(time)) - named.start_of_day(at(time));
            assert_eq!(length, hours * 3_600_000_000, "{zone}");
            assert_eq!(named.date(at(time)), date, "{zone}");
            assert_eq!(named.month(at(time)), date[..7], "{zone}");
            let next = named.next_month(at(time));
            assert_eq!(named.start_of_month(next), next, "{zone}");
            assert_eq!(
                named.start_of_month(next - 1),
                named.start_of_month(at(time)),
                "{zone}"
            );
        }
    }

    #[test]
    fn a_month_is_known_by_its_name() {
        let kolkata = Zone::named("Asia/Kolkata").unwrap();
        let july = kolkata.month_of_name("2026-07").unwrap();
        assert_eq!(july.0, at("2026-06-30T18:30:00Z"));
        assert_eq!(july.1, at("2026-07-31T18:30:00Z"));
        assert_eq!(kolkata.month(july.0), "2026-07");
        for bad in [
            "",
            "2026",
            "2026-7",
            "2026-13",
            "2026-00",
            "26-07",
            "2026-07-01",
            "+026-07",
            "last",
        ] {
            assert_eq!(kolkata.month_of_name(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_week_begins_on_its_monday() {
        let york = Zone::named("America/New_York").unwrap();
        // The week in which the clocks are moved has an hour less.
        let monday = at("2026-03-02T05:00:00Z");
        for time in ["2026-03-02T05:00:00Z", "2026-03-09T03:59:59Z"] {
            assert_eq!(york.start_of_week(at(time)), monday, "{time}");
            assert_eq!(york.next_week(at(time)), at("2026-03-09T04:00:00Z"));
        }
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
        assert_eq!(Zone::named("asia/kolkata").unwrap().name(), "Asia/Kolkata");
        assert_eq!(Zone::utc().name(), "UTC");
    }
}
