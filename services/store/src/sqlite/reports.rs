//! Usage by model and by calendar, and the rest of [`Reports`], each theme in a file of its own.
//!
//! A tenant's figures and a user's days are sums of `usage_totals`. A user's or session's figures
//! by model are sums of their own lines, read by their index: totals of that grain are not kept,
//! because every event would have to write them.

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Connection as _, QueryBuilder};
use tokenmeter_model::id::TenantId;
use tokenmeter_model::totals::{BUCKET_US, Totals, bucket};

use super::service::model_totals;
use super::totals::of_line;
use super::{Sqlite, messages, retention, sessions, tools, unavailable};
use crate::ledger::reports::{
    Listed, Message, Page, Part, Reports, SessionQuery, SessionSummary, ToolQuery, ToolUsage,
};
use crate::ledger::{Error, ModelTotals, Range};
use crate::rows::{sealed, totals};

/// All times.
pub(super) const ALWAYS: Range = Range {
    from_us: i64::MIN,
    to_us: i64::MAX,
};

#[async_trait]
impl Reports for Sqlite {
    async fn by_model(&self, tenant: &TenantId, part: &Part) -> Result<Vec<ModelTotals>, Error> {
        let mut connection = self.readers.acquire().await.map_err(unavailable)?;
        let mut models = if part.user_id.is_empty() && part.session_id.is_empty() {
            model_totals(&mut connection, tenant.as_str(), part.range).await?
        } else {
            let mut snapshot = connection.begin().await.map_err(unavailable)?;
            check_kept(&mut snapshot, tenant.as_str(), part).await?;
            let query = lines_by_model(tenant.as_str(), part);
            totals::models(&fetch(query, &mut snapshot).await?)?
        };
        models.retain(|one| {
            one.totals.lines > 0 && (part.model.is_empty() || one.model == part.model)
        });
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
                .bind(BUCKET_US)
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
        let mut snapshot = self.readers.begin().await.map_err(unavailable)?;
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
        let times: Vec<_> = spans
            .iter()
            .map(|span| (span.from_us, span.to_us))
            .collect();
        let sql = include_str!("queries/user_spans_by_model.sql")
            .replace("{columns}", &totals::sum_columns(str::to_owned))
            .replace("{of_line}", &totals::sum_columns(of_line))
            .replace(
                "{sums}",
                &totals::sum_columns(|name| format!("sum({name})")),
            );
        let mut snapshot = self.readers.begin().await.map_err(unavailable)?;
        let oldest_us = retention::sealed_before(&mut *snapshot).await?;
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(tenant.as_str())
            .bind(user_id)
            .bind(json(&times)?)
            .bind(json(&sealed::months(spans, oldest_us))?)
            .fetch_all(&mut *snapshot)
            .await
            .map_err(unavailable)?;
        let known = totals::spans_by_model(&rows, spans)?;
        let cut: Vec<Range> = spans
            .iter()
            .copied()
            .filter(|span| span.from_us < oldest_us)
            .collect();
        let whole = some_spans(&mut snapshot, tenant.as_str(), user_id, &cut, i64::MAX).await?;
        sealed::complete(known, spans, &whole)
    }

    async fn sessions(
        &self,
        tenant: &TenantId,
        query: &SessionQuery,
        page: Page,
    ) -> Result<Listed<SessionSummary>, Error> {
        sessions::list(&self.readers, tenant.as_str(), query, page).await
    }

    async fn tools(
        &self,
        tenant: &TenantId,
        query: &ToolQuery,
        page: Page,
    ) -> Result<Listed<ToolUsage>, Error> {
        tools::list(&self.readers, tenant.as_str(), query, page).await
    }

    async fn messages(
        &self,
        tenant: &TenantId,
        session_id: &str,
        user_id: &str,
        page: Page,
    ) -> Result<Listed<Message>, Error> {
        messages::list(&self.readers, tenant.as_str(), session_id, user_id, page).await
    }
}

/// A user's totals in each of `spans`, from the buckets.
async fn some_spans(
    connection: &mut SqliteConnection,
    tenant: &str,
    user_id: &str,
    spans: &[Range],
    limit: i64,
) -> Result<Vec<(Range, Totals)>, Error> {
    // Days of every time zone are whole quarter-hours.
    let buckets: Vec<_> = spans
        .iter()
        .map(|span| (bucket(span.from_us), bucket(span.to_us)))
        .collect();
    let sums = totals::sum_columns(|name| format!("sum({name})"));
    let sql = include_str!("queries/user_spans.sql").replace("{sums}", &sums);
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(tenant)
        .bind(user_id)
        .bind(json(&buckets)?)
        .bind(limit)
        .fetch_all(connection)
        .await
        .map_err(unavailable)?;
    totals::spans(&rows, spans)
}

/// Whether everything that a user's or session's figures by model are sums of is there: the lines of
/// a range, and of the lifetime of a user in a session, which nothing keeps once they are dropped.
async fn check_kept(
    connection: &mut SqliteConnection,
    tenant: &str,
    part: &Part,
) -> Result<(), Error> {
    let oldest_us = retention::sealed_before(&mut *connection).await?;
    if let Some(range) = part.range {
        return sealed::check_range(range, oldest_us);
    }
    if part.user_id.is_empty() || part.session_id.is_empty() {
        return Ok(());
    }
    let sealed: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM sealed_totals \
         WHERE tenant_id = ?1 AND scope = 'session' AND subject = ?2)",
    )
    .bind(tenant)
    .bind(&part.session_id)
    .fetch_one(connection)
    .await
    .map_err(unavailable)?;
    match sealed {
        true => Err(Error::NotRetained { oldest_us }),
        false => Ok(()),
    }
}

/// Runs a query.
pub(super) async fn fetch(
    mut query: QueryBuilder<sqlx::Sqlite>,
    connection: &mut SqliteConnection,
) -> Result<Vec<SqliteRow>, Error> {
    let rows = query.build().fetch_all(connection).await;
    rows.map_err(unavailable)
}

/// Sums of a user or session by model: of its lines, and without a range of what is sealed, too.
pub(super) fn lines_by_model(tenant: &str, part: &Part) -> QueryBuilder<sqlx::Sqlite> {
    let sums = totals::sum_columns(|name| format!("sum({name})"));
    let named = totals::sum_columns(str::to_owned);
    let of_line = totals::sum_columns(of_line);
    let mut query = QueryBuilder::new(format!(
        "WITH parts (subject, {named}, updated_at) AS (\
         SELECT provider || '/' || model, {of_line}, recorded_at FROM usage_lines \
         WHERE tenant_id = "
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
    let sealed = match (&part.user_id[..], &part.session_id[..]) {
        (user, "") => Some(("user", user)),
        ("", session) => Some(("session", session)),
        _ => None,
    };
    if let Some((scope, subject)) = sealed.filter(|_| part.range.is_none()) {
        query.push(format!(
            " UNION ALL SELECT provider || '/' || model, {named}, updated_at FROM sealed_totals \
             WHERE scope = '{scope}' AND tenant_id = "
        ));
        query.push_bind(tenant.to_owned());
        query.push(" AND subject = ").push_bind(subject.to_owned());
    }
    query.push(format!(
        ") SELECT subject, {sums}, max(updated_at) FROM parts GROUP BY subject"
    ));
    query
}

/// Values for `json_each`.
pub(super) fn json<T: serde::Serialize>(values: &T) -> Result<String, Error> {
    serde_json::to_string(values).map_err(|error| Error::Corrupt(error.to_string()))
}
