//! Usage by model and by calendar, and the rest of [`Reports`], each theme in a file of its own.
//!
//! A tenant's figures and a user's days are sums of `usage_totals`. A user's or session's figures
//! by model are sums of their own lines, read by their index: totals of that grain are not kept,
//! because every event would have to write them.

use async_trait::async_trait;
use sqlx::postgres::{PgConnection, PgPool, PgRow};
use sqlx::{AssertSqlSafe, QueryBuilder};
use tokenmeter_model::id::TenantId;
use tokenmeter_model::totals::{BUCKET_US, Totals, bucket};

use super::read::{ALWAYS, snapshot};
use super::service::model_totals;
use super::{Postgres, messages, retention, sessions, sums, tools, unavailable};
use crate::ledger::reports::{
    Listed, Message, Moment, Page, Part, Reports, SessionQuery, SessionSummary, ToolQuery,
    ToolUsage,
};
use crate::ledger::{Error, ModelTotals, Range};
use crate::rows::{sealed, totals};

#[async_trait]
impl Reports for Postgres {
    async fn by_model(&self, tenant: &TenantId, part: &Part) -> Result<Vec<ModelTotals>, Error> {
        let mut models = if part.user_id.is_empty() && part.session_id.is_empty() {
            let mut connection = self.readers.acquire().await.map_err(unavailable)?;
            model_totals(&mut connection, tenant.as_str(), part.range).await?
        } else {
            let mut snapshot = snapshot(&self.readers).await?;
            retention::hold(&mut snapshot).await?;
            check_kept(&mut snapshot, tenant.as_str(), part).await?;
            let kept = part.range.unwrap_or(ALWAYS);
            let query = lines_by_model(tenant.as_str(), part, kept);
            totals::models(&fetch(query, &mut snapshot).await?)?
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
            .replace("{line_sums}", &sums::of_lines())
            .replace(
                "{columns}",
                &totals::sum_columns(|name| format!("t.{name}")),
            )
            .replace("{sums}", &sums::of_totals());
        let mut snapshot = snapshot(&self.readers).await?;
        retention::hold(&mut snapshot).await?;
        let oldest_us = retention::sealed_before(&mut *snapshot).await?;
        let (numbers, months): (Vec<i64>, Vec<i64>) =
            sealed::months(spans, oldest_us).into_iter().unzip();
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(tenant.as_str())
            .bind(user_id)
            .bind(from)
            .bind(to)
            .bind(numbers)
            .bind(months)
            .fetch_all(&mut *snapshot)
            .await
            .map_err(unavailable)?;
        let known = totals::spans_by_model(&rows, spans)?;
        let cut: Vec<Range> = spans
            .iter()
            .copied()
            .filter(|span| span.from_us < oldest_us)
            .collect();
        if cut.is_empty() {
            return Ok(known);
        }
        let whole = some_spans(&mut snapshot, tenant.as_str(), user_id, &cut, i64::MAX).await?;
        sealed::complete(known, spans, &whole)
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

/// Whether everything that a user's or session's figures by model are sums of is there: the lines of
/// a range, and of the lifetime of a user in a session, which nothing keeps once they are dropped.
async fn check_kept(connection: &mut PgConnection, tenant: &str, part: &Part) -> Result<(), Error> {
    let oldest_us = retention::sealed_before(&mut *connection).await?;
    if let Some(range) = part.range {
        return sealed::check_range(range, oldest_us);
    }
    if part.user_id.is_empty() || part.session_id.is_empty() {
        return Ok(());
    }
    let sealed: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM sealed_totals \
         WHERE tenant_id = $1 AND scope = 'session' AND subject = $2)",
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
    mut query: QueryBuilder<sqlx::Postgres>,
    connection: &mut PgConnection,
) -> Result<Vec<PgRow>, Error> {
    let rows = query.build().fetch_all(connection).await;
    rows.map_err(unavailable)
}

/// Sums of a user or session by model: of its lines, which are charged in `kept`, and without a range
/// of what is sealed, too.
pub(super) fn lines_by_model(
    tenant: &str,
    part: &Part,
    kept: Range,
) -> QueryBuilder<sqlx::Postgres> {
    let mut query = QueryBuilder::new(format!(
        "WITH parts AS (SELECT provider || '/' || model AS subject, {}, \
         max(recorded_at) AS updated_at FROM usage_lines WHERE tenant_id = ",
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
    query.push(" AND charge_time >= ").push_bind(kept.from_us);
    query.push(" AND charge_time < ").push_bind(kept.to_us);
    query.push(" GROUP BY provider, model");
    let sealed = match (&part.user_id[..], &part.session_id[..]) {
        (user, "") => Some(("user", user)),
        ("", session) => Some(("session", session)),
        _ => None,
    };
    if let Some((scope, subject)) = sealed.filter(|_| part.range.is_none()) {
        query.push(format!(
            " UNION ALL SELECT provider || '/' || model, {}, updated_at FROM sealed_totals \
             WHERE scope = '{scope}' AND tenant_id = ",
            totals::sum_columns(str::to_owned)
        ));
        query.push_bind(tenant.to_owned());
        query.push(" AND subject = ").push_bind(subject.to_owned());
    }
    query.push(format!(
        ") SELECT subject, {}, max(updated_at) FROM parts GROUP BY subject",
        sums::of_totals()
    ));
    query
}
