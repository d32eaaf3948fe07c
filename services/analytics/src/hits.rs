//! Refusals and hits of limits (R24).

use tokenmeter_api::page::{self, WrongToken};
use tokenmeter_identity::Caller;
use tokenmeter_store::ledger::limits::{HitQuery, LimitHit};

use crate::error::Error;
use crate::service::{Analytics, check_range, check_text, listed_user};

impl Analytics {
    /// A page of hits, newest first, and the token of the next page, if any. A caller that reads only
    /// itself gets those of its own calls.
    ///
    /// # Errors
    /// [`Error::Denied`] for another user than the caller without the role for it, fields out of
    /// bounds, or the ledger's.
    pub async fn limit_hits(
        &self,
        caller: &Caller,
        mut query: HitQuery,
        page_size: i32,
        page_token: &str,
    ) -> Result<(Vec<LimitHit>, Option<String>), Error> {
        query.user_id = listed_user(caller, &query.user_id)?;
        check_text("subject", &query.subject)?;
        check_text("limit_name", &query.limit_name)?;
        check_range(query.range)?;
        let size = page::size(page_size)?;
        let filters = format!("hits\u{0}{}\u{0}{query:?}", caller.tenant);
        if let Some(end) = page::read(&filters, page_token)? {
            query.before = Some(read_end(end).ok_or(WrongToken)?);
        }
        // One more than the page tells whether there is a next one.
        query.limit = i64::try_from(size).unwrap_or(i64::MAX).saturating_add(1);
        let mut hits = self.ledger.hits(&caller.tenant, &query).await?;
        let more = hits.len() > size;
        hits.truncate(size);
        let last = hits.last().filter(|_| more);
        let end = last.map(|(number, last)| format!("{}.{number}", last.second_us));
        let next = end.map(|end| page::token(&filters, &end));
        Ok((hits.into_iter().map(|(_, hit)| hit).collect(), next))
    }
}

/// Where a page ended: the second, and the hit's number in the ledger.
fn read_end(end: &str) -> Option<(i64, i64)> {
    let (second, number) = end.split_once('.')?;
    Some((second.parse().ok()?, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokenmeter_identity::{Role, Roles};
    use tokenmeter_model::id::TenantId;
    use tokenmeter_model::limit::{Enforcement, Metric, Scope, Window};
    use tokenmeter_model::zone::Zone;
    use tokenmeter_store::clock;
    use tokenmeter_store::ledger::Ledger;
    use tokenmeter_store::sqlite::Sqlite;

    use super::*;
    use crate::wire;

    /// The first second of the hits.
    const T0: i64 = 1_790_000_000_000_000;

    fn hit(second: i64, user: &str) -> LimitHit {
        LimitHit {
            second_us: T0 + second * 1_000_000,
            limit_name: "requests-per-minute".into(),
            scope: Scope::User,
            subject: user.into(),
            metric: Metric::Requests,
            window: Window::Minute,
            enforcement: Enforcement::RecordOverage,
            hard: false,
            profile_id: "free".into(),
            user_id: user.into(),
            session_id: "s".into(),
            model: "m".into(),
            limit: 10,
            used: 11,
            held: 2,
            asked: 1,
            count: 3,
        }
    }

    #[tokio::test]
    async fn hits_are_listed_newest_first_and_a_reader_of_itself_gets_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Sqlite::open(&folder.path().join("t.db")).await.unwrap();
        let ledger: Arc<dyn Ledger> = Arc::new(ledger);
        let mut caller = Caller {
            tenant: TenantId::new("acme").unwrap(),
            user: "ann".into(),
            team_id: String::new(),
            api_key_id: String::new(),
            roles: Roles::all(),
        };
        let hits: Vec<_> = (0..7)
            .map(|n| hit(n / 2, if n % 2 == 0 { "ann" } else { "bob" }))
            .collect();
        ledger.add_hits(&caller.tenant, &hits).await.unwrap();
        let analytics = Analytics::new(Arc::clone(&ledger), clock::system(), Zone::utc());
        let pages = async |caller: &Caller, query: HitQuery| {
            let (mut all, mut token) = (Vec::new(), String::new());
            loop {
                let page = analytics.limit_hits(caller, query.clone(), 2, &token).await;
                let (page, next) = page.unwrap();
                assert!(page.len() <= 2);
                all.extend(page);
                match next {
                    Some(next) => token = next,
                    None => return all,
                }
            }
        };
        let all = pages(&caller, HitQuery::default()).await;
        assert_eq!(all.len(), 7);
        assert!(all.is_sorted_by_key(|one| std::cmp::Reverse(one.second_us)));
        let of_bob = HitQuery {
            user_id: "bob".into(),
            ..HitQuery::default()
        };
        assert_eq!(pages(&caller, of_bob.clone()).await.len(), 3);

        caller.roles = Roles::from_iter([Role::ReadOwn]);
        let own = pages(&caller, HitQuery::default()).await;
        assert_eq!(own.len(), 4);
        assert!(own.iter().all(|one| one.user_id == "ann"));
        let denied = analytics.limit_hits(&caller, of_bob, 0, "").await;
        assert!(matches!(denied, Err(Error::Denied)));

        let wire = wire::hit(own.into_iter().next().unwrap());
        let state = wire.state.clone().unwrap();
        assert_eq!((state.used, state.held, state.overage), (11, 2, 1));
        assert_eq!((state.remaining, wire.count), (0, 3));
        assert_eq!(wire.cause(), tokenmeter_api::v1::RefusalCause::Rate);
        assert_eq!(
            wire.enforcement(),
            tokenmeter_api::v1::Enforcement::RecordOverage
        );
    }
}
