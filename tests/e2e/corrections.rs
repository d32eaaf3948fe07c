//! Voids and reprices: compensating entries in every figure, answered once, kept through a crash.

use std::time::Duration;

use tokenmeter_api::v1;
use tokenmeter_api::v1::ErrorReason as R;
use tokenmeter_api::v1::admin_service_client::AdminServiceClient;
use tokenmeter_api::v1::metering_service_client::MeteringServiceClient;
use tokenmeter_api::v1::record_result::Result as Outcome;
use tokenmeter_tests::Server;
use tonic::{Code, Request, Status};

use crate::support::{
    As, Clients, EVENT_NANO_USD, Metadata, counts, event, line, lines, nano_usd, refusal,
};

fn void(request_id: &str, event_id: &str, reason: &str) -> v1::VoidUsageRequest {
    v1::VoidUsageRequest {
        request_id: request_id.to_owned(),
        event_id: event_id.to_owned(),
        reason: reason.to_owned(),
    }
}

impl Clients {
    /// Voids an event. The answer is without limits, which are those of now and not of the void.
    async fn void(
        &mut self,
        request_id: &str,
        event_id: &str,
        reason: &str,
    ) -> Result<v1::VoidUsageResponse, Status> {
        let request = void(request_id, event_id, reason);
        let mut answer = self.metering.void_usage(request).await?.into_inner();
        answer.limits.clear();
        Ok(answer)
    }

    async fn reprice(
        &mut self,
        request: v1::RepriceUsageRequest,
    ) -> Result<v1::RepriceUsageResponse, Status> {
        Ok(self.admin.reprice_usage(request).await?.into_inner())
    }

    async fn session(&mut self, session_id: &str) -> Result<v1::GetSessionUsageResponse, Status> {
        let session_id = session_id.to_owned();
        let request = v1::GetSessionUsageRequest { session_id };
        let answer = self.analytics.get_session_usage(request).await?;
        Ok(answer.into_inner())
    }

    /// Sets a price of so many nano-USD for each token of a model of `anthropic`.
    async fn set_price(&mut self, request_id: &str, model: &str, nanos: i64) {
        let request = price(request_id, model, nanos);
        self.admin.set_prices(request).await.unwrap();
    }

    /// Every version of every price of a model.
    async fn versions(&mut self, model: &str) -> Vec<v1::Price> {
        let request = v1::ListPricesRequest {
            model: model.to_owned(),
            all_versions: true,
            ..Default::default()
        };
        let answer = self.admin.list_prices(request).await.unwrap();
        answer.into_inner().prices
    }
}

/// A price of so many nano-USD for each token of a model of `anthropic`.
pub(crate) fn price(request_id: &str, model: &str, nanos: i64) -> v1::SetPricesRequest {
    let rate = |component: v1::PriceComponent| v1::Rate {
        component: component.into(),
        pico_usd_per_token: nanos * 1_000,
    };
    let price = v1::Price {
        provider: "anthropic".into(),
        model: model.to_owned(),
        tiers: vec![v1::TierRates {
            tier: v1::ServiceTier::Standard.into(),
            rates: vec![
                rate(v1::PriceComponent::Input),
                rate(v1::PriceComponent::Output),
            ],
            ..Default::default()
        }],
        ..Default::default()
    };
    v1::SetPricesRequest {
        request_id: request_id.to_owned(),
        prices: vec![price],
        dry_run: false,
    }
}

/// An event whose model has no price, of 10 tokens in and 5 out.
fn unpriced(event_id: &str, model: &str) -> v1::UsageEvent {
    let mut one = line(v1::TokenCounts {
        input: 10,
        output: 5,
        ..Default::default()
    });
    one.model = model.to_owned();
    v1::UsageEvent {
        usage: Some(lines(vec![one])),
        ..event(event_id)
    }
}

#[tokio::test]
async fn a_void_takes_an_event_out_of_every_total_and_leaves_it_listed() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    let empty = clients.everything().await;
    clients.record(event("e-1")).await.unwrap();
    let one = (clients.everything().await, clients.lifetime("ada").await);
    let other = v1::UsageEvent {
        session_id: "s-2".into(),
        latency_ms: Some(900),
        ..event("e-2")
    };
    clients.record(other).await.unwrap();

    let answer = clients.void("r-1", "e-2", "counted twice").await.unwrap();
    assert!(!answer.already_voided);
    assert_eq!(
        (answer.event_id.as_str(), answer.counts),
        ("e-2", Some(counts()))
    );
    assert_eq!(nano_usd(answer.cost.as_ref()), EVENT_NANO_USD);
    assert_eq!(clients.everything().await, one.0);
    assert_eq!(clients.lifetime("ada").await, one.1);
    assert_eq!(clients.session("s-1").await.unwrap().totals, Some(one.1));
    let gone = clients.session("s-2").await.unwrap_err();
    assert_eq!(refusal(&gone).reason, R::NotFound);

    let listed = clients.find("e-2").await.unwrap();
    assert!(listed.voided);
    assert_eq!(listed.void_reason, "counted twice");
    assert_eq!(listed.voided_time, answer.voided_time);
    assert_eq!(nano_usd(listed.cost.as_ref()), EVENT_NANO_USD);
    assert!(!clients.find("e-1").await.unwrap().voided);

    // The same request again is answered as at first; another one finds the event voided.
    assert_eq!(
        clients.void("r-1", "e-2", "counted twice").await.unwrap(),
        answer
    );
    let late = clients.void("r-2", "e-2", "late").await.unwrap();
    let already = v1::VoidUsageResponse {
        already_voided: true,
        ..answer.clone()
    };
    assert_eq!(late, already);
    assert_eq!(clients.find("e-2").await.unwrap(), listed);

    // Everything voided is as if nothing had been recorded.
    clients.void("r-3", "e-1", "a test").await.unwrap();
    assert_eq!(clients.everything().await, empty);
    assert_eq!(clients.all_events().await.len(), 2);
}

#[tokio::test]
async fn what_cannot_be_voided_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    clients.record(event("e-1")).await.unwrap();
    clients.record(event("e-2")).await.unwrap();
    let before = clients.everything().await;

    let none = clients.void("r", "e-9", "why").await.unwrap_err();
    assert_eq!(
        (none.code(), refusal(&none).reason),
        (Code::NotFound, R::NotFound)
    );
    let resource = ("usage_event".to_owned(), "e-9".to_owned());
    assert_eq!(refusal(&none).resource, Some(resource));
    for (request, field) in [
        (void("", "e-1", "why"), "request_id"),
        (void("r", "", "why"), "event_id"),
        (void("r", "e-1", ""), "reason"),
        (void("r", "e-1", &"x".repeat(256)), "reason"),
    ] {
        let refused = clients.metering.void_usage(request).await.unwrap_err();
        let failure = refusal(&refused);
        assert_eq!(failure.reason, R::FieldInvalid);
        assert_eq!(failure.violations[0].0, field);
    }
    // Another tenant's event is none, and nobody without the role voids at all.
    let stranger = Metadata::new(&[("tokenmeter-tenant", "other")]);
    let mut stranger: MeteringServiceClient<As> =
        MeteringServiceClient::with_interceptor(clients.channel.clone(), stranger);
    let refused = stranger
        .void_usage(void("r", "e-1", "why"))
        .await
        .unwrap_err();
    assert_eq!(refusal(&refused).reason, R::NotFound);
    let reader = Metadata::new(&[("tokenmeter-roles", "read_tenant")]);
    let mut reader: MeteringServiceClient<As> =
        MeteringServiceClient::with_interceptor(clients.channel.clone(), reader);
    let refused = reader
        .void_usage(void("r", "e-1", "why"))
        .await
        .unwrap_err();
    assert_eq!(refusal(&refused).reason, R::PermissionDenied);
    assert_eq!(clients.everything().await, before);

    // None of these was remembered: the name is free for one request, and then for no other.
    clients.void("r", "e-1", "why").await.unwrap();
    for (event_id, reason) in [("e-2", "why"), ("e-1", "because")] {
        let conflict = clients.void("r", event_id, reason).await.unwrap_err();
        assert_eq!(conflict.code(), Code::AlreadyExists);
        assert_eq!(refusal(&conflict).reason, R::RequestIdConflict);
    }
    assert!(!clients.find("e-2").await.unwrap().voided);
}

#[tokio::test]
async fn the_id_of_a_voided_event_stays_used() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    let first = clients.record(event("e-1")).await.unwrap();
    clients.void("r", "e-1", "why").await.unwrap();
    let before = clients.everything().await;
    let again = clients.record(event("e-1")).await.unwrap();
    assert_eq!(again.outcome(), v1::RecordOutcome::Duplicate);
    assert_eq!(
        (again.cost, again.recorded_time),
        (first.cost, first.recorded_time)
    );
    let other = v1::UsageEvent {
        turn: Some(4),
        ..event("e-1")
    };
    let refused = clients.record(other.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(refusal(&refused).reason, R::EventVoided);
    assert_eq!(clients.everything().await, before);
    // In a batch it is one event's outcome and no other's.
    let outcomes = clients
        .batch(vec![other, event("e-1"), event("e-3")])
        .await
        .unwrap();
    match &outcomes[..] {
        [
            Outcome::Error(error),
            Outcome::Recorded(again),
            Outcome::Recorded(new),
        ] => {
            assert_eq!(error.reason(), R::EventVoided);
            assert!(!error.retryable);
            assert_eq!(again.outcome(), v1::RecordOutcome::Duplicate);
            assert_eq!(new.outcome(), v1::RecordOutcome::Recorded);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(clients.lifetime("ada").await.requests, 1);
}

#[tokio::test]
async fn a_void_stands_through_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    for n in 0..20 {
        clients.record(event(&format!("e-{n}"))).await.unwrap();
    }
    for n in 0..10 {
        let request_id = format!("r-{n}");
        let event_id = format!("e-{n}");
        let answer = clients.void(&request_id, &event_id, "why").await.unwrap();
        server.kill();
        server.restart();
        clients = Clients::of(&server).await;
        let again = clients.void(&request_id, &event_id, "why").await.unwrap();
        assert_eq!(again, answer, "the answer that had left stands");
        assert_eq!(clients.lifetime("ada").await.requests, 20 - n - 1);
        assert!(clients.find(&event_id).await.unwrap().voided);
    }
}

#[tokio::test]
async fn a_reprice_run_does_what_its_dry_run_said() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    for n in 0..4 {
        let event_id = format!("e-{n}");
        clients
            .record(unpriced(&event_id, "house-1"))
            .await
            .unwrap();
    }
    clients.record(event("priced")).await.unwrap();
    clients.record(unpriced("waits", "house-2")).await.unwrap();
    clients.void("v", "e-3", "why").await.unwrap();
    clients.set_price("p-1", "house-1", 20).await;

    let dry = v1::RepriceUsageRequest {
        request_id: "run".into(),
        dry_run: true,
        ..Default::default()
    };
    let before = clients.everything().await;
    let preview = clients.reprice(dry.clone()).await.unwrap();
    assert_eq!(
        clients.everything().await,
        before,
        "a dry run changes nothing"
    );
    assert_eq!(
        (
            preview.lines_examined,
            preview.lines_priced,
            preview.lines_unpriced
        ),
        (4, 3, 1)
    );
    assert_eq!(nano_usd(preview.cost_after.as_ref()), 3 * 15 * 20);
    assert_eq!((preview.models.len(), preview.models[0].lines), (1, 3));
    assert!(preview.complete && preview.reprice_id.is_empty());

    let run = v1::RepriceUsageRequest {
        dry_run: false,
        expected_price_version: Some(preview.price_version),
        ..dry.clone()
    };
    let done = clients.reprice(run.clone()).await.unwrap();
    assert!(!done.reprice_id.is_empty());
    let as_preview = v1::RepriceUsageResponse {
        reprice_id: String::new(),
        ..done.clone()
    };
    assert_eq!(as_preview, preview);
    let totals = clients.lifetime("ada").await;
    assert_eq!(nano_usd(totals.cost.as_ref()), EVENT_NANO_USD + 900);
    assert_eq!(totals.unpriced_lines, 1);
    assert_eq!(
        nano_usd(clients.find("e-0").await.unwrap().cost.as_ref()),
        300
    );
    assert_eq!(
        clients.find("e-3").await.unwrap().cost,
        None,
        "it was voided before"
    );
    assert_eq!(
        clients.reprice(run.clone()).await.unwrap(),
        done,
        "answered once"
    );

    // A book that changed since the dry run, and another content under the same name.
    clients.set_price("p-2", "house-1", 30).await;
    let stale = v1::RepriceUsageRequest {
        request_id: "run-2".into(),
        include_priced: true,
        ..run
    };
    let refused = clients.reprice(stale.clone()).await.unwrap_err();
    assert_eq!(
        (refused.code(), refusal(&refused).reason),
        (Code::Aborted, R::RepriceStale)
    );
    let negative = v1::RepriceUsageRequest {
        expected_price_version: Some(-4),
        ..stale.clone()
    };
    let refused = refusal(&clients.reprice(negative).await.unwrap_err());
    assert_eq!(refused.reason, R::FieldInvalid);
    assert_eq!(refused.violations[0].0, "expected_price_version");
    let other = v1::RepriceUsageRequest {
        request_id: "run".into(),
        ..stale.clone()
    };
    let refused = clients.reprice(other).await.unwrap_err();
    assert_eq!(refusal(&refused).reason, R::RequestIdConflict);

    // Void of an event that was repriced takes out what it costs today.
    let voided = clients.void("v-0", "e-0", "why").await.unwrap();
    assert_eq!(nano_usd(voided.cost.as_ref()), 300);
    let fresh = v1::RepriceUsageRequest {
        expected_price_version: None,
        ..stale
    };
    let done = clients.reprice(fresh).await.unwrap();
    assert_eq!((done.lines_examined, done.lines_changed), (4, 2));
    let totals = clients.lifetime("ada").await;
    assert_eq!(nano_usd(totals.cost.as_ref()), EVENT_NANO_USD + 2 * 15 * 30);
    assert_eq!((totals.requests, totals.unpriced_lines), (4, 1));
}

#[tokio::test]
async fn a_reprice_run_goes_on_after_its_deadline_and_after_a_crash() {
    const EVENTS: i64 = 6_000;
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    for batch in 0..EVENTS / 1_000 {
        let events = (0..1_000).map(|n| unpriced(&format!("e-{batch}-{n}"), "house-1"));
        clients.batch(events.collect()).await.unwrap();
    }
    clients.set_price("p", "house-1", 20).await;
    let mut parts = 0;
    let done = loop {
        let mut request = Request::new(v1::RepriceUsageRequest {
            request_id: "run".into(),
            ..Default::default()
        });
        // Time for the first step or two; a call does one at least.
        request.set_timeout(Duration::from_millis(1_200));
        let mut admin = AdminServiceClient::new(clients.channel.clone());
        parts += 1;
        match admin.reprice_usage(request).await {
            Ok(answer) if answer.get_ref().complete => break answer.into_inner(),
            Ok(answer) => {
                let totals = clients.lifetime("ada").await;
                assert_eq!(totals.cost, answer.into_inner().cost_after);
            }
            // On a machine that is busy enough the deadline may come before a step ends.
            Err(status) => assert!(matches!(
                status.code(),
                Code::Cancelled | Code::DeadlineExceeded
            )),
        }
        assert!(parts < 60, "the run does not come to its end");
        server.kill();
        server.restart();
        clients = Clients::of(&server).await;
    };
    println!("a run of {EVENTS} lines took {parts} calls");
    assert_eq!((done.lines_examined, done.lines_priced), (EVENTS, EVENTS));
    let totals = clients.lifetime("ada").await;
    assert_eq!(nano_usd(totals.cost.as_ref()), EVENTS * 300);
    assert_eq!(totals.unpriced_lines, 0);
}

#[tokio::test]
async fn prices_set_late_change_nothing_and_are_answered_as_at_first() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    let (a, b) = (price("a", "house-1", 20), price("b", "house-1", 30));
    // A dry run leaves the name free, for another content too.
    let dry = v1::SetPricesRequest {
        dry_run: true,
        ..price("a", "house-1", 10)
    };
    clients.admin.set_prices(dry.clone()).await.unwrap();
    let first = clients.admin.set_prices(a.clone()).await.unwrap();
    let first = first.into_inner();
    assert_eq!((first.prices.len(), first.unchanged), (1, 0));
    assert_ne!(first.prices[0].version, 0);
    clients.admin.set_prices(b).await.unwrap();
    let book = clients.versions("house-1").await;
    assert_eq!(book.len(), 2);

    for restarted in [false, true] {
        if restarted {
            server.kill();
            server.restart();
            clients = Clients::of(&server).await;
        }
        let again = clients.admin.set_prices(a.clone()).await.unwrap();
        assert_eq!(again.into_inner(), first, "restarted: {restarted}");
        let other = price("a", "house-1", 40);
        let refused = clients.admin.set_prices(other).await.unwrap_err();
        assert_eq!(
            (refused.code(), refusal(&refused).reason),
            (Code::AlreadyExists, R::RequestIdConflict)
        );
        // Names are one for all RPCs, and a dry run takes none.
        let import = litellm("a", "house-1", "2e-08");
        let refused = clients.admin.import_prices(import).await.unwrap_err();
        assert_eq!(refusal(&refused).reason, R::RequestIdConflict);
        clients.admin.set_prices(dry.clone()).await.unwrap();
        assert_eq!(clients.versions("house-1").await, book);
    }
}

#[tokio::test]
async fn a_file_imported_late_changes_nothing_and_is_answered_as_at_first() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    let a = litellm("a", "house-1", "2e-08");
    let first = clients.admin.import_prices(a.clone()).await.unwrap();
    let first = first.into_inner();
    assert_eq!((first.added, first.skipped), (1, 1));
    assert_eq!((first.problems.len(), first.changes.len()), (2, 1));
    assert_eq!(first.version, first.changes[0].version);
    let b = litellm("b", "house-1", "3e-08");
    clients.admin.import_prices(b).await.unwrap();
    let book = clients.versions("house-1").await;
    assert_eq!(book.len(), 2);

    server.kill();
    server.restart();
    clients = Clients::of(&server).await;
    let again = clients.admin.import_prices(a.clone()).await.unwrap();
    assert_eq!(again.into_inner(), first);
    let dry = v1::ImportPricesRequest {
        dry_run: true,
        ..litellm("a", "house-1", "5e-08")
    };
    clients.admin.import_prices(dry).await.unwrap();
    for other in [
        litellm("a", "house-1", "4e-08"),
        v1::ImportPricesRequest {
            source: "elsewhere".into(),
            ..a.clone()
        },
        v1::ImportPricesRequest {
            providers: vec!["openai".into()],
            ..a
        },
    ] {
        let refused = clients.admin.import_prices(other).await.unwrap_err();
        assert_eq!(refusal(&refused).reason, R::RequestIdConflict);
    }
    assert_eq!(clients.versions("house-1").await, book);
}

/// An import of a file with the price of a model, and with one that cannot be mapped.
fn litellm(request_id: &str, model: &str, usd: &str) -> v1::ImportPricesRequest {
    let content = format!(
        r#"{{"{model}": {{"litellm_provider": "anthropic", "input_cost_per_token": {usd}}},
            "painter": {{"litellm_provider": "openai", "output_cost_per_image": 0.04}}}}"#
    );
    v1::ImportPricesRequest {
        request_id: request_id.to_owned(),
        content: content.into(),
        ..Default::default()
    }
}
