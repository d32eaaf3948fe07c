//! Tool invocations, messages and champion cases: an outcome an item, each stands once.

use tokenmeter_api::v1;
use tokenmeter_api::v1::ErrorReason as R;
use tokenmeter_api::v1::item_result::Result as Outcome;
use tokenmeter_tests::Server;
use tonic::Status;

use crate::support::{Clients, refusal};

fn tool(id: &str, status: v1::ToolStatus) -> v1::ToolInvocation {
    v1::ToolInvocation {
        invocation_id: id.to_owned(),
        tool: "search".into(),
        session_id: "s-1".into(),
        status: status.into(),
        ..Default::default()
    }
}

fn message(id: &str) -> v1::Message {
    v1::Message {
        message_id: id.to_owned(),
        session_id: "s-1".into(),
        role: v1::MessageRole::User.into(),
        tokens: Some(12),
        ..Default::default()
    }
}

fn report(id: &str) -> v1::ChampionCaseReport {
    v1::ChampionCaseReport {
        report_id: id.to_owned(),
        cases: 2,
        ..Default::default()
    }
}

impl Clients {
    async fn tools(&mut self, all: Vec<v1::ToolInvocation>) -> Result<Vec<Outcome>, Status> {
        let request = v1::RecordToolInvocationsRequest { invocations: all };
        let answer = self.metering.record_tool_invocations(request).await?;
        Ok(outcomes(answer.into_inner().results))
    }

    async fn messages(&mut self, all: Vec<v1::Message>) -> Result<Vec<Outcome>, Status> {
        let request = v1::RecordMessagesRequest { messages: all };
        let answer = self.metering.record_messages(request).await?;
        Ok(outcomes(answer.into_inner().results))
    }

    async fn reports(&mut self, all: Vec<v1::ChampionCaseReport>) -> Result<Vec<Outcome>, Status> {
        let request = v1::RecordChampionCasesRequest { reports: all };
        let answer = self.metering.record_champion_cases(request).await?;
        Ok(outcomes(answer.into_inner().results))
    }
}

fn outcomes(results: Vec<v1::ItemResult>) -> Vec<Outcome> {
    results.into_iter().map(|one| one.result.unwrap()).collect()
}

/// Outcomes in short: `recorded`, `duplicate`, or the reason of a refusal with its first field.
fn short(outcomes: &[Outcome]) -> Vec<String> {
    let short = |outcome: &Outcome| match outcome {
        Outcome::Recorded(one) if one.outcome() == v1::RecordOutcome::Recorded => "recorded".into(),
        Outcome::Recorded(one) => {
            assert_eq!(one.outcome(), v1::RecordOutcome::Duplicate);
            "duplicate".into()
        }
        Outcome::Error(error) => {
            assert!(!error.retryable, "{error:?}");
            let field = error.violations.first().map(|one| one.field.as_str());
            format!("{:?} {}", error.reason(), field.unwrap_or_default())
        }
    };
    outcomes.iter().map(short).collect()
}

#[tokio::test]
async fn one_bad_item_never_fails_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    let before = clients.everything().await;
    let done = v1::ToolStatus::Succeeded;
    let mut late = tool("t-4", done);
    late.start_time = Some(prost_types::Timestamp {
        seconds: 0,
        nanos: 0,
    });
    let mut unknown = tool("t-5", done);
    unknown.status = 99;
    let other = tool("t-1", v1::ToolStatus::Failed);
    let batch = vec![
        tool("t-1", done),
        tool("", done),
        late,
        tool("t-1", done),
        other,
        unknown,
    ];
    let answer = clients.tools(batch.clone()).await.unwrap();
    let expected = [
        "recorded",
        "FieldInvalid invocation_id",
        "FieldInvalid start_time",
        "duplicate",
        "EventConflict ",
        "FieldInvalid status",
    ];
    assert_eq!(short(&answer), expected);
    let again = clients.tools(batch).await.unwrap();
    assert_eq!(short(&again)[0], "duplicate");
    match (&answer[0], &again[0]) {
        (Outcome::Recorded(first), Outcome::Recorded(again)) => {
            assert_eq!(first.id, "t-1");
            assert!(first.recorded_time.is_some());
            assert_eq!(first.recorded_time, again.recorded_time);
        }
        other => panic!("{other:?}"),
    }

    let mut nobody = message("m-2");
    nobody.role = 0;
    let mut nowhere = message("m-3");
    nowhere.session_id.clear();
    let mut long = message("m-1");
    long.tokens = Some(13);
    let batch = vec![message("m-1"), nobody, nowhere, message("m-1"), long];
    let answer = clients.messages(batch).await.unwrap();
    let expected = [
        "recorded",
        "FieldInvalid role",
        "FieldInvalid session_id",
        "duplicate",
        "EventConflict ",
    ];
    assert_eq!(short(&answer), expected);

    let mut none = report("c-2");
    none.cases = 0;
    let mut more = report("c-1");
    more.cases = 3;
    let batch = vec![report("c-1"), none, report("c-1"), more];
    let answer = clients.reports(batch).await.unwrap();
    let expected = [
        "recorded",
        "FieldInvalid cases",
        "duplicate",
        "EventConflict ",
    ];
    assert_eq!(short(&answer), expected);
    // Items count in no usage total.
    assert_eq!(clients.everything().await, before);
}

#[tokio::test]
async fn a_request_carries_1_to_1000_items() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    let many = |n: usize| -> Vec<_> { (0..n).map(|n| report(&format!("c-{n}"))).collect() };
    for size in [0, 1_001] {
        let refused = clients.reports(many(size)).await.unwrap_err();
        let failure = refusal(&refused);
        assert_eq!(failure.reason, R::FieldInvalid);
        assert_eq!(failure.violations[0].0, "reports");
        assert!(failure.violations[0].1.contains("1 to 1000"), "{failure:?}");
    }
    let all = clients.reports(many(1_000)).await.unwrap();
    assert!(short(&all).iter().all(|one| one == "recorded"));
    assert_eq!(
        short(&clients.reports(many(1)).await.unwrap()),
        ["duplicate"]
    );
    let none = clients.tools(Vec::new()).await.unwrap_err();
    assert_eq!(refusal(&none).violations[0].0, "invocations");
    let none = clients.messages(Vec::new()).await.unwrap_err();
    assert_eq!(refusal(&none).violations[0].0, "messages");
}

#[tokio::test]
async fn a_tool_is_reported_as_started_and_once_as_ended_through_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    let start = tool("t", v1::ToolStatus::Started);
    let end = v1::ToolInvocation {
        duration_ms: Some(1_500),
        error_type: "timeout".into(),
        estimated_tokens: 40,
        // The caller, named: the same user as in the start.
        user_id: "anonymous".into(),
        ..tool("t", v1::ToolStatus::Failed)
    };
    let answer = clients.tools(vec![start.clone()]).await.unwrap();
    assert_eq!(short(&answer), ["recorded"]);
    server.kill();
    server.restart();
    let mut clients = Clients::of(&server).await;
    let other = v1::ToolInvocation {
        user_id: "eve".into(),
        ..end.clone()
    };
    let answer = clients
        .tools(vec![other, end.clone(), start, end])
        .await
        .unwrap();
    let expected = ["EventConflict ", "recorded", "duplicate", "duplicate"];
    assert_eq!(short(&answer), expected);
}
