//! Effective times as text, in the proleptic Gregorian calendar and UTC.

const US_PER_SECOND: i64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

/// `2026-01-31` or `2026-01-31T12:00:00[.123456]Z` to microseconds since the Unix epoch.
pub(super) fn parse(text: &str) -> Option<i64> {
    let (date, clock) = match text.split_once('T') {
        Some((date, clock)) => (date, Some(clock.strip_suffix('Z')?)),
        None => (text, None),
    };
    let mut parts = date.split('-');
    let year = number(parts.next()?, 4)?;
    let month = number(parts.next()?, 2)?;
    let day = number(parts.next()?, 2)?;
    let days = days_from_date(year, month, day);
    if parts.next().is_some() || date_from_days(days) != (year, month, day) {
        return None;
    }
    let within = clock.map_or(Some(0), us_of_day)?;
    Some(days * SECONDS_PER_DAY * US_PER_SECOND + within)
}

/// Microseconds since the Unix epoch as `2026-01-31T12:00:00Z`, with a fraction only if needed.
pub(super) fn format(us: i64) -> String {
    let (seconds, us) = (us.div_euclid(US_PER_SECOND), us.rem_euclid(US_PER_SECOND));
    let (year, month, day) = date_from_days(seconds.div_euclid(SECONDS_PER_DAY));
    let seconds = seconds.rem_euclid(SECONDS_PER_DAY);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    let fraction = match us {
        0 => String::new(),
        us => format!(".{us:06}"),
    };
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

fn us_of_day(clock: &str) -> Option<i64> {
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut parts = clock.split(':');
    let hour = number(parts.next()?, 2)?;
    let minute = number(parts.next()?, 2)?;
    let second = number(parts.next()?, 2)?;
    if parts.next().is_some() || hour > 23 || minute > 59 || second > 59 || fraction.len() > 6 {
        return None;
    }
    let us = number(&format!("{fraction:0<6}"), 6)?;
    Some(((hour * 60 + minute) * 60 + second) * US_PER_SECOND + us)
}

fn number(text: &str, digits: usize) -> Option<i64> {
    let valid = text.len() == digits && text.bytes().all(|b| b.is_ascii_digit());
    valid.then(|| text.parse().ok()).flatten()
}

/// Days from 1970-01-01; years are counted from March, so that the leap day comes last.
fn days_from_date(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + of_year
        - 719_468
}

fn date_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = (from_march + 2) % 12 + 1;
    (era * 400 + year + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_times() {
        let cases = [
            ("1970-01-01", 0),
            ("2000-01-01", 946_684_800_000_000),
            ("2024-02-29", 1_709_164_800_000_000),
            ("2026-02-05T00:00:00Z", 1_770_249_600_000_000),
            ("2026-02-05T23:59:59.5Z", 1_770_335_999_500_000),
            ("9999-12-31T23:59:59Z", crate::price::MAX_EFFECTIVE_US),
        ];
        for (text, us) in cases {
            assert_eq!(parse(text), Some(us), "{text}");
        }
        for text in [
            "2025-02-29",
            "2025-13-01",
            "2025-1-1",
            "2025-01-01T00:00:00",
            "x",
            "",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_and_time_round_trip(us in 0..=crate::price::MAX_EFFECTIVE_US) {
            prop_assert_eq!(parse(&format(us)), Some(us));
        }
    }
}
