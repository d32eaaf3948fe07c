//! A server in the test's own process, over connections in memory that can be cut. Without sockets
//! the test's clock can stand still: time then passes only while everybody waits.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokenmeter_client::{Client, Options, v1};
use tokio::io::{DuplexStream, copy_bidirectional, duplex};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::{BoxFuture, BoxStream};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};
use v1::analytics_service_server::{AnalyticsService, AnalyticsServiceServer};
use v1::metering_service_server::{MeteringService, MeteringServiceServer};

/// What a streaming RPC sends to.
pub(crate) type Answers<T> = mpsc::Sender<Result<T, Status>>;
/// What StreamUsage does: told the number of the stream, from 0.
type OnUsage = dyn Fn(
        u32,
        Streaming<v1::StreamUsageRequest>,
        Answers<v1::StreamUsageResponse>,
    ) -> BoxFuture<(), ()>
    + Send
    + Sync;
/// What StreamTokenEvents does.
type OnEvents = dyn Fn(
        u32,
        v1::StreamTokenEventsRequest,
        Answers<v1::StreamTokenEventsResponse>,
    ) -> BoxFuture<(), ()>
    + Send
    + Sync;

/// One unary call as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) at: Instant,
    pub(crate) timeout: Option<String>,
    pub(crate) tenant: Option<String>,
}

/// What a unary call is answered before it succeeds.
#[derive(Debug)]
pub(crate) enum Answer {
    /// This refusal.
    Refuse(Status),
    /// Nothing, ever.
    Hang,
    /// The connection is cut after the work is done.
    Cut,
}

#[derive(Default)]
struct Shared {
    script: Mutex<VecDeque<Answer>>,
    seen: Mutex<Vec<Seen>>,
    on_usage: Mutex<Option<Arc<OnUsage>>>,
    on_events: Mutex<Option<Arc<OnEvents>>>,
    streams: AtomicU32,
    wires: Mutex<Vec<AbortHandle>>,
}

/// The server, and the test's hand on it.
#[derive(Clone, Default)]
pub(crate) struct Fake(Arc<Shared>);

impl Fake {
    /// Answers unary calls with these first.
    pub(crate) fn script(self, answers: impl IntoIterator<Item = Answer>) -> Self {
        self.0.script.lock().unwrap().extend(answers);
        self
    }

    /// Does this on StreamUsage.
    pub(crate) fn on_usage<F>(
        self,
        act: impl Fn(u32, Streaming<v1::StreamUsageRequest>, Answers<v1::StreamUsageResponse>) -> F
        + Send
        + Sync
        + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let act: Arc<OnUsage> = Arc::new(move |n, requests, answers| {
            let acting = act(n, requests, answers);
            Box::pin(async move {
                acting.await;
                Ok(())
            })
        });
        *self.0.on_usage.lock().unwrap() = Some(act);
        self
    }

    /// Does this on StreamTokenEvents.
    pub(crate) fn on_events<F>(
        self,
        act: impl Fn(u32, v1::StreamTokenEventsRequest, Answers<v1::StreamTokenEventsResponse>) -> F
        + Send
        + Sync
        + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let act: Arc<OnEvents> = Arc::new(move |n, request, answers| {
            let acting = act(n, request, answers);
            Box::pin(async move {
                acting.await;
                Ok(())
            })
        });
        *self.0.on_events.lock().unwrap() = Some(act);
        self
    }

    /// The unary calls that arrived.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.0.seen.lock().unwrap().clone()
    }

    /// How many streams were opened.
    pub(crate) fn streams(&self) -> u32 {
        self.0.streams.load(Ordering::SeqCst)
    }

    /// Cuts every connection there is.
    pub(crate) fn cut(&self) {
        for wire in self.0.wires.lock().unwrap().drain(..) {
            wire.abort();
        }
    }

    /// A client of this server.
    pub(crate) fn client(&self) -> Client {
        self.client_with(Options::new("localhost"))
    }

    pub(crate) fn client_with(&self, options: Options) -> Client {
        Client::over(self.channel(), options).unwrap()
    }

    /// Starts serving; every new connection is a wire that `cut` cuts.
    fn channel(&self) -> Channel {
        let (incoming, accepted) = mpsc::channel::<Result<DuplexStream, std::io::Error>>(8);
        tokio::spawn(
            Server::builder()
                .add_service(MeteringServiceServer::new(self.clone()))
                .add_service(AnalyticsServiceServer::new(self.clone()))
                .serve_with_incoming(ReceiverStream::new(accepted)),
        );
        let shared = Arc::clone(&self.0);
        let connector = tower::service_fn(move |_| {
            let (ours, mut near) = duplex(64 * 1024);
            let (mut far, theirs) = duplex(64 * 1024);
            let wire = tokio::spawn(async move { copy_bidirectional(&mut near, &mut far).await });
            shared.wires.lock().unwrap().push(wire.abort_handle());
            let incoming = incoming.clone();
            async move {
                let gone = |_| std::io::Error::other("the server has gone");
                incoming.send(Ok(theirs)).await.map_err(gone)?;
                Ok::<_, std::io::Error>(TokioIo::new(ours))
            }
        });
        Endpoint::from_static("http://fake").connect_with_connector_lazy(connector)
    }

    /// Answers a unary call by the script.
    async fn unary<T>(
        &self,
        request: &Request<impl Sync>,
        answer: T,
    ) -> Result<Response<T>, Status> {
        let text = |name: &str| {
            let value = request.metadata().get(name)?;
            Some(value.to_str().unwrap().to_owned())
        };
        self.0.seen.lock().unwrap().push(Seen {
            at: Instant::now(),
            timeout: text("grpc-timeout"),
            tenant: text("tokenmeter-tenant"),
        });
        let next = self.0.script.lock().unwrap().pop_front();
        match next {
            None => Ok(Response::new(answer)),
            Some(Answer::Refuse(status)) => Err(status),
            Some(Answer::Hang) => std::future::pending().await,
            Some(Answer::Cut) => {
                self.cut();
                std::future::pending().await
            }
        }
    }
}

#[tonic::async_trait]
impl MeteringService for Fake {
    async fn record_usage(
        &self,
        request: Request<v1::RecordUsageRequest>,
    ) -> Result<Response<v1::RecordUsageResponse>, Status> {
        let event = request.get_ref().event.clone().unwrap();
        let answer = v1::RecordUsageResponse {
            recorded: Some(recorded(&event)),
        };
        self.unary(&request, answer).await
    }

    async fn batch_record_usage(
        &self,
        request: Request<v1::BatchRecordUsageRequest>,
    ) -> Result<Response<v1::BatchRecordUsageResponse>, Status> {
        let events = request.get_ref().events.iter();
        let results = events.map(|event| result_of(event, recorded)).collect();
        self.unary(&request, v1::BatchRecordUsageResponse { results })
            .await
    }

    async fn stream_usage(
        &self,
        request: Request<Streaming<v1::StreamUsageRequest>>,
    ) -> Result<Response<BoxStream<v1::StreamUsageResponse>>, Status> {
        let n = self.0.streams.fetch_add(1, Ordering::SeqCst);
        let act = self.0.on_usage.lock().unwrap().clone().unwrap();
        let (answers, sent) = mpsc::channel(16);
        tokio::spawn(act(n, request.into_inner(), answers));
        Ok(Response::new(Box::pin(ReceiverStream::new(sent))))
    }
}

#[tonic::async_trait]
impl AnalyticsService for Fake {
    async fn get_user_usage(
        &self,
        request: Request<v1::GetUserUsageRequest>,
    ) -> Result<Response<v1::GetUserUsageResponse>, Status> {
        self.unary(&request, v1::GetUserUsageResponse::default())
            .await
    }

    async fn stream_token_events(
        &self,
        request: Request<v1::StreamTokenEventsRequest>,
    ) -> Result<Response<BoxStream<v1::StreamTokenEventsResponse>>, Status> {
        let n = self.0.streams.fetch_add(1, Ordering::SeqCst);
        let act = self.0.on_events.lock().unwrap().clone().unwrap();
        let (answers, sent) = mpsc::channel(16);
        tokio::spawn(act(n, request.into_inner(), answers));
        Ok(Response::new(Box::pin(ReceiverStream::new(sent))))
    }
}

/// An event without usage, which this server does not look at.
pub(crate) fn event(event_id: impl Into<String>) -> v1::UsageEvent {
    v1::UsageEvent {
        event_id: event_id.into(),
        user_id: "ada".into(),
        ..Default::default()
    }
}

pub(crate) fn recorded(event: &v1::UsageEvent) -> v1::RecordedUsage {
    v1::RecordedUsage {
        event_id: event.event_id.clone(),
        outcome: v1::RecordOutcome::Recorded.into(),
        ..Default::default()
    }
}

fn result_of(
    event: &v1::UsageEvent,
    result: impl Fn(&v1::UsageEvent) -> v1::RecordedUsage,
) -> v1::RecordResult {
    v1::RecordResult {
        result: Some(v1::record_result::Result::Recorded(result(event))),
    }
}

/// The result of a streamed event: recorded.
pub(crate) fn acknowledged(event: &v1::StreamedEvent) -> v1::StreamedResult {
    v1::StreamedResult {
        sequence: event.sequence,
        result: Some(result_of(event.event.as_ref().unwrap(), recorded)),
    }
}

pub(crate) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
