//! Steps, and how they are made.

use proptest::prelude::*;
use tokenmeter_model::limit::{Amounts, Enforcement, Metric, Scope, Window};
use tokenmeter_store::counters::{Delta, Owner, Rule};

use super::super::world::usage;
use super::super::{DAY, HOUR, MINUTE, SECOND, call, per_minute, per_month, rule, with};

/// One step. Numbers choose among what there is, and wrap around.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// Asks for a call; request names repeat, so that some are replays and some are conflicts.
    Admit {
        request: u8,
        call: Call,
        dry_run: bool,
    },
    Extend {
        request: u8,
        hold: u8,
        size: Option<u8>,
        life: Option<u8>,
        rules: u8,
    },
    Release {
        hold: u8,
        rules: u8,
    },
    /// Records an event, of a hold or of none; if not told, only the sweeper will find it.
    Record {
        hold: Option<u8>,
        call: Call,
        past: u8,
        told: bool,
    },
    /// Records an estimate of a tool.
    Tool(Call),
    /// Begins to record, and does not commit yet.
    Begin(Call),
    /// Commits what was begun.
    Commit {
        begun: u8,
        told: bool,
    },
    Void {
        event: u8,
        told: bool,
    },
    /// Tells of a change again.
    Repeat(u8),
    /// Asks how rules stand.
    Look {
        call: Call,
    },
    /// Counters are seeded from a snapshot that was taken when they were found cold.
    Seed(u8),
    Sweep,
    Expire,
    Pass(u8),
    Zone(u8),
    Crash,
}

/// Whose call, how large, by which rules, and whether what is cold is seeded at once.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) owner: u8,
    pub(super) model: u8,
    pub(super) size: u8,
    pub(super) life: u8,
    pub(super) rules: u8,
    pub(super) warm: bool,
}

pub(super) const SIZES: [(i64, i64); 5] = [(1, 1), (10, 5), (40, 20), (100, 0), (0, 30)];
pub(super) const LIVES: [i64; 4] = [SECOND, 40 * SECOND, 10 * MINUTE, 25 * HOUR];
pub(super) const PASSES: [i64; 8] = [
    1,
    300_007,
    SECOND,
    20 * SECOND,
    61 * SECOND,
    10 * MINUTE,
    HOUR,
    DAY,
];
pub(super) const PASTS: [i64; 5] = [0, 30 * SECOND, 50 * MINUTE, 13 * HOUR, 20 * DAY];
pub(super) const ZONES: [&str; 3] = ["UTC", "Asia/Kolkata", "America/New_York"];

pub(super) fn pick<T>(from: &[T], n: u8) -> Option<&T> {
    from.get(usize::from(n) % from.len().max(1))
}

pub(super) fn size(n: u8) -> Amounts {
    let (input, output) = SIZES[usize::from(n) % SIZES.len()];
    call(input, output)
}

pub(super) fn who(n: u8) -> Owner {
    let [user, team, session, key] = [
        ["u", "t", "s", "k"],
        ["v", "t", "", "k"],
        ["u", "x", "r", ""],
    ][usize::from(n) % 3];
    Owner {
        user_id: user.into(),
        team_id: team.into(),
        session_id: session.into(),
        api_key_id: key.into(),
    }
}

/// The rules of an owner that a mask chooses, as far as they cover the model.
pub(super) fn rules(owner: &Owner, model: &str, mask: u8) -> Vec<Rule> {
    let tokens = Metric::TotalTokens;
    let of_m = with(
        &rule(Scope::User, Metric::InputTokens, Window::Day, 150),
        |limit| {
            limit.model = "m".into();
        },
    );
    let key = rule(Scope::ApiKey, Metric::OutputTokens, Window::Minute, 60);
    let all = [
        rule(Scope::Tenant, Metric::Cost, Window::Day, 5_000),
        rule(Scope::Team, tokens, Window::Hour, 250),
        per_minute(5),
        per_month(300),
        of_m,
        rule(Scope::User, tokens, Window::Request, 90),
        Rule {
            base: call(10, 0),
            ..rule(Scope::Session, tokens, Window::Budget, 400)
        },
        with(&key, |limit| limit.enforcement = Enforcement::RecordOverage),
    ];
    let chosen = all.into_iter().enumerate();
    let chosen = chosen.filter(|(n, rule)| mask >> n & 1 == 1 && rule.limit.covers("p", model));
    chosen
        .filter_map(|(_, rule)| {
            let subject = owner.subject(rule.limit.scope)?.into();
            Some(Rule { subject, ..rule })
        })
        .collect()
}

impl Call {
    pub(super) fn rules(&self) -> Vec<Rule> {
        rules(&who(self.owner), self.model(), self.rules)
    }

    pub(super) fn model(&self) -> &'static str {
        ["m", "n"][usize::from(self.model) % 2]
    }

    pub(super) fn usage(&self, charge_time_us: i64) -> Delta {
        Delta {
            owner: who(self.owner),
            lines: vec![(self.model().into(), size(self.size))],
            ..usage(charge_time_us, Amounts::ZERO)
        }
    }
}

pub(super) fn any_call() -> impl Strategy<Value = Call> {
    let what = (0..3_u8, 0..2_u8, 0..5_u8, 0..4_u8, any::<u8>());
    (what, prop::bool::weighted(0.8)).prop_map(|((owner, model, size, life, rules), warm)| Call {
        owner,
        model,
        size,
        life,
        rules,
        warm,
    })
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let told = || prop::bool::weighted(0.7);
    let small = || any::<u8>();
    let maybe = || prop::option::of(any::<u8>());
    prop_oneof![
        8 => (0..12_u8, any_call(), prop::bool::weighted(0.1))
            .prop_map(|(request, call, dry_run)| Step::Admit { request, call, dry_run }),
        3 => (0..4_u8, small(), maybe(), maybe(), small())
            .prop_map(|(request, hold, size, life, rules)| {
                Step::Extend { request, hold, size, life, rules }
            }),
        2 => (small(), small()).prop_map(|(hold, rules)| Step::Release { hold, rules }),
        6 => (maybe(), any_call(), 0..5_u8, told())
            .prop_map(|(hold, call, past, told)| Step::Record { hold, call, past, told }),
        1 => any_call().prop_map(Step::Tool),
        1 => any_call().prop_map(Step::Begin),
        2 => (small(), told()).prop_map(|(begun, told)| Step::Commit { begun, told }),
        2 => (small(), told()).prop_map(|(event, told)| Step::Void { event, told }),
        2 => small().prop_map(Step::Repeat),
        2 => any_call().prop_map(|call| Step::Look { call }),
        3 => small().prop_map(Step::Seed),
        3 => Just(Step::Sweep),
        1 => Just(Step::Expire),
        4 => (0..8_u8).prop_map(Step::Pass),
        1 => (0..6_u8).prop_map(Step::Zone),
        2 => Just(Step::Crash),
    ]
}
