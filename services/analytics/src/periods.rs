//! A user's months and days in the tenant's time zone, the current period, and cache efficiency.

use tokenmeter_api::page::{self, WrongToken};
use tokenmeter_identity::Caller;
use tokenmeter_model::totals::Totals;
use tokenmeter_model::zone::Zone;
use tokenmeter_store::ledger::reports::Part;
use tokenmeter_store::ledger::{self, ModelTotals, Range};

use crate::error::Error;
use crate::service::{Analytics, check_range, check_text, listed_user};

/// Days of a page of history when nothing is asked for.
const DEFAULT_DAYS: i32 = 30;
/// Full months before the current one that are answered when nothing is asked for.
const DEFAULT_MONTHS: usize = 12;

/// A calendar day or month with what was used in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Period<T> {
    /// Its name, as `2026-07-31` or `2026-07`.
    pub name: String,
    /// Its times.
    pub range: Range,
    /// What was used.
    pub usage: T,
}

/// A page of periods, and the token of the next page, if any.
pub type PeriodPage<T> = (Vec<Period<T>>, Option<String>);

/// Which of a user's periods.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeriodQuery {
    /// The user; empty means the caller.
    pub user_id: String,
    /// Only periods that this touches.
    pub range: Option<Range>,
    /// Periods of the page; 0 means the default.
    pub page_size: i32,
    /// Empty means the first page.
    pub page_token: String,
}

/// A kind of period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Calendar {
    Days,
    Months,
}

impl Calendar {
    /// Where the period of a time begins.
    fn start(self, zone: &Zone, at_us: i64) -> i64 {
        match self {
            Self::Days => zone.start_of_day(at_us),
            Self::Months => zone.start_of_month(at_us),
        }
    }

    /// Where the next one begins.
    fn next(self, zone: &Zone, at_us: i64) -> i64 {
        match self {
            Self::Days => zone.next_day(at_us),
            Self::Months => zone.next_month(at_us),
        }
    }

    /// The periods that a range touches, newest first. The range is one of recorded times.
    fn touched(self, zone: &Zone, range: Range) -> Vec<Range> {
        let mut spans = Vec::new();
        if range.from_us >= range.to_us {
            return spans;
        }
        let mut to_us = self.next(zone, range.to_us - 1);
        while to_us > range.from_us {
            let from_us = self.start(zone, to_us - 1);
            spans.push(Range { from_us, to_us });
            to_us = from_us;
        }
        spans
    }
}

impl Analytics {
    /// A user's days with use, newest first.
    ///
    /// # Errors
    /// [`Error::Denied`] for another user than the caller without the role for it.
    pub async fn history(
        &self,
        caller: &Caller,
        query: &PeriodQuery,
    ) -> Result<PeriodPage<Totals>, Error> {
        let size = page::size_or(query.page_size, DEFAULT_DAYS)?;
        let (days, next) = self.page(Calendar::Days, caller, query, size).await?;
        let days = days.into_iter().map(|(range, usage)| Period {
            name: self.zone.date(range.from_us),
            range,
            usage,
        });
        Ok((days.collect(), next))
    }

    /// A user's months with use by model, newest first.
    ///
    /// # Errors
    /// [`Error::Denied`] for another user than the caller without the role for it.
    pub async fn monthly(
        &self,
        caller: &Caller,
        query: &PeriodQuery,
    ) -> Result<PeriodPage<Vec<ModelTotals>>, Error> {
        let size = page::size(query.page_size)?;
        let (months, next) = self.page(Calendar::Months, caller, query, size).await?;
        // Which months have use, and then all figures of these from one statement.
        let ranges: Vec<Range> = months.into_iter().map(|(range, _)| range).collect();
        let user = caller.readable_user(&query.user_id)?;
        let months = self
            .ledger
            .user_spans_by_model(&caller.tenant, user, &ranges)
            .await?;
        let months = months.into_iter().map(|(range, usage)| Period {
            name: self.zone.month(range.from_us),
            range,
            usage,
        });
        Ok((months.collect(), next))
    }

    /// A page of a user's periods with use, newest first.
    async fn page(
        &self,
        calendar: Calendar,
        caller: &Caller,
        query: &PeriodQuery,
        size: usize,
    ) -> Result<(Vec<(Range, Totals)>, Option<String>), Error> {
        check_text("user_id", &query.user_id)?;
        let user = caller.readable_user(&query.user_id)?;
        check_range(query.range)?;
        let filters = format!(
            "{calendar:?}\u{0}{}\u{0}{user}\u{0}{:?}",
            caller.tenant, query.range
        );
        let end = page::read(&filters, &query.page_token)?
            .map(|end| end.parse().map_err(|_| WrongToken))
            .transpose()?;
        let Some((first_us, last_us)) = self.ledger.user_reach(&caller.tenant, user).await? else {
            return Ok((Vec::new(), None));
        };
        let asked = query.range.unwrap_or_else(|| self.default_range(calendar));
        let touched = Range {
            from_us: asked.from_us.max(first_us),
            to_us: asked
                .to_us
                .min(last_us.saturating_add(1))
                .min(end.unwrap_or(i64::MAX)),
        };
        let limit = i64::try_from(size).unwrap_or(i64::MAX).saturating_add(1);
        let mut found = self
            .ledger
            .user_spans(
                &caller.tenant,
                user,
                &calendar.touched(&self.zone, touched),
                limit,
            )
            .await?;
        let more = found.len() > size;
        found.truncate(size);
        let next = found
            .last()
            .filter(|_| more)
            .map(|(range, _)| page::token(&filters, &range.from_us.to_string()));
        Ok((found, next))
    }

    /// The times when nothing is asked for.
    fn default_range(&self, calendar: Calendar) -> Range {
        let mut from_us = i64::MIN;
        if calendar == Calendar::Months {
            from_us = self.zone.start_of_month((self.clock)());
            for _ in 0..DEFAULT_MONTHS {
                from_us = self.zone.start_of_month(from_us - 1);
            }
        }
        Range {
            from_us,
            to_us: i64::MAX,
        }
    }

    /// A user's current calendar month by model, with the user.
    ///
    /// # Errors
    /// [`Error::Denied`] for another user than the caller without the role for it.
    pub async fn current(
        &self,
        caller: &Caller,
        user_id: &str,
    ) -> Result<(String, Range, Vec<ModelTotals>), Error> {
        check_text("user_id", user_id)?;
        let user = caller.readable_user(user_id)?.to_owned();
        let now_us = (self.clock)();
        let range = Range {
            from_us: self.zone.start_of_month(now_us),
            to_us: self.zone.next_month(now_us),
        };
        let part = Part {
            user_id: user.clone(),
            range: Some(range),
            ..Part::default()
        };
        let models = self.ledger.by_model(&caller.tenant, &part).await?;
        Ok((user, range, models))
    }

    /// Totals by model of what a caller may read.
    ///
    /// # Errors
    /// [`Error::Denied`] for another user than the caller without the role for it.
    pub async fn by_model(
        &self,
        caller: &Caller,
        mut part: Part,
    ) -> Result<Vec<ModelTotals>, Error> {
        check_text("session_id", &part.session_id)?;
        check_text("model", &part.model)?;
        check_range(part.range)?;
        part.user_id = listed_user(caller, &part.user_id)?;
        Ok(self.ledger.by_model(&caller.tenant, &part).await?)
    }
}

/// The sum over models.
///
/// # Errors
/// The ledger's, when a sum passes 64 bits.
pub(crate) fn sum(models: &[ModelTotals]) -> Result<Totals, Error> {
    models
        .iter()
        .try_fold(Totals::default(), |sum, model| {
            sum.checked_add(&model.totals)
        })
        .ok_or_else(|| Error::Ledger(ledger::Error::OutOfRange("the sum over all models".into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-03-07T00:00:00Z, in microseconds.
    const MARCH_7: i64 = 1_772_841_600_000_000;
    const DAY_US: i64 = 86_400_000_000;

    #[test]
    fn a_range_touches_whole_days_and_months_without_gap() {
        for name in [
            "UTC",
            "America/New_York",
            "Asia/Kathmandu",
            "Australia/Lord_Howe",
        ] {
            let zone = Zone::named(name).unwrap();
            let range = Range {
                from_us: MARCH_7 + 5,
                to_us: MARCH_7 + 40 * DAY_US,
            };
            for (calendar, periods) in [(Calendar::Days, 40..=41), (Calendar::Months, 2..=2)] {
                let touched = calendar.touched(&zone, range);
                assert!(periods.contains(&touched.len()), "{name} {calendar:?}");
                assert!(touched[0].from_us < range.to_us && range.to_us <= touched[0].to_us);
                for pair in touched.windows(2) {
                    assert_eq!(pair[0].from_us, pair[1].to_us, "{name} {calendar:?}");
                }
                let last = touched[touched.len() - 1];
                assert!(last.from_us <= range.from_us && range.from_us < last.to_us);
                assert_eq!(calendar.start(&zone, last.from_us), last.from_us);
            }
        }
        let nothing = Range {
            from_us: MARCH_7,
            to_us: MARCH_7,
        };
        assert_eq!(Calendar::Days.touched(&Zone::utc(), nothing), []);
    }
}
