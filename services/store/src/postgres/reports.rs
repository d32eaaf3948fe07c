//! Usage by model and by calendar, and the rest of [`Reports`], each theme in a file of its own.
//!
//! A tenant's figures and a user's days are sums of `usage_totals`. A user's or session's figures
//! by model are sums of their own lines, read by their index: totals of that grain are not kept,
//! because every event would have to write them.

use async_trait::async_trait;
use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{AssertSqlSafe, QueryBuilder};
use tokenmeter_model::id::TenantId;
use tokenmeter_model::totals::{Totals, bucket};

use super::read::snapshot;
use super::service::model_totals;
use super::{Postgres, messages, sessions, sums, tools, unavailable};
use crate::ledger::reports::{
    Listed, Message, Moment, Page, Part, Reports, SessionQuery, SessionSummary, ToolQuery,
    ToolUsage,
};
use crate::ledger::{Error, ModelTotals, Range};
use crate::rows::totals;

#[async_trait]
impl Reports for Postgres {
    async fn by_model(&self, tenant: &TenantId, part: &Part) -> Result<Vec<ModelTotals>, Error> {
        let mut connection = self.readers.acquire().await.map_err(unavailable)?;
        let mut models = if part.user_id.is_empty() && part.session_id.is_empty() {
            model_totals(&mut connection, tenant.as_str(), part.range).await?
        } else {
            let rows = lines_by_model(tenant.as_str(), part)
                .build()
                .fetch_all(&mut *connection)
                .await
                .map_err(unavailable)?;
            totals::models(&rows)?
        };
        models.retain(|one| part.model.is_empty() || one.model == part.model);
        Ok(models)
    }

    async fn user_reach(
        &self,
        tenant: &TenantId,
        user_id: &str,
    ) -> Result<Option<(i64, i64)>, Error> {
        let (first, last): (Option<i64>, Option<i64>) =
            sqlx::query_as(include_str!("queries/user_reach.sql"))
                .bind(tenant.as_str())
                .bind(user_id)
                .fetch_one(&self.readers)
                .await
                .map_err(unavailable)?;
        Ok(first.zip(last))
    }

    async fn user_spans(
        &self,
        tenant: &TenantId,
        user_id: &str,
        spans: &[Range],
        limit: i64,
    ) -> Result<Vec<(Range, Totals)>, Error> {
        let mut snapshot = snapshot(&self.readers).await?;
        let mut found = Vec::new();
        // As many spans as wanted at a time: of a user with use in each, the first read is the last.
        let chunk = usize::try_from(limit).unwrap_or_default().max(32);
        for spans in spans.chunks(chunk) {
            let wanted = limit - i64::try_from(found.len()).unwrap_or(limit);
            if wanted <= 0 {
                break;
            }
            found.extend(some_spans(&mut snapshot, tenant.as_str(), user_id, spans, wanted).await?);
        }
        Ok(found)
    }

    async fn user_spans_by_model(
        &self,
        tenant: &TenantId,
        user_id: &str,
        spans: &[Range],
    ) -> Result<Vec<(Range, Vec<ModelTotals>)>, Error> {
        let (from, to): (Vec<i64>, Vec<i64>) =
            spans.iter().map(|span| (span.from_us, span.to_us)).unzip();
        let sql = include_str!("queries/user_spans_by_model.sql")
            .replace("{line_sums}", &sums::of_lines());
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(tenant.as_str())
            .bind(user_id)
            .bind(from)
            .bind(to)
            .fetch_all(&self.readers)
            .await
            .map_err(unavailable)?;
        totals::spans_by_model(&rows, spans)
    }

    async fn sessions(
        &self,
        tenant: &TenantId,
        query: &SessionQuery,
        page: Page,
    ) -> Result<Listed<SessionSummary>, Error> {
        let (pool, as_of) = self.place(page).await?;
        sessions::list(pool, tenant.as_str(), query, page, as_of).await
    }

    async fn tools(
        &self,
        tenant: &TenantId,
        query: &ToolQuery,
        page: Page,
    ) -> Result<Listed<ToolUsage>, Error> {
        let (pool, as_of) = self.place(page).await?;
        tools::list(pool, tenant.as_str(), query, page, as_of).await
    }

    async fn messages(
        &self,
        tenant: &TenantId,
        session_id: &str,
        user_id: &str,
        page: Page,
    ) -> Result<Listed<Message>, Error> {
        let (pool, as_of) = self.place(page).await?;
        messages::list(pool, tenant.as_str(), session_id, user_id, page, as_of).await
    }
}

impl Postgres {
    /// Where a list is read, and as of when: a replica that has not come so far is not asked.
    /// Items are numbered as lines are, so that one position says both.
    async fn place(&self, page: Page) -> Result<(&PgPool, Moment), Error> {
        let (pool, position) = match (page.as_of, self.has_replica) {
            (None, false) => (&self.primary, self.horizon.last_position().await?),
            (None, true) => (&self.readers, reached(&self.readers).await?),
            (Some(as_of), true) if as_of.position > reached(&self.readers).await? => {
                (&self.primary, as_of.position)
            }
            (Some(as_of), _) => (&self.readers, as_of.position),
        };
        let as_of = Moment {
            position,
            item: position,
        };
        Ok((pool, as_of))
    }
}

/// A position up to which a replica has everything.
async fn reached(replica: &PgPool) -> Result<i64, Error> {
    sqlx::query_scalar(include_str!("queries/reached.sql"))
        .fetch_one(replica)
        .await
        .map_err(unavailable)
}

/// A user's totals in each of `spans`, from the buckets.
async fn some_spans(
    connection: &mut PgConnection,
    tenant: &str,
    user_id: &str,
    spans: &[Range],
    limit: i64,
) -> Result<Vec<(Range, Totals)>, Error> {
    // Days of every time zone are whole quarter-hours.
    let (first, past): (Vec<i64>, Vec<i64>) = spans
        .iter()
        .map(|span| (bucket(span.from_us), bucket(span.to_us)))
        .unzip();
    let sql = include_str!("queries/user_spans.sql").replace("{sums}", &sums::of_totals());
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(tenant)
        .bind(user_id)
        .bind(first)
        .bind(past)
        .bind(limit)
        .fetch_all(connection)
        .await
        .map_err(unavailable)?;
    totals::spans(&rows, spans)
}

/// Sums of the lines of a user or session by model.
fn lines_by_model(tenant: &str, part: &Part) -> QueryBuilder<sqlx::Postgres> {
    let mut query = QueryBuilder::new(format!(
        "SELECT provider || '/' || model, {}, max(recorded_at) FROM usage_lines \
         WHERE tenant_id = ",
        sums::of_lines()
    ));
    query.push_bind(tenant.to_owned());
    if !part.user_id.is_empty() {
        query.push(" AND user_id = ");
        query.push_bind(part.user_id.clone());
    }
    if !part.session_id.is_empty() {
        query.push(" AND session_id <> '' AND session_id = ");
        query.push_bind(part.session_id.clone());
    }
    if let Some(range) = part.range {
        query.push(" AND charge_time >= ").push_bind(range.from_us);
        query.push(" AND charge_time < ").push_bind(range.to_us);
    }
    query.push(" GROUP BY provider, model");
    query
}
