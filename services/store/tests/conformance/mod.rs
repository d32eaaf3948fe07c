//! What every ledger does. Each function takes a fresh, empty ledger.

mod corrections;
pub mod feed;
pub mod idle;
pub mod items;
pub mod jobs;
pub mod limits;
pub mod model;
pub mod periods;
pub mod reconcile;
pub mod reports;
pub mod retention;
pub mod seeds;
pub mod settlements;
pub mod stretches;
mod under_load;

#[allow(unused_imports)] // the planted faults run a part of the suite
pub use corrections::{
    a_reprice_step_starts_where_its_run_stands, a_void_takes_an_event_out_of_every_figure,
    prices_set_by_name_are_set_once, reprices_keep_events_together,
};
#[allow(unused_imports)] // the planted faults run a part of the suite
pub use under_load::{ack_is_durable, bounded, racing_writers_record_once};

use std::collections::BTreeMap;
use std::sync::Arc;

use tokenmeter_model::counts::{CacheWrites, Line, TokenCounts};
use tokenmeter_model::event::{Event, MessageFacts, RetrievalFacts, Status, Thinking};
use tokenmeter_model::fingerprint::Canonical;
use tokenmeter_model::id::TenantId;
use tokenmeter_model::price::{Price, Quote};
use tokenmeter_model::totals::{BUCKET_US, Totals};
use tokenmeter_store::ledger::correction::{Request, Void, VoidOutcome};
use tokenmeter_store::ledger::{
    Error, EventQuery, Ledger, Outcome, Range, ServiceQuery, ServiceUsage, Subject, Submission,
};

/// 2026-09-21T14:13:20Z, in microseconds.
pub const T0: i64 = 1_790_000_000_000_000;

pub fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

pub fn quote(cost_nano_usd: i64) -> Option<Quote> {
    Some(Quote {
        cost_nano_usd,
        cache_saving_nano_usd: cost_nano_usd / 2,
        cache_write_extra_nano_usd: 1,
        price_version: 7,
    })
}

pub fn event(id: &str, user: &str) -> Event {
    Event {
        event_id: id.into(),
        user_id: user.into(),
        session_id: "s".into(),
        provider: "anthropic".into(),
        lines: vec![line("claude", 10, 5)],
        ..Event::default()
    }
}

pub fn line(model: &str, input: i64, output: i64) -> Line {
    Line {
        model: model.into(),
        counts: TokenCounts {
            input,
            output,
            ..TokenCounts::default()
        },
        tool_requests: BTreeMap::new(),
    }
}

pub fn submission(owner: &str, event: Event, cost: i64, charge_time_us: i64) -> Submission {
    Submission {
        tenant: tenant(owner),
        fingerprint: event.fingerprint(),
        quotes: event.lines.iter().map(|_| quote(cost)).collect(),
        event,
        charge_time_us,
        recorded_at_us: T0,
        api_key_id: String::new(),
    }
}

pub fn request(owner: &str, name: &str, rpc: &'static str, at_us: i64) -> Request {
    Request {
        tenant: tenant(owner),
        request_id: name.into(),
        rpc,
        fingerprint: Canonical::new().text(rpc).finish(),
        user_id: "admin".into(),
        at_us,
    }
}

pub fn void(owner: &str, name: &str, event_id: &str, reason: &str, at_us: i64) -> Void {
    Void {
        request: Request {
            fingerprint: Canonical::new().text(event_id).text(reason).finish(),
            ..request(owner, name, "VoidUsage", at_us)
        },
        event_id: event_id.into(),
        reason: reason.into(),
    }
}

pub async fn record(ledger: &dyn Ledger, batch: Vec<Submission>) -> Vec<Outcome> {
    let outcomes = ledger.record(batch.into()).await.unwrap();
    outcomes.into_iter().map(Result::unwrap).collect()
}

pub async fn user_totals(ledger: &dyn Ledger, owner: &str, user: &str) -> Totals {
    ledger
        .totals(&tenant(owner), Subject::User(user), None)
        .await
        .unwrap()
}

pub async fn exactly_once(ledger: &dyn Ledger) {
    let first = submission("a", event("e1", "u"), 100, T0);
    assert!(matches!(
        record(ledger, vec![first.clone()]).await[..],
        [Outcome::Recorded { .. }]
    ));
    let before = user_totals(ledger, "a", "u").await;
    assert_eq!(
        (
            before.requests,
            before.input,
            before.output,
            before.cost_nano_usd
        ),
        (1, 10, 5, 100)
    );

    // A retry is priced and timed anew by the server, and still gets the first answer.
    let mut retry = first.clone();
    retry.quotes = vec![quote(999)];
    retry.recorded_at_us = T0 + 5;
    match &record(ledger, vec![retry.clone()]).await[..] {
        [Outcome::Duplicate(was)] => {
            assert_eq!(was.quotes, [quote(100)]);
            assert_eq!(was.recorded_at_us, T0);
            assert_eq!(was.event, first.event);
        }
        other => panic!("{other:?}"),
    }
    let conflict = submission(
        "a",
        Event {
            turn: Some(1),
            ..event("e1", "u")
        },
        100,
        T0,
    );
    match &record(ledger, vec![conflict.clone()]).await[..] {
        [Outcome::Conflict(was)] => {
            assert_eq!(was.event, first.event);
            assert_eq!(was.event.differing_fields(&conflict.event), ["turn"]);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(user_totals(ledger, "a", "u").await, before);

    // The same id several times in one batch: the first stands.
    let new = submission("a", event("e2", "u"), 7, T0);
    let other = submission(
        "a",
        Event {
            turn: Some(2),
            ..event("e2", "u")
        },
        7,
        T0,
    );
    let outcomes = record(ledger, vec![new.clone(), retry, new, other]).await;
    assert!(
        matches!(
            outcomes[..],
            [
                Outcome::Recorded { .. },
                Outcome::Duplicate(_),
                Outcome::Duplicate(_),
                Outcome::Conflict(_)
            ]
        ),
        "{outcomes:?}"
    );
    let after = user_totals(ledger, "a", "u").await;
    assert_eq!((after.requests, after.cost_nano_usd), (2, 107));
}

pub async fn tenant_isolated(ledger: &dyn Ledger) {
    record(ledger, vec![submission("a", event("e", "u"), 1, T0)]).await;
    // The same ids in another tenant are other events.
    let outcomes = record(ledger, vec![submission("b", event("e", "u"), 2, T0)]).await;
    assert!(matches!(outcomes[..], [Outcome::Recorded { .. }]));
    assert_eq!(user_totals(ledger, "a", "u").await.cost_nano_usd, 1);
    assert_eq!(user_totals(ledger, "b", "u").await.cost_nano_usd, 2);
    assert_eq!(user_totals(ledger, "c", "u").await, Totals::default());
    let all = EventQuery {
        limit: 10,
        ..EventQuery::default()
    };
    assert_eq!(ledger.events(&tenant("b"), &all).await.unwrap().len(), 1);
    assert_eq!(ledger.events(&tenant("c"), &all).await.unwrap(), []);
    assert_eq!(ledger.session(&tenant("c"), "s").await.unwrap(), None);
    let service = ledger
        .service_usage(&tenant("c"), &ServiceQuery::default())
        .await
        .unwrap();
    assert_eq!(service, ServiceUsage::default());
    let stranger = void("c", "r", "e", "none of mine", T0);
    assert_eq!(ledger.void(stranger).await.unwrap(), VoidOutcome::NotFound);
    assert_eq!(user_totals(ledger, "a", "u").await.requests, 1);
    // A name of one tenant's request is free in another.
    for owner in ["a", "b"] {
        let outcome = ledger
            .void(void(owner, "r", "e", "slip", T0))
            .await
            .unwrap();
        assert!(matches!(
            outcome,
            VoidOutcome::Voided { already: false, .. }
        ));
        assert_eq!(user_totals(ledger, owner, "u").await.requests, 0);
    }
}

pub async fn events_read_back_as_recorded(ledger: &dyn Ledger) {
    let rich = Event {
        team_id: "team".into(),
        turn: Some(3),
        request_time_us: Some(T0 - 1),
        reservation_id: "r".into(),
        lines: vec![
            Line {
                model: "claude-a".into(),
                counts: TokenCounts {
                    input: 1,
                    cache_read: 2,
                    cache_write: CacheWrites {
                        ttl_5m: 3,
                        ttl_30m: 4,
                        ttl_1h: 5,
                        ttl_12h: 6,
                        unspecified: 7,
                    },
                    output: 80,
                    reasoning: 9,
                    input_audio: 1,
                    input_image: 0,
                    tool_use_prompt: 1,
                    cache_read_audio: 2,
                    output_audio: 11,
                    output_image: 12,
                },
                tool_requests: BTreeMap::from([("web_search".into(), 2)]),
            },
            line("claude-b", 13, 14),
        ],
        status: Status::Interrupted,
        latency_ms: Some(15),
        time_to_first_token_ms: Some(16),
        labels: vec![
            ("feature".into(), "ö\"'".into()),
            ("x".into(), String::new()),
        ],
        thinking: Some(Thinking {
            enabled: true,
            budget_tokens: Some(2_000),
        }),
        service_tier: "batch".into(),
        inference_region: "us".into(),
        stop_reason: "end_turn".into(),
        message: Some(MessageFacts {
            role: "assistant".into(),
            sequence: Some(4),
            ..Default::default()
        }),
        retrieval: Some(RetrievalFacts {
            retrieval_ran: true,
            cases_retrieved: 3,
            succeeded: Some(false),
        }),
        ..event("rich", "u")
    };
    let mut sent = submission("a", rich.clone(), 50, T0);
    sent.quotes[1] = None;
    record(
        ledger,
        vec![submission("a", event("plain", "u"), 1, T0 - 10), sent],
    )
    .await;
    let query = EventQuery {
        model: "claude-b".into(),
        limit: 10,
        ..EventQuery::default()
    };
    let found = ledger.events(&tenant("a"), &query).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].event, rich);
    assert_eq!(found[0].quotes, [quote(50), None]);

    let totals = user_totals(ledger, "a", "u").await;
    assert_eq!(
        (totals.requests, totals.succeeded, totals.interrupted),
        (2, 1, 1)
    );
    assert_eq!(
        (
            totals.unpriced_lines,
            totals.latency_ms,
            totals.latency_events
        ),
        (1, 15, 1)
    );
    assert_eq!(totals.prompt(), 10 + (1 + 2 + 3 + 4 + 5 + 6 + 7) + 13);
    assert_eq!(totals.output, 5 + 80 + 14);
    let unpriced = ledger.unpriced(&tenant("a"), None, 10).await.unwrap();
    assert_eq!(unpriced.total_lines, 1);
    let unpriced = unpriced.models;
    assert_eq!(unpriced.len(), 1);
    assert_eq!(
        (unpriced[0].model.as_str(), unpriced[0].tokens),
        ("claude-b", 27)
    );
    let service = ledger
        .service_usage(&tenant("a"), &ServiceQuery::default())
        .await
        .unwrap();
    let times = service.response_times;
    assert_eq!(
        (times.all.measured, times.all.mean_ms, times.all.p99_ms),
        (1, 15, 15)
    );
    assert_eq!(
        times.models[&("anthropic".into(), "claude-a".into())].p50_ms,
        15
    );
    assert_eq!(service.first_tokens.all.max_ms, 16);
    assert_eq!(
        (service.users, service.sessions, service.models.len()),
        (1, 1, 3)
    );
    let session = ledger.session(&tenant("a"), "s").await.unwrap().unwrap();
    assert_eq!((session.user_id.as_str(), session.turns), ("u", 1));
    assert_eq!((session.first_us, session.last_us), (T0 - 10, T0));
    assert_eq!(session.totals, totals);
    every_filter_filters(ledger).await;
}

/// Against the two events of [`events_read_back_as_recorded`].
async fn every_filter_filters(ledger: &dyn Ledger) {
    let label = |value: &str| vec![("feature".to_owned(), value.to_owned())];
    let base = EventQuery {
        limit: 10,
        ..EventQuery::default()
    };
    for (query, ids) in [
        (base.clone(), vec!["rich", "plain"]),
        (
            EventQuery {
                event_id: "plain".into(),
                ..base.clone()
            },
            vec!["plain"],
        ),
        (
            EventQuery {
                user_id: "nobody".into(),
                ..base.clone()
            },
            vec![],
        ),
        (
            EventQuery {
                team_id: "team".into(),
                ..base.clone()
            },
            vec!["rich"],
        ),
        (
            EventQuery {
                session_id: "s".into(),
                ..base.clone()
            },
            vec!["rich", "plain"],
        ),
        (
            EventQuery {
                provider: "openai".into(),
                ..base.clone()
            },
            vec![],
        ),
        (
            EventQuery {
                model: "claude".into(),
                ..base.clone()
            },
            vec!["plain"],
        ),
        (
            EventQuery {
                statuses: vec![Status::Succeeded, Status::Failed],
                ..base.clone()
            },
            vec!["plain"],
        ),
        (
            EventQuery {
                labels: label("ö\"'"),
                ..base.clone()
            },
            vec!["rich"],
        ),
        (
            EventQuery {
                labels: label("o"),
                ..base.clone()
            },
            vec![],
        ),
        (
            EventQuery {
                turn: Some(3),
                ..base.clone()
            },
            vec!["rich"],
        ),
        (
            EventQuery {
                unpriced_only: true,
                ..base.clone()
            },
            vec!["rich"],
        ),
        (
            EventQuery {
                limit: 1,
                ..base.clone()
            },
            vec!["rich"],
        ),
    ] {
        let found = ledger.events(&tenant("a"), &query).await.unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|one| one.event.event_id.as_str())
            .collect();
        assert_eq!(found, ids, "{query:?}");
    }
}

pub async fn lists_page_without_gap_or_repeat(ledger: &dyn Ledger) {
    // Equal times on purpose: the position breaks the tie.
    let batch: Vec<_> = (0..57)
        .map(|n| {
            submission(
                "a",
                event(&format!("e{n}"), "u"),
                1,
                T0 + n / 10 * BUCKET_US,
            )
        })
        .collect();
    record(ledger, batch).await;
    let mut seen = Vec::new();
    let mut query = EventQuery {
        user_id: "u".into(),
        limit: 10,
        ..EventQuery::default()
    };
    loop {
        let page = ledger.events(&tenant("a"), &query).await.unwrap();
        let Some(last) = page.last() else { break };
        query.before = Some((last.charge_time_us, last.position));
        seen.extend(page.iter().map(|e| (e.charge_time_us, e.position)));
    }
    assert_eq!(seen.len(), 57);
    assert!(
        seen.windows(2).all(|pair| pair[0] > pair[1]),
        "newest first: {seen:?}"
    );

    let range = Range {
        from_us: T0 + 1,
        to_us: T0 + 3 * BUCKET_US,
    };
    let query = EventQuery {
        range: Some(range),
        limit: 100,
        ..EventQuery::default()
    };
    assert_eq!(ledger.events(&tenant("a"), &query).await.unwrap().len(), 20);
    let totals = ledger
        .totals(&tenant("a"), Subject::User("u"), Some(range))
        .await
        .unwrap();
    assert_eq!(totals.requests, 20);
}

pub async fn one_bad_item_never_fails_the_others(ledger: &dyn Ledger) {
    let huge = i64::MAX - 5;
    record(ledger, vec![submission("a", event("e0", "u"), huge, T0)]).await;
    let batch: Arc<[Submission]> = vec![
        submission("a", event("e1", "v"), 1, T0),
        submission("a", event("e2", "u"), 100, T0),
        submission("a", event("e3", "v"), 1, T0),
    ]
    .into();
    // The model's total passes 64 bits with any of them, the user's only with the second; use
    // models of their own for the others.
    let batch: Arc<[Submission]> = batch
        .iter()
        .cloned()
        .map(|mut one| {
            if one.event.user_id == "v" {
                one.event.lines[0].model = "other".into();
                one.event.session_id = String::new();
            }
            one
        })
        .collect();
    let outcomes = ledger.record(batch).await.unwrap();
    assert!(
        matches!(outcomes[0], Ok(Outcome::Recorded { .. })),
        "{outcomes:?}"
    );
    assert!(
        matches!(outcomes[1], Err(Error::OutOfRange(_))),
        "{outcomes:?}"
    );
    assert!(
        matches!(outcomes[2], Ok(Outcome::Recorded { .. })),
        "{outcomes:?}"
    );
    assert_eq!(user_totals(ledger, "a", "u").await.requests, 1);
    assert_eq!(user_totals(ledger, "a", "v").await.requests, 2);
}

pub async fn prices_keep_their_versions(ledger: &dyn Ledger) {
    let price = |model: &str, source: &str| Price {
        provider: "anthropic".into(),
        model: model.into(),
        effective_from_us: T0,
        source: source.into(),
        version: 0,
        tiers: BTreeMap::new(),
        fees: BTreeMap::new(),
    };
    let a = tenant("a");
    let first = ledger
        .add_prices(None, vec![price("m", "1"), price("n", "1")], T0)
        .await
        .unwrap();
    let again = ledger
        .add_prices(None, vec![price("m", "1"), price("n", "2")], T0)
        .await
        .unwrap();
    assert_eq!(again[0], (first[0].0, false));
    assert!(again[1].1 && again[1].0 > first[1].0);
    let own = ledger
        .add_prices(Some(&a), vec![price("m", "1")], T0)
        .await
        .unwrap();
    assert!(own[0].1, "a tenant's own price is another price");
    assert_eq!(ledger.last_price_version().await.unwrap(), own[0].0);
    let shipped = |prices: Vec<tokenmeter_store::ledger::StoredPrice>| -> Vec<(i64, bool)> {
        prices
            .iter()
            .map(|p| (p.price.version, p.shipped))
            .collect()
    };
    let of_a = shipped(ledger.prices(&a, 0).await.unwrap());
    assert_eq!(
        of_a,
        [
            (first[0].0, true),
            (first[1].0, true),
            (again[1].0, true),
            (own[0].0, false)
        ]
    );
    assert_eq!(
        shipped(ledger.prices(&tenant("b"), again[1].0).await.unwrap()),
        []
    );
}
