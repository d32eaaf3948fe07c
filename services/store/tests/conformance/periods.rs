//! Closed months: what was closed never changes, and what came later is all there. The reference is
//! what other questions answer about the same times.

use tokenmeter_model::event::{Event, RetrievalFacts};
use tokenmeter_model::item::{ChampionCases, Item, ToolInvocation, ToolStatus};
use tokenmeter_model::totals::Totals;
use tokenmeter_model::zone::Zone;
use tokenmeter_store::ledger::correction::{Adjustment, RepriceQuery, RepriceStep};
use tokenmeter_store::ledger::periods::{
    AdjustmentKind, CloseStep, Closing, Consumption, Month, Period,
};
use tokenmeter_store::ledger::reports::{Page, Part, SessionQuery};
use tokenmeter_store::ledger::{Ledger, Range, Subject};

use super::items::record_items;
use super::{T0, event, line, quote, record, request, submission, tenant, void};

const DAY_US: i64 = 86_400_000_000;
/// When months are closed, long after they were over.
const CLOSED: i64 = T0 + 60 * DAY_US;
/// When what came later came.
const LATER: i64 = T0 + 70 * DAY_US;

/// The calendar month of a time, in a zone whose months begin at the half hour.
fn month(at_us: i64) -> Month {
    let zone = Zone::named("Asia/Kolkata").unwrap();
    Month {
        id: zone.month(at_us),
        range: Range {
            from_us: zone.start_of_month(at_us),
            to_us: zone.next_month(at_us),
        },
    }
}

/// Two lines of two models, and everything that a period counts.
fn rich(id: &str, user: &str, session: &str, succeeded: Option<bool>) -> Event {
    Event {
        session_id: session.into(),
        lines: vec![line("claude-a", 10, 5), line("claude-b", 3, 1)],
        retrieval: Some(RetrievalFacts {
            retrieval_ran: succeeded.is_some(),
            cases_retrieved: 4,
            succeeded,
        }),
        ..event(id, user)
    }
}

async fn put(ledger: &dyn Ledger, event: Event, charge_time_us: i64, recorded_at_us: i64) {
    let mut sent = submission("a", event, 100, charge_time_us);
    sent.recorded_at_us = recorded_at_us;
    record(ledger, vec![sent]).await;
}

/// Usage of five users around the month of `T0`; `u3` has none in it, and all of `u4` is voided.
async fn fill(ledger: &dyn Ledger) {
    let Range { from_us, to_us } = month(T0).range;
    put(ledger, rich("e1", "u1", "s1", Some(true)), from_us, T0).await;
    put(ledger, rich("e2", "u1", "s1", Some(false)), T0, T0).await;
    put(ledger, rich("e3", "u1", "s2", None), to_us - 1, T0).await;
    put(ledger, event("e4", "u1"), T0, T0).await;
    put(
        ledger,
        rich("before", "u1", "s3", Some(true)),
        from_us - 1,
        T0,
    )
    .await;
    put(ledger, rich("after", "u1", "s4", Some(true)), to_us, T0).await;
    put(ledger, event("e5", "u2"), T0, T0).await;
    put(ledger, event("e6", "u3"), to_us, T0).await;
    put(ledger, event("e7", "u4"), T0, T0).await;
    for (id, gone) in [("v1", "e2"), ("v2", "e7")] {
        let done = ledger.void(void("a", id, gone, "test", T0)).await;
        done.unwrap();
    }
    put(ledger, event("e8", "u5"), T0, T0).await;
    let foreign = submission("b", rich("e1", "u1", "s1", Some(true)), 7, T0);
    record(ledger, vec![foreign]).await;
    add_items(ledger, "1", T0).await;
    add_items(ledger, "2", to_us).await;
}

async fn add_items(ledger: &dyn Ledger, name: &str, at_us: i64) {
    let tool = Item::Tool(ToolInvocation {
        invocation_id: format!("tool-{name}"),
        tool: "search".into(),
        user_id: "u1".into(),
        status: ToolStatus::Succeeded,
        start_time_us: Some(at_us),
        ..ToolInvocation::default()
    });
    let cases = Item::Champion(ChampionCases {
        report_id: format!("cases-{name}"),
        user_id: "u1".into(),
        cases: 6,
        time_us: Some(at_us),
        ..ChampionCases::default()
    });
    record_items(ledger, "a", vec![tool, cases], T0).await;
}

/// Closes a month, two users a step; answers how many were closed and had been before.
async fn close(ledger: &dyn Ledger, month: &Month, dry_run: bool) -> (i64, i64) {
    let (mut after, mut sum) = (String::new(), (0, 0));
    loop {
        let step = CloseStep {
            month,
            after: &after,
            users: 2,
            now_us: CLOSED,
            dry_run,
        };
        let Closing {
            closed,
            already,
            through,
        } = ledger.close_periods(&tenant("a"), step).await.unwrap();
        sum = (sum.0 + closed, sum.1 + already);
        match through {
            Some(through) => after = through,
            None => return sum,
        }
    }
}

async fn periods(ledger: &dyn Ledger, user: &str) -> Vec<Period> {
    let all = ledger.periods(&tenant("a"), user, "", 100).await;
    all.unwrap()
}

async fn only(ledger: &dyn Ledger, user: &str) -> Period {
    let mut periods = periods(ledger, user).await;
    assert_eq!(periods.len(), 1);
    periods.remove(0)
}

/// What other questions say about the user's month, the facts that they do not know left out.
async fn reference(ledger: &dyn Ledger, user: &str) -> Consumption {
    let owner = tenant("a");
    let range = Some(month(T0).range);
    let part = Part {
        user_id: user.into(),
        range,
        ..Part::default()
    };
    let mut models = ledger.by_model(&owner, &part).await.unwrap();
    models.sort_by_key(|one| std::cmp::Reverse(one.totals.total()));
    let totals = ledger.totals(&owner, Subject::User(user), range).await;
    let query = SessionQuery {
        user_id: user.into(),
        range,
        ..SessionQuery::default()
    };
    let page = Page {
        limit: 100,
        ..Page::default()
    };
    let sessions = ledger.sessions(&owner, &query, page).await.unwrap().entries;
    let mut consumption = Consumption {
        totals: totals.unwrap(),
        models,
        ..Consumption::default()
    };
    consumption.facts.sessions = i64::try_from(sessions.len()).unwrap();
    consumption
}

/// The parts that the reference knows, without the times of the last change, which its models have
/// of fewer rows.
fn known(consumption: &Consumption) -> (Totals, Vec<(String, [i64; Totals::SUMS.len()])>, i64) {
    let models = consumption.models.iter();
    let models = models.map(|one| (one.model.clone(), one.totals.sums()));
    let totals = Totals {
        updated_at_us: 0,
        ..consumption.totals
    };
    (totals, models.collect(), consumption.facts.sessions)
}

async fn assert_adjusted(ledger: &dyn Ledger, user: &str) {
    let (adjusted, reference) = (
        only(ledger, user).await.adjusted,
        reference(ledger, user).await,
    );
    assert_eq!(known(&adjusted), known(&reference));
}

pub async fn a_month_is_closed_once(ledger: &dyn Ledger) {
    fill(ledger).await;
    let month = month(T0);
    assert_eq!(close(ledger, &month, true).await, (3, 0));
    assert_eq!(periods(ledger, "u1").await, [], "a dry run changes nothing");
    assert_eq!(close(ledger, &month, false).await, (3, 0));
    let closed = only(ledger, "u1").await;
    assert_eq!((&closed.month, closed.closed_at_us), (&month, CLOSED));
    assert_eq!(
        known(&closed.as_closed),
        known(&reference(ledger, "u1").await)
    );
    assert_eq!(closed.adjusted, closed.as_closed);
    assert_eq!(closed.adjustments, []);
    let facts = closed.as_closed.facts;
    // Of four events one is voided, one is without facts, one does not say how it went.
    assert_eq!((closed.as_closed.totals.requests, facts.sessions), (3, 3));
    assert_eq!((facts.judged, facts.judged_succeeded), (1, 1));
    assert_eq!((facts.retrieval_stated, facts.retrieval_ran), (2, 1));
    assert_eq!(facts.cases_retrieved, 8);
    assert_eq!((facts.champion_cases, facts.tool_invocations), (6, 1));
    for nothing in ["u3", "u4"] {
        assert_eq!(periods(ledger, nothing).await, []);
    }
    let foreign = ledger.periods(&tenant("b"), "u1", "", 9).await;
    assert_eq!(foreign.unwrap(), []);

    // Again, by two at once: nothing changes.
    let again = tokio::join!(close(ledger, &month, false), close(ledger, &month, false));
    assert_eq!(again, ((0, 3), (0, 3)));
    assert_eq!(only(ledger, "u1").await, closed);
}

pub async fn racing_rollovers_close_once(ledger: &dyn Ledger) {
    fill(ledger).await;
    let month = month(T0);
    let (one, other) = tokio::join!(close(ledger, &month, false), close(ledger, &month, false));
    assert_eq!(one.0 + other.0, 3, "{one:?} {other:?}");
    assert_eq!(periods(ledger, "u1").await.len(), 1);
}

/// A late event of `u1` in an old and one in a new session, a void, and a reprice.
async fn change(ledger: &dyn Ledger, name: &str) {
    let late = format!("late-{name}");
    put(ledger, rich(&late, "u1", "s1", Some(true)), T0, LATER).await;
    let other = format!("other-{name}");
    let session = format!("s-{name}");
    put(ledger, rich(&other, "u1", &session, Some(false)), T0, LATER).await;
}

/// Prices every line of the user's first event anew.
async fn reprice(ledger: &dyn Ledger) {
    let query = RepriceQuery {
        include_priced: true,
        ..RepriceQuery::default()
    };
    let owner = tenant("a");
    let lines = ledger.reprice_candidates(&owner, &query, 0, i64::MAX).await;
    let first = month(T0).range.from_us;
    let lines = lines.unwrap();
    let lines = lines.iter().filter(|one| one.charge_time_us == first);
    let adjustments: Vec<_> = lines
        .map(|one| Adjustment {
            position: one.position,
            from: one.priced.quote,
            to: quote(250).unwrap(),
        })
        .collect();
    assert_eq!(adjustments.len(), 2);
    let step = RepriceStep {
        request: request("a", "run", "RepriceUsage", LATER),
        previous: None,
        reprice_id: "run".into(),
        adjustments,
        progress: String::new(),
    };
    assert!(ledger.reprice(step).await.unwrap());
}

pub async fn what_was_closed_never_changes(ledger: &dyn Ledger) {
    fill(ledger).await;
    close(ledger, &month(T0), false).await;
    let closed = only(ledger, "u1").await;
    change(ledger, "x").await;
    // The only event of its session.
    let gone = ledger.void(void("a", "v3", "e3", "test", LATER)).await;
    gone.unwrap();
    reprice(ledger).await;
    add_items(ledger, "late", T0).await;

    let now = only(ledger, "u1").await;
    assert_eq!(now.as_closed, closed.as_closed);
    assert_adjusted(ledger, "u1").await;
    let facts = now.adjusted.facts;
    assert_eq!((facts.judged, facts.judged_succeeded), (3, 2));
    assert_eq!((facts.retrieval_stated, facts.retrieval_ran), (3, 3));
    assert_eq!((facts.champion_cases, facts.tool_invocations), (12, 2));
    let changes = now.adjustments.iter().map(|one| {
        assert_eq!(one.at_us, LATER);
        (one.kind, &*one.event_id, one.tokens, one.cost_nano_usd)
    });
    assert_eq!(
        changes.collect::<Vec<_>>(),
        [
            (AdjustmentKind::LateEvent, "late-x", 19, 200),
            (AdjustmentKind::LateEvent, "other-x", 19, 200),
            (AdjustmentKind::Void, "e3", -19, -200),
            (AdjustmentKind::Reprice, "e1", 0, 300),
        ]
    );
    let untouched = only(ledger, "u2").await;
    assert_eq!(untouched.adjusted, untouched.as_closed);
}

pub async fn settled_periods_answer_as_before(ledger: &dyn Ledger) {
    fill(ledger).await;
    let month = month(T0);
    close(ledger, &month, false).await;
    change(ledger, "x").await;
    let before = only(ledger, "u1").await;
    // Nothing begins before its first instant; then all three do, once.
    let Range { from_us, to_us } = month.range;
    assert_eq!(ledger.settle_periods(from_us).await.unwrap(), 0);
    assert_eq!(ledger.settle_periods(from_us + 1).await.unwrap(), 3);
    assert_eq!(ledger.settle_periods(from_us + 1).await.unwrap(), 0);
    assert_eq!(only(ledger, "u1").await, before);

    // The rest of the month is open still: what comes now is added, and settled with the rest.
    change(ledger, "y").await;
    let gone = ledger.void(void("a", "v3", "late-x", "test", LATER)).await;
    gone.unwrap();
    assert_adjusted(ledger, "u1").await;
    let open = only(ledger, "u1").await;
    let kinds = open.adjustments.iter().map(|one| one.kind);
    assert_eq!(
        kinds
            .filter(|kind| *kind == AdjustmentKind::LateEvent)
            .count(),
        4
    );
    assert_eq!(ledger.settle_periods(to_us).await.unwrap(), 3);
    assert_eq!(only(ledger, "u1").await, open);
    assert_eq!(ledger.settle_periods(to_us + DAY_US).await.unwrap(), 0);
}

pub async fn periods_page_newest_first(ledger: &dyn Ledger) {
    let owner = tenant("a");
    let mut at = T0;
    let mut names = Vec::new();
    for n in 0..4 {
        put(ledger, event(&format!("e{n}"), "u"), at, T0).await;
        let month = month(at);
        assert_eq!(close(ledger, &month, false).await, (1, 0));
        at = month.range.to_us;
        names.insert(0, month.id);
    }
    let page = async |before: &str, limit| {
        let page = ledger.periods(&owner, "u", before, limit).await.unwrap();
        page.into_iter().map(|one| one.month.id).collect::<Vec<_>>()
    };
    assert_eq!(page("", 3).await, names[..3]);
    assert_eq!(page(&names[2], 3).await, names[3..]);
    let of = |at_us, by_us| ledger.closed_period(&owner, "u", at_us, by_us);
    assert_eq!(of(T0, CLOSED).await.unwrap().as_ref(), names.last());
    assert_eq!(of(T0, CLOSED - 1).await.unwrap(), None);
    assert_eq!(of(at, CLOSED).await.unwrap(), None);
}

pub async fn adjustments_are_bounded(ledger: &dyn Ledger) {
    put(ledger, event("e", "u"), T0, T0).await;
    close(ledger, &month(T0), false).await;
    for n in 0..60 {
        let late = (0..2).map(|m| event(&format!("late-{n}-{m}"), "u"));
        let late = late.map(|event| submission("a", event, 1, T0));
        record(ledger, late.collect()).await;
    }
    for before in [0, month(T0).range.to_us] {
        ledger.settle_periods(before).await.unwrap();
        let period = only(ledger, "u").await;
        assert_eq!(period.adjusted.totals.requests, 121);
        assert_eq!(period.adjustments.len(), 100);
        assert_eq!(period.adjustments[0].event_id, "late-0-0");
    }
}

/// Drops everything before a time.
async fn purge(ledger: &dyn Ledger, before_us: i64) {
    while !ledger.purge(before_us, false).await.unwrap().complete {}
}

pub async fn a_purge_leaves_closed_months_as_they_were(ledger: &dyn Ledger) {
    fill(ledger).await;
    let month = month(T0);
    close(ledger, &month, false).await;
    change(ledger, "x").await;
    let before = only(ledger, "u1").await;

    // The month there begins in the last hours of one of UTC, which go first.
    let utc = Zone::utc();
    let part = utc.next_month(month.range.from_us);
    purge(ledger, part).await;
    let first = ledger.oldest_kept(&tenant("a")).await.unwrap();
    assert!(first >= Some(part), "what began the month is gone");
    assert_eq!(only(ledger, "u1").await, before);

    // What comes late to the rest of it is added to what was kept.
    put(ledger, rich("late", "u1", "s-new", Some(true)), T0, LATER).await;
    put(ledger, event("unclosed", "u6"), T0, LATER).await;
    let gone = ledger.void(void("a", "v3", "e3", "test", LATER)).await;
    gone.unwrap();
    let now = only(ledger, "u1").await;
    assert_eq!(now.as_closed, before.as_closed);
    let (was, is) = (before.adjusted.totals, now.adjusted.totals);
    assert_eq!((was.requests, is.requests), (5, 5));
    assert_eq!(now.adjusted.facts.sessions, before.adjusted.facts.sessions);
    assert_eq!(now.adjustments.len(), before.adjustments.len() + 2);
    // A month of which something is gone is not closed any more, rather than closed wrong.
    assert_eq!(close(ledger, &month, false).await, (0, 3));

    purge(ledger, utc.next_month(month.range.to_us)).await;
    assert_eq!(only(ledger, "u1").await, now);
    assert_eq!(periods(ledger, "u6").await, []);
}
