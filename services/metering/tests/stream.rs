//! A real client on real HTTP/2 that does not read its results.

#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

mod support;

use std::time::Duration;

use tokenmeter_api::status::failure_of;
use tokenmeter_api::streams::Streams;
use tokenmeter_api::v1;
use tokenmeter_api::v1::metering_service_client::MeteringServiceClient;
use tokenmeter_api::v1::metering_service_server::MeteringServiceServer;
use tokenmeter_metering::stream::Rules;
use tokenmeter_metering::{Grpc, StreamSettings};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long results may lie unread.
const UNREAD_LIMIT: Duration = Duration::from_millis(200);
/// Events of the test: within the window, so that the server reads them all.
const EVENTS: i64 = 4_000;

#[tokio::test]
async fn results_that_a_client_leaves_unread_end_its_stream() {
    let on = support::service().await;
    let streams = Streams::new(1);
    let settings = StreamSettings {
        streams: streams.clone(),
        rules: Rules {
            unread_limit: UNREAD_LIMIT,
            draining: CancellationToken::new(),
        },
        max_message_bytes: 4 << 20,
    };
    let caller = on.caller.clone();
    let service = MeteringServiceServer::with_interceptor(
        Grpc(on.metering.clone(), settings),
        move |mut request: tonic::Request<()>| {
            request.extensions_mut().insert(caller.clone());
            Ok(request)
        },
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = Server::builder()
        .add_service(service)
        .serve_with_incoming(TcpIncoming::from(listener));
    let serving = tokio::spawn(serving);

    // The smallest window, so that the transport takes a message of results and no more.
    let channel = Channel::from_shared(format!("http://{address}"))
        .unwrap()
        .initial_stream_window_size(1_024)
        .connect()
        .await
        .unwrap();
    // Refused events have results too, and need no disk.
    let messages = (0..EVENTS / 100).map(|message| v1::StreamUsageRequest {
        events: (message * 100..(message + 1) * 100)
            .map(|sequence| v1::StreamedEvent {
                sequence,
                event: None,
            })
            .collect(),
        ..Default::default()
    });
    // The client's side stays open: nothing but the unread results can end this stream.
    let messages = futures_util::StreamExt::chain(
        tokio_stream::iter(messages),
        futures_util::stream::pending(),
    );
    let mut results = MeteringServiceClient::new(channel)
        .stream_usage(messages)
        .await
        .unwrap()
        .into_inner();
    // That the time is over shows nowhere until somebody reads: it has to be waited for.
    tokio::time::sleep(UNREAD_LIMIT * 5).await;
    assert!(streams.open().is_err(), "the client still has the stream");
    let mut read = 0;
    let status = loop {
        match tokio::time::timeout(PATIENCE, results.message())
            .await
            .unwrap()
        {
            Ok(Some(answer)) => read += answer.results.len(),
            Ok(None) => panic!("the stream ended well after {read} results"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Aborted, "{status:?}");
    let told = failure_of(&status).unwrap();
    assert_eq!(told.reason, v1::ErrorReason::AcksUnread);
    // What the transport had taken before comes first.
    assert!((100..1_000).contains(&read), "{read} results were read");
    serving.abort();
}
