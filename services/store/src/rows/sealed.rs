//! Sealed time, as either backend answers for it: what can be known of a range that reaches into it.

use tokenmeter_model::bounds::MIN_TIME_US;
use tokenmeter_model::totals::{Split, Totals};
use tokenmeter_model::zone::Zone;

use crate::ledger::{Error, ModelTotals, Range};

/// Whether the lines at the ragged edges of a range are all kept.
///
/// # Errors
/// [`Error::NotRetained`] when they are not.
pub(crate) fn check_edges(split: &Split, oldest_us: i64) -> Result<(), Error> {
    let sealed = |(from, to): (i64, i64)| from.max(MIN_TIME_US) < to.min(oldest_us);
    if sealed(split.before) || sealed(split.after) {
        return Err(Error::NotRetained { oldest_us });
    }
    Ok(())
}

/// Whether the lines of a range are all kept.
///
/// # Errors
/// [`Error::NotRetained`] when they are not.
pub(crate) fn check_range(range: Range, oldest_us: i64) -> Result<(), Error> {
    let whole = Split {
        buckets: (0, 0),
        before: (range.from_us, range.to_us),
        after: (0, 0),
    };
    check_edges(&whole, oldest_us)
}

/// The months of UTC that are sealed and lie in one span as a whole, each with the span's number.
pub(crate) fn months(spans: &[Range], oldest_us: i64) -> Vec<(i64, i64)> {
    let utc = Zone::utc();
    let mut months = Vec::new();
    for (n, span) in (0..).zip(spans) {
        let mut month = utc.start_of_month(span.from_us.max(MIN_TIME_US));
        while month < span.to_us.min(oldest_us) {
            let next = utc.next_month(month);
            if month >= span.from_us && next <= span.to_us {
                months.push((n, month));
            }
            month = next;
        }
    }
    months
}

/// Adds to the figures by model of spans what they lack of the `whole` of those that reach into
/// sealed time, under an empty provider and model: what was dropped is known by model for whole
/// months of UTC only.
pub(crate) fn complete(
    mut known: Vec<(Range, Vec<ModelTotals>)>,
    spans: &[Range],
    whole: &[(Range, Totals)],
) -> Result<Vec<(Range, Vec<ModelTotals>)>, Error> {
    for (span, whole) in whole {
        let at = known.iter().position(|(one, _)| one == span);
        let models = at.map(|at| &known[at].1[..]).unwrap_or_default();
        let rest = models
            .iter()
            .try_fold(*whole, |rest, model| {
                rest.checked_add(&model.totals.checked_neg()?)
            })
            .ok_or_else(|| Error::OutOfRange("the rest of a month".into()))?;
        if rest.sums().iter().all(|sum| *sum == 0) {
            continue;
        }
        let model = ModelTotals {
            provider: String::new(),
            model: String::new(),
            totals: rest,
        };
        match at {
            Some(at) => known[at].1.push(model),
            None => known.push((*span, vec![model])),
        }
    }
    let place = |span: &Range| spans.iter().position(|one| one == span);
    known.sort_by_key(|(span, _)| place(span));
    Ok(known)
}

/// Facts of what is kept of a session and of what is sealed, together: its first user, how many users
/// and turns it has, its first and last time. A turn that has events in both counts twice; users
/// count once if it is the same single user in both.
pub(crate) fn joined(
    kept: (String, i64, i64, i64, i64),
    sealed: (String, i64, i64, i64, i64),
) -> (String, i64, i64, i64, i64) {
    let alone = kept.1 == 1 && sealed.1 == 1 && kept.0 == sealed.0;
    (
        sealed.0,
        if alone { 1 } else { kept.1 + sealed.1 },
        kept.2 + sealed.2,
        kept.3.min(sealed.3),
        kept.4.max(sealed.4),
    )
}
