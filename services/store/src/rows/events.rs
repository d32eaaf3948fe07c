//! `usage_lines` as rows: how events, their quotes and their corrections are read back.

use std::collections::HashMap;

use tokenmeter_model::counts::{CacheWrites, Line, TokenCounts};
use tokenmeter_model::event::{Event, RetrievalFacts, Status, Thinking};
use tokenmeter_model::price::Quote;

use super::Row;
use crate::ledger::correction::RepriceCandidate;
use crate::ledger::{Error, PricedLine, Recorded, Unpriced, Voided};

/// Puts the rows of one event, in order of line, together again. `quotes` are the rows' own.
pub(crate) fn event<R: Row>(rows: &[R]) -> Result<Recorded, Error> {
    let first = rows
        .first()
        .ok_or_else(|| Error::Corrupt("an event has no first line".into()))?;
    let mut event = facts(first)?;
    let mut quotes = Vec::with_capacity(rows.len());
    for row in rows {
        event.lines.push(line(row)?);
        quotes.push(quote(row)?);
    }
    Ok(Recorded {
        position: first.value("position")?,
        charge_time_us: first.value("charge_time")?,
        recorded_at_us: first.value("recorded_at")?,
        api_key_id: first.value("api_key_id")?,
        event,
        quotes,
        voided: None,
    })
}

/// The events whose rows stand one event after the other, each in order of line.
pub(crate) fn events<R: Row>(rows: Vec<R>) -> Result<Vec<Recorded>, Error> {
    let mut events = Vec::new();
    let mut of_one: Vec<R> = Vec::new();
    for row in rows {
        if row.value::<i64>("line")? == 0 && !of_one.is_empty() {
            events.push(event(&of_one)?);
            of_one.clear();
        }
        of_one.push(row);
    }
    if !of_one.is_empty() {
        events.push(event(&of_one)?);
    }
    Ok(events)
}

/// What an event is beside its lines.
fn facts(row: &impl Row) -> Result<Event, Error> {
    let text = |column: &str| row.value::<String>(column);
    let number = |column: &str| row.value::<Option<i64>>(column);
    let flag = |column: &str| row.value::<Option<bool>>(column);
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
        labels: row.json("labels")?.unwrap_or_default(),
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
        message: row.json("message")?,
        retrieval: match flag("retrieval_ran")? {
            Some(retrieval_ran) => Some(RetrievalFacts {
                retrieval_ran,
                cases_retrieved: row.figure("cases_retrieved")?,
                succeeded: flag("succeeded")?,
            }),
            None => None,
        },
    })
}

/// The line of one row.
pub(crate) fn line(row: &impl Row) -> Result<Line, Error> {
    let count = |column: &str| row.value::<i64>(column);
    Ok(Line {
        model: row.value("model")?,
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
        tool_requests: row.json("tool_requests")?.unwrap_or_default(),
    })
}

/// The quote of one row; none when it was recorded unpriced.
pub(crate) fn quote(row: &impl Row) -> Result<Option<Quote>, Error> {
    let Some(price_version) = row.value("price_version")? else {
        return Ok(None);
    };
    Ok(Some(Quote {
        cost_nano_usd: row.value("cost_nano_usd")?,
        cache_saving_nano_usd: row.value("cache_saving_nano_usd")?,
        cache_write_extra_nano_usd: row.value("cache_write_extra_nano_usd")?,
        price_version,
    }))
}

/// Adds the difference that a new price makes.
pub(crate) fn add_quote(quote: &mut Quote, correction: &Quote) {
    quote.cost_nano_usd += correction.cost_nano_usd;
    quote.cache_saving_nano_usd += correction.cache_saving_nano_usd;
    quote.cache_write_extra_nano_usd += correction.cache_write_extra_nano_usd;
    quote.price_version = correction.price_version;
}

/// What was corrected of lines, by the lines' positions.
#[derive(Default)]
pub(crate) struct Corrections {
    /// The sums of all new prices.
    reprices: HashMap<i64, Quote>,
    voids: HashMap<i64, Voided>,
}

impl Corrections {
    /// Gathers rows of corrections, in order of position; those after `through` are left out.
    pub(crate) fn of<R: Row>(rows: &[R], through: i64) -> Result<Self, Error> {
        let mut all = Self::default();
        for row in rows {
            if row.value::<i64>("position")? > through {
                continue;
            }
            let of: i64 = row.value("of_position")?;
            if row.value::<&str>("kind")? == "void" {
                all.voids.insert(of, voided(row)?);
            } else if let Some(change) = quote(row)? {
                add_quote(all.reprices.entry(of).or_default(), &change);
            }
        }
        Ok(all)
    }

    /// Adds the void of an event to it, and leaves its quotes as they were recorded.
    pub(crate) fn apply_voids(mut self, events: &mut [Recorded]) {
        for event in events {
            event.voided = self.voids.remove(&event.position);
        }
    }

    /// Adds every line's new prices to its quote, and the void of an event to it.
    pub(crate) fn apply(mut self, events: &mut [Recorded]) {
        for event in events {
            event.voided = self.voids.remove(&event.position);
            for (quote, position) in event.quotes.iter_mut().zip(event.position..) {
                if let Some(change) = self.reprices.get(&position) {
                    add_quote(quote.get_or_insert_default(), change);
                }
            }
        }
    }
}

/// What the row of a void says.
pub(crate) fn voided(row: &impl Row) -> Result<Voided, Error> {
    Ok(Voided {
        at_us: row.value("recorded_at")?,
        reason: row.value::<Option<_>>("correction")?.unwrap_or_default(),
    })
}

/// A line that may be priced anew, with its own quote.
pub(crate) fn candidate(row: &impl Row) -> Result<RepriceCandidate, Error> {
    let position: i64 = row.value("position")?;
    Ok(RepriceCandidate {
        position,
        event_position: position - row.value::<i64>("line")?,
        provider: row.value("provider")?,
        service_tier: row.value("service_tier")?,
        charge_time_us: row.value("charge_time")?,
        priced: PricedLine {
            line: line(row)?,
            quote: quote(row)?,
        },
    })
}

/// Adds to each candidate's quote the sum of its reprices: rows of `of_position` and a quote.
pub(crate) fn add_reprice_sums<R: Row>(
    candidates: &mut [RepriceCandidate],
    sums: &[R],
) -> Result<(), Error> {
    let mut by_position = HashMap::with_capacity(sums.len());
    for row in sums {
        if let Some(sum) = quote(row)? {
            by_position.insert(row.value::<i64>("of_position")?, sum);
        }
    }
    for candidate in candidates {
        if let Some(sum) = by_position.get(&candidate.position) {
            add_quote(candidate.priced.quote.get_or_insert_default(), sum);
        }
    }
    Ok(())
}

/// A model with lines that wait for a price.
pub(crate) fn unpriced(row: &impl Row) -> Result<Unpriced, Error> {
    Ok(Unpriced {
        provider: row.value("provider")?,
        model: row.value("model")?,
        lines: row.value("lines")?,
        tokens: row.value("tokens")?,
        first_us: row.value("first_us")?,
        last_us: row.value("last_us")?,
    })
}
