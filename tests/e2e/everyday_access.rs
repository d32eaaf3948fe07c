//! The everyday questions: whose figures a caller sees, and what is refused.

use tokenmeter_api::v1;
use tokenmeter_api::v1::ErrorReason as R;
use tokenmeter_tests::Server;
use tonic::Status;
use v1::analytics_service_client::AnalyticsServiceClient;

use crate::everyday::{APRIL, at, placed, times, total};
use crate::support::{As, Clients, Metadata, refusal};

/// The analytics of a caller that metadata describe.
fn caller(clients: &Clients, metadata: &[(&'static str, &str)]) -> AnalyticsServiceClient<As> {
    AnalyticsServiceClient::with_interceptor(clients.channel.clone(), Metadata::new(metadata))
}

#[tokio::test]
async fn a_caller_sees_its_tenant_and_with_read_own_itself() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    for (id, user) in [("a", "ada"), ("b", "bob"), ("c", "bob")] {
        let sent = v1::UsageEvent {
            user_id: user.into(),
            message: Some(v1::MessageFacts::default()),
            ..placed(id, "both", APRIL)
        };
        clients.record(sent).await.unwrap();
    }
    let own = [("tokenmeter-user", "ada"), ("tokenmeter-roles", "read_own")];
    let mut ada = caller(&clients, &own);
    let top = v1::ListTopSessionsRequest::default();
    let sessions = ada.list_top_sessions(top.clone()).await.unwrap();
    let sessions = sessions.into_inner().sessions;
    assert_eq!(sessions.len(), 1);
    assert_eq!(total(sessions[0].totals.as_ref()), times(1));
    assert_eq!((sessions[0].messages, &*sessions[0].user_id), (1, "ada"));
    let messages = v1::ListMessagesRequest {
        session_id: "both".into(),
        ..Default::default()
    };
    let listed = ada.list_messages(messages.clone()).await.unwrap();
    assert_eq!(listed.into_inner().messages.len(), 1);
    let cache = v1::GetCacheEfficiencyRequest {
        session_id: "both".into(),
        ..Default::default()
    };
    let listed = ada.get_cache_efficiency(cache.clone()).await.unwrap();
    let efficiency = listed.into_inner().efficiency.unwrap();
    assert_eq!(efficiency.read_tokens, 2_000);

    let bob = || "bob".to_owned();
    let denied: [Status; 7] = [
        ada.list_monthly_usage(v1::ListMonthlyUsageRequest {
            user_id: bob(),
            ..Default::default()
        })
        .await
        .unwrap_err(),
        ada.list_usage_history(v1::ListUsageHistoryRequest {
            user_id: bob(),
            ..Default::default()
        })
        .await
        .unwrap_err(),
        ada.get_current_usage(v1::GetCurrentUsageRequest { user_id: bob() })
            .await
            .unwrap_err(),
        ada.get_cache_efficiency(v1::GetCacheEfficiencyRequest {
            user_id: bob(),
            ..Default::default()
        })
        .await
        .unwrap_err(),
        ada.list_top_sessions(v1::ListTopSessionsRequest {
            user_id: bob(),
            ..Default::default()
        })
        .await
        .unwrap_err(),
        ada.list_session_summaries(v1::ListSessionSummariesRequest {
            user_id: bob(),
            ..Default::default()
        })
        .await
        .unwrap_err(),
        ada.list_tool_usage(v1::ListToolUsageRequest {
            user_id: bob(),
            ..Default::default()
        })
        .await
        .unwrap_err(),
    ];
    for status in denied {
        assert_eq!(refusal(&status).reason, R::PermissionDenied, "{status:?}");
    }

    let mut other = caller(&clients, &[("tokenmeter-tenant", "other")]);
    let sessions = other.list_top_sessions(top).await.unwrap().into_inner();
    let messages = other.list_messages(messages).await.unwrap().into_inner();
    let cache = other
        .get_cache_efficiency(cache)
        .await
        .unwrap()
        .into_inner();
    let history = v1::ListUsageHistoryRequest {
        user_id: "ada".into(),
        ..Default::default()
    };
    let history = other
        .list_usage_history(history)
        .await
        .unwrap()
        .into_inner();
    assert!(sessions.sessions.is_empty() && messages.messages.is_empty());
    assert!(cache.models.is_empty() && history.days.is_empty());
}

#[tokio::test]
async fn what_is_out_of_bounds_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    for id in ["a", "b"] {
        clients.record(placed(id, id, APRIL)).await.unwrap();
    }
    let top = v1::ListTopSessionsRequest {
        page_size: 1,
        ..Default::default()
    };
    let page = clients
        .analytics
        .list_top_sessions(top.clone())
        .await
        .unwrap();
    let token = page.into_inner().next_page_token;
    let forged = ["x".to_owned(), format!("x{token}"), format!("{token}0")];
    for page_token in forged {
        let request = v1::ListTopSessionsRequest {
            page_token,
            ..top.clone()
        };
        let status = clients
            .analytics
            .list_top_sessions(request)
            .await
            .unwrap_err();
        // A token is no secret: a moved moment is one of this list, and shows nothing new.
        assert_eq!(refusal(&status).reason, R::PageTokenInvalid, "{status:?}");
    }
    let by_cost = v1::ListTopSessionsRequest {
        order_by: v1::SessionOrder::Cost.into(),
        page_token: token,
        ..top.clone()
    };
    let status = clients
        .analytics
        .list_top_sessions(by_cost)
        .await
        .unwrap_err();
    assert_eq!(refusal(&status).reason, R::PageTokenInvalid);

    let backwards = Some(v1::TimeRange {
        start_time: at(2),
        end_time: at(1),
    });
    let long = "x".repeat(256);
    let mut a = clients.analytics.clone();
    let told: [(Status, R, &str); 9] = [
        (
            a.list_top_sessions(v1::ListTopSessionsRequest {
                page_size: -1,
                ..Default::default()
            })
            .await
            .unwrap_err(),
            R::FieldInvalid,
            "page_size",
        ),
        (
            a.list_top_sessions(v1::ListTopSessionsRequest {
                order_by: 9,
                ..Default::default()
            })
            .await
            .unwrap_err(),
            R::FieldInvalid,
            "order_by",
        ),
        (
            a.list_usage_history(v1::ListUsageHistoryRequest {
                page_size: -1,
                ..Default::default()
            })
            .await
            .unwrap_err(),
            R::FieldInvalid,
            "page_size",
        ),
        (
            a.list_monthly_usage(v1::ListMonthlyUsageRequest {
                range: backwards,
                ..Default::default()
            })
            .await
            .unwrap_err(),
            R::RangeInvalid,
            "range",
        ),
        (
            a.list_tool_usage(v1::ListToolUsageRequest {
                tool: long.clone(),
                ..Default::default()
            })
            .await
            .unwrap_err(),
            R::FieldInvalid,
            "tool",
        ),
        (
            a.list_session_summaries(v1::ListSessionSummariesRequest {
                range: backwards,
                ..Default::default()
            })
            .await
            .unwrap_err(),
            R::RangeInvalid,
            "range",
        ),
        (
            a.list_messages(v1::ListMessagesRequest::default())
                .await
                .unwrap_err(),
            R::FieldInvalid,
            "session_id",
        ),
        (
            a.get_cache_efficiency(v1::GetCacheEfficiencyRequest {
                model: long.clone(),
                ..Default::default()
            })
            .await
            .unwrap_err(),
            R::FieldInvalid,
            "model",
        ),
        (
            a.get_current_usage(v1::GetCurrentUsageRequest { user_id: long })
                .await
                .unwrap_err(),
            R::FieldInvalid,
            "user_id",
        ),
    ];
    for (status, reason, field) in told {
        let failure = refusal(&status);
        assert_eq!((failure.reason, &*failure.violations[0].0), (reason, field));
    }
}
