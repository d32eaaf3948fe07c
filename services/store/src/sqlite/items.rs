//! Items beside usage: one table for each kind, each with its own ids.

use sqlx::sqlite::{SqliteArguments, SqliteConnection};
use tokenmeter_model::item::{ChampionCases, Item, Message, Role, ToolInvocation};

use super::unavailable;
use crate::ledger::Error;
use crate::ledger::items::{ItemOutcome, ItemSubmission};
use crate::rows::{Row as _, reports};

type Query<'q> = sqlx::query::Query<'q, sqlx::Sqlite, SqliteArguments>;

/// Records one item within the transaction of its group.
pub(super) async fn record(
    connection: &mut SqliteConnection,
    submission: &ItemSubmission,
) -> Result<ItemOutcome, Error> {
    let inserted = insert(submission)?
        .execute(&mut *connection)
        .await
        .map_err(unavailable)?;
    if inserted.rows_affected() == 1 {
        return Ok(ItemOutcome::Recorded {
            recorded_at_us: submission.recorded_at_us,
        });
    }
    match &submission.item {
        Item::Tool(tool) => stands_or_ends(connection, submission, tool).await,
        Item::Message(_) => stands(connection, submission, "messages", "message_id").await,
        Item::Champion(_) => stands(connection, submission, "champion_cases", "report_id").await,
    }
}

/// An item that nobody updates: the same content is a duplicate, any other a conflict.
async fn stands(
    connection: &mut SqliteConnection,
    submission: &ItemSubmission,
    table: &'static str,
    id_column: &'static str,
) -> Result<ItemOutcome, Error> {
    let sql = format!(
        "SELECT fingerprint, recorded_at FROM {table} WHERE tenant_id = ?1 AND {id_column} = ?2"
    );
    let row = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(submission.tenant.as_str())
        .bind(submission.item.id())
        .fetch_one(connection)
        .await
        .map_err(unavailable)?;
    let fingerprint: &[u8] = row.value("fingerprint")?;
    Ok(if fingerprint == submission.fingerprint {
        ItemOutcome::Duplicate {
            recorded_at_us: row.value("recorded_at")?,
        }
    } else {
        ItemOutcome::Conflict
    })
}

/// A use of a tool that stands: this may be it again, its start again, or its end.
async fn stands_or_ends(
    connection: &mut SqliteConnection,
    submission: &ItemSubmission,
    tool: &ToolInvocation,
) -> Result<ItemOutcome, Error> {
    let row =
        sqlx::query("SELECT * FROM tool_invocations WHERE tenant_id = ?1 AND invocation_id = ?2")
            .bind(submission.tenant.as_str())
            .bind(&tool.invocation_id)
            .fetch_one(&mut *connection)
            .await
            .map_err(unavailable)?;
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
        .await
        .map_err(unavailable)?;
    Ok(ItemOutcome::Recorded { recorded_at_us })
}

/// The insert of an item, which does nothing where its id stands.
fn insert(submission: &ItemSubmission) -> Result<Query<'_>, Error> {
    let fingerprint = submission.fingerprint.to_vec();
    let now_us = submission.recorded_at_us;
    let tenant = submission.tenant.as_str();
    Ok(match &submission.item {
        Item::Tool(tool) => insert_tool(tool, tenant, fingerprint, now_us)?,
        Item::Message(message) => insert_message(message, tenant, fingerprint, now_us),
        Item::Champion(report) => insert_champion(report, tenant, fingerprint, now_us),
    })
}

fn insert_tool<'a>(
    tool: &'a ToolInvocation,
    tenant: &'a str,
    fingerprint: Vec<u8>,
    now_us: i64,
) -> Result<Query<'a>, Error> {
    Ok(sqlx::query(
        "INSERT INTO tool_invocations (tenant_id, invocation_id, fingerprint, tool, tool_use_id, \
         user_id, session_id, turn, status, start_time, duration_ms, error_type, \
         estimated_tokens, labels, recorded_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15) \
         ON CONFLICT DO NOTHING",
    )
    .bind(tenant)
    .bind(&tool.invocation_id)
    .bind(fingerprint)
    .bind(&tool.tool)
    .bind(&tool.tool_use_id)
    .bind(&tool.user_id)
    .bind(&tool.session_id)
    .bind(tool.turn)
    .bind(tool.status.as_str())
    .bind(tool.start_time_us.unwrap_or(now_us))
    .bind(tool.duration_ms)
    .bind(&tool.error_type)
    .bind(tool.estimated_tokens)
    .bind(labels(tool)?)
    .bind(now_us))
}

fn insert_message<'a>(
    message: &'a Message,
    tenant: &'a str,
    fingerprint: Vec<u8>,
    now_us: i64,
) -> Query<'a> {
    sqlx::query(
        "INSERT INTO messages (tenant_id, message_id, fingerprint, user_id, session_id, role, \
         message_type, sequence, stop_reason, tool_use_id, source_event_id, tokens, time, turn, \
         recorded_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15) \
         ON CONFLICT DO NOTHING",
    )
    .bind(tenant)
    .bind(&message.message_id)
    .bind(fingerprint)
    .bind(&message.user_id)
    .bind(&message.session_id)
    .bind(message.role.map_or("", Role::as_str))
    .bind(&message.message_type)
    .bind(message.sequence)
    .bind(&message.stop_reason)
    .bind(&message.tool_use_id)
    .bind(&message.source_event_id)
    .bind(message.tokens)
    .bind(message.time_us.unwrap_or(now_us))
    .bind(message.turn)
    .bind(now_us)
}

fn insert_champion<'a>(
    report: &'a ChampionCases,
    tenant: &'a str,
    fingerprint: Vec<u8>,
    now_us: i64,
) -> Query<'a> {
    sqlx::query(
        "INSERT INTO champion_cases (tenant_id, report_id, fingerprint, user_id, session_id, \
         event_id, cases, time, recorded_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) \
         ON CONFLICT DO NOTHING",
    )
    .bind(tenant)
    .bind(&report.report_id)
    .bind(fingerprint)
    .bind(&report.user_id)
    .bind(&report.session_id)
    .bind(&report.event_id)
    .bind(report.cases)
    .bind(report.time_us.unwrap_or(now_us))
    .bind(now_us)
}

/// Labels as they are kept: JSON, or nothing where there are none.
fn labels(tool: &ToolInvocation) -> Result<Option<String>, Error> {
    if tool.labels.is_empty() {
        return Ok(None);
    }
    let text = serde_json::to_string(&tool.labels);
    text.map(Some).map_err(|e| Error::Corrupt(e.to_string()))
}
