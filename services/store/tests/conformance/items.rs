//! Tool invocations, messages and champion cases.

use tokenmeter_model::item::{ChampionCases, Item, Message, Role, ToolInvocation, ToolStatus};
use tokenmeter_store::ledger::Ledger;
use tokenmeter_store::ledger::items::{ItemOutcome, ItemSubmission};

use super::{T0, tenant};

pub fn tool(id: &str, status: ToolStatus) -> ToolInvocation {
    ToolInvocation {
        invocation_id: id.into(),
        tool: "search".into(),
        tool_use_id: "toolu_1".into(),
        user_id: "u".into(),
        session_id: "s".into(),
        turn: Some(2),
        status,
        labels: vec![("feature".into(), "chat".into())],
        ..ToolInvocation::default()
    }
}

pub fn message(id: &str, tokens: i64) -> Item {
    Item::Message(Message {
        message_id: id.into(),
        user_id: "u".into(),
        session_id: "s".into(),
        role: Some(Role::User),
        tokens: Some(tokens),
        ..Message::default()
    })
}

pub fn champion(id: &str, cases: i64) -> Item {
    Item::Champion(ChampionCases {
        report_id: id.into(),
        user_id: "u".into(),
        cases,
        ..ChampionCases::default()
    })
}

pub async fn record_items(
    ledger: &dyn Ledger,
    owner: &str,
    items: Vec<Item>,
    now_us: i64,
) -> Vec<ItemOutcome> {
    let submissions: Vec<_> = items
        .into_iter()
        .map(|item| ItemSubmission {
            tenant: tenant(owner),
            fingerprint: item.fingerprint(),
            item,
            recorded_at_us: now_us,
        })
        .collect();
    ledger.record_items(submissions.into()).await.unwrap()
}

const fn recorded(recorded_at_us: i64) -> ItemOutcome {
    ItemOutcome::Recorded { recorded_at_us }
}

const fn duplicate(recorded_at_us: i64) -> ItemOutcome {
    ItemOutcome::Duplicate { recorded_at_us }
}

pub async fn items_stand_once(ledger: &dyn Ledger) {
    let position = ledger.last_position().await.unwrap();
    let done = |id: &str| Item::Tool(tool(id, ToolStatus::Succeeded));
    // Ids of different kinds do not meet; the same id twice in one request is one item.
    let all = vec![done("x"), message("x", 1), champion("x", 1), done("x")];
    let outcomes = record_items(ledger, "a", all.clone(), T0).await;
    let expected = [recorded(T0), recorded(T0), recorded(T0), duplicate(T0)];
    assert_eq!(outcomes, expected);
    let outcomes = record_items(ledger, "a", all, T0 + 1).await;
    assert_eq!(outcomes, [duplicate(T0); 4]);
    let failed = Item::Tool(tool("x", ToolStatus::Failed));
    let others = vec![failed, message("x", 2), champion("x", 2), message("y", 2)];
    let outcomes = record_items(ledger, "a", others, T0 + 2).await;
    let conflict = ItemOutcome::Conflict;
    assert_eq!(outcomes, [conflict, conflict, conflict, recorded(T0 + 2)]);
    // Another tenant's ids are its own.
    let outcomes = record_items(ledger, "b", vec![message("x", 2)], T0 + 3).await;
    assert_eq!(outcomes, [recorded(T0 + 3)]);
    for owner in ["a", "b"] {
        let log = ledger.log(&tenant(owner), position, 1_000).await.unwrap();
        assert!(log.entries.is_empty(), "items are not in the log of usage");
    }
}

pub async fn a_tool_ends_once(ledger: &dyn Ledger) {
    let send = async |item: ToolInvocation, now: i64| {
        record_items(ledger, "a", vec![Item::Tool(item)], now).await[0]
    };
    let start = tool("t", ToolStatus::Started);
    let end = ToolInvocation {
        status: ToolStatus::Failed,
        duration_ms: Some(1_200),
        error_type: "timeout".into(),
        estimated_tokens: 70,
        labels: Vec::new(),
        ..start.clone()
    };
    assert_eq!(send(start.clone(), T0).await, recorded(T0));
    let other_start = ToolInvocation {
        estimated_tokens: 1,
        ..start.clone()
    };
    assert_eq!(send(other_start, T0).await, ItemOutcome::Conflict);
    let other_tool = ToolInvocation {
        tool: "other".into(),
        ..end.clone()
    };
    assert_eq!(send(other_tool, T0).await, ItemOutcome::Conflict);
    let other_labels = ToolInvocation {
        labels: vec![("feature".into(), "other".into())],
        ..end.clone()
    };
    assert_eq!(send(other_labels, T0).await, ItemOutcome::Conflict);
    // The end joins the start; both of them again are retries; a second end is a conflict.
    assert_eq!(send(end.clone(), T0 + 9).await, recorded(T0));
    assert_eq!(send(end.clone(), T0 + 10).await, duplicate(T0));
    assert_eq!(send(start.clone(), T0 + 11).await, duplicate(T0));
    let second = ToolInvocation {
        duration_ms: Some(1_300),
        ..end.clone()
    };
    assert_eq!(send(second, T0 + 12).await, ItemOutcome::Conflict);
    // Start and end in one request; an end may say when it began where the start did not.
    let timed = |id: &str, start_time_us| ToolInvocation {
        invocation_id: id.into(),
        start_time_us,
        ..end.clone()
    };
    let both = vec![
        Item::Tool(tool("v", ToolStatus::Started)),
        Item::Tool(timed("v", Some(T0 - 5))),
        Item::Tool(timed("v", Some(T0 - 5))),
    ];
    let outcomes = record_items(ledger, "a", both, T0).await;
    assert_eq!(outcomes, [recorded(T0), recorded(T0), duplicate(T0)]);
    // What the start said about its time, the end cannot change.
    let began = ToolInvocation {
        start_time_us: Some(T0 - 7),
        ..tool("w", ToolStatus::Started)
    };
    assert_eq!(send(began, T0).await, recorded(T0));
    assert_eq!(
        send(timed("w", Some(T0 - 6)), T0).await,
        ItemOutcome::Conflict
    );
    assert_eq!(send(timed("w", None), T0).await, recorded(T0));
}
