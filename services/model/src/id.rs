//! Tenant ids. All other ids are opaque texts, checked by [`crate::bounds::required_text`].

use std::fmt;

/// Longest tenant id in bytes.
pub const MAX_TENANT_BYTES: usize = 64;

/// Who owns the data: `[a-z0-9_-]{1,64}`, so that it fits every ledger key and Redis hash tag.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(String);

/// A tenant id outside `[a-z0-9_-]{1,64}`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("tenant id must be 1 to {MAX_TENANT_BYTES} characters of a-z, 0-9, '_' and '-'")]
pub struct InvalidTenant;

impl TenantId {
    /// Checks and wraps a tenant id.
    ///
    /// # Errors
    /// [`InvalidTenant`] when the text is outside `[a-z0-9_-]{1,64}`.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidTenant> {
        let text = text.into();
        let fits = (1..=MAX_TENANT_BYTES).contains(&text.len())
            && text
                .bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
        if fits {
            Ok(Self(text))
        } else {
            Err(InvalidTenant)
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenant_ids_keep_to_their_alphabet() {
        for good in ["a", "default", "team-1_x", &"z".repeat(64)] {
            assert!(TenantId::new(good).is_ok(), "{good}");
        }
        for bad in ["", "A", "a b", "ä", "{x}", &"z".repeat(65)] {
            assert_eq!(TenantId::new(bad), Err(InvalidTenant), "{bad}");
        }
    }
}
