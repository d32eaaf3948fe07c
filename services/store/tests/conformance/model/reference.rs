//! The reference that totals are held against: the events that were accepted, added up one by one. It
//! shares no code with the ledger's own sums.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};

use tokenmeter_model::counts::Line;
use tokenmeter_model::event::{Event, Status};
use tokenmeter_model::price::Quote;
use tokenmeter_model::totals::Totals;
use tokenmeter_store::ledger::{Range, Voided};

/// The reference: every accepted event once, those that were dropped, too.
#[derive(Debug, Default)]
pub(super) struct Reference {
    events: BTreeMap<String, Standing>,
    /// What is charged before this is not accepted and not listed any more.
    pub(super) sealed_before: i64,
}

impl Reference {
    /// The events that are listed.
    pub(super) fn kept(&self) -> impl Iterator<Item = &Standing> {
        self.values().filter(|one| one.time >= self.sealed_before)
    }
}

impl Deref for Reference {
    type Target = BTreeMap<String, Standing>;

    fn deref(&self) -> &Self::Target {
        &self.events
    }
}

impl DerefMut for Reference {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.events
    }
}

/// An event with its quotes as they were first and as they are today.
#[derive(Debug)]
pub(super) struct Standing {
    pub(super) event: Event,
    pub(super) time: i64,
    pub(super) first: Vec<Option<Quote>>,
    pub(super) quotes: Vec<Option<Quote>>,
    /// Why and when it was voided.
    pub(super) voided: Option<Voided>,
}

/// Every summed figure with its name, in the order of [`Totals::SUMS`].
pub(super) type Figures = [(&'static str, i64); Totals::SUMS.len()];

/// The loop that every total is held against: add up what passes the filter.
pub(super) fn sum(
    reference: &Reference,
    range: Option<Range>,
    keep: impl Fn(&Event, &str) -> bool,
) -> Figures {
    let mut sums: Figures = std::array::from_fn(|n| (Totals::SUMS[n], 0));
    for one in reference.values().filter(|one| one.voided.is_none()) {
        let Standing {
            event,
            time,
            quotes,
            ..
        } = one;
        for (n, (line, quote)) in event.lines.iter().zip(quotes).enumerate() {
            if range.is_none_or(|r| r.from_us <= *time && *time < r.to_us)
                && keep(event, &line.model)
            {
                for (sum, add) in sums.iter_mut().zip(adds(event, n == 0, line, *quote)) {
                    assert_eq!(sum.0, add.0, "the reference knows every figure");
                    sum.1 += add.1;
                }
            }
        }
    }
    sums
}

/// What one line adds to each figure; what is counted once an event, its first line.
fn adds(event: &Event, first: bool, line: &Line, quote: Option<Quote>) -> Figures {
    let once = i64::from(first);
    let ended = |status| i64::from(first && event.status == status);
    let quoted = |figure: fn(Quote) -> i64| quote.map_or(0, figure);
    let counts = &line.counts;
    let written = &counts.cache_write;
    [
        ("requests", once),
        ("succeeded", ended(Status::Succeeded)),
        ("failed", ended(Status::Failed)),
        ("interrupted", ended(Status::Interrupted)),
        ("input", counts.input),
        ("cache_read", counts.cache_read),
        ("cache_write_5m", written.ttl_5m),
        ("cache_write_30m", written.ttl_30m),
        ("cache_write_1h", written.ttl_1h),
        ("cache_write_12h", written.ttl_12h),
        ("cache_write_unspecified", written.unspecified),
        ("output", counts.output),
        ("reasoning", counts.reasoning),
        ("input_audio", counts.input_audio),
        ("input_image", counts.input_image),
        ("tool_use_prompt", counts.tool_use_prompt),
        ("cache_read_audio", counts.cache_read_audio),
        ("output_audio", counts.output_audio),
        ("output_image", counts.output_image),
        ("tool_requests", line.tool_requests.values().sum()),
        ("cost_nano_usd", quoted(|quote| quote.cost_nano_usd)),
        (
            "cache_saving_nano_usd",
            quoted(|quote| quote.cache_saving_nano_usd),
        ),
        (
            "cache_write_extra_nano_usd",
            quoted(|quote| quote.cache_write_extra_nano_usd),
        ),
        ("lines", 1),
        ("unpriced_lines", i64::from(quote.is_none())),
        ("latency_ms", once * event.latency_ms.unwrap_or(0)),
        (
            "latency_events",
            once * i64::from(event.latency_ms.is_some()),
        ),
    ]
}

pub(super) fn figures(totals: &Totals) -> Figures {
    let sums = totals.sums();
    std::array::from_fn(|n| (Totals::SUMS[n], sums[n]))
}
