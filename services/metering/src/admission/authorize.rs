//! Asking whether a call may run.

use tokenmeter_identity::Caller;
use tokenmeter_model::bounds::{self, Violation};
use tokenmeter_model::event::Thinking;
use tokenmeter_model::fingerprint::{Canonical, Fingerprint};
use tokenmeter_model::limit::{Amounts, Enforcement, Estimate, MAX_AMOUNT, Metric};
use tokenmeter_model::price::{Price, ceiling};
use tokenmeter_model::tier::ServiceTier;
use tokenmeter_store::books::TenantBook;
use tokenmeter_store::counters::{self, Ask, Hold, Owner, Rule};
use tokenmeter_store::rules::{Effective, MAX_HOLD_US};

use super::notes::Refused;
use super::words::Asked;
use super::{Admission, Refusal, States, TokenBudget};
use crate::error::Error;
use crate::service::canonical_name;

/// The shortest that a hold lives, in microseconds.
pub(super) const MIN_HOLD_US: i64 = 1_000_000;

/// Whose call it is and of which model, as asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Call {
    /// The user; empty means the caller.
    pub user_id: String,
    /// The team; empty means the caller's.
    pub team_id: String,
    /// The session; empty means none.
    pub session_id: String,
    /// The turn in it.
    pub turn: Option<i64>,
    /// Who serves the call.
    pub provider: String,
    /// The model.
    pub model: String,
    /// The tier asked for, in the provider's word; empty means standard.
    pub service_tier: String,
    /// Extended thinking as asked for.
    pub thinking: Option<Thinking>,
    /// Labels for live events, sorted by key.
    pub labels: Vec<(String, String)>,
}

/// Asks whether a call may run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Authorize {
    /// Names the question.
    pub request_id: String,
    /// The call.
    pub call: Call,
    /// What it may use at most.
    pub estimate: Estimate,
    /// How long the hold shall live, in microseconds; none means 10 minutes.
    pub hold_us: Option<i64>,
    /// Whether to decide only.
    pub dry_run: bool,
}

/// Whether a call may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorization {
    /// What it holds; none if it was refused or nothing was to be held.
    pub hold: Option<Hold>,
    /// Which limit refused; none if the call may run.
    pub refusal: Option<Refusal>,
    /// Limits in shadow mode that would have refused.
    pub shadow_refusals: Vec<Refusal>,
    /// How every rule that applies stands.
    pub states: States,
    /// The token budget of the session, if it has one.
    pub session_budget: Option<TokenBudget>,
    /// Whether the request was answered before.
    pub replayed: bool,
    /// Whether the model has a price.
    pub price_found: bool,
}

impl Admission {
    /// Decides about a call, and holds its estimate if it may run.
    ///
    /// # Errors
    /// Why nothing was decided.
    pub async fn authorize(
        &self,
        caller: &Caller,
        mut asked: Authorize,
    ) -> Result<Authorization, Error> {
        let call = &mut asked.call;
        for (field, own) in [
            (&mut call.user_id, &caller.user),
            (&mut call.team_id, &caller.team_id),
        ] {
            if field.is_empty() {
                field.clone_from(own);
            }
        }
        asked.check()?;
        let book = self.books.of(&caller.tenant).await?;
        asked.call.provider = canonical_name(&book, &asked.call.provider)
            .ok_or_else(|| Error::UnknownProvider("call.provider", asked.call.provider.clone()))?;
        let owner = asked.owner(caller);
        let effective = self.rules.of(&caller.tenant, &owner).await?;
        let now_us = (self.clock)();
        let question = Question::new(&asked, &effective, &book, now_us);
        let ask = Ask {
            request_id: asked.request_id.clone(),
            fingerprint: asked.fingerprint(),
            reservation_id: new_id(),
            owner,
            provider: asked.call.provider.clone(),
            model: asked.call.model.clone(),
            price_version: question.price.map(|price| price.version),
            amounts: question.asked_of_counters(),
            life_us: life(asked.hold_us, &effective),
            rules: question.rules.clone(),
            dry_run: asked.dry_run,
        };
        let place = self.place(&caller.tenant, &effective.tenant.zoned);
        let decided = self
            .warm(place, || self.counters.admit(place, &ask))
            .await?;
        let (hold, refused, replayed, standings) = match decided {
            counters::Admission::Admitted {
                hold,
                replayed,
                standings,
            } => (Some(hold), None, replayed, standings),
            counters::Admission::Refused { rule, standings } => {
                (None, Some(rule), false, standings)
            }
            counters::Admission::RequestConflict => {
                return Err(Error::RequestConflict(asked.request_id));
            }
        };
        let mut states = States {
            rules: ask.rules,
            standings,
        };
        let words = Asked {
            amounts: question.amounts,
            whole: question.amounts,
            unpriced: question.unpriced.then_some(ask.model.as_str()),
            now_us,
        };
        words.correct(&mut states);
        if !asked.dry_run && !replayed {
            let refused = Refused {
                owner: &ask.owner,
                model: &ask.model,
                asked: words.amounts,
                now_us,
            };
            self.notes.hits(&caller.tenant, &states, &refused);
        }
        Ok(Authorization {
            refusal: refused.and_then(|rule| words.refusal(&states, rule)),
            shadow_refusals: words.shadows(&states),
            session_budget: TokenBudget::of_states(&effective, &states),
            hold: hold.filter(|_| !asked.dry_run),
            states,
            replayed,
            price_found: question.price.is_some(),
        })
    }
}

/// What is asked of the counters, and under which price.
struct Question<'a> {
    rules: std::sync::Arc<[Rule]>,
    amounts: Amounts,
    price: Option<&'a Price>,
    /// Whether nothing bounds its cost.
    unpriced: bool,
}

impl<'a> Question<'a> {
    fn new(asked: &Authorize, effective: &Effective, book: &'a TenantBook, now_us: i64) -> Self {
        let call = &asked.call;
        let price = book.find(&call.provider, &call.model, now_us);
        let tier = ServiceTier::served(&call.provider, &call.service_tier);
        let amounts = amounts(&asked.estimate, effective, price, tier);
        Self {
            rules: effective.covering(&call.provider, std::iter::once(call.model.as_str())),
            unpriced: amounts.is_none(),
            amounts: amounts.unwrap_or_else(|| {
                let max_output = effective.tenant.max_output_tokens();
                asked.estimate.amounts(max_output, None)
            }),
            price,
        }
    }

    /// What is held. A cost without bound is asked for as the most that there is, where a hard limit of
    /// cost has to refuse it: a request that was admitted before is found all the same.
    fn asked_of_counters(&self) -> Amounts {
        let refuses = |rule: &Rule| {
            let limit = &rule.limit;
            limit.metric == Metric::Cost && limit.hard && limit.enforcement == Enforcement::Block
        };
        match self.unpriced && self.rules.iter().any(refuses) {
            true => Amounts {
                cost_nano_usd: MAX_AMOUNT + 1,
                ..self.amounts
            },
            false => self.amounts,
        }
    }
}

/// What an estimate asks to hold; none if nothing bounds its cost.
pub(super) fn amounts(
    estimate: &Estimate,
    effective: &Effective,
    price: Option<&Price>,
    tier: ServiceTier,
) -> Option<Amounts> {
    let max_output = effective.tenant.max_output_tokens();
    let held = estimate.amounts(max_output, None);
    let cost = match (estimate.cost_nano_usd, price) {
        (Some(cost), _) => cost,
        (None, Some(price)) => ceiling(price, tier, &held).ok()?,
        (None, None) => return None,
    };
    Some(estimate.amounts(max_output, Some(cost)))
}

/// How long a hold lives: as asked, but no longer than the profile allows.
pub(super) fn life(asked_us: Option<i64>, effective: &Effective) -> i64 {
    let asked_us = asked_us.unwrap_or(MAX_HOLD_US);
    asked_us.min(effective.max_hold_us())
}

/// The bounds of a hold's life.
pub(super) fn check_life(hold_us: Option<i64>, out: &mut Vec<Violation>) {
    if hold_us.is_some_and(|us| us < MIN_HOLD_US) {
        let text = "is shorter than 1 s; send 1 s or more, or leave it out for 10 minutes";
        out.push(Violation::new("hold_duration", text));
    }
}

/// The estimate as the caller sent it.
pub(super) fn take_estimate(estimate: &Estimate, into: &mut Canonical) {
    into.number(estimate.input_tokens)
        .number(estimate.cache_read_tokens)
        .optional(estimate.max_output_tokens)
        .optional(estimate.cost_nano_usd);
}

/// An id that nobody guesses and no other hold has: 128 random bits.
fn new_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

impl Authorize {
    /// Checks every bound.
    fn check(&self) -> Result<(), Error> {
        let mut out = Vec::new();
        bounds::required_text("request_id", &self.request_id, &mut out);
        let call = &self.call;
        for (field, value) in [
            ("call.user_id", &call.user_id),
            ("call.provider", &call.provider),
            ("call.model", &call.model),
        ] {
            bounds::required_text(field, value, &mut out);
        }
        for (field, value) in [
            ("call.team_id", &call.team_id),
            ("call.session_id", &call.session_id),
            ("call.service_tier", &call.service_tier),
        ] {
            bounds::text(field, value, &mut out);
        }
        if let Some(turn) = call.turn {
            bounds::range("call.turn", turn, 0, bounds::MAX_ORDINAL, &mut out);
        }
        if let Some(budget) = call.thinking.and_then(|thinking| thinking.budget_tokens) {
            let (low, high) = (bounds::MIN_THINKING_BUDGET, bounds::MAX_THINKING_BUDGET);
            bounds::range("call.thinking.budget_tokens", budget, low, high, &mut out);
        }
        let before = out.len();
        bounds::labels(&call.labels, &mut out);
        for violation in &mut out[before..] {
            violation.field = format!("call.{}", violation.field);
        }
        self.estimate.check("estimate", &mut out);
        check_life(self.hold_us, &mut out);
        match out.is_empty() {
            true => Ok(()),
            false => Err(Error::Invalid(out)),
        }
    }

    fn owner(&self, caller: &Caller) -> Owner {
        Owner {
            user_id: self.call.user_id.clone(),
            team_id: self.call.team_id.clone(),
            session_id: self.call.session_id.clone(),
            api_key_id: caller.api_key_id.clone(),
        }
    }

    /// Of everything that is asked, but not of whether it is to be held: nothing is remembered of a dry
    /// run.
    fn fingerprint(&self) -> Fingerprint {
        let call = &self.call;
        let mut taken = Canonical::new();
        taken
            .text("Authorize")
            .text(&call.user_id)
            .text(&call.team_id)
            .text(&call.session_id)
            .optional(call.turn)
            .text(&call.provider)
            .text(&call.model)
            .text(&call.service_tier)
            .optional(call.thinking.map(|thinking| i64::from(thinking.enabled)))
            .optional(call.thinking.and_then(|thinking| thinking.budget_tokens))
            .labels(&call.labels);
        take_estimate(&self.estimate, &mut taken);
        taken.optional(self.hold_us).finish()
    }
}
