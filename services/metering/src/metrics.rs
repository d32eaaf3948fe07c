//! What recording tells the metrics page, the logs and the traces: figures, never texts. Counted
//! once a batch; no label names a tenant, a user or a model.

use std::collections::BTreeMap;

use ::metrics::{Unit, counter, describe_counter};
use tokenmeter_model::provider::Provider;
use tracing::Span;

use crate::error::Error;
use crate::service::Recorded;

/// Events that were answered, by outcome: `recorded`, `duplicate`, `refused`.
pub const EVENTS: &str = "tokenmeter_events_total";
/// Events that were refused, by the reason that the caller was told.
pub const EVENTS_REFUSED: &str = "tokenmeter_events_refused_total";
/// Tokens of recorded events, by provider and kind: `input`, `cache_read`, `cache_write`, `output`.
pub const TOKENS: &str = "tokenmeter_tokens_total";
/// Cost of recorded events in billionths of a US dollar, by provider.
pub const COST: &str = "tokenmeter_cost_nano_usd_total";
/// Lines that were recorded without a price, by provider.
pub const UNPRICED_LINES: &str = "tokenmeter_unpriced_lines_total";
/// Calls that were asked for, by decision: `allowed`, `denied`.
pub const DECISIONS: &str = "tokenmeter_authorizations_total";
/// The provider of those whose name is not one of [`Provider::ALL`].
const OTHER: &str = "other";

/// Says what each metric of recording means.
pub fn describe() {
    describe_counter!(EVENTS, Unit::Count, "Usage events that were answered");
    describe_counter!(
        EVENTS_REFUSED,
        Unit::Count,
        "Usage events that were refused, by the reason that the caller was told"
    );
    describe_counter!(TOKENS, Unit::Count, "Tokens of recorded events");
    describe_counter!(
        COST,
        "Cost of recorded events when they were recorded, in billionths of a US dollar"
    );
    describe_counter!(
        UNPRICED_LINES,
        Unit::Count,
        "Usage lines that were recorded without a price"
    );
    describe_counter!(DECISIONS, Unit::Count, "Calls that were asked for");
    for outcome in ["recorded", "duplicate", "refused"] {
        counter!(EVENTS, "outcome" => outcome).absolute(0);
    }
    for decision in [ALLOWED, DENIED] {
        counter!(DECISIONS, "decision" => decision).absolute(0);
    }
}

const ALLOWED: &str = "allowed";
const DENIED: &str = "denied";

/// Counts an answer to whether a call may run.
pub(crate) fn count_decision(allowed: bool) {
    let decision = if allowed { ALLOWED } else { DENIED };
    counter!(DECISIONS, "decision" => decision).increment(1);
}

/// Figures of a batch, or of a stream from its start. All are i64, which traces keep as numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Events that were answered.
    pub events: i64,
    /// Those that were recorded now; the figures below are theirs.
    pub recorded: i64,
    /// Those that stood before.
    pub duplicates: i64,
    /// Those that were refused.
    pub refused: i64,
    /// Prompt tokens, cache reads and writes included.
    pub prompt_tokens: i64,
    /// Output tokens.
    pub output_tokens: i64,
    /// All tokens.
    pub total_tokens: i64,
    /// Cost of the priced lines.
    pub cost_nano_usd: i64,
}

impl Tally {
    /// The figures of these results.
    pub fn of<'a>(results: impl IntoIterator<Item = &'a Result<Recorded, Error>>) -> Self {
        let mut tally = Self::default();
        for result in results {
            tally.events += 1;
            match result {
                Err(_) => tally.refused += 1,
                Ok(recorded) if recorded.duplicate => tally.duplicates += 1,
                Ok(recorded) => {
                    tally.recorded += 1;
                    let sums = Sums::of(recorded);
                    tally.prompt_tokens += sums.input + sums.cache_read + sums.cache_write;
                    tally.output_tokens += sums.output;
                    tally.cost_nano_usd = tally.cost_nano_usd.saturating_add(sums.cost_nano_usd);
                }
            }
        }
        tally.total_tokens = tally.prompt_tokens + tally.output_tokens;
        tally
    }

    /// Adds the figures of a later batch of the same stream.
    pub fn add(&mut self, later: &Self) {
        self.events += later.events;
        self.recorded += later.recorded;
        self.duplicates += later.duplicates;
        self.refused += later.refused;
        self.prompt_tokens = self.prompt_tokens.saturating_add(later.prompt_tokens);
        self.output_tokens = self.output_tokens.saturating_add(later.output_tokens);
        self.total_tokens = self.total_tokens.saturating_add(later.total_tokens);
        self.cost_nano_usd = self.cost_nano_usd.saturating_add(later.cost_nano_usd);
    }

    /// Puts the figures on the call's span, for its log line and its trace. Once a call: a log line
    /// grows with every time.
    pub fn tell(&self, call: &Span) {
        call.record("events", self.events)
            .record("recorded", self.recorded)
            .record("duplicates", self.duplicates)
            .record("refused", self.refused)
            .record("prompt_tokens", self.prompt_tokens)
            .record("output_tokens", self.output_tokens)
            .record("total_tokens", self.total_tokens)
            .record("cost_nano_usd", self.cost_nano_usd);
    }
}

/// Puts the figures of one answer on the span of the current call, where anyone listens.
pub(crate) fn tell<'a>(results: impl IntoIterator<Item = &'a Result<Recorded, Error>>) {
    let call = Span::current();
    if !call.is_disabled() {
        Tally::of(results).tell(&call);
    }
}

/// Counts the results of a batch.
pub(crate) fn count(results: &[Result<Recorded, Error>]) {
    let mut recorded = 0;
    let mut duplicates = 0;
    let mut refused: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut providers: BTreeMap<&'static str, Sums> = BTreeMap::new();
    for result in results {
        match result {
            Err(error) => *refused.entry(error.reason_name()).or_default() += 1,
            Ok(result) if result.duplicate => duplicates += 1,
            Ok(result) => {
                recorded += 1;
                providers
                    .entry(provider_label(&result.event.provider))
                    .or_default()
                    .add(&Sums::of(result));
            }
        }
    }
    counter!(EVENTS, "outcome" => "recorded").increment(recorded);
    counter!(EVENTS, "outcome" => "duplicate").increment(duplicates);
    for (reason, events) in refused {
        count_refused(reason, events);
    }
    for (provider, sums) in providers {
        sums.count(provider);
    }
}

/// A known provider's canonical name; every other is one label, so that callers cannot make more.
fn provider_label(canonical: &str) -> &'static str {
    let mut known = Provider::ALL.into_iter().map(Provider::as_str);
    known.find(|name| *name == canonical).unwrap_or(OTHER)
}

/// Counts events that were refused for one reason.
pub(crate) fn count_refused(reason: &'static str, events: u64) {
    counter!(EVENTS, "outcome" => "refused").increment(events);
    counter!(EVENTS_REFUSED, "reason" => reason).increment(events);
}

/// What recorded events add up to.
#[derive(Debug, Default)]
struct Sums {
    input: i64,
    cache_read: i64,
    cache_write: i64,
    output: i64,
    cost_nano_usd: i64,
    unpriced_lines: i64,
}

impl Sums {
    fn of(recorded: &Recorded) -> Self {
        let mut sums = Self::default();
        for line in &recorded.event.lines {
            sums.input += line.counts.input;
            sums.cache_read += line.counts.cache_read;
            sums.cache_write += line.counts.cache_write.total();
            sums.output += line.counts.output;
        }
        for quote in &recorded.quotes {
            match quote {
                Some(quote) => {
                    sums.cost_nano_usd = sums.cost_nano_usd.saturating_add(quote.cost_nano_usd);
                }
                None => sums.unpriced_lines += 1,
            }
        }
        sums
    }

    fn add(&mut self, other: &Self) {
        self.input += other.input;
        self.cache_read += other.cache_read;
        self.cache_write += other.cache_write;
        self.output += other.output;
        self.cost_nano_usd = self.cost_nano_usd.saturating_add(other.cost_nano_usd);
        self.unpriced_lines += other.unpriced_lines;
    }

    fn count(&self, provider: &'static str) {
        // Counts and costs are never negative.
        let whole = |figure: i64| u64::try_from(figure).unwrap_or_default();
        for (kind, tokens) in [
            ("input", self.input),
            ("cache_read", self.cache_read),
            ("cache_write", self.cache_write),
            ("output", self.output),
        ] {
            counter!(TOKENS, "provider" => provider, "kind" => kind).increment(whole(tokens));
        }
        counter!(COST, "provider" => provider).increment(whole(self.cost_nano_usd));
        counter!(UNPRICED_LINES, "provider" => provider).increment(whole(self.unpriced_lines));
    }
}
