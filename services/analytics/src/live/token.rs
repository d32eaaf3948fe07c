//! Resume tokens: where a stream stood, sealed, and bound to what was asked for.
//!
//! `VERSION.OPENING.PLACE.DIGEST.SEAL`. The opening is the ledger's, in which the token was issued;
//! the place is the stream's own: of a subscription a position.
//! The digest is of what was asked for and by whom; the seal is an HMAC under the ledger's secret,
//! so that a token which opens is one that this ledger issued.

use hmac::digest::Key;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

/// The kind of stream and the version of its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Of a subscription.
    Feed,
    /// Of an export.
    Export,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Feed => "f1",
            Self::Export => "x1",
        }
    }
}

/// Longest token that is looked at, in bytes.
pub const MAX_TOKEN_BYTES: usize = 1_024;
/// Bytes of a seal, and of a digest, that a token carries.
const SEAL_BYTES: usize = 16;
const DIGEST_BYTES: usize = 8;

/// Why a token cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It was not issued by this ledger, or not for this RPC, or is damaged.
    #[error("resume_token is malformed or was not issued by this service")]
    Invalid,
    /// It was issued for another filter, tenant or user.
    #[error("resume_token belongs to a request with another filter, tenant or user")]
    OtherFilter,
    /// It is of a place that the ledger does not have: it was restored from a copy since.
    #[error("resume_token is of a place that the ledger does not have, or no longer")]
    Expired {
        /// A token for the same filter from which on everything is kept.
        oldest: String,
    },
}

/// Seals and opens the tokens of one request.
#[derive(Debug, Clone)]
pub struct Sealer {
    kind: Kind,
    key: Hmac<Sha256>,
    opening: String,
    digest: String,
}

impl Sealer {
    /// For one request; `asked` is everything that the answer depends on.
    pub fn new(kind: Kind, secret: &[u8], opening: &str, asked: &str) -> Self {
        let mut key = Key::<Hmac<Sha256>>::default();
        key[..32].copy_from_slice(&Sha256::digest(secret));
        Self {
            kind,
            key: Hmac::new(&key),
            opening: opening.to_owned(),
            digest: hex(&Sha256::digest(asked.as_bytes())[..DIGEST_BYTES]),
        }
    }

    /// The opening whose places it seals.
    pub fn opening(&self) -> &str {
        &self.opening
    }

    /// The token of a place.
    pub fn seal(&self, place: &str) -> String {
        let kind = self.kind.as_str();
        let body = format!("{kind}.{}.{place}.{}", self.opening, self.digest);
        let seal = self.seal_of(&body);
        format!("{body}.{seal}")
    }

    /// The opening and the place of a token. Whether the ledger still has it is the caller's to ask.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn open<'t>(&self, token: &'t str) -> Result<(&'t str, &'t str), TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Invalid);
        }
        let (body, seal) = token.rsplit_once('.').ok_or(TokenError::Invalid)?;
        let seal = unhex(seal).ok_or(TokenError::Invalid)?;
        let mut key = self.key.clone();
        key.update(body.as_bytes());
        key.verify_truncated_left(&seal)
            .map_err(|_| TokenError::Invalid)?;
        let mut parts = body.split('.');
        let (kind, opening, place, digest) =
            (parts.next(), parts.next(), parts.next(), parts.next());
        let place = opening.zip(place).ok_or(TokenError::Invalid)?;
        if kind != Some(self.kind.as_str()) || parts.next().is_some() {
            return Err(TokenError::Invalid);
        }
        if digest != Some(&self.digest) {
            return Err(TokenError::OtherFilter);
        }
        Ok(place)
    }

    /// That a token's place is not kept.
    pub fn expired(&self, oldest: &str) -> TokenError {
        TokenError::Expired {
            oldest: self.seal(oldest),
        }
    }

    fn seal_of(&self, body: &str) -> String {
        let mut key = self.key.clone();
        key.update(body.as_bytes());
        hex(&key.finalize().into_bytes()[..SEAL_BYTES])
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn unhex(text: &str) -> Option<[u8; SEAL_BYTES]> {
    let mut bytes = [0; SEAL_BYTES];
    // Upper case would be another way to write the same token.
    let plain = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if text.len() != SEAL_BYTES * 2 || !text.bytes().all(plain) {
        return None;
    }
    for (n, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(n * 2..n * 2 + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(asked: &str) -> Sealer {
        Sealer::new(Kind::Feed, &[7; 32], "0123456789abcdef", asked)
    }

    #[test]
    fn a_token_opens_where_it_was_sealed_and_nowhere_else() {
        let here = sealer("ann");
        let token = here.seal("42");
        assert!(token.len() <= MAX_TOKEN_BYTES);
        assert_eq!(here.open(&token), Ok(("0123456789abcdef", "42")));
        assert_eq!(sealer("bob").open(&token), Err(TokenError::OtherFilter));
        let later = Sealer::new(Kind::Feed, &[7; 32], "fedcba9876543210", "ann");
        assert_eq!(later.open(&token), here.open(&token));
        match later.expired("0") {
            TokenError::Expired { oldest } => {
                assert_eq!(later.open(&oldest), Ok(("fedcba9876543210", "0")));
            }
            other => panic!("{other:?}"),
        }
        let another = Sealer::new(Kind::Feed, &[8; 32], "0123456789abcdef", "ann");
        assert_eq!(another.open(&token), Err(TokenError::Invalid));
        let export = Sealer::new(Kind::Export, &[7; 32], "0123456789abcdef", "ann");
        assert_eq!(export.open(&token), Err(TokenError::Invalid));
    }

    #[test]
    fn no_changed_or_truncated_token_opens() {
        let here = sealer("ann");
        let token = here.seal("42");
        for end in 0..token.len() {
            assert_eq!(here.open(&token[..end]), Err(TokenError::Invalid), "{end}");
        }
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] ^= 1;
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(here.open(&changed), Err(TokenError::Invalid), "{changed}");
        }
        let long = "f".repeat(MAX_TOKEN_BYTES + 1);
        assert_eq!(here.open(&long), Err(TokenError::Invalid));
    }
}
