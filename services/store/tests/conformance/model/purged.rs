//! What a purge drops, and what no purge changes.

use tokenmeter_model::totals::{BUCKET_US, Totals};
use tokenmeter_model::zone::Zone;
use tokenmeter_store::ledger::reports::Part;
use tokenmeter_store::ledger::{Error, Ledger, Range, Subject};

use super::super::retention::{self, DAY_US};
use super::super::{T0, tenant};
use super::reference::{Figures, Reference, figures, sum};

/// A run of the sums is enough for each step.
const RUN: &str = "every step";

pub(super) async fn purge(ledger: &impl Ledger, reference: &mut Reference, before_us: i64) {
    let before = reference.sealed_before;
    let sealed = Zone::utc().start_of_month(before_us).max(before);
    let dropped = retention::purge(ledger, before_us).await;
    let range = Range {
        from_us: before,
        to_us: sealed,
    };
    let expected = sum(reference, Some(range), |_, _| true);
    assert_eq!(figures(&dropped.sealed), expected);
    let events = reference.kept().filter(|one| one.time < sealed).count();
    assert_eq!(usize::try_from(dropped.events), Ok(events));
    reference.sealed_before = sealed;
}

/// Ranges and months that reach into what is sealed, figures by model, and the sums as a whole.
pub(super) async fn compare(ledger: &impl Ledger, reference: &Reference) {
    let owner = tenant("a");
    let sealed = reference.sealed_before;
    assert_eq!(ledger.sealed_before().await.unwrap(), sealed);
    let aligned = (T0 - 70 * DAY_US).div_euclid(BUCKET_US) * BUCKET_US;
    for from_us in [aligned, aligned + 1] {
        let range = Range {
            from_us,
            to_us: T0 + 40 * BUCKET_US,
        };
        let user = Subject::User("u1");
        match ledger.totals(&owner, user, Some(range)).await {
            Ok(totals) => {
                let expected = sum(reference, Some(range), |e, _| e.user_id == "u1");
                assert_eq!(figures(&totals), expected);
                assert!(from_us == aligned || from_us >= sealed);
            }
            Err(Error::NotRetained { oldest_us }) => {
                assert!(oldest_us == sealed && from_us != aligned && from_us < sealed);
            }
            Err(error) => panic!("{error}"),
        }
    }
    by_model(ledger, reference).await;
    let clean = ledger.reconcile(&owner, "", true, RUN, T0).await.unwrap();
    assert_eq!(clean.drift_count, 0);
}

async fn by_model(ledger: &impl Ledger, reference: &Reference) {
    let owner = tenant("a");
    let part = Part {
        user_id: "u1".into(),
        ..Part::default()
    };
    for model in ledger.by_model(&owner, &part).await.unwrap() {
        let expected = sum(reference, None, |e, m| {
            e.user_id == "u1" && m == model.model
        });
        assert_eq!(figures(&model.totals), expected);
    }
    let utc = Zone::utc();
    let mut months = Vec::new();
    let mut from_us = utc.start_of_month(T0 - 70 * DAY_US);
    while from_us <= T0 {
        let to_us = utc.next_month(from_us);
        months.push(Range { from_us, to_us });
        from_us = to_us;
    }
    let found = ledger.user_spans_by_model(&owner, "u1", &months).await;
    let found = found.unwrap();
    for month in months {
        let expected = sum(reference, Some(month), |e, _| e.user_id == "u1");
        let models = found.iter().find(|(span, _)| *span == month);
        let models = models.map(|(_, models)| &models[..]).unwrap_or_default();
        let whole = models.iter().fold(Totals::default(), |sum, model| {
            assert!(!model.model.is_empty(), "months of UTC are known by model");
            sum.saturating_add(&model.totals)
        });
        let whole: Figures = figures(&whole);
        assert_eq!(whole, expected, "{month:?}");
    }
}
