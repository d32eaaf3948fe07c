//! The stated bound of every field, and the violation that names field, bound and mend.

use std::fmt::Display;

/// Longest opaque id or text in bytes (R1: ids are at most 255 bytes, no other text bound is lower).
pub const MAX_TEXT_BYTES: usize = 255;
/// Most labels on one event (R1).
pub const MAX_LABELS: usize = 64;
/// What keys of labels begin with that are the service's own.
pub const RESERVED_LABELS: &str = "tokenmeter.";
/// Most lines in one event (R1: one provider response can bill several models).
pub const MAX_LINES: usize = 16;
/// Most events in one batch (design: `BatchRecordUsage` ≤ 1,000 events).
pub const MAX_BATCH_EVENTS: usize = 1_000;
/// Most tool invocations, messages or champion case reports in one request.
pub const MAX_BATCH_ITEMS: usize = 1_000;
/// Largest provider usage document in bytes (design: `usage_json` ≤ 64 KiB).
pub const MAX_USAGE_JSON_BYTES: usize = 64 * 1024;
/// Most documents of one streamed response.
pub const MAX_STREAM_DOCUMENTS: usize = 1_024;
/// Largest single token count of a line. One call cannot reach it, and sums of
/// nine billion such lines still fit an `i64`.
pub const MAX_TOKENS: i64 = 1_000_000_000;
/// Largest number of requests to one server-side tool in a line.
pub const MAX_TOOL_REQUESTS: i64 = 1_000_000;
/// Most kinds of server-side tools in a line.
pub const MAX_TOOL_KINDS: usize = 16;
/// Smallest extended-thinking budget in tokens (R4).
pub const MIN_THINKING_BUDGET: i64 = 1_024;
/// Largest extended-thinking budget in tokens (R4).
pub const MAX_THINKING_BUDGET: i64 = 100_000;
/// Earliest event time, 2000-01-01T00:00:00Z, in microseconds since the Unix epoch.
pub const MIN_TIME_US: i64 = 946_684_800_000_000;
/// How far an event time may lie ahead of the server's clock, in microseconds (10 minutes).
pub const MAX_FUTURE_US: i64 = 10 * 60 * 1_000_000;
/// Largest duration in milliseconds (7 days).
pub const MAX_DURATION_MS: i64 = 7 * 24 * 3_600 * 1_000;
/// Largest turn number, message sequence and count of retrieved cases.
pub const MAX_ORDINAL: i64 = 1_000_000_000;

/// What kind of violation, where callers tell one from another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kind {
    /// A field is out of its bound.
    #[default]
    Field,
    /// The event has no id, and its document carries none.
    EventIdMissing,
    /// The event has no usage.
    UsageMissing,
    /// The event has no lines, or more than [`MAX_LINES`].
    TooManyLines,
    /// A time lies too far ahead of the server's clock.
    TimeInFuture,
    /// A range of time ends before it begins.
    Range,
    /// A limit, or a set of limits, is out of its bounds or makes no sense.
    Limit,
}

/// One field that is out of its bound. The text names the bound and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {description}")]
pub struct Violation {
    /// Path of the field as in the contract, such as `lines[0].counts.input`.
    pub field: String,
    /// What is wrong, the bound, and the mend; lower case, no full stop.
    pub description: String,
    /// What kind of violation it is.
    pub kind: Kind,
}

impl Violation {
    /// A violation of `field`.
    pub fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            description: description.into(),
            kind: Kind::Field,
        }
    }

    /// The same violation, of another kind.
    #[must_use]
    pub fn kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }
}

/// Checks that `min ≤ value ≤ max`. A field's path is only written out where it is refused.
pub fn range(field: impl Display, value: i64, min: i64, max: i64, out: &mut Vec<Violation>) {
    if value < min || value > max {
        out.push(Violation::new(
            field.to_string(),
            format!("{value} is out of bounds; send a value from {min} to {max}"),
        ));
    }
}

/// Checks that a text is at most [`MAX_TEXT_BYTES`] long and has no NUL character, which PostgreSQL
/// cannot keep; empty passes.
pub fn text(field: impl Display, value: &str, out: &mut Vec<Violation>) {
    if value.contains('\0') {
        let text = "has a NUL character (U+0000); send it without";
        out.push(Violation::new(field.to_string(), text));
    }
    if value.len() > MAX_TEXT_BYTES {
        out.push(Violation::new(
            field.to_string(),
            format!(
                "{} bytes is too long; send at most {MAX_TEXT_BYTES} bytes",
                value.len()
            ),
        ));
    }
}

/// Checks that an id is present and at most [`MAX_TEXT_BYTES`] long.
pub fn required_text(field: impl Display, value: &str, out: &mut Vec<Violation>) {
    if value.is_empty() {
        out.push(Violation::new(
            field.to_string(),
            format!("is required; send 1 to {MAX_TEXT_BYTES} bytes"),
        ));
    }
    text(field, value, out);
}

/// Checks free-form labels, which are sorted by key: how many, their texts, no key twice.
pub fn labels(labels: &[(String, String)], out: &mut Vec<Violation>) {
    if labels.len() > MAX_LABELS {
        out.push(Violation::new(
            "labels",
            format!(
                "{} labels is too many; send at most {}",
                labels.len(),
                MAX_LABELS
            ),
        ));
        return;
    }
    for (key, value) in labels {
        required_text(format_args!("labels[{key:.64}].key"), key, out);
        text(format_args!("labels[{key:.64}].value"), value, out);
        if key.starts_with(RESERVED_LABELS) {
            out.push(Violation::new(
                format!("labels[{key:.64}].key"),
                format!(
                    "keys that begin with {:?} are reserved; send another key",
                    RESERVED_LABELS
                ),
            ));
        }
    }
    if labels.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        out.push(Violation::new(
            "labels",
            "a key stands twice; send each key once",
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that got as far as a ledger would fail there, and with it all that is written together.
    #[test]
    fn no_text_has_a_nul_character() {
        let refused = |check: &dyn Fn(&mut Vec<Violation>)| {
            let mut out = Vec::new();
            check(&mut out);
            out.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let why = |field: &str| {
            vec![format!(
                "{field}: has a NUL character (U+0000); send it without"
            )]
        };
        let text_with_it = |out: &mut Vec<Violation>| text("id", "a\0b", out);
        assert_eq!(refused(&text_with_it), why("id"));
        let required = |out: &mut Vec<Violation>| required_text("id", "\0", out);
        assert_eq!(refused(&required), why("id"));
        let label = |out: &mut Vec<Violation>| labels(&[("k".into(), "\0".into())], out);
        assert_eq!(refused(&label), why("labels[k].value"));
        let others = |out: &mut Vec<Violation>| text("id", "\u{1}\t\u{7f}", out);
        assert_eq!(refused(&others), Vec::<String>::new());
    }
}
