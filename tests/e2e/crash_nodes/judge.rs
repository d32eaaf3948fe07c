//! What is wrong with the ledger by the clients' own files.

use std::collections::{BTreeMap, HashMap};

use tokenmeter_api::v1;
use tokenmeter_tests::Server;

use super::client::{Figures, Place, USERS};
use crate::support::{Clients, event, nano_usd};

/// The user of the judge's own event.
const JUDGE: &str = "judge";

/// Requests or lines, tokens and nano-USD.
type Sum = (i64, i64, i64);

/// Everything that is wrong, as one server has it whose own last acknowledgement is behind the last of
/// everybody.
pub(super) async fn judge(server: &Server, places: &[Place]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut clients = Clients::of(server).await;
    // A list holds what stood before the last event that its own server recorded.
    let last = v1::UsageEvent {
        user_id: JUDGE.into(),
        ..event("last")
    };
    clients.record(last).await.unwrap();
    let events = clients.all_events().await;
    let standing = judge_events(&events, places, &mut wrong);
    judge_answers(&standing, places, &mut wrong);
    judge_users(&mut clients, &events, &mut wrong).await;
    judge_models(&mut clients, &events, &mut wrong).await;
    wrong
}

/// Every event that stands was sent as it stands, and stands once.
fn judge_events(
    events: &[v1::RecordedEvent],
    places: &[Place],
    wrong: &mut Vec<String>,
) -> HashMap<String, Figures> {
    let mut sent = HashMap::new();
    for place in places {
        for n in place.known().sent {
            sent.insert(place.event_id(n), (place, n));
        }
    }
    let mut standing = HashMap::new();
    for event in events.iter().filter(|one| one.user_id != JUDGE) {
        let id = &event.event_id;
        let Some((place, n)) = sent.get(id) else {
            wrong.push(format!("{id} was never sent"));
            continue;
        };
        let sent = place.event(*n);
        let same = sent.user_id == event.user_id
            && sent.session_id == event.session_id
            && sent.request_time == event.request_time
            && lines_of(&sent) == recorded_lines_of(event);
        if !same {
            wrong.push(format!("{id} was sent as {sent:?} and stands as {event:?}"));
        }
        let figures = (event.total_tokens, nano_usd(event.cost.as_ref()));
        if standing.insert(id.clone(), figures).is_some() {
            wrong.push(format!("{id} stands twice"));
        }
    }
    standing
}

type Lines = Vec<(String, Option<v1::TokenCounts>)>;

fn lines_of(event: &v1::UsageEvent) -> Lines {
    let Some(v1::usage_event::Usage::Lines(lines)) = &event.usage else {
        return Vec::new();
    };
    let lines = lines.lines.iter();
    lines.map(|one| (one.model.clone(), one.counts)).collect()
}

fn recorded_lines_of(event: &v1::RecordedEvent) -> Lines {
    let lines = event.lines.iter();
    lines.map(|one| (one.model.clone(), one.counts)).collect()
}

/// What clients were told stands, with the same figures every time, and was new to one of them once.
fn judge_answers(standing: &HashMap<String, Figures>, places: &[Place], wrong: &mut Vec<String>) {
    for place in places {
        for (n, answers) in place.known().told {
            let id = place.event_id(n);
            for (told, _) in &answers {
                if standing.get(&id) != Some(told) {
                    let stands = standing.get(&id);
                    wrong.push(format!("{id}: told {told:?}, stands {stands:?}"));
                }
            }
            let new = answers.iter().filter(|(_, new)| *new).count();
            if new > 1 {
                wrong.push(format!("{id} was recorded {new} times"));
            }
        }
    }
}

fn add(sum: &mut Sum, tokens: i64, cost: i64) {
    *sum = (sum.0 + 1, sum.1 + tokens, sum.2 + cost);
}

/// Every user's totals are the sums of the user's events.
async fn judge_users(clients: &mut Clients, events: &[v1::RecordedEvent], wrong: &mut Vec<String>) {
    let mut sums: BTreeMap<&str, Sum> = BTreeMap::new();
    for event in events {
        let sum = sums.entry(&event.user_id).or_default();
        add(sum, event.total_tokens, nano_usd(event.cost.as_ref()));
    }
    let users = (0..USERS).map(|n| format!("user-{n}"));
    for user in users.chain([JUDGE.to_owned()]) {
        let totals = clients.lifetime(&user).await;
        let cost = nano_usd(totals.cost.as_ref());
        let got = (totals.requests, totals.total_tokens, cost);
        let sum = sums.get(&*user).copied().unwrap_or_default();
        if got != sum {
            wrong.push(format!("{user}: totals {got:?}, events {sum:?}"));
        }
    }
}

/// Every model's totals are the sums of its lines.
async fn judge_models(
    clients: &mut Clients,
    events: &[v1::RecordedEvent],
    wrong: &mut Vec<String>,
) {
    let mut sums: BTreeMap<&str, Sum> = BTreeMap::new();
    for line in events.iter().flat_map(|event| &event.lines) {
        let counts = line.counts.unwrap();
        let writes = counts.cache_write.unwrap_or_default();
        let tokens = counts.input + counts.cache_read + writes.ttl_5m + counts.output;
        let sum = sums.entry(&line.model).or_default();
        add(sum, tokens, nano_usd(line.cost.as_ref()));
    }
    let request = v1::GetServiceUsageRequest::default();
    let answer = clients.analytics.get_service_usage(request).await.unwrap();
    let mut totals: BTreeMap<String, Sum> = BTreeMap::new();
    for one in answer.into_inner().models {
        let usage = one.usage.unwrap();
        let all = usage.totals.unwrap();
        let cost = nano_usd(all.cost.as_ref());
        totals.insert(usage.model, (all.lines, all.total_tokens, cost));
    }
    for (model, sum) in sums {
        let got = totals.get(model).copied().unwrap_or_default();
        if got != sum {
            wrong.push(format!("{model}: totals {got:?}, lines {sum:?}"));
        }
    }
}
