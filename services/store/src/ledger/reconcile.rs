//! Reconciliation: every total computed again from what it is the sum of, and where the two differ.
//!
//! A lifetime total is sealed totals + Σ lines; a quarter-hour that is not sealed is Σ lines. Both
//! sides are read in one snapshot, so that usage recorded meanwhile is no drift, and a drift is
//! corrected by adding the difference, so that it is not lost either.

use async_trait::async_trait;
use tokenmeter_model::id::TenantId;
use tokenmeter_model::ratio;

use super::Error;
use super::correction::Request;

/// Most drifts that a run records and corrects; further ones are only counted, and found by the next
/// run.
pub const MAX_DRIFTS: usize = 100_000;
/// Drift is flagged for review from one part in so many on: 5 %.
const FLAGGED_FROM: u128 = 20;

/// Whose totals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Of a user.
    User,
    /// Of a team.
    Team,
    /// Of a session.
    Session,
    /// Of a model, as `provider/model`.
    Model,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 4] = [Self::User, Self::Team, Self::Session, Self::Model];

    /// As the ledger spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Team => "team",
            Self::Session => "session",
            Self::Model => "model",
        }
    }

    /// Reads [`Scope::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text)
    }
}

/// One total.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TotalKey {
    /// Whose it is.
    pub scope: Scope,
    /// Of whom.
    pub subject: String,
    /// The quarter-hour since the Unix epoch that it is of; 0 is the lifetime.
    pub bucket: i64,
}

/// What became of a drift.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriftState {
    /// It was reported only.
    Reported,
    /// It was corrected.
    Corrected,
    /// It waits for review.
    Flagged,
    /// It was reviewed and left as it is.
    Accepted,
}

impl DriftState {
    /// Every state.
    pub const ALL: [Self; 4] = [
        Self::Reported,
        Self::Corrected,
        Self::Flagged,
        Self::Accepted,
    ];

    /// As the ledger spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reported => "reported",
            Self::Corrected => "corrected",
            Self::Flagged => "flagged",
            Self::Accepted => "accepted",
        }
    }

    /// Reads [`DriftState::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// One field of a total that differed from what it is the sum of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// Its number in the ledger, in order of discovery.
    pub number: i64,
    /// The run that found it.
    pub reconcile_id: String,
    /// The total.
    pub key: TotalKey,
    /// The field, as in [`super::Totals::SUMS`].
    pub field: String,
    /// What stood there; 0 where the total was missing.
    pub recorded: i64,
    /// What it should have been; 0 where nothing adds up to it.
    pub computed: i64,
    /// What became of it.
    pub state: DriftState,
    /// When it was found, in microseconds since the Unix epoch.
    pub found_us: i64,
    /// When it was corrected or accepted.
    pub resolved_us: Option<i64>,
}

impl Drift {
    /// |recorded − computed| ÷ |computed| in millionths, rounded half to even; none if computed is 0,
    /// or when it does not fit.
    pub fn ppm(&self) -> Option<i64> {
        let difference = i64::try_from(self.recorded.abs_diff(self.computed)).ok()?;
        ratio::ppm(difference, self.computed.checked_abs()?)
    }
}

/// Whether a drift is too large to be corrected without a review: 5 % and more, or of nothing.
pub fn is_large(recorded: i64, computed: i64) -> bool {
    let difference = u128::from(recorded.abs_diff(computed));
    difference * FLAGGED_FROM >= u128::from(computed.unsigned_abs())
}

/// What a run found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Totals that were computed again.
    pub totals_checked: i64,
    /// Fields that differed, those past [`MAX_DRIFTS`] included.
    pub drift_count: i64,
    /// How many were corrected.
    pub corrected: i64,
    /// How many wait for review.
    pub flagged: i64,
}

/// Which drifts to list; empty and absent fields do not filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DriftQuery {
    /// Only in this state.
    pub state: Option<DriftState>,
    /// Only of this run.
    pub reconcile_id: String,
    /// Largest relative drift first instead of newest first; `before` does not apply then.
    pub largest_first: bool,
    /// Only those found before this one: where the last page ended.
    pub before: Option<i64>,
    /// At most so many.
    pub limit: i64,
}

/// A decision about a flagged drift.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolve {
    /// The request, remembered with its effect; its time is that of the decision.
    pub request: Request,
    /// The drift's number.
    pub number: i64,
    /// Correct it to what its lines add up to now, or leave it.
    pub correct: bool,
    /// Why; remembered with the request.
    pub reason: String,
}

/// What became of a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResolveOutcome {
    /// The drift as it stands; so do all others that were flagged for the same field.
    Resolved(Drift),
    /// There is no such drift; nothing changed.
    NotFound,
    /// It is in another state than flagged; nothing changed.
    NotFlagged(DriftState),
    /// The request's name stands for another request; nothing changed.
    RequestConflict,
}

/// Comparing totals with what they are the sums of.
#[async_trait]
pub trait Reconciling: Send + Sync + 'static {
    /// Computes the totals of a tenant again, those of one user only unless `user_id` is empty, and
    /// records every field that differs under `reconcile_id`. With `fix`, drift below 5 % is
    /// corrected; 5 % and more, and what should be 0, is flagged either way.
    ///
    /// A repeat of the same `reconcile_id` records no drift twice. Several runs may race: a drift is
    /// never corrected twice.
    async fn reconcile(
        &self,
        tenant: &TenantId,
        user_id: &str,
        fix: bool,
        reconcile_id: &str,
        now_us: i64,
    ) -> Result<Reconciled, Error>;

    /// Drifts that were found, newest first unless asked otherwise.
    async fn drifts(&self, tenant: &TenantId, query: &DriftQuery) -> Result<Vec<Drift>, Error>;

    /// Corrects or accepts a flagged drift.
    async fn resolve_drift(&self, resolve: Resolve) -> Result<ResolveOutcome, Error>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_per_cent_and_more_is_large() {
        assert!(!is_large(1_049, 1_000));
        assert!(is_large(1_050, 1_000));
        assert!(!is_large(951, 1_000));
        assert!(is_large(950, 1_000));
        assert!(is_large(1, 0));
        assert!(is_large(0, 1));
        assert!(!is_large(-999, -1_000));
        assert!(is_large(i64::MIN, i64::MAX));
    }
}
