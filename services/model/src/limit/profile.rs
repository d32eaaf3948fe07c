//! Profiles: named sets of limits, such as the tier "free".

use serde::{Deserialize, Serialize};

use super::{FailureMode, Limit};

/// A named set of limits, which is assigned to users, teams or a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Its id, 1 to 64 characters of `a-z`, `0-9`, `_` and `-`.
    pub profile_id: String,
    /// What people call it, 0 to 255 bytes.
    #[serde(default)]
    pub display_name: String,
    /// Its rules, at most [`super::MAX_LIMITS`]; none means unlimited.
    #[serde(default)]
    pub limits: Vec<Limit>,
    /// What admission does while counters cannot be reached.
    pub failure_mode: FailureMode,
    /// The token budget that a session starts with, 0 to 1,000,000,000,000; none means 100,000.
    #[serde(default)]
    pub session_budget_max_tokens: Option<i64>,
    /// Whether calls beyond a session's budget are refused.
    #[serde(default)]
    pub enforce_session_budget: bool,
    /// The longest that a hold lives without being settled or extended, in microseconds, 1 second to 24
    /// hours; none means 10 minutes.
    #[serde(default)]
    pub max_hold_us: Option<i64>,
}

/// The profiles that tokenmeter brings (R19).
pub fn shipped() -> Vec<Profile> {
    todo!("part A")
}
