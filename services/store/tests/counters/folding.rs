//! Counters as a fold of the ledger: every change once, whoever tells of it and whenever a counter begins.

use tokenmeter_model::limit::{Amounts, Metric, Scope, Window, Zoned};
use tokenmeter_model::zone::Zone;
use tokenmeter_store::counters::{Counters as _, Delta, Found, Known, Rule};

use super::world::{World, settling, usage};
use super::{Store, T0, ask, call, per_minute, per_month, rule};

/// More changes than any counter lets wait while it is being seeded.
const TOO_MANY: i64 = 10_500;

fn rules() -> Vec<Rule> {
    vec![
        per_month(1_000_000),
        rule(Scope::Tenant, Metric::Cost, Window::Day, 1_000_000),
    ]
}

fn tokens(n: i64) -> Delta {
    usage(T0, call(n, 0))
}

/// Makes counters cold ones that are being seeded, and answers their keys.
async fn begin<S: Store>(
    world: &World<S>,
    rules: &[Rule],
) -> Vec<tokenmeter_store::counters::CounterKey> {
    match world
        .counters
        .standings(world.place(), rules)
        .await
        .unwrap()
    {
        Known::Cold(keys) => keys,
        Known::Answer(standings) => panic!("{standings:?}"),
    }
}

/// What the ledger has before a counter is first asked for is in its seed.
pub async fn a_cold_counter_is_named_and_seeded<S: Store>() {
    let mut world = World::<S>::new().await;
    world.record(tokens(10), &rules()).await;
    let mut cold = begin(&world, &rules()).await;
    cold.sort();
    let mut expected: Vec<_> = rules().iter().filter_map(Rule::counter).collect();
    expected.sort();
    assert_eq!(cold, expected);
    // Until it is seeded nothing is admitted, and nothing changes.
    let ask = ask("1", call(1, 1), &rules());
    let step = world.counters.admit(world.place(), &ask).await.unwrap();
    assert!(matches!(step, Known::Cold(_)));
    assert_eq!(world.hold("r-1").await, None);
    world.seed(&cold).await;
    assert_eq!(world.figures(&rules()[0]).await, (10, 0));
    assert_eq!(world.figures(&rules()[1]).await, (100, 0));
    // What is known already is not seeded again.
    world.record(tokens(5), &rules()).await;
    let (seeds, seen) = super::ledger::Ledger::default().seeds(&world.zoned, &cold, T0);
    world
        .counters
        .seed(world.place(), seeds, &seen)
        .await
        .unwrap();
    assert_eq!(world.figures(&rules()[0]).await, (15, 0));
}

/// Counters of which some are known name only the others.
pub async fn only_cold_counters_are_named<S: Store>() {
    let world = World::<S>::new().await;
    let [known, cold] = [per_month(1), per_minute(1)];
    world.standings(std::slice::from_ref(&known)).await;
    let keys = begin(&world, &[known, cold.clone()]).await;
    assert_eq!(keys, [cold.counter().unwrap()]);
}

/// While a counter is being seeded, changes go on: those that its snapshot has and those that it has not.
pub async fn changes_during_a_seed_count_once<S: Store>() {
    let mut world = World::<S>::new().await;
    let told = world.ledger.write(tokens(1));
    world.apply(&told, &rules()).await;
    let open = world.ledger.begin();
    world.ledger.write(tokens(2));
    let cold = begin(&world, &rules()).await;
    let before = world.record(tokens(4), &rules()).await;
    assert_eq!(before.standings, [], "not known yet");
    let (seeds, seen) = world.ledger.seeds(&world.zoned, &cold, T0);
    assert!(seen.contains(open - 1) && !seen.contains(open));
    // After the snapshot: one that it passed while it was open, and a new one.
    let late = world.ledger.commit(Delta {
        position: open,
        ..tokens(8)
    });
    world.apply(&late, &rules()).await;
    world.record(tokens(16), &rules()).await;
    world
        .counters
        .seed(world.place(), seeds, &seen)
        .await
        .unwrap();
    assert_eq!(world.figures(&rules()[0]).await, (31, 0));
    world.sweep().await;
    assert_eq!(world.figures(&rules()[0]).await, (31, 0));
    // Told late, after the sweep passed them: nothing counts again.
    for delta in world.ledger.log(0) {
        assert!(!world.apply(&delta, &rules()).await.counted);
    }
    assert_eq!(world.figures(&rules()[0]).await, (31, 0));
}

/// A change that a snapshot has and that is told after the seed does not count again.
pub async fn what_a_seed_contains_does_not_count_again<S: Store>() {
    let mut world = World::<S>::new().await;
    let unknown_to_counters = world.ledger.write(tokens(10));
    world.standings(&rules()).await;
    world.apply(&unknown_to_counters, &rules()).await;
    assert_eq!(world.figures(&rules()[0]).await, (10, 0));
    // A counter that is seeded later has another snapshot, and both are right.
    let hourly = rule(Scope::User, Metric::TotalTokens, Window::Hour, 1_000);
    let open = world.ledger.begin();
    assert_eq!(world.figures(&hourly).await, (10, 0));
    let late = world.ledger.commit(Delta {
        position: open,
        ..tokens(1)
    });
    world.sweep().await;
    world.apply(&late, &rules()).await;
    assert_eq!(world.figures(&hourly).await, (11, 0));
    assert_eq!(world.figures(&rules()[0]).await, (11, 0));
}

/// The call and the sweeper tell of the same changes, in any order.
pub async fn the_call_and_the_sweeper_count_once<S: Store>() {
    let mut world = World::<S>::new().await;
    world.standings(&rules()).await;
    let call_first = world.ledger.write(tokens(1));
    assert!(world.apply(&call_first, &rules()).await.counted);
    world.sweep().await;
    let sweeper_first = world.ledger.write(tokens(2));
    world.sweep().await;
    let late = world.apply(&sweeper_first, &rules()).await;
    assert!(!late.counted);
    assert_eq!(
        late.standings[0].used, 3,
        "and it tells how rules stand all the same"
    );
    // Out of order: the call that committed later comes first.
    let earlier = world.ledger.write(tokens(4));
    let later = world.ledger.write(tokens(8));
    assert!(world.apply(&later, &rules()).await.counted);
    assert!(world.apply(&earlier, &rules()).await.counted);
    // Nobody told of this one: only the sweeper does.
    world.ledger.write(tokens(16));
    world.sweep().await;
    world.sweep().await;
    assert_eq!(world.figures(&rules()[0]).await, (31, 0));
    assert_eq!(world.figures(&rules()[1]).await, (310, 0));
}

/// The sweeper stops before a transaction that is open, and what commits behind others counts then.
pub async fn the_sweeper_does_not_pass_open_transactions<S: Store>() {
    let mut world = World::<S>::new().await;
    world.standings(&rules()).await;
    let open = world.ledger.begin();
    let applied = world.record(tokens(2), &rules()).await;
    assert!(applied.counted);
    world.sweep().await;
    let swept = world.counters.swept().await.unwrap();
    assert_eq!(swept, [(world.tenant.clone(), open - 1)]);
    world.ledger.commit(Delta {
        position: open,
        ..tokens(1)
    });
    world.sweep().await;
    assert_eq!(world.figures(&rules()[0]).await, (3, 0));
}

/// A sweep settles the hold that an event names.
pub async fn a_sweep_settles<S: Store>() {
    let mut world = World::<S>::new().await;
    let hold = world.admitted(&ask("1", call(40, 20), &rules())).await;
    let delta = world.ledger.write(settling(&hold, "e", call(30, 5)));
    world.sweep().await;
    assert_eq!(world.figures(&rules()[0]).await, (35, 0));
    let late = world.apply(&delta, &rules()).await;
    assert!(matches!(&late.found, Found::Settled(hold) if hold.event_id == "e"));
    assert!(!late.counted);
}

/// Two deltas of one call of `apply` are one after the other, each with how rules stand after it.
pub async fn a_batch_is_counted_in_order<S: Store>() {
    let mut world = World::<S>::new().await;
    world.standings(&rules()).await;
    let batch: Vec<_> = [1, 2, 2, 4]
        .map(|n| (world.ledger.write(tokens(n)), rules().into()))
        .into();
    let batch = [batch.clone(), batch].concat();
    let applied = world.counters.apply(world.place(), &batch).await.unwrap();
    let used: Vec<_> = applied
        .iter()
        .map(|one| (one.standings[0].used, one.counted))
        .collect();
    assert_eq!(used[..4], [(1, true), (3, true), (5, true), (9, true)]);
    assert!(used[4..].iter().all(|one| *one == (9, false)));
}

/// A counter that too much waited for is cold again, rather than wrong; a snapshot from before that is
/// not taken for it.
pub async fn too_much_waiting_makes_a_counter_cold<S: Store>() {
    let mut world = World::<S>::new().await;
    let rules = [per_month(1_000_000)];
    let cold = begin(&world, &rules).await;
    let (seeds, seen) = world.ledger.seeds(&world.zoned, &cold, T0);
    let deltas: Vec<_> = (0..TOO_MANY)
        .map(|_| (world.ledger.write(tokens(1)), rules[..0].into()))
        .collect();
    world.counters.apply(world.place(), &deltas).await.unwrap();
    let right = async || match world
        .counters
        .standings(world.place(), &rules)
        .await
        .unwrap()
    {
        Known::Cold(keys) => assert_eq!(keys, cold),
        Known::Answer(standings) => assert_eq!(standings[0].used, TOO_MANY),
    };
    right().await;
    world
        .counters
        .seed(world.place(), seeds, &seen)
        .await
        .unwrap();
    right().await;
    assert_eq!(world.figures(&rules[0]).await, (TOO_MANY, 0));
}

/// A hold that was admitted before a counter was first asked for is held in it.
pub async fn a_new_counter_has_the_holds<S: Store>() {
    let world = World::<S>::new().await;
    world.admitted(&ask("1", call(10, 5), &[])).await;
    assert_eq!(world.figures(&per_month(100)).await, (0, 15));
    assert_eq!(world.figures(&per_minute(100)).await, (0, 1));
    world.release("r-1", &[]).await;
    assert_eq!(world.figures(&per_month(100)).await, (0, 0));
}

/// Estimates of tools count in the session's budget, and nowhere else.
pub async fn tools_count_in_the_budget_only<S: Store>() {
    let mut world = World::<S>::new().await;
    let budget = rule(Scope::Session, Metric::TotalTokens, Window::Budget, 100);
    let session = rule(Scope::Session, Metric::TotalTokens, Window::Session, 100);
    let estimate = Delta {
        tool: true,
        ..usage(
            T0,
            Amounts {
                requests: 0,
                ..call(0, 30)
            },
        )
    };
    world.ledger.write(estimate.clone());
    assert_eq!(world.figures(&budget).await, (30, 0));
    for _ in 0..2 {
        world.record(estimate.clone(), &[]).await;
    }
    assert_eq!(
        world.figures(&budget).await,
        (90, 0),
        "each is another use of a tool"
    );
    assert_eq!(world.figures(&session).await, (0, 0));
    world.refused(&ask("1", call(10, 1), &[budget])).await;
}

/// A counter in another calendar is another counter: it is cold until seeded anew.
pub async fn a_change_of_zone_makes_counters_cold<S: Store>() {
    let mut world = World::<S>::new().await;
    let daily = rule(Scope::User, Metric::TotalTokens, Window::Day, 1_000);
    // 01:00 in UTC, which is still yesterday in New York, and not in Kolkata.
    world
        .record(usage(T0 - 11 * super::HOUR, call(1, 0)), &[])
        .await;
    world
        .record(usage(T0 - 17 * super::HOUR, call(2, 0)), &[])
        .await;
    assert_eq!(world.figures(&daily).await, (1, 0));
    world.zoned = Zoned::always(Zone::named("America/New_York").unwrap());
    begin(&world, std::slice::from_ref(&daily)).await;
    assert_eq!(world.figures(&daily).await, (0, 0));
    world.zoned = Zoned::always(Zone::named("Asia/Kolkata").unwrap());
    assert_eq!(world.figures(&daily).await, (3, 0));
    world.record(usage(T0, call(4, 0)), &[]).await;
    assert_eq!(world.figures(&daily).await, (7, 0));
}

/// Counters equal the ledger after any crash, with nothing but a seed and a sweep.
pub async fn counters_equal_ledger<S: Store>() {
    let mut world = World::<S>::new().await;
    let rules = rules();
    for round in 0..4 {
        let name = format!("{round}");
        let hold = world.admitted(&ask(&name, call(10, 5), &rules)).await;
        world.record(tokens(1), &rules).await;
        world.ledger.write(settling(&hold, &name, call(9, 3)));
        if round % 2 == 0 {
            world = world.crash().await;
        }
        world.standings(&rules).await;
        world.sweep().await;
        for rule in &rules {
            let sum = world.ledger.sum(&world.zoned, &rule.counter().unwrap(), T0);
            let expected = (sum.of(rule.limit.metric), 0);
            assert_eq!(world.figures(rule).await, expected, "round {round}");
        }
    }
}
