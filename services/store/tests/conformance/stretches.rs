//! Going through the log in steps, each of a bounded size.

use super::corrections::rich;
use super::*;
use tokenmeter_store::ledger::correction::RepriceQuery;

pub async fn stretches_have_so_many_lines(ledger: &dyn Ledger) {
    const LINES: i64 = 3;
    let owner = tenant("a");
    for n in 0..4 {
        let mine = (0..3).map(|m| submission("a", rich(&format!("e{n}-{m}")), 10, T0 + n));
        record(ledger, mine.collect()).await;
        let others = submission("b", rich(&format!("e{n}")), 10, T0);
        record(ledger, vec![others]).await;
    }
    let all = RepriceQuery {
        include_priced: true,
        ..RepriceQuery::default()
    };
    let until = ledger.last_position().await.unwrap();
    let (mut after, mut steps, mut found) = (0, 0, Vec::new());
    while after < until {
        let end = ledger.stretch(&owner, after, until, LINES).await.unwrap();
        assert!(after < end && end <= until, "{after} {end} {until}");
        let lines = ledger.reprice_candidates(&owner, &all, after, end).await;
        let lines = lines.unwrap();
        // An event that begins in a stretch is in it with all of its lines.
        let begun = lines.iter().filter(|line| line.position <= end).count();
        assert!(begun <= 3 && lines.len() <= 4, "{lines:?}");
        found.extend(lines.into_iter().map(|line| line.position));
        (after, steps) = (end, steps + 1);
    }
    assert_eq!(found.len(), 4 * 3 * 2, "{found:?}");
    assert!(found.is_sorted_by(|a, b| a < b), "{found:?}");
    assert!(steps <= 4 * 3 * 2 + 4, "{steps}");
}
