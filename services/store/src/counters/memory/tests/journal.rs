//! The journal: what outlives the process.

use super::*;

/// Opens the journal of a folder anew, at the time of another bench.
fn reopened(folder: &tempfile::TempDir, before: Bench) -> Bench {
    let now_us = before.clock.load(Ordering::Relaxed);
    drop(before);
    let bench = journaled(folder);
    bench.clock.store(now_us, Ordering::Relaxed);
    bench
}

fn journaled(folder: &tempfile::TempDir) -> Bench {
    let path = folder.path().join("holds");
    Bench::on(|clock| Memory::open(Some(&path), clock).unwrap())
}

#[tokio::test]
async fn holds_outlive_the_process_with_all_that_happened_to_them() {
    let folder = tempfile::tempdir().unwrap();
    let bench = journaled(&folder);
    let rules = rules(Scope::User, Metric::InputTokens, Window::Month, 1_000);
    bench.warm(&rules).await;
    for name in ["active", "extended", "settled", "released", "expired"] {
        let ask = Ask {
            life_us: if name == "expired" { 5 } else { 600 } * SECOND_US,
            ..ask(name, &rules)
        };
        bench.admit(&ask).await;
    }
    let extend = Extend {
        request_id: "longer".to_owned(),
        fingerprint: [2; 17],
        reservation_id: "hold-extended".to_owned(),
        amounts: Some(amounts(300)),
        life_us: Some(900 * SECOND_US),
        rules: Arc::clone(&rules),
    };
    let extended = bench.counters.extend(bench.place(), &extend).await.unwrap();
    bench.apply(&delta(7, Some("settled")), &rules).await;
    let release = bench
        .counters
        .release(bench.place(), "hold-released", &rules);
    release.await.unwrap();
    bench.later(10);

    let bench = reopened(&folder, bench);
    let mut states = Vec::new();
    for name in ["active", "extended", "settled", "released", "expired"] {
        states.push(bench.state(name).await.unwrap());
    }
    use HoldState::{Active, Expired, Released, Settled};
    assert_eq!(states, [Active, Active, Settled, Released, Expired]);
    bench.warm(&rules).await;
    assert_eq!(bench.standing(&rules).await.held, 400);
    let again = bench.counters.extend(bench.place(), &extend).await.unwrap();
    let (
        Known::Answer(Change::Changed { hold: one, .. }),
        Known::Answer(Change::Changed { hold, .. }),
    ) = (extended, again)
    else {
        panic!("refused");
    };
    assert_eq!(one, hold);
    let replay = bench.admit(&ask("active", &rules)).await;
    assert!(matches!(replay, Admission::Admitted { replayed: true, .. }));
    assert_eq!(
        bench.counters.swept().await.unwrap(),
        [(bench.tenant.clone(), 0)]
    );
}

#[tokio::test]
async fn a_torn_end_of_a_journal_is_cut() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("holds");
    let bench = journaled(&folder);
    for name in ["a", "b"] {
        bench.admit(&ask(name, &none())).await;
    }
    let bytes = std::fs::read(&path).unwrap();
    drop(bench);
    // Half of the last record, and a last record that is not what was written.
    let mut spoiled = bytes.clone();
    *spoiled.last_mut().unwrap() ^= 1;
    for torn in [&bytes[..bytes.len() - 9], &spoiled[..]] {
        std::fs::write(&path, torn).unwrap();
        let bench = journaled(&folder);
        let names = |holds: Vec<Hold>| holds.into_iter().map(|hold| hold.reservation_id);
        let held = bench.counters.holds(&bench.tenant).await.unwrap();
        assert_eq!(names(held).collect::<Vec<_>>(), ["hold-a"]);
        bench.admit(&ask("c", &none())).await;
        let bench = reopened(&folder, bench);
        let held = bench.counters.holds(&bench.tenant).await.unwrap();
        assert_eq!(names(held).collect::<Vec<_>>(), ["hold-a", "hold-c"]);
    }
    std::fs::write(&path, "something else that is much longer").unwrap();
    let other = Memory::open(Some(&path), crate::clock::system());
    assert!(matches!(other, Err(Error::Unavailable(text)) if text.contains("is no journal")));
}

#[tokio::test]
async fn a_journal_is_open_in_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let bench = journaled(&folder);
    let path = folder.path().join("holds");
    let second = Memory::open(Some(&path), crate::clock::system());
    assert!(matches!(second, Err(Error::Unavailable(text)) if text.contains("another process")));
    bench.counters.close().await;
}

#[tokio::test]
async fn a_journal_that_is_written_anew_has_what_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("holds");
    let bench = journaled(&folder);
    for n in 0..2_500 {
        bench.admit(&ask(&n.to_string(), &none())).await;
    }
    bench.later(600);
    bench.admit(&ask("late", &none())).await;
    let day = 24 * 3_600;
    bench.later(day - 1);
    bench.counters.expire().await.unwrap();
    bench.admit(&ask("later", &none())).await;
    bench.later(1);
    bench.counters.expire().await.unwrap();
    let before = std::fs::metadata(&path).unwrap().len();
    let journal = bench.counters.journal.clone().unwrap();
    bench.counters.write_anew(&journal).await.unwrap();
    drop(journal);
    bench.admit(&ask("last", &none())).await;
    let after = std::fs::metadata(&path).unwrap().len();
    assert!(after * 100 < before, "{after} of {before} bytes");

    let bench = reopened(&folder, bench);
    for (name, state) in [
        ("late", Some(HoldState::Expired)),
        ("later", Some(HoldState::Active)),
        ("last", Some(HoldState::Active)),
        ("0", None),
    ] {
        assert_eq!(bench.state(name).await, state, "{name}");
    }
}

#[tokio::test]
async fn a_journal_of_another_ledger_does_not_hide_what_comes() {
    let folder = tempfile::tempdir().unwrap();
    let mut bench = journaled(&folder);
    bench.position = 1_000;
    bench.admit(&ask("a", &none())).await;
    let bench = reopened(&folder, bench);
    let rules = rules(Scope::User, Metric::Requests, Window::Month, 10);
    bench.warm(&rules).await;
    assert!(bench.apply(&delta(7, None), &rules).await.counted);
    let standing = bench.standing(&rules).await;
    assert_eq!((standing.used, standing.held), (1, 1));
}
