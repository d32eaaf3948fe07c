//! Environment, ports, commands and the time to end, as the manifests say them and the binary takes
//! them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::binary::{run, settings, values};
use crate::overlay::{OVERLAYS, Overlay, container, list, name, pod, text};

/// How long a node may take for what the grace does not count, in milliseconds: to write what was
/// accepted, and to send its last spans.
const MARGIN_MS: u64 = 10_000;

/// What the binary has to say against an environment.
fn wrong_environment(environment: &BTreeMap<String, String>) -> Vec<String> {
    let known = match settings(environment) {
        Ok(known) => known,
        Err(told) => return told.lines().map(ToOwned::to_owned).collect(),
    };
    let strange = environment
        .iter()
        .filter(|(name, _)| !known.contains_key(*name));
    strange
        .map(|(name, _)| format!("{name} is no setting"))
        .collect()
}

fn environments() -> Vec<(String, BTreeMap<String, String>)> {
    let mut all = Vec::new();
    for overlay in OVERLAYS.map(Overlay::of) {
        for workload in overlay.workloads() {
            let environment = overlay.environment(workload).unwrap();
            all.push((name(workload), values(&environment)));
        }
    }
    all
}

#[test]
fn every_variable_is_a_setting_and_every_value_is_valid() {
    for (workload, environment) in environments() {
        assert_eq!(wrong_environment(&environment), [""; 0], "{workload}");
        for (name, value) in [
            ("TOKENMETER_LISTNE", "0.0.0.0:50051"),
            ("TOKENMETER_ROLES", "metring"),
            ("TOKENMETER_LEDGER", "postgresq://db.example/tokenmeter"),
            // Set by the cluster for a Service of this name, were service links on.
            ("TOKENMETER_PORT", "tcp://192.0.2.1:50051"),
        ] {
            let mut planted = environment.clone();
            planted.insert(name.to_owned(), value.to_owned());
            let told = wrong_environment(&planted);
            assert_eq!(told.len(), 1, "{workload} {name}: {told:?}");
        }
    }
}

/// The settings that are in force in a workload of these manifests.
fn in_force(overlay: &Overlay, workload: &Value) -> BTreeMap<String, String> {
    settings(&values(&overlay.environment(workload).unwrap())).unwrap()
}

fn port(settings: &BTreeMap<String, String>, name: &str) -> Value {
    let address: SocketAddr = settings[name].parse().unwrap();
    assert!(
        address.ip().is_unspecified(),
        "{name}: the pod's address is not known before"
    );
    json!(address.port())
}

/// Where a node's ports are not those that its settings open.
fn wrong_ports(overlay: &Overlay, node: &Value) -> Vec<String> {
    let settings = in_force(overlay, node);
    let grpc = port(&settings, "TOKENMETER_LISTEN");
    let metrics = port(&settings, "TOKENMETER_METRICS_LISTEN");
    let container = container(node);
    let mut wrong = Vec::new();
    let opened = json!([
        { "name": "grpc", "containerPort": grpc, "protocol": "TCP" },
        { "name": "metrics", "containerPort": metrics, "protocol": "TCP" },
    ]);
    let mut ports = container["ports"].clone();
    for port in ports.as_array_mut().unwrap() {
        port["protocol"] = json!("TCP");
    }
    if ports != opened {
        wrong.push(format!("ports are {ports}"));
    }
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        if container[probe]["grpc"]["port"] != grpc {
            wrong.push(format!("{probe} asks another port"));
        }
    }
    let annotations = &node["spec"]["template"]["metadata"]["annotations"];
    if annotations["prometheus.io/port"].as_str() != Some(&*metrics.to_string()) {
        wrong.push("another port is scraped".to_owned());
    }
    wrong
}

#[test]
fn ports_are_those_that_the_binary_opens() {
    for overlay in OVERLAYS.map(Overlay::of) {
        for node in overlay.all("Deployment") {
            assert_eq!(wrong_ports(&overlay, node), [""; 0], "{}", name(node));
            for path in [
                "/spec/template/spec/containers/0/ports/0/containerPort",
                "/spec/template/spec/containers/0/readinessProbe/grpc/port",
            ] {
                let mut planted = node.clone();
                *planted.pointer_mut(path).unwrap() = json!(50_052);
                assert_eq!(wrong_ports(&overlay, &planted).len(), 1, "{path}");
            }
        }
        for service in overlay.all("Service") {
            let port = &service["spec"]["ports"][0]["port"];
            assert_eq!(port, 50_051, "the port that clients take by default");
        }
    }
}

/// Whether a node is killed before the binary has ended by itself.
fn is_cut_short(overlay: &Overlay, node: &Value) -> bool {
    let settings = in_force(overlay, node);
    let ms = |name: &str| settings[name].parse::<u64>().unwrap();
    let needed =
        ms("TOKENMETER_SHUTDOWN_DELAY_MS") + ms("TOKENMETER_SHUTDOWN_GRACE_MS") + MARGIN_MS;
    let given = pod(node)["terminationGracePeriodSeconds"].as_u64().unwrap();
    given * 1_000 < needed
}

#[test]
fn nodes_are_given_the_time_to_end() {
    for overlay in OVERLAYS.map(Overlay::of) {
        for node in overlay.all("Deployment") {
            assert!(!is_cut_short(&overlay, node), "{}", name(node));
            let mut planted = node.clone();
            planted["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(30);
            assert!(is_cut_short(&overlay, &planted), "30 s, the default");
        }
    }
}

/// Whether the binary takes these arguments; `--help` keeps it from doing what they say.
fn is_command(arguments: &[&str]) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let arguments = [arguments, &["--help"]].concat();
    run(folder.path(), &arguments, &BTreeMap::new())
        .status
        .success()
}

#[test]
fn commands_are_those_of_the_binary() {
    for overlay in OVERLAYS.map(Overlay::of) {
        for workload in overlay.workloads() {
            let arguments: Vec<_> = list(&container(workload)["args"])
                .iter()
                .map(text)
                .collect();
            let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
            let expected = match text(&workload["kind"]).as_str() {
                "Job" => "migrate",
                _ => "serve",
            };
            assert_eq!(arguments, [expected]);
            assert!(is_command(&arguments), "{}: {arguments:?}", name(workload));
        }
    }
    assert!(!is_command(&["migrat"]));
    assert!(!is_command(&["serve", "--listne", "127.0.0.1:0"]));
}

#[test]
fn the_roles_of_the_nodes_are_together_all_that_there_are() {
    let of = |settings: &BTreeMap<String, String>| -> BTreeSet<String> {
        let roles = settings["TOKENMETER_ROLES"].split(',');
        roles.map(ToOwned::to_owned).collect()
    };
    let all = of(&settings(&BTreeMap::new()).unwrap());
    for overlay in OVERLAYS.map(Overlay::of) {
        let nodes = overlay.all("Deployment");
        let mut served = BTreeSet::new();
        for node in &nodes {
            for role in of(&in_force(&overlay, node)) {
                assert!(
                    served.insert(role.clone()),
                    "{role} is served by two Deployments"
                );
                // Where there are several, each is called after its role.
                assert!(nodes.len() == 1 || name(node) == format!("tokenmeter-{role}"));
            }
        }
        assert_eq!(served, all);
    }
}

#[test]
fn nodes_of_production_leave_the_schema_to_the_job() {
    let production = Overlay::of("production");
    for node in production.all("Deployment") {
        let settings = in_force(&production, node);
        assert_eq!(settings["TOKENMETER_MIGRATE_ON_START"], "false");
    }
    let embedded = Overlay::of("embedded");
    let settings = in_force(&embedded, embedded.all("Deployment")[0]);
    assert_eq!(settings["TOKENMETER_MIGRATE_ON_START"], "true");
}

#[test]
fn the_image_is_of_this_version() {
    let folder = tempfile::tempdir().unwrap();
    let version = run(folder.path(), &["version"], &BTreeMap::new())
        .success()
        .stdout;
    let version = version.trim().replace(' ', ":");
    for overlay in OVERLAYS.map(Overlay::of) {
        for workload in overlay.workloads() {
            assert_eq!(container(workload)["image"], version, "{}", name(workload));
        }
    }
}
