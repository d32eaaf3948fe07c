//! Times as tables have them.

use clap::ValueEnum;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use tokenmeter_api::convert::time::from_micros;

/// What a number in a column of times counts, since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TimeUnit {
    /// Seconds.
    S,
    /// Milliseconds.
    Ms,
    /// Microseconds.
    Us,
}

impl TimeUnit {
    fn micros(self) -> i64 {
        match self {
            Self::S => 1_000_000,
            Self::Ms => 1_000,
            Self::Us => 1,
        }
    }
}

/// How times are read.
#[derive(Debug, Clone)]
pub(super) struct Times {
    /// Numbers, if times are numbers.
    pub(super) unit: Option<TimeUnit>,
    /// The zone of times that name none.
    pub(super) zone: TimeZone,
}

impl Times {
    /// Reads a time. Digits beyond microseconds are cut off.
    pub(super) fn parse(&self, text: &str) -> Result<prost_types::Timestamp, String> {
        if let Some(unit) = self.unit {
            return since_epoch(text, unit)
                .map(from_micros)
                .ok_or_else(|| "is not a number such as 1767225600.25".to_owned());
        }
        if let Ok(time) = text.parse::<Timestamp>() {
            return Ok(from_micros(time.as_microsecond()));
        }
        let numeric = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        // jiff reads `20260131` as a date; a number is more likely to count seconds.
        let civil = text.parse::<DateTime>().ok().filter(|_| !numeric);
        civil
            .and_then(|civil| self.zone.to_timestamp(civil).ok())
            .map(|time| from_micros(time.as_microsecond()))
            .ok_or_else(|| match numeric {
                true => "is a number; say what it counts with --time-unit s, ms or us".to_owned(),
                false => {
                    "is not a time such as 2026-01-31T12:00:00Z or 2026-01-31 12:00:00.5".to_owned()
                }
            })
    }
}

/// Whole microseconds of a decimal number of units.
fn since_epoch(text: &str, unit: TimeUnit) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        return None;
    }
    let mut micros = whole.parse::<i64>().ok()?.checked_mul(unit.micros())?;
    let mut worth = unit.micros();
    for digit in fraction.bytes() {
        worth /= 10;
        micros = micros.checked_add(i64::from(digit - b'0') * worth)?;
    }
    Some(micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(times: &Times, text: &str) -> Option<i64> {
        let time = times.parse(text).ok()?;
        Some(time.seconds * 1_000_000 + i64::from(time.nanos / 1_000))
    }

    fn times(unit: Option<TimeUnit>, zone: &str) -> Times {
        let zone = TimeZone::get(zone).unwrap();
        Times { unit, zone }
    }

    #[test]
    fn times_with_and_without_a_zone_are_read() {
        let utc = times(None, "UTC");
        for (text, expected) in [
            ("2023-11-16T18:17:03.979960Z", 1_700_158_623_979_960),
            ("2023-11-16 18:17:03.9799600", 1_700_158_623_979_960),
            ("2023-11-16T19:17:03.9799609+01:00", 1_700_158_623_979_960),
            ("2023-11-16 18:17:03", 1_700_158_623_000_000),
            ("2023-11-16", 1_700_092_800_000_000),
        ] {
            assert_eq!(micros(&utc, text), Some(expected), "{text}");
        }
        let kolkata = times(None, "Asia/Kolkata");
        let text = "2023-11-16 23:47:03";
        assert_eq!(micros(&kolkata, text), Some(1_700_158_623_000_000));
        for wrong in ["", "yesterday", "16.11.2023", "20231116", "1700158623"] {
            assert_eq!(micros(&utc, wrong), None, "{wrong}");
        }
        let hint = utc.parse("1700158623").unwrap_err();
        assert!(hint.contains("--time-unit"), "{hint}");
    }

    #[test]
    fn a_local_time_that_is_twice_or_never_is_read_by_one_rule() {
        let berlin = times(None, "Europe/Berlin");
        let utc = times(None, "UTC");
        for (local, expected) in [
            // Summer time ends: the first of two.
            ("2026-10-25 02:30:00", "2026-10-25T00:30:00Z"),
            // It begins: by the offset before.
            ("2026-03-29 02:30:00", "2026-03-29T01:30:00Z"),
        ] {
            let expected = micros(&utc, expected);
            assert!(expected.is_some());
            assert_eq!(micros(&berlin, local), expected, "{local}");
        }
    }

    #[test]
    fn numbers_count_what_they_are_said_to() {
        for (unit, text, expected) in [
            (TimeUnit::S, "1700158623", 1_700_158_623_000_000),
            (TimeUnit::S, "1700158623.9799609", 1_700_158_623_979_960),
            (TimeUnit::Ms, "1700158623979.96", 1_700_158_623_979_960),
            (TimeUnit::Us, "1700158623979960.9", 1_700_158_623_979_960),
        ] {
            assert_eq!(micros(&times(Some(unit), "UTC"), text), Some(expected));
        }
        let seconds = times(Some(TimeUnit::S), "UTC");
        for wrong in [
            "",
            ".",
            "-1",
            "1e9",
            "1.2.3",
            "2023-11-16",
            "9223372036854775807",
        ] {
            assert_eq!(micros(&seconds, wrong), None, "{wrong}");
        }
    }
}
