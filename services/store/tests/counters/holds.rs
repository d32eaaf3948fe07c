//! Holds: one life and one end each, whatever is sent twice, late or out of order.

use tokenmeter_model::limit::{Amounts, Metric, Scope, Window};
use tokenmeter_store::counters::{
    Admission, Change, Counters as _, Delta, Found, Hold, HoldState, MAX_EXTENSIONS, Rule,
};

use super::world::{World, settling, usage, void};
use super::{HOUR, MINUTE, SECOND, Store, T0, ask, call, per_minute, per_month, rule};

fn rules() -> Vec<Rule> {
    vec![per_minute(100), per_month(100)]
}

/// How many tokens are used and held of the month.
async fn tokens<S: Store>(world: &World<S>) -> (i64, i64) {
    world.figures(&rules()[1]).await
}

fn changed(change: Change) -> Hold {
    match change {
        Change::Changed { hold, .. } => hold,
        other => panic!("{other:?}"),
    }
}

/// Usage takes the place of what was held, be it less, as much or more.
pub async fn usage_settles_a_hold<S: Store>() {
    let mut world = World::<S>::new().await;
    let hold = world.admitted(&ask("1", call(40, 20), &rules())).await;
    assert_eq!(tokens(&world).await, (0, 60));
    let applied = world
        .record(settling(&hold, "e", call(30, 5)), &rules())
        .await;
    let Found::Settled(settled) = applied.found else {
        panic!("{applied:?}");
    };
    assert!(applied.counted);
    assert_eq!(
        (settled.state, &*settled.event_id),
        (HoldState::Settled, "e")
    );
    assert_eq!(
        (applied.standings[1].used, applied.standings[1].held),
        (35, 0)
    );
    assert_eq!(
        (applied.standings[0].used, applied.standings[0].held),
        (1, 0),
        "one request"
    );
    assert_eq!(world.hold("r-1").await, Some(settled));
    assert_eq!(world.counters.holds(&world.tenant).await.unwrap(), []);
}

/// More than the hold is counted whole, and refuses what comes next.
pub async fn usage_above_the_hold_counts<S: Store>() {
    let mut world = World::<S>::new().await;
    let hold = world.admitted(&ask("1", call(40, 20), &rules())).await;
    let applied = world
        .record(settling(&hold, "e", call(40, 100)), &rules())
        .await;
    assert!(matches!(applied.found, Found::Settled(_)));
    assert_eq!(applied.standings[1].used, 140, "beyond the limit of 100");
    world.refused(&ask("2", call(1, 0), &rules())).await;
}

/// Usage without a hold counts, and so does that of a hold that nobody knows.
pub async fn usage_without_a_hold_counts<S: Store>() {
    let mut world = World::<S>::new().await;
    world.standings(&rules()).await;
    let applied = world.record(usage(T0, call(70, 40)), &rules()).await;
    assert_eq!(applied.found, Found::NoReservation);
    assert_eq!(applied.standings[1].used, 110);
    let unknown = Delta {
        settles: Some(("nobody's".into(), "e".into())),
        ..usage(T0, call(1, 1))
    };
    let applied = world.record(unknown, &rules()).await;
    assert_eq!(applied.found, Found::Unknown);
    assert_eq!(applied.standings[1].used, 112);
}

/// A settlement told again, by the call or by the sweeper, has the first answer and no second effect.
pub async fn a_settlement_repeats_without_effect<S: Store>() {
    let mut world = World::<S>::new().await;
    let hold = world.admitted(&ask("1", call(40, 20), &rules())).await;
    let delta = world.ledger.write(settling(&hold, "e", call(30, 5)));
    let first = world.apply(&delta, &rules()).await;
    for _ in 0..2 {
        let again = world.apply(&delta, &rules()).await;
        assert_eq!(again.found, first.found);
        assert_eq!(again.standings, first.standings);
        assert!(!again.counted);
        world.sweep().await;
    }
    assert_eq!(tokens(&world).await, (35, 0));
    // It was settled: nothing else ends it.
    let change = world.release("r-1", &rules()).await;
    assert!(matches!(&change, Change::Ended(hold) if hold.state == HoldState::Settled));
    let change = world
        .extend("x", &hold, Some(call(1, 1)), None, &rules())
        .await;
    assert!(matches!(&change, Change::Ended(hold) if hold.state == HoldState::Settled));
    world.pass(HOUR);
    let held = world.hold("r-1").await.unwrap();
    assert_eq!(
        held.state,
        HoldState::Settled,
        "what has ended does not expire"
    );
}

/// A release gives everything back, the request too, and repeats.
pub async fn a_release_gives_everything_back<S: Store>() {
    let world = World::<S>::new().await;
    let before = world.standings(&rules()).await;
    world.admitted(&ask("1", call(40, 20), &rules())).await;
    for _ in 0..2 {
        let hold = changed(world.release("r-1", &rules()).await);
        assert_eq!(hold.state, HoldState::Released);
        assert_eq!(world.standings(&rules()).await, before);
    }
    let change = world.release("nobody's", &rules()).await;
    assert_eq!(change, Change::NotFound);
    assert_eq!(world.counters.holds(&world.tenant).await.unwrap(), []);
}

/// A hold ends by itself when its time is over, whoever asks first.
pub async fn a_hold_expires_by_itself<S: Store>() {
    let world = World::<S>::new().await;
    world.admitted(&ask("1", call(40, 20), &rules())).await;
    world.pass(10 * MINUTE - 1);
    assert_eq!(world.hold("r-1").await.unwrap().state, HoldState::Active);
    assert_eq!(tokens(&world).await, (0, 60));
    world.pass(1);
    assert_eq!(tokens(&world).await, (0, 0));
    assert_eq!(world.figures(&rules()[0]).await, (0, 0));
    assert_eq!(world.hold("r-1").await.unwrap().state, HoldState::Expired);
    world.counters.expire().await.unwrap();
    assert_eq!(world.counters.holds(&world.tenant).await.unwrap(), []);
    // A release that comes late leaves it as it is.
    let hold = changed(world.release("r-1", &rules()).await);
    assert_eq!(hold.state, HoldState::Expired);
}

/// What expired makes room for the very next call, without any upkeep in between.
pub async fn what_expired_makes_room<S: Store>() {
    let world = World::<S>::new().await;
    let rules = [per_month(60)];
    world.admitted(&ask("1", call(40, 20), &rules)).await;
    world.refused(&ask("2", call(40, 20), &rules)).await;
    world.pass(10 * MINUTE);
    world.admitted(&ask("2", call(40, 20), &rules)).await;
    assert_eq!(world.counters.holds(&world.tenant).await.unwrap().len(), 1);
}

/// Usage that comes after the end of its hold counts, and the hold stays as it ended.
pub async fn usage_after_the_end_counts<S: Store>() {
    let mut world = World::<S>::new().await;
    let expired = world.admitted(&ask("1", call(10, 0), &rules())).await;
    world.pass(10 * MINUTE);
    let applied = world
        .record(settling(&expired, "e1", call(10, 5)), &rules())
        .await;
    let Found::Ended(hold) = applied.found else {
        panic!("{applied:?}");
    };
    assert_eq!(hold.state, HoldState::Expired);
    assert_eq!(
        (applied.standings[1].used, applied.standings[1].held),
        (15, 0)
    );
    assert_eq!(
        applied.standings[0].used, 0,
        "charged when it was admitted: minutes ago"
    );
    let released = world.admitted(&ask("2", call(10, 0), &rules())).await;
    world.release("r-2", &rules()).await;
    let applied = world
        .record(settling(&released, "e2", call(10, 5)), &rules())
        .await;
    assert!(matches!(&applied.found, Found::Ended(hold) if hold.state == HoldState::Released));
    assert_eq!(tokens(&world).await, (30, 0));
    assert_eq!(world.hold("r-1").await.unwrap().state, HoldState::Expired);
}

/// An extension sets the whole size, and is granted as an admission is: all rules or none.
pub async fn an_extension_is_granted_whole<S: Store>() {
    let world = World::<S>::new().await;
    let rules = [
        per_month(100),
        rule(Scope::User, Metric::OutputTokens, Window::Request, 50),
    ];
    let hold = world.admitted(&ask("1", call(40, 20), &rules)).await;
    let more = world
        .extend("x", &hold, Some(call(40, 50)), None, &rules)
        .await;
    assert_eq!(changed(more).amounts, call(40, 50));
    assert_eq!(world.figures(&rules[0]).await, (0, 90));
    for (name, amounts, refusing) in [("y", call(51, 50), 0), ("z", call(1, 51), 1)] {
        let change = world.extend(name, &hold, Some(amounts), None, &rules).await;
        let Change::Refused {
            hold,
            rule,
            standings,
        } = change
        else {
            panic!("{name}: {change:?}");
        };
        assert_eq!((rule, hold.amounts), (refusing, call(40, 50)));
        assert!(standings[refusing].exceeded);
        assert_eq!(
            world.figures(&rules[0]).await,
            (0, 90),
            "it stays as it was"
        );
    }
    let change = world
        .extend("w", &hold, Some(call(50, 50)), None, &rules)
        .await;
    assert_eq!(changed(change).amounts, call(50, 50));
}

/// Less is always granted, whatever the limits are now.
pub async fn less_is_always_granted<S: Store>() {
    let mut world = World::<S>::new().await;
    let hold = world.admitted(&ask("1", call(40, 20), &rules())).await;
    world.record(usage(T0, call(500, 0)), &rules()).await;
    let change = world
        .extend("x", &hold, Some(call(40, 10)), None, &rules())
        .await;
    assert_eq!(changed(change).amounts, call(40, 10));
    assert_eq!(tokens(&world).await, (500, 50));
    let change = world
        .extend("y", &hold, Some(call(40, 11)), None, &rules())
        .await;
    assert!(matches!(change, Change::Refused { rule: 1, .. }));
}

/// An extension that was granted has its first answer for ever, and no second effect.
pub async fn extensions_repeat_without_effect<S: Store>() {
    let world = World::<S>::new().await;
    let hold = world.admitted(&ask("1", call(10, 10), &rules())).await;
    let first = world
        .extend("x", &hold, Some(call(10, 20)), Some(HOUR), &rules())
        .await;
    let first = changed(first);
    assert_eq!(first.expire_us, T0 + HOUR);
    let second = world
        .extend("y", &hold, Some(call(10, 30)), None, &rules())
        .await;
    assert_eq!(changed(second).expire_us, T0 + HOUR, "its end is left");
    world.pass(MINUTE);
    // The first one comes again, late and out of order: it does not undo the second.
    let again = world
        .extend("x", &hold, Some(call(10, 20)), Some(HOUR), &rules())
        .await;
    assert_eq!(changed(again), first);
    assert_eq!(tokens(&world).await, (0, 40));
    assert_eq!(world.hold("r-1").await.unwrap().expire_us, T0 + HOUR);
    let other = world
        .extend("x", &hold, Some(call(10, 99)), None, &rules())
        .await;
    assert_eq!(other, Change::RequestConflict);
    world.release("r-1", &rules()).await;
    let again = world
        .extend("x", &hold, Some(call(10, 20)), Some(HOUR), &rules())
        .await;
    assert_eq!(changed(again), first, "also after the end");
    let late = world
        .extend("z", &hold, Some(call(10, 99)), None, &rules())
        .await;
    assert!(matches!(&late, Change::Ended(hold) if hold.state == HoldState::Released));
}

/// A life counts from now; the end can also come earlier.
pub async fn an_extension_moves_the_end<S: Store>() {
    let world = World::<S>::new().await;
    let hold = world.admitted(&ask("1", call(10, 10), &rules())).await;
    world.pass(9 * MINUTE);
    let longer = world
        .extend("x", &hold, None, Some(10 * MINUTE), &rules())
        .await;
    assert_eq!(changed(longer).expire_us, T0 + 19 * MINUTE);
    world.pass(2 * MINUTE);
    assert_eq!(tokens(&world).await, (0, 20));
    let shorter = world.extend("y", &hold, None, Some(SECOND), &rules()).await;
    let shorter = changed(shorter);
    assert_eq!((shorter.amounts, shorter.admit_us), (call(10, 10), T0));
    world.pass(SECOND);
    assert_eq!(world.hold("r-1").await.unwrap().state, HoldState::Expired);
    let late = world.extend("z", &hold, None, Some(HOUR), &rules()).await;
    assert!(matches!(late, Change::Ended(_)));
    let nobody = Hold {
        reservation_id: "nobody's".into(),
        ..hold
    };
    let change = world.extend("x", &nobody, None, None, &rules()).await;
    assert_eq!(change, Change::NotFound);
}

/// The newest extensions are remembered, so many and no more.
pub async fn extensions_are_bounded<S: Store>() {
    let world = World::<S>::new().await;
    let roomy = [per_month(10_000)];
    let hold = world.admitted(&ask("1", call(1, 0), &roomy)).await;
    let count = i64::try_from(MAX_EXTENSIONS).unwrap() + 20;
    let extend = async |n: i64| {
        let name = format!("x{n}");
        let change = world.extend(&name, &hold, Some(call(n, 0)), None, &roomy);
        changed(change.await).amounts
    };
    for n in 1..=count {
        extend(n).await;
    }
    for n in [21, count - 1] {
        assert_eq!(extend(n).await, call(n, 0));
        assert_eq!(world.figures(&roomy[0]).await, (0, count), "a repeat");
    }
    // One that is forgotten is asked anew.
    assert_eq!(extend(1).await, call(1, 0));
    assert_eq!(world.figures(&roomy[0]).await, (0, 1));
}

/// A void gives back what its event used, and nothing of a hold.
pub async fn a_void_gives_back<S: Store>() {
    let mut world = World::<S>::new().await;
    let hold = world.admitted(&ask("1", call(40, 20), &rules())).await;
    let event = world.ledger.write(settling(&hold, "e", call(40, 30)));
    world.apply(&event, &rules()).await;
    world.admitted(&ask("2", call(5, 5), &rules())).await;
    let undo = world.ledger.write(void(&event));
    for _ in 0..2 {
        let applied = world.apply(&undo, &rules()).await;
        assert_eq!(applied.found, Found::NoReservation);
        assert_eq!(tokens(&world).await, (0, 10));
    }
    assert_eq!(world.figures(&rules()[0]).await, (0, 1), "the request, too");
    let hold = world.hold("r-1").await.unwrap();
    assert_eq!(
        hold.state,
        HoldState::Settled,
        "a void does not free the reservation"
    );
}

/// A new price counts where its event does.
pub async fn a_reprice_counts_the_difference<S: Store>() {
    let mut world = World::<S>::new().await;
    let cost = rule(Scope::User, Metric::Cost, Window::Day, 1_000);
    let rules = [cost.clone()];
    world.record(usage(T0, call(10, 10)), &rules).await;
    let difference = |cost_nano_usd| Amounts {
        cost_nano_usd,
        ..Amounts::ZERO
    };
    world.record(usage(T0, difference(700)), &rules).await;
    assert_eq!(world.figures(&cost).await, (900, 0));
    world.refused(&ask("1", call(5, 6), &rules)).await;
    world.record(usage(T0, difference(-850)), &rules).await;
    assert_eq!(world.figures(&cost).await, (50, 0));
    world.admitted(&ask("1", call(5, 6), &rules)).await;
}

/// Holds outlive the process, and so do the answers that they gave; nothing is held twice.
pub async fn holds_survive_a_restart<S: Store>() {
    let mut world = World::<S>::new().await;
    let tight = vec![per_minute(100), per_month(60)];
    let first = ask("1", call(10, 10), &tight);
    let hold = world.admitted(&first).await;
    let larger = world
        .extend("x", &hold, Some(call(10, 20)), Some(HOUR), &tight)
        .await;
    let larger = changed(larger);
    world.admitted(&ask("2", call(5, 5), &tight)).await;
    world.release("r-2", &tight).await;
    let settled = world.admitted(&ask("3", call(5, 5), &tight)).await;
    world
        .record(settling(&settled, "e", call(2, 2)), &tight)
        .await;
    let before = world.standings(&tight).await;
    for _ in 0..2 {
        world = world.crash().await;
        assert_eq!(world.hold("r-1").await, Some(larger.clone()));
        assert_eq!(world.hold("r-2").await.unwrap().state, HoldState::Released);
        let restored = world.hold("r-3").await.unwrap();
        assert_eq!(
            (restored.state, &*restored.event_id),
            (HoldState::Settled, "e")
        );
        assert_eq!(world.standings(&tight).await, before);
        world.refused(&ask("4", call(20, 10), &tight)).await;
        match world.admit(&first).await {
            Admission::Admitted { hold, replayed, .. } => {
                assert!(replayed);
                assert_eq!(hold, larger);
            }
            other => panic!("{other:?}"),
        }
        let again = world
            .extend("x", &hold, Some(call(10, 20)), Some(HOUR), &tight)
            .await;
        assert_eq!(changed(again), larger);
    }
    world.pass(HOUR);
    world = world.crash().await;
    assert_eq!(world.hold("r-1").await.unwrap().state, HoldState::Expired);
    assert_eq!(world.figures(&tight[1]).await, (4, 0));
}

/// A crash between commit and settlement heals: the log settles the hold, and the event counts once.
pub async fn a_crash_before_settlement_heals<S: Store>() {
    let mut world = World::<S>::new().await;
    let hold = world.admitted(&ask("1", call(40, 20), &rules())).await;
    world.ledger.write(settling(&hold, "e", call(30, 5)));
    world = world.crash().await;
    // Known from a seed that has the event, with the hold beside it: too much for a second, never too little.
    assert_eq!(tokens(&world).await, (35, 60));
    world.sweep().await;
    assert_eq!(tokens(&world).await, (35, 0));
    assert_eq!(world.hold("r-1").await.unwrap().event_id, "e");
    world.sweep().await;
    assert_eq!(tokens(&world).await, (35, 0));
}
