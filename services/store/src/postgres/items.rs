//! Items beside usage: one table for each kind, each with its own ids. A group is one transaction: what
//! is new goes in with one statement a kind, what stands already is looked at one by one.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use sqlx::postgres::PgConnection;
use sqlx::{Acquire as _, AssertSqlSafe};
use tokenmeter_model::item::{Item, Role, ToolInvocation};

use super::failure::Failure;
use super::group::Writing;
use super::link::Open;
use crate::ledger::items::{ItemOutcome, ItemSubmission};
use crate::rows::{Row as _, reports};

/// A table of items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Tool,
    Message,
    Champion,
}

impl Kind {
    fn of(item: &Item) -> Self {
        match item {
            Item::Tool(_) => Self::Tool,
            Item::Message(_) => Self::Message,
            Item::Champion(_) => Self::Champion,
        }
    }

    fn insert(self) -> &'static str {
        match self {
            Self::Tool => include_str!("queries/insert_tools.sql"),
            Self::Message => include_str!("queries/insert_messages.sql"),
            Self::Champion => include_str!("queries/insert_champions.sql"),
        }
    }
}

/// Records items in one transaction; answers the last number given out, too, or 0 for none.
pub(super) async fn record(
    open: &mut Open,
    submissions: &[&ItemSubmission],
) -> Result<(Vec<ItemOutcome>, i64), Failure> {
    let mut transaction = open.connection.begin().await?;
    let (start, oldest_us): (i64, i64) = sqlx::query_as(include_str!("queries/begin_items.sql"))
        .fetch_one(&mut *transaction)
        .await?;
    let accepted = |one: &ItemSubmission| one.time_us() >= oldest_us;
    let new = insert(&mut transaction, submissions, start, accepted).await?;
    let mut outcomes = Vec::with_capacity(submissions.len());
    let mut writing = Writing::new(open.types);
    for (submission, n) in submissions.iter().zip(1..) {
        outcomes.push(if !accepted(submission) {
            ItemOutcome::TooOld { oldest_us }
        } else if new.contains(&(Kind::of(&submission.item), n)) {
            let recorded_at_us = submission.recorded_at_us;
            writing.line_at(submission.tenant.as_str(), n, recorded_at_us.max(oldest_us));
            ItemOutcome::Recorded { recorded_at_us }
        } else {
            stands(&mut transaction, submission).await?
        });
    }
    let last = match new.is_empty() {
        true => 0,
        false => writing.execute(&mut transaction).await?.1,
    };
    transaction.commit().await?;
    Ok((outcomes, last))
}

/// Inserts what has an id of its own; answers which, counted from 1, were new. In order of id, so that
/// groups that have some in common wait for each other, and never in a circle.
async fn insert(
    connection: &mut PgConnection,
    submissions: &[&ItemSubmission],
    start: i64,
    accepted: impl Fn(&ItemSubmission) -> bool,
) -> Result<BTreeSet<(Kind, i64)>, Failure> {
    let mut first = BTreeMap::new();
    for (submission, n) in submissions.iter().zip(1_i64..) {
        if accepted(submission) {
            let kind = Kind::of(&submission.item);
            let key = (kind, submission.tenant.as_str(), submission.item.id());
            first.entry(key).or_insert((*submission, n));
        }
    }
    let mut rows: BTreeMap<Kind, Vec<Value>> = BTreeMap::new();
    for ((kind, ..), (submission, n)) in first {
        rows.entry(kind).or_default().push(row(submission, n)?);
    }
    let mut new = BTreeSet::new();
    for (kind, rows) in rows {
        let inserted: Vec<i64> = sqlx::query_scalar(kind.insert())
            .bind(start)
            .bind(Value::Array(rows).to_string())
            .fetch_all(&mut *connection)
            .await?;
        new.extend(inserted.into_iter().map(|n| (kind, n)));
    }
    Ok(new)
}

/// An item as its table's insert reads it.
fn row(submission: &ItemSubmission, n: i64) -> Result<Value, Failure> {
    let now_us = submission.recorded_at_us;
    let time = submission.time_us();
    let mut row = match &submission.item {
        Item::Tool(tool) => json!({
            "tool": tool.tool, "tool_use_id": tool.tool_use_id, "user_id": tool.user_id,
            "session_id": tool.session_id, "turn": tool.turn, "status": tool.status.as_str(),
            "start_time": time, "duration_ms": tool.duration_ms, "error_type": tool.error_type,
            "estimated_tokens": tool.estimated_tokens, "labels": labels(tool)?,
        }),
        Item::Message(message) => json!({
            "user_id": message.user_id, "session_id": message.session_id,
            "role": message.role.map_or("", Role::as_str), "message_type": message.message_type,
            "sequence": message.sequence, "stop_reason": message.stop_reason,
            "tool_use_id": message.tool_use_id, "source_event_id": message.source_event_id,
            "tokens": message.tokens, "time": time, "turn": message.turn,
        }),
        Item::Champion(report) => json!({
            "user_id": report.user_id, "session_id": report.session_id,
            "event_id": report.event_id, "cases": report.cases, "time": time,
        }),
    };
    let fingerprint: String = submission
        .fingerprint
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    row["n"] = n.into();
    row["tenant_id"] = submission.tenant.as_str().into();
    row["id"] = submission.item.id().into();
    row["fingerprint"] = fingerprint.into();
    row["recorded_at"] = now_us.into();
    Ok(row)
}

/// An item whose id stands.
async fn stands(
    connection: &mut PgConnection,
    submission: &ItemSubmission,
) -> Result<ItemOutcome, Failure> {
    let (table, id) = match &submission.item {
        Item::Tool(tool) => return stands_or_ends(connection, submission, tool).await,
        Item::Message(_) => ("messages", "message_id"),
        Item::Champion(_) => ("champion_cases", "report_id"),
    };
    let sql =
        format!("SELECT fingerprint, recorded_at FROM {table} WHERE tenant_id = $1 AND {id} = $2");
    let row = sqlx::query(AssertSqlSafe(sql))
        .bind(submission.tenant.as_str())
        .bind(submission.item.id())
        .fetch_one(connection)
        .await?;
    let fingerprint: &[u8] = row.value("fingerprint")?;
    Ok(if fingerprint == submission.fingerprint {
        ItemOutcome::Duplicate {
            recorded_at_us: row.value("recorded_at")?,
        }
    } else {
        ItemOutcome::Conflict
    })
}

/// A use of a tool that stands: this may be it again, its start again, or its end. Locked, so that it
/// ends once, whatever node is told first.
async fn stands_or_ends(
    connection: &mut PgConnection,
    submission: &ItemSubmission,
    tool: &ToolInvocation,
) -> Result<ItemOutcome, Failure> {
    let row = sqlx::query(
        "SELECT * FROM tool_invocations WHERE tenant_id = $1 AND invocation_id = $2 FOR UPDATE",
    )
    .bind(submission.tenant.as_str())
    .bind(&tool.invocation_id)
    .fetch_one(&mut *connection)
    .await?;
    let recorded_at_us = row.value("recorded_at")?;
    let fingerprint: &[u8] = row.value("fingerprint")?;
    let start: Option<&[u8]> = row.value("started_fingerprint")?;
    if fingerprint == submission.fingerprint || start == Some(&submission.fingerprint[..]) {
        return Ok(ItemOutcome::Duplicate { recorded_at_us });
    }
    let standing = reports::invocation(&row, recorded_at_us)?;
    if !standing.ended_by(tool) {
        return Ok(ItemOutcome::Conflict);
    }
    let whole = standing.with_end(tool);
    sqlx::query(include_str!("queries/end_tool.sql"))
        .bind(submission.tenant.as_str())
        .bind(&tool.invocation_id)
        .bind(submission.fingerprint.to_vec())
        .bind(whole.status.as_str())
        .bind(whole.duration_ms)
        .bind(&whole.error_type)
        .bind(whole.estimated_tokens)
        .bind(labels(&whole)?)
        .execute(connection)
        .await?;
    Ok(ItemOutcome::Recorded { recorded_at_us })
}

/// Labels as they are kept: JSON, or nothing where there are none.
fn labels(tool: &ToolInvocation) -> Result<Option<String>, Failure> {
    if tool.labels.is_empty() {
        return Ok(None);
    }
    let text = serde_json::to_string(&tool.labels);
    text.map(Some)
        .map_err(|error| Failure::Corrupt(error.to_string()))
}
