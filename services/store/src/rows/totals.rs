//! Sums as columns and as rows, whether they come from `usage_totals` or are added up from lines.

use tokenmeter_model::ratio;
use tokenmeter_model::totals::Totals;

use super::Row;
use crate::ledger::{Error, Latencies, Latency, ModelTotals, Range};

/// The sums as columns, in the order of [`Totals::SUMS`].
pub(crate) fn sum_columns(render: impl Fn(&str) -> String) -> String {
    Totals::SUMS
        .iter()
        .map(|name| render(name))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Reads sums in the order of [`Totals::SUMS`] from column `first` on, then `updated_at`. An
/// aggregate over no rows reads as zero.
pub(crate) fn read(row: &impl Row, first: usize) -> Result<Totals, Error> {
    let mut sums = [0; Totals::SUMS.len()];
    for (n, sum) in sums.iter_mut().enumerate() {
        *sum = row.figure(first + n)?;
    }
    Ok(Totals::from_sums(sums, row.figure(first + sums.len())?))
}

/// Totals of models, by provider and model: rows of `provider/model` and sums. A model all of whose
/// events are voided has no line left, and is left out.
pub(crate) fn models<R: Row>(rows: &[R]) -> Result<Vec<ModelTotals>, Error> {
    let mut models = rows
        .iter()
        .map(|row| {
            let subject: &str = row.value(0)?;
            let (provider, model) = subject
                .split_once('/')
                .ok_or_else(|| Error::Corrupt("a model total without a provider".into()))?;
            Ok(ModelTotals {
                provider: provider.to_owned(),
                model: model.to_owned(),
                totals: read(row, 1)?,
            })
        })
        .collect::<Result<Vec<_>, Error>>()?;
    models.retain(|model| model.totals.lines > 0);
    models.sort_by(|a, b| (&a.provider, &a.model).cmp(&(&b.provider, &b.model)));
    Ok(models)
}

/// A model's totals: its provider, its name and the sums from column `first` on; none when all of
/// its events are voided.
pub(crate) fn model(row: &impl Row, first: usize) -> Result<Option<ModelTotals>, Error> {
    let model = ModelTotals {
        provider: row.value(first)?,
        model: row.value(first + 1)?,
        totals: read(row, first + 2)?,
    };
    Ok((model.totals.lines > 0).then_some(model))
}

/// The span that the first column numbers.
pub(crate) fn span(row: &impl Row, spans: &[Range]) -> Result<Range, Error> {
    let number: i64 = row.value(0)?;
    usize::try_from(number)
        .ok()
        .and_then(|number| spans.get(number).copied())
        .ok_or_else(|| Error::Corrupt("a row of no span".into()))
}

/// Totals by span: rows of a span's number, then sums.
pub(crate) fn spans<R: Row>(rows: &[R], spans: &[Range]) -> Result<Vec<(Range, Totals)>, Error> {
    rows.iter()
        .map(|row| Ok((span(row, spans)?, read(row, 1)?)))
        .collect()
}

/// Totals by span and model: rows of a span's number in order, then a model.
pub(crate) fn spans_by_model<R: Row>(
    rows: &[R],
    spans: &[Range],
) -> Result<Vec<(Range, Vec<ModelTotals>)>, Error> {
    let mut answer: Vec<(Range, Vec<ModelTotals>)> = Vec::new();
    for row in rows {
        let span = span(row, spans)?;
        let Some(model) = model(row, 1)? else {
            continue;
        };
        match answer.last_mut() {
            Some((last, models)) if *last == span => models.push(model),
            _ => answer.push((span, vec![model])),
        }
    }
    Ok(answer)
}

/// Latencies: rows of a provider and model, both empty for all of them, then [`latency`].
pub(crate) fn latencies<R: Row>(rows: &[R]) -> Result<Latencies, Error> {
    let mut latencies = Latencies::default();
    for row in rows {
        let latency = latency(row, 2)?;
        match (row.value::<String>(0)?, row.value(1)?) {
            (provider, _) if provider.is_empty() => latencies.all = latency,
            model => {
                latencies.models.insert(model, latency);
            }
        }
    }
    Ok(latencies)
}

/// Times from column `first` on: how many, their sum, the percentiles 50, 90, 95, 99, the longest.
pub(crate) fn latency(row: &impl Row, first: usize) -> Result<Latency, Error> {
    let number = |n: usize| row.figure(first + n);
    let measured = number(0)?;
    Ok(Latency {
        measured,
        mean_ms: ratio::mean(number(1)?, measured).unwrap_or_default(),
        p50_ms: number(2)?,
        p90_ms: number(3)?,
        p95_ms: number(4)?,
        p99_ms: number(5)?,
        max_ms: number(6)?,
    })
}
