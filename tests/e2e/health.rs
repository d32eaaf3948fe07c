//! `grpc.health.v1` and reflection, as a stranger with grpcurl meets them.

use serde_json::json;
use tokenmeter_tests::Server;

const CHECK: &str = "grpc.health.v1.Health/Check";

#[test]
fn a_started_server_is_serving() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let answer = server.grpcurl(CHECK, &json!({})).unwrap();
    assert_eq!(answer["status"], "SERVING");
}

#[test]
fn a_killed_server_serves_again_in_the_same_folder_on_the_same_port() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path());
    let address = server.address();
    server.kill();
    server.restart();
    assert_eq!(server.address(), address);
    let answer = server.grpcurl(CHECK, &json!({})).unwrap();
    assert_eq!(answer["status"], "SERVING");
}

#[test]
fn a_server_that_is_asked_to_end_ends_without_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path());
    let status = server.terminate();
    assert!(status.success(), "{status}");
}

#[test]
fn health_knows_the_three_services_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    for service in ["MeteringService", "AnalyticsService", "AdminService"] {
        let request = json!({ "service": format!("tokenmeter.v1.{service}") });
        let answer = server.grpcurl(CHECK, &request).unwrap();
        assert_eq!(answer["status"], "SERVING", "{service}");
    }
    let refused = server
        .grpcurl(CHECK, &json!({ "service": "tokenmeter.v1.Unknown" }))
        .unwrap_err();
    assert_eq!(refused.0["code"], 5, "{refused}");
}
