//! Files of recorded provider responses: one JSON object a line (`provider-jsonl`).
//!
//! A row has `provider`, `api`, `streaming`, `request_model`, `response_model`, `response_id` and
//! `usage`: the provider's usage object, or the list of a stream's usage-bearing chunks. Callers'
//! own logs may add `user`, `team`, `session`, `time` and `event_id`. Other keys are ignored.

use std::io::{self, BufRead, Read as _};

use serde::Deserialize;
use serde_json::value::RawValue;
use tokenmeter_model::provider::{self, Normalized, Provider, Response};

/// Longest row that is read, in bytes; what the server takes in one message.
const MAX_ROW_BYTES: usize = 4 * 1024 * 1024;
/// Why a row that cannot be read is refused.
pub(crate) const ROW_INVALID: &str = "ROW_INVALID";

/// One line of a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Numbered {
    /// Its number, from 0.
    pub(crate) line: u64,
    /// Where the next line begins, in bytes.
    pub(crate) end: u64,
    /// Its text, or why it has none.
    pub(crate) text: Result<String, Refusal>,
}

/// Why a row has no counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// For programs.
    pub(crate) reason: String,
    /// For people.
    pub(crate) message: String,
}

impl Refusal {
    /// A refusal.
    pub(crate) fn new(reason: &str, message: impl Into<String>) -> Self {
        Self {
            reason: reason.to_owned(),
            message: message.into(),
        }
    }
}

/// The lines of a file, each of bounded length; blank ones are left out, but counted.
pub(crate) struct Lines<R> {
    reader: R,
    line: u64,
    end: u64,
}

impl<R: BufRead> Lines<R> {
    /// The lines of `reader`.
    pub(crate) fn new(reader: R) -> Self {
        Self {
            reader,
            line: 0,
            end: 0,
        }
    }

    /// The next line that is not blank.
    pub(crate) fn next(&mut self) -> io::Result<Option<Numbered>> {
        loop {
            let mut bytes = Vec::new();
            let limit = MAX_ROW_BYTES as u64 + 1;
            let read = (&mut self.reader)
                .take(limit)
                .read_until(b'\n', &mut bytes)?;
            if read == 0 {
                return Ok(None);
            }
            let line = self.line;
            self.line += 1;
            self.end += read as u64;
            if !bytes.ends_with(b"\n") && read as u64 == limit {
                self.skip()?;
                let message = format!("the row is longer than {MAX_ROW_BYTES} bytes");
                return Ok(Some(
                    self.numbered(line, Err(Refusal::new(ROW_INVALID, message))),
                ));
            }
            if bytes.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let text = String::from_utf8(bytes)
                .map_err(|_| Refusal::new(ROW_INVALID, "the row is not UTF-8"));
            return Ok(Some(self.numbered(line, text)));
        }
    }

    fn numbered(&self, line: u64, text: Result<String, Refusal>) -> Numbered {
        let end = self.end;
        Numbered { line, end, text }
    }

    /// Passes over the rest of the line.
    fn skip(&mut self) -> io::Result<()> {
        loop {
            let buffer = self.reader.fill_buf()?;
            let (used, done) = match buffer.iter().position(|byte| *byte == b'\n') {
                Some(at) => (at + 1, true),
                None => (buffer.len(), buffer.is_empty()),
            };
            self.reader.consume(used);
            self.end += used as u64;
            if done {
                return Ok(());
            }
        }
    }
}

/// One recorded response.
#[derive(Debug, Deserialize)]
pub(crate) struct Row<'a> {
    /// Who served it.
    pub(crate) provider: String,
    #[serde(default)]
    api: Option<String>,
    #[serde(default)]
    streaming: Option<bool>,
    #[serde(default)]
    request_model: Option<String>,
    #[serde(default)]
    response_id: Option<String>,
    #[serde(default, borrow)]
    usage: Option<&'a RawValue>,
    /// Whose usage it is.
    #[serde(default)]
    pub(crate) user: Option<String>,
    /// The user's team.
    #[serde(default)]
    pub(crate) team: Option<String>,
    /// The session.
    #[serde(default)]
    pub(crate) session: Option<String>,
    /// When the call began, RFC 3339.
    #[serde(default)]
    pub(crate) time: Option<String>,
    #[serde(default)]
    event_id: Option<String>,
}

/// The documents of a row, as they came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Documents<'a> {
    /// None for a row without usage.
    pub(crate) texts: Vec<&'a str>,
    /// Whether the response was streamed.
    pub(crate) streamed: bool,
}

impl<'a> Row<'a> {
    /// Reads a row.
    pub(crate) fn parse(text: &'a str) -> Result<Self, Refusal> {
        // serde would read a list as a row, too, field by field.
        if text.trim_start().starts_with('[') {
            return Err(Refusal::new(
                ROW_INVALID,
                "the row is a list, not an object",
            ));
        }
        let row: Self = serde_json::from_str(text).map_err(|error| {
            let what = match error.classify() {
                serde_json::error::Category::Data => "is no row",
                _ => "is not JSON",
            };
            let column = error.column();
            let message = match missing(&error.to_string()) {
                Some(field) => format!("the row has no {field}"),
                None => format!("the row {what} (column {column})"),
            };
            Refusal::new(ROW_INVALID, message)
        })?;
        if row.provider.trim().is_empty() {
            return Err(Refusal::new(ROW_INVALID, "the row has no provider"));
        }
        Ok(row)
    }

    /// Which API answered; may be empty.
    pub(crate) fn api(&self) -> &str {
        self.api.as_deref().unwrap_or_default()
    }

    /// The model that was asked for, percent-decoded; may be empty.
    pub(crate) fn model(&self) -> String {
        provider::percent_decode(self.request_model.as_deref().unwrap_or_default())
    }

    /// The row's own event id, else the provider's id of the response.
    pub(crate) fn id(&self) -> Option<&str> {
        [&self.event_id, &self.response_id]
            .into_iter()
            .filter_map(Option::as_deref)
            .find(|id| is_id(id))
    }

    /// The usage documents.
    pub(crate) fn documents(&self) -> Result<Documents<'a>, Refusal> {
        let streaming = self.streaming.unwrap_or_default();
        let Some(usage) = self.usage else {
            return Ok(Documents {
                texts: Vec::new(),
                streamed: streaming,
            });
        };
        let text = usage.get();
        if !text.starts_with('[') {
            return Ok(Documents {
                texts: vec![text],
                streamed: streaming,
            });
        }
        let chunks: Vec<&RawValue> = serde_json::from_str(text)
            .map_err(|_| Refusal::new(ROW_INVALID, "the row's usage is no list"))?;
        Ok(Documents {
            texts: chunks.into_iter().map(RawValue::get).collect(),
            streamed: true,
        })
    }

    /// The row in disjoint counts, by the rules of its provider.
    pub(crate) fn normalize(&self) -> Result<Normalized, Refusal> {
        let provider = Provider::parse(&self.provider).ok_or_else(|| {
            Refusal::new(
                "UNKNOWN_PROVIDER",
                "the provider is not one whose usage documents are read",
            )
        })?;
        let documents = self.documents()?;
        if documents.texts.is_empty() {
            return Err(Refusal::new("USAGE_MISSING", "the row has no usage"));
        }
        let model = self.model();
        provider::normalize(&Response {
            provider,
            api: self.api(),
            model: &model,
            documents: &documents.texts,
            streamed: documents.streamed,
        })
        .map_err(|error| Refusal::new(error.reason(), error.to_string()))
    }

    /// The provider as OpenTelemetry spells it; an unknown one as it is.
    pub(crate) fn provider_name(&self) -> &str {
        match Provider::parse(&self.provider) {
            Some(known) => known.as_str(),
            None => &self.provider,
        }
    }
}

/// Whether a text can name an event.
pub(crate) fn is_id(id: &str) -> bool {
    !id.trim().is_empty() && id.len() <= tokenmeter_model::bounds::MAX_TEXT_BYTES
}

/// The field that serde found missing; all else in its texts may repeat the row's content.
fn missing(error: &str) -> Option<&str> {
    let (field, _) = error.strip_prefix("missing field `")?.split_once('`')?;
    Some(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8]) -> Vec<Numbered> {
        let mut lines = Lines::new(text);
        std::iter::from_fn(|| lines.next().unwrap()).collect()
    }

    #[test]
    fn lines_are_counted_from_zero_and_blank_ones_are_passed_over() {
        let got = lines(b"a\n\n  \nb\r\nc");
        let numbers: Vec<_> = got.iter().map(|row| (row.line, row.end)).collect();
        assert_eq!(numbers, [(0, 2), (3, 9), (4, 10)]);
        assert_eq!(got[2].text, Ok("c".to_owned()));
    }

    #[test]
    fn a_row_that_is_too_long_or_no_text_does_not_stop_the_others() {
        let mut file = vec![b'x'; MAX_ROW_BYTES + 5];
        file.extend(b"\n\xff\nc\n");
        let got = lines(&file);
        let ok: Vec<_> = got.iter().map(|row| (row.line, row.text.is_ok())).collect();
        assert_eq!(ok, [(0, false), (1, false), (2, true)]);
        assert_eq!(got[2].end, file.len() as u64);
    }

    #[test]
    fn documents_are_passed_on_as_they_came() {
        let row = Row::parse(r#"{"provider":"p","usage":{"a": 1.0e2 }}"#).unwrap();
        let plain = row.documents().unwrap();
        assert_eq!(plain.texts, [r#"{"a": 1.0e2 }"#]);
        assert!(!plain.streamed);
        let row = Row::parse(r#"{"provider":"p","usage":[ {"a":1}, {"b":2} ]}"#).unwrap();
        let streamed = row.documents().unwrap();
        assert_eq!(streamed.texts, [r#"{"a":1}"#, r#"{"b":2}"#]);
        assert!(streamed.streamed);
        let row = Row::parse(r#"{"provider":"p","streaming":true,"usage":null}"#).unwrap();
        assert_eq!(row.documents().unwrap().texts.len(), 0);
    }

    #[test]
    fn what_is_no_row_is_refused_without_repeating_it() {
        for text in [
            "secret",
            r#"{"provider":7}"#,
            r#"{"api":"secret"}"#,
            r#"["secret"]"#,
        ] {
            let refusal = Row::parse(text).unwrap_err();
            assert_eq!(refusal.reason, ROW_INVALID);
            assert!(!refusal.message.contains("secret"), "{}", refusal.message);
        }
        assert_eq!(
            Row::parse("{}").unwrap_err().message,
            "the row has no provider"
        );
    }

    #[test]
    fn the_first_real_id_names_the_event() {
        let id = |text: &str| Row::parse(text).unwrap().id().map(str::to_owned);
        assert_eq!(
            id(r#"{"provider":"p","response_id":"r","event_id":"e"}"#).as_deref(),
            Some("e")
        );
        assert_eq!(
            id(r#"{"provider":"p","response_id":"r","event_id":" "}"#).as_deref(),
            Some("r")
        );
        assert_eq!(id(r#"{"provider":"p","response_id":null}"#), None);
        let long = "x".repeat(256);
        assert_eq!(
            id(&format!(r#"{{"provider":"p","response_id":"{long}"}}"#)),
            None
        );
    }

    #[test]
    fn refusals_carry_the_contracts_reasons() {
        let reason = |text: &str| Row::parse(text).unwrap().normalize().unwrap_err().reason;
        assert_eq!(
            reason(r#"{"provider":"nobody","usage":{}}"#),
            "UNKNOWN_PROVIDER"
        );
        assert_eq!(reason(r#"{"provider":"openai"}"#), "USAGE_MISSING");
        assert_eq!(
            reason(r#"{"provider":"openai","usage":5}"#),
            "USAGE_JSON_INVALID"
        );
    }
}
