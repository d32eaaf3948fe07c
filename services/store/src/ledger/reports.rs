//! What the everyday questions read: usage by model and calendar, sessions, tools, messages.
//!
//! Voided events are in no figure. Lists whose order changes as usage is recorded are read as of a
//! [`Moment`]: the first page tells it, further pages are of the same one, so that nothing that is
//! recorded meanwhile makes an entry appear twice or be missed.

use async_trait::async_trait;
use tokenmeter_model::id::TenantId;

use super::{Error, Latency, ModelTotals, Range, Recorded, Totals};

/// What part of a tenant's usage; empty and absent fields do not filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Part {
    /// Only events of this user.
    pub user_id: String,
    /// Only events of this session.
    pub session_id: String,
    /// Only lines of this model.
    pub model: String,
    /// Only events charged in this range.
    pub range: Option<Range>,
}

/// Up to where a list is read: what came after it is not in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The last position of the log that counts.
    pub position: i64,
    /// The last item (tool invocation or message, whichever is listed) that counts.
    pub item: i64,
}

/// Which entries of a list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Page {
    /// As of when; none means now.
    pub as_of: Option<Moment>,
    /// How many entries stand on the pages before.
    pub skip: i64,
    /// At most so many entries.
    pub limit: i64,
}

/// Entries of a list, and the moment that they are of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed<T> {
    /// The entries, in order.
    pub entries: Vec<T>,
    /// As of when.
    pub as_of: Moment,
}

/// How sessions are ordered; ties by session id.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SessionOrder {
    /// Most tokens first.
    #[default]
    Tokens,
    /// Highest cost first.
    Cost,
    /// Latest charge time first.
    LastEvent,
}

/// Which sessions to list; empty and absent fields do not filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionQuery {
    /// Only what this user did; a session counts for what the user has in it.
    pub user_id: String,
    /// Only events charged, tools started and messages written in this range.
    pub range: Option<Range>,
    /// Only sessions whose last event is charged in this range.
    pub last_event: Option<Range>,
    /// The order.
    pub order: SessionOrder,
}

/// A session in short.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionSummary {
    /// The session.
    pub session_id: String,
    /// The user of its first event.
    pub user_id: String,
    /// Its totals by model, most tokens first.
    pub models: Vec<ModelTotals>,
    /// Distinct turns.
    pub turns: i64,
    /// Its tools with how often each was used, most used first.
    pub tools: Vec<(String, i64)>,
    /// Messages that are known.
    pub messages: i64,
    /// Earliest charge time, in microseconds since the Unix epoch.
    pub first_us: i64,
    /// Latest charge time, in microseconds since the Unix epoch.
    pub last_us: i64,
}

/// Which uses of tools to count; empty and absent fields do not filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ToolQuery {
    /// Only uses by this user.
    pub user_id: String,
    /// Only uses in this session.
    pub session_id: String,
    /// Only uses of this tool.
    pub tool: String,
    /// Only uses that started in this range.
    pub range: Option<Range>,
}

/// The use of one tool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ToolUsage {
    /// The tool.
    pub tool: String,
    /// How often it was used; those that have not ended are in no other count.
    pub calls: i64,
    /// Uses that ended well.
    pub succeeded: i64,
    /// Uses that ended with an error.
    pub failed: i64,
    /// Uses that were cancelled.
    pub cancelled: i64,
    /// Over the uses with a duration.
    pub duration: Latency,
    /// Σ estimated tokens.
    pub estimated_tokens: i64,
    /// Latest start, in microseconds since the Unix epoch.
    pub last_start_us: i64,
}

/// One message of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Recorded on its own.
    Item(Box<MessageItem>),
    /// The answer of a usage event, as it stands; the event has message facts.
    Event(Box<Recorded>),
}

/// A message without usage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MessageItem {
    /// The message.
    pub message_id: String,
    /// Who it belongs to.
    pub user_id: String,
    /// The session.
    pub session_id: String,
    /// Who wrote it: `user`, `assistant`, `tool` or `system`.
    pub role: String,
    /// The kind of message in the caller's words.
    pub message_type: String,
    /// Its place in the session.
    pub sequence: Option<i64>,
    /// Why the model stopped, in the provider's word.
    pub stop_reason: String,
    /// The tool use that it asks for or answers.
    pub tool_use_id: String,
    /// The caller's own id of the event it came from.
    pub source_event_id: String,
    /// Its length in tokens.
    pub tokens: Option<i64>,
    /// When it was written, in microseconds since the Unix epoch.
    pub time_us: i64,
    /// The turn.
    pub turn: Option<i64>,
    /// When it was recorded, in microseconds since the Unix epoch.
    pub recorded_at_us: i64,
}

/// The reading half of the ledger that everyday questions use. Every method is of one moment.
#[async_trait]
pub trait Reports: Send + Sync + 'static {
    /// Totals by model of a part of a tenant's usage, by provider and model.
    async fn by_model(&self, tenant: &TenantId, part: &Part) -> Result<Vec<ModelTotals>, Error>;

    /// The earliest and the latest charge time of a user's events, voided ones included; none when
    /// the user has none.
    async fn user_reach(
        &self,
        tenant: &TenantId,
        user_id: &str,
    ) -> Result<Option<(i64, i64)>, Error>;

    /// A user's totals in each of `spans`, in their order; those without events are left out, and
    /// at most `limit` are answered.
    async fn user_spans(
        &self,
        tenant: &TenantId,
        user_id: &str,
        spans: &[Range],
        limit: i64,
    ) -> Result<Vec<(Range, Totals)>, Error>;

    /// The same for all `spans`, by model.
    async fn user_spans_by_model(
        &self,
        tenant: &TenantId,
        user_id: &str,
        spans: &[Range],
    ) -> Result<Vec<(Range, Vec<ModelTotals>)>, Error>;

    /// Sessions with usage, in the order asked for.
    async fn sessions(
        &self,
        tenant: &TenantId,
        query: &SessionQuery,
        page: Page,
    ) -> Result<Listed<SessionSummary>, Error>;

    /// Tools, most calls first, then by name.
    async fn tools(
        &self,
        tenant: &TenantId,
        query: &ToolQuery,
        page: Page,
    ) -> Result<Listed<ToolUsage>, Error>;

    /// The messages of a session, those of `user_id` only unless it is empty. Numbered ones stand
    /// in sequence; each other one after the numbered message with the highest number among those
    /// not later than it, before all of them if there is none. Ties stand by time, then id.
    async fn messages(
        &self,
        tenant: &TenantId,
        session_id: &str,
        user_id: &str,
        page: Page,
    ) -> Result<Listed<Message>, Error>;
}
