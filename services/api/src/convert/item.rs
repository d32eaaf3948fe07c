//! Items beside usage: the contract's messages to the model's items.

use tokenmeter_model::bounds::Violation;
use tokenmeter_model::item::{ChampionCases, Item, Message, Role, ToolInvocation, ToolStatus};

use super::time;
use crate::v1;

/// Reads a tool invocation as received.
///
/// # Errors
/// Every field that cannot be read, such as a timestamp that is none.
pub fn tool(tool: v1::ToolInvocation) -> Result<Item, Vec<Violation>> {
    let mut out = Vec::new();
    let start_time_us = micros("start_time", tool.start_time.as_ref(), &mut out);
    let status = match v1::ToolStatus::try_from(tool.status) {
        Ok(v1::ToolStatus::Unspecified | v1::ToolStatus::Succeeded) => ToolStatus::Succeeded,
        Ok(v1::ToolStatus::Started) => ToolStatus::Started,
        Ok(v1::ToolStatus::Failed) => ToolStatus::Failed,
        Ok(v1::ToolStatus::Cancelled) => ToolStatus::Cancelled,
        Err(_) => {
            let text = "is no status; send one of ToolStatus";
            out.push(Violation::new("status", text));
            ToolStatus::Succeeded
        }
    };
    let mut labels: Vec<_> = tool
        .labels
        .into_iter()
        .map(|label| (label.key, label.value))
        .collect();
    labels.sort_unstable();
    all_or(
        out,
        Item::Tool(ToolInvocation {
            invocation_id: tool.invocation_id,
            tool: tool.tool,
            tool_use_id: tool.tool_use_id,
            user_id: tool.user_id,
            session_id: tool.session_id,
            turn: tool.turn,
            status,
            start_time_us,
            duration_ms: tool.duration_ms,
            error_type: tool.error_type,
            estimated_tokens: tool.estimated_tokens,
            labels,
        }),
    )
}

/// Reads a message as received.
///
/// # Errors
/// Every field that cannot be read, such as a timestamp that is none.
pub fn message(message: v1::Message) -> Result<Item, Vec<Violation>> {
    let mut out = Vec::new();
    let time_us = micros("time", message.time.as_ref(), &mut out);
    let role = match v1::MessageRole::try_from(message.role) {
        // The check of the whole message says that it is required.
        Ok(v1::MessageRole::Unspecified) => None,
        Ok(v1::MessageRole::User) => Some(Role::User),
        Ok(v1::MessageRole::Assistant) => Some(Role::Assistant),
        Ok(v1::MessageRole::Tool) => Some(Role::Tool),
        Ok(v1::MessageRole::System) => Some(Role::System),
        Err(_) => {
            let text = "is no role; send one of MessageRole";
            out.push(Violation::new("role", text));
            None
        }
    };
    all_or(
        out,
        Item::Message(Message {
            message_id: message.message_id,
            user_id: message.user_id,
            session_id: message.session_id,
            role,
            message_type: message.r#type,
            sequence: message.sequence,
            stop_reason: message.stop_reason,
            tool_use_id: message.tool_use_id,
            source_event_id: message.source_event_id,
            tokens: message.tokens,
            time_us,
            turn: message.turn,
        }),
    )
}

/// Reads a report of champion cases as received.
///
/// # Errors
/// Every field that cannot be read, such as a timestamp that is none.
pub fn champion(report: v1::ChampionCaseReport) -> Result<Item, Vec<Violation>> {
    let mut out = Vec::new();
    let time_us = micros("time", report.time.as_ref(), &mut out);
    all_or(
        out,
        Item::Champion(ChampionCases {
            report_id: report.report_id,
            user_id: report.user_id,
            session_id: report.session_id,
            event_id: report.event_id,
            cases: report.cases,
            time_us,
        }),
    )
}

fn micros(
    field: &str,
    at: Option<&prost_types::Timestamp>,
    out: &mut Vec<Violation>,
) -> Option<i64> {
    at.and_then(|at| {
        time::to_micros(field, at)
            .map_err(|violation| out.push(violation))
            .ok()
    })
}

fn all_or(violations: Vec<Violation>, item: Item) -> Result<Item, Vec<Violation>> {
    if violations.is_empty() {
        Ok(item)
    } else {
        Err(violations)
    }
}
