//! What the ledger keeps for limits: profiles, who has which, own limits, settings of tenants, token
//! budgets of sessions, hits, and the sums that counters begin with.
//!
//! Profiles of the tenant '' ship with the migration; a tenant that updates one has a row of its own
//! from then on. Every change raises one version over all tenants, in its transaction, so that who has
//! limits cached can tell in one read whether anything changed.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokenmeter_model::id::TenantId;
use tokenmeter_model::limit::{
    Enforcement, Limit, Metric, OvershootCause, Profile, Scope, Window, Zoned,
};

use super::correction::Request;
use super::{Error, Range};
use crate::counters::{CounterKey, Seed, Seen};

/// Profiles of a tenant, beside those that ship.
pub const MAX_PROFILES: i64 = 1_000;

/// A profile as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredProfile {
    /// The profile.
    pub profile: Profile,
    /// Names this state of it.
    pub etag: String,
    /// Whether it ships with tokenmeter, changed by the tenant or not.
    pub shipped: bool,
    /// When it was created, in microseconds since the Unix epoch.
    pub created_us: i64,
    /// When it was last changed.
    pub updated_us: i64,
}

/// Who has which profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// What kind of subject: a user, a team, or the tenant.
    pub scope: Scope,
    /// The subject; empty for the tenant.
    pub subject: String,
    /// The profile.
    pub profile_id: String,
    /// When it was assigned, in microseconds since the Unix epoch.
    pub assigned_us: i64,
    /// Who assigned it.
    pub assigned_by: String,
}

/// What one subject has of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubjectLimits {
    /// The profile that is assigned to it.
    pub profile_id: Option<String>,
    /// Its own limits.
    pub limits: Vec<Limit>,
}

/// What a tenant's administrator decided. Absent fields have their defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TenantSettings {
    /// What people call the tenant.
    pub display_name: String,
    /// The IANA zone of its days and months; none means the one that the server is configured with.
    pub time_zone: Option<String>,
    /// The zone that applied before, and when `time_zone` takes effect, in microseconds since the Unix
    /// epoch: the first instant of the next month of the zone before. None if it always did.
    pub zone_before: Option<(Option<String>, i64)>,
    /// The profile of users without one; none means "free".
    pub default_profile_id: Option<String>,
    /// Output tokens that are held where an estimate does not say; none means 4,096.
    pub default_max_output_tokens: Option<i64>,
    /// The remaining share of a session's budget below which to summarize, in per cent; none means 20.
    pub summarize_below_percent: Option<i32>,
}

/// A tenant's settings as they stand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredTenant {
    /// The settings.
    pub settings: TenantSettings,
    /// Names this state; empty if nothing was ever set.
    pub etag: String,
    /// When they were last changed; none if never.
    pub updated_us: Option<i64>,
}

/// A change of what limits there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LimitChange {
    /// Adds a profile.
    CreateProfile(Profile),
    /// Replaces a profile; a non-empty etag has to match.
    UpdateProfile {
        /// The whole new profile.
        profile: Profile,
        /// The state that it is a change of.
        etag: String,
    },
    /// Deletes a profile.
    DeleteProfile {
        /// The profile.
        profile_id: String,
        /// The state that is deleted.
        etag: String,
    },
    /// Gives a subject a profile.
    Assign {
        /// What kind of subject.
        scope: Scope,
        /// The subject; empty for the tenant.
        subject: String,
        /// The profile.
        profile_id: String,
    },
    /// Takes the profile from a subject.
    Unassign {
        /// What kind of subject.
        scope: Scope,
        /// The subject.
        subject: String,
    },
    /// Replaces the own limits of a subject.
    SetLimits {
        /// What kind of subject.
        scope: Scope,
        /// The subject.
        subject: String,
        /// All its own limits.
        limits: Vec<Limit>,
    },
    /// Replaces the settings of the tenant.
    UpdateTenant {
        /// The whole new settings.
        settings: TenantSettings,
        /// The state that they are a change of; empty passes.
        etag: String,
    },
    /// Sets the size or rules of a session's token budget.
    SetBudget {
        /// The session.
        session_id: String,
        /// The new size; none leaves it.
        budget_max: Option<i64>,
        /// Whether calls beyond it are refused; none leaves it.
        enforced: Option<bool>,
        /// Below which share to summarize; none leaves it.
        summarize_below_percent: Option<i32>,
    },
    /// Sets what was used of a session's budget back to 0: takes what its session used until now as
    /// the base, in the same transaction.
    ResetBudget {
        /// The session.
        session_id: String,
        /// Whether the size goes back to what a new session starts with.
        restore_default: bool,
    },
}

/// What became of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "one for each call of an administrator"
)]
pub enum LimitOutcome {
    /// It was made, now or by the same request before; nothing else was changed then.
    Done {
        /// The profile that was created or updated; as the first request left it.
        profile: Option<StoredProfile>,
        /// The profile that an assignment replaced or took away.
        previous_profile_id: Option<String>,
        /// The assignment, where one was made.
        assignment: Option<Assignment>,
    },
    /// The request's name stands for another request; nothing changed.
    RequestConflict,
    /// There is no such profile, as one to change or to give; nothing changed.
    NotFound,
    /// There is such a profile already; nothing changed.
    Exists,
    /// The profile, or the settings, were changed since; nothing changed.
    EtagMismatch,
    /// The profile to delete is assigned, the tenant's default, or shipped; nothing changed.
    InUse,
    /// There are [`MAX_PROFILES`]; nothing changed.
    Full,
}

/// A session's token budget as it was set. Its bases are taken off what was used; what was voided or
/// dropped since can make that less than nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Budget {
    /// Its size in tokens; none means what a new session starts with.
    pub budget_max: Option<i64>,
    /// Whether calls beyond it are refused; none means as the profile says.
    pub enforced: Option<bool>,
    /// Below which share to summarize, in per cent; none means as the tenant says.
    pub summarize_below_percent: Option<i32>,
    /// Prompt tokens that the session had used when the count was set back.
    pub base_prompt: i64,
    /// Output tokens, likewise.
    pub base_completion: i64,
    /// Estimated tokens of tools, likewise.
    pub base_tools: i64,
    /// When the budget was last changed, in microseconds since the Unix epoch.
    pub updated_us: i64,
}

/// How a session's budget stands in the ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BudgetUse {
    /// The budget, if one was set.
    pub budget: Option<Budget>,
    /// The user of the session's first event; empty if there is none.
    pub user_id: String,
    /// Prompt tokens of the session over its life.
    pub prompt: i64,
    /// Output tokens of it.
    pub completion: i64,
    /// Estimated tokens of its tools, as far as uses of tools are kept.
    pub tools: i64,
    /// The model of its last event; empty if no event is kept.
    pub model: String,
    /// When its use last changed, in microseconds since the Unix epoch; 0 if never.
    pub updated_us: i64,
}

/// Refusals and hits of one limit by one subject within a second. All but the count is of the first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LimitHit {
    /// The second, in microseconds since the Unix epoch.
    pub second_us: i64,
    /// The limit's name.
    pub limit_name: String,
    /// Whose use it counts.
    pub scope: Scope,
    /// The subject.
    pub subject: String,
    /// What it counts.
    pub metric: Metric,
    /// Over which time.
    pub window: Window,
    /// Whether calls were refused, or went beyond, or only would have been refused (shadow).
    pub enforcement: Enforcement,
    /// Whether the limit fails closed when counters are lost.
    pub hard: bool,
    /// The profile that the limit is from; empty for an own limit.
    pub profile_id: String,
    /// The user of the call.
    pub user_id: String,
    /// Its session; empty if it had none.
    pub session_id: String,
    /// Its model.
    pub model: String,
    /// The most that may be used.
    pub limit: i64,
    /// What was used.
    pub used: i64,
    /// What was held.
    pub held: i64,
    /// What the call asked for.
    pub asked: i64,
    /// How many calls, at least 1.
    pub count: i64,
}

/// Which hits to list; empty and absent fields do not filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HitQuery {
    /// Only hits whose first call was this user's.
    pub user_id: String,
    /// Only in this range.
    pub range: Option<Range>,
    /// Only of this scope.
    pub scope: Option<Scope>,
    /// Only of this subject.
    pub subject: String,
    /// Only of limits of this name.
    pub limit_name: String,
    /// Only those before this one in the order of the list (its second, and its number in the ledger).
    pub before: Option<(i64, i64)>,
    /// At most so many.
    pub limit: i64,
}

/// What an event used beyond a limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Overshoot {
    /// The event.
    pub event_id: String,
    /// The limit's name.
    pub limit_name: String,
    /// Whose use it counts.
    pub scope: Scope,
    /// The subject.
    pub subject: String,
    /// What it counts.
    pub metric: Metric,
    /// Over which time.
    pub window: Window,
    /// By how much, at least 1.
    pub amount: i64,
    /// Why.
    pub cause: OvershootCause,
}

/// Limits in the ledger.
#[async_trait]
pub trait Limits {
    /// Raised by every change of any tenant's profiles, assignments, limits or settings; budgets too.
    async fn limits_version(&self) -> Result<i64, Error>;

    /// A tenant's settings.
    async fn tenant_settings(&self, tenant: &TenantId) -> Result<StoredTenant, Error>;

    /// A tenant's profiles by id, those that ship included, after `after`.
    async fn profiles(
        &self,
        tenant: &TenantId,
        after: &str,
        limit: i64,
    ) -> Result<Vec<StoredProfile>, Error>;

    /// A profile: the tenant's own, else the shipped one.
    async fn profile(
        &self,
        tenant: &TenantId,
        profile_id: &str,
    ) -> Result<Option<StoredProfile>, Error>;

    /// What subjects have of their own, in the order asked.
    async fn subject_limits(
        &self,
        tenant: &TenantId,
        subjects: &[(Scope, &str)],
    ) -> Result<Vec<SubjectLimits>, Error>;

    /// Assignments by the word of the scope, then subject, after one; of one scope or profile if asked
    /// (an empty profile id does not filter).
    async fn assignments(
        &self,
        tenant: &TenantId,
        scope: Option<Scope>,
        profile_id: &str,
        after: Option<(Scope, &str)>,
        limit: i64,
    ) -> Result<Vec<Assignment>, Error>;

    /// Makes a change and remembers its request, in one transaction. What was not done is not
    /// remembered: the same request is tried anew.
    async fn change_limits(
        &self,
        request: Request,
        change: LimitChange,
    ) -> Result<LimitOutcome, Error>;

    /// How a session's budget stands, in one snapshot.
    async fn budget(&self, tenant: &TenantId, session_id: &str) -> Result<BudgetUse, Error>;

    /// Adds hits: those of the same limit, subject and second add up. All of them or none.
    async fn add_hits(&self, tenant: &TenantId, hits: &[LimitHit]) -> Result<(), Error>;

    /// Hits, newest first, each with its number in the ledger.
    async fn hits(
        &self,
        tenant: &TenantId,
        query: &HitQuery,
    ) -> Result<Vec<(i64, LimitHit)>, Error>;

    /// Adds overshoots, all of them or none; of one event, limit and subject the first stands.
    async fn add_overshoots(
        &self,
        tenant: &TenantId,
        overshoots: &[Overshoot],
    ) -> Result<(), Error>;

    /// Overshoots of events, by event, then scope and subject.
    async fn overshoots(
        &self,
        tenant: &TenantId,
        event_ids: &[&str],
    ) -> Result<Vec<Overshoot>, Error>;

    /// The sums that counters begin with, all of one snapshot: per bucket that may still count at
    /// `now_us`, what is charged in it. A call counts where its first line does. Of a day or month that
    /// begins more than an hour after `now_us` there is nothing: nothing is charged so far ahead.
    async fn seeds(
        &self,
        tenant: &TenantId,
        zoned: &Zoned,
        keys: &[CounterKey],
        now_us: i64,
    ) -> Result<(Vec<Seed>, Seen), Error>;
}
