//! The everyday questions on random usage, against a reference that adds up what it kept.

use std::collections::{BTreeMap, BTreeSet};

use tokenmeter_model::event::{Event, MessageFacts, Status};
use tokenmeter_model::item::{Item, Message, Role, ToolInvocation, ToolStatus};
use tokenmeter_model::price::Quote;
use tokenmeter_model::totals::Totals;
use tokenmeter_model::zone::Zone;
use tokenmeter_store::ledger::correction::{Adjustment, RepriceQuery, RepriceStep};
use tokenmeter_store::ledger::reports::{
    self, Listed, Page, Part, SessionOrder, SessionQuery, SessionSummary, ToolQuery,
};
use tokenmeter_store::ledger::{Ledger, ModelTotals, Range, Subject};

use super::items::record_items;
use super::{T0, line, quote, record, request, submission, tenant, void};

const MINUTE_US: i64 = 60_000_000;

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: i64) -> i64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        i64::try_from(self.0 % u64::try_from(sides).unwrap()).unwrap()
    }
}

/// An event as the reference keeps it.
#[derive(Clone)]
struct Kept {
    event: Event,
    time: i64,
    quotes: Vec<Option<Quote>>,
}

/// The ledger under test, and everything in it that is not voided, in order of position.
struct World<'a> {
    ledger: &'a dyn Ledger,
    dice: Dice,
    kept: Vec<Kept>,
    tools: Vec<ToolInvocation>,
    messages: Vec<Message>,
    ids: i64,
}

impl<'a> World<'a> {
    async fn new(ledger: &'a dyn Ledger, seed: u64) -> Self {
        let mut world = Self {
            ledger,
            dice: Dice(seed),
            kept: Vec::new(),
            tools: Vec::new(),
            messages: Vec::new(),
            ids: 0,
        };
        world.go_on(60).await;
        world.reprice().await;
        world.go_on(40).await;
        // Another tenant's, which nothing may show.
        let foreign = Event {
            turn: Some(99),
            ..super::event("foreign", "u0")
        };
        record(ledger, vec![submission("b", foreign, 1_000, T0)]).await;
        world
    }

    /// Records events, and now and then voids one.
    async fn go_on(&mut self, steps: i64) {
        for _ in 0..steps {
            self.record().await;
            if self.dice.throw(6) == 0 && self.kept.len() > 3 {
                let which = self.dice.throw(i64::try_from(self.kept.len()).unwrap());
                let gone = self.kept.remove(usize::try_from(which).unwrap());
                let id = &gone.event.event_id;
                let void = void("a", &format!("void-{id}"), id, "test", T0);
                self.ledger.void(void).await.unwrap();
            }
            if self.dice.throw(2) == 0 {
                self.record_items().await;
            }
        }
    }

    fn id(&mut self) -> String {
        self.ids += 1;
        format!("id{}", self.ids)
    }

    /// A user, and a session in three of four cases; most sessions have one user.
    fn place(&mut self) -> (String, String) {
        let session = self.dice.throw(8);
        let user = match self.dice.throw(5) {
            0 => self.dice.throw(4),
            _ => session % 4,
        };
        let session = match session {
            6.. => String::new(),
            n => format!("s{n}"),
        };
        (format!("u{user}"), session)
    }

    async fn record(&mut self) {
        let (user_id, session_id) = self.place();
        let dice = &mut self.dice;
        let lines = (0..=dice.throw(3)).map(|_| {
            let mut line = line(
                &format!("m{}", dice.throw(3)),
                dice.throw(99),
                dice.throw(9),
            );
            line.counts.cache_read = dice.throw(50);
            line.counts.cache_write.ttl_1h = dice.throw(20);
            line
        });
        let lines: Vec<_> = lines.collect();
        let message = (dice.throw(2) == 0).then(|| MessageFacts {
            sequence: Some(dice.throw(12)).filter(|number| *number < 9),
            ..MessageFacts::default()
        });
        let event = Event {
            turn: Some(dice.throw(4)).filter(|turn| *turn > 0),
            status: [Status::Succeeded, Status::Failed][usize::from(dice.throw(4) == 0)],
            provider: format!("p{}", dice.throw(2)),
            message,
            lines,
            user_id,
            session_id,
            ..Event::default()
        };
        // Minutes of seventy days, so that the clocks of New York are moved in them.
        let time = T0 + dice.throw(70 * 24 * 60) * MINUTE_US;
        let cost = dice.throw(500);
        let unpriced = dice.throw(5) == 0;
        let event_id = self.id();
        let mut sent = submission("a", Event { event_id, ..event }, cost, time);
        if unpriced {
            sent.quotes[0] = None;
        }
        let (event, quotes) = (sent.event.clone(), sent.quotes.clone());
        record(self.ledger, vec![sent]).await;
        self.kept.push(Kept {
            event,
            time,
            quotes,
        });
    }

    async fn record_items(&mut self) {
        let (user_id, session_id) = self.place();
        let invocation_id = self.id();
        let message_id = self.id();
        let dice = &mut self.dice;
        let statuses = [
            ToolStatus::Succeeded,
            ToolStatus::Failed,
            ToolStatus::Cancelled,
            ToolStatus::Started,
        ];
        let status = statuses[usize::try_from(dice.throw(4)).unwrap()];
        let ended = status != ToolStatus::Started;
        let time_us = Some(T0 + dice.throw(3_000) * MINUTE_US);
        let tool = ToolInvocation {
            invocation_id,
            tool: format!("t{}", dice.throw(5)),
            user_id: user_id.clone(),
            session_id: session_id.clone(),
            status,
            start_time_us: time_us,
            duration_ms: Some(dice.throw(1_000)).filter(|_| ended),
            estimated_tokens: dice.throw(100),
            ..ToolInvocation::default()
        };
        let mut items = vec![Item::Tool(tool.clone())];
        self.tools.push(tool);
        if !session_id.is_empty() {
            let message = Message {
                message_id,
                user_id,
                session_id,
                role: Some(Role::User),
                sequence: Some(dice.throw(12)).filter(|number| *number < 6),
                tokens: Some(dice.throw(30)),
                time_us,
                ..Message::default()
            };
            items.push(Item::Message(message.clone()));
            self.messages.push(message);
        }
        record_items(self.ledger, "a", items, T0).await;
    }

    /// Sets a price for every line without one.
    async fn reprice(&mut self) {
        let query = RepriceQuery::default();
        let lines = self
            .ledger
            .reprice_candidates(&tenant("a"), &query, 0, i64::MAX)
            .await
            .unwrap();
        let step = RepriceStep {
            request: request("a", "run", "RepriceUsage", T0),
            reprice_id: "run".into(),
            adjustments: lines
                .iter()
                .map(|line| Adjustment {
                    position: line.position,
                    from: None,
                    to: quote(70).unwrap(),
                })
                .collect(),
            progress: String::new(),
        };
        assert!(!lines.is_empty() && self.ledger.reprice(step).await.unwrap());
        for quote_of in self.kept.iter_mut().flat_map(|one| &mut one.quotes) {
            quote_of.get_or_insert(quote(70).unwrap());
        }
    }
}

/// The sums by provider and model over what passes the filter.
fn by_model(kept: &[Kept], keep: impl Fn(&Kept, &str) -> bool) -> Vec<ModelTotals> {
    let mut sums: BTreeMap<(String, String), Totals> = BTreeMap::new();
    for one in kept {
        for (n, line) in one.event.lines.iter().enumerate() {
            if keep(one, &line.model) {
                let adds = Totals::of_line(&one.event, line, one.quotes[n].as_ref(), n == 0, 0);
                let key = (one.event.provider.clone(), line.model.clone());
                let sum = sums.entry(key).or_default();
                *sum = sum.checked_add(&adds).unwrap();
            }
        }
    }
    sums.into_iter()
        .map(|((provider, model), totals)| ModelTotals {
            provider,
            model,
            totals,
        })
        .collect()
}

fn sum(models: &[ModelTotals]) -> Totals {
    models.iter().fold(Totals::default(), |sum, one| {
        sum.checked_add(&one.totals).unwrap()
    })
}

/// Without the time of the last change, which voids and reprices move on.
fn timeless(mut models: Vec<ModelTotals>) -> Vec<ModelTotals> {
    for one in &mut models {
        one.totals.updated_at_us = 0;
    }
    models.sort_by(|a, b| (&a.provider, &a.model).cmp(&(&b.provider, &b.model)));
    models
}

fn within(range: Option<Range>, time: i64) -> bool {
    range.is_none_or(|range| range.from_us <= time && time < range.to_us)
}

const MIDDLE: Range = Range {
    from_us: T0 + 7 * 24 * 60 * MINUTE_US + 1,
    to_us: T0 + 40 * 24 * 60 * MINUTE_US + 7,
};

pub async fn usage_by_model_is_the_sum_of_its_lines(ledger: &dyn Ledger) {
    let world = World::new(ledger, 11).await;
    for (user, session, model, range) in [
        ("", "", "", None),
        ("", "", "m1", None),
        ("", "", "", Some(MIDDLE)),
        ("", "", "m2", Some(MIDDLE)),
        ("u1", "", "", None),
        ("u1", "", "m0", Some(MIDDLE)),
        ("", "s2", "", None),
        ("", "s2", "m1", Some(MIDDLE)),
        ("u2", "s2", "", None),
        ("nobody", "", "", None),
    ] {
        let part = Part {
            user_id: user.into(),
            session_id: session.into(),
            model: model.into(),
            range,
        };
        let expected = by_model(&world.kept, |one, m| {
            (user.is_empty() || one.event.user_id == user)
                && (session.is_empty() || one.event.session_id == session)
                && (model.is_empty() || m == model)
                && within(range, one.time)
        });
        let models = ledger.by_model(&tenant("a"), &part).await.unwrap();
        assert_eq!(timeless(models), expected, "{part:?}");
        assert_eq!(
            expected.is_empty(),
            user == "nobody",
            "{part:?} shows nothing"
        );
        let of_another = ledger.by_model(&tenant("c"), &part).await.unwrap();
        assert_eq!(of_another, [], "{part:?}");
    }
}

pub async fn days_and_months_are_those_of_the_zone(ledger: &dyn Ledger) {
    let world = World::new(ledger, 12).await;
    let owner = tenant("a");
    for zone in ["UTC", "America/New_York", "Asia/Kolkata", "Asia/Kathmandu"] {
        let zone = Zone::named(zone).unwrap();
        for user in ["u0", "u1", "u2", "u3"] {
            let mine: Vec<Kept> = world
                .kept
                .iter()
                .filter(|one| one.event.user_id == user)
                .cloned()
                .collect();
            let (first, last) = ledger.user_reach(&owner, user).await.unwrap().unwrap();
            assert!(mine.iter().all(|one| first <= one.time && one.time <= last));
            for (start, next) in [
                (
                    Zone::start_of_day as fn(&Zone, i64) -> i64,
                    Zone::next_day as fn(&Zone, i64) -> i64,
                ),
                (Zone::start_of_month, Zone::next_month),
            ] {
                // Every period between the first and the last use, newest first.
                let mut spans = Vec::new();
                let mut from_us = start(&zone, first);
                while from_us <= last {
                    let to_us = next(&zone, from_us);
                    spans.insert(0, Range { from_us, to_us });
                    from_us = to_us;
                }
                let begun: BTreeSet<i64> = mine.iter().map(|one| start(&zone, one.time)).collect();
                let expected: Vec<_> = begun
                    .iter()
                    .rev()
                    .map(|begin| by_model(&mine, |one, _| start(&zone, one.time) == *begin))
                    .collect();
                let found = ledger
                    .user_spans_by_model(&owner, user, &spans)
                    .await
                    .unwrap();
                let starts = found.iter().rev().map(|(range, _)| range.from_us);
                assert!(starts.eq(begun.iter().copied()), "{user}");
                let found: Vec<_> = found.into_iter().map(|(_, one)| timeless(one)).collect();
                assert_eq!(found, expected, "{user}");
                let sums = ledger
                    .user_spans(&owner, user, &spans, 1_000)
                    .await
                    .unwrap();
                let sums: Vec<_> = sums
                    .into_iter()
                    .map(|(_, one)| Totals {
                        updated_at_us: 0,
                        ..one
                    })
                    .collect();
                let expected: Vec<_> = expected.iter().map(|one| sum(one)).collect();
                assert_eq!(sums, expected, "{user}");
                let two = ledger.user_spans(&owner, user, &spans, 2).await.unwrap();
                assert!(two.len() == sums.len().min(2) && two[0].1.total() == sums[0].total());
                let some = ledger.user_spans(&owner, user, &spans, 1).await.unwrap();
                assert_eq!(some.len(), 1);
            }
        }
    }
    assert_eq!(ledger.user_reach(&owner, "nobody").await.unwrap(), None);
}

/// What the reference has of a session; tools by most uses.
fn session(
    world: &[Kept],
    tools: &[ToolInvocation],
    messages: &[Message],
    query: &SessionQuery,
    id: &str,
) -> Option<SessionSummary> {
    let mine = |user: &str| query.user_id.is_empty() || query.user_id == user;
    let mut events: Vec<Kept> = world
        .iter()
        .filter(|one| {
            one.event.session_id == id && mine(&one.event.user_id) && within(query.range, one.time)
        })
        .cloned()
        .collect();
    events.sort_by_key(|one| one.time);
    let (first, last) = (events.first()?, events.last()?);
    let mut used: BTreeMap<String, i64> = BTreeMap::new();
    for tool in tools
        .iter()
        .filter(|one| one.session_id == id && mine(&one.user_id))
    {
        if within(query.range, tool.start_time_us.unwrap()) {
            *used.entry(tool.tool.clone()).or_default() += 1;
        }
    }
    let mut used: Vec<_> = used.into_iter().collect();
    used.sort_by_key(|(_, uses)| -uses);
    let items = messages.iter().filter(|one| {
        one.session_id == id && mine(&one.user_id) && within(query.range, one.time_us.unwrap())
    });
    let of_events = events.iter().filter(|one| one.event.message.is_some());
    let turns: BTreeSet<_> = events.iter().filter_map(|one| one.event.turn).collect();
    Some(SessionSummary {
        session_id: id.to_owned(),
        user_id: first.event.user_id.clone(),
        models: by_model(&events, |_, _| true),
        turns: i64::try_from(turns.len()).unwrap(),
        tools: used,
        messages: i64::try_from(items.count() + of_events.count()).unwrap(),
        first_us: first.time,
        last_us: last.time,
    })
}

fn sessions(world: &World<'_>, query: &SessionQuery) -> Vec<SessionSummary> {
    let mut all: Vec<_> = (0..6)
        .filter_map(|n| {
            session(
                &world.kept,
                &world.tools,
                &world.messages,
                query,
                &format!("s{n}"),
            )
        })
        .filter(|one| within(query.last_event, one.last_us))
        .collect();
    // Stable: ties stay by session id.
    all.sort_by_key(|one| match query.order {
        SessionOrder::Tokens => -sum(&one.models).total(),
        SessionOrder::Cost => -sum(&one.models).cost_nano_usd,
        SessionOrder::LastEvent => -one.last_us,
    });
    all
}

pub async fn sessions_page_as_of_their_first_page(ledger: &dyn Ledger) {
    let mut world = World::new(ledger, 13).await;
    let mut listed = 0;
    for order in [
        SessionOrder::Tokens,
        SessionOrder::Cost,
        SessionOrder::LastEvent,
    ] {
        for user in ["", "u1", "u2"] {
            for range in [None, Some(MIDDLE)] {
                let mut query = SessionQuery {
                    user_id: user.into(),
                    order,
                    ..SessionQuery::default()
                };
                match order {
                    SessionOrder::LastEvent => query.last_event = range,
                    _ => query.range = range,
                }
                let expected = sessions(&world, &query);
                let figures = |one: &SessionSummary| SessionSummary {
                    models: timeless(one.models.clone()),
                    // Beside usage, a session is shown as it is.
                    tools: Vec::new(),
                    messages: 0,
                    ..one.clone()
                };
                let first = page(&world, &query, None, 0, 2).await;
                // Nothing came between: all figures are those of now.
                let now: Vec<_> = first
                    .entries
                    .iter()
                    .map(|one| SessionSummary {
                        models: timeless(one.models.clone()),
                        ..one.clone()
                    })
                    .collect();
                assert_eq!(now, expected[..now.len()], "{query:?}");
                let mut found = now;
                for skip in [2, 4, 6] {
                    world.go_on(3).await;
                    found.extend(
                        page(&world, &query, Some(first.as_of), skip, 2)
                            .await
                            .entries,
                    );
                }
                let found: Vec<_> = found.iter().map(figures).collect();
                let expected: Vec<_> = expected.iter().map(figures).collect();
                assert_eq!(found, expected, "{query:?}");
                listed += found.len();
            }
        }
    }
    assert!(listed > 40, "{listed} sessions is too few to show anything");
    // A session whose events are all voided is none.
    let lone = Event {
        session_id: "s0-lone".into(),
        ..super::event("lone", "u9")
    };
    record(ledger, vec![submission("a", lone, 1, T0)]).await;
    let query = SessionQuery {
        user_id: "u9".into(),
        ..SessionQuery::default()
    };
    assert_eq!(page(&world, &query, None, 0, 2).await.entries.len(), 1);
    ledger
        .void(void("a", "lone", "lone", "test", T0))
        .await
        .unwrap();
    for order in [
        SessionOrder::Tokens,
        SessionOrder::Cost,
        SessionOrder::LastEvent,
    ] {
        for user_id in ["", "u9"] {
            let query = SessionQuery {
                user_id: user_id.into(),
                order,
                ..SessionQuery::default()
            };
            let found = page(&world, &query, None, 0, 100).await.entries;
            assert!(
                found.iter().all(|one| one.session_id != "s0-lone"),
                "{query:?}"
            );
        }
    }
}

async fn page(
    world: &World<'_>,
    query: &SessionQuery,
    as_of: Option<reports::Moment>,
    skip: i64,
    limit: i64,
) -> Listed<SessionSummary> {
    let page = Page { as_of, skip, limit };
    world
        .ledger
        .sessions(&tenant("a"), query, page)
        .await
        .unwrap()
}

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
