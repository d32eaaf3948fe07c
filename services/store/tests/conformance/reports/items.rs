//! Tools, messages, and the views for people with SQL.

use std::collections::{BTreeMap, BTreeSet};

use tokenmeter_model::item::{Item, ToolInvocation, ToolStatus};
use tokenmeter_model::totals::Totals;
use tokenmeter_model::zone::Zone;
use tokenmeter_store::ledger::items::ItemOutcome;
use tokenmeter_store::ledger::reports::{self, Page, SessionQuery, ToolQuery};
use tokenmeter_store::ledger::{Ledger, Range, Subject};

use super::super::items::record_items;
use super::super::{T0, tenant};
use super::{MINUTE_US, World, by_model, sum, within};

pub async fn tools_page_as_of_their_first_page(ledger: &dyn Ledger) {
    let mut world = World::new(ledger, 14).await;
    let early = Range {
        from_us: T0,
        to_us: T0 + 1_500 * MINUTE_US,
    };
    for (user, session, tool, range) in [
        ("", "", "", None),
        ("u1", "", "", None),
        ("", "s1", "", None),
        ("", "", "t2", None),
        ("", "", "", Some(early)),
    ] {
        let query = ToolQuery {
            user_id: user.into(),
            session_id: session.into(),
            tool: tool.into(),
            range,
        };
        let mut uses: BTreeMap<String, Vec<ToolInvocation>> = BTreeMap::new();
        for one in &world.tools {
            if (user.is_empty() || one.user_id == user)
                && (session.is_empty() || one.session_id == session)
                && (tool.is_empty() || one.tool == tool)
                && within(range, one.start_time_us.unwrap())
            {
                uses.entry(one.tool.clone()).or_default().push(one.clone());
            }
        }
        let mut expected: Vec<_> = uses.into_iter().collect();
        expected.sort_by_key(|(_, uses)| std::cmp::Reverse(uses.len()));
        assert!(!expected.is_empty());
        let mut as_of = None;
        let mut found = Vec::new();
        for skip in [0, 2, 4, 6] {
            let page = Page {
                as_of,
                skip,
                limit: 2,
            };
            let listed = ledger.tools(&tenant("a"), &query, page).await.unwrap();
            as_of = Some(listed.as_of);
            found.extend(listed.entries);
            world.go_on(4).await;
        }
        assert_eq!(found.len(), expected.len(), "{query:?}");
        for (found, (name, uses)) in found.iter().zip(&expected) {
            let ended = |status| {
                i64::try_from(uses.iter().filter(|one| one.status == status).count()).unwrap()
            };
            assert_eq!(&found.tool, name);
            assert_eq!(found.calls, i64::try_from(uses.len()).unwrap());
            assert_eq!(
                [found.succeeded, found.failed, found.cancelled],
                [
                    ToolStatus::Succeeded,
                    ToolStatus::Failed,
                    ToolStatus::Cancelled
                ]
                .map(ended)
            );
            assert_eq!(
                found.estimated_tokens,
                uses.iter().map(|one| one.estimated_tokens).sum::<i64>()
            );
            assert_eq!(
                Some(found.last_start_us),
                uses.iter().filter_map(|one| one.start_time_us).max()
            );
            let mut times: Vec<i64> = uses.iter().filter_map(|one| one.duration_ms).collect();
            times.sort_unstable();
            // Nearest rank: the smallest time that so many per cent do not pass.
            let rank = |percent: usize| {
                times
                    .get((times.len() * percent).div_ceil(100).saturating_sub(1))
                    .copied()
                    .unwrap_or_default()
            };
            let d = &found.duration;
            assert_eq!(d.measured, i64::try_from(times.len()).unwrap());
            assert_eq!(
                [d.p50_ms, d.p90_ms, d.p95_ms, d.p99_ms, d.max_ms],
                [50, 90, 95, 99, 100].map(rank)
            );
        }
    }
    let all = Page {
        limit: 10,
        ..Page::default()
    };
    let others = ledger
        .tools(&tenant("b"), &ToolQuery::default(), all)
        .await
        .unwrap();
    assert_eq!(others.entries, []);
}

pub async fn ends_move_no_tool_between_pages(ledger: &dyn Ledger) {
    let range = Some(Range {
        from_us: T0,
        to_us: T0 + MINUTE_US,
    });
    // t0 has four uses, t1 three, and so on; none of them says when it began.
    let uses = |end: Option<i64>| -> Vec<Item> {
        (0..4)
            .flat_map(|tool| (0..4 - tool).map(move |n| (tool, n)))
            .map(|(tool, n)| {
                Item::Tool(ToolInvocation {
                    invocation_id: format!("{tool}-{n}"),
                    tool: format!("t{tool}"),
                    user_id: "u".into(),
                    status: end.map_or(ToolStatus::Started, |_| ToolStatus::Succeeded),
                    start_time_us: end,
                    duration_ms: end.map(|_| 5),
                    ..ToolInvocation::default()
                })
            })
            .collect()
    };
    record_items(ledger, "a", uses(None), T0).await;
    let (mut as_of, mut found) = (None, Vec::new());
    for skip in 0..5 {
        let query = ToolQuery {
            range,
            ..ToolQuery::default()
        };
        let page = Page {
            as_of,
            skip,
            limit: 1,
        };
        let listed = ledger.tools(&tenant("a"), &query, page).await.unwrap();
        as_of = Some(listed.as_of);
        let shown = listed.entries.into_iter();
        found.extend(shown.map(|one| (one.tool, one.calls, one.succeeded, one.last_start_us)));
        if skip == 0 {
            // All but the use of t3 end, and say that they began outside of the range.
            let mut ends = uses(Some(T0 - 5 * MINUTE_US));
            ends.pop();
            for outcome in record_items(ledger, "a", ends, T0 + 9).await {
                let recorded_at_us = T0;
                assert_eq!(outcome, ItemOutcome::Recorded { recorded_at_us });
            }
        }
    }
    // Each tool once, in the first page's order; what ended meanwhile shows it.
    let entry = |tool: &str, calls, ended| (tool.to_owned(), calls, ended, T0);
    assert_eq!(
        found,
        [
            entry("t0", 4, 0),
            entry("t1", 3, 3),
            entry("t2", 2, 2),
            entry("t3", 1, 0)
        ]
    );
}

/// What the list of messages promises: numbered ones in sequence, each other one after the numbered
/// one with the highest number that is not later.
fn messages(world: &World<'_>, session: &str, user: &str) -> Vec<String> {
    let mine = |id: &str| user.is_empty() || user == id;
    let items = world
        .messages
        .iter()
        .filter(|one| one.session_id == session && mine(&one.user_id));
    let items = items.map(|one| (one.sequence, one.time_us.unwrap(), one.message_id.clone()));
    let events = world
        .kept
        .iter()
        .filter(|one| one.event.session_id == session && mine(&one.event.user_id));
    let events = events.filter_map(|one| {
        let facts = one.event.message.as_ref()?;
        Some((facts.sequence, one.time, one.event.event_id.clone()))
    });
    let all: Vec<_> = items.chain(events).collect();
    let mut keyed: Vec<_> = all
        .iter()
        .map(|(sequence, time, id)| {
            let before = all
                .iter()
                .filter(|other| other.1 <= *time)
                .filter_map(|other| other.0);
            let anchor = sequence.or_else(|| before.max()).unwrap_or(-1);
            (anchor, sequence.is_none(), *time, id.clone())
        })
        .collect();
    keyed.sort();
    keyed.into_iter().map(|(.., id)| id).collect()
}

pub async fn messages_stand_in_sequence(ledger: &dyn Ledger) {
    let mut world = World::new(ledger, 15).await;
    let id = |message: &reports::Message| match message {
        reports::Message::Item(item) => item.message_id.clone(),
        reports::Message::Event(event) => event.event.event_id.clone(),
    };
    let mut seen = 0;
    for n in 0..6 {
        let session = format!("s{n}");
        for user in ["", "u1"] {
            let expected = messages(&world, &session, user);
            let (mut as_of, mut found) = (None, Vec::new());
            while found.len() % 3 == 0 {
                let page = Page {
                    as_of,
                    skip: i64::try_from(found.len()).unwrap(),
                    limit: 3,
                };
                let listed = ledger
                    .messages(&tenant("a"), &session, user, page)
                    .await
                    .unwrap();
                as_of = Some(listed.as_of);
                if listed.entries.is_empty() {
                    break;
                }
                // Voided ones stay listed.
                let voided = |one: &reports::Message| matches!(one, reports::Message::Event(event) if event.voided.is_some());
                found.extend(
                    listed
                        .entries
                        .into_iter()
                        .map(|one| (voided(&one), id(&one), one)),
                );
                // Not later: what is voided meanwhile would be marked, and is in the reference.
                for _ in 0..2 {
                    world.record().await;
                    world.record_items().await;
                }
            }
            let standing: Vec<_> = found
                .iter()
                .filter(|one| !one.0)
                .map(|one| one.1.clone())
                .collect();
            // A voided message may anchor another, so that the order is compared without such.
            if found.iter().all(|one| !one.0) {
                assert_eq!(standing, expected, "{session} {user}");
                seen += found.len();
            } else {
                let sorted = |mut ids: Vec<String>| {
                    ids.sort();
                    ids
                };
                assert_eq!(sorted(standing), sorted(expected), "{session} {user}");
            }
            for (_, id, message) in &found {
                if let reports::Message::Event(event) = message
                    && let Some(kept) = world.kept.iter().find(|one| one.event.event_id == *id)
                {
                    assert_eq!((&event.event, &event.quotes), (&kept.event, &kept.quotes));
                }
            }
        }
    }
    assert!(seen > 20, "{seen} messages is too few to show anything");
}

/// What the suite of a backend with views holds them against.
pub async fn views_equal_the_answers(
    ledger: &dyn Ledger,
    select: impl AsyncFn(&'static str) -> Vec<Vec<String>>,
) {
    let world = World::new(ledger, 16).await;
    let owner = tenant("a");
    let text = |row: &[&dyn ToString]| row.iter().map(|one| one.to_string()).collect::<Vec<_>>();
    let figures = |t: &Totals| -> Vec<String> {
        [
            t.requests,
            t.prompt(),
            t.output,
            t.total(),
            t.cost_nano_usd,
            t.unpriced_lines,
        ]
        .map(|one| one.to_string())
        .to_vec()
    };
    let (mut users, mut sessions_, mut billing, mut summaries) = (vec![], vec![], vec![], vec![]);
    for n in 0..6 {
        let user = format!("u{n}");
        let totals = ledger
            .totals(&owner, Subject::User(&user), None)
            .await
            .unwrap();
        if totals.requests > 0 {
            users.push([vec![user.clone()], figures(&totals)].concat());
        }
        let mine: Vec<_> = world
            .kept
            .iter()
            .filter(|one| one.event.user_id == user)
            .cloned()
            .collect();
        let months: BTreeSet<_> = mine.iter().map(|one| Zone::utc().month(one.time)).collect();
        for month in months {
            for model in by_model(&mine, |one, _| Zone::utc().month(one.time) == month) {
                let key = vec![
                    user.clone(),
                    month.clone(),
                    model.provider.clone(),
                    model.model.clone(),
                ];
                billing.push([key, figures(&model.totals)].concat());
            }
        }
        let id = format!("s{n}");
        let totals = ledger
            .totals(&owner, Subject::Session(&id), None)
            .await
            .unwrap();
        sessions_.push([vec![id], figures(&totals)].concat());
    }
    let all = Page {
        limit: 100,
        ..Page::default()
    };
    let mut listed = ledger
        .sessions(&owner, &SessionQuery::default(), all)
        .await
        .unwrap()
        .entries;
    listed.sort_by(|a, b| a.session_id.cmp(&b.session_id));
    for one in listed {
        let tools: i64 = one.tools.iter().map(|(_, uses)| uses).sum();
        let duration = (one.last_us - one.first_us) / 1_000;
        let facts = text(&[
            &one.session_id,
            &one.user_id,
            &one.turns,
            &tools,
            &one.messages,
            &one.first_us,
            &one.last_us,
            &duration,
        ]);
        summaries.push([facts, figures(&sum(&one.models))].concat());
    }
    let mut tools: Vec<_> = ledger
        .tools(&owner, &ToolQuery::default(), all)
        .await
        .unwrap()
        .entries
        .iter()
        .map(|one| {
            let d = &one.duration;
            text(&[
                &one.tool,
                &one.calls,
                &one.succeeded,
                &one.failed,
                &one.cancelled,
                &d.measured,
                &d.max_ms,
                &one.estimated_tokens,
                &one.last_start_us,
            ])
        })
        .collect();
    tools.sort();
    for (sql, expected) in [
        (
            "SELECT user_id, requests, prompt_tokens, completion_tokens, total_tokens, cost_nano_usd, unpriced_lines \
          FROM user_token_totals WHERE tenant_id = 'a' ORDER BY 1",
            users,
        ),
        (
            "SELECT session_id, requests, prompt_tokens, completion_tokens, total_tokens, cost_nano_usd, unpriced_lines \
          FROM session_token_totals WHERE tenant_id = 'a' ORDER BY 1",
            sessions_,
        ),
        (
            "SELECT session_id, user_id, turns, tool_invocations, messages, first_event_time, last_event_time, duration_ms, \
          requests, prompt_tokens, completion_tokens, total_tokens, cost_nano_usd, unpriced_lines \
          FROM chat_sessions_summary WHERE tenant_id = 'a' ORDER BY 1",
            summaries,
        ),
        (
            "SELECT tool, calls, succeeded, failed, cancelled, measured, max_duration_ms, estimated_tokens, last_start_time \
          FROM tool_usage_summary WHERE tenant_id = 'a' ORDER BY 1",
            tools,
        ),
        (
            "SELECT user_id, month, provider, model, requests, prompt_tokens, completion_tokens, total_tokens, cost_nano_usd, unpriced_lines \
          FROM billing_summary WHERE tenant_id = 'a' ORDER BY 1, 2, 3, 4",
            billing,
        ),
    ] {
        assert!(expected.len() > 2, "{sql} shows nothing");
        assert_eq!(select(sql).await, expected, "{sql}");
    }
}
