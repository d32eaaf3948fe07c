//! Windows: what still counts at a moment, when it no longer does, and what of it callers are told.

use tokenmeter_model::limit::{Metric, Scope, Window};
use tokenmeter_model::zone::Zone;
use tokenmeter_store::counters::{Admission, Ask, Rule};

use super::world::{World, settling, usage};
use super::{DAY, HOUR, MINUTE, SECOND, Store, T0, ask, call, per_minute, per_month, rule};

fn per_hour(requests: i64) -> Rule {
    rule(Scope::User, Metric::Requests, Window::Hour, requests)
}

fn daily(tokens: i64) -> Rule {
    rule(Scope::User, Metric::TotalTokens, Window::Day, tokens)
}

/// However calls lie around the boundary of a minute or an hour, no 60 seconds or minutes have more
/// than the limit.
pub async fn no_double_burst_at_a_boundary<S: Store>() {
    for (rule, window_us, step_us) in [
        (per_minute(10), MINUTE, 170_003),
        (per_hour(10), HOUR, 10 * SECOND + 7),
    ] {
        // A burst shortly before a minute is full, and then all that is let through.
        let world = World::<S>::at(T0 - 3 * SECOND, Zone::utc()).await;
        let mut admitted = Vec::new();
        for n in 0..900 {
            let ask = Ask {
                life_us: 2 * HOUR,
                ..ask(&n.to_string(), call(1, 1), std::slice::from_ref(&rule))
            };
            if matches!(world.admit(&ask).await, Admission::Admitted { .. }) {
                admitted.push(world.clock.now());
            }
            world.pass(step_us);
        }
        assert!(admitted.len() > 20, "a window slides: {}", admitted.len());
        for from in &admitted {
            let within = admitted
                .iter()
                .filter(|at| (*from..from + window_us).contains(at));
            assert!(within.count() <= 10, "more than 10 from {from}");
        }
    }
}

/// What is used or held in a part of a sliding window counts until the whole part is out.
pub async fn sliding_windows_slide<S: Store>() {
    let mut world = World::<S>::at(T0 + SECOND / 2, Zone::utc()).await;
    let rules = [per_minute(2), per_hour(2)];
    world.standings(&rules).await;
    world
        .record(usage(world.clock.now(), call(1, 1)), &rules)
        .await;
    let long = Ask {
        life_us: 2 * HOUR,
        ..ask("1", call(1, 1), &rules)
    };
    world.admitted(&long).await;
    let (refusing, standings) = world.refused(&ask("2", call(1, 1), &rules)).await;
    assert_eq!(refusing, 0);
    let minute_out = T0 + 61 * SECOND;
    let hour_out = T0 + 61 * MINUTE;
    for (standing, out) in standings.iter().zip([minute_out, hour_out]) {
        assert_eq!((standing.used, standing.held), (1, 1));
        assert_eq!(
            (standing.reset_us, standing.retry_us),
            (Some(out), Some(out))
        );
    }
    for (out, figures) in [(minute_out, [(0, 0), (1, 1)]), (hour_out, [(0, 0), (0, 0)])] {
        world.clock.set(out - 1);
        let before = world.standings(&rules).await;
        assert!(before.iter().any(|one| (one.used, one.held) == (1, 1)));
        world.clock.set(out);
        let after = world.standings(&rules).await;
        let after: Vec<_> = after.iter().map(|one| (one.used, one.held)).collect();
        assert_eq!(after, figures);
    }
}

/// A refusal of a sliding window tells when so much has slid out that the same call fits, and then it does.
pub async fn retry_is_when_it_fits<S: Store>() {
    let world = World::<S>::new().await;
    let tokens = rule(Scope::User, Metric::TotalTokens, Window::Minute, 100);
    let rules = [tokens];
    for (n, tokens) in [40, 30, 20].into_iter().enumerate() {
        world
            .admitted(&ask(&n.to_string(), call(tokens, 0), &rules))
            .await;
        world.pass(10 * SECOND);
    }
    for (asked, out) in [(11, 61), (50, 61), (51, 71), (80, 71), (81, 81), (100, 81)] {
        let (_, standings) = world.refused(&ask("x", call(asked, 0), &rules)).await;
        assert_eq!(standings[0].retry_us, Some(T0 + out * SECOND), "{asked}");
    }
    let (_, standings) = world.refused(&ask("x", call(101, 0), &rules)).await;
    assert_eq!(standings[0].retry_us, None, "more than the whole limit");
    world.clock.set(T0 + 71 * SECOND - 1);
    world.refused(&ask("x", call(51, 0), &rules)).await;
    world.pass(1);
    world.admitted(&ask("x", call(51, 0), &rules)).await;
}

/// Days and months end in the tenant's zone, whatever its clocks do then.
pub async fn days_and_months_end_in_the_zone<S: Store>() {
    // Each the first instant of a day, its length in minutes, and the zone.
    for (zone, start_us, minutes) in [
        // Half an hour beside UTC.
        ("Asia/Kolkata", 1_784_140_200_000_000, 24 * 60),
        // The clocks go forward, then back.
        ("America/New_York", 1_772_946_000_000_000, 23 * 60),
        ("America/New_York", 1_793_505_600_000_000, 25 * 60),
        // Three quarters of an hour, forward and back.
        ("Pacific/Chatham", 1_790_421_300_000_000, 23 * 60),
        ("Pacific/Chatham", 1_775_297_700_000_000, 25 * 60),
        // Clocks that change by half an hour.
        ("Australia/Lord_Howe", 1_791_034_200_000_000, 23 * 60 + 30),
        ("Australia/Lord_Howe", 1_775_307_600_000_000, 24 * 60 + 30),
    ] {
        let ends_us = start_us + minutes * MINUTE;
        let mut world = World::<S>::at(start_us - 1, Zone::named(zone).unwrap()).await;
        let rules = [daily(10)];
        world.record(usage(start_us - 1, call(6, 0)), &rules).await;
        assert_eq!(world.figures(&rules[0]).await, (6, 0), "{zone}");
        world.clock.set(start_us);
        assert_eq!(world.figures(&rules[0]).await, (0, 0), "{zone}");
        world.record(usage(start_us, call(7, 0)), &rules).await;
        world.clock.set(ends_us - 1);
        let (_, standings) = world.refused(&ask("1", call(4, 0), &rules)).await;
        assert_eq!(standings[0].used, 7, "{zone}");
        assert_eq!(standings[0].reset_us, Some(ends_us), "{zone}");
        assert_eq!(standings[0].retry_us, Some(ends_us), "{zone}");
        world.clock.set(ends_us);
        world.admitted(&ask("1", call(4, 0), &rules)).await;
        assert_eq!(world.figures(&rules[0]).await, (0, 4), "{zone}");
    }
    // 2026-07-31 23:59 and 2026-08-01 00:00 in Kolkata.
    let august = 1_785_522_600_000_000;
    let world = World::<S>::at(august - MINUTE, Zone::named("Asia/Kolkata").unwrap()).await;
    let rules = [per_month(10)];
    world.admitted(&ask("1", call(10, 0), &rules)).await;
    let (_, standings) = world.refused(&ask("2", call(1, 0), &rules)).await;
    assert_eq!(standings[0].reset_us, Some(august));
    world.clock.set(august);
    world.admitted(&ask("2", call(1, 0), &rules)).await;
}

/// A call is charged when it was admitted, in every window, however late its usage comes.
pub async fn usage_is_charged_at_its_admission<S: Store>() {
    let midnight = T0 + 12 * HOUR;
    let mut world = World::<S>::at(midnight - SECOND, Zone::utc()).await;
    let rules = [per_minute(10), daily(100), per_month(1_000)];
    let hold = world.admitted(&ask("1", call(20, 0), &rules)).await;
    let figures = async |world: &World<S>| {
        let standings = world.standings(&rules).await;
        standings
            .iter()
            .map(|one| (one.used, one.held))
            .collect::<Vec<_>>()
    };
    assert_eq!(figures(&world).await, [(0, 1), (0, 20), (0, 20)]);
    world.clock.set(midnight);
    assert_eq!(
        figures(&world).await,
        [(0, 1), (0, 0), (0, 20)],
        "held yesterday"
    );
    world.pass(5 * SECOND);
    world
        .record(settling(&hold, "e", call(25, 0)), &rules)
        .await;
    assert_eq!(
        figures(&world).await,
        [(1, 0), (0, 0), (25, 0)],
        "used yesterday"
    );
    world.clock.set(midnight + 60 * SECOND);
    assert_eq!(figures(&world).await, [(0, 0), (0, 0), (25, 0)]);
}

/// What is charged before the windows that are open does not count in them.
pub async fn usage_of_the_past_is_left_out<S: Store>() {
    let mut world = World::<S>::new().await;
    let session = rule(Scope::Session, Metric::TotalTokens, Window::Session, 1_000);
    let rules = [
        per_minute(10),
        per_hour(10),
        daily(100),
        per_month(100),
        session,
    ];
    world.standings(&rules).await;
    let mut late = Vec::new();
    for past in [61 * SECOND, 61 * MINUTE, 13 * HOUR, 15 * DAY] {
        late.push(world.record(usage(T0 - past, call(1, 0)), &rules).await);
    }
    let used: Vec<_> = late[3].standings.iter().map(|one| one.used).collect();
    assert_eq!(used, [0, 1, 2, 3, 4]);
    assert!(late.iter().all(|one| one.counted));
    // The same as a seed has it.
    world = world.crash().await;
    assert_eq!(world.standings(&rules).await, late[3].standings);
}

/// The life of a session does not end; it neither resets nor is worth waiting for.
pub async fn sessions_do_not_reset<S: Store>() {
    let mut world = World::<S>::new().await;
    let session = rule(Scope::Session, Metric::TotalTokens, Window::Session, 100);
    let rules = [session];
    world.record(usage(T0, call(90, 0)), &rules).await;
    world.pass(400 * DAY);
    let (_, standings) = world.refused(&ask("1", call(11, 0), &rules)).await;
    let standing = standings[0];
    assert_eq!(
        (standing.used, standing.reset_us, standing.retry_us),
        (90, None, None)
    );
}

/// The clock that decides is the counters' own, and never goes back.
pub async fn the_clock_never_goes_back<S: Store>() {
    let world = World::<S>::new().await;
    let rules = [per_minute(1)];
    let first = world.admitted(&ask("1", call(1, 1), &rules)).await;
    world.clock.set(T0 - 2 * HOUR);
    world.refused(&ask("2", call(1, 1), &rules)).await;
    world.release(&first.reservation_id, &rules).await;
    let second = world.admitted(&ask("2", call(1, 1), &rules)).await;
    assert!(second.admit_us >= first.admit_us);
    world.refused(&ask("3", call(1, 1), &rules)).await;
}
