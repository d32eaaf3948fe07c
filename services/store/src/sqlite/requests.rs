//! `requests`: what was asked under a name, and what it was answered.

use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection as _, SqliteExecutor};

use super::unavailable;
use crate::ledger::Error;
use crate::ledger::correction::{Remembered, Request};
use crate::rows::Row as _;

/// The request of this name, if there is one.
pub(super) async fn find(
    executor: impl SqliteExecutor<'_>,
    tenant: &str,
    request_id: &str,
) -> Result<Option<Remembered>, Error> {
    let row = sqlx::query(
        "SELECT rpc, fingerprint, answer FROM requests WHERE tenant_id = ?1 AND request_id = ?2",
    )
    .bind(tenant)
    .bind(request_id)
    .fetch_optional(executor)
    .await
    .map_err(unavailable)?;
    row.map(|row| {
        Ok(Remembered {
            rpc: row.value("rpc")?,
            fingerprint: row.value("fingerprint")?,
            answer: row.value("answer")?,
        })
    })
    .transpose()
}

/// Remembers a request with its answer unless its name stands; answers what stands. One transaction.
pub(super) async fn remember(
    connection: &mut SqliteConnection,
    request: &Request,
    answer: String,
) -> Result<Remembered, Error> {
    let mut transaction = connection
        .begin_with("BEGIN IMMEDIATE")
        .await
        .map_err(unavailable)?;
    let tenant = request.tenant.as_str();
    if let Some(before) = find(&mut *transaction, tenant, &request.request_id).await? {
        return Ok(before);
    }
    put(&mut transaction, request, &answer).await?;
    transaction.commit().await.map_err(unavailable)?;
    Ok(Remembered {
        rpc: request.rpc.to_owned(),
        fingerprint: request.fingerprint.to_vec(),
        answer,
    })
}

/// Remembers a request with its answer, or with another answer than before.
pub(super) async fn put(
    connection: &mut SqliteConnection,
    request: &Request,
    answer: &str,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO requests \
         (tenant_id, request_id, rpc, fingerprint, user_id, requested_at, answer) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) \
         ON CONFLICT (tenant_id, request_id) DO UPDATE SET answer = excluded.answer",
    )
    .bind(request.tenant.as_str())
    .bind(&request.request_id)
    .bind(request.rpc)
    .bind(request.fingerprint.to_vec())
    .bind(&request.user_id)
    .bind(request.at_us)
    .bind(answer)
    .execute(connection)
    .await
    .map_err(unavailable)?;
    Ok(())
}
