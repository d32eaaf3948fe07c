//! `jobs`: the leases of periodic jobs, by the clock of the primary.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::AssertSqlSafe;
use tokenmeter_model::id::TenantId;

use super::{Postgres, partitions, unavailable};
use crate::fault::{Planted, is_planted};
use crate::ledger::Error;
use crate::ledger::jobs::{Ending, JobState, Jobs, Lease};
use crate::rows;

/// The clock, in microseconds since the Unix epoch, as SQL.
const NOW: &str = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

#[async_trait]
impl Jobs for Postgres {
    async fn take_job(
        &self,
        job: &str,
        node: &str,
        key: &str,
        lease: Duration,
    ) -> Result<Option<Lease>, Error> {
        let anyway = match is_planted(Planted::RunEverywhere) {
            true => "true",
            false => "false",
        };
        let sql = include_str!("queries/take_job.sql")
            .replace("{now}", NOW)
            .replace("{anyway}", anyway);
        let generation = sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(job)
            .bind(node)
            .bind(key)
            .bind(micros(lease))
            .fetch_optional(&self.primary)
            .await
            .map_err(unavailable)?;
        Ok(generation.map(|generation| Lease {
            job: job.to_owned(),
            generation,
        }))
    }

    async fn renew_job(&self, held: &Lease, lease: Duration) -> Result<bool, Error> {
        let sql = format!(
            "UPDATE jobs SET lease_until = {NOW} + $3 \
             WHERE name = $1 AND generation = $2 AND running"
        );
        let done = sqlx::query(AssertSqlSafe(sql))
            .bind(&held.job)
            .bind(held.generation)
            .bind(micros(lease))
            .execute(&self.primary)
            .await
            .map_err(unavailable)?;
        Ok(done.rows_affected() > 0)
    }

    async fn end_job(&self, held: &Lease, ending: Ending<'_>, detail: &str) -> Result<bool, Error> {
        let (succeeded, key, retry_after) = match ending {
            Ending::Done { key } => (Some(true), key, Duration::ZERO),
            Ending::Failed { retry_after } => (Some(false), "", retry_after),
            Ending::Released => (None, "", Duration::ZERO),
        };
        let sql = format!(
            "UPDATE jobs SET lease_until = {NOW} + $3, last_end = {NOW}, running = false, \
             succeeded = coalesce($4, succeeded), detail = $5, last_key = greatest(last_key, $6), \
             failures = CASE WHEN $4 THEN 0 WHEN NOT $4 THEN failures + 1 ELSE failures END \
             WHERE name = $1 AND generation = $2 AND running"
        );
        let done = sqlx::query(AssertSqlSafe(sql))
            .bind(&held.job)
            .bind(held.generation)
            .bind(micros(retry_after))
            .bind(succeeded)
            .bind(detail)
            .bind(key)
            .execute(&self.primary)
            .await
            .map_err(unavailable)?;
        Ok(done.rows_affected() > 0)
    }

    async fn jobs(&self) -> Result<Vec<JobState>, Error> {
        let sql = format!("SELECT *, lease_until > {NOW} AS held FROM jobs ORDER BY name");
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&self.primary);
        let rows = rows.await.map_err(unavailable)?;
        rows.iter().map(rows::jobs::read).collect()
    }

    async fn make_room(&self, now_us: i64) -> Result<(), Error> {
        let mut connection = self.primary.acquire().await.map_err(unavailable)?;
        partitions::ahead(&mut connection, now_us).await?;
        Ok(())
    }

    async fn tenants(&self, after: Option<&TenantId>, limit: i64) -> Result<Vec<TenantId>, Error> {
        let names: Vec<String> = sqlx::query_scalar(include_str!("queries/tenants.sql"))
            .bind(after.map_or("", TenantId::as_str))
            .bind(limit)
            .fetch_all(&self.primary)
            .await
            .map_err(unavailable)?;
        let ids = names.into_iter().map(TenantId::new);
        ids.collect::<Result<_, _>>()
            .map_err(|error| Error::Corrupt(error.to_string()))
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
