//! What a server answers to bytes that are no message, over a real connection.

use tokenmeter_api::status::failure_of;
use tokenmeter_api::v1;
use tokenmeter_api::v1::metering_service_server::{MeteringService, MeteringServiceServer};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Status};

/// Like `UsageEvent`, with bytes where that has a string.
#[derive(Clone, PartialEq, prost::Message)]
struct BadEvent {
    #[prost(bytes = "vec", tag = "1")]
    event_id: Vec<u8>,
}

/// Like `RecordUsageRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct BadRequest {
    #[prost(message, optional, tag = "1")]
    event: Option<BadEvent>,
}

/// A server that answers nothing: every RPC keeps the generated stub.
struct Deaf;

#[tonic::async_trait]
impl MeteringService for Deaf {}

async fn send(bad: BadRequest) -> Status {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(
        Server::builder()
            .add_service(MeteringServiceServer::new(Deaf))
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    let channel = Channel::from_shared(format!("http://{address}"))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<BadRequest, v1::RecordUsageResponse>::default();
    let path = PathAndQuery::from_static("/tokenmeter.v1.MeteringService/RecordUsage");
    let status = client
        .unary(Request::new(bad), path, codec)
        .await
        .unwrap_err();
    server.abort();
    status
}

#[tokio::test]
async fn bytes_that_are_no_message_are_the_callers_fault_and_name_the_field() {
    let status = send(BadRequest {
        event: Some(BadEvent {
            event_id: vec![0xff, 0xfe],
        }),
    })
    .await;
    assert_eq!(status.code(), Code::InvalidArgument);
    let failure = failure_of(&status).unwrap();
    assert_eq!(failure.reason, v1::ErrorReason::MessageUndecodable);
    let (field, cause) = &failure.violations[0];
    assert_eq!(field, "UsageEvent.event_id");
    assert!(cause.contains("UTF-8"), "{cause}");
}

#[tokio::test]
async fn a_message_that_decodes_reaches_the_server() {
    let status = send(BadRequest {
        event: Some(BadEvent {
            event_id: b"msg_01".to_vec(),
        }),
    })
    .await;
    assert_eq!(status.code(), Code::Unimplemented);
}
