//! Generated clients, events with known figures, and what a refusal says.

use prost::Message as _;
use tokenmeter_api::status::{Failure, failure_of};
use tokenmeter_api::v1;
use tokenmeter_tests::Server;
use tonic::Status;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::AsciiMetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use v1::admin_service_client::AdminServiceClient;
use v1::analytics_service_client::AnalyticsServiceClient;
use v1::metering_service_client::MeteringServiceClient;

/// What [`event`] costs: 120 × $3 + 2,000 × $0.30 + 300 × $3.75 + 85 × $15 per million tokens.
pub(crate) const EVENT_NANO_USD: i64 = 3_360_000;
/// All tokens of [`event`].
pub(crate) const EVENT_TOKENS: i64 = 120 + 2_000 + 300 + 85;

/// The generated clients over one connection.
#[derive(Debug, Clone)]
pub(crate) struct Clients {
    pub(crate) channel: Channel,
    pub(crate) metering: MeteringServiceClient<Channel>,
    pub(crate) analytics: AnalyticsServiceClient<Channel>,
    pub(crate) admin: AdminServiceClient<Channel>,
}

impl Clients {
    pub(crate) async fn of(server: &Server) -> Self {
        let channel = server.channel().await;
        Self {
            metering: MeteringServiceClient::new(channel.clone()),
            analytics: AnalyticsServiceClient::new(channel.clone())
                .max_decoding_message_size(16 * 1024 * 1024),
            admin: AdminServiceClient::new(channel.clone()),
            channel,
        }
    }

    pub(crate) async fn record(
        &mut self,
        event: v1::UsageEvent,
    ) -> Result<v1::RecordedUsage, Status> {
        let request = v1::RecordUsageRequest {
            event: Some(event),
            ..Default::default()
        };
        let answer = self.metering.record_usage(request).await?.into_inner();
        Ok(answer.recorded.unwrap())
    }

    pub(crate) async fn batch(
        &mut self,
        events: Vec<v1::UsageEvent>,
    ) -> Result<Vec<v1::record_result::Result>, Status> {
        let request = v1::BatchRecordUsageRequest {
            events,
            ..Default::default()
        };
        let answer = self.metering.batch_record_usage(request).await?;
        let results = answer.into_inner().results.into_iter();
        Ok(results.map(|one| one.result.unwrap()).collect())
    }

    /// One user's lifetime totals; empty is the caller.
    pub(crate) async fn lifetime(&mut self, user: &str) -> v1::UsageTotals {
        let request = v1::GetUserUsageRequest {
            user_id: user.to_owned(),
            intervals: vec![v1::Interval::Lifetime.into()],
        };
        let answer = self.analytics.get_user_usage(request).await.unwrap();
        answer.into_inner().intervals.remove(0).totals.unwrap()
    }

    /// Everything that GetServiceUsage says, byte by byte.
    pub(crate) async fn everything(&mut self) -> Vec<u8> {
        let request = v1::GetServiceUsageRequest::default();
        let answer = self.analytics.get_service_usage(request).await.unwrap();
        answer.into_inner().encode_to_vec()
    }

    /// The recorded event of an id, and that there is no other.
    pub(crate) async fn find(&mut self, event_id: &str) -> Option<v1::RecordedEvent> {
        let request = v1::ListUsageEventsRequest {
            event_id: event_id.to_owned(),
            ..Default::default()
        };
        let answer = self.analytics.list_usage_events(request).await.unwrap();
        let mut events = answer.into_inner().events;
        assert!(
            events.len() <= 1,
            "{event_id} stands {} times",
            events.len()
        );
        events.pop()
    }

    /// Every recorded event of the tenant.
    pub(crate) async fn all_events(&mut self) -> Vec<v1::RecordedEvent> {
        let mut request = v1::ListUsageEventsRequest {
            page_size: 1_000,
            ..Default::default()
        };
        let mut events = Vec::new();
        loop {
            let page = self.analytics.list_usage_events(request.clone()).await;
            let page = page.unwrap().into_inner();
            events.extend(page.events);
            if page.next_page_token.is_empty() {
                return events;
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Calls any method with an empty message, as this caller.
    pub(crate) async fn call_empty(&self, rpc: &str, metadata: &[(&'static str, &str)]) -> Status {
        let path = PathAndQuery::try_from(format!("/tokenmeter.v1.{rpc}")).unwrap();
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        client.ready().await.unwrap();
        let mut request = tonic::Request::new(());
        for (key, value) in metadata {
            request.metadata_mut().insert(*key, value.parse().unwrap());
        }
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        // As a call whose answer may be a stream without end: its first message tells enough.
        let answer = client.server_streaming(request, path, codec).await;
        let first = match answer {
            Ok(answer) => answer.into_inner().message().await,
            Err(status) => Err(status),
        };
        first.err().unwrap_or_else(|| Status::ok(""))
    }
}

/// An event of Claude Sonnet 4.5 by user `ada` in session `s-1`.
pub(crate) fn event(event_id: &str) -> v1::UsageEvent {
    v1::UsageEvent {
        event_id: event_id.to_owned(),
        user_id: "ada".into(),
        session_id: "s-1".into(),
        provider: "anthropic".into(),
        usage: Some(lines(vec![line(counts())])),
        ..Default::default()
    }
}

pub(crate) fn counts() -> v1::TokenCounts {
    v1::TokenCounts {
        input: 120,
        cache_read: 2_000,
        cache_write: Some(v1::CacheWrites {
            ttl_5m: 300,
            ..Default::default()
        }),
        output: 85,
        ..Default::default()
    }
}

pub(crate) fn line(counts: v1::TokenCounts) -> v1::UsageLine {
    v1::UsageLine {
        model: "claude-sonnet-4-5".into(),
        counts: Some(counts),
        tool_requests: Vec::new(),
    }
}

pub(crate) fn lines(lines: Vec<v1::UsageLine>) -> v1::usage_event::Usage {
    v1::usage_event::Usage::Lines(v1::UsageLines { lines })
}

/// An event of OpenAI's gpt-4o, as the provider's own document.
pub(crate) fn openai(event_id: &str, usage_json: &str) -> v1::UsageEvent {
    v1::UsageEvent {
        event_id: event_id.to_owned(),
        user_id: "ada".into(),
        provider: "openai".into(),
        usage: Some(v1::usage_event::Usage::ProviderUsage(v1::ProviderUsage {
            api: "chat_completions".into(),
            model: "gpt-4o".into(),
            usage_json: usage_json.to_owned(),
            ..Default::default()
        })),
        ..Default::default()
    }
}

/// The amount in nano-USD.
pub(crate) fn nano_usd(amount: Option<&v1::Money>) -> i64 {
    let amount = amount.expect("an amount");
    assert_eq!(amount.currency_code, "USD");
    amount.units * 1_000_000_000 + i64::from(amount.nanos)
}

/// What a refusal of this service says; a status without it fails the test.
pub(crate) fn refusal(status: &Status) -> Failure {
    failure_of(status).unwrap_or_else(|| panic!("no ErrorInfo of this service: {status:?}"))
}

/// A client that sends these metadata with every call.
pub(crate) type As = InterceptedService<Channel, Metadata>;

/// Metadata for every call.
#[derive(Debug, Clone)]
pub(crate) struct Metadata(Vec<(&'static str, AsciiMetadataValue)>);

impl Metadata {
    pub(crate) fn new(entries: &[(&'static str, &str)]) -> Self {
        let parsed = entries.iter();
        Self(
            parsed
                .map(|(key, value)| (*key, value.parse().unwrap()))
                .collect(),
        )
    }
}

impl tonic::service::Interceptor for Metadata {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        for (key, value) in &self.0 {
            request.metadata_mut().insert(*key, value.clone());
        }
        Ok(request)
    }
}
