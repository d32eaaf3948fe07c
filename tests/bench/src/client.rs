//! Calls in a closed loop: so many in flight, each answered before its place sends the next.

use std::future::Future;
use std::iter;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokenmeter_api::v1;
use tokenmeter_api::v1::admin_service_client::AdminServiceClient;
use tokenmeter_api::v1::analytics_service_client::AnalyticsServiceClient;
use tokenmeter_api::v1::metering_service_client::MeteringServiceClient;
use tokio::task::JoinSet;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use crate::data::{Batch, Generator, with_tenant};
use crate::figures::Tally;

/// Connections, at least.
const CONNECTIONS: usize = 8;
/// How much more is prepared for a slice than the last rate asks for, in per cent.
const SPARE_PERCENT: u64 = 130;

/// Connections to one server, or shared out over several.
pub(crate) struct Client {
    channels: Vec<Channel>,
}

impl Client {
    pub(crate) async fn connect(addresses: &[SocketAddr]) -> Self {
        let mut channels = Vec::with_capacity(CONNECTIONS);
        for address in addresses
            .iter()
            .cycle()
            .take(CONNECTIONS.next_multiple_of(addresses.len()))
        {
            let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
            channels.push(endpoint.connect().await.expect("the server accepts"));
        }
        Self { channels }
    }

    /// One of the connections; numbers share them out evenly.
    pub(crate) fn channel(&self, number: usize) -> Channel {
        self.channels[number % self.channels.len()].clone()
    }

    /// Calls with what `work` holds until the time is over or nothing is left. `call` answers how
    /// much a call did.
    async fn slice<T, F>(
        &self,
        in_flight: usize,
        slice: Duration,
        work: Queue<T>,
        call: impl Fn(Channel, T) -> F + Clone + Send + 'static,
    ) -> Tally
    where
        T: Send + 'static,
        F: Future<Output = u64> + Send + 'static,
    {
        let started = Instant::now();
        let mut callers = JoinSet::new();
        for caller in 0..in_flight {
            let channel = self.channel(caller);
            let (work, call) = (work.clone(), call.clone());
            callers.spawn(async move {
                let mut tally = Tally::default();
                while started.elapsed() < slice
                    && let Some(next) = work.take()
                {
                    let sent = Instant::now();
                    tally.done += call(channel.clone(), next).await;
                    let micros = u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX);
                    tally.micros.push(micros);
                }
                tally
            });
        }
        let mut all = Tally::default();
        while let Some(tally) = callers.join_next().await {
            all.add(tally.expect("a caller does not panic"));
        }
        all.elapsed = started.elapsed();
        all
    }

    /// One slice of `BatchRecordUsage`; counts events.
    pub(crate) async fn batches(&self, load: &mut Load, slice: Duration) -> Tally {
        let work = load.prepare(slice, Batch::request);
        let tally = self
            .slice(load.in_flight, slice, work, |channel, request| async move {
                let response = MeteringServiceClient::new(channel)
                    .batch_record_usage(request)
                    .await
                    .expect("a batch is answered")
                    .into_inner();
                response.results.into_iter().map(recorded).sum()
            })
            .await;
        load.learn(&tally);
        tally
    }

    /// One slice of `RecordUsage`; counts events.
    pub(crate) async fn unary(&self, load: &mut Load, slice: Duration) -> Tally {
        let work = load.prepare(slice, Batch::unary);
        let tally = self
            .slice(load.in_flight, slice, work, |channel, request| async move {
                let response = MeteringServiceClient::new(channel)
                    .record_usage(request)
                    .await
                    .expect("an event is answered")
                    .into_inner();
                check(response.recorded)
            })
            .await;
        load.learn(&tally);
        tally
    }

    /// One slice of `GetUserUsage`; counts calls.
    pub(crate) async fn user_usage(
        &self,
        work: impl Iterator<Item = Request<v1::GetUserUsageRequest>> + Send + 'static,
        in_flight: usize,
        slice: Duration,
    ) -> Tally {
        self.slice(
            in_flight,
            slice,
            Queue::new(work),
            |channel, request| async move {
                let answer = AnalyticsServiceClient::new(channel)
                    .get_user_usage(request)
                    .await
                    .expect("totals are answered")
                    .into_inner();
                assert_eq!(answer.intervals.len(), 2);
                1
            },
        )
        .await
    }

    /// One slice of `Authorize`; counts calls that may run.
    pub(crate) async fn authorize(
        &self,
        work: impl Iterator<Item = Request<v1::AuthorizeRequest>> + Send + 'static,
        in_flight: usize,
        slice: Duration,
    ) -> Tally {
        let work = Queue::new(work);
        self.slice(in_flight, slice, work, |channel, request| async move {
            authorized(channel, request).await;
            1
        })
        .await
    }

    /// One slice of `Authorize`, each followed by the `RecordUsage` that settles it; counts pairs.
    pub(crate) async fn authorize_settle(
        &self,
        work: impl Iterator<Item = Request<v1::AuthorizeRequest>> + Send + 'static,
        in_flight: usize,
        slice: Duration,
    ) -> Tally {
        let work = Queue::new(work);
        self.slice(in_flight, slice, work, |channel, request| async move {
            let event = settling(request.get_ref());
            let tenant = request.metadata().clone();
            let hold = authorized(channel.clone(), request).await;
            let mut settle = Request::new(v1::RecordUsageRequest {
                event: Some(v1::UsageEvent {
                    reservation_id: Some(hold.reservation_id),
                    ..event
                }),
                ..Default::default()
            });
            *settle.metadata_mut() = tenant;
            let answer = MeteringServiceClient::new(channel)
                .record_usage(settle)
                .await
                .expect("an event is answered")
                .into_inner();
            check(answer.recorded)
        })
        .await
    }

    /// `Authorize` at a steady pace.
    pub(crate) async fn paced_authorize(
        &self,
        work: impl Iterator<Item = Request<v1::AuthorizeRequest>> + Send + 'static,
        per_second: u32,
        slice: Duration,
    ) -> Tally {
        let work = Queue::new(work);
        self.paced(per_second, slice, work, |channel, request| async move {
            authorized(channel, request).await;
        })
        .await
    }

    /// The empty call at a steady pace.
    pub(crate) async fn paced_empty(&self, per_second: u32, slice: Duration) -> Tally {
        let work = Queue::new(iter::repeat(()));
        self.paced(per_second, slice, work, |channel, ()| async move {
            AdminServiceClient::new(channel)
                .get_caller(empty())
                .await
                .expect("an empty call is answered");
        })
        .await
    }

    /// Begins so many calls a second, whatever became of those before, a few at each millisecond; a
    /// call's time counts from the moment at which it was due.
    async fn paced<T, F>(
        &self,
        per_second: u32,
        slice: Duration,
        work: Queue<T>,
        call: impl Fn(Channel, T) -> F + Clone + Send + 'static,
    ) -> Tally
    where
        T: Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let each = Duration::from_secs(1) / per_second;
        let calls = u32::try_from(slice.as_nanos() / each.as_nanos()).expect("a short slice");
        let started = Instant::now();
        let mut under_way = JoinSet::new();
        for number in 0..calls {
            let due = started + each * number;
            tokio::time::sleep_until(due.into()).await;
            let Some(next) = work.take() else { break };
            let answer = call(self.channel(number as usize), next);
            under_way.spawn(async move {
                answer.await;
                u32::try_from(due.elapsed().as_micros()).unwrap_or(u32::MAX)
            });
        }
        let mut tally = Tally::default();
        while let Some(micros) = under_way.join_next().await {
            tally.done += 1;
            tally.micros.push(micros.expect("a call does not panic"));
        }
        tally.elapsed = started.elapsed();
        tally
    }

    /// One slice of the RPC that does least and still passes every layer; counts calls.
    pub(crate) async fn empty(&self, in_flight: usize, slice: Duration) -> Tally {
        let work = Queue::new(iter::repeat(()));
        self.slice(in_flight, slice, work, |channel, ()| async move {
            AdminServiceClient::new(channel)
                .get_caller(empty())
                .await
                .expect("an empty call is answered");
            1
        })
        .await
    }
}

/// Asks; panics unless the call may run.
async fn authorized(channel: Channel, request: Request<v1::AuthorizeRequest>) -> v1::Hold {
    let answer = MeteringServiceClient::new(channel)
        .authorize(request)
        .await
        .expect("a question is answered")
        .into_inner();
    assert_eq!(answer.decision(), v1::Decision::Allowed, "{answer:?}");
    assert_eq!(answer.limits.len(), 4, "{answer:?}");
    answer.hold.expect("what may run has a hold")
}

/// The event that settles a call, less than what was asked.
fn settling(asked: &v1::AuthorizeRequest) -> v1::UsageEvent {
    let call = asked.call.clone().unwrap_or_default();
    let line = v1::UsageLine {
        model: call.model,
        counts: Some(v1::TokenCounts {
            input: 1_900,
            output: 700,
            ..Default::default()
        }),
        ..Default::default()
    };
    v1::UsageEvent {
        event_id: format!("msg_{}", asked.request_id),
        user_id: call.user_id,
        provider: call.provider,
        usage: Some(v1::usage_event::Usage::Lines(v1::UsageLines {
            lines: vec![line],
        })),
        ..Default::default()
    }
}

fn empty() -> Request<v1::GetCallerRequest> {
    with_tenant("tenant-00", v1::GetCallerRequest::default())
}

/// 1 for a result that says that the event was recorded now, and priced.
pub(crate) fn recorded(result: v1::RecordResult) -> u64 {
    match result.result {
        Some(v1::record_result::Result::Recorded(recorded)) => check(Some(recorded)),
        other => panic!("an event was not recorded: {other:?}"),
    }
}

/// 1 for an event that was recorded now, and priced.
fn check(recorded: Option<v1::RecordedUsage>) -> u64 {
    let recorded = recorded.expect("an answer has its event");
    assert_eq!(recorded.outcome(), v1::RecordOutcome::Recorded);
    assert_eq!(recorded.unpriced_lines, 0, "{recorded:?}");
    1
}

/// Requests that wait to be sent.
pub(crate) struct Queue<T>(Arc<Mutex<dyn Iterator<Item = T> + Send>>);

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: 'static> Queue<T> {
    fn new(requests: impl Iterator<Item = T> + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(requests)))
    }

    /// The next; none if all are taken.
    pub(crate) fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).next()
    }
}

/// Events to record, and about how many a second.
pub(crate) struct Load {
    generator: Generator,
    events: usize,
    pub(crate) in_flight: usize,
    per_second: u64,
}

impl Load {
    /// Calls of `events` events, so many at once. `per_second` is a first guess.
    pub(crate) fn new(
        generator: Generator,
        events: usize,
        in_flight: usize,
        per_second: u64,
    ) -> Self {
        Self {
            generator,
            events,
            in_flight,
            per_second,
        }
    }

    /// Makes what a slice needs, so that making it is not measured.
    pub(crate) fn prepare<T: Send + 'static>(
        &mut self,
        slice: Duration,
        convert: impl Fn(Batch) -> T,
    ) -> Queue<T> {
        let wanted = enough(self.per_second, slice) / self.events + self.in_flight;
        let made: Vec<T> = (0..wanted)
            .map(|_| convert(self.generator.batch(self.events)))
            .collect();
        Queue::new(made.into_iter())
    }

    /// Remembers how fast it went, for the next slice.
    pub(crate) fn learn(&mut self, tally: &Tally) {
        self.per_second = rate(tally);
    }
}

/// Events a second, at least one.
pub(crate) fn rate(tally: &Tally) -> u64 {
    let millis = u64::try_from(tally.elapsed.as_millis()).expect("a short time");
    (tally.done * 1_000 / millis.max(1)).max(1)
}

/// Events that a slice can hardly use up.
pub(crate) fn enough(per_second: u64, slice: Duration) -> usize {
    let millis = u64::try_from(slice.as_millis()).expect("a short time");
    usize::try_from(per_second * millis / 1_000 * SPARE_PERCENT / 100).expect("it fits in memory")
}
