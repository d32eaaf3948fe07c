//! The token budget of a session (R22).

use tokenmeter_identity::{Caller, Role};
use tokenmeter_model::bounds;
use tokenmeter_model::fingerprint::{Canonical, Fingerprint};
use tokenmeter_model::limit::{Metric, Window};
use tokenmeter_store::counters::Owner;
use tokenmeter_store::ledger::correction::Request;
use tokenmeter_store::ledger::limits::{Budget, BudgetUse, LimitChange, LimitOutcome};
use tokenmeter_store::rules::{Effective, SessionBudget};

use super::{Admission, States};
use crate::error::Error;

/// Largest token budget of a session.
const MAX_BUDGET: i64 = 1_000_000_000_000;

/// A session's budget and how it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenBudget {
    /// The session.
    pub session_id: String,
    /// Whose session it is; empty if it is not known yet.
    pub user_id: String,
    /// Prompt tokens used since it was last set back.
    pub prompt: i64,
    /// Output tokens, likewise.
    pub completion: i64,
    /// Estimated tokens of tools, likewise.
    pub tools: i64,
    /// Its size.
    pub max: i64,
    /// What calls in flight have reserved.
    pub held: i64,
    /// The model last used; empty if none was.
    pub model: String,
    /// When it or its use last changed, in microseconds since the Unix epoch; 0 if never.
    pub updated_us: i64,
    /// Whether calls beyond it are refused.
    pub enforced: bool,
    /// Below which remaining share to summarize, in per cent.
    pub summarize_below_percent: i32,
}

/// What to change about a budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BudgetChange {
    /// Its size or rules; none leaves them.
    Set {
        /// The size in tokens.
        budget_max: Option<i64>,
        /// Whether calls beyond it are refused.
        enforced: Option<bool>,
        /// Below which share to summarize, in per cent.
        summarize_below_percent: Option<i32>,
    },
    /// What was used goes back to 0.
    Reset {
        /// The size goes back to what a new session starts with, too.
        restore_default: bool,
    },
}

impl TokenBudget {
    /// Everything that counts against it.
    pub fn total(&self) -> i64 {
        self.prompt
            .saturating_add(self.completion)
            .saturating_add(self.tools)
    }

    /// What is left, never below 0.
    pub fn remaining(&self) -> i64 {
        let taken = self.total().saturating_add(self.held);
        self.max.saturating_sub(taken).max(0)
    }

    /// Whether it is time to shorten the conversation.
    pub fn should_summarize(&self) -> bool {
        let (remaining, max) = (i128::from(self.remaining()), i128::from(self.max));
        let percent = i128::from(self.summarize_below_percent);
        // Of a budget of nothing, nothing is left.
        remaining * 100 < percent * max || (max == 0 && percent > 0)
    }

    /// As the rules of a session stand; none without a session.
    pub(super) fn of_states(effective: &Effective, states: &States) -> Option<Self> {
        let (budget, facts) = (effective.budget()?, effective.session.as_ref()?.now());
        let of = |metric| {
            states.all().find(|(rule, _)| {
                rule.limit.window == Window::Budget && rule.limit.metric == metric
            })
        };
        let (rule, total) = of(Metric::TotalTokens)?;
        let (_, prompt) = of(Metric::InputTokens)?;
        let rest = total.used.saturating_sub(prompt.used).max(0);
        let base = facts.budget.as_ref().map_or(0, |set| set.base_tools);
        let tools = facts.tools.saturating_sub(base).clamp(0, rest);
        let used = Self {
            prompt: prompt.used,
            completion: rest - tools,
            tools,
            ..Self::of_ledger(&rule.subject, &budget, &facts)
        };
        Some(Self {
            held: total.held,
            ..used
        })
    }

    /// As the ledger has it, nothing held.
    fn of_ledger(session_id: &str, budget: &SessionBudget, stored: &BudgetUse) -> Self {
        let none = Budget::default();
        let set = stored.budget.as_ref().unwrap_or(&none);
        Self {
            session_id: session_id.to_owned(),
            user_id: stored.user_id.clone(),
            prompt: stored.prompt.saturating_sub(set.base_prompt),
            completion: stored.completion.saturating_sub(set.base_completion),
            tools: stored.tools.saturating_sub(set.base_tools),
            max: budget.max,
            held: 0,
            model: stored.model.clone(),
            updated_us: stored.updated_us.max(set.updated_us),
            enforced: budget.enforced,
            summarize_below_percent: budget.summarize_below_percent,
        }
    }
}

impl Admission {
    /// The budget of a session; of one that is not known, what it would start with.
    ///
    /// # Errors
    /// Why it is not answered, such as that the session is another user's and the caller reads only
    /// its own.
    pub async fn budget(&self, caller: &Caller, session_id: &str) -> Result<TokenBudget, Error> {
        let mut out = Vec::new();
        bounds::required_text("session_id", session_id, &mut out);
        if !out.is_empty() {
            return Err(Error::Invalid(out));
        }
        let tenant = &caller.tenant;
        let stored = self.ledger.budget(tenant, session_id).await?;
        let own_only = caller.reads_only_itself() && !caller.roles.has(Role::Meter);
        if own_only && !stored.user_id.is_empty() && stored.user_id != caller.user {
            return Err(Error::NotYours);
        }
        let (user_id, team_id) = match stored.user_id.as_str() {
            "" => (&caller.user, caller.team_id.as_str()),
            user if *user == caller.user => (&caller.user, caller.team_id.as_str()),
            _ => (&stored.user_id, ""),
        };
        let owner = Owner {
            user_id: user_id.clone(),
            team_id: team_id.to_owned(),
            session_id: session_id.to_owned(),
            api_key_id: String::new(),
        };
        let (effective, states) = self.states(tenant, &owner).await?;
        let mut budgets = states
            .all()
            .filter(|(rule, _)| rule.limit.window == Window::Budget);
        let held = budgets.find(|(rule, _)| rule.limit.metric == Metric::TotalTokens);
        let budget = effective.budget_as_set(stored.budget.as_ref());
        Ok(TokenBudget {
            held: held.map_or(0, |(_, standing)| standing.held),
            ..TokenBudget::of_ledger(session_id, &budget, &stored)
        })
    }

    /// Changes the budget of a session, and answers how it stands. The same request again changes
    /// nothing.
    ///
    /// # Errors
    /// Why nothing was changed.
    pub async fn change_budget(
        &self,
        caller: &Caller,
        request_id: &str,
        session_id: &str,
        change: BudgetChange,
    ) -> Result<TokenBudget, Error> {
        change.check(request_id, session_id)?;
        let request = Request {
            tenant: caller.tenant.clone(),
            request_id: request_id.to_owned(),
            rpc: change.rpc(),
            fingerprint: change.fingerprint(session_id),
            user_id: caller.user.clone(),
            at_us: (self.clock)(),
        };
        let change = change.of(session_id);
        match self.ledger.change_limits(request, change).await? {
            LimitOutcome::RequestConflict => {
                return Err(Error::RequestConflict(request_id.to_owned()));
            }
            // The others are about profiles.
            _ => self.rules.refresh().await?,
        }
        self.budget(caller, session_id).await
    }
}

impl BudgetChange {
    fn check(&self, request_id: &str, session_id: &str) -> Result<(), Error> {
        let mut out = Vec::new();
        bounds::required_text("request_id", request_id, &mut out);
        bounds::required_text("session_id", session_id, &mut out);
        if let Self::Set {
            budget_max,
            summarize_below_percent,
            ..
        } = self
        {
            if let Some(max) = *budget_max {
                bounds::range("budget_max", max, 0, MAX_BUDGET, &mut out);
            }
            if let Some(percent) = *summarize_below_percent {
                let field = "summarize_below_percent";
                bounds::range(field, percent.into(), 0, 100, &mut out);
            }
        }
        match out.is_empty() {
            true => Ok(()),
            false => Err(Error::Invalid(out)),
        }
    }

    /// The RPC, as requests are remembered.
    fn rpc(&self) -> &'static str {
        match self {
            Self::Set { .. } => "SetTokenBudget",
            Self::Reset { .. } => "ResetTokenBudget",
        }
    }

    fn fingerprint(&self, session_id: &str) -> Fingerprint {
        let mut taken = Canonical::new();
        taken.text(session_id);
        match self {
            Self::Set {
                budget_max,
                enforced,
                summarize_below_percent,
            } => taken
                .optional(*budget_max)
                .optional(enforced.map(i64::from))
                .optional(summarize_below_percent.map(i64::from)),
            Self::Reset { restore_default } => taken.number(i64::from(*restore_default)),
        };
        taken.finish()
    }

    fn of(self, session_id: &str) -> LimitChange {
        let session_id = session_id.to_owned();
        match self {
            Self::Set {
                budget_max,
                enforced,
                summarize_below_percent,
            } => LimitChange::SetBudget {
                session_id,
                budget_max,
                enforced,
                summarize_below_percent,
            },
            Self::Reset { restore_default } => LimitChange::ResetBudget {
                session_id,
                restore_default,
            },
        }
    }
}
