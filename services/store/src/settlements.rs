//! One settlement a reservation: which events of a group name one that another event has.

use std::collections::{HashMap, HashSet};

use crate::ledger::Submission;

/// A tenant and an id of its own.
pub(crate) type Id<'a> = (&'a str, &'a str);

/// The key of an event.
pub(crate) fn key(submission: &Submission) -> Id<'_> {
    (
        submission.tenant.as_str(),
        submission.event.event_id.as_str(),
    )
}

/// The reservation that an event names.
pub(crate) fn reservation(submission: &Submission) -> Option<Id<'_>> {
    let id = submission.event.reservation_id.as_str();
    (!id.is_empty()).then_some((submission.tenant.as_str(), id))
}

/// Goes through a group as if each of its events came alone: those whose key stands are not asked
/// for their reservation, and of several with one reservation the first has it. `standing` are the
/// keys, and `settled` the reservations with their events, that the ledger has. Answers which are
/// refused, by their place in the group, each with the event that has its reservation.
pub(crate) fn refused<'a>(
    group: impl Iterator<Item = (usize, &'a Submission)>,
    mut standing: HashSet<Id<'a>>,
    mut settled: HashMap<Id<'a>, String>,
) -> HashMap<usize, String> {
    let mut refused = HashMap::new();
    for (index, submission) in group {
        let key = key(submission);
        if standing.contains(&key) {
            continue;
        }
        if let Some(reservation) = reservation(submission) {
            if let Some(event_id) = settled.get(&reservation) {
                refused.insert(index, event_id.clone());
                continue;
            }
            settled.insert(reservation, submission.event.event_id.clone());
        }
        standing.insert(key);
    }
    refused
}

#[cfg(test)]
mod tests {
    use tokenmeter_model::event::Event;
    use tokenmeter_model::id::TenantId;

    use super::*;

    fn submission(event_id: &str, reservation_id: &str) -> Submission {
        let event = Event {
            event_id: event_id.into(),
            reservation_id: reservation_id.into(),
            ..Event::default()
        };
        Submission {
            tenant: TenantId::new("a").unwrap(),
            fingerprint: event.fingerprint(),
            event,
            quotes: Vec::new(),
            charge_time_us: 0,
            recorded_at_us: 0,
            api_key_id: String::new(),
        }
    }

    #[test]
    fn each_is_judged_as_if_it_came_alone() {
        let group = [
            ("stands", "r1"), // its first answer, whoever has the reservation
            ("late", "r1"),   // settled by an event of the ledger
            ("first", "r2"),
            ("first", "r2"),  // the same again
            ("second", "r2"), // settled by one before it
            ("second", ""),   // another event now: the one before was refused
            ("second", "r3"), // the key of that one
            ("third", "r3"),  // which therefore has not this reservation
        ]
        .map(|(event, reservation)| submission(event, reservation));
        let found = refused(
            group.iter().enumerate(),
            HashSet::from([("a", "stands")]),
            HashMap::from([(("a", "r1"), "other".to_owned())]),
        );
        let expected = HashMap::from([(1, "other".to_owned()), (4, "first".to_owned())]);
        assert_eq!(found, expected);
    }
}
