//! What a server answers to bytes that are no message, over a real connection.

use tokenmeter_api::status::failure_of;
use tokenmeter_api::v1;
use tokenmeter_api::v1::metering_service_server::{MeteringService, MeteringServiceServer};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Response, Status, Streaming};

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

/// A server that answers nothing.
struct Deaf;

type Stream<T> = tokio_stream::Empty<Result<T, Status>>;

macro_rules! unary {
    ($($method:ident $request:ident $response:ident)*) => {
        #[tonic::async_trait]
        impl MeteringService for Deaf {
            type StreamUsageStream = Stream<v1::StreamUsageResponse>;
            type MeterCallStream = Stream<v1::MeterCallResponse>;
            async fn stream_usage(
                &self,
                _: Request<Streaming<v1::StreamUsageRequest>>,
            ) -> Result<Response<Self::StreamUsageStream>, Status> {
                Err(Status::unimplemented(""))
            }
            async fn meter_call(
                &self,
                _: Request<Streaming<v1::MeterCallRequest>>,
            ) -> Result<Response<Self::MeterCallStream>, Status> {
                Err(Status::unimplemented(""))
            }
            async fn publish_token_events(
                &self,
                _: Request<Streaming<v1::PublishTokenEventsRequest>>,
            ) -> Result<Response<v1::PublishTokenEventsResponse>, Status> {
                Err(Status::unimplemented(""))
            }
            $(async fn $method(
                &self,
                _: Request<v1::$request>,
            ) -> Result<Response<v1::$response>, Status> {
                Err(Status::unimplemented(""))
            })*
        }
    };
}

unary! {
    authorize AuthorizeRequest AuthorizeResponse
    extend_reservation ExtendReservationRequest ExtendReservationResponse
    release_reservation ReleaseReservationRequest ReleaseReservationResponse
    record_usage RecordUsageRequest RecordUsageResponse
    batch_record_usage BatchRecordUsageRequest BatchRecordUsageResponse
    void_usage VoidUsageRequest VoidUsageResponse
    record_tool_invocations RecordToolInvocationsRequest RecordToolInvocationsResponse
    record_messages RecordMessagesRequest RecordMessagesResponse
    record_champion_cases RecordChampionCasesRequest RecordChampionCasesResponse
    get_token_budget GetTokenBudgetRequest GetTokenBudgetResponse
    set_token_budget SetTokenBudgetRequest SetTokenBudgetResponse
    reset_token_budget ResetTokenBudgetRequest ResetTokenBudgetResponse
}

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
