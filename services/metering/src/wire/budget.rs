//! Token budgets of sessions.

use tokenmeter_api::convert::time;
use tokenmeter_api::v1;

use crate::admission::TokenBudget;

/// A session's budget as the contract has it.
pub(crate) fn token_budget(budget: TokenBudget) -> v1::TokenBudget {
    v1::TokenBudget {
        total_tokens: budget.total(),
        remaining_tokens: budget.remaining(),
        should_summarize: budget.should_summarize(),
        session_id: budget.session_id,
        user_id: budget.user_id,
        prompt_tokens: budget.prompt,
        completion_tokens: budget.completion,
        tool_tokens: budget.tools,
        budget_max: budget.max,
        held_tokens: budget.held,
        model: budget.model,
        last_updated: (budget.updated_us > 0).then(|| time::from_micros(budget.updated_us)),
        enforced: budget.enforced,
        summarize_below_percent: budget.summarize_below_percent,
    }
}
