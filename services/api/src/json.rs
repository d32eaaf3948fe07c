//! Messages in proto JSON, as the mapping of proto3 lays it down: camel case, 64-bit numbers as
//! strings, enums by name, times as RFC 3339, and what is empty left out.

use std::sync::LazyLock;

use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage};

use crate::FILE_DESCRIPTOR_SET;

/// The contracts; empty only if the built-in descriptor set could not be read.
static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap_or_default());

/// Writes a message of the contracts on one line. None for a message of no contract.
pub fn of<M: Message + Name>(message: &M) -> Option<String> {
    let descriptor = POOL.get_message_by_name(&M::full_name())?;
    let mut dynamic = DynamicMessage::new(descriptor);
    dynamic.transcode_from(message).ok()?;
    serde_json::to_string(&dynamic).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1;

    #[test]
    fn a_message_is_written_as_the_mapping_says() {
        let event = v1::RecordedEvent {
            event_id: "a\nb".into(),
            total_tokens: 9_007_199_254_740_993,
            status: v1::EventStatus::Failed.into(),
            charge_time: Some(crate::convert::time::from_micros(1_500_000)),
            ..Default::default()
        };
        let json = of(&event).unwrap();
        assert!(!json.contains('\n'), "one line: {json}");
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["eventId"], "a\nb");
        assert_eq!(json["totalTokens"], "9007199254740993");
        assert_eq!(json["status"], "EVENT_STATUS_FAILED");
        assert_eq!(json["chargeTime"], "1970-01-01T00:00:01.500Z");
        assert!(json.get("userId").is_none());
    }
}
