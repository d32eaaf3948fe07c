//! Messages as proto JSON, as the files of exports and imports have them.
//!
//! Written as protobuf prescribes: camelCase names, 64-bit integers as strings, times as RFC 3339,
//! fields without a value left out. Read as freely as protobuf allows: snake_case names and plain
//! numbers, too. The descriptor set says what a message has, so that no field is named here.

use std::sync::LazyLock;

use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor};

use crate::FILE_DESCRIPTOR_SET;

/// Most bytes of a name that a refusal repeats.
const MAX_NAME_BYTES: usize = 64;

/// None only if the descriptor set that was built in is none, which a test holds off.
static POOL: LazyLock<Option<DescriptorPool>> =
    LazyLock::new(|| DescriptorPool::decode(FILE_DESCRIPTOR_SET).ok());

/// Why a text is no message. Says where and what, and repeats none of the text but a name, cut to
/// 64 bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text is no JSON.
    #[error("is not JSON (column {column})")]
    NotJson {
        /// Where, in bytes from 1.
        column: usize,
    },
    /// The message has no such field, or the enum no such value.
    #[error("has the {what} {name:?}, which is not known (column {column})")]
    Unknown {
        /// `key` or `value`.
        what: &'static str,
        /// Its name, cut to 64 bytes.
        name: String,
        /// Where, in bytes from 1.
        column: usize,
    },
    /// A value is none of its field's type, or out of the type's range.
    #[error("has a value that does not fit its key (column {column})")]
    Value {
        /// Where, in bytes from 1.
        column: usize,
    },
}

/// Which keys are read that the message does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownKeys {
    /// None: each is an error.
    Refused,
    /// All, and passed over: a later version may have written them.
    Ignored,
}

/// Reads a message from its JSON.
pub fn decode<M: Message + Name + Default>(text: &str, unknown: UnknownKeys) -> Result<M, Error> {
    let nowhere = Error::Value { column: 0 };
    let descriptor = descriptor::<M>().ok_or_else(|| nowhere.clone())?;
    let options = DeserializeOptions::new().deny_unknown_fields(unknown == UnknownKeys::Refused);
    let mut reader = serde_json::Deserializer::from_str(text);
    let message = DynamicMessage::deserialize_with_options(descriptor, &mut reader, &options)
        .and_then(|message| reader.end().map(|()| message))
        .map_err(|error| refusal(&error))?;
    message.transcode_to().map_err(|_| nowhere)
}

/// Writes a message as JSON on one line.
pub fn encode<M: Message + Name>(message: &M) -> String {
    let written = descriptor::<M>().and_then(|descriptor| {
        let mut dynamic = DynamicMessage::new(descriptor);
        dynamic.transcode_from(message).ok()?;
        serde_json::to_string(&dynamic).ok()
    });
    // Nothing of a generated message is unknown to its own descriptor.
    written.unwrap_or_else(|| "{}".to_owned())
}

fn descriptor<M: Name>() -> Option<MessageDescriptor> {
    POOL.as_ref()?.get_message_by_name(&M::full_name())
}

/// The refusal of the reader's error, whose text may repeat values.
fn refusal(error: &serde_json::Error) -> Error {
    let column = error.column();
    if error.classify() != serde_json::error::Category::Data {
        return Error::NotJson { column };
    }
    let text = error.to_string();
    for (what, begin) in [
        ("key", "unrecognized field name '"),
        ("value", "unrecognized enum value '"),
    ] {
        if let Some(rest) = text.strip_prefix(begin) {
            let name = rest.rsplit_once('\'').map_or(rest, |(name, _)| name);
            let mut end = name.len().min(MAX_NAME_BYTES);
            while !name.is_char_boundary(end) {
                end -= 1;
            }
            let name = name[..end].to_owned();
            return Error::Unknown { what, name, column };
        }
    }
    Error::Value { column }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1;

    fn event(text: &str) -> Result<v1::UsageEvent, Error> {
        decode(text, UnknownKeys::Refused)
    }

    #[test]
    fn both_spellings_of_names_and_of_numbers_are_read() {
        let camel = r#"{"eventId":"e","turn":"7","requestTime":"2026-01-01T00:00:00.5Z","status":"EVENT_STATUS_FAILED","lines":{"lines":[{"model":"m","counts":{"input":"12","cacheWrite":{"ttl5m":3}}}]}}"#;
        let snake = r#"{"event_id":"e","turn":7,"request_time":"2026-01-01T01:00:00.5+01:00","status":2,"lines":{"lines":[{"model":"m","counts":{"input":12,"cache_write":{"ttl_5m":"3"}}}]}}"#;
        let read = event(camel).unwrap();
        assert_eq!(read, event(snake).unwrap());
        assert_eq!(read.turn, Some(7));
        assert_eq!(read.request_time.unwrap().nanos, 500_000_000);
        assert_eq!(event(&encode(&read)), Ok(read));
    }

    #[test]
    fn messages_are_written_as_protobuf_prescribes() {
        let event = v1::RecordedEvent {
            event_id: "e".into(),
            prompt_tokens: 12,
            turn: Some(0),
            cost: Some(v1::Money {
                currency_code: "USD".into(),
                units: 1,
                nanos: 5,
            }),
            ..Default::default()
        };
        assert_eq!(
            encode(&event),
            r#"{"eventId":"e","turn":"0","promptTokens":"12","cost":{"currencyCode":"USD","units":"1","nanos":5}}"#
        );
    }

    #[test]
    fn what_is_no_message_is_refused_by_place_and_name_only() {
        let secret = "secret".repeat(100);
        let text = |wrong: &str| event(wrong).unwrap_err().to_string();
        assert_eq!(text("{"), "is not JSON (column 1)");
        assert_eq!(text("{} {}"), "is not JSON (column 4)");
        assert!(text(r#"{"eventId":"e","extra":1}"#).starts_with(r#"has the key "extra", which"#));
        assert!(text(r#"{"status":"DONE"}"#).starts_with(r#"has the value "DONE", which"#));
        for wrong in [
            format!(r#"{{"turn":"{secret}"}}"#),
            format!(r#"{{"requestTime":"{secret}"}}"#),
            format!(r#"["{secret}"]"#),
            format!(r#""{secret}""#),
        ] {
            let text = text(&wrong);
            assert!(text.starts_with("has a value that does not fit"), "{text}");
        }
        assert!(text(&format!(r#"{{"{secret}":1}}"#)).len() < 200);
        assert!(event(r#"{"turn":9223372036854775808}"#).is_err());
    }

    #[test]
    fn keys_of_a_later_version_can_be_passed_over() {
        let text = r#"{"eventId":"e","later":{"a":[1]}}"#;
        let event: v1::RecordedEvent = decode(text, UnknownKeys::Ignored).unwrap();
        assert_eq!(event.event_id, "e");
    }
}
