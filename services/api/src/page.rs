//! Pages of a list (AIP-158): sizes, and tokens that are bound to the filters of their list.

use sha2::{Digest, Sha256};
use tokenmeter_model::bounds::Violation;

use crate::status::Failure;
use crate::v1::ErrorReason;

/// Rows of a page when nothing is asked for.
pub const DEFAULT_SIZE: i32 = 50;
/// Most rows of a page; more is coerced to it.
pub const MAX_SIZE: i32 = 1_000;

/// A page token that is not of the list it was sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("page_token is not of this list")]
pub struct WrongToken;

impl From<WrongToken> for Failure {
    fn from(wrong: WrongToken) -> Self {
        let mend = "send next_page_token as it came, with the same filters, or leave it empty for \
                    the first page";
        Self::new(ErrorReason::PageTokenInvalid, format!("{wrong}; {mend}"))
            .violation("page_token", format!("is not of this list; {mend}"))
    }
}

/// Reads a page size: 0 means [`DEFAULT_SIZE`], too large is coerced.
///
/// # Errors
/// A violation when it is negative.
pub fn size(asked: i32) -> Result<usize, Violation> {
    size_or(asked, DEFAULT_SIZE)
}

/// Reads a page size: 0 means `default`, too large is coerced.
///
/// # Errors
/// A violation when it is negative.
pub fn size_or(asked: i32, default: i32) -> Result<usize, Violation> {
    let size = match asked {
        ..0 => {
            let text = format!("{asked} is negative; send 0 (for {default}) to {MAX_SIZE}");
            return Err(Violation::new("page_size", text));
        }
        0 => default,
        size => size.min(MAX_SIZE),
    };
    Ok(usize::try_from(size).unwrap_or_default())
}

/// Writes a token: where the page ended, and a digest of the list and filters it belongs to.
pub fn token(filters: &str, end: &str) -> String {
    format!("{end}.{}", digest(filters))
}

/// Reads where the last page ended; none for the first page, which has an empty token.
///
/// # Errors
/// [`WrongToken`] when it is not a token of this list with these filters.
pub fn read<'a>(filters: &str, token: &'a str) -> Result<Option<&'a str>, WrongToken> {
    if token.is_empty() {
        return Ok(None);
    }
    match token.rsplit_once('.') {
        Some((end, of)) if of == digest(filters) => Ok(Some(end)),
        _ => Err(WrongToken),
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
        let sent = token("user=a", "1790000000000000.42");
        assert_eq!(read("user=a", &sent), Ok(Some("1790000000000000.42")));
        assert_eq!(read("user=a", ""), Ok(None));
        let truncated = &sent[..sent.len() - 1];
        for bad in [sent.as_str(), truncated, "x", "1.2", &format!("{sent}.1")] {
            assert_eq!(read("user=b", bad), Err(WrongToken), "{bad}");
        }
        assert_eq!(read("user=a", truncated), Err(WrongToken));
    }

    #[test]
    fn sizes_are_coerced_and_negative_ones_refused() {
        assert_eq!(size(0), Ok(50));
        assert_eq!(size(7), Ok(7));
        assert_eq!(size(i32::MAX), Ok(1_000));
        assert!(size(-1).is_err());
    }
}
