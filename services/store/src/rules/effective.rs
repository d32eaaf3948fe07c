//! From what the ledger keeps to the rules of one caller.

use std::sync::{Arc, Mutex, PoisonError};

use tokenmeter_model::limit::{
    Amounts, DEFAULT_MAX_OUTPUT_TOKENS, Enforcement, Limit, MAX_AMOUNT, Metric, Profile, Scope,
    Window, Zoned,
};
use tokenmeter_model::zone::Zone;

use super::DEFAULT_PROFILE;
use crate::counters::{Owner, Rule};
use crate::ledger::limits::{Budget, BudgetUse, SubjectLimits, TenantSettings};

/// The longest that a hold lives where the profile does not say, and how long one lives where the
/// caller does not: 10 minutes, in microseconds.
pub const MAX_HOLD_US: i64 = 600_000_000;
/// The token budget that a session starts with where nobody decided.
pub const SESSION_BUDGET_TOKENS: i64 = 100_000;
/// Below which remaining share of its budget a session is to be summarized where nobody decided, in
/// per cent.
pub const SUMMARIZE_BELOW_PERCENT: i32 = 20;
/// The name of the rule that is a session's token budget.
pub const BUDGET_LIMIT: &str = "session-token-budget";

/// What applies to a whole tenant.
#[derive(Debug)]
pub struct TenantRules {
    /// What its administrator decided.
    pub settings: TenantSettings,
    /// Its calendar.
    pub zoned: Arc<Zoned>,
}

impl TenantRules {
    pub(super) fn new(settings: TenantSettings, server: &Zone) -> Self {
        // Names were checked when they were set; one that this version's tz data lack falls back.
        let named = |name: &Option<String>| match name {
            None => server.clone(),
            Some(name) => Zone::named(name).unwrap_or_else(|error| {
                tracing::error!(%error, "a tenant's zone is not known; the server's stands in");
                server.clone()
            }),
        };
        let zone = named(&settings.time_zone);
        let zoned = match &settings.zone_before {
            Some((before, from_us)) => Zoned {
                zone: named(before),
                change: Some((*from_us, zone)),
            },
            None => Zoned::always(zone),
        };
        Self {
            zoned: Arc::new(zoned),
            settings,
        }
    }

    /// Output tokens that are held where an estimate does not say.
    pub fn max_output_tokens(&self) -> i64 {
        let tokens = self.settings.default_max_output_tokens;
        tokens.unwrap_or(DEFAULT_MAX_OUTPUT_TOKENS)
    }
}

/// A profile with its limits ready to be shared.
#[derive(Debug)]
pub struct KeptProfile {
    /// The profile.
    pub profile: Profile,
    id: Arc<str>,
    limits: Vec<Arc<Limit>>,
}

impl KeptProfile {
    pub(super) fn new(profile: Profile) -> Self {
        Self {
            id: profile.profile_id.as_str().into(),
            limits: profile.limits.iter().map(named).collect(),
            profile,
        }
    }
}

/// A limit with its name filled in.
fn named(limit: &Limit) -> Arc<Limit> {
    let mut limit = limit.clone();
    if limit.name.is_empty() {
        limit.name = limit.default_name();
    }
    Arc::new(limit)
}

/// What is known of a session beside its counters: its budget as it was set, and what only informs,
/// kept up to date by what this node records.
#[derive(Debug)]
pub struct SessionFacts {
    stored: BudgetUse,
    seen: Mutex<Seen>,
}

#[derive(Debug, Clone)]
struct Seen {
    tools: i64,
    model: String,
    updated_us: i64,
}

impl SessionFacts {
    pub(super) fn new(stored: BudgetUse) -> Self {
        let seen = Seen {
            tools: stored.tools,
            model: stored.model.clone(),
            updated_us: stored.updated_us,
        };
        Self {
            stored,
            seen: Mutex::new(seen),
        }
    }

    /// Takes note of an event of the session.
    pub fn used(&self, model: &str, at_us: i64) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.model != model {
            model.clone_into(&mut seen.model);
        }
        seen.updated_us = seen.updated_us.max(at_us);
    }

    /// Takes note of the estimated tokens of a tool in the session.
    pub fn tool(&self, tokens: i64, at_us: i64) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.tools = seen.tools.saturating_add(tokens);
        seen.updated_us = seen.updated_us.max(at_us);
    }

    /// How it stood in the ledger, with what this node has recorded since.
    pub fn now(&self) -> BudgetUse {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        BudgetUse {
            tools: seen.tools,
            model: seen.model.clone(),
            updated_us: seen.updated_us,
            ..self.stored.clone()
        }
    }
}

/// The token budget of a session, with every default filled in.
#[derive(Debug, Clone)]
pub struct SessionBudget {
    /// Its size in tokens.
    pub max: i64,
    /// Whether calls beyond it are refused.
    pub enforced: bool,
    /// Below which remaining share to summarize, in per cent.
    pub summarize_below_percent: i32,
}

/// What applies to the calls and events of one owner.
#[derive(Debug)]
pub struct Effective {
    /// The tenant's settings and calendar.
    pub tenant: Arc<TenantRules>,
    /// The profile; none if it is not there.
    pub profile: Option<Arc<KeptProfile>>,
    /// The session; none if the owner has none.
    pub session: Option<Arc<SessionFacts>>,
    rules: Arc<[Rule]>,
    /// Whether any rule is for some providers or models only.
    restricted: bool,
}

/// What [`Effective`] is made of.
pub(super) struct Parts<'a> {
    pub(super) tenant: Arc<TenantRules>,
    pub(super) profile: Option<Arc<KeptProfile>>,
    /// What each of the owner's subjects has of its own.
    pub(super) own: &'a [(Scope, SubjectLimits)],
    pub(super) facts: Option<Arc<SessionFacts>>,
}

/// Which profile applies: the user's, else the team's, else the tenant's, else the tenant's default.
pub(super) fn profile_id<'a>(
    tenant: &'a TenantRules,
    own: &'a [(Scope, SubjectLimits)],
) -> &'a str {
    let assigned = [Scope::User, Scope::Team, Scope::Tenant];
    assigned
        .iter()
        .filter_map(|scope| own.iter().find(|(one, _)| one == scope))
        .find_map(|(_, limits)| limits.profile_id.as_deref())
        .or(tenant.settings.default_profile_id.as_deref())
        .unwrap_or(DEFAULT_PROFILE)
}

impl Effective {
    pub(super) fn new(parts: Parts<'_>, owner: &Owner) -> Self {
        let mut effective = Self {
            tenant: parts.tenant,
            profile: parts.profile,
            session: parts.facts,
            rules: Arc::new([]),
            restricted: false,
        };
        let mut rules = Vec::new();
        for scope in Scope::ALL.iter().copied() {
            let Some(subject) = owner.subject(scope) else {
                continue;
            };
            let own = parts.own.iter().find(|(one, _)| *one == scope);
            let own = own.map_or(&[][..], |(_, limits)| &limits.limits);
            effective.add(scope, subject, own, &mut rules);
            if scope == Scope::Session {
                rules.extend(effective.budget_rules(subject));
            }
        }
        effective.restricted = rules
            .iter()
            .any(|rule| !rule.limit.provider.is_empty() || !rule.limit.model.is_empty());
        effective.rules = rules.into();
        effective
    }

    /// The rules of one scope: the profile's, where an own limit takes the place of one with its key,
    /// then the other own limits.
    fn add(&self, scope: Scope, subject: &str, own: &[Limit], rules: &mut Vec<Rule>) {
        let subject: Arc<str> = subject.into();
        let rule = |limit: Arc<Limit>, profile_id: &Arc<str>| Rule {
            limit,
            subject: Arc::clone(&subject),
            profile_id: Arc::clone(profile_id),
            base: Amounts::ZERO,
        };
        let none: Arc<str> = "".into();
        let mut own: Vec<&Limit> = own.iter().collect();
        if let Some(profile) = &self.profile {
            for limit in profile.limits.iter().filter(|limit| limit.scope == scope) {
                let instead = own.iter().position(|one| one.key() == limit.key());
                rules.push(match instead {
                    Some(place) => rule(named(own.remove(place)), &none),
                    None => rule(Arc::clone(limit), &profile.id),
                });
            }
        }
        rules.extend(own.into_iter().map(|limit| rule(named(limit), &none)));
    }

    /// The rule of the session's budget, which refuses only if that is enforced, and one that never
    /// does and tells prompt tokens apart.
    fn budget_rules(&self, session_id: &str) -> Vec<Rule> {
        let (Some(budget), Some(session)) = (self.budget(), &self.session) else {
            return Vec::new();
        };
        let set = session.stored.budget.as_ref();
        let base = Amounts {
            input: set.map_or(0, |set| set.base_prompt),
            output: set.map_or(0, |set| set.base_completion.saturating_add(set.base_tools)),
            ..Amounts::ZERO
        };
        let subject: Arc<str> = session_id.into();
        let rule = |metric, amount, enforcement| Rule {
            limit: Arc::new(Limit {
                name: BUDGET_LIMIT.to_owned(),
                scope: Scope::Session,
                metric,
                window: Window::Budget,
                amount,
                enforcement,
                hard: false,
                alert_percents: Vec::new(),
                provider: String::new(),
                model: String::new(),
            }),
            subject: Arc::clone(&subject),
            profile_id: "".into(),
            base,
        };
        let enforcement = match budget.enforced {
            true => Enforcement::Block,
            false => Enforcement::Shadow,
        };
        vec![
            rule(Metric::TotalTokens, budget.max, enforcement),
            rule(Metric::InputTokens, MAX_AMOUNT, Enforcement::Shadow),
        ]
    }

    /// The session's token budget; none without a session.
    pub fn budget(&self) -> Option<SessionBudget> {
        let set = self.session.as_ref()?.stored.budget.as_ref();
        Some(self.budget_as_set(set))
    }

    /// The token budget of a session of this owner, for which somebody decided `set`.
    pub fn budget_as_set(&self, set: Option<&Budget>) -> SessionBudget {
        let profile = self.profile.as_deref().map(|kept| &kept.profile);
        let started = profile.and_then(|profile| profile.session_budget_max_tokens);
        SessionBudget {
            max: set
                .and_then(|set| set.budget_max)
                .or(started)
                .unwrap_or(SESSION_BUDGET_TOKENS),
            enforced: set
                .and_then(|set| set.enforced)
                .unwrap_or_else(|| profile.is_some_and(|profile| profile.enforce_session_budget)),
            summarize_below_percent: set
                .and_then(|set| set.summarize_below_percent)
                .or(self.tenant.settings.summarize_below_percent)
                .unwrap_or(SUMMARIZE_BELOW_PERCENT),
        }
    }

    /// The longest that a hold lives, in microseconds.
    pub fn max_hold_us(&self) -> i64 {
        let profile = self.profile.as_deref();
        let max = profile.and_then(|kept| kept.profile.max_hold_us);
        max.unwrap_or(MAX_HOLD_US)
    }

    /// Every rule, in the order in which they are checked.
    pub fn rules(&self) -> Arc<[Rule]> {
        Arc::clone(&self.rules)
    }

    /// The rules that count what is used of any of these models, in the order in which they are
    /// checked.
    pub fn covering<'a>(
        &self,
        provider: &str,
        mut models: impl Iterator<Item = &'a str> + Clone,
    ) -> Arc<[Rule]> {
        if !self.restricted {
            return Arc::clone(&self.rules);
        }
        let covering = self.rules.iter().filter(|rule| {
            let mut models = models.by_ref().clone();
            models.any(|model| rule.limit.covers(provider, model))
        });
        covering.cloned().collect()
    }
}

#[cfg(test)]
#[path = "effective_tests.rs"]
mod tests;
