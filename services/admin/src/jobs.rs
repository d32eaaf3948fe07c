//! The periodic jobs: when each is due, and how each stands (R57).

use std::sync::Arc;

use tokenmeter_model::zone::Zone;
use tokenmeter_store::clock::Clock;
use tokenmeter_store::ledger::Ledger;
use tokenmeter_store::ledger::jobs::JobState;

use crate::error::Error;

/// Microseconds of a minute.
const MINUTE_US: i64 = 60_000_000;

/// When a job runs, in the configured time zone. The nights in which clocks are moved may shift a
/// run by that hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// So many minutes past midnight on the first of each month, for the month before.
    Monthly(i64),
    /// So many minutes past midnight of each day.
    Daily(i64),
    /// So many minutes past midnight of each Monday.
    Weekly(i64),
}

/// A periodic job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Its name.
    pub name: &'static str,
    /// When it runs.
    pub schedule: Schedule,
}

impl Plan {
    /// Closes the last month of every user.
    pub const ROLLOVER: Self = Self::new("rollover", Schedule::Monthly(10));
    /// Makes the partitions of the months to come.
    pub const PARTITIONS: Self = Self::new("partitions", Schedule::Daily(30));
    /// Drops events that are older than retention.
    pub const RETENTION: Self = Self::new("retention", Schedule::Daily(60));
    /// Compares every total with its events.
    pub const RECONCILIATION: Self = Self::new("reconciliation", Schedule::Weekly(120));

    const fn new(name: &'static str, schedule: Schedule) -> Self {
        Self { name, schedule }
    }
}

/// A run that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Names its period; that of a later run is greater.
    pub key: String,
    /// Since when it is due, in microseconds since the Unix epoch.
    pub at_us: i64,
}

impl Schedule {
    /// The last run that is due at a time.
    pub fn last(self, zone: &Zone, now_us: i64) -> Due {
        let (mut period_us, minutes) = self.period(zone, now_us);
        if period_us + minutes * MINUTE_US > now_us {
            (period_us, _) = self.period(zone, period_us - 1);
        }
        let key = match self {
            Self::Monthly(_) => zone.month(period_us - 1),
            Self::Daily(_) | Self::Weekly(_) => zone.date(period_us),
        };
        Due {
            key,
            at_us: period_us + minutes * MINUTE_US,
        }
    }

    /// When the run after a time is due, in microseconds since the Unix epoch.
    pub fn next(self, zone: &Zone, now_us: i64) -> i64 {
        let (period_us, minutes) = self.period(zone, now_us);
        let this = period_us + minutes * MINUTE_US;
        if this > now_us {
            return this;
        }
        let next = match self {
            Self::Monthly(_) => zone.next_month(now_us),
            Self::Daily(_) => zone.next_day(now_us),
            Self::Weekly(_) => zone.next_week(now_us),
        };
        next + minutes * MINUTE_US
    }

    /// When the period of a time began, and how many minutes after it the run is due.
    fn period(self, zone: &Zone, at_us: i64) -> (i64, i64) {
        match self {
            Self::Monthly(minutes) => (zone.start_of_month(at_us), minutes),
            Self::Daily(minutes) => (zone.start_of_day(at_us), minutes),
            Self::Weekly(minutes) => (zone.start_of_week(at_us), minutes),
        }
    }
}

/// A job as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its name.
    pub name: String,
    /// How it ran; none if it never did.
    pub state: Option<JobState>,
    /// When it runs next, in microseconds since the Unix epoch; not in the past.
    pub next_us: i64,
}

/// Answers how the jobs stand.
pub struct JobAdmin {
    ledger: Arc<dyn Ledger>,
    clock: Clock,
    zone: Zone,
    plans: Vec<Plan>,
}

impl JobAdmin {
    /// A service over the jobs that nodes with the role for it run.
    pub fn new(ledger: Arc<dyn Ledger>, clock: Clock, zone: Zone, plans: Vec<Plan>) -> Self {
        Self {
            ledger,
            clock,
            zone,
            plans,
        }
    }

    /// Every job, by name.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn list(&self) -> Result<Vec<Job>, Error> {
        let mut states = self.ledger.jobs().await?;
        let now_us = (self.clock)();
        let mut jobs: Vec<_> = self
            .plans
            .iter()
            .map(|plan| {
                let at = states.iter().position(|state| state.job == plan.name);
                let state = at.map(|at| states.swap_remove(at));
                Job {
                    name: plan.name.to_owned(),
                    next_us: next(*plan, &self.zone, now_us, state.as_ref()),
                    state,
                }
            })
            .collect();
        jobs.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(jobs)
    }
}

/// When a job runs next: now if it is due, later if it runs, or failed and has to wait.
fn next(plan: Plan, zone: &Zone, now_us: i64, state: Option<&JobState>) -> i64 {
    let done = |state: &&JobState| state.last_key >= plan.schedule.last(zone, now_us).key;
    match state {
        Some(state) if state.running => plan.schedule.next(zone, now_us),
        state if state.as_ref().is_some_and(done) => plan.schedule.next(zone, now_us),
        Some(state) => state.lease_until_us.max(now_us),
        None => now_us,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_US: i64 = 60 * MINUTE_US;
    /// 2026-03-01T00:00:00Z, a Sunday.
    const MARCH: i64 = 1_772_323_200_000_000;

    fn due(schedule: Schedule, zone: &Zone, now_us: i64) -> (String, i64) {
        let Due { key, at_us } = schedule.last(zone, now_us);
        assert!(at_us <= now_us && now_us < schedule.next(zone, now_us));
        (key, at_us)
    }

    #[test]
    fn a_run_is_due_from_its_minute_on() {
        let utc = Zone::utc();
        let monthly = Schedule::Monthly(10);
        let at = MARCH + 10 * MINUTE_US;
        assert_eq!(due(monthly, &utc, at), ("2026-02".into(), at));
        let before = due(monthly, &utc, at - 1);
        assert_eq!(before.0, "2026-01");
        assert_eq!(monthly.next(&utc, at - 1), at);

        let daily = Schedule::Daily(60);
        assert_eq!(due(daily, &utc, MARCH + HOUR_US - 1).0, "2026-02-28");
        assert_eq!(due(daily, &utc, MARCH + HOUR_US).0, "2026-03-01");

        let weekly = Schedule::Weekly(120);
        assert_eq!(due(weekly, &utc, MARCH).0, "2026-02-23");
        let monday = MARCH + 24 * HOUR_US;
        assert_eq!(due(weekly, &utc, monday + 2 * HOUR_US).0, "2026-03-02");
        assert_eq!(weekly.next(&utc, MARCH), monday + 2 * HOUR_US);
    }

    #[test]
    fn a_run_is_due_by_the_clock_of_the_zone() {
        let kolkata = Zone::named("Asia/Kolkata").unwrap();
        // Midnight there is half past six in the evening before.
        let first = MARCH - 5 * HOUR_US - 30 * MINUTE_US;
        let monthly = Schedule::Monthly(10);
        let at = first + 10 * MINUTE_US;
        assert_eq!(due(monthly, &kolkata, at), ("2026-02".into(), at));
        assert_eq!(due(monthly, &kolkata, at - 1).0, "2026-01");
    }

    #[test]
    fn every_run_follows_the_one_before() {
        let york = Zone::named("America/New_York").unwrap();
        for schedule in [
            Schedule::Monthly(10),
            Schedule::Daily(60),
            Schedule::Weekly(120),
        ] {
            let mut now = MARCH;
            let mut last = due(schedule, &york, now).0;
            for _ in 0..40 {
                now = schedule.next(&york, now);
                let (key, at_us) = due(schedule, &york, now);
                assert!(key > last, "{key} after {last}");
                assert_eq!(at_us, now);
                last = key;
            }
        }
    }

    #[test]
    fn the_next_run_is_now_if_it_is_due() {
        let (plan, zone) = (Plan::RETENTION, Zone::utc());
        let now = MARCH + 5 * HOUR_US;
        let tomorrow = MARCH + 25 * HOUR_US;
        let next = |state: &JobState| next(plan, &zone, now, Some(state));
        assert_eq!(super::next(plan, &zone, now, None), now);
        let mut state = JobState {
            last_key: "2026-02-28".into(),
            lease_until_us: now - 1,
            ..JobState::default()
        };
        assert_eq!(next(&state), now);
        state.lease_until_us = now + 7;
        assert_eq!(next(&state), now + 7, "it failed and has to wait");
        state.running = true;
        assert_eq!(next(&state), tomorrow);
        state.running = false;
        state.last_key = "2026-03-01".into();
        assert_eq!(next(&state), tomorrow);
    }
}
