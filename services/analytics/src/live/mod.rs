//! Subscriptions: what happens in a tenant, complete and in commit order; and exports of what did.

pub mod export;
#[cfg(test)]
mod export_tests;
pub mod filter;
pub mod token;
pub(crate) mod wire;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream;
use tokenmeter_api::streams::{Permit, Streams};
use tokenmeter_identity::Caller;
use tokenmeter_model::id::TenantId;
use tokenmeter_store::clock::Clock;
use tokenmeter_store::ledger::Ledger;
use tokenmeter_store::ledger::log::Entry;
use tokenmeter_store::tail::{Subscription, Tail};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::filter::{Asked, Filter};
use self::token::{Kind, Sealer, TokenError};
use crate::error::Error;

/// Shortest and longest silence before a heartbeat, and what it is when nothing is asked for.
const MIN_HEARTBEAT: Duration = Duration::from_secs(1);
const MAX_HEARTBEAT: Duration = Duration::from_secs(60);
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(15);
/// When subscribers may come back after a shutdown, in milliseconds: each at another time between.
const RECONNECT_MS: std::ops::Range<i64> = 100..2_000;

/// One response, before it becomes the contract's.
#[derive(Debug, Clone)]
pub struct Item {
    /// Continues after this response.
    pub resume_token: String,
    /// What it says.
    pub what: Happened,
}

/// What a response says.
#[derive(Debug, Clone)]
pub enum Happened {
    /// Something in the ledger.
    Entry(Arc<Entry>),
    /// Nothing, and the stream lives; the server's clock in microseconds since the Unix epoch.
    Heartbeat(i64),
    /// The stream ends; come back after so many milliseconds.
    Reconnect(i64),
}

/// Opens subscriptions.
pub struct Live {
    ledger: Arc<dyn Ledger>,
    tail: Arc<Tail>,
    streams: Streams,
    export_reads: Arc<Semaphore>,
    clock: Clock,
    draining: CancellationToken,
}

impl Live {
    /// Over a ledger; streams end when `draining` is cancelled.
    pub fn new(
        ledger: Arc<dyn Ledger>,
        streams: Streams,
        clock: Clock,
        draining: CancellationToken,
    ) -> Self {
        Self {
            tail: Tail::new(Arc::clone(&ledger)),
            ledger,
            streams,
            export_reads: Arc::new(Semaphore::new(export::READS)),
            clock,
            draining,
        }
    }

    /// Everything that passes the filter, after a resume token or from now on. The first item is a
    /// heartbeat, so that the subscriber holds a token before anything happens.
    ///
    /// # Errors
    /// Fields out of bounds, another user's data, a token that cannot be used, too many streams, or
    /// a server that shuts down.
    pub async fn subscribe(
        &self,
        caller: &Caller,
        asked: Asked,
        resume_token: &str,
        heartbeat: Option<Duration>,
    ) -> Result<impl Stream<Item = Result<Item, Error>> + use<>, Error> {
        let filter = Filter::of(caller, asked)?;
        if self.draining.is_cancelled() {
            return Err(Error::ShuttingDown);
        }
        // Before the position, so that no position is ever sealed with an opening after its own.
        let opening = self.ledger.opening();
        let place = self.tail.end().await?;
        let sealer = Sealer::new(
            Kind::Feed,
            self.ledger.secret(),
            &opening,
            &format!("{}\u{0}{filter:?}", caller.tenant),
        );
        let after = match resume_token {
            "" => place,
            token => resume_at(&*self.ledger, &caller.tenant, &sealer, token).await?,
        };
        let permit = self.streams.open()?;
        let subscriber = Subscriber {
            ledger: Arc::clone(&self.ledger),
            subscription: self.tail.subscribe(&caller.tenant, after),
            at: after,
            filter,
            sealer,
            ready: VecDeque::new(),
            heartbeat: heartbeat
                .unwrap_or(DEFAULT_HEARTBEAT)
                .clamp(MIN_HEARTBEAT, MAX_HEARTBEAT),
            silent_since: Instant::now(),
            begun: false,
            ended: false,
            clock: Arc::clone(&self.clock),
            draining: self.draining.clone(),
            _permit: permit,
        };
        Ok(stream::unfold(subscriber, |mut subscriber| async {
            let item = subscriber.next().await?;
            Some((item, subscriber))
        }))
    }
}

/// The position of a token, which the ledger has to have: one restored from an older copy does not.
/// Nothing that followed it may have been dropped by retention.
async fn resume_at(
    ledger: &dyn Ledger,
    tenant: &TenantId,
    sealer: &Sealer,
    token: &str,
) -> Result<i64, Error> {
    let (opening, place) = sealer.open(token)?;
    let position: i64 = place.parse().map_err(|_| TokenError::Invalid)?;
    let start = ledger.log_start(tenant).await?;
    match ledger.holds(opening, position).await? && position >= start {
        true => Ok(position),
        false => Err(sealer.expired(&start.to_string()).into()),
    }
}

/// One open stream.
struct Subscriber {
    ledger: Arc<dyn Ledger>,
    subscription: Subscription,
    /// The position of the token sent last.
    at: i64,
    filter: Filter,
    sealer: Sealer,
    /// What passed of the page taken last. Its length is a page's at most, and nothing is taken
    /// while there is any.
    ready: VecDeque<Arc<Entry>>,
    heartbeat: Duration,
    silent_since: Instant,
    begun: bool,
    ended: bool,
    clock: Clock,
    draining: CancellationToken,
    _permit: Permit,
}

impl Subscriber {
    /// The next item; none after the last.
    async fn next(&mut self) -> Option<Result<Item, Error>> {
        if self.ended {
            return None;
        }
        let item = self.wait().await;
        self.ended = match &item {
            Ok(item) => matches!(item.what, Happened::Reconnect(_)),
            Err(_) => true,
        };
        self.silent_since = Instant::now();
        Some(item)
    }

    async fn wait(&mut self) -> Result<Item, Error> {
        if !self.begun {
            self.begun = true;
            return Ok(self.beat());
        }
        loop {
            if let Some(entry) = self.ready.pop_front() {
                return Ok(self.item(entry.position, Happened::Entry(entry)));
            }
            let silence_ends = self.silent_since + self.heartbeat;
            tokio::select! {
                biased;
                () = self.draining.cancelled() => return Ok(self.part()),
                page = self.subscription.next() => {
                    if page.is_err() && self.opened_anew() {
                        return Ok(self.part());
                    }
                    let filter = &self.filter;
                    let passed = page?.entries.into_iter().filter(|entry| filter.passes(entry));
                    self.ready.extend(passed);
                    // A long stretch that the filter leaves out is silence too.
                    if self.ready.is_empty() && Instant::now() >= silence_ends {
                        return Ok(self.beat());
                    }
                }
                () = tokio::time::sleep_until(silence_ends) => return Ok(self.beat()),
            }
        }
    }

    /// A heartbeat. Its token is past everything that the filter left out.
    fn beat(&mut self) -> Item {
        let at = self.subscription.position();
        self.item(at, Happened::Heartbeat((self.clock)()))
    }

    /// The last item before a shutdown.
    fn part(&mut self) -> Item {
        let at = self.subscription.position();
        self.item(at, Happened::Reconnect(spread(RECONNECT_MS)))
    }

    fn opened_anew(&self) -> bool {
        *self.ledger.opening() != *self.sealer.opening()
    }

    /// An item, unless the ledger was opened anew since the stream began: then it is not known
    /// whether what was read is still there, and the subscriber is sent away with its last token,
    /// which tells when it comes back.
    fn item(&mut self, at: i64, what: Happened) -> Item {
        let what = if self.opened_anew() {
            Happened::Reconnect(spread(RECONNECT_MS))
        } else {
            self.at = at;
            what
        };
        Item {
            resume_token: self.sealer.seal(&self.at.to_string()),
            what,
        }
    }
}

/// A number in the range, another one for each caller.
fn spread(range: std::ops::Range<i64>) -> i64 {
    use std::hash::{BuildHasher as _, RandomState};
    let chance = RandomState::new().hash_one(()) >> 1;
    let width = range.end - range.start;
    range.start + i64::try_from(chance).unwrap_or_default() % width
}
