//! Rows of `periods`, and the figures of periods.

use super::{Row, totals};
use crate::fault::{Planted, is_planted};
use crate::ledger::periods::{
    Adjustment, AdjustmentKind, Consumption, Facts, MAX_ADJUSTMENTS, Month, Period,
};
use crate::ledger::{Error, ModelTotals, Range};

/// Whose figures, and of which times.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    pub(crate) tenant: String,
    pub(crate) user_id: String,
    pub(crate) range: Range,
}

/// A closed period as it is kept.
pub(crate) struct Kept {
    pub(crate) scope: Scope,
    pub(crate) period_id: String,
    closed_at_us: i64,
    as_closed: Consumption,
    /// The figures and adjustments of all rows up to `position`.
    known: Consumption,
    adjustments: Vec<Adjustment>,
    pub(crate) position: i64,
    /// Whether tools and champion cases are among what is known, and not counted any more.
    settled: bool,
}

/// What came after a period's position.
pub(crate) struct Later {
    /// The figures, tools and champion cases left out.
    pub(crate) figures: Consumption,
    /// Tools and champion cases of the period as they are counted now.
    pub(crate) items: Facts,
    /// The changes, oldest first.
    pub(crate) adjustments: Vec<Adjustment>,
}

/// A period that is closed now.
pub(crate) struct Closed {
    pub(crate) user_id: String,
    pub(crate) as_closed: String,
}

/// A period with what came later, to be kept.
pub(crate) struct Settled {
    pub(crate) scope: Scope,
    pub(crate) period_id: String,
    pub(crate) adjusted: String,
    pub(crate) adjustments: String,
}

/// Reads a row of `periods`.
pub(crate) fn read(row: &impl Row) -> Result<Kept, Error> {
    let as_closed = Consumption::from_json(row.value("as_closed")?)?;
    let settled: Option<i64> = row.value("settled_at_position")?;
    let (known, adjustments) = match settled {
        None => (as_closed.clone(), Vec::new()),
        Some(_) => (
            Consumption::from_json(row.value("adjusted")?)?,
            row.json("adjustments")?.unwrap_or_default(),
        ),
    };
    Ok(Kept {
        scope: Scope {
            tenant: row.value("tenant_id")?,
            user_id: row.value("user_id")?,
            range: Range {
                from_us: row.value("start_time")?,
                to_us: row.value("end_time")?,
            },
        },
        period_id: row.value("period_id")?,
        closed_at_us: row.value("closed_at")?,
        as_closed,
        known,
        adjustments,
        position: match settled {
            Some(position) => position,
            None => row.value("closed_at_position")?,
        },
        settled: settled.is_some(),
    })
}

impl Kept {
    /// How many more adjustments are kept.
    pub(crate) fn room(&self) -> i64 {
        let room = MAX_ADJUSTMENTS.saturating_sub(self.adjustments.len());
        i64::try_from(room).unwrap_or_default()
    }

    /// The period with what came later.
    pub(crate) fn with(self, mut later: Later) -> Result<Period, Error> {
        // Tools and cases have no place in the log: they are counted anew as long as they are kept.
        if !self.settled {
            let facts = &mut later.figures.facts;
            facts.champion_cases = later.items.champion_cases - self.known.facts.champion_cases;
            facts.tool_invocations =
                later.items.tool_invocations - self.known.facts.tool_invocations;
        }
        let adjusted = self.known.plus(&later.figures)?;
        let mut adjustments = self.adjustments;
        adjustments.append(&mut later.adjustments);
        Ok(Period {
            month: Month {
                id: self.period_id,
                range: self.scope.range,
            },
            closed_at_us: self.closed_at_us,
            as_closed: match is_planted(Planted::ReopenPeriods) {
                true => adjusted.clone(),
                false => self.as_closed,
            },
            adjusted,
            adjustments,
        })
    }
}

impl Settled {
    /// What is kept of a user's period.
    pub(crate) fn of(scope: Scope, period: &Period) -> Result<Self, Error> {
        Ok(Self {
            scope,
            period_id: period.month.id.clone(),
            adjusted: period.adjusted.to_json()?,
            adjustments: serde_json::to_string(&period.adjustments)
                .map_err(|error| Error::Corrupt(error.to_string()))?,
        })
    }
}

/// Sums by model: rows of provider, model and sums, those that add up to nothing included.
pub(crate) fn models<R: Row>(rows: &[R]) -> Result<Vec<ModelTotals>, Error> {
    let models = rows.iter().map(|row| {
        Ok(ModelTotals {
            provider: row.value(0)?,
            model: row.value(1)?,
            totals: totals::read(row, 2)?,
        })
    });
    models.collect()
}

/// What events say beside tokens; `sessions` is a row of its own.
pub(crate) fn facts<R: Row>(row: &R, sessions: &R) -> Result<Facts, Error> {
    Ok(Facts {
        sessions: sessions.value(0)?,
        judged: row.value(0)?,
        judged_succeeded: row.value(1)?,
        retrieval_stated: row.value(2)?,
        retrieval_ran: row.value(3)?,
        cases_retrieved: row.value(4)?,
        ..Facts::default()
    })
}

/// Champion cases and uses of tools.
pub(crate) fn items(row: &impl Row) -> Result<Facts, Error> {
    Ok(Facts {
        champion_cases: row.value(0)?,
        tool_invocations: row.value(1)?,
        ..Facts::default()
    })
}

/// One change.
pub(crate) fn adjustment(row: &impl Row) -> Result<Adjustment, Error> {
    let kind: &str = row.value(0)?;
    Ok(Adjustment {
        kind: AdjustmentKind::of_row(kind)
            .ok_or_else(|| Error::Corrupt(format!("kind {kind:.32}")))?,
        event_id: row.value(1)?,
        tokens: row.value(2)?,
        cost_nano_usd: row.value(3)?,
        at_us: row.value(4)?,
    })
}
