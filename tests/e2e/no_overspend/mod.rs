//! no_overspend: many clients race for limits of every scope at once, and what was admitted never passes
//! one of them, judged from the clients' own log.

mod log;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokenmeter_api::v1;
use tokenmeter_tests::{Chance, Server, Start, planted, rounds};
use tonic::Code;

use crate::support::{Clients, line, lines};
use log::{Asked, Log};

/// Clients that race.
const TASKS: u64 = 64;
/// Calls of each, a round.
const CALLS: u32 = 40;
const USERS: u64 = 6;
const TEAMS: u64 = 2;
const KEYS: u64 = 3;
const SESSIONS: u64 = 8;
/// How long a hold that is forgotten lives.
const SHORT_HOLD: i64 = 1;

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counts {
    Requests,
    Input,
    Output,
    Total,
}

impl Counts {
    fn of(self, input: i64, output: i64) -> i64 {
        match self {
            Self::Requests => 1,
            Self::Input => input,
            Self::Output => output,
            Self::Total => input + output,
        }
    }

    fn metric(self) -> v1::LimitMetric {
        match self {
            Self::Requests => v1::LimitMetric::Requests,
            Self::Input => v1::LimitMetric::InputTokens,
            Self::Output => v1::LimitMetric::OutputTokens,
            Self::Total => v1::LimitMetric::TotalTokens,
        }
    }
}

/// A limit of one subject.
struct Rule {
    scope: v1::LimitScope,
    subject: String,
    window: v1::LimitWindow,
    counts: Counts,
    amount: i64,
}

/// Limits of every scope, tight enough that each refuses some.
fn rules() -> Vec<Rule> {
    use v1::{LimitScope as S, LimitWindow as W};
    let mut rules = Vec::new();
    let mut add = |scope, subject: String, window, counts, amount| {
        rules.push(Rule {
            scope,
            subject,
            window,
            counts,
            amount,
        });
    };
    add(S::Tenant, String::new(), W::Month, Counts::Total, 900_000);
    for n in 0..TEAMS {
        add(
            S::Team,
            format!("team-{n}"),
            W::Month,
            Counts::Input,
            260_000,
        );
    }
    for n in 0..USERS {
        add(S::User, format!("user-{n}"), W::Hour, Counts::Requests, 120);
        add(
            S::User,
            format!("user-{n}"),
            W::Month,
            Counts::Output,
            130_000,
        );
    }
    for n in 0..SESSIONS {
        add(
            S::Session,
            format!("session-{n}"),
            W::Session,
            Counts::Total,
            110_000,
        );
    }
    for n in 0..KEYS {
        add(
            S::ApiKey,
            format!("key-{n}"),
            W::Month,
            Counts::Total,
            280_000,
        );
    }
    rules
}

/// One client at work.
struct Client {
    number: u64,
    chance: Chance,
    clients: Clients,
    log: Arc<Log>,
    rules: Arc<Vec<Rule>>,
    made: u64,
}

/// Whose call it is.
struct Call {
    user: String,
    team: String,
    session: String,
    key: String,
    input: i64,
    output: i64,
}

impl Client {
    async fn run(mut self) {
        for _ in 0..CALLS {
            let call = self.call();
            self.one(&call).await;
        }
    }

    fn call(&mut self) -> Call {
        let user = self.chance.below(USERS);
        Call {
            user: format!("user-{user}"),
            team: format!("team-{}", user % TEAMS),
            session: format!("session-{}", self.chance.below(SESSIONS)),
            key: format!("key-{}", self.chance.below(KEYS)),
            input: i64::try_from(self.chance.below(2_000)).unwrap(),
            output: 1 + i64::try_from(self.chance.below(2_000)).unwrap(),
        }
    }

    /// What a call with so many tokens counts in each limit.
    fn asked(&self, call: &Call, input: i64, output: i64) -> Asked {
        let of = |(number, rule): (usize, &Rule)| {
            let subject = match rule.scope {
                v1::LimitScope::Tenant => "",
                v1::LimitScope::Team => &call.team,
                v1::LimitScope::User => &call.user,
                v1::LimitScope::Session => &call.session,
                _ => &call.key,
            };
            (rule.subject == subject).then(|| (number, rule.counts.of(input, output)))
        };
        self.rules.iter().enumerate().filter_map(of).collect()
    }

    fn name(&mut self, what: &str) -> String {
        self.made += 1;
        format!("{what}-{}-{}", self.number, self.made)
    }

    /// Asks, and ends the hold in one of the ways in which holds end.
    async fn one(&mut self, call: &Call) {
        let request_id = self.name("ask");
        let sent = self.log.send();
        let ask = v1::AuthorizeRequest {
            request_id,
            call: Some(v1::CallInfo {
                user_id: call.user.clone(),
                team_id: call.team.clone(),
                session_id: call.session.clone(),
                provider: "anthropic".into(),
                model: "claude-sonnet-4-5".into(),
                ..Default::default()
            }),
            estimate: Some(v1::Estimate {
                input_tokens: call.input,
                max_output_tokens: Some(call.output),
                ..Default::default()
            }),
            hold_duration: Some(prost_types::Duration {
                seconds: 60,
                nanos: 0,
            }),
            dry_run: false,
        };
        let forgets = self.chance.below(10) == 0;
        let ask = match forgets {
            false => ask,
            true => v1::AuthorizeRequest {
                hold_duration: Some(prost_types::Duration {
                    seconds: SHORT_HOLD,
                    nanos: 0,
                }),
                ..ask
            },
        };
        let answer = self.authorize(&call.key, ask.clone()).await;
        let Some(hold) = answer.hold else {
            assert_eq!(answer.decision(), v1::Decision::Denied);
            assert!(answer.refusal.is_some());
            self.log.refused();
            return;
        };
        let id = hold.reservation_id;
        self.log
            .admitted(&id, sent, self.asked(call, call.input, call.output));
        if self.chance.below(6) == 0 {
            // A retry that comes late: the same answer, and nothing more is held.
            let again = self.authorize(&call.key, ask).await;
            assert!(again.replayed, "{again:?}");
            assert_eq!(again.hold.unwrap().reservation_id, id);
        }
        let part = self.chance_percent();
        match self.chance.below(10) {
            _ if forgets => self.log.ending(&id, Vec::new()),
            0..=1 => self.release(&id).await,
            2..=3 => self.settle(call, &id, 100 + part).await,
            _ => self.settle(call, &id, 100 - part).await,
        }
    }

    fn or_nothing(&mut self, id: &str) -> String {
        match self.chance.below(3) {
            0 => String::new(),
            _ => id.to_owned(),
        }
    }

    fn chance_percent(&mut self) -> i64 {
        i64::try_from(self.chance.below(80)).unwrap()
    }

    async fn authorize(&mut self, key: &str, ask: v1::AuthorizeRequest) -> v1::AuthorizeResponse {
        let mut request = tonic::Request::new(ask);
        let metadata = request.metadata_mut();
        metadata.insert("tokenmeter-api-key-id", key.parse().unwrap());
        self.clients
            .metering
            .authorize(request)
            .await
            .unwrap()
            .into_inner()
    }

    async fn release(&mut self, id: &str) {
        self.log.ending(id, Vec::new());
        let release = v1::ReleaseReservationRequest {
            request_id: self.name("release"),
            reservation_id: id.to_owned(),
        };
        self.clients
            .metering
            .release_reservation(release)
            .await
            .unwrap();
    }

    /// Records so many per cent of what was asked, and now and then voids it again.
    async fn settle(&mut self, call: &Call, id: &str, percent: i64) {
        let (input, output) = (call.input * percent / 100, call.output * percent / 100);
        let event_id = self.name("event");
        let event = v1::UsageEvent {
            event_id: event_id.clone(),
            user_id: call.user.clone(),
            // What is left out is as it was asked for.
            team_id: self.or_nothing(&call.team),
            session_id: self.or_nothing(&call.session),
            provider: "anthropic".into(),
            reservation_id: Some(id.to_owned()),
            usage: Some(lines(vec![line(v1::TokenCounts {
                input,
                output,
                ..Default::default()
            })])),
            ..Default::default()
        };
        self.log.ending(id, self.asked(call, input, output));
        self.record(&call.key, event.clone()).await;
        self.log.settled(id);
        if self.chance.below(4) == 0 {
            let again = self.record(&call.key, event).await;
            assert_eq!(again.outcome(), v1::RecordOutcome::Duplicate);
        }
        if self.chance.below(8) == 0 {
            self.log.voiding(id);
            let void = v1::VoidUsageRequest {
                request_id: self.name("void"),
                event_id,
                reason: "a test".into(),
            };
            self.clients.metering.void_usage(void).await.unwrap();
        }
    }

    async fn record(&mut self, key: &str, event: v1::UsageEvent) -> v1::RecordedUsage {
        loop {
            let message = v1::RecordUsageRequest {
                event: Some(event.clone()),
                ..Default::default()
            };
            let mut request = tonic::Request::new(message);
            let metadata = request.metadata_mut();
            metadata.insert("tokenmeter-api-key-id", key.parse().unwrap());
            match self.clients.metering.record_usage(request).await {
                Ok(answer) => return answer.into_inner().recorded.unwrap(),
                Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
            }
        }
    }
}

/// Gives every subject its limits.
async fn set_limits(clients: &mut Clients, rules: &[Rule]) {
    let mut done: Vec<(v1::LimitScope, &str)> = Vec::new();
    for rule in rules {
        if done.contains(&(rule.scope, &rule.subject)) {
            continue;
        }
        done.push((rule.scope, &rule.subject));
        let own = rules
            .iter()
            .filter(|one| (one.scope, &one.subject) == (rule.scope, &rule.subject));
        let limits = own.map(|one| v1::Limit {
            scope: one.scope.into(),
            metric: one.counts.metric().into(),
            window: one.window.into(),
            amount: one.amount,
            hard: true,
            ..Default::default()
        });
        let request = v1::SetLimitsRequest {
            request_id: format!("limits-{:?}-{}", rule.scope, rule.subject),
            subject: Some(v1::Subject {
                scope: rule.scope.into(),
                id: rule.subject.clone(),
            }),
            limits: limits.collect(),
        };
        clients.admin.set_limits(request).await.unwrap();
    }
    let unlimited = v1::AssignProfileRequest {
        request_id: "unlimited".into(),
        subject: Some(v1::Subject {
            scope: v1::LimitScope::Tenant.into(),
            ..Default::default()
        }),
        profile_id: "unlimited".into(),
    };
    clients.admin.assign_profile(unlimited).await.unwrap();
}

/// How a limit stands, asked without holding anything.
async fn states(clients: &mut Clients, rule: &Rule) -> v1::LimitState {
    let asked = v1::GetEffectiveLimitsRequest {
        subject: Some(v1::Subject {
            scope: rule.scope.into(),
            id: rule.subject.clone(),
        }),
        ..Default::default()
    };
    let answer = clients
        .admin
        .get_effective_limits(asked)
        .await
        .unwrap()
        .into_inner();
    let fits = |state: &v1::LimitState| {
        (state.scope(), state.metric(), state.window())
            == (rule.scope, rule.counts.metric(), rule.window)
    };
    answer
        .states
        .into_iter()
        .find(fits)
        .unwrap_or_else(|| panic!("no state of {:?}", rule.scope))
}

/// Lets clients race; answers everything that is wrong.
async fn race(server: &Server, chance: &mut Chance) -> Vec<String> {
    let rules = Arc::new(rules());
    let mut clients = Clients::of(server).await;
    set_limits(&mut clients, &rules).await;
    // A change applies within a second.
    applies(&mut clients, &rules[0]).await;
    let log = Arc::new(Log::of(rules.iter().map(|rule| rule.amount).collect()));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..TASKS {
        let client = Client {
            number,
            chance: chance.fork(),
            clients: Clients::of(server).await,
            log: Arc::clone(&log),
            rules: Arc::clone(&rules),
            made: 0,
        };
        tasks.spawn(client.run());
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let (mut wrong, admitted, refused) = log.judged();
    println!("{admitted} calls admitted, {refused} refused");
    assert!(refused > 100, "the limits are too wide for a race");
    let used = log.used();
    for (number, rule) in rules.iter().enumerate() {
        // Forgotten holds end by themselves; nothing else is held.
        let began = Instant::now();
        let state = loop {
            let state = states(&mut clients, rule).await;
            if state.held == 0 || began.elapsed() > Duration::from_secs(10) {
                break state;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        if (state.held, state.used) != (0, used[number]) {
            wrong.push(format!(
                "limit {number} ({:?} {:?} {}): used {}, held {}, and clients know of {}",
                rule.scope, rule.counts, rule.subject, state.used, state.held, used[number]
            ));
        }
    }
    wrong
}

/// Waits until a limit that was set applies, at most as long as the contract says, and some.
async fn applies(clients: &mut Clients, rule: &Rule) {
    let began = Instant::now();
    while states(clients, rule).await.limit != rule.amount {
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "limits do not apply"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_overspend() {
    let mut chance = Chance::new("clients that race for limits");
    for _ in 0..rounds() {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(folder.path());
        let wrong = race(&server, &mut chance).await;
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planted_fault_is_seen_in_what_was_admitted() {
    let Some(binary) = planted() else { return };
    for fault in ["HoldNothing"] {
        let mut chance = Chance::new(fault);
        let folder = tempfile::tempdir().unwrap();
        let start = Start::new(folder.path()).program(binary.clone());
        let server = start.variable("TOKENMETER_FAULT", fault).serve();
        let wrong = race(&server, &mut chance).await;
        assert!(
            !wrong.is_empty(),
            "{fault} was planted and nothing turned red"
        );
        println!("{fault}: {} findings, such as {}", wrong.len(), wrong[0]);
    }
}
