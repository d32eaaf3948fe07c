//! Times on the command line: RFC 3339 in, RFC 3339 out.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

/// Reads an RFC 3339 time, or a date, which means its begin in UTC.
pub(crate) fn parse(text: &str) -> Result<prost_types::Timestamp, String> {
    let time = text.parse::<Timestamp>().or_else(|error| {
        text.parse::<Date>()
            .ok()
            .filter(|_| text.len() == "2026-01-31".len())
            .and_then(|date| date.to_zoned(TimeZone::UTC).ok())
            .map(|zoned| zoned.timestamp())
            .ok_or_else(|| format!("is not a time such as 2026-01-31T12:00:00Z ({error})"))
    })?;
    let micros = time.as_microsecond();
    Ok(tokenmeter_api::convert::time::from_micros(micros))
}

/// Writes a time; empty for none.
pub(crate) fn text(time: Option<&prost_types::Timestamp>) -> String {
    format(time).unwrap_or_default()
}

/// Writes a time in whole seconds, the next one if it has a part of one; empty for none.
pub(crate) fn seconds(time: Option<&prost_types::Timestamp>) -> String {
    let whole = time.map(|time| prost_types::Timestamp {
        seconds: time.seconds.saturating_add(i64::from(time.nanos > 0)),
        nanos: 0,
    });
    text(whole.as_ref())
}

/// Writes a time as RFC 3339 in UTC; none for none and for what is no time.
pub(crate) fn format(time: Option<&prost_types::Timestamp>) -> Option<String> {
    let time = time?;
    let time = Timestamp::new(time.seconds, time.nanos).ok()?;
    Some(time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written_as_rfc_3339() {
        for (text, seconds, nanos) in [
            ("1970-01-01T00:00:01Z", 1, 0),
            ("1970-01-01T01:00:00.5+01:00", 0, 500_000_000),
            ("1970-01-02", 86_400, 0),
        ] {
            let time = parse(text).unwrap();
            assert_eq!((time.seconds, time.nanos), (seconds, nanos), "{text}");
        }
        for wrong in ["", "yesterday", "1970-01-01T00:00:00", "19700102"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        let time = parse("2026-07-01T10:00:00.25+02:00").unwrap();
        assert_eq!(text(Some(&time)), "2026-07-01T08:00:00.25Z");
        assert_eq!(seconds(Some(&time)), "2026-07-01T08:00:01Z");
        assert_eq!(format(None), None);
    }
}
