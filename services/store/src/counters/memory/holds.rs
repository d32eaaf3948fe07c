//! The holds of a tenant: those that reserve something, and for a while those that have ended.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokenmeter_model::fingerprint::Fingerprint;
use tokenmeter_model::limit::Amounts;

use crate::counters::{Hold, HoldState, MAX_EXTENSIONS, REMEMBERED_US};

/// A hold with the requests that made it what it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Held {
    pub(super) request_id: String,
    pub(super) fingerprint: Fingerprint,
    pub(super) hold: Hold,
    /// When it ended, unless it is active.
    pub(super) ended_us: Option<i64>,
    /// The newest extensions, oldest first.
    pub(super) extensions: VecDeque<Extension>,
}

/// An extension that was granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Extension {
    pub(super) request_id: String,
    pub(super) fingerprint: Fingerprint,
    /// As it left the hold.
    pub(super) amounts: Amounts,
    pub(super) expire_us: i64,
}

impl Held {
    /// The extension that a request was granted.
    pub(super) fn granted(&self, request_id: &str) -> Option<&Extension> {
        self.extensions
            .iter()
            .find(|one| one.request_id == request_id)
    }

    /// The hold as an extension left it.
    pub(super) fn as_left_by(&self, extension: &Extension) -> Hold {
        Hold {
            amounts: extension.amounts,
            expire_us: extension.expire_us,
            state: HoldState::Active,
            event_id: String::new(),
            ..self.hold.clone()
        }
    }

    fn is_remembered(&self, now_us: i64) -> bool {
        let over = |ended_us: i64| ended_us.saturating_add(REMEMBERED_US) <= now_us;
        !self.ended_us.is_some_and(over)
    }
}

/// All holds of a tenant, by numbers of their own.
#[derive(Debug, Default)]
pub(super) struct Holds {
    next: u64,
    /// Boxed, so that the table is small and quick to grow.
    all: HashMap<u64, Box<Held>>,
    by_request: HashMap<Arc<str>, u64>,
    by_reservation: HashMap<Arc<str>, u64>,
    /// The active ones by their end.
    expiring: BTreeSet<(i64, u64)>,
}

impl Holds {
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// How many are active.
    pub(super) fn active(&self) -> usize {
        self.expiring.len()
    }

    pub(super) fn get(&self, id: u64) -> Option<&Held> {
        self.all.get(&id).map(|held| &**held)
    }

    /// All of them, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Held)> {
        self.all.iter().map(|(id, held)| (*id, &**held))
    }

    /// The one that a request made.
    pub(super) fn of_request(&self, request_id: &str, now_us: i64) -> Option<(u64, &Held)> {
        let id = *self.by_request.get(request_id)?;
        self.remembered(id, now_us)
    }

    /// The one of a reservation.
    pub(super) fn of_reservation(&self, id: &str, now_us: i64) -> Option<(u64, &Held)> {
        let id = *self.by_reservation.get(id)?;
        self.remembered(id, now_us)
    }

    fn remembered(&self, id: u64, now_us: i64) -> Option<(u64, &Held)> {
        let held = self.get(id)?;
        held.is_remembered(now_us).then_some((id, held))
    }

    /// Adds one; it takes the place of one of the same request or reservation.
    pub(super) fn add(&mut self, held: Held) -> u64 {
        let id = self.next;
        self.next += 1;
        let request = Arc::from(held.request_id.as_str());
        let reservation = Arc::from(held.hold.reservation_id.as_str());
        if held.hold.state == HoldState::Active {
            self.expiring.insert((held.hold.expire_us, id));
        }
        self.all.insert(id, Box::new(held));
        let requests = self.by_request.insert(request, id);
        let reservations = self.by_reservation.insert(reservation, id);
        for before in [requests, reservations].into_iter().flatten() {
            self.forget(before);
        }
        id
    }

    /// Changes an active one.
    pub(super) fn extend(&mut self, id: u64, extension: Extension) {
        let Some(held) = self.all.get_mut(&id) else {
            return;
        };
        self.expiring.remove(&(held.hold.expire_us, id));
        self.expiring.insert((extension.expire_us, id));
        held.hold.amounts = extension.amounts;
        held.hold.expire_us = extension.expire_us;
        if held.extensions.len() == MAX_EXTENSIONS {
            held.extensions.pop_front();
        }
        held.extensions.push_back(extension);
    }

    /// Ends an active one; `event_id` is the event that settled it, else empty.
    pub(super) fn end(&mut self, id: u64, state: HoldState, event_id: &str, ended_us: i64) {
        let Some(held) = self.all.get_mut(&id) else {
            return;
        };
        self.expiring.remove(&(held.hold.expire_us, id));
        held.hold.state = state;
        held.hold.event_id = event_id.to_owned();
        held.ended_us = Some(ended_us);
    }

    /// The number of a reservation, however long ago it ended.
    pub(super) fn id(&self, reservation_id: &str) -> Option<u64> {
        self.by_reservation.get(reservation_id).copied()
    }

    /// The active one whose time is over the longest.
    pub(super) fn due(&self, now_us: i64) -> Option<(i64, u64)> {
        let first = self.expiring.first().copied();
        first.filter(|(expire_us, _)| *expire_us <= now_us)
    }

    /// Forgets one that has ended.
    pub(super) fn forget(&mut self, id: u64) {
        let Some(held) = self.all.remove(&id) else {
            return;
        };
        self.expiring.remove(&(held.hold.expire_us, id));
        // Another one may stand there by now.
        if self.by_request.get(held.request_id.as_str()) == Some(&id) {
            self.by_request.remove(held.request_id.as_str());
        }
        let reservation = held.hold.reservation_id.as_str();
        if self.by_reservation.get(reservation) == Some(&id) {
            self.by_reservation.remove(reservation);
        }
    }
}
