//! The client: one connection, the generated clients over it, and the everyday calls.

use tokenmeter_api::v1;
use tonic::Code;
use tonic::codec::CompressionEncoding::{Gzip, Zstd};
use tonic::transport::Channel;
use v1::admin_service_client::AdminServiceClient;
use v1::analytics_service_client::AnalyticsServiceClient;
use v1::metering_service_client::MeteringServiceClient;

use crate::backoff::Backoff;
use crate::error::{Error, Result, innermost};
use crate::events::TokenEvents;
use crate::options::Options;
use crate::recorder::{RecorderOptions, UsageRecorder};
use crate::transport::Transport;

/// A connection to a server; cheap to clone, and all clones share it. A connection that is lost is
/// made again by the next call.
///
/// ```no_run
/// # async fn example() -> tokenmeter_client::Result<()> {
/// use tokenmeter_client::{Client, Options, v1};
///
/// let client = Client::connect(Options::new("localhost:50051")).await?;
/// let recorded = client
///     .record(v1::UsageEvent {
///         event_id: "msg_01".into(),
///         user_id: "ada".into(),
///         provider: "anthropic".into(),
///         usage: Some(v1::usage_event::Usage::Lines(v1::UsageLines {
///             lines: vec![v1::UsageLine {
///                 model: "claude-sonnet-4-5".into(),
///                 counts: Some(v1::TokenCounts { input: 120, output: 85, ..Default::default() }),
///                 ..Default::default()
///             }],
///         })),
///         ..Default::default()
///     })
///     .await?;
/// println!("{} cost {:?}", recorded.event_id, recorded.cost);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Client {
    transport: Transport,
    options: Options,
}

macro_rules! service {
    ($(#[$doc:meta])* $name:ident, $client:ident) => {
        $(#[$doc])*
        pub fn $name(&self) -> $client<Transport> {
            let client = $client::new(self.transport.clone())
                .accept_compressed(Gzip)
                .accept_compressed(Zstd)
                .max_decoding_message_size(self.options.max_message_bytes);
            match self.options.compression {
                Some(encoding) => client.send_compressed(encoding),
                None => client,
            }
        }
    };
}

impl Client {
    /// Connects. Fails with INVALID_ARGUMENT where the options cannot be used, and with UNAVAILABLE
    /// where there is no server.
    pub async fn connect(options: Options) -> Result<Self> {
        let endpoint = options.endpoint()?;
        let manner = options.manner()?;
        let channel = endpoint.connect().await.map_err(|error| {
            let (address, cause) = (endpoint.uri(), innermost(&error));
            Error::local(
                Code::Unavailable,
                format!("no server at {address}: {cause}"),
            )
        })?;
        Ok(Self {
            transport: Transport::new(channel, manner),
            options,
        })
    }

    /// Connects with the first call. Fails where the options cannot be used. Has to be called within
    /// a tokio runtime.
    pub fn connect_lazy(options: Options) -> Result<Self> {
        let channel = options.endpoint()?.connect_lazy();
        Self::over(channel, options)
    }

    /// Takes a connection that the caller made, such as over a Unix socket; what the options say
    /// about connecting is then not used.
    pub fn over(channel: Channel, options: Options) -> Result<Self> {
        Ok(Self {
            transport: Transport::new(channel, options.manner()?),
            options,
        })
    }

    service!(
        /// Every RPC of the metering service.
        metering,
        MeteringServiceClient
    );
    service!(
        /// Every RPC of the analytics service.
        analytics,
        AnalyticsServiceClient
    );
    service!(
        /// Every RPC of the admin service.
        admin,
        AdminServiceClient
    );

    /// What is waited before a stream is opened again.
    pub(crate) fn backoff(&self) -> Backoff {
        Backoff::new(self.options.first_wait, self.options.longest_wait)
    }

    /// Records one event. It is on disk when the answer comes.
    pub async fn record(&self, event: v1::UsageEvent) -> Result<v1::RecordedUsage> {
        let request = v1::RecordUsageRequest {
            event: Some(event),
            include_limits: false,
        };
        let answer = self.metering().record_usage(request).await?.into_inner();
        answer.recorded.ok_or_else(|| incomplete("recorded"))
    }

    /// Records 1 to 1,000 events. The outer error says that nothing is known of any of them; the
    /// inner results are one per event, in order.
    pub async fn record_batch(
        &self,
        events: Vec<v1::UsageEvent>,
    ) -> Result<Vec<Result<v1::RecordedUsage>>> {
        let count = events.len();
        let request = v1::BatchRecordUsageRequest {
            events,
            include_limits: false,
        };
        let answer = self.metering().batch_record_usage(request).await?;
        let results = answer.into_inner().results;
        if results.len() != count {
            return Err(incomplete("results"));
        }
        Ok(results.into_iter().map(outcome).collect())
    }

    /// Takes an event out of every total. `request_id` names this request, so that it can be
    /// repeated; `reason` goes into the audit trail.
    pub async fn void(
        &self,
        event_id: impl Into<String>,
        request_id: impl Into<String>,
        reason: impl Into<String>,
    ) -> Result<v1::VoidUsageResponse> {
        let request = v1::VoidUsageRequest {
            request_id: request_id.into(),
            event_id: event_id.into(),
            reason: reason.into(),
        };
        Ok(self.metering().void_usage(request).await?.into_inner())
    }

    /// Records 1 to 1,000 uses of tools; answers one outcome per use, in order.
    pub async fn record_tools(
        &self,
        invocations: Vec<v1::ToolInvocation>,
    ) -> Result<Vec<Result<v1::ItemRecorded>>> {
        let count = invocations.len();
        let request = v1::RecordToolInvocationsRequest { invocations };
        let answer = self.metering().record_tool_invocations(request).await?;
        items(answer.into_inner().results, count)
    }

    /// Records facts about 1 to 1,000 messages; answers one outcome per message, in order.
    pub async fn record_messages(
        &self,
        messages: Vec<v1::Message>,
    ) -> Result<Vec<Result<v1::ItemRecorded>>> {
        let count = messages.len();
        let request = v1::RecordMessagesRequest { messages };
        let answer = self.metering().record_messages(request).await?;
        items(answer.into_inner().results, count)
    }

    /// The totals of a user, empty for the caller, in these intervals; none given means lifetime and
    /// the last 24 hours.
    pub async fn user_usage(
        &self,
        user_id: impl Into<String>,
        intervals: &[v1::Interval],
    ) -> Result<v1::GetUserUsageResponse> {
        let request = v1::GetUserUsageRequest {
            user_id: user_id.into(),
            intervals: intervals.iter().map(|one| (*one).into()).collect(),
        };
        Ok(self.analytics().get_user_usage(request).await?.into_inner())
    }

    /// The totals of a session.
    pub async fn session_usage(
        &self,
        session_id: impl Into<String>,
    ) -> Result<v1::GetSessionUsageResponse> {
        let request = v1::GetSessionUsageRequest {
            session_id: session_id.into(),
        };
        let answer = self.analytics().get_session_usage(request).await?;
        Ok(answer.into_inner())
    }

    /// Starts a recorder, for many events. Has to be called within a tokio runtime.
    pub fn recorder(&self, options: RecorderOptions) -> UsageRecorder {
        UsageRecorder::start(self.clone(), options)
    }

    /// Subscribes to what is recorded, from now on or after `resume_token` if that is not empty. The
    /// connection is made by the first [`next`](TokenEvents::next).
    pub fn events(&self, filter: v1::EventFilter, resume_token: impl Into<String>) -> TokenEvents {
        TokenEvents::new(self.clone(), filter, resume_token.into())
    }
}

/// What a result of an event says.
pub(crate) fn outcome(result: v1::RecordResult) -> Result<v1::RecordedUsage> {
    match result.result {
        Some(v1::record_result::Result::Recorded(recorded)) => Ok(recorded),
        Some(v1::record_result::Result::Error(error)) => Err(error.into()),
        None => Err(incomplete("result")),
    }
}

fn items(results: Vec<v1::ItemResult>, count: usize) -> Result<Vec<Result<v1::ItemRecorded>>> {
    if results.len() != count {
        return Err(incomplete("results"));
    }
    let item = |result: v1::ItemResult| match result.result {
        Some(v1::item_result::Result::Recorded(recorded)) => Ok(recorded),
        Some(v1::item_result::Result::Error(error)) => Err(error.into()),
        None => Err(incomplete("result")),
    };
    Ok(results.into_iter().map(item).collect())
}

/// An answer without what its contract promises.
fn incomplete(field: &str) -> Error {
    Error::local(
        Code::Internal,
        format!("the answer lacks {field}; server and client are of versions that do not fit"),
    )
}
