//! Who may do what: roles, tenants, metadata, and what this version does not answer yet.

use tokenmeter_api::v1;
use tokenmeter_api::v1::ErrorReason as R;
use tokenmeter_identity::{Credentials, Role, TABLE};
use tokenmeter_tests::Server;
use tonic::Code;
use v1::admin_service_client::AdminServiceClient;
use v1::analytics_service_client::AnalyticsServiceClient;
use v1::metering_service_client::MeteringServiceClient;

use crate::support::{As, Clients, EVENT_TOKENS, Metadata, counts, event, line, lines, refusal};

const TENANT: &str = "tokenmeter-tenant";
const USER: &str = "tokenmeter-user";
const ROLES: &str = "tokenmeter-roles";

/// The generated clients of a caller that metadata describe.
struct Caller {
    metering: MeteringServiceClient<As>,
    analytics: AnalyticsServiceClient<As>,
    admin: AdminServiceClient<As>,
}

impl Caller {
    fn new(clients: &Clients, metadata: &[(&'static str, &str)]) -> Self {
        let (channel, metadata) = (clients.channel.clone(), Metadata::new(metadata));
        Self {
            metering: MeteringServiceClient::with_interceptor(channel.clone(), metadata.clone()),
            analytics: AnalyticsServiceClient::with_interceptor(channel.clone(), metadata.clone()),
            admin: AdminServiceClient::with_interceptor(channel, metadata),
        }
    }

    async fn record(&mut self, event: v1::UsageEvent) -> Result<v1::RecordedUsage, tonic::Status> {
        let request = v1::RecordUsageRequest {
            event: Some(event),
            ..Default::default()
        };
        let answer = self.metering.record_usage(request).await?;
        Ok(answer.into_inner().recorded.unwrap())
    }

    async fn lifetime(&mut self, user: &str) -> Result<v1::UsageTotals, tonic::Status> {
        let request = v1::GetUserUsageRequest {
            user_id: user.to_owned(),
            intervals: vec![v1::Interval::Lifetime.into()],
        };
        let answer = self.analytics.get_user_usage(request).await?.into_inner();
        Ok(answer.intervals.into_iter().next().unwrap().totals.unwrap())
    }

    async fn events(&mut self, user: &str) -> Result<Vec<v1::RecordedEvent>, tonic::Status> {
        let request = v1::ListUsageEventsRequest {
            user_id: user.to_owned(),
            ..Default::default()
        };
        Ok(self
            .analytics
            .list_usage_events(request)
            .await?
            .into_inner()
            .events)
    }

    async fn session(&mut self, id: &str) -> Result<v1::GetSessionUsageResponse, tonic::Status> {
        let request = v1::GetSessionUsageRequest {
            session_id: id.to_owned(),
        };
        Ok(self
            .analytics
            .get_session_usage(request)
            .await?
            .into_inner())
    }
}

#[tokio::test]
async fn every_rpc_that_is_not_implemented_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let clients = Clients::of(&server).await;
    let mut later = 0;
    for access in TABLE {
        let status = clients.call_empty(access.rpc, &[]).await;
        if access.implemented {
            assert_ne!(
                status.code(),
                Code::Unimplemented,
                "{}: {status:?}",
                access.rpc
            );
            continue;
        }
        assert_eq!(
            status.code(),
            Code::Unimplemented,
            "{}: {status:?}",
            access.rpc
        );
        let failure = refusal(&status);
        assert_eq!(failure.reason, R::NotYetImplemented, "{}", access.rpc);
        assert_eq!(failure.metadata["rpc"], access.rpc);
        later += 1;
    }
    assert!(later > 0 && later < TABLE.len());
    let unknown = clients.call_empty("MeteringService/NoSuch", &[]).await;
    assert_eq!(unknown.code(), Code::Unimplemented);
    assert_eq!(refusal(&unknown).reason, R::NotYetImplemented);
}

#[tokio::test]
async fn every_role_may_do_what_the_table_says_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let clients = Clients::of(&server).await;
    for access in TABLE.iter().filter(|access| access.implemented) {
        for role in Role::ALL {
            let status = clients
                .call_empty(access.rpc, &[(ROLES, role.as_str())])
                .await;
            let may = access.roles.is_empty() || access.roles.contains(&role);
            let denied = status.code() == Code::PermissionDenied;
            assert_eq!(
                denied,
                !may,
                "{} as {}: {status:?}",
                access.rpc,
                role.as_str()
            );
            if denied {
                let failure = refusal(&status);
                assert_eq!(failure.reason, R::PermissionDenied);
                assert!(failure.metadata["roles"].contains(access.roles[0].as_str()));
            }
        }
        assert_ne!(access.credentials, Credentials::NotNeeded, "{}", access.rpc);
    }
}

#[tokio::test]
async fn metadata_that_cannot_be_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let clients = Clients::of(&server).await;
    let (long_tenant, long_user) = ("t".repeat(65), "u".repeat(256));
    for (name, value) in [
        (TENANT, "Acme"),
        (TENANT, ""),
        (TENANT, "a/b"),
        (TENANT, &long_tenant),
        (USER, ""),
        (USER, &long_user),
        (ROLES, "root"),
        (ROLES, ""),
        (ROLES, "meter,,admin"),
    ] {
        for rpc in [
            "MeteringService/RecordUsage",
            "AnalyticsService/GetUserUsage",
            "AdminService/GetCaller",
        ] {
            let failure = refusal(&clients.call_empty(rpc, &[(name, value)]).await);
            assert_eq!(failure.reason, R::FieldInvalid, "{name} {value}");
            assert_eq!(
                failure.violations[0].0,
                format!("metadata.{name}"),
                "{value}"
            );
            assert!(!failure.violations[0].1.is_empty());
        }
    }
    // Other metadata are nobody's business.
    let status = clients
        .call_empty("AdminService/GetCaller", &[("tokenmeter-colour", "red")])
        .await;
    assert_eq!(status.code(), Code::Ok, "{status:?}");
    let longest = [
        (TENANT, &*"t".repeat(64)),
        (USER, &*"u".repeat(255)),
        (ROLES, "meter, admin"),
    ];
    let mut caller = Caller::new(&clients, &longest);
    let answer = caller
        .admin
        .get_caller(v1::GetCallerRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!((answer.tenant_id.len(), answer.user_id.len()), (64, 255));
    let roles: [i32; 2] = [v1::Role::Meter.into(), v1::Role::Admin.into()];
    assert_eq!(answer.roles, roles);
}

#[tokio::test]
async fn who_reads_only_itself_sees_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    let of = |user: &str, id: &str, session: &str| v1::UsageEvent {
        user_id: user.to_owned(),
        session_id: session.to_owned(),
        ..event(id)
    };
    for event in [
        of("ada", "a", "s-a"),
        of("bob", "b", "s-b"),
        of("ada", "c", "both"),
        of("bob", "d", "both"),
    ] {
        clients.record(event).await.unwrap();
    }
    let mut ada = Caller::new(&clients, &[(USER, "ada"), (ROLES, "read_own")]);
    for own in ["", "ada"] {
        assert_eq!(ada.lifetime(own).await.unwrap().requests, 2);
        let events = ada.events(own).await.unwrap();
        assert_eq!(events.len(), 2);
        assert!(events.iter().all(|event| event.user_id == "ada"));
    }
    for status in [
        ada.lifetime("bob").await.unwrap_err(),
        ada.events("bob").await.unwrap_err(),
    ] {
        assert_eq!(refusal(&status).reason, R::PermissionDenied);
    }
    // By id and session, too; what is not only hers is not there for her.
    let by_id = v1::ListUsageEventsRequest {
        event_id: "b".into(),
        ..Default::default()
    };
    let found = ada
        .analytics
        .list_usage_events(by_id)
        .await
        .unwrap()
        .into_inner();
    assert!(found.events.is_empty(), "{found:?}");
    assert_eq!(ada.session("s-a").await.unwrap().user_id, "ada");
    for session in ["s-b", "both"] {
        let failure = refusal(&ada.session(session).await.unwrap_err());
        assert_eq!(failure.reason, R::NotFound, "{session}");
    }
    let service = ada
        .analytics
        .get_service_usage(v1::GetServiceUsageRequest::default())
        .await;
    assert_eq!(refusal(&service.unwrap_err()).reason, R::PermissionDenied);
    let recorded = ada.record(event("e")).await.unwrap_err();
    assert_eq!(refusal(&recorded).reason, R::PermissionDenied);

    let mut tenant = Caller::new(&clients, &[(USER, "eve"), (ROLES, "read_tenant")]);
    assert_eq!(tenant.lifetime("bob").await.unwrap().requests, 2);
    assert_eq!(tenant.events("").await.unwrap().len(), 4);
    let mut meter = Caller::new(&clients, &[(USER, "ada"), (ROLES, "meter")]);
    meter.record(event("f")).await.unwrap();
    for status in [
        meter.lifetime("").await.unwrap_err(),
        meter.events("").await.unwrap_err(),
    ] {
        assert_eq!(refusal(&status).reason, R::PermissionDenied);
    }
}

#[tokio::test]
async fn no_tenant_reads_or_changes_what_is_anothers() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let clients = Clients::of(&server).await;
    let mut a = Caller::new(&clients, &[(TENANT, "a")]);
    let mut b = Caller::new(&clients, &[(TENANT, "b")]);
    let outcome = |recorded: v1::RecordedUsage| recorded.outcome();
    assert_eq!(
        outcome(a.record(event("same")).await.unwrap()),
        v1::RecordOutcome::Recorded
    );
    // Nothing of another tenant's is seen, not even whether an id is taken.
    let mut tokens = counts();
    tokens.output = 1_000;
    let other = v1::UsageEvent {
        usage: Some(lines(vec![line(tokens)])),
        ..event("same")
    };
    assert_eq!(
        outcome(b.record(other.clone()).await.unwrap()),
        v1::RecordOutcome::Recorded
    );
    assert_eq!(
        outcome(b.record(other).await.unwrap()),
        v1::RecordOutcome::Duplicate
    );
    assert_eq!(a.lifetime("ada").await.unwrap().total_tokens, EVENT_TOKENS);
    assert_eq!(
        b.lifetime("ada").await.unwrap().total_tokens,
        EVENT_TOKENS - 85 + 1_000
    );
    a.record(v1::UsageEvent {
        session_id: "only-a".into(),
        ..event("only-a")
    })
    .await
    .unwrap();
    let ids = |events: Vec<v1::RecordedEvent>| {
        events
            .into_iter()
            .map(|one| one.event_id)
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(b.events("").await.unwrap()), ["same"]);
    assert_eq!(ids(a.events("").await.unwrap()), ["only-a", "same"]);
    assert_eq!(
        refusal(&b.session("only-a").await.unwrap_err()).reason,
        R::NotFound
    );
    let all = v1::GetServiceUsageRequest::default();
    let usage = b
        .analytics
        .get_service_usage(all)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(usage.totals.unwrap().requests, 1);
}

#[tokio::test]
async fn page_tokens_and_prices_are_the_tenants_own() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let clients = Clients::of(&server).await;
    let mut a = Caller::new(&clients, &[(TENANT, "a")]);
    let mut b = Caller::new(&clients, &[(TENANT, "b")]);
    for id in ["e-1", "e-2"] {
        a.record(event(id)).await.unwrap();
    }
    let page = v1::ListUsageEventsRequest {
        page_size: 1,
        ..Default::default()
    };
    let first = a
        .analytics
        .list_usage_events(page.clone())
        .await
        .unwrap()
        .into_inner();
    let stolen = v1::ListUsageEventsRequest {
        page_token: first.next_page_token,
        ..page
    };
    let status = b.analytics.list_usage_events(stolen).await.unwrap_err();
    assert_eq!(refusal(&status).reason, R::PageTokenInvalid);
    let mut price = a
        .admin
        .list_prices(v1::ListPricesRequest::default())
        .await
        .unwrap()
        .into_inner()
        .prices
        .remove(0);
    price.model = "only-in-a".into();
    let set = v1::SetPricesRequest {
        request_id: "r".into(),
        prices: vec![price],
        dry_run: false,
    };
    a.admin.set_prices(set).await.unwrap();
    let of = v1::ListPricesRequest {
        model: "only-in-a".into(),
        ..Default::default()
    };
    let found = |answer: tonic::Response<v1::ListPricesResponse>| answer.into_inner().prices.len();
    assert_eq!(found(a.admin.list_prices(of.clone()).await.unwrap()), 1);
    assert_eq!(found(b.admin.list_prices(of).await.unwrap()), 0);
}
