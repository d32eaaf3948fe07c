//! The probes of the manifests, asked of running nodes by grpc-health-probe.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tokenmeter_tests::{Finished, Server, Start, tool};

use crate::binary::{run, values};
use crate::overlay::{OVERLAYS, Overlay, container, list, name, text};

const PROBES: [&str; 3] = ["startupProbe", "livenessProbe", "readinessProbe"];

/// The services that a node's probes ask for.
fn asked(node: &Value) -> Vec<String> {
    let container = container(node);
    PROBES
        .map(|probe| text(&container[probe]["grpc"]["service"]))
        .to_vec()
}

/// The environment of a workload, with another ledger.
fn environment(overlay: &Overlay, workload: &Value, ledger: &str) -> BTreeMap<String, String> {
    let mut environment = values(&overlay.environment(workload).unwrap());
    environment.insert("TOKENMETER_LEDGER".to_owned(), ledger.to_owned());
    environment.remove("TOKENMETER_LEDGER_REPLICA");
    environment
}

/// A node as its manifest says, but on free ports and with another ledger.
pub(crate) fn node(overlay: &Overlay, node: &Value, folder: &Path, ledger: &str) -> Start {
    // `serve` and the address to listen on are given by `Start`, as flags, which come first.
    let mut start = Start::new(folder)
        .argument("--metrics-listen")
        .argument("127.0.0.1:0");
    for (name, value) in environment(overlay, node, ledger) {
        start = start.variable(name, value);
    }
    start
}

/// Runs the Job that migrates, as its manifest says, but on another ledger.
fn migrate(overlay: &Overlay, folder: &Path, ledger: &str) {
    let jobs = overlay.all("Job");
    assert_eq!(jobs.len(), 1);
    let arguments: Vec<_> = list(&container(jobs[0])["args"]).iter().map(text).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    run(folder, &arguments, &environment(overlay, jobs[0], ledger)).success();
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

/// The service of a node's readiness.
fn readiness(node: &Value) -> String {
    text(&container(node)["readinessProbe"]["grpc"]["service"])
}

/// The URL of a file in a folder.
pub(crate) fn sqlite(folder: &Path) -> String {
    format!("sqlite:{}", folder.join("ledger.db").display())
}

/// The exit status of grpc-health-probe for a service that is unknown or does not serve.
const UNHEALTHY: [Option<i32>; 2] = [Some(3), Some(4)];

/// Asks a node for the services of its probes, and for some that it must not know.
fn answers_its_probes(server: &Server, node: &Value) {
    for service in asked(node) {
        let (status, told) = probe(server, &service);
        assert_eq!(status, Some(0), "{} {service:?}: {told}", name(node));
        let planted = format!("{service}s");
        let (status, told) = probe(server, &planted);
        assert!(UNHEALTHY.contains(&status), "{planted}: {status:?} {told}");
    }
}

#[test]
fn the_embedded_node_answers_its_probes() {
    let embedded = Overlay::of("embedded");
    let deployment = embedded.all("Deployment")[0];
    let folder = tempfile::tempdir().unwrap();
    let ledger = sqlite(folder.path());
    let server = node(&embedded, deployment, folder.path(), &ledger).serve();
    answers_its_probes(&server, deployment);
}

#[test]
fn nodes_of_production_start_after_the_job_and_answer_their_probes() {
    let production = Overlay::of("production");
    let nodes = production.all("Deployment");
    let folder = tempfile::tempdir().unwrap();
    let ledger = tokenmeter_test_postgres::shared().database("nodes_of_production");
    let (status, told) = node(&production, nodes[0], folder.path(), &ledger).refused();
    assert_eq!(status.code(), Some(1), "{told}");
    assert!(told.contains("tokenmeter migrate"), "{told}");
    migrate(&production, folder.path(), &ledger);

    // All at once, over one ledger.
    let servers: Vec<_> = nodes
        .iter()
        .map(|one| node(&production, one, folder.path(), &ledger).serve())
        .collect();
    for (server, node) in servers.iter().zip(&nodes) {
        answers_its_probes(server, node);
        // Of the services of the others, a node knows none.
        for other in nodes.iter().filter(|other| name(other) != name(node)) {
            let service = readiness(other);
            let (status, told) = probe(server, &service);
            // The jobs have no service of their own: theirs is the whole.
            assert_eq!(status == Some(0), service.is_empty(), "{service:?}: {told}");
        }
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
