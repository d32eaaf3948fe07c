//! Reading: every answer is of one snapshot.
use crate::ledger::correction::{RepriceCandidate, RepriceQuery};
use crate::ledger::{Error, EventQuery, Range, Recorded, Subject, UnpricedPage};
use sqlx::postgres::PgPool;
use tokenmeter_model::totals::Totals;

fn later<T>() -> Result<T, Error> {
    Err(Error::Unavailable("not built".into()))
}

pub(super) async fn totals_of(
    _pool: &PgPool,
    _tenant: &str,
    _subject: Subject<'_>,
    _ranges: &[Option<Range>],
) -> Result<Vec<Totals>, Error> {
    later()
}

pub(super) async fn events(
    _pool: &PgPool,
    _tenant: &str,
    _wanted: &EventQuery,
) -> Result<Vec<Recorded>, Error> {
    later()
}

pub(super) async fn unpriced(
    _pool: &PgPool,
    _tenant: &str,
    _after: Option<(&str, &str)>,
    _limit: i64,
) -> Result<UnpricedPage, Error> {
    later()
}

pub(super) async fn reprice_candidates(
    _pool: &PgPool,
    _tenant: &str,
    _query: &RepriceQuery,
    _after: i64,
    _through: i64,
) -> Result<Vec<RepriceCandidate>, Error> {
    later()
}
