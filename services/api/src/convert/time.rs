//! Times: whole microseconds since the Unix epoch on one side, Timestamps on the other.

use prost_types::Timestamp;
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
}
