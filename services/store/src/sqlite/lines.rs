//! `usage_lines` as rows: how an event is written, and read back.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use tokenmeter_model::counts::{CacheWrites, Line, TokenCounts};
use tokenmeter_model::event::{Event, RetrievalFacts, Status, Thinking};
use tokenmeter_model::price::Quote;

use super::insert::Row;
use crate::ledger::{Error, Recorded, Submission};

/// Columns of `usage_lines` in the order that [`bind`] writes them.
pub(super) const COLUMNS: &[&str] = &[
    "position",
    "tenant_id",
    "event_id",
    "line",
    "line_count",
    "kind",
    "user_id",
    "team_id",
    "session_id",
    "turn",
    "provider",
    "model",
    "request_time",
    "charge_time",
    "recorded_at",
    "requests",
    "unpriced_lines",
    "input",
    "cache_read",
    "cache_write_5m",
    "cache_write_30m",
    "cache_write_1h",
    "cache_write_12h",
    "cache_write_unspecified",
    "output",
    "reasoning",
    "input_audio",
    "input_image",
    "tool_use_prompt",
    "cache_read_audio",
    "output_audio",
    "output_image",
    "tool_requests",
    "cost_nano_usd",
    "cache_saving_nano_usd",
    "cache_write_extra_nano_usd",
    "price_version",
    "status",
    "latency_ms",
    "time_to_first_token_ms",
    "service_tier",
    "inference_region",
    "stop_reason",
    "thinking_enabled",
    "thinking_budget_tokens",
    "message",
    "retrieval_ran",
    "cases_retrieved",
    "succeeded",
    "labels",
    "reservation_id",
];

/// One row to write: line `index` of a submission.
pub(super) struct NewLine<'a> {
    pub(super) position: i64,
    pub(super) index: usize,
    pub(super) submission: &'a Submission,
}

/// Writes one line in the order of [`COLUMNS`].
pub(super) fn bind(new: &NewLine<'_>, row: &mut Row) {
    let Submission {
        tenant,
        event,
        quotes,
        charge_time_us,
        recorded_at_us,
        ..
    } = new.submission;
    let line = &event.lines[new.index];
    let quote = quotes.get(new.index).copied().flatten();
    let first = new.index == 0;
    row.push(new.position)
        .text(tenant.as_str())
        .text(&event.event_id)
        .push(small(new.index))
        .push(small(event.lines.len()))
        .text("usage")
        .text(&event.user_id)
        .text(&event.team_id)
        .text(&event.session_id)
        .push(event.turn)
        .text(&event.provider)
        .text(&line.model)
        .push(event.request_time_us)
        .push(*charge_time_us)
        .push(*recorded_at_us)
        .push(i64::from(first))
        .push(i64::from(quote.is_none()));
    bind_counts(&line.counts, row);
    row.push(json_unless(
        &line.tool_requests,
        line.tool_requests.is_empty(),
    ))
    .push(quote.map_or(0, |quote| quote.cost_nano_usd))
    .push(quote.map_or(0, |quote| quote.cache_saving_nano_usd))
    .push(quote.map_or(0, |quote| quote.cache_write_extra_nano_usd))
    .push(quote.map(|quote| quote.price_version))
    .text(event.status.as_str());
    bind_facts(event, row);
}

fn bind_counts(counts: &TokenCounts, row: &mut Row) {
    let CacheWrites {
        ttl_5m,
        ttl_30m,
        ttl_1h,
        ttl_12h,
        unspecified,
    } = counts.cache_write;
    for count in [
        counts.input,
        counts.cache_read,
        ttl_5m,
        ttl_30m,
        ttl_1h,
        ttl_12h,
        unspecified,
        counts.output,
        counts.reasoning,
        counts.input_audio,
        counts.input_image,
        counts.tool_use_prompt,
        counts.cache_read_audio,
        counts.output_audio,
        counts.output_image,
    ] {
        row.push(count);
    }
}

fn bind_facts(event: &Event, row: &mut Row) {
    row.push(event.latency_ms)
        .push(event.time_to_first_token_ms)
        .text(&event.service_tier)
        .text(&event.inference_region)
        .text(&event.stop_reason)
        .push(event.thinking.map(|thinking| thinking.enabled))
        .push(event.thinking.and_then(|thinking| thinking.budget_tokens))
        .push(
            event
                .message
                .as_ref()
                .and_then(|message| serde_json::to_string(message).ok()),
        )
        .push(event.retrieval.map(|retrieval| retrieval.retrieval_ran))
        .push(event.retrieval.map(|retrieval| retrieval.cases_retrieved))
        .push(event.retrieval.and_then(|retrieval| retrieval.succeeded))
        .push(json_unless(&event.labels, event.labels.is_empty()))
        .text(&event.reservation_id);
}

/// A count of lines, at most 16.
fn small(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn json_unless<T: serde::Serialize>(value: &T, empty: bool) -> Option<String> {
    if empty {
        None
    } else {
        serde_json::to_string(value).ok()
    }
}

/// Puts the rows of one event, in order of line, together again. `quotes` are the rows' own.
pub(super) fn read(rows: &[SqliteRow]) -> Result<Recorded, Error> {
    let first = rows
        .first()
        .ok_or_else(|| Error::Corrupt("an event has no first line".into()))?;
    let mut event = read_event(first)?;
    let mut quotes = Vec::with_capacity(rows.len());
    for row in rows {
        event.lines.push(read_line(row)?);
        quotes.push(read_quote(row)?);
    }
    Ok(Recorded {
        position: first.try_get("position").map_err(corrupt)?,
        charge_time_us: first.try_get("charge_time").map_err(corrupt)?,
        recorded_at_us: first.try_get("recorded_at").map_err(corrupt)?,
        event,
        quotes,
        voided: None,
    })
}

fn read_event(row: &SqliteRow) -> Result<Event, Error> {
    let text = |column: &str| row.try_get::<String, _>(column).map_err(corrupt);
    let number = |column: &str| row.try_get::<Option<i64>, _>(column).map_err(corrupt);
    let flag = |column: &str| row.try_get::<Option<bool>, _>(column).map_err(corrupt);
    let status = text("status")?;
    Ok(Event {
        event_id: text("event_id")?,
        user_id: text("user_id")?,
        team_id: text("team_id")?,
        session_id: text("session_id")?,
        turn: number("turn")?,
        provider: text("provider")?,
        request_time_us: number("request_time")?,
        reservation_id: text("reservation_id")?,
        lines: Vec::new(),
        status: Status::parse(&status)
            .ok_or_else(|| Error::Corrupt(format!("status {status:.32}")))?,
        latency_ms: number("latency_ms")?,
        time_to_first_token_ms: number("time_to_first_token_ms")?,
        labels: read_json(row, "labels")?.unwrap_or_default(),
        thinking: match flag("thinking_enabled")? {
            Some(enabled) => Some(Thinking {
                enabled,
                budget_tokens: number("thinking_budget_tokens")?,
            }),
            None => None,
        },
        service_tier: text("service_tier")?,
        inference_region: text("inference_region")?,
        stop_reason: text("stop_reason")?,
        message: read_json(row, "message")?,
        retrieval: match flag("retrieval_ran")? {
            Some(retrieval_ran) => Some(RetrievalFacts {
                retrieval_ran,
                cases_retrieved: number("cases_retrieved")?.unwrap_or_default(),
                succeeded: flag("succeeded")?,
            }),
            None => None,
        },
    })
}

/// Reads the line of one row.
pub(super) fn read_line(row: &SqliteRow) -> Result<Line, Error> {
    let count = |column: &str| row.try_get::<i64, _>(column).map_err(corrupt);
    Ok(Line {
        model: row.try_get("model").map_err(corrupt)?,
        counts: TokenCounts {
            input: count("input")?,
            cache_read: count("cache_read")?,
            cache_write: CacheWrites {
                ttl_5m: count("cache_write_5m")?,
                ttl_30m: count("cache_write_30m")?,
                ttl_1h: count("cache_write_1h")?,
                ttl_12h: count("cache_write_12h")?,
                unspecified: count("cache_write_unspecified")?,
            },
            output: count("output")?,
            reasoning: count("reasoning")?,
            input_audio: count("input_audio")?,
            input_image: count("input_image")?,
            tool_use_prompt: count("tool_use_prompt")?,
            cache_read_audio: count("cache_read_audio")?,
            output_audio: count("output_audio")?,
            output_image: count("output_image")?,
        },
        tool_requests: read_json(row, "tool_requests")?.unwrap_or_default(),
    })
}

/// Reads the quote of one row; none when it was recorded unpriced.
pub(super) fn read_quote(row: &SqliteRow) -> Result<Option<Quote>, Error> {
    let version: Option<i64> = row.try_get("price_version").map_err(corrupt)?;
    let Some(price_version) = version else {
        return Ok(None);
    };
    let money = |column: &str| row.try_get::<i64, _>(column).map_err(corrupt);
    Ok(Some(Quote {
        cost_nano_usd: money("cost_nano_usd")?,
        cache_saving_nano_usd: money("cache_saving_nano_usd")?,
        cache_write_extra_nano_usd: money("cache_write_extra_nano_usd")?,
        price_version,
    }))
}

/// Reads a column of JSON; none when it is empty.
pub(super) fn read_json<T: serde::de::DeserializeOwned>(
    row: &SqliteRow,
    column: &str,
) -> Result<Option<T>, Error> {
    let text: Option<String> = row.try_get(column).map_err(corrupt)?;
    text.map(|text| serde_json::from_str(&text))
        .transpose()
        .map_err(|error| Error::Corrupt(format!("{column}: {error}")))
}

/// A column that is missing or of another type.
pub(super) fn corrupt(error: sqlx::Error) -> Error {
    Error::Corrupt(error.to_string())
}
