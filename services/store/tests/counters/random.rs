//! Random steps on a backend and on the reference, which have to answer the same, crash points included.
//! Whether too much was granted is judged from the steps' own log, not from any counter.

mod judge;
mod steps;

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use tokenmeter_model::limit::Zoned;
use tokenmeter_model::zone::Zone;
use tokenmeter_store::counters::{
    Admission, Ask, Change, CounterKey, Counters as _, Delta, Extend, Hold, Known, Place, Rule,
    Seed, Seen,
};

use self::judge::Judge;
use self::steps::{Call, LIVES, PASSES, PASTS, Step, ZONES, pick, rules, size, step, who};
use super::reference::{OnPaper, Reference};
use super::world::{World, settling, void};
use super::{HOUR, Store, ask, fingerprint};

/// How often a step is tried until its counters are known: a seed on its way can be too old.
const TRIES: u32 = 3;
/// Sequences that one run tries.
const CASES: u32 = 256;

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
