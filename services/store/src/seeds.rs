//! What counters begin with: from which rows of the ledger the sums of each are taken, whatever the
//! backend. Totals where there are any, for they are few rows; else lines, by an index of the subject
//! and the charge time (docs/schema.md).

use std::collections::BTreeMap;

use tokenmeter_model::limit::{Amounts, Scope, Window, Zoned};
use tokenmeter_model::totals::split;

use crate::counters::{CounterKey, Seed};
use crate::ledger::{Error, Range};
use crate::rows::Row;

/// How far ahead of the counters' clock events may be charged: the 10 minutes that a request time may
/// be ahead of the clock of the node that records it, and what the clocks of two nodes may differ by.
const AHEAD_US: i64 = 3_600_000_000;
/// All times.
const ALWAYS: Range = Range {
    from_us: i64::MIN,
    to_us: i64::MAX,
};
/// The bucket of totals that is the lifetime, as a range.
const LIFETIME: (i64, i64) = (0, 1);

/// The figures of a row, after where its bucket begins: those that [`Amounts`] has, in its order.
pub(crate) const FIGURES: [&str; 5] = [
    "requests",
    "input + cache_read + cache_write_5m + cache_write_30m + cache_write_1h + cache_write_12h \
     + cache_write_unspecified",
    "input",
    "output",
    "cost_nano_usd",
];

/// Rows that are a part of a counter's sums.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Part<'a> {
    /// Which rows.
    pub(crate) source: Source<'a>,
    /// Into which buckets they fall.
    pub(crate) buckets: Buckets,
}

/// Which rows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Source<'a> {
    /// Totals of these subjects in the quarter-hours `[first, past)`.
    Totals {
        /// Their scope.
        scope: &'static str,
        /// The subjects.
        subjects: Vec<&'a str>,
        /// The first quarter-hour, and the first after the last.
        quarters: (i64, i64),
    },
    /// Lines of the counter's subject, provider and model that are charged in a range.
    Lines(Range),
    /// What was dropped of them.
    Sealed(&'static str),
    /// Estimated tokens of the tools of the session, as output.
    Tools,
}

/// Into which buckets rows fall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Buckets {
    /// All into the one that begins then.
    One(i64),
    /// Each into that of its charge time, so many microseconds long.
    Each(i64),
}

impl Buckets {
    /// How long a bucket is; all of time where it is one.
    pub(crate) fn length_us(self) -> i64 {
        match self {
            Self::One(_) => i64::MAX,
            Self::Each(length_us) => length_us,
        }
    }
}

/// The column of lines by which a scope finds its subject; none for the tenant, whose lines are all.
pub(crate) fn column(scope: Scope) -> Option<&'static str> {
    match scope {
        Scope::Tenant => None,
        Scope::Team => Some("team_id"),
        Scope::User => Some("user_id"),
        Scope::Session => Some("session_id"),
        Scope::ApiKey => Some("api_key_id"),
    }
}

/// Whether totals of models are needed: then their subjects have to be known.
pub(crate) fn needs_models(keys: &[CounterKey]) -> bool {
    let needs = |key: &CounterKey| key.scope == Scope::Tenant && !key.window.slides();
    keys.iter().any(needs)
}

/// Whether anything that was dropped is needed.
pub(crate) fn needs_sealed(keys: &[CounterKey]) -> bool {
    let lasts = |window| matches!(window, Window::Session | Window::Budget);
    keys.iter()
        .any(|key| lasts(key.window) && totals(key, &[]).is_none())
}

/// The rows of a counter at a moment; `models` are the tenant's, as subjects of totals.
pub(crate) fn parts<'a>(
    key: &'a CounterKey,
    zoned: &Zoned,
    now_us: i64,
    models: &'a [String],
) -> Vec<Part<'a>> {
    match key.window {
        Window::Request => Vec::new(),
        Window::Minute | Window::Hour => {
            let from_us = key.window.open_from(zoned, now_us);
            let length_us = match key.window {
                Window::Minute => 1_000_000,
                _ => 60_000_000,
            };
            let source = Source::Lines(Range {
                from_us,
                to_us: i64::MAX,
            });
            let buckets = Buckets::Each(length_us);
            vec![Part { source, buckets }]
        }
        Window::Day | Window::Month => {
            let spans = spans(key.window, zoned, now_us);
            let parts = spans.into_iter().map(|span| of_span(key, span, models));
            parts.flatten().collect()
        }
        Window::Session | Window::Budget => of_life(key, models),
    }
}

/// The calendar spans into which what counts now can fall: the one of now, and any that begins soon.
fn spans(window: Window, zoned: &Zoned, now_us: i64) -> Vec<Range> {
    let mut spans = Vec::new();
    let mut from_us = window.open_from(zoned, now_us);
    while let Some(to_us) = window.closes(zoned, from_us)
        && from_us <= now_us.saturating_add(AHEAD_US)
        && from_us < to_us
    {
        spans.push(Range { from_us, to_us });
        from_us = to_us;
    }
    spans
}

/// The subjects of totals that a counter is the sum of; none if there are no such totals.
fn totals<'a>(key: &'a CounterKey, models: &'a [String]) -> Option<(&'static str, Vec<&'a str>)> {
    let whole = key.provider.is_empty() && key.model.is_empty();
    match key.scope {
        Scope::Tenant => {
            let covered = |subject: &&str| {
                subject.split_once('/').is_some_and(|(provider, model)| {
                    (key.provider.is_empty() || *key.provider == *provider)
                        && (key.model.is_empty() || *key.model == *model)
                })
            };
            let subjects = models.iter().map(String::as_str).filter(covered);
            Some(("model", subjects.collect()))
        }
        Scope::Team if whole => Some(("team", vec![&key.subject])),
        Scope::User if whole => Some(("user", vec![&key.subject])),
        Scope::Session if whole => Some(("session", vec![&key.subject])),
        Scope::Team | Scope::User | Scope::Session | Scope::ApiKey => None,
    }
}

/// What is charged in a calendar span. Its bounds are whole quarter-hours in the zones of today;
/// where one is not, lines fill the edge.
fn of_span<'a>(key: &'a CounterKey, span: Range, models: &'a [String]) -> Vec<Part<'a>> {
    let buckets = Buckets::One(span.from_us);
    let lines = |(from_us, to_us)| Part {
        source: Source::Lines(Range { from_us, to_us }),
        buckets,
    };
    // Sessions have totals of their lifetime only.
    let totals = totals(key, models).filter(|(scope, _)| *scope != "session");
    let Some((scope, subjects)) = totals else {
        return vec![lines((span.from_us, span.to_us))];
    };
    let split = split(span.from_us, span.to_us);
    let whole = Part {
        source: Source::Totals {
            scope,
            subjects,
            quarters: split.buckets,
        },
        buckets,
    };
    let edges = [split.before, split.after].into_iter();
    let edges = edges.filter(|(from_us, to_us)| from_us < to_us).map(lines);
    std::iter::once(whole).chain(edges).collect()
}

/// What is charged over the life of a subject, with what was dropped of it.
fn of_life<'a>(key: &'a CounterKey, models: &'a [String]) -> Vec<Part<'a>> {
    let mut sources = match totals(key, models) {
        Some((scope, subjects)) => vec![Source::Totals {
            scope,
            subjects,
            quarters: LIFETIME,
        }],
        None => {
            let mut sources = vec![Source::Lines(ALWAYS)];
            // There are no sums of what was dropped of an API key.
            if matches!(key.scope, Scope::Team | Scope::User | Scope::Session) {
                sources.push(Source::Sealed(key.scope.as_str()));
            }
            sources
        }
    };
    if key.window == Window::Budget && key.scope == Scope::Session {
        sources.push(Source::Tools);
    }
    let part = |source| Part {
        source,
        buckets: Buckets::One(0),
    };
    sources.into_iter().map(part).collect()
}

/// Sums of buckets, as rows come.
#[derive(Default)]
pub(crate) struct Sums(BTreeMap<i64, Amounts>);

impl Sums {
    /// Adds a row: where its bucket begins by its charge time, then [`FIGURES`].
    pub(crate) fn add(&mut self, row: &impl Row, buckets: Buckets) -> Result<(), Error> {
        let bucket_us = match buckets {
            Buckets::One(bucket_us) => bucket_us,
            Buckets::Each(_) => row.figure(0)?,
        };
        let amounts = Amounts {
            requests: row.figure(1)?,
            input: row.figure(2)?,
            uncached_input: row.figure(3)?,
            output: row.figure(4)?,
            cost_nano_usd: row.figure(5)?,
        };
        let sum = self.0.entry(bucket_us).or_default();
        *sum = sum.plus(&amounts);
        Ok(())
    }

    /// What a counter begins with.
    pub(crate) fn seed(self, key: &CounterKey) -> Seed {
        let buckets = self.0.into_iter();
        Seed {
            key: key.clone(),
            buckets: buckets.filter(|(_, sum)| !sum.is_zero()).collect(),
        }
    }
}
