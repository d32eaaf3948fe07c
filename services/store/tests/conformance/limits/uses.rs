//! Budgets of sessions, and what came of limits: hits and overshoots.

use tokenmeter_model::item::{Item, ToolInvocation};
use tokenmeter_model::limit::{Enforcement, Metric, OvershootCause, Scope, Window};
use tokenmeter_store::ledger::items::ItemSubmission;
use tokenmeter_store::ledger::limits::{Budget, HitQuery, LimitChange, LimitHit, Overshoot};
use tokenmeter_store::ledger::{Ledger, Range};

use super::{SECOND, change, named};
use crate::conformance::{T0, event, line, record, submission, tenant, void};

/// Reports a use of a tool by session "s".
async fn tool(ledger: &dyn Ledger, owner: &str, id: &str, tokens: i64, at_us: i64) {
    let item = Item::Tool(ToolInvocation {
        invocation_id: id.into(),
        tool: "search".into(),
        user_id: "u".into(),
        session_id: "s".into(),
        estimated_tokens: tokens,
        ..ToolInvocation::default()
    });
    let item = ItemSubmission {
        tenant: tenant(owner),
        fingerprint: item.fingerprint(),
        item,
        recorded_at_us: at_us,
    };
    ledger.record_items(vec![item].into()).await.unwrap();
}

pub async fn a_budget_counts_from_its_last_reset(ledger: &dyn Ledger) {
    let a = tenant("a");
    let none = ledger.budget(&a, "s").await.unwrap();
    assert_eq!(none, Default::default());
    let set = |max, enforced, percent| LimitChange::SetBudget {
        session_id: "s".into(),
        budget_max: max,
        enforced,
        summarize_below_percent: percent,
    };
    change(ledger, "a", "1", set(Some(500), None, Some(10))).await;
    change(ledger, "a", "2", set(None, Some(true), None)).await;
    let budget = Budget {
        budget_max: Some(500),
        enforced: Some(true),
        summarize_below_percent: Some(10),
        updated_us: T0,
        ..Budget::default()
    };
    let unused = ledger.budget(&a, "s").await.unwrap();
    assert_eq!((unused.budget, unused.prompt), (Some(budget.clone()), 0));

    // An event of two lines, one that is voided, one of another session and one of another tenant.
    let mut two = event("e1", "first");
    two.lines.push(line("haiku", 3, 4));
    let mut elsewhere = event("e3", "x");
    elsewhere.session_id = "t".into();
    let mut sent = vec![
        submission("a", two, 1, T0 + 2),
        submission("a", event("e2", "voided"), 1, T0 + 1),
        submission("a", elsewhere, 1, T0),
        submission("b", event("e1", "b"), 1, T0),
    ];
    let mut last = event("e4", "second");
    last.lines = vec![line("opus", 100, 1)];
    last.lines[0].counts.cache_read = 1_000;
    sent.push(submission("a", last, 1, T0 + 3));
    sent[4].recorded_at_us = T0 + 20;
    record(ledger, sent).await;
    ledger
        .void(void("a", "v", "e2", "", T0 + 10))
        .await
        .unwrap();
    tool(ledger, "a", "i1", 30, T0 + 30).await;
    tool(ledger, "a", "i2", 12, T0 + 25).await;
    let used = ledger.budget(&a, "s").await.unwrap();
    assert_eq!((used.prompt, used.completion, used.tools), (1_113, 10, 42));
    assert_eq!((&*used.user_id, &*used.model), ("first", "opus"));
    assert_eq!(used.updated_us, T0 + 30);
    assert_eq!(used.budget, Some(budget.clone()));

    // Setting back takes what was used as the base; what comes later counts.
    let reset = |restore_default| LimitChange::ResetBudget {
        session_id: "s".into(),
        restore_default,
    };
    let name = named("a", "reset", T0 + 40);
    ledger
        .change_limits(name.clone(), reset(false))
        .await
        .unwrap();
    record(ledger, vec![submission("a", event("e5", "u"), 1, T0 + 4)]).await;
    // Sent twice it is set back once.
    ledger.change_limits(name, reset(false)).await.unwrap();
    let after = ledger.budget(&a, "s").await.unwrap();
    let base = Budget {
        base_prompt: 1_113,
        base_completion: 10,
        base_tools: 42,
        updated_us: T0 + 40,
        ..budget
    };
    assert_eq!(after.budget, Some(base.clone()));
    assert_eq!(
        (after.prompt, after.completion, after.tools),
        (1_123, 15, 42)
    );
    assert_eq!(after.model, "claude");
    change(ledger, "a", "3", reset(true)).await;
    let restored = ledger.budget(&a, "s").await.unwrap().budget.unwrap();
    let expected = Budget {
        budget_max: None,
        base_prompt: 1_123,
        base_completion: 15,
        updated_us: T0,
        ..base
    };
    assert_eq!(restored, expected);
    // A session that has no budget of its own begins one.
    let fresh = LimitChange::ResetBudget {
        session_id: "t".into(),
        restore_default: false,
    };
    change(ledger, "a", "4", fresh).await;
    let fresh = ledger.budget(&a, "t").await.unwrap().budget.unwrap();
    assert_eq!((fresh.budget_max, fresh.base_prompt), (None, 10));
    let other = ledger.budget(&tenant("b"), "s").await.unwrap();
    assert_eq!((other.budget, other.prompt), (None, 10));
}

fn hit(user: &str, second: i64) -> LimitHit {
    LimitHit {
        second_us: T0 + second * SECOND,
        limit_name: "rpm".into(),
        scope: Scope::User,
        subject: user.into(),
        metric: Metric::Requests,
        window: Window::Minute,
        enforcement: Enforcement::Block,
        hard: true,
        profile_id: "free".into(),
        user_id: user.into(),
        session_id: "s".into(),
        model: "claude".into(),
        limit: 10,
        used: 9,
        held: 1,
        asked: 1,
        count: 1,
    }
}

pub async fn hits_of_a_second_add_up(ledger: &dyn Ledger) {
    let a = tenant("a");
    let later = LimitHit {
        count: 2,
        used: 10,
        model: "opus".into(),
        ..hit("ann", 0)
    };
    let team = LimitHit {
        scope: Scope::Team,
        ..hit("ann", 0)
    };
    let named = LimitHit {
        limit_name: "Ä \"x\"".into(),
        enforcement: Enforcement::Shadow,
        hard: false,
        ..hit("ann", 1)
    };
    let sent = [hit("ann", 0), later.clone(), team.clone(), hit("bob", 2)];
    ledger.add_hits(&a, &sent).await.unwrap();
    ledger.add_hits(&a, &[named.clone(), later]).await.unwrap();
    ledger.add_hits(&a, &[]).await.unwrap();
    ledger
        .add_hits(&tenant("b"), &[hit("ann", 0)])
        .await
        .unwrap();

    let list = async |query: HitQuery| {
        let hits = ledger.hits(&a, &query).await.unwrap();
        hits.into_iter().map(|(_, hit)| hit).collect::<Vec<_>>()
    };
    let first = LimitHit {
        count: 5,
        ..hit("ann", 0)
    };
    let all = HitQuery {
        limit: 100,
        ..HitQuery::default()
    };
    let every = list(all.clone()).await;
    assert_eq!(every[..2], [hit("bob", 2), named.clone()]);
    assert_eq!(every.len(), 4);
    assert!(every.contains(&first) && every.contains(&team), "{every:?}");

    // One after the other, each once.
    let mut paged = Vec::new();
    let mut query = HitQuery {
        limit: 1,
        ..HitQuery::default()
    };
    while let Some((number, hit)) = ledger.hits(&a, &query).await.unwrap().pop() {
        query.before = Some((hit.second_us, number));
        paged.push(hit);
    }
    assert_eq!(paged, every);

    let filtered = [
        (
            HitQuery {
                user_id: "bob".into(),
                ..all.clone()
            },
            vec![hit("bob", 2)],
        ),
        (
            HitQuery {
                scope: Some(Scope::Team),
                ..all.clone()
            },
            vec![team],
        ),
        (
            HitQuery {
                subject: "bob".into(),
                ..all.clone()
            },
            vec![hit("bob", 2)],
        ),
        (
            HitQuery {
                limit_name: named.limit_name.clone(),
                ..all.clone()
            },
            vec![named.clone()],
        ),
        (
            HitQuery {
                range: Some(Range {
                    from_us: T0 + SECOND,
                    to_us: T0 + 2 * SECOND,
                }),
                ..all
            },
            vec![named],
        ),
    ];
    for (query, expected) in filtered {
        assert_eq!(list(query.clone()).await, expected, "{query:?}");
    }
    // More than one statement takes.
    let many: Vec<_> = (10..2_510).map(|n| hit("many", n)).collect();
    ledger.add_hits(&a, &many).await.unwrap();
    let query = HitQuery {
        user_id: "many".into(),
        limit: 10_000,
        ..HitQuery::default()
    };
    assert_eq!(list(query).await.len(), many.len());
}

pub async fn overshoots_stand_as_first_told(ledger: &dyn Ledger) {
    let a = tenant("a");
    let overshoot = |event: &str, window, amount| Overshoot {
        event_id: event.into(),
        limit_name: "tokens".into(),
        scope: Scope::Session,
        subject: "s".into(),
        metric: Metric::TotalTokens,
        window,
        amount,
        cause: OvershootCause::AboveHold,
    };
    let of_day = overshoot("e1", Window::Day, 5);
    let of_month = overshoot("e1", Window::Month, 6);
    let mut other = overshoot("e2", Window::Day, 7);
    other.cause = OvershootCause::OverageAllowed;
    let sent = [other.clone(), of_month.clone(), of_day.clone()];
    ledger.add_overshoots(&a, &sent).await.unwrap();
    let again = [
        overshoot("e1", Window::Day, 99),
        overshoot("e3", Window::Day, 1),
    ];
    ledger.add_overshoots(&a, &again).await.unwrap();
    ledger
        .add_overshoots(&tenant("b"), &again[..1])
        .await
        .unwrap();
    let found = ledger.overshoots(&a, &["e2", "none", "e1"]).await.unwrap();
    assert_eq!(found, [of_day, of_month, other]);
    assert_eq!(ledger.overshoots(&a, &[]).await.unwrap(), []);
    let elsewhere = ledger.overshoots(&tenant("b"), &["e1"]).await.unwrap();
    assert_eq!(elsewhere, again[..1]);
}

pub async fn hits_and_overshoots_go_with_their_month(ledger: &dyn Ledger) {
    const DAYS_40: i64 = 40 * 86_400 * SECOND;
    let old = submission("a", event("old", "u"), 1, T0 - DAYS_40);
    let new = submission("a", event("new", "u"), 1, T0);
    let elsewhere = submission("b", event("old", "u"), 1, T0);
    record(ledger, vec![old, new, elsewhere]).await;
    let overshoot = |event: &str| Overshoot {
        event_id: event.into(),
        limit_name: "tokens".into(),
        scope: Scope::User,
        subject: "u".into(),
        metric: Metric::TotalTokens,
        window: Window::Month,
        amount: 1,
        cause: OvershootCause::WithoutHold,
    };
    for owner in ["a", "b"] {
        let owner = tenant(owner);
        let both = [overshoot("old"), overshoot("new")];
        ledger.add_overshoots(&owner, &both).await.unwrap();
        let hits = [hit("u", 0), hit("u", -40 * 86_400)];
        ledger.add_hits(&owner, &hits).await.unwrap();
    }
    let mut dropped = 0;
    loop {
        let step = ledger.purge(T0, false).await.unwrap();
        dropped += step.tenants.values().map(|one| one.other_rows).sum::<i64>();
        if step.complete {
            break;
        }
    }
    assert_eq!(dropped, 2, "a hit of each tenant");
    let all = HitQuery {
        limit: 9,
        ..HitQuery::default()
    };
    for owner in ["a", "b"] {
        let hits = ledger.hits(&tenant(owner), &all).await.unwrap();
        assert_eq!(hits.len(), 1);
        assert_eq!(hits[0].1, hit("u", 0));
    }
    let kept = async |owner| {
        let found = ledger.overshoots(&tenant(owner), &["old", "new"]).await;
        let ids = found.unwrap().into_iter().map(|one| one.event_id);
        ids.collect::<Vec<_>>()
    };
    assert_eq!(kept("a").await, ["new"]);
    // Where the event of that name is not of the month.
    assert_eq!(kept("b").await, ["new", "old"]);
}
