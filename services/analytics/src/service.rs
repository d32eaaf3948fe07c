//! Questions about usage, put to the ledger.

use std::sync::Arc;

use tokenmeter_api::page::{self, WrongToken};
use tokenmeter_identity::Caller;
use tokenmeter_model::bounds::{Kind, Violation};
use tokenmeter_model::totals::Totals;
use tokenmeter_model::zone::Zone;
use tokenmeter_store::clock::Clock;
use tokenmeter_store::ledger::{
    EventQuery, Ledger, Range, Recorded, ServiceQuery, ServiceUsage, Session, Subject,
};

use crate::error::Error;

/// Most labels that filter a list.
const MAX_FILTER_LABELS: usize = 8;
/// Microseconds of an hour.
const HOUR_US: i64 = 3_600_000_000;

/// An interval of a user's totals (R35).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interval {
    /// The 60 minutes before now.
    LastHour,
    /// The 24 hours before now.
    Last24Hours,
    /// The calendar day so far.
    Day,
    /// The calendar month so far.
    Month,
    /// Everything.
    Lifetime,
}

/// A user's totals over one interval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntervalTotals {
    /// The interval.
    pub interval: Interval,
    /// What times it covers; none for the lifetime.
    pub range: Option<Range>,
    /// The totals.
    pub totals: Totals,
}

/// Answers questions about usage.
pub struct Analytics {
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) clock: Clock,
    pub(crate) zone: Zone,
}

impl Analytics {
    /// A service over a ledger; calendar days and months are those of `zone`.
    pub fn new(ledger: Arc<dyn Ledger>, clock: Clock, zone: Zone) -> Self {
        Self {
            ledger,
            clock,
            zone,
        }
    }

    /// A user's totals over several intervals, and when the user was last recorded.
    ///
    /// # Errors
    /// [`Error::Denied`] for another user than the caller without the role for it.
    pub async fn user_usage(
        &self,
        caller: &Caller,
        user_id: &str,
        intervals: &[Interval],
    ) -> Result<(String, Vec<IntervalTotals>, Option<i64>), Error> {
        check_text("user_id", user_id)?;
        let user = caller.readable_user(user_id)?;
        let now_us = (self.clock)();
        // The lifetime last, for when it was updated.
        let ranges: Vec<_> = intervals
            .iter()
            .map(|interval| self.range(*interval, now_us))
            .chain([None])
            .collect();
        let mut totals = self
            .ledger
            .totals_of(&caller.tenant, Subject::User(user), &ranges)
            .await?;
        let lifetime = totals.pop().unwrap_or_default();
        let answers = intervals
            .iter()
            .zip(ranges)
            .zip(totals)
            .map(|((interval, range), totals)| IntervalTotals {
                interval: *interval,
                range,
                totals,
            })
            .collect();
        let updated = (lifetime.updated_at_us > 0).then_some(lifetime.updated_at_us);
        Ok((user.to_owned(), answers, updated))
    }

    /// The times that an interval covers, up to and with now.
    fn range(&self, interval: Interval, now_us: i64) -> Option<Range> {
        let from_us = match interval {
            Interval::LastHour => now_us - HOUR_US,
            Interval::Last24Hours => now_us - 24 * HOUR_US,
            Interval::Day => self.zone.start_of_day(now_us),
            Interval::Month => self.zone.start_of_month(now_us),
            Interval::Lifetime => return None,
        };
        Some(Range {
            from_us,
            to_us: now_us + 1,
        })
    }

    /// One session's totals.
    ///
    /// # Errors
    /// [`Error::NoSession`] when it has no event, or is not the caller's alone and the caller
    /// reads only itself.
    pub async fn session_usage(&self, caller: &Caller, session_id: &str) -> Result<Session, Error> {
        if session_id.is_empty() {
            return Err(Violation::new("session_id", "is required; send 1 to 255 bytes").into());
        }
        check_text("session_id", session_id)?;
        let session = self.ledger.session(&caller.tenant, session_id).await?;
        session
            .filter(|session| {
                !caller.reads_only_itself()
                    || (session.users == 1 && session.user_id == caller.user)
            })
            .ok_or_else(|| Error::NoSession(session_id.to_owned()))
    }

    /// A page of events, newest charge time first, and the token of the next page, if any.
    ///
    /// # Errors
    /// [`Error::Denied`] for another user than the caller without the role for it.
    pub async fn events(
        &self,
        caller: &Caller,
        mut query: EventQuery,
        page_size: i32,
        page_token: &str,
    ) -> Result<(Vec<Recorded>, Option<String>), Error> {
        check_query(&query)?;
        if caller.reads_only_itself() {
            query.user_id = caller.readable_user(&query.user_id)?.to_owned();
        }
        let size = page::size(page_size)?;
        let filters = format!("events\u{0}{}\u{0}{query:?}", caller.tenant);
        if let Some(end) = page::read(&filters, page_token)? {
            query.before = Some(read_end(end).ok_or(WrongToken)?);
        }
        // One more than the page tells whether there is a next one.
        query.limit = i64::try_from(size).unwrap_or(i64::MAX).saturating_add(1);
        let mut events = self.ledger.events(&caller.tenant, &query).await?;
        let more = events.len() > size;
        events.truncate(size);
        let next = events.last().filter(|_| more).map(|last| {
            page::token(
                &filters,
                &format!("{}.{}", last.charge_time_us, last.position),
            )
        });
        Ok((events, next))
    }

    /// The tenant's usage as a whole.
    ///
    /// # Errors
    /// Fields out of bounds, or the ledger's.
    pub async fn service_usage(
        &self,
        caller: &Caller,
        query: &ServiceQuery,
    ) -> Result<ServiceUsage, Error> {
        check_text("provider", &query.provider)?;
        check_text("model", &query.model)?;
        check_range(query.range)?;
        Ok(self.ledger.service_usage(&caller.tenant, query).await?)
    }
}

/// Where a page of events ended: charge time and position.
fn read_end(end: &str) -> Option<(i64, i64)> {
    let (time, position) = end.split_once('.')?;
    Some((time.parse().ok()?, position.parse().ok()?))
}

pub(crate) fn check_text(field: &str, value: &str) -> Result<(), Error> {
    let mut out = Vec::new();
    tokenmeter_model::bounds::text(field, value, &mut out);
    if out.is_empty() {
        Ok(())
    } else {
        Err(Error::Invalid(out))
    }
}

pub(crate) fn check_range(range: Option<Range>) -> Result<(), Error> {
    match range {
        Some(range) if range.from_us > range.to_us => {
            let text = "ends before it starts; send an end_time that is not before start_time";
            Err(Violation::new("range", text).kind(Kind::Range).into())
        }
        _ => Ok(()),
    }
}

/// The user that a list is restricted to: the caller if it reads only itself, else `wanted`, where
/// empty means all.
pub(crate) fn listed_user(caller: &Caller, wanted: &str) -> Result<String, Error> {
    check_text("user_id", wanted)?;
    if caller.reads_only_itself() {
        return Ok(caller.readable_user(wanted)?.to_owned());
    }
    Ok(wanted.to_owned())
}

fn check_query(query: &EventQuery) -> Result<(), Error> {
    for (field, value) in [
        ("event_id", &query.event_id),
        ("user_id", &query.user_id),
        ("team_id", &query.team_id),
        ("session_id", &query.session_id),
        ("provider", &query.provider),
        ("model", &query.model),
    ] {
        check_text(field, value)?;
    }
    if query.labels.len() > MAX_FILTER_LABELS {
        let text = format!(
            "{} labels is too many; send at most {MAX_FILTER_LABELS}",
            query.labels.len()
        );
        return Err(Violation::new("labels", text).into());
    }
    if query.turn.is_some() && query.session_id.is_empty() {
        return Err(
            Violation::new("turn", "needs session_id; turns count within a session").into(),
        );
    }
    check_range(query.range)
}
