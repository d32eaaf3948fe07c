//! The everyday questions on random usage, against a reference that adds up what it kept.

mod items;

#[allow(unused_imports)] // the planted faults run a part of the suite
pub use items::{
    ends_move_no_tool_between_pages, messages_stand_in_sequence, tools_page_as_of_their_first_page,
    views_equal_the_answers,
};

use std::collections::{BTreeMap, BTreeSet};

use tokenmeter_model::event::{Event, MessageFacts, Status};
use tokenmeter_model::item::{Item, Message, Role, ToolInvocation, ToolStatus};
use tokenmeter_model::price::Quote;
use tokenmeter_model::totals::Totals;
use tokenmeter_model::zone::Zone;
use tokenmeter_store::ledger::correction::{Adjustment, RepriceQuery, RepriceStep};
use tokenmeter_store::ledger::reports::{
    self, Listed, Page, Part, SessionOrder, SessionQuery, SessionSummary,
};
use tokenmeter_store::ledger::{Ledger, ModelTotals, Range};

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
            previous: None,
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
