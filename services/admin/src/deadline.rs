//! How long a long call may work: until well before its caller stops waiting.

use std::time::Duration;

use tonic::metadata::MetadataMap;

/// The gRPC header with the caller's own deadline.
const HEADER: &str = "grpc-timeout";

/// Three quarters of what the caller waits, and of what the server allows a call: the rest is for
/// the work that is under way when the time is up, and for the answer's way.
pub(crate) fn budget(metadata: &MetadataMap, request_timeout: Duration) -> Duration {
    let asked = metadata
        .get(HEADER)
        .and_then(|value| value.to_str().ok())
        .and_then(parse);
    let whole = asked.map_or(request_timeout, |asked| asked.min(request_timeout));
    whole / 4 * 3
}

/// Reads a timeout such as `100m`: at most eight digits, then a unit.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3_600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shorter_of_both_deadlines_counts() {
        let server = Duration::from_secs(30);
        let with = |text: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert(HEADER, text.parse().unwrap());
            budget(&metadata, server)
        };
        assert_eq!(budget(&MetadataMap::new(), server).as_millis(), 22_500);
        assert_eq!(with("400m").as_millis(), 300);
        assert_eq!(with("4S").as_millis(), 3_000);
        assert_eq!(with("1H").as_millis(), 22_500);
        for nonsense in ["", "S", "1", "-1S", "123456789S", "1x"] {
            assert_eq!(with(nonsense).as_millis(), 22_500, "{nonsense}");
        }
    }
}
