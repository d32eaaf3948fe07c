//! Voids, reprices and prices set by name.

use std::collections::BTreeMap;

use tokenmeter_model::event::{Event, Status, Voided};
use tokenmeter_model::fingerprint::Canonical;
use tokenmeter_model::price::Price;
use tokenmeter_model::totals::{BUCKET_US, Totals};
use tokenmeter_store::ledger::correction::{
    Adjustment, PriceSet, PricesOutcome, RepriceQuery, RepriceStep, Request, VoidOutcome,
};
use tokenmeter_store::ledger::{
    EventQuery, Ledger, Outcome, Range, ServiceQuery, ServiceUsage, Subject,
};

use super::{T0, event, line, quote, record, request, submission, tenant, user_totals, void};

/// Totals without the time of their last change, which a void is.
fn sums(totals: Totals) -> Totals {
    Totals {
        updated_at_us: 0,
        ..totals
    }
}

/// An event with every figure set, in a session, a team and two models.
pub(super) fn rich(id: &str) -> Event {
    let mut first = line("claude-a", 100, 50);
    first.counts.cache_read = 7;
    first.counts.cache_write.ttl_1h = 3;
    first.counts.reasoning = 20;
    first.tool_requests = BTreeMap::from([("web_search".into(), 2)]);
    Event {
        team_id: "team".into(),
        session_id: "rich".into(),
        turn: Some(1),
        lines: vec![first, line("claude-b", 1, 2)],
        status: Status::Failed,
        latency_ms: Some(1_500),
        time_to_first_token_ms: Some(200),
        ..event(id, "rich-user")
    }
}

/// Where each of these was recorded.
fn positions_of(outcomes: &[Outcome]) -> Vec<i64> {
    let position = |outcome: &Outcome| match outcome {
        Outcome::Recorded { position } => *position,
        other => panic!("{other:?}"),
    };
    outcomes.iter().map(position).collect()
}

pub async fn a_void_takes_an_event_out_of_every_figure(ledger: &dyn Ledger) {
    let owner = tenant("a");
    let stays = Event {
        team_id: "team".into(),
        latency_ms: Some(10),
        ..event("stays", "u")
    };
    record(ledger, vec![submission("a", stays, 5, T0)]).await;
    let before = Figures::of(ledger).await;
    let mut sent = submission("a", rich("gone"), 1_000, T0 + 1);
    sent.quotes[1] = None;
    let gone = positions_of(&record(ledger, vec![sent.clone()]).await)[0];
    // Priced twice since, so that the void has two entries to undo.
    for (n, from, to) in [(0, None, quote(33)), (1, quote(33), quote(44))] {
        let step = RepriceStep {
            request: request("a", &format!("run-{n}"), "RepriceUsage", T0 + 2),
            previous: None,
            reprice_id: format!("run-{n}"),
            adjustments: vec![Adjustment {
                position: gone + 1,
                from,
                to: to.unwrap(),
            }],
            progress: String::new(),
        };
        assert!(ledger.reprice(step).await.unwrap());
    }
    assert_eq!(
        user_totals(ledger, "a", "rich-user").await.cost_nano_usd,
        1_044
    );

    let committed = ledger.last_position().await.unwrap();
    let wanted = void("a", "v1", "gone", "counted twice", T0 + 9);
    match ledger.void(wanted.clone()).await.unwrap() {
        VoidOutcome::Voided { event, already } => {
            assert!(!already);
            assert_eq!(event.quotes, [quote(1_000), quote(44)]);
            let reason = "counted twice".to_owned();
            let at_us = T0 + 9;
            assert_eq!(event.voided, Some(Voided { at_us, reason }));
        }
        other => panic!("{other:?}"),
    }
    assert!(ledger.last_position().await.unwrap() > committed);
    let log = ledger.log(&owner, committed, 1_000).await.unwrap();
    assert_eq!(log.entries.len(), 1, "an entry for all lines");
    assert_eq!(Figures::of(ledger).await, before);
    let left = ledger
        .totals(&owner, Subject::User("rich-user"), None)
        .await;
    assert_eq!(sums(left.unwrap()), Totals::default());
    assert_eq!(ledger.session(&owner, "rich").await.unwrap(), None);

    // Another request finds it voided; the first one is answered as at first.
    let late = ledger.void(void("a", "v2", "gone", "late", T0 + 10)).await;
    match late.unwrap() {
        VoidOutcome::Voided { event, already } => {
            assert!(already);
            assert_eq!(event.voided.unwrap().reason, "counted twice");
        }
        other => panic!("{other:?}"),
    }
    let again = ledger.void(wanted).await.unwrap();
    assert!(matches!(again, VoidOutcome::Voided { already: false, .. }));
    // The id stays used: a retry gets its first answer, another payload is told.
    let other = submission("a", event("gone", "u"), 1, T0);
    match &record(ledger, vec![sent.clone(), other]).await[..] {
        [Outcome::Duplicate(first), Outcome::Conflict(standing)] => {
            assert_eq!(first.quotes, sent.quotes);
            assert!(standing.voided.is_some());
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(Figures::of(ledger).await, before);
    // And it is out of reach of reprices, whoever saw it before.
    let all = RepriceQuery {
        include_priced: true,
        ..RepriceQuery::default()
    };
    let left = ledger.reprice_candidates(&owner, &all, 0, i64::MAX).await;
    assert_eq!(left.unwrap().len(), 1);
    let step = RepriceStep {
        request: request("a", "run-9", "RepriceUsage", T0),
        previous: None,
        reprice_id: "run-9".into(),
        adjustments: vec![Adjustment {
            position: gone,
            from: quote(1_000),
            to: quote(1).unwrap(),
        }],
        progress: String::new(),
    };
    assert!(!ledger.reprice(step).await.unwrap());
    assert_eq!(ledger.remembered(&owner, "run-9").await.unwrap(), None);
}

/// Every figure that a question can get at.
#[derive(Debug, PartialEq)]
struct Figures {
    totals: Vec<Totals>,
    service: Vec<ServiceUsage>,
    unpriced: i64,
}

impl Figures {
    async fn of(ledger: &dyn Ledger) -> Self {
        let owner = tenant("a");
        let edge = Range {
            from_us: T0 - 1,
            to_us: T0 + 2,
        };
        let wide = Range {
            from_us: T0 - 2 * BUCKET_US,
            to_us: T0 + 2 * BUCKET_US,
        };
        let mut figures = Self {
            totals: Vec::new(),
            service: Vec::new(),
            unpriced: 0,
        };
        for range in [None, Some(edge), Some(wide)] {
            for subject in [
                Subject::User("u"),
                Subject::User("rich-user"),
                Subject::Team("team"),
                Subject::Session("s"),
                Subject::Session("rich"),
            ] {
                let totals = ledger.totals(&owner, subject, range).await.unwrap();
                figures.totals.push(sums(totals));
            }
            let query = ServiceQuery {
                range,
                ..ServiceQuery::default()
            };
            let mut service = ledger.service_usage(&owner, &query).await.unwrap();
            for model in &mut service.models {
                model.totals = sums(model.totals);
            }
            figures.service.push(service);
        }
        let unpriced = ledger.unpriced(&owner, None, 10).await.unwrap();
        let listed: i64 = unpriced.models.iter().map(|model| model.lines).sum();
        assert_eq!(listed, unpriced.total_lines);
        figures.unpriced = listed;
        let waiting = EventQuery {
            unpriced_only: true,
            limit: 10,
            ..EventQuery::default()
        };
        assert_eq!(
            ledger.events(&owner, &waiting).await.unwrap().len() as i64,
            listed
        );
        figures
    }
}

pub async fn reprices_keep_events_together(ledger: &dyn Ledger) {
    let owner = tenant("a");
    let mut batch = Vec::new();
    for n in 0..5 {
        let mut sent = submission("a", rich(&format!("e{n}")), 10, T0 + n);
        sent.event.request_time_us = None;
        sent.quotes = vec![None, quote(10)];
        batch.push(sent);
    }
    let stranger = submission("b", rich("e0"), 10, T0);
    let at = positions_of(&record(ledger, batch).await);
    record(ledger, vec![stranger]).await;
    let last = ledger.last_position().await.unwrap();
    let positions = async |query: RepriceQuery, after, through| -> Vec<(i64, i64)> {
        let found = ledger
            .reprice_candidates(&owner, &query, after, through)
            .await;
        let found = found.unwrap();
        found
            .iter()
            .map(|one| (one.position, one.event_position))
            .collect()
    };
    let unpriced = RepriceQuery::default();
    let all = RepriceQuery {
        include_priced: true,
        ..RepriceQuery::default()
    };
    assert_eq!(
        positions(unpriced.clone(), 0, at[1]).await,
        [(at[0], at[0]), (at[1], at[1])]
    );
    // An event belongs to the stretch that it begins in, with all of its lines.
    let whole = |n: usize| [(at[n], at[n]), (at[n] + 1, at[n])];
    assert_eq!(
        positions(all.clone(), 0, at[1]).await,
        [whole(0), whole(1)].concat()
    );
    assert_eq!(positions(all.clone(), at[1], at[1] + 1).await, []);
    assert_eq!(positions(all.clone(), at[1] + 1, at[2]).await, whole(2));
    let model = RepriceQuery {
        model: "claude-b".into(),
        ..all.clone()
    };
    assert_eq!(
        positions(model, at[2] + 1, last).await,
        [whole(3)[1], whole(4)[1]]
    );
    let range = RepriceQuery {
        range: Some(Range {
            from_us: T0 + 1,
            to_us: T0 + 2,
        }),
        ..all
    };
    assert_eq!(positions(range, 0, last).await, whole(1));
    let provider = RepriceQuery {
        provider: "openai".into(),
        ..unpriced
    };
    assert_eq!(positions(provider, 0, last).await, []);
}

pub async fn a_reprice_step_starts_where_its_run_stands(ledger: &dyn Ledger) {
    let owner = tenant("a");
    let mut batch: Vec<_> = (0..3)
        .map(|n| submission("a", event(&format!("e{n}"), "u"), 10, T0))
        .collect();
    for one in &mut batch {
        one.quotes = vec![None];
    }
    let at = positions_of(&record(ledger, batch).await);
    let step = |n: usize, previous: Option<&str>, progress: &str| RepriceStep {
        request: request("a", "run", "RepriceUsage", T0 + 1),
        previous: previous.map(str::to_owned),
        reprice_id: "run".into(),
        adjustments: vec![Adjustment {
            position: at[n - 1],
            from: None,
            to: quote(5).unwrap(),
        }],
        progress: progress.into(),
    };
    let stands = async |progress: &str, cost| {
        let remembered = ledger.remembered(&owner, "run").await.unwrap().unwrap();
        assert_eq!(remembered.answer, progress);
        let totals = user_totals(ledger, "a", "u").await;
        assert_eq!(totals.cost_nano_usd, cost);
    };
    assert!(ledger.reprice(step(1, None, "one")).await.unwrap());
    let committed = ledger.last_position().await.unwrap();
    // Steps from another place than where the run stands: at its start, or further than it came.
    for previous in [None, Some("two")] {
        let refused = step(2, previous, "wrong");
        assert!(!ledger.reprice(refused).await.unwrap(), "{previous:?}");
    }
    // So is one without entries, such as the last.
    let last = RepriceStep {
        adjustments: Vec::new(),
        ..step(2, None, "wrong")
    };
    assert!(!ledger.reprice(last.clone()).await.unwrap());
    assert_eq!(ledger.last_position().await.unwrap(), committed);
    stands("one", 5).await;
    assert!(ledger.reprice(step(2, Some("one"), "two")).await.unwrap());
    let last = RepriceStep {
        previous: Some("two".into()),
        progress: "three".into(),
        ..last
    };
    assert!(ledger.reprice(last).await.unwrap());
    stands("three", 10).await;
    // The name of another request is no run's to go on with.
    ledger
        .void(void("a", "taken", "e0", "wrong", T0))
        .await
        .unwrap();
    let answer = ledger.remembered(&owner, "taken").await.unwrap();
    let other = RepriceStep {
        request: request("a", "taken", "RepriceUsage", T0 + 1),
        ..step(3, answer.map(|one| one.answer).as_deref(), "wrong")
    };
    assert!(!ledger.reprice(other).await.unwrap());
}

/// Prices of models from a source, named.
fn price_set(owner: &str, name: &str, models: &[&str], source: &str) -> PriceSet {
    let price = |model: &&str| Price {
        provider: "anthropic".into(),
        model: (*model).to_owned(),
        effective_from_us: T0,
        version: 0,
        source: source.into(),
        tiers: BTreeMap::new(),
        fees: BTreeMap::new(),
    };
    PriceSet {
        request: Request {
            fingerprint: Canonical::new().text(source).finish(),
            ..request(owner, name, "SetPrices", T0)
        },
        prices: models.iter().map(price).collect(),
        answer: format!("{name} from {source}"),
    }
}

pub async fn prices_set_by_name_are_set_once(ledger: &dyn Ledger) {
    let owner = tenant("a");
    let book = async || -> Vec<(i64, String)> {
        let prices = ledger.prices(&owner, 0).await.unwrap();
        let of = prices.into_iter();
        of.map(|one| (one.price.version, one.price.source))
            .collect()
    };
    let first = price_set("a", "r-1", &["m", "n"], "one");
    let outcome = ledger.set_prices(first.clone()).await.unwrap();
    let versions = match &outcome {
        PricesOutcome::Set { versions, answer } => {
            assert_eq!(answer, "r-1 from one");
            assert!(versions.iter().all(|(_, new)| *new));
            versions.iter().map(|(version, _)| *version)
        }
        other => panic!("{other:?}"),
    };
    let added: Vec<_> = versions
        .map(|version| (version, "one".to_owned()))
        .collect();
    assert_eq!((added.len(), book().await), (2, added.clone()));
    let remembered = ledger.remembered(&owner, "r-1").await.unwrap().unwrap();
    assert!(remembered.is(&first.request));

    // A retry before and after another price: what it found at first, and nothing changed.
    let late = PriceSet {
        answer: "told anew".into(),
        ..first.clone()
    };
    assert_eq!(ledger.set_prices(late.clone()).await.unwrap(), outcome);
    let second = price_set("a", "r-2", &["m"], "two");
    ledger.set_prices(second).await.unwrap();
    let stands = book().await;
    assert_eq!(stands.len(), 3);
    assert_eq!(ledger.set_prices(late).await.unwrap(), outcome);
    let fewer = PriceSet {
        prices: Vec::new(),
        ..first.clone()
    };
    assert_eq!(ledger.set_prices(fewer).await.unwrap(), outcome);

    // Another content, or another RPC, under the same name.
    let other = price_set("a", "r-1", &["m"], "three");
    let mut import = first.clone();
    import.request.rpc = "ImportPrices";
    for conflict in [other, import] {
        assert_eq!(
            ledger.set_prices(conflict).await.unwrap(),
            PricesOutcome::RequestConflict
        );
    }
    assert_eq!(book().await, stands);

    // A request that found everything standing is remembered too, and names are a tenant's own.
    let nothing = price_set("a", "r-3", &[], "one");
    let found = ledger.set_prices(nothing.clone()).await.unwrap();
    assert_eq!(ledger.set_prices(nothing).await.unwrap(), found);
    let taken = price_set("a", "r-3", &["m"], "four");
    let refused = ledger.set_prices(taken).await.unwrap();
    assert_eq!(refused, PricesOutcome::RequestConflict);
    let stranger = price_set("b", "r-1", &["m"], "three");
    let outcome = ledger.set_prices(stranger).await.unwrap();
    assert!(matches!(outcome, PricesOutcome::Set { .. }));
    assert_eq!(book().await, stands);
}
