//! Retention: old events go, and no total changes.
//!
//! A ledger is *sealed* before the first instant of some month of UTC: events charged before it are
//! refused from then on, so that their sums stand still, and are then dropped month by month, each
//! with its sums moved into `sealed_totals` in the same transaction. Keys outlive their events: an
//! id that was accepted once is never accepted again.

use std::collections::BTreeMap;

use async_trait::async_trait;
use tokenmeter_model::id::TenantId;
use tokenmeter_model::zone::Zone;

use super::{Error, Totals};

/// Microseconds of a day.
const DAY_US: i64 = 86_400_000_000;

/// What one step of a purge did, or in a dry run all that a purge would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Purged {
    /// Events charged before this are refused: the first instant of a month of UTC, in microseconds
    /// since the Unix epoch. 0 when nothing was ever sealed. In a dry run, what it would be.
    pub sealed_before_us: i64,
    /// What was dropped, by tenant; one of whom nothing was is absent.
    pub tenants: BTreeMap<TenantId, Dropped>,
    /// Whether nothing is left to drop. If false, call again: it goes on.
    pub complete: bool,
}

/// What was dropped of one tenant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Usage events.
    pub events: i64,
    /// Tool invocations, messages, reports of champion cases, and limit hits.
    pub other_rows: i64,
    /// The sums that moved into sealed totals.
    pub sealed: Totals,
}

impl Dropped {
    /// Adds what another step dropped. Sums that would pass 64 bits stay at the bound: they are for
    /// the report only.
    pub fn add(&mut self, other: &Dropped) {
        self.events += other.events;
        self.other_rows += other.other_rows;
        self.sealed = self.sealed.saturating_add(&other.sealed);
    }
}

/// The latest time before which a server may drop events: `days` before `now_us`, but never any
/// of the current calendar month, whose figures by model are read from its events. Purge rounds it
/// down to a month of UTC.
pub fn cut(now_us: i64, days: i64, zone: &Zone) -> i64 {
    let kept = now_us.saturating_sub(days.saturating_mul(DAY_US));
    kept.min(zone.start_of_month(now_us))
}

/// The first instant of the month of UTC that a time falls into, in microseconds since the Unix
/// epoch.
pub fn month_of(at_us: i64) -> i64 {
    Zone::utc().start_of_month(at_us)
}

/// Dropping what is older than retention.
#[async_trait]
pub trait Retention: Send + Sync + 'static {
    /// Events charged before this are refused, and are being or have been dropped: the first
    /// instant of a month of UTC in microseconds since the Unix epoch; 0 when nothing is sealed.
    async fn sealed_before(&self) -> Result<i64, Error>;

    /// Seals the ledger, all tenants of it, before the month of UTC that `before_us` falls into, and
    /// drops some of what is older: a bounded step, so call until [`Purged::complete`]. What was
    /// sealed before stays sealed; an earlier `before_us` drops nothing that a later one has not.
    /// A dry run changes nothing and answers for everything at once.
    ///
    /// Safe to call twice, from several nodes at once, and after a call that died on the way. After
    /// every step every total is what it was before, exactly.
    async fn purge(&self, before_us: i64, dry_run: bool) -> Result<Purged, Error>;

    /// The earliest charge time of a tenant's events that are kept, in microseconds since the Unix
    /// epoch; none when it has none.
    async fn oldest_kept(&self, tenant: &TenantId) -> Result<Option<i64>, Error>;

    /// The position after which nothing of a tenant's log has been dropped; 0 when nothing ever was.
    /// Who follows the log from an earlier one would miss what was dropped.
    async fn log_start(&self, tenant: &TenantId) -> Result<i64, Error>;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-03-15T12:00:00Z.
    const NOW: i64 = 1_773_576_000_000_000;

    #[test]
    fn the_current_month_is_never_cut_into() {
        let utc = Zone::utc();
        assert_eq!(cut(NOW, 90, &utc), NOW - 90 * DAY_US);
        let first = month_of(NOW);
        assert_eq!(cut(NOW, 1, &utc), first);
        assert_eq!(NOW - first, 14 * DAY_US + DAY_US / 2);
        // Where the month begins before that of UTC, its first hours are in the month before.
        let ahead = Zone::named("Asia/Kolkata").unwrap();
        assert_eq!(cut(NOW, 1, &ahead), first - DAY_US / 24 * 11 / 2);
        assert!(month_of(cut(NOW, 1, &ahead)) < first);
    }
}
