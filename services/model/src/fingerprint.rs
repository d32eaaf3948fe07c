//! Fingerprints: what tells a retry from another content under the same id.

use sha2::{Digest, Sha256};

/// Bytes of a [`Fingerprint`]: one of version, 16 of hash.
pub const FINGERPRINT_BYTES: usize = 17;
/// Version of the fingerprint's rule.
pub const FINGERPRINT_VERSION: u8 = 1;
/// A versioned hash of what the caller supplied.
pub type Fingerprint = [u8; FINGERPRINT_BYTES];

/// Takes fields in a fixed order so that no two payloads write the same bytes: texts carry their
/// length, optional numbers a presence byte.
#[derive(Debug, Clone)]
pub struct Canonical(Sha256);

impl Default for Canonical {
    fn default() -> Self {
        Self::new()
    }
}

impl Canonical {
    /// Nothing taken yet.
    pub fn new() -> Self {
        Self(Sha256::new())
    }

    /// Takes the length of a list.
    pub fn length(&mut self, length: usize) -> &mut Self {
        self.0.update((length as u64).to_le_bytes());
        self
    }

    /// Takes a text.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    /// Takes bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.length(bytes.len());
        self.0.update(bytes);
        self
    }

    /// Takes a number.
    pub fn number(&mut self, number: i64) -> &mut Self {
        self.0.update(number.to_le_bytes());
        self
    }

    /// Takes a number that may be absent.
    pub fn optional(&mut self, number: Option<i64>) -> &mut Self {
        self.0.update([u8::from(number.is_some())]);
        self.number(number.unwrap_or_default())
    }

    /// Takes labels, which are sorted by key.
    pub fn labels(&mut self, labels: &[(String, String)]) -> &mut Self {
        self.length(labels.len());
        for (key, value) in labels {
            self.text(key).text(value);
        }
        self
    }

    /// The fingerprint of everything taken: the version, then half a SHA-256.
    pub fn finish(&mut self) -> Fingerprint {
        let digest = self.0.finalize_reset();
        let mut fingerprint = [0; FINGERPRINT_BYTES];
        fingerprint[0] = FINGERPRINT_VERSION;
        fingerprint[1..].copy_from_slice(&digest[..FINGERPRINT_BYTES - 1]);
        fingerprint
    }
}
