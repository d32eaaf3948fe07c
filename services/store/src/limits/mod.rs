//! What the ledger keeps for limits, as both backends do it: the statements mean the same in both
//! dialects. A backend adds its transactions, and the statements that are its own.

mod changes;
mod hits;

use serde::{Deserialize, Serialize};
use sqlx::AssertSqlSafe;
use tokenmeter_model::limit::Scope;

pub(crate) use self::changes::change;
pub(crate) use self::hits::{MAX_ROWS, coalesced, hits, in_order};
use crate::driver::{Bind, Driver};
use crate::ledger::Error;
use crate::ledger::correction::{Remembered, Request};
use crate::ledger::limits::{
    Assignment, BudgetUse, LimitOutcome, StoredProfile, StoredTenant, SubjectLimits,
};
use crate::rows::{Row as _, limits};

/// What is remembered of a change: what it was answered.
#[derive(Serialize, Deserialize)]
struct Done {
    profile: Option<StoredProfile>,
    previous_profile_id: Option<String>,
    assignment: Option<Assignment>,
}

/// What a change is remembered as; none if it was not made.
pub(crate) fn answer(outcome: &LimitOutcome) -> Result<Option<String>, Error> {
    let LimitOutcome::Done {
        profile,
        previous_profile_id,
        assignment,
    } = outcome.clone()
    else {
        return Ok(None);
    };
    let done = Done {
        profile,
        previous_profile_id,
        assignment,
    };
    json(&done).map(Some)
}

/// What a request is answered that was made before.
pub(crate) fn replay(before: &Remembered, request: &Request) -> Result<LimitOutcome, Error> {
    if !before.is(request) {
        return Ok(LimitOutcome::RequestConflict);
    }
    let done: Done = serde_json::from_str(&before.answer)
        .map_err(|error| Error::Corrupt(format!("an answer: {error}")))?;
    Ok(LimitOutcome::Done {
        profile: done.profile,
        previous_profile_id: done.previous_profile_id,
        assignment: done.assignment,
    })
}

/// A value as it is kept.
pub(crate) fn json<T: Serialize + ?Sized>(value: &T) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|error| Error::Corrupt(error.to_string()))
}

/// The version of all limits.
pub(crate) async fn version(on: &mut impl Driver) -> Result<i64, Error> {
    let row = on.row("SELECT version FROM limits_version WHERE id = 1", &[]);
    let row = row.await?;
    row.ok_or_else(|| Error::Corrupt("no version of limits".into()))?
        .value("version")
}

/// A tenant's settings.
pub(crate) async fn tenant(on: &mut impl Driver, tenant: &str) -> Result<StoredTenant, Error> {
    let sql = "SELECT settings, version, updated_at FROM tenants WHERE tenant_id = $1";
    let row = on.row(sql, &[tenant.into()]).await?;
    row.map_or_else(|| Ok(StoredTenant::default()), |row| limits::tenant(&row))
}

/// Profiles by id after one.
pub(crate) async fn profiles(
    on: &mut impl Driver,
    tenant: &str,
    after: &str,
    limit: i64,
) -> Result<Vec<StoredProfile>, Error> {
    let sql = include_str!("queries/profiles.sql").replace("{which}", "profile_id > $2");
    let sql = AssertSqlSafe(format!("{sql} LIMIT $3"));
    let binds = [tenant.into(), after.into(), limit.into()];
    let rows = on.rows(sql, &binds).await?;
    rows.iter().map(limits::profile).collect()
}

/// One profile.
pub(crate) async fn profile(
    on: &mut impl Driver,
    tenant: &str,
    profile_id: &str,
) -> Result<Option<StoredProfile>, Error> {
    let sql = include_str!("queries/profiles.sql").replace("{which}", "profile_id = $2");
    let binds = [tenant.into(), profile_id.into()];
    let row = on.row(AssertSqlSafe(sql), &binds).await?;
    row.as_ref().map(limits::profile).transpose()
}

/// What subjects have of their own, in the order asked, from one snapshot.
pub(crate) async fn subject_limits(
    on: &mut impl Driver,
    tenant: &str,
    subjects: &[(Scope, &str)],
) -> Result<Vec<SubjectLimits>, Error> {
    if subjects.is_empty() {
        return Ok(Vec::new());
    }
    let mut binds = vec![Bind::from(tenant)];
    let mut asked = Vec::with_capacity(subjects.len());
    for (n, (scope, subject)) in subjects.iter().enumerate() {
        binds.extend([Bind::from(scope.as_str()), Bind::from(*subject)]);
        asked.push(format!("({n}, ${}, ${})", 2 * n + 2, 2 * n + 3));
    }
    let asked = asked.join(", ");
    let sql = include_str!("queries/subject_limits.sql").replace("{asked}", &asked);
    let rows = on.rows(AssertSqlSafe(sql), &binds).await?;
    let own = rows.iter().map(|row| {
        Ok(SubjectLimits {
            profile_id: row.value("profile_id")?,
            limits: row.json("limits")?.unwrap_or_default(),
        })
    });
    own.collect()
}

/// Assignments by the word of the scope, then subject.
pub(crate) async fn assignments(
    on: &mut impl Driver,
    tenant: &str,
    scope: Option<Scope>,
    profile_id: &str,
    after: Option<(Scope, &str)>,
    limit: i64,
) -> Result<Vec<Assignment>, Error> {
    let mut filter = Filter::of(tenant);
    if let Some(scope) = scope {
        filter.add("scope =", scope.as_str());
    }
    if !profile_id.is_empty() {
        filter.add("profile_id =", profile_id);
    }
    if let Some((scope, subject)) = after {
        filter.add_pair("(scope, subject) >", scope.as_str(), subject);
    }
    let sql = format!(
        "SELECT * FROM profile_assignments WHERE {} ORDER BY scope, subject LIMIT {}",
        filter.conditions, limit
    );
    let rows = on.rows(AssertSqlSafe(sql), &filter.binds).await?;
    rows.iter().map(limits::assignment).collect()
}

/// How a session's budget stands.
pub(crate) async fn budget(
    on: &mut impl Driver,
    tenant: &str,
    session_id: &str,
) -> Result<BudgetUse, Error> {
    let sql = include_str!("queries/budget.sql");
    let row = on.row(sql, &[tenant.into(), session_id.into()]).await?;
    let row = row.ok_or_else(|| Error::Corrupt("no answer about a budget".into()))?;
    limits::budget_use(&row)
}

/// The conditions of a list, joined by AND, and what they are about.
struct Filter<'a> {
    conditions: String,
    binds: Vec<Bind<'a>>,
}

impl<'a> Filter<'a> {
    /// What a tenant has.
    fn of(tenant: &'a str) -> Self {
        Self {
            conditions: "tenant_id = $1".into(),
            binds: vec![tenant.into()],
        }
    }

    /// Only what compares so with a value.
    fn add(&mut self, comparison: &str, value: impl Into<Bind<'a>>) {
        self.binds.push(value.into());
        self.conditions += &format!(" AND {comparison} ${}", self.binds.len());
    }

    /// Only what compares so with two values.
    fn add_pair(
        &mut self,
        comparison: &str,
        first: impl Into<Bind<'a>>,
        second: impl Into<Bind<'a>>,
    ) {
        self.binds.extend([first.into(), second.into()]);
        let last = self.binds.len();
        self.conditions += &format!(" AND {comparison} (${}, ${last})", last - 1);
    }
}
