//! The fields of an event that a column or a constant can give, and how their texts are read.

use tokenmeter_api::v1;
use tokenmeter_model::bounds::{
    MAX_DURATION_MS, MAX_ORDINAL, MAX_TEXT_BYTES, MAX_THINKING_BUDGET, MAX_TOKENS,
    MAX_TOOL_REQUESTS, MIN_THINKING_BUDGET,
};

use super::times::Times;

/// A field, as `--map` and `--set` name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Field {
    /// One of [`NAMES`].
    Named(&'static str),
    /// `label.KEY`.
    Label(String),
    /// `tool.NAME`: requests to a server-side tool.
    Tool(String),
}

/// Every field with a name of its own.
const NAMES: [&str; 41] = [
    "event_id",
    "user_id",
    "team_id",
    "session_id",
    "turn",
    "provider",
    "model",
    "request_time",
    "status",
    "latency_ms",
    "time_to_first_token_ms",
    "service_tier",
    "inference_region",
    "stop_reason",
    "prompt",
    "input",
    "cache_read",
    "cache_write",
    "cache_write_5m",
    "cache_write_30m",
    "cache_write_1h",
    "cache_write_12h",
    "output",
    "reasoning",
    "input_audio",
    "input_image",
    "tool_use_prompt",
    "cache_read_audio",
    "output_audio",
    "output_image",
    "thinking",
    "thinking_budget",
    "message_id",
    "message_role",
    "message_type",
    "message_sequence",
    "tool_use_id",
    "source_event_id",
    "retrieval_ran",
    "cases_retrieved",
    "retrieval_succeeded",
];

/// The fields that give tokens, of which a table needs at least one.
pub(super) const TOKENS: [&str; 9] = [
    "prompt",
    "input",
    "cache_read",
    "cache_write",
    "cache_write_5m",
    "cache_write_30m",
    "cache_write_1h",
    "cache_write_12h",
    "output",
];

impl Field {
    /// The field of a name.
    pub(super) fn parse(name: &str) -> Result<Self, String> {
        if let Some(key) = name.strip_prefix("label.").filter(|key| !key.is_empty()) {
            return Ok(Self::Label(key.to_owned()));
        }
        if let Some(tool) = name.strip_prefix("tool.").filter(|tool| !tool.is_empty()) {
            return Ok(Self::Tool(tool.to_owned()));
        }
        let known = NAMES.iter().find(|known| **known == name);
        known.map(|known| Self::Named(known)).ok_or_else(|| {
            format!(
                "is no field; the fields are {}, label.KEY and tool.NAME",
                NAMES.join(", ")
            )
        })
    }

    /// Its name.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Named(name) => (*name).to_owned(),
            Self::Label(key) => format!("label.{key}"),
            Self::Tool(tool) => format!("tool.{tool}"),
        }
    }
}

/// An event as its fields come together.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// All but the usage.
    pub(super) event: v1::UsageEvent,
    model: String,
    counts: v1::TokenCounts,
    tools: Vec<v1::ToolRequests>,
    /// Prompt tokens with cache reads and writes, from a source that counts so.
    prompt: Option<i64>,
}

impl Draft {
    /// Gives a field its value. The error names the bound and repeats nothing.
    pub(super) fn put(&mut self, field: &Field, value: &str, times: &Times) -> Result<(), String> {
        match field {
            Field::Named(name) => self.put_named(name, value, times),
            Field::Label(key) => {
                let (key, value) = (key.clone(), text(value)?);
                self.event.labels.push(v1::Label { key, value });
                Ok(())
            }
            Field::Tool(tool) => {
                let requests = whole(value, 0, MAX_TOOL_REQUESTS)?;
                if requests > 0 {
                    let tool = tool.clone();
                    self.tools.push(v1::ToolRequests { tool, requests });
                }
                Ok(())
            }
        }
    }

    fn put_named(&mut self, name: &str, value: &str, times: &Times) -> Result<(), String> {
        let event = &mut self.event;
        match name {
            "event_id" => event.event_id = text(value)?,
            "user_id" => event.user_id = text(value)?,
            "team_id" => event.team_id = text(value)?,
            "session_id" => event.session_id = text(value)?,
            "turn" => event.turn = Some(whole(value, 0, MAX_ORDINAL)?),
            "provider" => event.provider = text(value)?,
            "model" => self.model = text(value)?,
            "request_time" => event.request_time = Some(times.parse(value.trim())?),
            "status" => event.status = status(value)?.into(),
            "latency_ms" => event.latency_ms = Some(whole(value, 0, MAX_DURATION_MS)?),
            "time_to_first_token_ms" => {
                event.time_to_first_token_ms = Some(whole(value, 0, MAX_DURATION_MS)?);
            }
            "service_tier" => event.service_tier = text(value)?,
            "inference_region" => event.inference_region = text(value)?,
            "stop_reason" => event.stop_reason = text(value)?,
            "prompt" => self.prompt = Some(whole(value, 0, MAX_TOKENS)?),
            _ if self.put_count(name, value)? || self.put_fact(name, value)? => {}
            _ => return Err("is no field".to_owned()),
        }
        Ok(())
    }

    /// Whether the field is a count.
    fn put_count(&mut self, name: &str, value: &str) -> Result<bool, String> {
        let counts = &mut self.counts;
        let writes = counts.cache_write.get_or_insert_default();
        let count = match name {
            "input" => &mut counts.input,
            "cache_read" => &mut counts.cache_read,
            "cache_write" => &mut writes.unspecified,
            "cache_write_5m" => &mut writes.ttl_5m,
            "cache_write_30m" => &mut writes.ttl_30m,
            "cache_write_1h" => &mut writes.ttl_1h,
            "cache_write_12h" => &mut writes.ttl_12h,
            "output" => &mut counts.output,
            "reasoning" => &mut counts.reasoning,
            "input_audio" => &mut counts.input_audio,
            "input_image" => &mut counts.input_image,
            "tool_use_prompt" => &mut counts.tool_use_prompt,
            "cache_read_audio" => &mut counts.cache_read_audio,
            "output_audio" => &mut counts.output_audio,
            "output_image" => &mut counts.output_image,
            _ => return Ok(false),
        };
        *count = whole(value, 0, MAX_TOKENS)?;
        Ok(true)
    }

    /// Whether the field is a fact about thinking, the message, or retrieval.
    fn put_fact(&mut self, name: &str, value: &str) -> Result<bool, String> {
        let event = &mut self.event;
        match name {
            "thinking" => event.thinking.get_or_insert_default().enabled = flag(value)?,
            "thinking_budget" => {
                let budget = whole(value, MIN_THINKING_BUDGET, MAX_THINKING_BUDGET)?;
                event.thinking.get_or_insert_default().budget_tokens = Some(budget);
            }
            "retrieval_ran" => {
                event.retrieval.get_or_insert_default().retrieval_ran = flag(value)?;
            }
            "cases_retrieved" => {
                let retrieval = event.retrieval.get_or_insert_default();
                retrieval.cases_retrieved = whole(value, 0, MAX_ORDINAL)?;
            }
            "retrieval_succeeded" => {
                let retrieval = event.retrieval.get_or_insert_default();
                retrieval.succeeded = Some(flag(value)?);
            }
            _ => return self.put_message(name, value),
        }
        Ok(true)
    }

    fn put_message(&mut self, name: &str, value: &str) -> Result<bool, String> {
        let mut message = self.event.message.take().unwrap_or_default();
        match name {
            "message_id" => message.message_id = text(value)?,
            "message_role" => message.role = role(value)?.into(),
            "message_type" => message.r#type = text(value)?,
            "message_sequence" => message.sequence = Some(whole(value, 0, MAX_ORDINAL)?),
            "tool_use_id" => message.tool_use_id = text(value)?,
            "source_event_id" => message.source_event_id = text(value)?,
            _ => return Ok(false),
        }
        self.event.message = Some(message);
        Ok(true)
    }

    /// The event, with one line.
    pub(super) fn finish(mut self) -> Result<v1::UsageEvent, String> {
        if let Some(prompt) = self.prompt {
            let writes = self.counts.cache_write.unwrap_or_default();
            let writes = writes.ttl_5m
                + writes.ttl_30m
                + writes.ttl_1h
                + writes.ttl_12h
                + writes.unspecified;
            let cached = self.counts.cache_read + writes;
            if cached > prompt {
                return Err(format!(
                    "the prompt has {prompt} tokens, and {cached} were read from and written to \
                     the cache; a prompt that leaves them out is to be mapped as input"
                ));
            }
            self.counts.input = prompt - cached;
        }
        self.event.usage = Some(v1::usage_event::Usage::Lines(v1::UsageLines {
            lines: vec![v1::UsageLine {
                model: self.model,
                counts: Some(self.counts),
                tool_requests: self.tools,
            }],
        }));
        Ok(self.event)
    }
}

fn text(value: &str) -> Result<String, String> {
    match value.len() <= MAX_TEXT_BYTES {
        true => Ok(value.to_owned()),
        false => Err(format!("is longer than {MAX_TEXT_BYTES} bytes")),
    }
}

fn whole(value: &str, least: i64, most: i64) -> Result<i64, String> {
    let value = value.trim();
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    digits
        .then(|| value.parse().ok())
        .flatten()
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| format!("is not a whole number from {least} to {most}"))
}

fn flag(value: &str) -> Result<bool, String> {
    match value.trim().to_ascii_lowercase().as_str() {
        "true" | "yes" | "1" => Ok(true),
        "false" | "no" | "0" => Ok(false),
        _ => Err("is neither true nor false".to_owned()),
    }
}

fn status(value: &str) -> Result<v1::EventStatus, String> {
    match value.trim().to_ascii_lowercase().as_str() {
        "succeeded" => Ok(v1::EventStatus::Succeeded),
        "failed" => Ok(v1::EventStatus::Failed),
        "interrupted" => Ok(v1::EventStatus::Interrupted),
        _ => Err("is none of succeeded, failed and interrupted".to_owned()),
    }
}

fn role(value: &str) -> Result<v1::MessageRole, String> {
    match value.trim().to_ascii_lowercase().as_str() {
        "user" => Ok(v1::MessageRole::User),
        "assistant" => Ok(v1::MessageRole::Assistant),
        "tool" => Ok(v1::MessageRole::Tool),
        "system" => Ok(v1::MessageRole::System),
        _ => Err("is none of user, assistant, tool and system".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::tz::TimeZone;

    fn put(values: &[(&str, &str)]) -> Result<v1::UsageEvent, String> {
        let times = Times {
            unit: None,
            zone: TimeZone::UTC,
        };
        let mut draft = Draft::default();
        for (name, value) in values {
            draft.put(&Field::parse(name)?, value, &times)?;
        }
        draft.finish()
    }

    fn line(event: &v1::UsageEvent) -> v1::UsageLine {
        match event.usage.as_ref().unwrap() {
            v1::usage_event::Usage::Lines(lines) => lines.lines[0].clone(),
            v1::usage_event::Usage::ProviderUsage(_) => panic!("a document"),
        }
    }

    #[test]
    fn every_field_has_its_place() {
        for name in NAMES {
            let value = match name {
                "request_time" => "2026-01-01",
                "status" => "failed",
                "message_role" => "tool",
                "thinking_budget" => "2000",
                _ => "1",
            };
            let event = put(&[(name, value)]).unwrap_or_else(|error| panic!("{name}: {error}"));
            let empty = Draft::default().finish().unwrap();
            assert_ne!(event, empty, "{name} is lost");
            let field = Field::parse(name).unwrap();
            assert_eq!(field.name(), name);
        }
        let event = put(&[("label.team/x", "a"), ("tool.web_search", "3")]).unwrap();
        assert_eq!(event.labels[0].key, "team/x");
        assert_eq!(line(&event).tool_requests[0].requests, 3);
        assert!(TOKENS.iter().all(|name| NAMES.contains(name)));
    }

    #[test]
    fn a_prompt_that_counts_the_cache_is_made_disjoint() {
        let values = [
            ("prompt", "10"),
            ("cache_read", "4"),
            ("cache_write_1h", "5"),
        ];
        let counts = line(&put(&values).unwrap()).counts.unwrap();
        assert_eq!((counts.input, counts.cache_read), (1, 4));
        let error = put(&[("prompt", "8"), ("cache_read", "9")]).unwrap_err();
        assert!(error.contains("has 8 tokens, and 9"), "{error}");
    }

    #[test]
    fn a_bad_value_is_refused_with_its_bound_and_not_repeated() {
        for (name, value, text) in [
            ("input", "-1", "is not a whole number from 0 to 1000000000"),
            (
                "input",
                "1000000001",
                "is not a whole number from 0 to 1000000000",
            ),
            (
                "output",
                "1.5",
                "is not a whole number from 0 to 1000000000",
            ),
            (
                "thinking_budget",
                "1023",
                "is not a whole number from 1024 to 100000",
            ),
            (
                "status",
                "200",
                "is none of succeeded, failed and interrupted",
            ),
            ("thinking", "on", "is neither true nor false"),
            ("model", &"x".repeat(256), "is longer than 255 bytes"),
        ] {
            assert_eq!(put(&[(name, value)]).unwrap_err(), text, "{name}");
        }
        assert!(
            Field::parse("tokens")
                .unwrap_err()
                .contains("cache_write_5m")
        );
        assert!(Field::parse("label.").is_err());
    }
}
