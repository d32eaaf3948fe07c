//! Limits: what may be used, by whom, in which window (R19, R20).

mod amounts;
mod check;
mod estimate;
mod profile;
mod window;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

pub use amounts::Amounts;
pub use check::{check_own, check_set};
pub use estimate::{DEFAULT_MAX_OUTPUT_TOKENS, Estimate, MAX_COST_NANO_USD};
pub use profile::{Profile, check_profile_id, shipped};
pub use window::{Window, Zoned};

/// Most that a limit may allow, in its metric's unit.
pub const MAX_AMOUNT: i64 = 9_000_000_000_000_000_000;
/// Most limits of a profile, and most own limits of a subject.
pub const MAX_LIMITS: usize = 64;
/// Most shares of a limit at which alerts fire.
pub const MAX_ALERTS: usize = 8;
/// Largest share of a limit at which an alert fires, in per cent.
pub const MAX_ALERT_PERCENT: i64 = 1_000;
/// Largest token budget of a session.
pub const MAX_BUDGET_TOKENS: i64 = 1_000_000_000_000;
/// Token budget of a session where its profile does not say.
pub const DEFAULT_BUDGET_TOKENS: i64 = 100_000;
/// The remaining share of a session's budget below which to summarize, in per cent, where the tenant
/// does not say.
pub const DEFAULT_SUMMARIZE_BELOW_PERCENT: i32 = 20;
/// Shortest life of a hold, in microseconds: a second.
pub const MIN_HOLD_US: i64 = 1_000_000;
/// Longest life of a hold, in microseconds: 24 hours.
pub const MAX_HOLD_US: i64 = 24 * 3_600 * 1_000_000;
/// Life of a hold where neither request nor profile says, in microseconds: 10 minutes.
pub const DEFAULT_HOLD_US: i64 = 600 * 1_000_000;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            /// Every value, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word in ledgers, metrics and names.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// The value of a word.
            pub fn parse(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.as_str() == word)
            }
        }
    };
}
pub(crate) use words;

words! {
    /// Whose use a limit counts, in the order in which limits are checked.
    Scope {
        /// All use of the tenant together.
        Tenant = "tenant",
        /// All use of a team together.
        Team = "team",
        /// Each user alone.
        User = "user",
        /// Each session alone.
        Session = "session",
        /// Each API key alone.
        ApiKey = "api_key",
    }
}

words! {
    /// What a limit counts.
    Metric {
        /// Calls admitted, or recorded without a hold.
        Requests = "requests",
        /// Prompt tokens: uncached input, cache reads and cache writes.
        InputTokens = "input_tokens",
        /// Uncached input tokens only.
        UncachedInputTokens = "uncached_input_tokens",
        /// Output tokens, reasoning included.
        OutputTokens = "output_tokens",
        /// Prompt and output tokens.
        TotalTokens = "total_tokens",
        /// Cost in nano-USD; unpriced lines count as nothing.
        Cost = "cost",
    }
}

words! {
    /// What happens when a limit is reached.
    Enforcement {
        /// Calls that would pass it are refused.
        Block = "block",
        /// Calls are admitted beyond it, and the excess is recorded.
        RecordOverage = "record_overage",
        /// Evaluated and reported as if blocking, never refused (R29).
        Shadow = "shadow",
    }
}

words! {
    /// What admission does while counters cannot be reached.
    FailureMode {
        /// Calls go on, limited by what the node itself knows.
        Open = "open",
        /// Calls are refused.
        Closed = "closed",
    }
}

words! {
    /// Why settled use could pass a limit although admission never does.
    OvershootCause {
        /// The call used more than it had reserved.
        AboveHold = "above_hold",
        /// The usage came after its hold had expired.
        AfterExpiry = "after_expiry",
        /// The usage was recorded without a hold.
        WithoutHold = "without_hold",
        /// A reprice run made recorded usage dearer.
        Reprice = "reprice",
        /// The limit was lowered below what was used already.
        LimitLowered = "limit_lowered",
        /// The call was admitted while the counter store could not be reached.
        Degraded = "degraded",
        /// Counters were lost while the call was in flight.
        CounterLoss = "counter_loss",
        /// The limit records overage and does not block.
        OverageAllowed = "overage_allowed",
    }
}

/// One rule: at most so much of a metric, per scope and window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Its name in answers, 0 to 255 bytes, unique among the limits that it is set with; empty means
    /// [`Limit::default_name`].
    #[serde(default)]
    pub name: String,
    /// Whose use counts.
    pub scope: Scope,
    /// What counts.
    pub metric: Metric,
    /// The time over which it counts.
    pub window: Window,
    /// The most that may be used, 0 to [`MAX_AMOUNT`], in the metric's unit.
    pub amount: i64,
    /// What happens at the limit.
    pub enforcement: Enforcement,
    /// Whether it fails closed when counters are lost, whatever the failure mode.
    #[serde(default)]
    pub hard: bool,
    /// The shares at which alerts fire, in per cent, rising; empty means 80 and 100.
    #[serde(default)]
    pub alert_percents: Vec<i32>,
    /// Only calls to this provider; empty means all.
    #[serde(default)]
    pub provider: String,
    /// Only calls of this model; empty means all.
    #[serde(default)]
    pub model: String,
}

/// What makes two limits the same rule: an own limit takes the place of the profile's of the same key.
pub type LimitKey<'a> = (Scope, Metric, Window, &'a str, &'a str);

impl Limit {
    /// What it is called where no name was given, such as `user-requests-minute`.
    pub fn default_name(&self) -> String {
        let words = [
            self.scope.as_str(),
            self.metric.as_str(),
            self.window.as_str(),
        ];
        words.join("-").replace('_', "-")
    }

    /// What answers call it: its name, else [`Limit::default_name`].
    pub fn called(&self) -> Cow<'_, str> {
        if self.name.is_empty() {
            Cow::Owned(self.default_name())
        } else {
            Cow::Borrowed(&self.name)
        }
    }

    /// What makes it the same rule as another.
    pub fn key(&self) -> LimitKey<'_> {
        (
            self.scope,
            self.metric,
            self.window,
            &self.provider,
            &self.model,
        )
    }

    /// Whether a call to a provider's model counts.
    pub fn covers(&self, provider: &str, model: &str) -> bool {
        (self.provider.is_empty() || self.provider == provider)
            && (self.model.is_empty() || self.model == model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(provider: &str, model: &str) -> Limit {
        Limit {
            name: String::new(),
            scope: Scope::ApiKey,
            metric: Metric::UncachedInputTokens,
            window: Window::Minute,
            amount: 1,
            enforcement: Enforcement::Block,
            hard: false,
            alert_percents: Vec::new(),
            provider: provider.into(),
            model: model.into(),
        }
    }

    /// Ledgers have both: words in columns, and JSON.
    #[test]
    fn words_are_what_serde_writes() {
        macro_rules! check {
            ($($name:ident)+) => {
                $(for one in $name::ALL {
                    assert_eq!($name::parse(one.as_str()), Some(*one));
                    let json = serde_json::to_string(one).unwrap();
                    assert_eq!(json, format!("{:?}", one.as_str()));
                })+
            };
        }
        check!(Scope Metric Window Enforcement FailureMode OvershootCause);
        assert_eq!(Scope::parse(""), None);
    }

    #[test]
    fn a_limit_in_json_may_leave_out_what_has_a_default() {
        let json = r#"{"scope":"api_key","metric":"uncached_input_tokens","window":"minute",
            "amount":1,"enforcement":"block"}"#;
        let read: Limit = serde_json::from_str(json).unwrap();
        assert_eq!(read, limit("", ""));
    }

    #[test]
    fn a_limit_covers_what_it_names_or_all() {
        let covers = |provider, model| limit(provider, model).covers("openai", "gpt-5");
        assert!(covers("", "") && covers("openai", "") && covers("", "gpt-5"));
        assert!(covers("openai", "gpt-5"));
        assert!(!covers("anthropic", "") && !covers("", "gpt-5-mini"));
        assert!(!covers("anthropic", "gpt-5"));
    }

    #[test]
    fn a_limit_without_a_name_is_called_by_what_it_limits() {
        let name = "api-key-uncached-input-tokens-minute";
        assert_eq!(limit("", "").called(), name);
        let named = Limit {
            name: "mine".into(),
            ..limit("", "")
        };
        assert_eq!(named.called(), "mine");
    }
}
