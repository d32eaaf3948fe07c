//! Rows of limits: profiles, assignments, budgets, hits, overshoots.

use tokenmeter_model::limit::{Enforcement, Metric, OvershootCause, Scope, Window};

use super::Row;
use crate::ledger::Error;
use crate::ledger::limits::{
    Assignment, Budget, BudgetUse, LimitHit, Overshoot, StoredProfile, StoredTenant,
};

/// A profile; `shipped` says whether it ships.
pub(crate) fn profile(row: &impl Row) -> Result<StoredProfile, Error> {
    Ok(StoredProfile {
        profile: row.json("profile")?.ok_or_else(|| missing("profile"))?,
        etag: etag(row)?,
        shipped: row.value("shipped")?,
        created_us: row.value("created_at")?,
        updated_us: row.value("updated_at")?,
    })
}

/// A tenant's settings.
pub(crate) fn tenant(row: &impl Row) -> Result<StoredTenant, Error> {
    Ok(StoredTenant {
        settings: row.json("settings")?.ok_or_else(|| missing("settings"))?,
        etag: etag(row)?,
        updated_us: row.value("updated_at")?,
    })
}

/// Names the state of a row: the version of limits that it came with.
fn etag(row: &impl Row) -> Result<String, Error> {
    Ok(row.value::<i64>("version")?.to_string())
}

/// Who has which profile.
pub(crate) fn assignment(row: &impl Row) -> Result<Assignment, Error> {
    Ok(Assignment {
        scope: scope(row)?,
        subject: row.value("subject")?,
        profile_id: row.value("profile_id")?,
        assigned_us: row.value("assigned_at")?,
        assigned_by: row.value("assigned_by")?,
    })
}

/// How a session's budget stands; `set_at` is null if none was set.
pub(crate) fn budget_use(row: &impl Row) -> Result<BudgetUse, Error> {
    let budget = match row.value::<Option<i64>>("set_at")? {
        None => None,
        Some(updated_us) => Some(Budget {
            budget_max: row.value("budget_max")?,
            enforced: row.value("enforced")?,
            summarize_below_percent: row
                .value::<Option<i64>>("summarize_below_percent")?
                .map(|percent| i32::try_from(percent).map_err(|_| missing("a share")))
                .transpose()?,
            base_prompt: row.value("base_prompt")?,
            base_completion: row.value("base_completion")?,
            base_tools: row.value("base_tools")?,
            updated_us,
        }),
    };
    Ok(BudgetUse {
        budget,
        user_id: row.value("user_id")?,
        prompt: row.figure("prompt")?,
        completion: row.figure("completion")?,
        tools: row.figure("tools")?,
        model: row.value("model")?,
        updated_us: row.figure("used_at")?.max(row.figure("tools_at")?),
    })
}

/// A hit with its number.
pub(crate) fn hit(row: &impl Row) -> Result<(i64, LimitHit), Error> {
    let hit = LimitHit {
        second_us: row.value("second")?,
        limit_name: row.value("limit_name")?,
        scope: scope(row)?,
        subject: row.value("subject")?,
        metric: word(row, "metric", Metric::parse)?,
        window: word(row, "limit_window", Window::parse)?,
        enforcement: word(row, "enforcement", Enforcement::parse)?,
        hard: row.value("hard")?,
        profile_id: row.value("profile_id")?,
        user_id: row.value("user_id")?,
        session_id: row.value("session_id")?,
        model: row.value("model")?,
        limit: row.value("limit_amount")?,
        used: row.value("used")?,
        held: row.value("held")?,
        asked: row.value("asked")?,
        count: row.value("count")?,
    };
    Ok((row.value("number")?, hit))
}

/// What an event used beyond a limit.
pub(crate) fn overshoot(row: &impl Row) -> Result<Overshoot, Error> {
    Ok(Overshoot {
        event_id: row.value("event_id")?,
        limit_name: row.value("limit_name")?,
        scope: scope(row)?,
        subject: row.value("subject")?,
        metric: word(row, "metric", Metric::parse)?,
        window: word(row, "limit_window", Window::parse)?,
        amount: row.value("amount")?,
        cause: word(row, "cause", OvershootCause::parse)?,
    })
}

/// The scope of a row.
pub(crate) fn scope(row: &impl Row) -> Result<Scope, Error> {
    word(row, "scope", Scope::parse)
}

fn word<T>(row: &impl Row, column: &str, parse: fn(&str) -> Option<T>) -> Result<T, Error> {
    let word: &str = row.value(column)?;
    parse(word).ok_or_else(|| Error::Corrupt(format!("{column} {word:.32}")))
}

fn missing(what: &str) -> Error {
    Error::Corrupt(format!("{what} that cannot be read"))
}
