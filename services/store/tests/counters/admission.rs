//! Admission: all rules or none, what refuses and what only reports, and repeats.

use tokenmeter_model::limit::{Amounts, Enforcement, Metric, Scope, Window};
use tokenmeter_store::counters::{Admission, Ask, Counters as _, Known, Rule};

use super::world::{World, usage};
use super::{
    HOUR, MINUTE, SECOND, Store, T0, ask, call, fingerprint, per_minute, per_month, rule, with,
};

/// Sixteen rules over every scope, window and metric; room for `calls` calls of 10 and 5 tokens.
fn sixteen(calls: i64) -> Vec<Rule> {
    let scopes = [Scope::Tenant, Scope::Team, Scope::User, Scope::ApiKey];
    let windows = [Window::Minute, Window::Hour, Window::Day, Window::Month];
    let mut rules = Vec::new();
    for (n, scope) in scopes.into_iter().enumerate() {
        for (m, window) in windows.into_iter().enumerate() {
            let (metric, each) = [
                (Metric::Requests, 1),
                (Metric::InputTokens, 10),
                (Metric::OutputTokens, 5),
                (Metric::Cost, 150),
            ][(n + m) % 4];
            rules.push(rule(scope, metric, window, calls * each));
        }
    }
    rules
}

/// A call is held in all of sixteen counters, or in none of them.
pub async fn all_or_nothing<S: Store>() {
    let world = World::<S>::new().await;
    let roomy = sixteen(3);
    world.admitted(&ask("1", call(10, 5), &roomy)).await;
    let before = world.standings(&roomy).await;
    for tight in 0..roomy.len() {
        let mut rules = roomy.clone();
        let used = before[tight].held;
        rules[tight] = with(&roomy[tight], |limit| limit.amount = 2 * used - 1);
        let name = format!("tight {tight}");
        let (refusing, standings) = world.refused(&ask(&name, call(10, 5), &rules)).await;
        assert_eq!(refusing, tight);
        for (n, standing) in standings.iter().enumerate() {
            assert_eq!(standing.exceeded, n == tight, "{n} of {standings:?}");
        }
        assert_eq!(
            world.standings(&roomy).await,
            before,
            "a refusal holds nothing"
        );
        assert_eq!(world.hold(&format!("r-{name}")).await, None);
    }
    let Admission::Admitted { standings, .. } = world.admit(&ask("2", call(10, 5), &roomy)).await
    else {
        panic!("there is room for it");
    };
    for (after, before) in standings.iter().zip(&before) {
        assert_eq!(after.held, 2 * before.held, "held in every counter");
    }
}

/// Up to the limit and with it, calls are admitted; the next one is refused, and told how it stands.
pub async fn a_limit_is_reached_exactly<S: Store>() {
    let mut world = World::<S>::new().await;
    let rules = [per_month(100)];
    world.record(usage(T0, call(20, 10)), &rules).await;
    world.admitted(&ask("1", call(40, 20), &rules)).await;
    let (rule, standings) = world.refused(&ask("2", call(6, 5), &rules)).await;
    assert_eq!(rule, 0);
    assert_eq!((standings[0].used, standings[0].held), (30, 60));
    assert!(standings[0].exceeded);
    world.admitted(&ask("3", call(5, 5), &rules)).await;
    world.refused(&ask("4", call(1, 0), &rules)).await;
    assert_eq!(world.figures(&rules[0]).await, (30, 70));
}

/// The first rule in the order given is the one that refuses.
pub async fn the_first_rule_refuses<S: Store>() {
    let world = World::<S>::new().await;
    let tenant = rule(Scope::Tenant, Metric::TotalTokens, Window::Day, 5);
    let shadow = with(&tenant, |limit| limit.enforcement = Enforcement::Shadow);
    let user = per_month(5);
    let rules = [shadow, user.clone(), tenant.clone()];
    assert_eq!(world.refused(&ask("1", call(4, 2), &rules)).await.0, 1);
    assert_eq!(
        world
            .refused(&ask("1", call(4, 2), &[tenant, user]))
            .await
            .0,
        0
    );
}

/// Limits that record overage, and shadow limits, say that a call does not fit and admit it.
pub async fn shadow_and_overage_never_refuse<S: Store>() {
    let world = World::<S>::new().await;
    for enforcement in [Enforcement::Shadow, Enforcement::RecordOverage] {
        let word = enforcement.as_str();
        let rules = [
            with(&per_month(10), |limit| limit.enforcement = enforcement),
            with(
                &rule(Scope::User, Metric::TotalTokens, Window::Request, 8),
                |limit| limit.enforcement = enforcement,
            ),
        ];
        let held = world.figures(&rules[0]).await.1;
        let ask = ask(word, call(20, 1), &rules);
        let Admission::Admitted { standings, .. } = world.admit(&ask).await else {
            panic!("{word} refused");
        };
        assert!(standings[0].exceeded && standings[1].exceeded, "{word}");
        assert_eq!(standings[0].held, held + 21, "what is beyond is held, too");
    }
    // They stand beside blocking ones without making those any weaker.
    let shadow = with(&per_minute(9), |limit| {
        limit.enforcement = Enforcement::Shadow
    });
    let rules = [shadow, per_month(60)];
    world.refused(&ask("blocked", call(20, 1), &rules)).await;
}

/// A limit of a single request looks at that request alone and counts nothing.
pub async fn single_requests_are_measured_alone<S: Store>() {
    let world = World::<S>::new().await;
    let rules = [rule(Scope::User, Metric::OutputTokens, Window::Request, 10)];
    for name in ["1", "2", "3"] {
        // No counter is needed for it, so that nothing is cold.
        let ask = ask(name, call(0, 10), &rules);
        let step = world.counters.admit(world.place(), &ask);
        let Known::Answer(Admission::Admitted { standings, .. }) = step.await.unwrap() else {
            panic!("{name} is as large as may be");
        };
        let standing = standings[0];
        assert_eq!((standing.used, standing.held), (0, 0));
        assert_eq!(standing.reset_us, None);
    }
    let (_, standings) = world.refused(&ask("4", call(0, 11), &rules)).await;
    assert_eq!(standings[0].retry_us, None, "it never fits");
}

/// Limits of a provider or a model count its calls only, and calls before the limit was set, too.
pub async fn restricted_limits_count_what_they_cover<S: Store>() {
    let mut world = World::<S>::new().await;
    let all = per_month(1_000);
    let of_p = with(&all, |limit| limit.provider = "p".into());
    let of_m = with(&all, |limit| limit.model = "m".into());
    let of_n = with(&all, |limit| limit.model = "n".into());
    let both = with(&of_p, |limit| limit.model = "n".into());
    world.admitted(&ask("1", call(10, 1), &[all.clone()])).await;
    let other = Ask {
        provider: "q".into(),
        ..ask("2", call(20, 2), &[all.clone()])
    };
    world.admitted(&other).await;
    let mut delta = usage(T0, call(100, 10));
    delta.lines.push((
        "n".into(),
        Amounts {
            requests: 0,
            ..call(200, 20)
        },
    ));
    world.record(delta, &[]).await;
    assert_eq!(world.figures(&all).await, (330, 33));
    assert_eq!(world.figures(&of_p).await, (330, 11));
    assert_eq!(world.figures(&of_m).await, (110, 33));
    assert_eq!(world.figures(&of_n).await, (220, 0));
    assert_eq!(world.figures(&both).await, (220, 0));
    let requests = with(&of_n, |limit| limit.metric = Metric::Requests);
    assert_eq!(
        world.figures(&requests).await,
        (0, 0),
        "a call counts where its first line does"
    );
}

/// Every metric is counted beside the others: limits of one window differ in nothing else.
pub async fn every_metric_is_counted<S: Store>() {
    let mut world = World::<S>::new().await;
    let used = Amounts {
        requests: 1,
        input: 50,
        uncached_input: 20,
        output: 7,
        cost_nano_usd: 999,
    };
    let held = Amounts {
        requests: 1,
        input: 40,
        uncached_input: 30,
        output: 9,
        cost_nano_usd: 111,
    };
    let expected = [
        (Metric::Requests, 1, 1),
        (Metric::InputTokens, 50, 40),
        (Metric::UncachedInputTokens, 20, 30),
        (Metric::OutputTokens, 7, 9),
        (Metric::TotalTokens, 57, 49),
        (Metric::Cost, 999, 111),
    ];
    let of = |metric| rule(Scope::Team, metric, Window::Day, 1_000_000);
    let rules: Vec<_> = expected.iter().map(|(metric, ..)| of(*metric)).collect();
    world.record(usage(T0, used), &rules).await;
    world.admitted(&ask("1", held, &rules)).await;
    for (rule, (metric, used, held)) in rules.iter().zip(expected) {
        assert_eq!(world.figures(rule).await, (used, held), "{metric:?}");
        let room = Amounts {
            requests: 0,
            ..Amounts::ZERO
        };
        let full = with(rule, |limit| limit.amount = used + held);
        let over = with(rule, |limit| limit.amount = used + held - 1);
        world
            .admitted(&Ask {
                dry_run: true,
                ..ask("room", room, &[full])
            })
            .await;
        world.refused(&ask("none", room, &[over])).await;
    }
}

/// An amount of 0 refuses every call that uses the metric, and no other.
pub async fn a_limit_of_nothing_refuses_use<S: Store>() {
    let world = World::<S>::new().await;
    let rules = [rule(Scope::User, Metric::OutputTokens, Window::Day, 0)];
    let (_, standings) = world.refused(&ask("1", call(5, 1), &rules)).await;
    assert_eq!(standings[0].retry_us, None, "waiting does not help");
    world.admitted(&ask("1", call(5, 0), &rules)).await;
}

/// The largest limits and amounts that there are neither wrap around nor let anything pass.
pub async fn the_largest_amounts_do_not_wrap<S: Store>() {
    let world = World::<S>::new().await;
    let most = tokenmeter_model::limit::MAX_AMOUNT;
    let rules = [
        rule(Scope::User, Metric::Cost, Window::Day, most),
        rule(Scope::User, Metric::TotalTokens, Window::Hour, most),
    ];
    let huge = Amounts {
        cost_nano_usd: most,
        ..call(1, 1)
    };
    world.admitted(&ask("1", huge, &rules)).await;
    assert_eq!(world.refused(&ask("2", huge, &rules)).await.0, 0);
    assert_eq!(world.figures(&rules[0]).await, (0, most));
}

/// Sums that do not fit 64 bits are told as far as those go, and come back to what they are.
pub async fn sums_beyond_64_bits_come_back<S: Store>() {
    let mut world = World::<S>::new().await;
    let most = tokenmeter_model::limit::MAX_AMOUNT;
    let block = rule(Scope::User, Metric::Cost, Window::Month, 100);
    let rules = [with(&block, |limit| {
        limit.enforcement = Enforcement::Shadow;
    })];
    let huge = Amounts {
        cost_nano_usd: most,
        ..call(1, 1)
    };
    world.standings(&rules).await;
    for name in ["1", "2", "3"] {
        world.admitted(&ask(name, huge, &rules)).await;
    }
    assert_eq!(world.figures(&rules[0]).await, (0, i64::MAX));
    for name in ["r-1", "r-2", "r-3"] {
        world.release(name, &rules).await;
    }
    assert_eq!(world.figures(&rules[0]).await, (0, 0));
    for _ in 0..2 {
        world.record(usage(T0, huge), &rules).await;
    }
    assert_eq!(world.figures(&rules[0]).await, (i64::MAX, 0));
    world.refused(&ask("4", call(0, 0), &[block])).await;
    for _ in 0..2 {
        let undo = Amounts::ZERO.minus(&huge);
        world.record(usage(T0, undo), &rules).await;
    }
    assert_eq!(world.figures(&rules[0]).await, (0, 0));
}

/// An admitted request gets its first answer again, with the limits of now: while the hold lives and for 24
/// hours after its end.
pub async fn admissions_replay<S: Store>() {
    let world = World::<S>::new().await;
    let rules = [per_minute(1)];
    let first = ask("1", call(10, 5), &rules);
    let hold = world.admitted(&first).await;
    assert_eq!((hold.admit_us, hold.expire_us), (T0, T0 + 10 * MINUTE));
    assert_eq!(hold.price_version, Some(7));
    let again = Ask {
        reservation_id: "another".into(),
        price_version: Some(8),
        ..first.clone()
    };
    let replay = async || match world.admit(&again).await {
        Admission::Admitted {
            hold,
            replayed,
            standings,
        } => {
            assert!(replayed);
            (hold, standings)
        }
        other => panic!("{other:?}"),
    };
    let (replayed, standings) = replay().await;
    assert_eq!(replayed, hold);
    assert_eq!((standings[0].used, standings[0].held), (0, 1), "held once");
    assert_eq!(world.hold("another").await, None);
    world.release(&hold.reservation_id, &rules).await;
    assert_eq!(replay().await.0.reservation_id, hold.reservation_id);
    assert_eq!(
        world.figures(&rules[0]).await,
        (0, 0),
        "a replay holds nothing anew"
    );
    world.pass(24 * HOUR - SECOND);
    assert_eq!(replay().await.0.reservation_id, hold.reservation_id);
    assert!(world.hold(&hold.reservation_id).await.is_some());
    world.pass(2 * SECOND);
    assert_eq!(
        world.hold(&hold.reservation_id).await,
        None,
        "forgotten after 24 hours"
    );
    let later = world.admitted(&again).await;
    assert_eq!(
        (&*later.reservation_id, later.admit_us),
        ("another", world.clock.now())
    );
}

/// A refusal is not remembered: the same request is decided anew.
pub async fn refusals_are_decided_anew<S: Store>() {
    let world = World::<S>::new().await;
    let rules = [per_minute(1)];
    let first = world.admitted(&ask("1", call(10, 5), &rules)).await;
    let second = ask("2", call(10, 5), &rules);
    world.refused(&second).await;
    world.refused(&second).await;
    world.release(&first.reservation_id, &rules).await;
    world.admitted(&second).await;
}

/// The name of a request stands for what it first asked for.
pub async fn a_request_is_one_question<S: Store>() {
    let world = World::<S>::new().await;
    let rules = [per_month(1_000)];
    let first = ask("1", call(10, 5), &rules);
    world.admitted(&first).await;
    let other = Ask {
        fingerprint: fingerprint("other"),
        ..first.clone()
    };
    assert_eq!(world.admit(&other).await, Admission::RequestConflict);
    assert_eq!(world.figures(&rules[0]).await, (0, 15));
    // What was refused had no effect, so that its name is free.
    let too_much = ask("2", call(2_000, 0), &rules);
    world.refused(&too_much).await;
    let less = Ask {
        fingerprint: fingerprint("less"),
        amounts: call(1, 0),
        ..too_much
    };
    world.admitted(&less).await;
}

/// A dry run decides as a call would, and leaves nothing.
pub async fn a_dry_run_changes_nothing<S: Store>() {
    let world = World::<S>::new().await;
    let rules = [per_minute(1)];
    let dry = Ask {
        dry_run: true,
        ..ask("1", call(10, 5), &rules)
    };
    for _ in 0..3 {
        let hold = world.admitted(&dry).await;
        assert_eq!(hold.amounts, call(10, 5));
    }
    assert_eq!(world.figures(&rules[0]).await, (0, 0));
    assert_eq!(world.hold("r-1").await, None);
    let real = Ask {
        dry_run: false,
        ..dry.clone()
    };
    assert!(matches!(
        world.admit(&real).await,
        Admission::Admitted {
            replayed: false,
            ..
        }
    ));
    world
        .refused(&Ask {
            request_id: "2".into(),
            ..dry
        })
        .await;
}

/// What is used up after a reset of a session's budget counts; what was before does not.
pub async fn a_base_is_taken_off<S: Store>() {
    let mut world = World::<S>::new().await;
    let budget = rule(Scope::Session, Metric::TotalTokens, Window::Budget, 100);
    let whole = [budget.clone()];
    world.record(usage(T0, call(80, 15)), &whole).await;
    world.refused(&ask("1", call(5, 1), &whole)).await;
    let base = Amounts {
        requests: 1,
        ..call(80, 10)
    };
    let reset = [Rule { base, ..budget }];
    assert_eq!(world.figures(&reset[0]).await, (5, 0));
    world.admitted(&ask("1", call(90, 5), &reset)).await;
    world.refused(&ask("2", call(1, 0), &reset)).await;
}

/// One tenant's use and holds are nothing to another one, of the same names.
pub async fn tenants_are_apart<S: Store>() {
    let mut world = World::<S>::new().await;
    let rules = [
        rule(Scope::Tenant, Metric::TotalTokens, Window::Month, 20),
        per_minute(1),
    ];
    let first = ask("1", call(10, 5), &rules);
    let hold = world.admitted(&first).await;
    world.tenant = tokenmeter_model::id::TenantId::new("b").unwrap();
    assert_eq!(world.hold(&hold.reservation_id).await, None);
    assert_eq!(world.counters.holds(&world.tenant).await.unwrap(), []);
    assert_eq!(world.figures(&rules[0]).await, (0, 0));
    // The same name is another request there.
    assert!(matches!(
        world.admit(&first).await,
        Admission::Admitted {
            replayed: false,
            ..
        }
    ));
    world.record(usage(T0, call(1, 0)), &rules).await;
    assert_eq!(world.figures(&rules[0]).await, (1, 15));
    world.tenant = tokenmeter_model::id::TenantId::new("a").unwrap();
    assert_eq!(world.figures(&rules[0]).await, (0, 15));
}
