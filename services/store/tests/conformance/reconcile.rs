//! Reconciliation: planted drift is found, in every field of every kind of total.

use std::collections::BTreeMap;

use tokenmeter_model::counts::{CacheWrites, TokenCounts};
use tokenmeter_model::event::Status;
use tokenmeter_model::totals::{Totals, bucket};
use tokenmeter_store::ledger::Ledger;
use tokenmeter_store::ledger::reconcile::{
    Drift, DriftQuery, DriftState, Reconciled, Resolve, ResolveOutcome, Scope,
};

use super::{T0, event, record, request, submission, tenant, user_totals};

/// Events recorded: enough that one more is less than 5 % in every field.
const EVENTS: usize = 90;
/// Totals that they make: four lifetimes, three quarter-hours.
const TOTALS: i64 = 7;

/// Events with every figure set, all of one user, team, session, model and quarter-hour.
async fn recorded(ledger: &dyn Ledger) {
    let batch = (0..EVENTS).map(|n| {
        let mut one = event(&format!("e{n}"), "u");
        one.team_id = "team".into();
        one.status = [Status::Succeeded, Status::Failed, Status::Interrupted][n % 3];
        one.latency_ms = Some(100);
        one.lines[0].counts = TokenCounts {
            input: 100,
            cache_read: 100,
            cache_write: CacheWrites {
                ttl_5m: 1,
                ttl_30m: 1,
                ttl_1h: 1,
                ttl_12h: 1,
                unspecified: 1,
            },
            output: 100,
            reasoning: 1,
            input_audio: 1,
            input_image: 1,
            tool_use_prompt: 1,
            cache_read_audio: 1,
            output_audio: 1,
            output_image: 1,
        };
        one.lines[0].tool_requests = BTreeMap::from([("web_search".into(), 1)]);
        let mut one = submission("a", one, 100, T0);
        if n % 3 == 0 {
            one.quotes = vec![None];
        }
        one
    });
    record(ledger, batch.collect()).await;
}

async fn run(ledger: &dyn Ledger, id: &str, fix: bool) -> Reconciled {
    let owner = tenant("a");
    ledger.reconcile(&owner, "", fix, id, T0 + 1).await.unwrap()
}

async fn drifts(ledger: &dyn Ledger, id: &str, state: Option<DriftState>) -> Vec<Drift> {
    let query = DriftQuery {
        state,
        reconcile_id: id.into(),
        limit: 1_000,
        ..DriftQuery::default()
    };
    ledger.drifts(&tenant("a"), &query).await.unwrap()
}

/// An update of every total of the tenant by an expression over each field.
fn update(of_field: impl Fn(&str) -> String) -> String {
    let fields: Vec<_> = Totals::SUMS
        .iter()
        .map(|name| format!("{name} = {}", of_field(name)))
        .collect();
    format!(
        "UPDATE usage_totals SET {} WHERE tenant_id = 'a'",
        fields.join(", ")
    )
}

fn count<T>(list: &[T]) -> i64 {
    i64::try_from(list.len()).unwrap()
}

fn counts(found: &Reconciled) -> (i64, i64, i64) {
    (found.drift_count, found.corrected, found.flagged)
}

/// `execute` runs SQL on the ledger's tables, as nobody should.
pub async fn small_drift_is_corrected(ledger: &dyn Ledger, execute: impl AsyncFn(String)) {
    recorded(ledger).await;
    let fields = i64::try_from(Totals::SUMS.len()).unwrap();
    let all = TOTALS * fields;
    let before = user_totals(ledger, "a", "u").await;
    assert!(before.sums().iter().all(|sum| *sum >= 30), "{before:?}");
    assert_eq!(counts(&run(ledger, "clean", true).await), (0, 0, 0));

    execute(update(|name| format!("{name} + 1"))).await;
    assert_eq!(counts(&run(ledger, "look", false).await), (all, 0, 0));
    let found = drifts(ledger, "look", Some(DriftState::Reported)).await;
    assert_eq!(count(&found), all);
    for scope in Scope::ALL {
        for bucket in [0, bucket(T0)] {
            if scope == Scope::Session && bucket != 0 {
                continue;
            }
            let of_total = found
                .iter()
                .filter(|one| one.key.scope == scope && one.key.bucket == bucket);
            let mut fields: Vec<_> = of_total.map(|one| one.field.as_str()).collect();
            fields.sort_unstable();
            let mut every = Totals::SUMS.to_vec();
            every.sort_unstable();
            assert_eq!(fields, every, "{scope:?} {bucket}");
        }
    }
    assert!(found.iter().all(|one| one.recorded == one.computed + 1));

    // What is recorded between looking and correcting is no drift, and stays.
    let late = submission("a", event("late", "u"), 1_000, T0);
    record(ledger, vec![late]).await;
    let fixed = run(ledger, "fix", true).await;
    assert_eq!(counts(&fixed), (all, all, 0));
    assert_eq!(fixed.totals_checked, TOTALS);
    assert_eq!(counts(&run(ledger, "after", true).await), (0, 0, 0));
    let after = user_totals(ledger, "a", "u").await;
    assert_eq!(after.requests, before.requests + 1);
    assert_eq!(after.cost_nano_usd, before.cost_nano_usd + 1_000);
    // A repeat of the run finds what it found.
    assert_eq!(counts(&run(ledger, "fix", true).await), (all, all, 0));
    assert_eq!(user_totals(ledger, "a", "u").await, after);
}

pub async fn large_drift_is_flagged(ledger: &dyn Ledger, execute: impl AsyncFn(String)) {
    recorded(ledger).await;
    let before = user_totals(ledger, "a", "u").await;
    let fields = i64::try_from(Totals::SUMS.len()).unwrap();
    let all = TOTALS * fields;
    // Exactly 5 % more of the one field that such a part exists of; twice as much of the others.
    execute(update(|name| match name {
        "input" => "input + input / 20".into(),
        _ => format!("{name} * 2"),
    }))
    .await;
    assert_eq!(counts(&run(ledger, "one", true).await), (all, 0, all));
    assert_eq!(counts(&run(ledger, "two", true).await), (all, 0, all));
    assert_eq!(
        user_totals(ledger, "a", "u").await.output,
        before.output * 2
    );
    let found = drifts(ledger, "one", Some(DriftState::Flagged)).await;
    assert_eq!(count(&found), all);
    let exact = found.iter().find(|one| one.field == "input").unwrap();
    assert_eq!(exact.ppm(), Some(50_000));

    let resolve = |drift: &Drift, correct: bool| Resolve {
        request: request(
            "a",
            &format!("resolve-{}", drift.number),
            "ResolveDrift",
            T0 + 5,
        ),
        number: drift.number,
        correct,
        reason: "looked at".into(),
    };
    for drift in &found {
        let wanted = resolve(drift, true);
        let ResolveOutcome::Resolved(done) = ledger.resolve_drift(wanted.clone()).await.unwrap()
        else {
            panic!("{drift:?}");
        };
        assert_eq!(
            (done.state, done.resolved_us),
            (DriftState::Corrected, Some(T0 + 5))
        );
        assert_eq!(
            ledger.resolve_drift(wanted).await.unwrap(),
            ResolveOutcome::Resolved(done)
        );
    }
    // The other run's findings of the same fields are settled with them.
    assert_eq!(drifts(ledger, "", Some(DriftState::Flagged)).await, []);
    let other = Resolve {
        request: request("a", "another", "ResolveDrift", T0),
        ..resolve(&found[0], true)
    };
    assert_eq!(
        ledger.resolve_drift(other.clone()).await.unwrap(),
        ResolveOutcome::NotFlagged(DriftState::Corrected)
    );
    let nobody = Resolve {
        number: 999_999,
        ..other.clone()
    };
    assert_eq!(
        ledger.resolve_drift(nobody).await.unwrap(),
        ResolveOutcome::NotFound
    );
    let mut of_b = other;
    of_b.request.tenant = tenant("b");
    assert_eq!(
        ledger.resolve_drift(of_b).await.unwrap(),
        ResolveOutcome::NotFound
    );
    assert_eq!(counts(&run(ledger, "three", false).await), (0, 0, 0));
    assert_eq!(user_totals(ledger, "a", "u").await, before);
}

pub async fn missing_and_superfluous_totals_are_drift(
    ledger: &dyn Ledger,
    execute: impl AsyncFn(String),
) {
    recorded(ledger).await;
    let before = user_totals(ledger, "a", "u").await;
    let columns = Totals::SUMS.join(", ");
    execute("DELETE FROM usage_totals WHERE scope = 'user' AND bucket = 0".into()).await;
    execute(format!(
        "INSERT INTO usage_totals (tenant_id, scope, subject, bucket, {columns}, updated_at) \
         SELECT tenant_id, scope, 'ghost', bucket, {columns}, updated_at FROM usage_totals \
         WHERE scope = 'team'"
    ))
    .await;
    let fields = i64::try_from(Totals::SUMS.len()).unwrap();
    assert_eq!(
        counts(&run(ledger, "one", true).await),
        (3 * fields, 0, 3 * fields)
    );
    // Only the user's own, when only they are asked for.
    let owner = tenant("a");
    let of_user = ledger
        .reconcile(&owner, "u", true, "user", T0)
        .await
        .unwrap();
    assert_eq!(counts(&of_user), (fields, 0, fields));
    let nobody = ledger.reconcile(&owner, "w", true, "w", T0).await.unwrap();
    assert_eq!(nobody, Reconciled::default());
    for drift in drifts(ledger, "one", None).await {
        let missing = drift.key.scope == Scope::User;
        match missing {
            true => assert!(
                drift.recorded == 0 && drift.ppm() == Some(1_000_000),
                "{drift:?}"
            ),
            false => assert!(drift.computed == 0 && drift.ppm().is_none(), "{drift:?}"),
        }
        let resolve = Resolve {
            request: request("a", &format!("r{}", drift.number), "ResolveDrift", T0),
            number: drift.number,
            // A total of a subject that has nothing is left as it is.
            correct: missing,
            reason: "looked at".into(),
        };
        let outcome = ledger.resolve_drift(resolve).await.unwrap();
        let state = match missing {
            true => DriftState::Corrected,
            false => DriftState::Accepted,
        };
        assert!(matches!(outcome, ResolveOutcome::Resolved(one) if one.state == state));
    }
    let after = user_totals(ledger, "a", "u").await;
    assert_eq!(after.sums(), before.sums());
    assert_eq!(
        counts(&run(ledger, "two", true).await),
        (2 * fields, 0, 2 * fields)
    );

    // Pages, newest first, without gap or repeat.
    let mut query = DriftQuery {
        limit: 10,
        ..DriftQuery::default()
    };
    let mut seen = Vec::new();
    loop {
        let page = ledger.drifts(&owner, &query).await.unwrap();
        let Some(last) = page.last() else { break };
        query.before = Some(last.number);
        seen.extend(page.iter().map(|one| one.number));
    }
    assert_eq!(count(&seen), 6 * fields);
    assert!(seen.windows(2).all(|pair| pair[0] > pair[1]));
    assert_eq!(
        ledger
            .drifts(&tenant("b"), &DriftQuery { limit: 9, ..query })
            .await
            .unwrap(),
        []
    );
}

/// Runs that race correct a drift once.
pub async fn racing_runs_correct_once<L: Ledger>(ledger: L, execute: impl AsyncFn(String)) {
    let ledger = std::sync::Arc::new(ledger);
    recorded(&*ledger).await;
    let before = user_totals(&*ledger, "a", "u").await;
    execute(update(|name| format!("{name} - 1"))).await;
    let runs: Vec<_> = (0..4)
        .map(|n| {
            let ledger = std::sync::Arc::clone(&ledger);
            tokio::spawn(async move { run(&*ledger, &format!("run-{n}"), true).await.corrected })
        })
        .collect();
    let mut corrected = 0;
    for run in runs {
        corrected += run.await.unwrap();
    }
    assert_eq!(
        corrected,
        TOTALS * i64::try_from(Totals::SUMS.len()).unwrap()
    );
    assert_eq!(user_totals(&*ledger, "a", "u").await, before);
}
