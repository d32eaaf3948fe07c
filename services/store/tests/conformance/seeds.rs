//! What counters begin with, against a recomputation from all events.

use std::collections::{BTreeMap, BTreeSet};

use tokenmeter_model::event::Event;
use tokenmeter_model::item::{Item, ToolInvocation, ToolStatus};
use tokenmeter_model::limit::{Amounts, Scope, Window, Zoned};
use tokenmeter_model::zone::Zone;
use tokenmeter_store::counters::{CounterKey, Owner};
use tokenmeter_store::ledger::correction::{Adjustment, RepriceQuery, RepriceStep, VoidOutcome};
use tokenmeter_store::ledger::{EventQuery, Ledger, Recorded, Submission};

use super::items::{record_items, tool};
use super::retention::{DAY_US, purge};
use super::{T0, event, line, quote, record, request, submission, tenant, void};

const MINUTE_US: i64 = 60_000_000;
const PROVIDERS: [&str; 2] = ["anthropic", "openai"];
/// One has the sign that divides provider and model in totals.
const MODELS: [&str; 3] = ["claude", "vendor/claude", "small"];

/// Numbers from a seed, the same every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: i64) -> i64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        i64::try_from(self.0 >> 33).unwrap() % end
    }

    fn of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[usize::try_from(self.below(words.len() as i64)).unwrap()]
    }

    /// Near now mostly, and near the bounds of every window; up to 10 minutes ahead.
    fn charge_time(&mut self) -> i64 {
        let near = match self.below(6) {
            0 => 0,
            1 => MINUTE_US,
            2 => 60 * MINUTE_US,
            3 => self.below(48) * 30 * MINUTE_US,
            4 => 20 * DAY_US,
            _ => self.below(40) * DAY_US,
        };
        T0 - near + self.below(6 * MINUTE_US) - 3 * MINUTE_US
    }

    fn submission(&mut self, n: usize) -> Submission {
        let lines = (0..=self.below(3)).map(|_| {
            let mut line = line(self.of(&MODELS), self.below(100), self.below(50));
            line.counts.cache_read = self.below(10);
            line.counts.cache_write.ttl_1h = self.below(10);
            line
        });
        let lines = lines.collect();
        let event = Event {
            team_id: self.of(&["", "t1", "t2"]).into(),
            session_id: self.of(&["", "s1", "s2"]).into(),
            provider: self.of(&PROVIDERS).into(),
            lines,
            ..event(&format!("e{n}"), "")
        };
        let user_id = self.of(&["u1", "u2"]).to_owned();
        let mut submission = submission("a", Event { user_id, ..event }, 0, self.charge_time());
        for quote in &mut submission.quotes {
            *quote = (self.below(4) > 0)
                .then(|| super::quote(self.below(1_000)))
                .flatten();
        }
        submission.api_key_id = self.of(&["", "k1", "k2"]).into();
        submission
    }
}

/// Every kind of counter: of each scope and window, of all calls and of some.
fn keys() -> Vec<CounterKey> {
    let subjects = [
        (Scope::Tenant, ""),
        (Scope::Team, "t1"),
        (Scope::User, "u1"),
        (Scope::User, "nobody"),
        (Scope::Session, "s1"),
        (Scope::ApiKey, "k1"),
    ];
    let calls = [
        ("", ""),
        ("anthropic", ""),
        ("", "claude"),
        ("openai", "vendor/claude"),
    ];
    let mut keys = Vec::new();
    for (scope, subject) in subjects {
        for window in Window::ALL.iter().copied() {
            let of_life = matches!(window, Window::Session | Window::Budget);
            if window == Window::Request || of_life && scope != Scope::Session {
                continue;
            }
            keys.extend(calls.map(|(provider, model)| CounterKey {
                scope,
                subject: subject.into(),
                window,
                provider: provider.into(),
                model: model.into(),
            }));
        }
    }
    keys
}

type Buckets = BTreeMap<i64, Amounts>;

/// What a counter begins with, added up event by event; `tools` are the tokens of the session's tools.
fn reference(
    events: &[Recorded],
    key: &CounterKey,
    zoned: &Zoned,
    now_us: i64,
    tools: i64,
) -> Buckets {
    let mut buckets = Buckets::new();
    let mut add = |bucket_us, amounts: Amounts| {
        let sum = buckets.entry(bucket_us).or_default();
        *sum = sum.plus(&amounts);
    };
    for recorded in events.iter().filter(|one| one.voided.is_none()) {
        let event = &recorded.event;
        let owner = Owner {
            user_id: event.user_id.clone(),
            team_id: event.team_id.clone(),
            session_id: event.session_id.clone(),
            api_key_id: recorded.api_key_id.clone(),
        };
        let bucket_us = key.window.bucket(zoned, recorded.charge_time_us);
        // No day is looked for that begins more than an hour after now: nothing can be charged so late.
        let counts = bucket_us >= key.window.open_from(zoned, now_us)
            && (key.window.slides() || bucket_us <= now_us + 60 * MINUTE_US);
        if owner.subject(key.scope) != Some(&*key.subject) || !counts {
            continue;
        }
        for (n, (line, quote)) in event.lines.iter().zip(&recorded.quotes).enumerate() {
            let provider = key.provider.is_empty() || *key.provider == *event.provider;
            if provider && (key.model.is_empty() || *key.model == *line.model) {
                add(bucket_us, Amounts::of_line(line, quote.as_ref(), n == 0));
            }
        }
    }
    if key.window == Window::Budget {
        let output = tools;
        add(
            0,
            Amounts {
                output,
                ..Amounts::ZERO
            },
        );
    }
    buckets.retain(|_, sum| !sum.is_zero());
    buckets
}

async fn all_events(ledger: &dyn Ledger) -> Vec<Recorded> {
    let query = EventQuery {
        limit: 1_000,
        ..EventQuery::default()
    };
    ledger.events(&tenant("a"), &query).await.unwrap()
}

/// The seeds of all counters, in the order of [`keys`]; they contain every position so far.
async fn seeds(ledger: &dyn Ledger, zoned: &Zoned, now_us: i64) -> Vec<Buckets> {
    let keys = keys();
    let last = ledger.last_position().await.unwrap();
    let owner = tenant("a");
    let seeds = ledger.seeds(&owner, zoned, &keys, now_us);
    let (seeds, seen) = seeds.await.unwrap();
    assert!(seen.contains(last), "{last} is not in {seen:?}");
    assert!(!seen.contains(seen.through + 1));
    assert!(seeds.iter().map(|seed| &seed.key).eq(&keys));
    seeds
        .into_iter()
        .map(|seed| {
            let distinct: BTreeSet<_> = seed.buckets.iter().map(|(start, _)| start).collect();
            assert_eq!(distinct.len(), seed.buckets.len(), "{seed:?}");
            seed.buckets.into_iter().collect()
        })
        .collect()
}

fn zones() -> Vec<Zoned> {
    let zone = |name| Zone::named(name).unwrap();
    let mut zones: Vec<_> = ["UTC", "Asia/Kolkata", "Pacific/Chatham", "America/New_York"]
        .map(|name| Zoned::always(zone(name)))
        .into();
    // From the first instant of this month on, which is in the middle of a day of the other zone.
    let before = zone("UTC");
    let from_us = before.start_of_month(T0);
    zones.push(Zoned {
        zone: before.clone(),
        change: Some((from_us, zone("Asia/Kolkata"))),
    });
    // At no bound of a quarter-hour, as no change is today: the edges of totals are lines.
    zones.push(Zoned {
        zone: before,
        change: Some((T0 - 100 * MINUTE_US + 1, zone("Asia/Kolkata"))),
    });
    zones
}

/// In the first few of the zones.
async fn assert_equal_to_events(ledger: &dyn Ledger, in_zones: usize, tools: i64, step: &str) {
    let events = all_events(ledger).await;
    let mut sums = 0;
    for zoned in zones().into_iter().take(in_zones) {
        // The first instant of a day of the zone, and the last of one, where nothing of it is left.
        let midnight = zoned.at(T0).start_of_day(T0);
        for now_us in [T0, midnight, midnight - 1] {
            let found = seeds(ledger, &zoned, now_us).await;
            for (key, found) in keys().iter().zip(found) {
                let expected = reference(&events, key, &zoned, now_us, tools);
                assert_eq!(found, expected, "{step}: {key:?} at {now_us} in {zoned:?}");
                sums += expected.len();
            }
        }
    }
    assert!(sums > 500, "hardly anything is counted: {sums}");
}

/// A new price for every line that has none.
async fn reprice(ledger: &dyn Ledger) {
    let all = RepriceQuery {
        include_priced: true,
        ..RepriceQuery::default()
    };
    let found = ledger
        .reprice_candidates(&tenant("a"), &all, 0, i64::MAX)
        .await
        .unwrap();
    let adjustments = found.into_iter().map(|one| Adjustment {
        position: one.position,
        from: one.priced.quote,
        to: quote(77).unwrap(),
    });
    let step = RepriceStep {
        request: request("a", "run", "RepriceUsage", T0),
        previous: None,
        reprice_id: "run".into(),
        adjustments: adjustments.collect(),
        progress: String::new(),
    };
    assert!(ledger.reprice(step).await.unwrap());
}

pub async fn seeds_equal_the_events(ledger: &dyn Ledger) {
    let mut dice = Dice(5);
    let batch: Vec<_> = (0..300).map(|n| dice.submission(n)).collect();
    // The same of another tenant counts nowhere here.
    let others = batch.iter().take(50).map(|one| Submission {
        tenant: tenant("b"),
        ..one.clone()
    });
    record(ledger, others.collect()).await;
    record(ledger, batch).await;
    assert_equal_to_events(ledger, 1, 0, "recorded").await;

    for n in (0..300).step_by(7) {
        let id = format!("e{n}");
        let voided = ledger.void(void("a", &id, &id, "slip", T0)).await.unwrap();
        assert!(matches!(voided, VoidOutcome::Voided { .. }));
    }
    assert_equal_to_events(ledger, 1, 0, "voided").await;
    reprice(ledger).await;
    let id = "e1";
    ledger.void(void("a", id, id, "slip", T0)).await.unwrap();

    let used = |id: &str, session: &str, estimated_tokens| {
        Item::Tool(ToolInvocation {
            session_id: session.into(),
            estimated_tokens,
            start_time_us: Some(T0),
            ..tool(id, ToolStatus::Succeeded)
        })
    };
    let items = vec![
        used("i1", "s1", 30),
        used("i2", "s1", 4),
        used("i3", "s2", 5),
    ];
    record_items(ledger, "a", items, T0).await;
    assert_equal_to_events(ledger, 9, 34, "repriced").await;
}

/// What was dropped counts in the life of a session, and in nothing else.
pub async fn seeds_of_long_sessions_outlive_their_events(ledger: &dyn Ledger) {
    let mut dice = Dice(6);
    let batch = (0..120).map(|n| {
        let submission = dice.submission(n);
        let charge_time_us = submission.charge_time_us - dice.below(3) * 31 * DAY_US;
        Submission {
            charge_time_us,
            ..submission
        }
    });
    record(ledger, batch.collect()).await;
    let zoned = Zoned::always(Zone::utc());
    let before = seeds(ledger, &zoned, T0).await;
    let dropped = purge(ledger, Zone::utc().start_of_month(T0)).await;
    assert!(dropped.events > 20, "{dropped:?}");
    assert_eq!(seeds(ledger, &zoned, T0).await, before);
}
