//! Corrections: voids, reprices and prices, and the requests that ask for them.

use tokenmeter_model::fingerprint::Fingerprint;
use tokenmeter_model::id::TenantId;
use tokenmeter_model::price::{Price, Quote};

use super::{PricedLine, Range, Recorded};

/// A request that its caller named, so that a repeat finds its first answer. It is remembered in
/// the transaction of its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Whose it is.
    pub tenant: TenantId,
    /// Its name, one for all RPCs of the tenant.
    pub request_id: String,
    /// The RPC.
    pub rpc: &'static str,
    /// Of what it asks for.
    pub fingerprint: Fingerprint,
    /// Who asked.
    pub user_id: String,
    /// The server's clock when it arrived, in microseconds since the Unix epoch.
    pub at_us: i64,
}

/// A request as the ledger remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// The RPC.
    pub rpc: String,
    /// Of what it asked for.
    pub fingerprint: Vec<u8>,
    /// What it was answered, or how far it has come, in the RPC's own words.
    pub answer: String,
}

impl Remembered {
    /// Whether this is the same request, repeated.
    pub fn is(&self, request: &Request) -> bool {
        self.rpc == request.rpc && self.fingerprint[..] == request.fingerprint[..]
    }
}

/// Takes an event out of every total.
#[derive(Debug, Clone)]
pub struct Void {
    /// The request; its time is when the event is voided.
    pub request: Request,
    /// The event.
    pub event_id: String,
    /// Why, in the words of who asks.
    pub reason: String,
}

/// What became of a void.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VoidOutcome {
    /// The event is voided.
    Voided {
        /// The event with the quotes that stood when it was voided; `voided` is set.
        event: Box<Recorded>,
        /// Whether an earlier request had voided it, so that this one changed nothing.
        already: bool,
    },
    /// There is no such event; nothing changed, and the request is not remembered.
    NotFound,
    /// The event is sealed, or was dropped; nothing changed, and the request is not remembered.
    TooOld {
        /// The earliest charge time that is kept, in microseconds since the Unix epoch.
        oldest_us: i64,
    },
    /// The request's name stands for another request; nothing changed.
    RequestConflict,
}

/// Prices to add to a tenant's book under the name of a request.
#[derive(Debug, Clone)]
pub struct PriceSet {
    /// The request; its time is when the prices are recorded.
    pub request: Request,
    /// The prices, in order; none is a request that changes nothing and is remembered too.
    pub prices: Vec<Price>,
    /// What the request is answered beside the versions, in the RPC's own words.
    pub answer: String,
}

/// What became of a set of prices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PricesOutcome {
    /// The prices stand, now or since the first request of this name.
    Set {
        /// Each one's version, and whether it was new, as the first request was told.
        versions: Vec<(i64, bool)>,
        /// The answer of the first request.
        answer: String,
    },
    /// The request's name stands for another request; nothing changed.
    RequestConflict,
}

/// Lines whose price may be set anew; empty fields do not filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RepriceQuery {
    /// Only lines of this provider.
    pub provider: String,
    /// Only lines of this model.
    pub model: String,
    /// Only lines charged in this range.
    pub range: Option<Range>,
    /// Lines with a price as well as those without.
    pub include_priced: bool,
}

/// A line whose price may be set anew. Lines of voided events are none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepriceCandidate {
    /// Position of the line.
    pub position: i64,
    /// Position of the first line of its event.
    pub event_position: i64,
    /// The provider.
    pub provider: String,
    /// Its service tier in the provider's own word.
    pub service_tier: String,
    /// The time it is charged at, in microseconds since the Unix epoch.
    pub charge_time_us: i64,
    /// The line with the quote that stands.
    pub priced: PricedLine,
}

/// A new price for one recorded line, posted as a compensating entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adjustment {
    /// Position of the line.
    pub position: i64,
    /// The quote that the caller saw.
    pub from: Option<Quote>,
    /// The new quote.
    pub to: Quote,
}

/// A step of a reprice run: entries, and how far the run has come with them.
#[derive(Debug, Clone)]
pub struct RepriceStep {
    /// The request of the run; its time is when the entries are recorded.
    pub request: Request,
    /// How far the run had come when the step was made, as it was remembered; none before the
    /// first. A step from elsewhere is not posted.
    pub previous: Option<String>,
    /// Names the run on its entries.
    pub reprice_id: String,
    /// The entries, in order of position. All lines of an event have to be in one step, so that
    /// its entries stand one after the other.
    pub adjustments: Vec<Adjustment>,
    /// How far the run has come with this step, remembered with the request.
    pub progress: String,
}
