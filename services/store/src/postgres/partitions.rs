//! The partitions of `usage_lines`: one a month of UTC by charge time, made when they are needed, each
//! in a transaction of its own so that no group holds its locks.

use std::collections::BTreeSet;
use std::sync::{PoisonError, RwLock};

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _};
use tokenmeter_model::zone::Zone;

use super::failure::Failure;

/// The advisory lock under which partitions are made.
const PARTITIONS: i64 = 0x746f_6b65_6e6d_7061;

/// The months, by their first instant in microseconds since the Unix epoch, that are known to have a
/// partition. One that was dropped since is found out by the error of who writes to it.
#[derive(Default)]
pub(super) struct Partitions {
    known: RwLock<BTreeSet<i64>>,
}

impl Partitions {
    /// Makes sure that the months of these times have partitions.
    pub(super) async fn ensure(
        &self,
        connection: &mut PgConnection,
        times_us: impl Iterator<Item = i64>,
    ) -> Result<(), Failure> {
        let missing = self.missing(times_us);
        for month in missing {
            create(connection, month).await?;
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            known.insert(month);
        }
        Ok(())
    }

    /// Whether a month of these times is not known to have a partition.
    pub(super) fn lacks(&self, times_us: impl Iterator<Item = i64>) -> bool {
        !self.missing(times_us).is_empty()
    }

    /// Forgets what is known, because it was wrong.
    pub(super) fn forget(&self) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.clear();
    }

    /// The months of these times that are not known to have a partition.
    fn missing(&self, times_us: impl Iterator<Item = i64>) -> BTreeSet<i64> {
        let utc = Zone::utc();
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut missing = BTreeSet::new();
        // Times of a group are of few months: the month of the last one is nearly always that of
        // the next.
        let (mut from, mut to, mut is_known) = (0, 0, true);
        for at in times_us {
            if at < from || at >= to {
                (from, to) = (utc.start_of_month(at), utc.next_month(at));
                is_known = known.contains(&from);
            }
            if !is_known {
                missing.insert(from);
            }
        }
        missing
    }
}

/// The partition of the month that begins then.
pub(super) fn name(month_us: i64) -> String {
    let month = Zone::utc().month(month_us).replace('-', "_");
    format!("usage_lines_{month}")
}

/// Makes the partition of a month, unless it is there. Attached, not created as a partition, because
/// that would wait for every group in flight and hold up the others meanwhile.
async fn create(connection: &mut PgConnection, month_us: i64) -> Result<(), Failure> {
    let name = name(month_us);
    let end_us = Zone::utc().next_month(month_us);
    let mut transaction = connection.begin().await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(PARTITIONS)
        .execute(&mut *transaction)
        .await?;
    let there: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .bind(&name)
        .fetch_one(&mut *transaction)
        .await?;
    if !there {
        // The name is made of figures only.
        for sql in [
            format!("CREATE TABLE {name} (LIKE usage_lines INCLUDING ALL)"),
            format!(
                "ALTER TABLE usage_lines ATTACH PARTITION {name} \
                 FOR VALUES FROM ({month_us}) TO ({end_us})"
            ),
        ] {
            sqlx::query(AssertSqlSafe(sql))
                .persistent(false)
                .execute(&mut *transaction)
                .await?;
        }
    }
    transaction.commit().await?;
    Ok(())
}

/// Makes the partitions of the month of a time and of the one after it, ahead of their need.
pub(super) async fn ahead(connection: &mut PgConnection, now_us: i64) -> Result<(), Failure> {
    let utc = Zone::utc();
    let this = utc.start_of_month(now_us);
    for month in [this, utc.next_month(now_us)] {
        create(connection, month).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_of_its_month_of_utc() {
        // 2026-09-21T14:13:20Z.
        let at = 1_790_000_000_000_000;
        let partitions = Partitions::default();
        let october = Zone::utc().next_month(at);
        let missing = partitions.missing([at, october - 1, october, at].into_iter());
        let names: Vec<_> = missing.into_iter().map(name).collect();
        assert_eq!(names, ["usage_lines_2026_09", "usage_lines_2026_10"]);
    }
}
