//! Random steps on a backend and on the reference, which have to answer the same, crash points included.
//! Whether too much was granted is judged from the steps' own log, not from any counter.

mod judge;

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use tokenmeter_model::limit::{Amounts, Enforcement, Metric, Scope, Window, Zoned};
use tokenmeter_model::zone::Zone;
use tokenmeter_store::counters::{
    Admission, Ask, Change, CounterKey, Counters as _, Delta, Extend, Hold, Known, Owner, Place,
    Rule, Seed, Seen,
};

use self::judge::Judge;
use super::reference::{OnPaper, Reference};
use super::world::{World, settling, usage, void};
use super::{
    DAY, HOUR, MINUTE, SECOND, Store, ask, call, fingerprint, per_minute, per_month, rule, with,
};

/// How often a step is tried until its counters are known: a seed on its way can be too old.
const TRIES: u32 = 3;
/// Sequences that one run tries.
const CASES: u32 = 256;

/// One step. Numbers choose among what there is, and wrap around.
#[derive(Debug, Clone)]
enum Step {
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
struct Call {
    owner: u8,
    model: u8,
    size: u8,
    life: u8,
    rules: u8,
    warm: bool,
}

const SIZES: [(i64, i64); 5] = [(1, 1), (10, 5), (40, 20), (100, 0), (0, 30)];
const LIVES: [i64; 4] = [SECOND, 40 * SECOND, 10 * MINUTE, 25 * HOUR];
const PASSES: [i64; 8] = [
    1,
    300_007,
    SECOND,
    20 * SECOND,
    61 * SECOND,
    10 * MINUTE,
    HOUR,
    DAY,
];
const PASTS: [i64; 5] = [0, 30 * SECOND, 50 * MINUTE, 13 * HOUR, 20 * DAY];
const ZONES: [&str; 3] = ["UTC", "Asia/Kolkata", "America/New_York"];

fn pick<T>(from: &[T], n: u8) -> Option<&T> {
    from.get(usize::from(n) % from.len().max(1))
}

fn size(n: u8) -> Amounts {
    let (input, output) = SIZES[usize::from(n) % SIZES.len()];
    call(input, output)
}

fn who(n: u8) -> Owner {
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
fn rules(owner: &Owner, model: &str, mask: u8) -> Vec<Rule> {
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
    fn rules(&self) -> Vec<Rule> {
        rules(&who(self.owner), self.model(), self.rules)
    }

    fn model(&self) -> &'static str {
        ["m", "n"][usize::from(self.model) % 2]
    }

    fn usage(&self, charge_time_us: i64) -> Delta {
        Delta {
            owner: who(self.owner),
            lines: vec![(self.model().into(), size(self.size))],
            ..usage(charge_time_us, Amounts::ZERO)
        }
    }
}

fn any_call() -> impl Strategy<Value = Call> {
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

fn step() -> impl Strategy<Value = Step> {
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

/// A backend and the reference side by side, on one ledger and one clock.
struct Pair<S: Store> {
    world: World<S>,
    paper: OnPaper,
    reference: Reference,
    judge: Judge,
    /// Transactions that were begun.
    begun: Vec<Delta>,
    /// Events that are on disk, and whether one was voided.
    events: Vec<(Delta, bool)>,
    /// Seeds on their way, with the calendar that they were read in.
    seeds: Vec<(Vec<Seed>, Seen, Zoned)>,
}

/// What is cold is named in no particular order.
fn sorted<T>(known: Known<T>) -> Known<T> {
    match known {
        Known::Cold(mut keys) => {
            keys.sort();
            Known::Cold(keys)
        }
        answer => answer,
    }
}

/// Does the same to both, and answers what both answered.
macro_rules! both {
    ($pair:ident, $counters:ident => $step:expr) => {{
        let reference = {
            let $counters = &$pair.reference;
            $step
        };
        let backend = {
            let $counters = &$pair.world.counters;
            $step
        };
        assert_eq!(backend, reference, "the backend, and then the reference");
        reference
    }};
}

impl<S: Store> Pair<S> {
    async fn new() -> Self {
        let world = World::new().await;
        let paper = OnPaper::fresh();
        Self {
            reference: paper.open(world.clock.clock()).await,
            paper,
            judge: Judge::default(),
            world,
            begun: Vec::new(),
            events: Vec::new(),
            seeds: Vec::new(),
        }
    }

    async fn step(&mut self, step: &Step) {
        match step {
            Step::Admit {
                request,
                call,
                dry_run,
            } => self.admit(*request, call, *dry_run).await,
            Step::Extend {
                request,
                hold,
                size,
                life,
                rules,
            } => self.extend(*request, *hold, *size, *life, *rules).await,
            Step::Release { hold, rules } => self.release(*hold, *rules).await,
            Step::Record {
                hold,
                call,
                past,
                told,
            } => self.record(*hold, call, *past, *told).await,
            Step::Tool(call) => {
                let usage = call.usage(self.world.clock.now());
                let delta = self.world.ledger.write(Delta {
                    tool: true,
                    ..usage
                });
                self.tell(&delta).await;
            }
            Step::Begin(call) => {
                let position = self.world.ledger.begin();
                let usage = call.usage(self.world.clock.now());
                self.begun.push(Delta { position, ..usage });
            }
            Step::Commit { begun, told } => self.commit(*begun, *told).await,
            Step::Void { event, told } => self.void(*event, *told).await,
            Step::Repeat(event) => {
                if let Some(delta) = pick(&self.events, *event).map(|(delta, _)| delta.clone()) {
                    self.tell(&delta).await;
                }
            }
            Step::Look { call } => self.look(&call.rules(), call.warm).await,
            Step::Seed(n) => self.seed(*n).await,
            Step::Sweep => self.sweep().await,
            Step::Expire => both!(self, c => c.expire().await.unwrap()),
            Step::Pass(n) => self.world.pass(PASSES[usize::from(*n) % PASSES.len()]),
            // One zone for half of the numbers, so that most sequences stay in it.
            Step::Zone(n) => {
                let name = ZONES[usize::from(n.saturating_sub(3))];
                self.world.zoned = Zoned::always(Zone::named(name).unwrap());
            }
            Step::Crash => self.crash().await,
        }
        let tenant = self.world.tenant.clone();
        let now_us = self.world.clock.now();
        let holds = both!(self, c => c.holds(&tenant).await.unwrap());
        assert_eq!(holds, self.judge.active(now_us), "what the callers know of");
    }

    /// Counters were found cold: each is read once at a time. Seeds arrive at once, or are on their way.
    async fn cold(&mut self, keys: &[CounterKey], warm: bool) {
        let zoned = self.world.zoned.clone();
        let on_their_way = |key: &&CounterKey| {
            let mut seeds = self.seeds.iter().filter(|(.., other)| *other == zoned);
            seeds.any(|(seeds, ..)| seeds.iter().any(|seed| seed.key == **key))
        };
        let keys: Vec<_> = keys
            .iter()
            .filter(|key| !on_their_way(key))
            .cloned()
            .collect();
        let ledger = &self.world.ledger;
        let (seeds, seen) = ledger.seeds(&zoned, &keys, self.world.clock.now());
        self.seeds.push((seeds, seen, zoned));
        while warm && !self.seeds.is_empty() {
            self.seed(0).await;
        }
    }

    async fn seed(&mut self, n: u8) {
        if self.seeds.is_empty() {
            return;
        }
        let (seeds, seen, zoned) = self.seeds.remove(usize::from(n) % self.seeds.len());
        let place = Place {
            zoned: &zoned,
            ..self.world.place()
        };
        both!(self, c => c.seed(place, seeds.clone(), &seen).await.unwrap());
    }

    async fn admit(&mut self, request: u8, call: &Call, dry_run: bool) {
        let rules = call.rules();
        let name = format!("{request}");
        let ask = Ask {
            fingerprint: fingerprint(&format!("{call:?}")),
            owner: who(call.owner),
            model: call.model().into(),
            life_us: LIVES[usize::from(call.life) % LIVES.len()],
            reservation_id: format!("r-{}", self.judge.holds()),
            dry_run,
            ..ask(&name, size(call.size), &rules)
        };
        for _ in 0..TRIES {
            let place = self.world.place();
            match both!(self, c => sorted(c.admit(place, &ask).await.unwrap())) {
                Known::Answer(answer) => {
                    if let Admission::Admitted {
                        hold,
                        replayed: false,
                        ..
                    } = answer
                        && !dry_run
                    {
                        self.judge
                            .grant(hold, &rules, &self.world.zoned, self.world.clock.now());
                    }
                    return;
                }
                Known::Cold(keys) => self.cold(&keys, call.warm).await,
            }
        }
    }

    async fn extend(
        &mut self,
        request: u8,
        hold: u8,
        size_: Option<u8>,
        life: Option<u8>,
        mask: u8,
    ) {
        let Some(hold) = self.judge.pick(hold) else {
            return;
        };
        let rules = rules(&hold.owner, &hold.model, mask);
        let life_us = life.map(|life| LIVES[usize::from(life) % LIVES.len()]);
        let ask = Extend {
            request_id: format!("{request}"),
            fingerprint: fingerprint(&format!("{size_:?} {life:?}")),
            reservation_id: hold.reservation_id.clone(),
            amounts: size_.map(size),
            life_us,
            rules: rules.clone().into(),
        };
        for _ in 0..TRIES {
            let place = self.world.place();
            match both!(self, c => sorted(c.extend(place, &ask).await.unwrap())) {
                Known::Answer(answer) => {
                    if let Change::Changed { .. } = answer {
                        self.changed(&hold, &rules).await;
                    }
                    return;
                }
                Known::Cold(keys) => self.cold(&keys, true).await,
            }
        }
    }

    /// Tells the judge how a hold stands after it was extended, or was found to have been before.
    async fn changed(&mut self, before: &Hold, rules: &[Rule]) {
        let tenant = self.world.tenant.clone();
        let id = &before.reservation_id;
        if let Some(hold) = both!(self, c => c.hold(&tenant, id).await.unwrap()) {
            let now_us = self.world.clock.now();
            self.judge.change(hold, rules, &self.world.zoned, now_us);
        }
    }

    async fn release(&mut self, hold: u8, mask: u8) {
        let Some(hold) = self.judge.pick(hold) else {
            return;
        };
        let rules = rules(&hold.owner, &hold.model, mask);
        let id = &hold.reservation_id;
        for _ in 0..TRIES {
            let place = self.world.place();
            match both!(self, c => sorted(c.release(place, id, &rules).await.unwrap())) {
                Known::Answer(Change::Changed { .. }) => return self.judge.end(id),
                Known::Answer(_) => return,
                Known::Cold(keys) => self.cold(&keys, true).await,
            }
        }
    }

    async fn record(&mut self, hold: Option<u8>, call: &Call, past: u8, told: bool) {
        let hold = hold.and_then(|hold| self.judge.pick(hold));
        // The ledger refuses a second event that names a reservation.
        let hold = hold.filter(|hold| self.judge.settle(&hold.reservation_id));
        let delta = match &hold {
            Some(hold) => settling(hold, &format!("e-{}", self.events.len()), size(call.size)),
            None => call.usage(self.world.clock.now() - PASTS[usize::from(past) % PASTS.len()]),
        };
        let delta = self.world.ledger.write(delta);
        self.events.push((delta.clone(), false));
        if told {
            self.tell(&delta).await;
        }
    }

    async fn commit(&mut self, begun: u8, told: bool) {
        if self.begun.is_empty() {
            return;
        }
        let delta = self.begun.remove(usize::from(begun) % self.begun.len());
        let delta = self.world.ledger.commit(delta);
        self.events.push((delta.clone(), false));
        if told {
            self.tell(&delta).await;
        }
    }

    async fn void(&mut self, event: u8, told: bool) {
        let n = usize::from(event) % self.events.len().max(1);
        let Some((event, voided @ false)) = self.events.get_mut(n) else {
            return;
        };
        *voided = true;
        let undo = self.world.ledger.write(void(event));
        self.judge.void(event.position, &undo);
        if told {
            self.tell(&undo).await;
        }
    }

    async fn tell(&mut self, delta: &Delta) {
        let place = self.world.place();
        let rules = rules(&delta.owner, &delta.lines[0].0, 255);
        let deltas = [(delta.clone(), rules.into())];
        // Whether it counted is known from the figures; after a crash, or with nothing to count in,
        // both may have forgotten it, each in its way.
        both!(self, c => {
            let mut applied = c.apply(place, &deltas).await.unwrap();
            let applied = applied.remove(0);
            (applied.found, applied.standings)
        });
        self.judge.told(delta);
    }

    async fn look(&mut self, rules: &[Rule], warm: bool) {
        for _ in 0..TRIES {
            let place = self.world.place();
            match both!(self, c => sorted(c.standings(place, rules).await.unwrap())) {
                Known::Answer(_) => return,
                Known::Cold(keys) => self.cold(&keys, warm).await,
            }
        }
    }

    /// Each follows the log from where it stands.
    async fn sweep(&mut self) {
        let through = self.world.ledger.committed();
        // Who has nothing to count in is told nothing: there is no hold that could be settled either.
        let follows = !self.world.counters.swept().await.unwrap().is_empty();
        self.world.sweep().await;
        for (_, after) in self.reference.swept().await.unwrap() {
            let deltas = self.world.ledger.log(after);
            let place = self.world.place();
            let sweep = self.reference.sweep(place, &deltas, through);
            sweep.await.unwrap();
        }
        if follows {
            for delta in self.world.ledger.log(0) {
                self.judge.told(&delta);
            }
        }
    }

    /// A new process has the holds, and no counters. Its sweep begins where the journal says.
    async fn crash(&mut self) {
        let Self { paper, world, .. } = self;
        let fresh = std::mem::replace(world, World::new().await);
        *world = fresh.crash().await;
        self.reference = paper.open(world.clock.clock()).await;
        self.seeds.clear();
        let swept = world.counters.swept().await.unwrap();
        let position = swept.first().map(|(_, position)| *position);
        assert!(position <= Some(world.ledger.committed()));
        self.reference.set_swept(&world.tenant, position);
    }

    /// Everything that is still on its way arrives: then counters are what the ledger says.
    async fn settle_down(&mut self) {
        while !self.begun.is_empty() {
            self.commit(0, false).await;
        }
        while !self.seeds.is_empty() {
            self.seed(0).await;
        }
        for owner in 0..3 {
            let owner = who(owner);
            for rule in rules(&owner, "m", 255) {
                self.look(std::slice::from_ref(&rule), true).await;
                self.sweep().await;
                let Some(key) = rule.counter() else {
                    continue;
                };
                let world = &self.world;
                let sum = world.ledger.sum(&world.zoned, &key, world.clock.now());
                let used = sum.minus(&rule.base).of(rule.limit.metric);
                assert_eq!(
                    world.figures(&rule).await.0,
                    used,
                    "counters_equal_ledger: {rule:?}"
                );
            }
        }
        self.world.pass(26 * HOUR);
        let tenant = self.world.tenant.clone();
        assert_eq!(both!(self, c => c.holds(&tenant).await.unwrap()), []);
    }
}

/// What a seed of the random number generator is made of.
pub fn seed() -> u64 {
    let given = std::env::var("TOKENMETER_TEST_SEED").ok();
    let given = given.and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| u64::try_from((tokenmeter_store::clock::system())()).unwrap())
}

/// A backend and the reference answer the same, and nothing is granted beyond a limit.
pub fn random_steps_answer_as_the_reference<S: Store>() {
    let seed = seed();
    println!("TOKENMETER_TEST_SEED={seed}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = ProptestConfig {
        cases: CASES,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runner
        .run(&prop::collection::vec(step(), 1..80), |steps| {
            runtime.block_on(async {
                let mut pair = Pair::<S>::new().await;
                for step in &steps {
                    pair.step(step).await;
                }
                pair.settle_down().await;
            });
            Ok(())
        })
        .unwrap();
}
