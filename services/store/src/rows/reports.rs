//! What sessions, tools and messages are made of.

use std::cmp::Reverse;
use std::collections::HashMap;

use tokenmeter_model::item::{ToolInvocation, ToolStatus};

use super::{Row, totals};
use crate::ledger::reports::{MessageItem, SessionSummary, ToolUsage};
use crate::ledger::{Error, Latency};

/// Sessions by id, as their details are read.
pub(crate) struct Sessions(HashMap<String, SessionSummary>);

impl Sessions {
    /// Begins with facts: id, user, turns, messages of events, first and last time.
    pub(crate) fn of_facts<R: Row>(rows: &[R]) -> Result<Self, Error> {
        rows.iter()
            .map(|row| {
                let session_id: String = row.value(0)?;
                let summary = SessionSummary {
                    session_id: session_id.clone(),
                    user_id: row.value(1)?,
                    turns: row.value(2)?,
                    messages: row.value(3)?,
                    first_us: row.value(4)?,
                    last_us: row.value(5)?,
                    ..SessionSummary::default()
                };
                Ok((session_id, summary))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Adds totals by model: rows of an id and a model; most tokens first, ties as they come.
    pub(crate) fn add_models<R: Row>(&mut self, rows: &[R]) -> Result<(), Error> {
        for row in rows {
            if let Some(summary) = self.0.get_mut(row.value::<&str>(0)?) {
                summary.models.extend(totals::model(row, 1)?);
            }
        }
        for summary in self.0.values_mut() {
            let models = &mut summary.models;
            models.sort_by_key(|model| Reverse(model.totals.total()));
        }
        Ok(())
    }

    /// Adds tools: rows of an id, a tool and how often it was used.
    pub(crate) fn add_tools<R: Row>(&mut self, rows: &[R]) -> Result<(), Error> {
        for row in rows {
            if let Some(summary) = self.0.get_mut(row.value::<&str>(0)?) {
                summary.tools.push((row.value(1)?, row.value(2)?));
            }
        }
        Ok(())
    }

    /// Adds messages of their own: rows of an id and how many.
    pub(crate) fn add_messages<R: Row>(&mut self, rows: &[R]) -> Result<(), Error> {
        for row in rows {
            if let Some(summary) = self.0.get_mut(row.value::<&str>(0)?) {
                summary.messages += row.value::<i64>(1)?;
            }
        }
        Ok(())
    }

    /// The sessions of these ids, in their order.
    pub(crate) fn in_order(mut self, ids: &[String]) -> Vec<SessionSummary> {
        ids.iter().filter_map(|id| self.0.remove(id)).collect()
    }
}

/// The use of one tool: its name, five counts, its last start, and the times it took.
pub(crate) fn tool(row: &impl Row) -> Result<ToolUsage, Error> {
    let duration: Latency = totals::latency(row, 7)?;
    Ok(ToolUsage {
        tool: row.value(0)?,
        calls: row.figure(1)?,
        succeeded: row.figure(2)?,
        failed: row.figure(3)?,
        cancelled: row.figure(4)?,
        estimated_tokens: row.figure(5)?,
        last_start_us: row.figure(6)?,
        duration,
    })
}

/// Reads a use of a tool. A start time that equals the time of recording was filled in by it.
pub(crate) fn invocation(row: &impl Row, recorded_at_us: i64) -> Result<ToolInvocation, Error> {
    let text = |column: &str| row.value::<String>(column);
    let number = |column: &str| row.value::<Option<i64>>(column);
    let status = text("status")?;
    Ok(ToolInvocation {
        invocation_id: text("invocation_id")?,
        tool: text("tool")?,
        tool_use_id: text("tool_use_id")?,
        user_id: text("user_id")?,
        session_id: text("session_id")?,
        turn: number("turn")?,
        status: ToolStatus::parse(&status)
            .ok_or_else(|| Error::Corrupt(format!("tool status {status:.32}")))?,
        start_time_us: number("start_time")?.filter(|start| *start != recorded_at_us),
        duration_ms: number("duration_ms")?,
        error_type: text("error_type")?,
        estimated_tokens: row.figure("estimated_tokens")?,
        labels: row.json("labels")?.unwrap_or_default(),
    })
}

/// Messages of their own by number.
pub(crate) fn messages<R: Row>(rows: &[R]) -> Result<HashMap<i64, MessageItem>, Error> {
    rows.iter()
        .map(|row| Ok((row.value("number")?, message(row)?)))
        .collect()
}

fn message(row: &impl Row) -> Result<MessageItem, Error> {
    let text = |column: &str| row.value::<String>(column);
    let number = |column: &str| row.value::<Option<i64>>(column);
    Ok(MessageItem {
        message_id: text("message_id")?,
        user_id: text("user_id")?,
        session_id: text("session_id")?,
        role: text("role")?,
        message_type: text("message_type")?,
        sequence: number("sequence")?,
        stop_reason: text("stop_reason")?,
        tool_use_id: text("tool_use_id")?,
        source_event_id: text("source_event_id")?,
        tokens: number("tokens")?,
        time_us: row.value("time")?,
        turn: number("turn")?,
        recorded_at_us: row.value("recorded_at")?,
    })
}
