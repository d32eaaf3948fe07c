//! Purges: what is older than retention is dropped, and no total changes. A run is many steps, each of
//! which stands by itself, so that a call may stop after any of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokenmeter_identity::Caller;
use tokenmeter_model::bounds::{self, Violation};
use tokenmeter_model::fingerprint::Canonical;
use tokenmeter_model::totals::Totals;
use tokenmeter_model::zone::Zone;
use tokenmeter_store::clock::Clock;
use tokenmeter_store::ledger::correction::Request;
use tokenmeter_store::ledger::retention::{Dropped, Purged, cut, month_of};
use tokenmeter_store::ledger::{self, Ledger};
use tokio::sync::{Mutex, OwnedMutexGuard, oneshot};
use tokio::time::timeout;

use crate::error::Error;
use crate::rollover::RolloverAdmin;

/// The RPC, as requests are remembered.
const RPC: &str = "Purge";
/// How long a call waits for its first step, however little time it has.
const FIRST_STEP: Duration = Duration::from_secs(1);

/// What a step of a run did.
#[derive(Debug)]
struct Done {
    /// It was done to events charged before this, in microseconds since the Unix epoch.
    before_us: i64,
    /// What it dropped; none if it closed all months with a part before that.
    dropped: Option<Purged>,
}

/// The step under way, and what the last one did if nobody waited for its end.
type Step = Arc<Mutex<Option<Done>>>;

/// What to drop.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Purge {
    /// Names the run, 1 to 255 bytes.
    pub request_id: String,
    /// Events charged before this, in microseconds since the Unix epoch; none means as retention says.
    pub before_us: Option<i64>,
    /// Whether to change nothing.
    pub dry_run: bool,
}

/// What a call dropped of the caller's tenant, or in a dry run would drop.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PurgeReport {
    /// What was dropped.
    pub dropped: Dropped,
    /// The earliest charge time still kept, in microseconds since the Unix epoch.
    pub oldest_kept_us: Option<i64>,
    /// Whether nothing is left to drop.
    pub complete: bool,
}

/// A report as it is remembered.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    events: i64,
    other_rows: i64,
    sums: Vec<i64>,
    updated_at_us: i64,
    oldest_kept_us: Option<i64>,
}

/// Drops what is older than retention.
pub struct RetentionAdmin {
    ledger: Arc<dyn Ledger>,
    clock: Clock,
    zone: Zone,
    retention_days: Option<u32>,
    rollover: RolloverAdmin,
    step: Step,
}

impl RetentionAdmin {
    /// A service over a ledger that keeps events for so many days, and those of the current month of
    /// `zone`; none keeps all for ever.
    pub fn new(
        ledger: Arc<dyn Ledger>,
        clock: Clock,
        zone: Zone,
        retention_days: Option<u32>,
    ) -> Self {
        Self {
            rollover: RolloverAdmin::new(Arc::clone(&ledger), Arc::clone(&clock), zone.clone()),
            ledger,
            clock,
            zone,
            retention_days,
            step: Step::default(),
        }
    }

    /// Closes the months that it is about to drop events of, in all tenants, then drops until nothing
    /// is left to drop, or until `budget` has passed; then the same request goes on. A step that takes
    /// longer goes on by itself. Retention is the ledger's: what is dropped is dropped for all its
    /// tenants, and reported for the caller's.
    ///
    /// # Errors
    /// Why the run did not begin or go on; steps before stand.
    pub async fn purge(
        &self,
        caller: &Caller,
        asked: &Purge,
        budget: Duration,
    ) -> Result<PurgeReport, Error> {
        let stop = Instant::now() + budget;
        let now_us = (self.clock)();
        let before_us = self.check(asked, now_us)?;
        let request = Request {
            tenant: caller.tenant.clone(),
            request_id: asked.request_id.clone(),
            rpc: RPC,
            fingerprint: Canonical::new().optional(asked.before_us).finish(),
            user_id: caller.user.clone(),
            at_us: now_us,
        };
        if asked.dry_run {
            return self.dry_run(caller, before_us).await;
        }
        let name = &request.request_id;
        if let Some(before) = self.ledger.remembered(&caller.tenant, name).await? {
            return match before.is(&request) {
                true => read(&before.answer),
                false => Err(Error::RequestConflict(name.clone())),
            };
        }
        let mut report = PurgeReport::default();
        let mut closed = false;
        while !report.complete {
            let left = stop.saturating_duration_since(Instant::now());
            let step = self.step(before_us, closed);
            let Ok(done) = timeout(left.max(FIRST_STEP), step).await else {
                break;
            };
            let done = done?;
            // That of a call before may have been asked for less.
            let as_asked = done.before_us >= before_us;
            let Some(step) = done.dropped else {
                closed |= as_asked;
                continue;
            };
            if let Some(dropped) = step.tenants.get(&caller.tenant) {
                report.dropped.add(dropped);
            }
            report.complete = step.complete && as_asked;
            if Instant::now() >= stop {
                break;
            }
        }
        report.oldest_kept_us = self.ledger.oldest_kept(&caller.tenant).await?;
        if report.complete {
            let name = request.request_id.clone();
            let stands = self
                .ledger
                .remember(request.clone(), write(&report)?)
                .await?;
            if !stands.is(&request) {
                return Err(Error::RequestConflict(name));
            }
        }
        Ok(report)
    }

    /// Does a step, or answers the last one that nobody waited for: months are closed first, because
    /// what was used in a month is not known any more once its events are dropped. The work is a task of
    /// its own: a large month takes longer than a call may.
    async fn step(&self, before_us: i64, closed: bool) -> Result<Done, Error> {
        let mut unseen: OwnedMutexGuard<_> = Arc::clone(&self.step).lock_owned().await;
        if let Some(done) = unseen.take() {
            return Ok(done);
        }
        let (tell, told) = oneshot::channel();
        let (ledger, rollover) = (Arc::clone(&self.ledger), self.rollover.clone());
        tokio::spawn(async move {
            let done = match closed {
                true => ledger
                    .purge(before_us, false)
                    .await
                    .map(Some)
                    .map_err(Error::from),
                false => rollover
                    .close_before(month_of(before_us))
                    .await
                    .map(|_| None),
            };
            let done = done.map(|dropped| Done { before_us, dropped });
            if let Err((Ok(done), mut unseen)) = tell.send((done, unseen)) {
                *unseen = Some(done);
            }
        });
        let (done, _unseen) = told.await.map_err(|_| {
            Error::Ledger(ledger::Error::Unavailable("a purge was broken off".into()))
        })?;
        done
    }

    async fn dry_run(&self, caller: &Caller, before_us: i64) -> Result<PurgeReport, Error> {
        let mut would = self.ledger.purge(before_us, true).await?;
        let oldest = self.ledger.oldest_kept(&caller.tenant).await?;
        Ok(PurgeReport {
            dropped: would.tenants.remove(&caller.tenant).unwrap_or_default(),
            oldest_kept_us: oldest,
            complete: true,
        })
    }

    /// Checks the request; answers before when to drop.
    fn check(&self, asked: &Purge, now_us: i64) -> Result<i64, Error> {
        let mut out = Vec::new();
        bounds::required_text("request_id", &asked.request_id, &mut out);
        let Some(days) = self.retention_days else {
            let text = "has no bound, because retention_days is 0 and events are kept for ever; set it \
                        to the days to keep";
            out.push(Violation::new("before", text));
            return Err(Error::Invalid(out));
        };
        let latest = cut(now_us, days.into(), &self.zone);
        let before_us = asked.before_us.unwrap_or(latest);
        if month_of(before_us) > month_of(latest) {
            let text = format!(
                "is later than retention allows; send a time not after {}, or leave it away",
                tokenmeter_api::convert::time::from_micros(latest)
            );
            out.push(Violation::new("before", text));
        }
        match out.is_empty() {
            true => Ok(before_us),
            false => Err(Error::Invalid(out)),
        }
    }
}

fn write(report: &PurgeReport) -> Result<String, Error> {
    let Dropped {
        events,
        other_rows,
        sealed,
    } = report.dropped;
    let answer = Answer {
        events,
        other_rows,
        sums: sealed.sums().to_vec(),
        updated_at_us: sealed.updated_at_us,
        oldest_kept_us: report.oldest_kept_us,
    };
    serde_json::to_string(&answer).map_err(|error| ledger::Error::Corrupt(error.to_string()).into())
}

fn read(answer: &str) -> Result<PurgeReport, Error> {
    let corrupt = |text: String| Error::from(ledger::Error::Corrupt(format!("a purge: {text}")));
    let answer: Answer =
        serde_json::from_str(answer).map_err(|error| corrupt(error.to_string()))?;
    let sums = <[i64; Totals::SUMS.len()]>::try_from(answer.sums)
        .map_err(|sums| corrupt(format!("{} sums", sums.len())))?;
    Ok(PurgeReport {
        dropped: Dropped {
            events: answer.events,
            other_rows: answer.other_rows,
            sealed: Totals::from_sums(sums, answer.updated_at_us),
        },
        oldest_kept_us: answer.oldest_kept_us,
        complete: true,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokenmeter_identity::Roles;
    use tokenmeter_model::counts::{Line, TokenCounts};
    use tokenmeter_model::event::Event;
    use tokenmeter_store::ledger::Submission;
    use tokenmeter_store::sqlite::Sqlite;

    use super::*;

    /// 2026-03-15T12:00:00Z.
    const NOW: i64 = 1_773_576_000_000_000;
    const DAY_US: i64 = 86_400_000_000;

    /// A ledger with one event of a user `u`, 200 days old, in August 2025.
    async fn ledger(path: &Path) -> (Arc<dyn Ledger>, Caller) {
        let ledger: Arc<dyn Ledger> = Arc::new(Sqlite::open(path).await.unwrap());
        let caller = Caller {
            tenant: tokenmeter_model::id::TenantId::new("acme").unwrap(),
            user: "ann".into(),
            team_id: String::new(),
            api_key_id: String::new(),
            roles: Roles::all(),
        };
        let event = Event {
            event_id: "e".into(),
            user_id: "u".into(),
            provider: "anthropic".into(),
            lines: vec![Line {
                model: "claude".into(),
                counts: TokenCounts {
                    input: 10,
                    ..TokenCounts::default()
                },
                ..Line::default()
            }],
            ..Event::default()
        };
        let submission = Submission {
            tenant: caller.tenant.clone(),
            fingerprint: event.fingerprint(),
            quotes: vec![None],
            event,
            charge_time_us: NOW - 200 * DAY_US,
            recorded_at_us: NOW,
            api_key_id: String::new(),
        };
        ledger.record([submission].into()).await.unwrap();
        (ledger, caller)
    }

    fn admin(ledger: &Arc<dyn Ledger>) -> RetentionAdmin {
        let clock: Clock = Arc::new(|| NOW);
        RetentionAdmin::new(Arc::clone(ledger), clock, Zone::utc(), Some(90))
    }

    #[tokio::test]
    async fn a_step_that_nobody_waits_for_goes_on_and_the_next_call_finds_it_done() {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, caller) = ledger(&folder.path().join("t.db")).await;
        let admin = admin(&ledger);
        let before_us = NOW - 90 * DAY_US;
        for closed in [false, true] {
            let begun = timeout(Duration::ZERO, admin.step(before_us, closed)).await;
            assert!(begun.is_err(), "a step takes longer than no time");
            // Whichever step this call would have begun, it answers the one that went on.
            let done = admin.step(before_us, !closed).await.unwrap();
            assert_eq!(done.dropped.is_some(), closed, "{done:?}");
            let periods = ledger.periods(&caller.tenant, "u", "", 10).await.unwrap();
            assert_eq!(periods.len(), 1);
        }
        assert_eq!(ledger.oldest_kept(&caller.tenant).await.unwrap(), None);
    }

    #[tokio::test]
    async fn months_are_closed_before_their_events_are_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, caller) = ledger(&folder.path().join("t.db")).await;
        let admin = admin(&ledger);
        let asked = Purge {
            request_id: "p".into(),
            ..Purge::default()
        };
        let budget = Duration::from_secs(60);
        let dry = Purge {
            dry_run: true,
            ..asked.clone()
        };
        assert_eq!(
            admin
                .purge(&caller, &dry, budget)
                .await
                .unwrap()
                .dropped
                .events,
            1
        );
        let periods = async || ledger.periods(&caller.tenant, "u", "", 10).await.unwrap();
        assert_eq!(periods().await, []);
        let report = admin.purge(&caller, &asked, budget).await.unwrap();
        assert!(report.complete && report.dropped.events == 1, "{report:?}");
        let closed = periods().await;
        assert_eq!(closed.len(), 1);
        assert_eq!(closed[0].month.id, "2025-08");
        assert_eq!(closed[0].as_closed.totals.input, 10);
    }
}
