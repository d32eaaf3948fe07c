//! Closing months (R43): of every user with usage in them, a chunk of users at a time, so that it
//! costs little memory and goes on where it was broken off.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokenmeter_identity::Caller;
use tokenmeter_model::bounds::{self, Violation};
use tokenmeter_model::fingerprint::Canonical;
use tokenmeter_model::id::TenantId;
use tokenmeter_model::zone::Zone;
use tokenmeter_store::clock::Clock;
use tokenmeter_store::ledger::correction::Request;
use tokenmeter_store::ledger::periods::{CloseStep, Month};
use tokenmeter_store::ledger::{self, Ledger, Range};

use crate::error::Error;

/// The RPC, as requests are remembered.
const RPC: &str = "Rollover";
/// Users of a step, which is one transaction.
const STEP_USERS: i64 = 200;
/// Months before the current one that the job closes where they are not closed yet: after a time
/// without it, and of usage that was imported.
const JOB_MONTHS: usize = 12;
/// Tenants that are read at a time.
const TENANTS: i64 = 100;

/// What a rollover did, or in a dry run would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolledOver {
    /// The month, as `2026-07`.
    pub period_id: String,
    /// Users whose period was closed now.
    pub users: i64,
    /// Users whose period had been closed before.
    pub already_closed: i64,
}

/// Closes months of the configured time zone.
#[derive(Clone)]
pub struct RolloverAdmin {
    ledger: Arc<dyn Ledger>,
    clock: Clock,
    zone: Zone,
}

impl RolloverAdmin {
    /// A service over a ledger.
    pub fn new(ledger: Arc<dyn Ledger>, clock: Clock, zone: Zone) -> Self {
        Self {
            ledger,
            clock,
            zone,
        }
    }

    /// Closes a month of a tenant, the last one if `period_id` is empty. The same request again gets
    /// its first answer; one that was broken off is done again, and finds closed what it closed.
    ///
    /// # Errors
    /// [`Error::PeriodOpen`] when the month is not over, fields out of bounds, or the ledger's; what
    /// was closed until then is.
    pub async fn rollover(
        &self,
        caller: &Caller,
        request_id: &str,
        period_id: &str,
        dry_run: bool,
    ) -> Result<RolledOver, Error> {
        let mut violations = Vec::new();
        bounds::required_text("request_id", request_id, &mut violations);
        if !violations.is_empty() {
            return Err(Error::Invalid(violations));
        }
        let request = Request {
            tenant: caller.tenant.clone(),
            request_id: request_id.to_owned(),
            rpc: RPC,
            fingerprint: Canonical::new().text(period_id).finish(),
            user_id: caller.user.clone(),
            at_us: (self.clock)(),
        };
        if !dry_run && let Some(answer) = self.remembered(&request).await? {
            return Ok(answer);
        }
        let month = self.month(period_id, request.at_us)?;
        let done = self.close(&caller.tenant, &month, dry_run).await?;
        if dry_run {
            return Ok(done);
        }
        let answer = serde_json::to_string(&done)
            .map_err(|error| ledger::Error::Corrupt(error.to_string()))?;
        let stands = self.ledger.remember(request.clone(), answer).await?;
        read(&request, &stands)
    }

    /// What the request was answered, if it was.
    async fn remembered(&self, request: &Request) -> Result<Option<RolledOver>, Error> {
        let before = self.ledger.remembered(&request.tenant, &request.request_id);
        let before = before.await?;
        before.map(|before| read(request, &before)).transpose()
    }

    /// The month of a name, if it is over.
    fn month(&self, period_id: &str, now_us: i64) -> Result<Month, Error> {
        if period_id.is_empty() {
            return Ok(self.month_at(self.zone.start_of_month(now_us) - 1));
        }
        let Some((from_us, to_us)) = self.zone.month_of_name(period_id) else {
            let text = "is no month; send one such as 2026-07, or leave it empty for the last one";
            return Err(Violation::new("period_id", text).into());
        };
        if to_us > now_us {
            return Err(Error::PeriodOpen(period_id.to_owned()));
        }
        Ok(self.month_at(from_us))
    }

    fn month_at(&self, at_us: i64) -> Month {
        Month {
            id: self.zone.month(at_us),
            range: Range {
                from_us: self.zone.start_of_month(at_us),
                to_us: self.zone.next_month(at_us),
            },
        }
    }

    /// Closes a month of a tenant, a step at a time.
    async fn close(
        &self,
        tenant: &TenantId,
        month: &Month,
        dry_run: bool,
    ) -> Result<RolledOver, Error> {
        let mut done = RolledOver {
            period_id: month.id.clone(),
            ..RolledOver::default()
        };
        let mut after = String::new();
        loop {
            let step = CloseStep {
                month,
                after: &after,
                users: STEP_USERS,
                now_us: (self.clock)(),
                dry_run,
            };
            let closing = self.ledger.close_periods(tenant, step).await?;
            done.users += closing.closed;
            done.already_closed += closing.already;
            match closing.through {
                Some(through) => after = through,
                None => return Ok(done),
            }
        }
    }

    /// The job: closes what is not closed yet of the months before the current one, the oldest first,
    /// in all tenants. Says what it did.
    ///
    /// # Errors
    /// The ledger's; what was closed until then is.
    pub async fn close_last_months(&self) -> Result<String, Error> {
        let to_us = self.zone.start_of_month((self.clock)());
        let mut from_us = to_us;
        for _ in 0..JOB_MONTHS {
            from_us = self.zone.start_of_month(from_us - 1);
        }
        let (closed, tenants) = self.close_all(from_us, to_us).await?;
        Ok(format!("{closed} periods closed, {tenants} tenants"))
    }

    /// Closes what is not closed yet of all months with a part before a time, of which they are over:
    /// before their events are dropped.
    ///
    /// # Errors
    /// The ledger's; what was closed until then is.
    pub async fn close_before(&self, before_us: i64) -> Result<i64, Error> {
        let over = self.zone.start_of_month((self.clock)());
        let to_us = self.zone.next_month(before_us - 1).min(over);
        Ok(self.close_all(i64::MIN, to_us).await?.0)
    }

    /// Closes the months within a range in all tenants, from each one's first event on; answers how
    /// many periods were closed, and how many tenants there are.
    async fn close_all(&self, from_us: i64, to_us: i64) -> Result<(i64, usize), Error> {
        let (mut closed, mut count) = (0, 0);
        let mut after: Option<TenantId> = None;
        loop {
            let tenants = self.ledger.tenants(after.as_ref(), TENANTS).await?;
            for tenant in &tenants {
                let Some(first) = self.ledger.oldest_kept(tenant).await? else {
                    continue;
                };
                let mut month = self.month_at(first.max(from_us));
                while month.range.to_us <= to_us {
                    closed += self.close(tenant, &month, false).await?.users;
                    month = self.month_at(month.range.to_us);
                }
            }
            count += tenants.len();
            match tenants.last() {
                Some(last) => after = Some(last.clone()),
                None => return Ok((closed, count)),
            }
        }
    }
}

fn read(request: &Request, stands: &ledger::correction::Remembered) -> Result<RolledOver, Error> {
    if !stands.is(request) {
        return Err(Error::RequestConflict(request.request_id.clone()));
    }
    serde_json::from_str(&stands.answer)
        .map_err(|error| ledger::Error::Corrupt(format!("an answer: {error}")).into())
}
