//! Times and lengths of time: whole microseconds on one side, since the Unix epoch if a time;
//! Timestamps and Durations on the other.

use prost_types::{Duration, Timestamp};
use tokenmeter_model::bounds::Violation;

/// Microseconds in one second.
const MICROS: i64 = 1_000_000;
/// Nanoseconds in one microsecond.
const NANOS_PER_MICRO: i32 = 1_000;
/// Nanoseconds in one second.
const NANOS: i32 = 1_000_000_000;

/// A time as the wire has it.
pub fn from_micros(micros: i64) -> Timestamp {
    Timestamp {
        seconds: micros.div_euclid(MICROS),
        // The remainder is below 10⁶, which fits.
        nanos: i32::try_from(micros.rem_euclid(MICROS)).unwrap_or_default() * NANOS_PER_MICRO,
    }
}

/// A time as the model has it, finer digits cut off; `field` is its path in the request. Whether
/// the time is one that the field accepts is the model's to check.
pub fn to_micros(field: &str, time: &Timestamp) -> Result<i64, Violation> {
    if time.nanos < 0 || time.nanos >= NANOS {
        return Err(Violation::new(
            format!("{field}.nanos"),
            format!(
                "{} is out of bounds; send a value from 0 to 999999999",
                time.nanos
            ),
        ));
    }
    time.seconds
        .checked_mul(MICROS)
        .and_then(|whole| whole.checked_add(i64::from(time.nanos / NANOS_PER_MICRO)))
        .ok_or_else(|| {
            Violation::new(
                format!("{field}.seconds"),
                "is out of bounds; send seconds since 1970-01-01T00:00:00Z",
            )
        })
}

/// A length of time as the wire has it.
pub fn duration_from_micros(micros: i64) -> Duration {
    Duration {
        seconds: micros / MICROS,
        // The remainder is below 10⁶ in size, which fits, and has the sign of the whole.
        nanos: i32::try_from(micros % MICROS).unwrap_or_default() * NANOS_PER_MICRO,
    }
}

/// A length of time as the model has it, finer digits cut off; `field` is its path in the request.
/// Whether it is one that the field accepts is the model's to check.
///
/// # Errors
/// A violation of `field` when its parts make no duration.
pub fn duration_to_micros(field: &str, duration: &Duration) -> Result<i64, Violation> {
    let nanos = i64::from(duration.nanos);
    if nanos.abs() >= i64::from(NANOS) || duration.seconds.signum() * nanos.signum() < 0 {
        let text = "is no duration; send nanos of less than a second, with the sign of seconds";
        return Err(Violation::new(field, text));
    }
    let fraction = i64::from(duration.nanos / NANOS_PER_MICRO);
    duration
        .seconds
        .checked_mul(MICROS)
        .and_then(|whole| whole.checked_add(fraction))
        .ok_or_else(|| Violation::new(field, "is out of bounds; send a shorter duration"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_a_round_trip() {
        for micros in [0, 1, -1, -1_000_001, 1_785_542_400_000_001] {
            let time = from_micros(micros);
            assert!((0..NANOS).contains(&time.nanos));
            assert_eq!(to_micros("time", &time), Ok(micros));
        }
    }

    #[test]
    fn finer_digits_are_cut_and_nonsense_is_refused() {
        let time = |seconds, nanos| Timestamp { seconds, nanos };
        assert_eq!(to_micros("time", &time(1, 1_999)), Ok(1_000_001));
        assert!(to_micros("time", &time(0, -1)).is_err());
        assert!(to_micros("time", &time(0, NANOS)).is_err());
        assert!(to_micros("time", &time(i64::MAX, 0)).is_err());
        assert!(to_micros("time", &time(i64::MIN, 0)).is_err());
    }

    #[test]
    fn durations_survive_a_round_trip_and_nonsense_is_refused() {
        for micros in [0, 1, -1, -1_000_001, 86_400_000_000, i64::MAX, i64::MIN] {
            let length = duration_from_micros(micros);
            assert_eq!(duration_to_micros("life", &length), Ok(micros));
        }
        let length = |seconds, nanos| Duration { seconds, nanos };
        assert_eq!(duration_to_micros("life", &length(1, 1_999)), Ok(1_000_001));
        for bad in [
            (1, -1),
            (-1, 1),
            (0, NANOS),
            (0, -NANOS),
            (i64::MAX, 0),
            (0, i32::MIN),
        ] {
            assert!(
                duration_to_micros("life", &length(bad.0, bad.1)).is_err(),
                "{bad:?}"
            );
        }
    }
}
