//! The probes of the manifests, asked of running nodes by grpc-health-probe.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tokenmeter_tests::{Finished, Server, Start, tool};

use crate::binary::{run, values};
use crate::overlay::{OVERLAYS, Overlay, container, name, text};

const PROBES: [&str; 3] = ["startupProbe", "livenessProbe", "readinessProbe"];

/// The services that a node's probes ask for.
fn asked(node: &Value) -> Vec<String> {
    let container = container(node);
    PROBES
        .map(|probe| text(&container[probe]["grpc"]["service"]))
        .to_vec()
}

/// The environment of a workload, with its ledger in a file of this folder.
fn environment(overlay: &Overlay, workload: &Value, folder: &Path) -> BTreeMap<String, String> {
    let mut environment = values(&overlay.environment(workload).unwrap());
    let ledger = format!("sqlite:{}", folder.join("ledger.db").display());
    environment.insert("TOKENMETER_LEDGER".to_owned(), ledger);
    environment.remove("TOKENMETER_LEDGER_REPLICA");
    environment
}

/// A node as its manifest says, but on free ports and with a ledger of its own, which the Job is run for
/// where there is one.
pub(crate) fn node(overlay: &Overlay, node: &Value, folder: &Path) -> Start {
    for job in overlay.all("Job") {
        let arguments = container(job)["args"].as_array().unwrap().iter().map(text);
        let arguments: Vec<_> = arguments.collect();
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        run(folder, &arguments, &environment(overlay, job, folder)).success();
    }
    // `serve` and the address to listen on are given by `Start`, as flags, which come first.
    let mut start = Start::new(folder)
        .argument("--metrics-listen")
        .argument("127.0.0.1:0");
    for (name, value) in environment(overlay, node, folder) {
        start = start.variable(name, value);
    }
    start
}

/// Asks as an orchestrator does; answers the exit status and what was told.
fn probe(server: &Server, service: &str) -> (Option<i32>, String) {
    let mut command = Command::new(tool("grpc-health-probe"));
    command.arg(format!("-addr={}", server.address()));
    command.arg(format!("-service={service}"));
    command.args(["-connect-timeout=10s", "-rpc-timeout=10s"]);
    let told = Finished::of(&mut command);
    (told.status.code(), told.stderr)
}

/// The exit status of grpc-health-probe for a service that is unknown or does not serve.
const UNHEALTHY: [Option<i32>; 2] = [Some(3), Some(4)];

#[test]
fn every_probe_is_answered_by_the_node_that_it_is_for() {
    for overlay in OVERLAYS.map(Overlay::of) {
        for node in overlay.all("Deployment") {
            let folder = tempfile::tempdir().unwrap();
            let server = self::node(&overlay, node, folder.path()).serve();
            for service in asked(node) {
                let (status, told) = probe(&server, &service);
                assert_eq!(status, Some(0), "{} {service:?}: {told}", name(node));
                let planted = format!("{service}s");
                let (status, told) = probe(&server, &planted);
                assert!(UNHEALTHY.contains(&status), "{planted}: {status:?} {told}");
            }
        }
    }
}

#[test]
fn readiness_is_of_the_service_that_the_node_serves_and_of_no_other() {
    let production = Overlay::of("production");
    let nodes = production.all("Deployment");
    let folder = tempfile::tempdir().unwrap();
    let metering = nodes
        .iter()
        .find(|node| name(node) == "tokenmeter-metering");
    let server = node(&production, metering.unwrap(), folder.path()).serve();
    for node in &nodes {
        let service = text(&container(node)["readinessProbe"]["grpc"]["service"]);
        // The jobs have no service of their own: theirs is the whole.
        let expected = service.is_empty() || service == "tokenmeter.v1.MeteringService";
        let (status, told) = probe(&server, &service);
        assert_eq!(status == Some(0), expected, "{service:?}: {told}");
    }
}

#[test]
fn nothing_but_readiness_asks_about_the_ledger() {
    for overlay in OVERLAYS.map(Overlay::of) {
        for node in overlay.all("Deployment") {
            let [startup, liveness, readiness] = &asked(node)[..] else {
                panic!("three probes");
            };
            assert_eq!(
                (startup.as_str(), liveness.as_str()),
                ("liveness", "liveness")
            );
            assert_ne!(readiness, "liveness");
        }
    }
}
