//! What stands in the store of an imported file, read event by event.

use std::collections::HashSet;

use futures_util::stream::{StreamExt as _, TryStreamExt as _, iter};
use tokenmeter_api::v1;
use tokenmeter_model::counts::TokenCounts;

use super::deliver::Store;
use super::run::Accepted;
use crate::cli::error::Error;
use crate::cli::events::{MAX_PAGE, page_size};
use crate::cli::render::nano_usd;
use crate::cli::retry::Retry;

/// Pages read for each full page of events that is looked for, before those still missing are
/// asked for one by one: a store may hold far more of the same user.
const PAGES_PER_PAGE: usize = 4;
/// Events asked for one by one at the same time.
const AT_ONCE: usize = 16;

/// Sums over what stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// Events found that are not voided.
    pub(super) events: i64,
    /// Ids of the events found that are voided.
    pub(super) voided: HashSet<Box<str>>,
    /// Lines of those not voided.
    pub(super) lines: i64,
    /// Lines without a price.
    pub(super) unpriced: i64,
    /// Counts.
    pub(super) counts: TokenCounts,
    /// Cost of the priced lines.
    pub(super) cost_nano_usd: i64,
}

impl Standing {
    fn add(&mut self, event: &v1::RecordedEvent) {
        if event.voided {
            self.voided.insert(event.event_id.as_str().into());
            return;
        }
        self.events += 1;
        for line in &event.lines {
            self.lines += 1;
            let counts: TokenCounts = line.counts.map(Into::into).unwrap_or_default();
            self.counts.add(&counts);
            match nano_usd(line.cost.as_ref()) {
                Some(cost) => self.cost_nano_usd += cost,
                None => self.unpriced += 1,
            }
        }
    }
}

/// Reads every accepted event from the store.
pub(super) async fn read_back<S: Store>(
    store: &S,
    retry: &Retry,
    accepted: &Accepted,
) -> Result<Standing, Error> {
    let mut missing: HashSet<&str> = accepted.ids.iter().map(AsRef::as_ref).collect();
    let mut standing = Standing::default();
    if missing.is_empty() {
        return Ok(standing);
    }
    let mut pages = PAGES_PER_PAGE * (missing.len().div_ceil(MAX_PAGE) + 1);
    let mut request = narrowed(store, accepted).await;
    while pages > 0 && !missing.is_empty() {
        let page = retry.call(|| store.list(request.clone())).await?;
        for event in &page.events {
            if missing.remove(event.event_id.as_str()) {
                standing.add(event);
            }
        }
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
        pages -= 1;
    }
    let mut rest = iter(missing)
        .map(|id| {
            let request = v1::ListUsageEventsRequest {
                event_id: id.to_owned(),
                page_size: 1,
                ..Default::default()
            };
            retry.call(move || store.list(request.clone()))
        })
        .buffer_unordered(AT_ONCE);
    while let Some(page) = rest.try_next().await? {
        if let Some(event) = page.events.first() {
            standing.add(event);
        }
    }
    Ok(standing)
}

/// A list of events that has all of the import's and few others: of its one user and session.
async fn narrowed<S: Store>(store: &S, accepted: &Accepted) -> v1::ListUsageEventsRequest {
    let mut request = v1::ListUsageEventsRequest {
        page_size: page_size(MAX_PAGE),
        ..Default::default()
    };
    if !accepted.knows_subjects() {
        return request;
    }
    let users: HashSet<_> = accepted.subjects.iter().map(|(user, _)| user).collect();
    let sessions: HashSet<_> = accepted
        .subjects
        .iter()
        .map(|(_, session)| session)
        .collect();
    if let Some(user) = only(&users) {
        request.user_id = if user.is_empty() {
            // A server that does not tell is asked for everybody's events.
            store.caller().await.unwrap_or_default()
        } else {
            user.clone()
        };
    }
    if let Some(session) = only(&sessions) {
        request.session_id.clone_from(session);
    }
    request
}

/// The one element of a set that has one.
fn only<'a>(set: &HashSet<&'a String>) -> Option<&'a String> {
    match set.len() {
        1 => set.iter().next().copied(),
        _ => None,
    }
}
