//! Pages of a list (AIP-158): sizes, and tokens that are bound to their filters.

use sha2::{Digest, Sha256};
use tokenmeter_model::bounds::Violation;

use crate::error::Error;

/// Rows of a page when nothing is asked for.
pub(crate) const DEFAULT_SIZE: i32 = 50;
/// Most rows of a page; more is coerced to it.
pub(crate) const MAX_SIZE: i32 = 1_000;

/// Reads a page size: 0 means the default, too large is coerced, negative is an error.
pub(crate) fn size(asked: i32) -> Result<i64, Error> {
    match asked {
        ..0 => {
            let text = format!("{asked} is negative; send 0 (for {DEFAULT_SIZE}) to {MAX_SIZE}");
            Err(Violation::new("page_size", text).into())
        }
        0 => Ok(DEFAULT_SIZE.into()),
        size => Ok(size.min(MAX_SIZE).into()),
    }
}

/// Writes a token: where the page ended, and a digest of the filters it belongs to.
pub(crate) fn token(filters: &str, end: (i64, i64)) -> String {
    format!("{:x}.{:x}.{}", end.0, end.1, digest(filters))
}

/// Reads a token; empty means the first page.
pub(crate) fn read(filters: &str, token: &str) -> Result<Option<(i64, i64)>, Error> {
    if token.is_empty() {
        return Ok(None);
    }
    let mut parts = token.split('.');
    let mut number = || i64::from_str_radix(parts.next()?, 16).ok();
    let (time, position) = (number(), number());
    match (time, position, parts.next(), parts.next()) {
        (Some(time), Some(position), Some(of), None) if of == digest(filters) => {
            Ok(Some((time, position)))
        }
        _ => Err(Error::PageToken),
    }
}

/// Eight bytes tell a token of other filters; nothing secret is in a token.
fn digest(filters: &str) -> String {
    Sha256::digest(filters.as_bytes())[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_a_round_trip_and_are_bound_to_their_filters() {
        let sent = token("user=a", (1_790_000_000_000_000, 42));
        assert_eq!(
            read("user=a", &sent).unwrap(),
            Some((1_790_000_000_000_000, 42))
        );
        assert_eq!(read("user=a", "").unwrap(), None);
        let truncated = &sent[..sent.len() - 1];
        for bad in [sent.as_str(), truncated, "x", "1.2", &format!("{sent}.1")] {
            assert!(
                matches!(read("user=b", bad), Err(Error::PageToken)),
                "{bad}"
            );
        }
        assert!(matches!(read("user=a", truncated), Err(Error::PageToken)));
    }

    #[test]
    fn sizes_are_coerced_and_negative_ones_refused() {
        assert_eq!(size(0).unwrap(), 50);
        assert_eq!(size(7).unwrap(), 7);
        assert_eq!(size(i32::MAX).unwrap(), 1_000);
        assert!(size(-1).is_err());
    }
}
