//! Profiles: named sets of limits, such as the tier "free".

use serde::{Deserialize, Serialize};

use crate::bounds::{self, Violation};

use super::{
    Enforcement, FailureMode, Limit, MAX_BUDGET_TOKENS, MAX_HOLD_US, MIN_HOLD_US, Metric, Scope,
    Window, check_set,
};

/// Longest id of a profile, in characters.
const MAX_ID: usize = 64;

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
    /// The token budget that a session starts with, 0 to [`MAX_BUDGET_TOKENS`]; none means 100,000.
    #[serde(default)]
    pub session_budget_max_tokens: Option<i64>,
    /// Whether calls beyond a session's budget are refused.
    #[serde(default)]
    pub enforce_session_budget: bool,
    /// The longest that a hold lives without being settled or extended, in microseconds,
    /// [`MIN_HOLD_US`] to [`MAX_HOLD_US`]; none means 10 minutes.
    #[serde(default)]
    pub max_hold_us: Option<i64>,
}

impl Profile {
    /// Checks every bound of the profile. `field` is its path in the contract.
    pub fn check(&self, field: &str, out: &mut Vec<Violation>) {
        check_profile_id(&format!("{field}.profile_id"), &self.profile_id, out);
        bounds::text(
            format_args!("{field}.display_name"),
            &self.display_name,
            out,
        );
        check_set(&format!("{field}.limits"), &self.limits, out);
        if let Some(tokens) = self.session_budget_max_tokens {
            let path = format_args!("{field}.session_budget_max_tokens");
            bounds::range(path, tokens, 0, MAX_BUDGET_TOKENS, out);
        }
        if let Some(life_us) = self.max_hold_us
            && !(MIN_HOLD_US..=MAX_HOLD_US).contains(&life_us)
        {
            let text = "is out of bounds; send 1 second to 24 hours";
            out.push(Violation::new(format!("{field}.max_hold"), text));
        }
    }
}

/// Checks the id of a profile. `field` is its path in the contract.
pub fn check_profile_id(field: &str, profile_id: &str, out: &mut Vec<Violation>) {
    let letter = |b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
    if !(1..=MAX_ID).contains(&profile_id.len()) || !profile_id.bytes().all(letter) {
        let text =
            format!("is no profile id; send 1 to {MAX_ID} characters of a-z, 0-9, '_' and '-'");
        out.push(Violation::new(field, text));
    }
}

/// The profiles that tokenmeter brings (R19), which limit each user. All of their limits refuse until
/// an administrator has them record overage.
pub fn shipped() -> Vec<Profile> {
    let minute = |amount| {
        per_user(
            "requests-per-minute",
            Metric::Requests,
            Window::Minute,
            amount,
        )
    };
    let hour = |amount| per_user("requests-per-hour", Metric::Requests, Window::Hour, amount);
    let month = |amount| {
        per_user(
            "tokens-per-month",
            Metric::TotalTokens,
            Window::Month,
            amount,
        )
    };
    let profile = |profile_id: &str, display_name: &str, limits| Profile {
        profile_id: profile_id.to_owned(),
        display_name: display_name.to_owned(),
        limits,
        failure_mode: FailureMode::Open,
        session_budget_max_tokens: None,
        enforce_session_budget: false,
        max_hold_us: None,
    };
    vec![
        profile("free", "Free", vec![minute(10), hour(50), month(1_000_000)]),
        profile("pro", "Pro", vec![minute(30), hour(300), month(10_000_000)]),
        profile(
            "enterprise",
            "Enterprise",
            vec![minute(60), month(100_000_000)],
        ),
        profile("unlimited", "Unlimited", Vec::new()),
    ]
}

fn per_user(name: &str, metric: Metric, window: Window, amount: i64) -> Limit {
    Limit {
        name: name.to_owned(),
        scope: Scope::User,
        metric,
        window,
        amount,
        enforcement: Enforcement::Block,
        hard: false,
        alert_percents: Vec::new(),
        provider: String::new(),
        model: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(profile: &Profile) -> Vec<String> {
        let mut out = Vec::new();
        profile.check("profile", &mut out);
        out.into_iter().map(|v| v.field).collect()
    }

    /// The figures of R19, and a monthly quota of each that has one.
    #[test]
    fn the_shipped_tiers_have_their_exact_figures() {
        let figures: Vec<_> = shipped()
            .iter()
            .map(|profile| {
                assert!(fields(profile).is_empty(), "{}", profile.profile_id);
                let json = serde_json::to_string(profile).unwrap();
                assert_eq!(&serde_json::from_str::<Profile>(&json).unwrap(), profile);
                let limits = profile.limits.iter().map(|limit| {
                    assert_eq!(
                        (limit.scope, limit.enforcement),
                        (Scope::User, Enforcement::Block)
                    );
                    let (metric, window) = (limit.metric.as_str(), limit.window.as_str());
                    format!("{} {metric} a {window}", limit.amount)
                });
                (profile.profile_id.clone(), limits.collect::<Vec<_>>())
            })
            .collect();
        let tier = |id: &str, limits: &[&str]| {
            (
                id.to_owned(),
                limits.iter().map(ToString::to_string).collect::<Vec<_>>(),
            )
        };
        assert_eq!(
            figures,
            [
                tier(
                    "free",
                    &[
                        "10 requests a minute",
                        "50 requests a hour",
                        "1000000 total_tokens a month",
                    ],
                ),
                tier(
                    "pro",
                    &[
                        "30 requests a minute",
                        "300 requests a hour",
                        "10000000 total_tokens a month",
                    ],
                ),
                tier(
                    "enterprise",
                    &["60 requests a minute", "100000000 total_tokens a month"],
                ),
                tier("unlimited", &[]),
            ]
        );
    }

    #[test]
    fn bounds_themselves_pass_and_one_beyond_is_named() {
        let unlimited = shipped().remove(3);
        for (budget, hold) in [(0, MIN_HOLD_US), (MAX_BUDGET_TOKENS, MAX_HOLD_US)] {
            let good = Profile {
                profile_id: "a-z_0-9".into(),
                display_name: "d".repeat(255),
                session_budget_max_tokens: Some(budget),
                max_hold_us: Some(hold),
                ..unlimited.clone()
            };
            assert!(fields(&good).is_empty());
        }
        for (budget, hold) in [
            (-1, MIN_HOLD_US - 1),
            (MAX_BUDGET_TOKENS + 1, MAX_HOLD_US + 1),
        ] {
            let bad = Profile {
                profile_id: "Free".into(),
                display_name: "d".repeat(256),
                limits: vec![per_user("x", Metric::Cost, Window::Session, 1)],
                session_budget_max_tokens: Some(budget),
                max_hold_us: Some(hold),
                ..unlimited.clone()
            };
            assert_eq!(
                fields(&bad),
                [
                    "profile.profile_id",
                    "profile.display_name",
                    "profile.limits[0].window",
                    "profile.session_budget_max_tokens",
                    "profile.max_hold",
                ]
            );
        }
    }

    #[test]
    fn ids_of_profiles_keep_to_their_alphabet() {
        let refused = |id: &str| {
            let mut out = Vec::new();
            check_profile_id("profile_id", id, &mut out);
            !out.is_empty()
        };
        assert!(!refused("a") && !refused(&"z".repeat(64)));
        for bad in ["", "A", "a b", "ä", "a/b", &"z".repeat(65)] {
            assert!(refused(bad), "{bad}");
        }
    }
}
