use tempfile::TempDir;
use tokenmeter_identity::Roles;
use tokenmeter_model::bounds::MIN_TIME_US;
use tokenmeter_model::counts::{Line, TokenCounts};
use tokenmeter_model::event::Event;
use tokenmeter_model::price::{Component, Price, Rates, TierRates};
use tokenmeter_store::clock;
use tokenmeter_store::ledger::{EventQuery, Range, Subject, Submission};
use tokenmeter_store::sqlite::Sqlite;

use super::*;

const T0: i64 = 1_790_000_000_000_000;
const LONG: Duration = Duration::from_secs(60);

struct Service {
    admin: RepriceAdmin,
    ledger: Arc<dyn Ledger>,
    caller: Caller,
    _folder: TempDir,
}

async fn service() -> Service {
    let folder = tempfile::tempdir().unwrap();
    let ledger: Arc<dyn Ledger> =
        Arc::new(Sqlite::open(&folder.path().join("t.db")).await.unwrap());
    let books = Arc::new(Books::new(Arc::clone(&ledger)));
    Service {
        admin: RepriceAdmin::new(Arc::clone(&ledger), books, clock::system()),
        ledger,
        caller: Caller {
            tenant: TenantId::new("acme").unwrap(),
            user: "ann".into(),
            team_id: String::new(),
            api_key_id: String::new(),
            roles: Roles::all(),
        },
        _folder: folder,
    }
}

impl Service {
    /// Sets a price of so many nano-USD a token.
    async fn set_price(&self, model: &str, nano_usd: i64) {
        let base = Rates::from_iter([
            (Component::Input, nano_usd * 1_000),
            (Component::Output, nano_usd * 1_000),
        ]);
        let rates = TierRates {
            base,
            ..TierRates::default()
        };
        let price = Price {
            provider: "anthropic".into(),
            model: model.into(),
            effective_from_us: MIN_TIME_US,
            version: 0,
            source: "test".into(),
            tiers: BTreeMap::from([(ServiceTier::Standard, rates)]),
            fees: BTreeMap::new(),
        };
        let owner = Some(&self.caller.tenant);
        self.ledger
            .add_prices(owner, vec![price], T0)
            .await
            .unwrap();
    }

    /// Records unpriced events of ten tokens a line, these models each a line.
    async fn record(&self, name: &str, events: i64, models: &[&str]) {
        let submissions: Vec<_> = (0..events)
            .map(|n| {
                let lines = models.iter().map(|model| Line {
                    model: (*model).to_owned(),
                    counts: TokenCounts {
                        input: 10,
                        ..TokenCounts::default()
                    },
                    ..Line::default()
                });
                let event = Event {
                    event_id: format!("{name}-{n}"),
                    user_id: "u".into(),
                    provider: "anthropic".into(),
                    lines: lines.collect(),
                    ..Event::default()
                };
                Submission {
                    tenant: self.caller.tenant.clone(),
                    fingerprint: event.fingerprint(),
                    quotes: vec![None; models.len()],
                    event,
                    charge_time_us: T0 + n,
                    recorded_at_us: T0,
                    api_key_id: String::new(),
                }
            })
            .collect();
        for batch in submissions.chunks(1_000) {
            self.ledger.record(batch.into()).await.unwrap();
        }
    }

    async fn run(&self, asked: &Reprice, budget: Duration) -> Result<Report, Error> {
        self.admin.reprice(&self.caller, asked, budget).await
    }

    async fn cost(&self) -> (i64, i64) {
        let tenant = &self.caller.tenant;
        let totals = self.ledger.totals(tenant, Subject::User("u"), None).await;
        let totals = totals.unwrap();
        (totals.cost_nano_usd, totals.unpriced_lines)
    }
}

fn asked(request_id: &str) -> Reprice {
    Reprice {
        request_id: request_id.into(),
        ..Reprice::default()
    }
}

#[tokio::test]
async fn a_run_does_what_its_dry_run_said_and_is_answered_once() {
    let service = service().await;
    service.record("e", 3, &["new", "newer", "never"]).await;
    service.set_price("new", 2).await;
    service.set_price("newer", 5).await;
    let dry = Reprice {
        dry_run: true,
        ..asked("r")
    };
    let expected = service.run(&dry, LONG).await.unwrap();
    assert_eq!(service.cost().await, (0, 9), "a dry run changes nothing");
    assert_eq!(
        (
            expected.examined,
            expected.priced,
            expected.changed,
            expected.unpriced
        ),
        (9, 6, 0, 3)
    );
    assert_eq!((expected.cost_before, expected.cost_after), (0, 3 * 10 * 7));
    assert_eq!(expected.models["anthropic/newer"].cost_after, 150);
    assert_eq!(
        expected.models.len(),
        2,
        "what did not change is not listed"
    );
    assert!(expected.complete && expected.reprice_id.is_empty());

    let run = Reprice {
        expected_price_version: Some(expected.price_version),
        ..asked("r")
    };
    let report = service.run(&run, LONG).await.unwrap();
    assert!(report.reprice_id.starts_with("reprice-"));
    let as_dry = Report {
        reprice_id: String::new(),
        ..report.clone()
    };
    assert_eq!(as_dry, expected);
    assert_eq!(service.cost().await, (210, 3));

    // The same request again is answered as before, even if the book changed since.
    service.set_price("new", 3).await;
    assert_eq!(service.run(&run, LONG).await.unwrap(), report);
    let other = Reprice {
        query: RepriceQuery {
            include_priced: true,
            ..RepriceQuery::default()
        },
        ..run.clone()
    };
    let error = service.run(&other, LONG).await.unwrap_err();
    assert!(matches!(error, Error::RequestConflict(_)), "{error:?}");
    let stale = Reprice {
        request_id: "r2".into(),
        ..other
    };
    let error = service.run(&stale, LONG).await.unwrap_err();
    assert!(matches!(error, Error::RepriceStale), "{error:?}");
    assert_eq!(service.cost().await, (210, 3));

    // Priced lines again: only those whose figures change get an entry.
    let again = Reprice {
        expected_price_version: None,
        ..stale
    };
    let before = service.ledger.last_position().await.unwrap();
    let report = service.run(&again, LONG).await.unwrap();
    assert_eq!((report.examined, report.priced, report.changed), (9, 0, 3));
    assert_eq!((report.cost_before, report.cost_after), (210, 240));
    assert_eq!(service.ledger.last_position().await.unwrap(), before + 3);
    assert_eq!(service.cost().await, (240, 3));
}

#[tokio::test]
async fn a_run_that_ran_out_of_time_goes_on_where_it_stopped() {
    let service = service().await;
    service.record("e", 850, &["new", "new", "never"]).await;
    service.set_price("new", 1).await;
    let dry = Reprice {
        dry_run: true,
        ..asked("r")
    };
    let expected = service.run(&dry, LONG).await.unwrap();
    let mut reports = Vec::new();
    loop {
        let report = service.run(&asked("r"), Duration::ZERO).await.unwrap();
        assert_eq!(service.cost().await.0, report.cost_after);
        assert_eq!(report.examined % 3, 0, "events are not split");
        let complete = report.complete;
        reports.push(report);
        if complete {
            break;
        }
        // What comes later is not the run's.
        service
            .record(&format!("late-{}", reports.len()), 1, &["never"])
            .await;
    }
    assert!(reports.len() >= 3, "{} parts", reports.len());
    let last = reports.last().unwrap();
    assert_eq!(
        (last.examined, last.priced),
        (expected.examined, expected.priced)
    );
    assert_eq!(last.models, expected.models);
    assert_eq!(last.cost_after, 850 * 2 * 10);
    let query = EventQuery {
        event_id: "e-849".into(),
        limit: 1,
        ..EventQuery::default()
    };
    let events = service.ledger.events(&service.caller.tenant, &query).await;
    let priced: Vec<_> = events.unwrap()[0]
        .quotes
        .iter()
        .map(Option::is_some)
        .collect();
    assert_eq!(priced, [true, true, false]);
}

#[tokio::test]
async fn filters_choose_the_lines() {
    let service = service().await;
    service.record("e", 4, &["new", "newer"]).await;
    service.set_price("new", 1).await;
    service.set_price("newer", 1).await;
    let examined = async |query: RepriceQuery| {
        let dry = Reprice {
            dry_run: true,
            query,
            ..asked("r")
        };
        service.run(&dry, LONG).await.map(|report| report.examined)
    };
    let all = RepriceQuery::default;
    assert_eq!(examined(all()).await.unwrap(), 8);
    let model = "newer".to_owned();
    assert_eq!(examined(RepriceQuery { model, ..all() }).await.unwrap(), 4);
    let provider = "openai".to_owned();
    assert_eq!(
        examined(RepriceQuery { provider, ..all() }).await.unwrap(),
        0
    );
    let range = Some(Range {
        from_us: T0 + 1,
        to_us: T0 + 3,
    });
    assert_eq!(examined(RepriceQuery { range, ..all() }).await.unwrap(), 4);
    let range = Some(Range {
        from_us: 2,
        to_us: 1,
    });
    assert!(examined(RepriceQuery { range, ..all() }).await.is_err());
    let error = service.run(&asked(""), LONG).await.unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error:?}");
}

#[tokio::test]
async fn one_run_of_a_tenant_at_a_time() {
    let service = service().await;
    let running = service.admin.begin(&service.caller.tenant).unwrap();
    let error = service.run(&asked("r"), LONG).await.unwrap_err();
    assert!(matches!(error, Error::RepriceRunning), "{error:?}");
    let other = TenantId::new("other").unwrap();
    assert!(service.admin.begin(&other).is_ok());
    drop(running);
    assert!(service.run(&asked("r"), LONG).await.unwrap().complete);
}

#[tokio::test]
async fn a_step_of_a_dropped_call_counts_once() {
    let service = service().await;
    service.record("e", 1_200, &["new"]).await;
    service.set_price("new", 1).await;
    let all = Reprice {
        query: RepriceQuery {
            include_priced: true,
            ..RepriceQuery::default()
        },
        ..asked("r")
    };
    // Two calls that read how far the run came while a step of the one before them was with the
    // writer.
    let request = request(&service.caller, &all, T0);
    let admin = &service.admin;
    let book = admin.books.of(&service.caller.tenant).await.unwrap();
    let mut late = admin.stands(&all, &request, &book).await.unwrap();
    let mut later = admin.stands(&all, &request, &book).await.unwrap();
    let first = service.run(&all, Duration::ZERO).await.unwrap();
    assert!(!first.complete && first.examined > 0);
    // One finds the lines as the step left them, and would say that it has been through them.
    let stop = Instant::now();
    let step = admin.step(&all, &request, &book, &mut later, stop);
    step.await.unwrap();
    assert_eq!(later.report.examined, first.examined);
    assert!(!admin.post(&request, &mut later, Vec::new()).await.unwrap());
    // The other, with a newer book, would price them once more, and goes on from what stands.
    service.set_price("new", 2).await;
    admin.books.invalidate();
    let book = admin.books.of(&service.caller.tenant).await.unwrap();
    let step = admin.step(&all, &request, &book, &mut late, stop);
    step.await.unwrap();
    let as_first = Report {
        price_version: first.price_version,
        ..late.report
    };
    assert_eq!(as_first, first);
    let last = service.run(&all, LONG).await.unwrap();
    assert!(last.complete);
    assert_eq!((last.examined, last.priced), (1_200, 1_200));
    let cost = 10 * first.examined + 20 * (1_200 - first.examined);
    assert_eq!((last.cost_after, service.cost().await.0), (cost, cost));
}

#[tokio::test]
async fn calls_with_little_time_come_to_the_end() {
    const LINES: i64 = 6_000;
    /// Less than it takes to read all lines with their corrections.
    const DEADLINE: Duration = Duration::from_millis(250);
    let service = service().await;
    service.record("e", LINES, &["new"]).await;
    let all = |name: String| Reprice {
        query: RepriceQuery {
            include_priced: true,
            ..RepriceQuery::default()
        },
        ..asked(&name)
    };
    for price in 1..=3 {
        service.set_price("new", price).await;
        let run = service.run(&all(format!("r{price}")), LONG).await;
        assert!(run.unwrap().complete);
    }
    service.set_price("new", 4).await;
    let run = all("last".into());
    let mut calls = 0;
    let last = loop {
        calls += 1;
        assert!(calls < 200, "the run does not come to its end");
        // The caller goes away at its deadline, whatever is under way then.
        let call = service.run(&run, DEADLINE / 4 * 3);
        if let Ok(report) = tokio::time::timeout(DEADLINE, call).await
            && report.as_ref().unwrap().complete
        {
            break report.unwrap();
        }
    };
    assert!(calls > 1);
    assert_eq!((last.examined, last.changed), (LINES, LINES));
    assert_eq!(
        (last.cost_before, last.cost_after),
        (30 * LINES, 40 * LINES)
    );
    assert_eq!(service.cost().await, (40 * LINES, 0));
}
