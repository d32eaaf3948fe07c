//! The manifests by themselves: strictly of the API's types, confined, and of one piece.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};
use tokenmeter_tests::repository;

use crate::overlay::{
    OVERLAYS, Overlay, Texts, container, decoded, labels, list, name, pod, rendered, rendered_at,
    text, texts,
};

#[test]
fn overlays_are_of_the_types_of_the_api_to_the_last_field() {
    let counts = |overlay: &str, kind: &str| Overlay::of(overlay).all(kind).len();
    assert_eq!(counts("embedded", "Deployment"), 1);
    assert_eq!(counts("embedded", "PersistentVolumeClaim"), 1);
    assert_eq!(counts("production", "Deployment"), 4);
    assert_eq!(counts("production", "Job"), 1);

    // Each of these is a mistake that a cluster would tell of late or never.
    let planted = [
        (
            "terminationGracePeriodSeconds",
            "terminationGracePeriodSecond",
        ),
        ("readOnlyRootFilesystem", "readonlyRootFilesystem"),
        ("  replicas: 2", "  replicas: two"),
        ("  replicas: 2", "  replicas: 2\n  replicas: 3"),
        ("kind: PodDisruptionBudget", "kind: PodDisruptionBudgets"),
        ("apiVersion: policy/v1", "apiVersion: policy/v1beta7"),
    ];
    let yaml = rendered("production");
    assert!(decoded(&yaml).is_ok());
    for (right, wrong) in planted {
        assert!(yaml.contains(right), "{right}");
        let told = decoded(&yaml.replacen(right, wrong, 1)).unwrap_err();
        assert!(told.starts_with("document "), "{wrong}: {told}");
    }
    assert!(decoded("").is_err());
}

#[test]
fn the_overlay_of_the_documentation_is_one() {
    let page = fs::read_to_string(repository("docs/kubernetes.md")).unwrap();
    let (_, from) = page
        .split_once("<!-- overlay:begin -->\n```yaml\n")
        .unwrap();
    let (overlay, _) = from.split_once("```").unwrap();
    let folder = tempfile::tempdir().unwrap();
    symlink(
        repository("").canonicalize().unwrap(),
        folder.path().join("tokenmeter"),
    )
    .unwrap();
    let mine = folder.path().join("mine");
    fs::create_dir(&mine).unwrap();
    fs::write(mine.join("kustomization.yaml"), overlay).unwrap();

    let overlay = Overlay(decoded(&rendered_at(&mine)).unwrap());
    assert_eq!(broken(&overlay), [""; 0]);
    for object in &overlay.0 {
        assert_eq!(object["metadata"]["namespace"], "tokenmeter");
    }
    for workload in overlay.workloads() {
        let image = text(&container(workload)["image"]);
        assert!(image.starts_with("registry.example/tokenmeter:"), "{image}");
    }
    let metering = overlay.one("Deployment", &json!("tokenmeter-metering"));
    assert_eq!(metering.unwrap()["spec"]["replicas"], 3);
}

/// What the pods of every workload have to be held to, and the value that does it.
fn bonds() -> Vec<(&'static str, Value)> {
    vec![
        ("/automountServiceAccountToken", json!(false)),
        ("/enableServiceLinks", json!(false)),
        ("/securityContext/runAsNonRoot", json!(true)),
        ("/securityContext/runAsUser", json!(65532)),
        (
            "/securityContext/seccompProfile/type",
            json!("RuntimeDefault"),
        ),
        (
            "/containers/0/securityContext/allowPrivilegeEscalation",
            json!(false),
        ),
        (
            "/containers/0/securityContext/readOnlyRootFilesystem",
            json!(true),
        ),
        (
            "/containers/0/securityContext/capabilities",
            json!({ "drop": ["ALL"] }),
        ),
    ]
}

fn unconfined(workload: &Value) -> Vec<String> {
    let pod = pod(workload);
    let mut wrong: Vec<_> = bonds()
        .into_iter()
        .filter(|(path, value)| pod.pointer(path) != Some(value))
        .map(|(path, value)| format!("{path} is not {value}"))
        .collect();
    for path in [
        "/containers/0/resources/requests/cpu",
        "/containers/0/resources/requests/memory",
        "/containers/0/resources/limits/memory",
    ] {
        if pod.pointer(path).is_none() {
            wrong.push(format!("no {path}"));
        }
    }
    for shared in ["hostNetwork", "hostPID", "hostIPC"] {
        if pod.get(shared).is_some() {
            wrong.push(format!("{shared} is given"));
        }
    }
    wrong
}

#[test]
fn every_pod_is_confined() {
    for overlay in OVERLAYS.map(Overlay::of) {
        for workload in overlay.workloads() {
            assert_eq!(unconfined(workload), [""; 0], "{}", name(workload));
            for (path, _) in bonds() {
                let mut planted = workload.clone();
                let path = format!("/spec/template/spec{path}");
                *planted.pointer_mut(&path).unwrap() = Value::Null;
                assert_eq!(unconfined(&planted).len(), 1, "{path}");
            }
        }
    }
}

/// What in an overlay names something that is not there, or not the thing that it means.
fn broken(overlay: &Overlay) -> Vec<String> {
    let mut wrong = Vec::new();
    for workload in overlay.workloads() {
        wrong.extend(overlay.environment(workload).err().into_iter().flatten());
        wrong.extend(broken_pod(overlay, workload));
    }
    for service in overlay.all("Service") {
        let selected = selected(overlay, &service["spec"]["selector"]);
        let [workload] = selected[..] else {
            wrong.push(format!(
                "Service {} has {} workloads",
                name(service),
                selected.len()
            ));
            continue;
        };
        let ports = list(&container(workload)["ports"]);
        for port in list(&service["spec"]["ports"]) {
            if !ports.iter().any(|one| one["name"] == port["targetPort"]) {
                wrong.push(format!("Service {} has no such port", name(service)));
            }
        }
    }
    for (kind, selector) in [
        ("PodDisruptionBudget", "/spec/selector/matchLabels"),
        ("NetworkPolicy", "/spec/podSelector/matchLabels"),
        ("Deployment", "/spec/selector/matchLabels"),
    ] {
        for object in overlay.all(kind) {
            let chosen = selected(overlay, object.pointer(selector).unwrap_or(&Value::Null));
            if chosen.len() != 1 || name(chosen[0]) != name(object) {
                wrong.push(format!("{kind} {} selects something else", name(object)));
            }
        }
    }
    wrong
}

fn broken_pod(overlay: &Overlay, workload: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let pod = pod(workload);
    let account = &pod["serviceAccountName"];
    if account.is_string() && overlay.one("ServiceAccount", account).is_none() {
        wrong.push(format!("no ServiceAccount {account}"));
    }
    for mount in list(&container(workload)["volumeMounts"]) {
        let volumes = list(&pod["volumes"]);
        if !volumes.iter().any(|volume| volume["name"] == mount["name"]) {
            wrong.push(format!("no volume {}", mount["name"]));
        }
    }
    for volume in list(&pod["volumes"]) {
        let claim = &volume["persistentVolumeClaim"]["claimName"];
        if claim.is_string() && overlay.one("PersistentVolumeClaim", claim).is_none() {
            wrong.push(format!("no PersistentVolumeClaim {claim}"));
        }
    }
    for constraint in list(&pod["topologySpreadConstraints"]) {
        let own = texts(&constraint["labelSelector"]["matchLabels"]);
        if own != labels(workload) {
            wrong.push(format!("{} is spread among others", name(workload)));
        }
    }
    wrong
}

/// The workloads whose pods have all these labels.
fn selected<'a>(overlay: &'a Overlay, selector: &Value) -> Vec<&'a Value> {
    let wanted: Texts = texts(selector);
    let chosen = |workload: &&Value| {
        let labels = labels(workload);
        wanted
            .iter()
            .all(|(name, value)| labels.get(name) == Some(value))
    };
    overlay.workloads().into_iter().filter(chosen).collect()
}

#[test]
fn what_the_manifests_name_is_there() {
    for overlay in OVERLAYS.map(Overlay::of) {
        assert_eq!(broken(&overlay), [""; 0]);
        for (kind, path, wrong) in [
            (
                "Service",
                "/spec/selector/app.kubernetes.io~1name",
                json!("other"),
            ),
            ("Service", "/spec/ports/0/targetPort", json!("grpcs")),
            ("NetworkPolicy", "/spec/podSelector/matchLabels", json!({})),
            (
                "Deployment",
                "/spec/template/spec/serviceAccountName",
                json!("other"),
            ),
            (
                "Deployment",
                "/spec/template/spec/containers/0/envFrom/0/configMapRef/name",
                json!("other"),
            ),
        ] {
            let mut planted = overlay.clone();
            let object = planted.0.iter_mut().find(|object| object["kind"] == kind);
            *object.unwrap().pointer_mut(path).unwrap() = wrong;
            // In the embedded overlay an empty selector chooses the one workload that there is.
            let harmless = kind == "NetworkPolicy" && overlay.workloads().len() == 1;
            assert_eq!(broken(&planted).is_empty(), harmless, "{kind} {path}");
        }
    }
}

#[test]
fn every_node_is_behind_a_policy_that_lets_in_callers_and_scrapes_only() {
    for overlay in OVERLAYS.map(Overlay::of) {
        for node in overlay.all("Deployment") {
            let policy = overlay.one("NetworkPolicy", &node["metadata"]["name"]);
            let spec = &policy.unwrap()["spec"];
            // An empty selector would choose every pod of the namespace.
            assert_eq!(texts(&spec["podSelector"]["matchLabels"]), labels(node));
            assert_eq!(spec["policyTypes"], json!(["Ingress"]));
            let ports = list(&container(node)["ports"]);
            let open: Vec<_> = ports.iter().map(|port| &port["containerPort"]).collect();
            let mut allowed = Vec::new();
            for rule in list(&spec["ingress"]) {
                assert!(!list(&rule["from"]).is_empty(), "everyone is let in");
                allowed.extend(list(&rule["ports"]).iter().map(|port| &port["port"]));
            }
            assert_eq!(allowed, open);
            let callers = &spec["ingress"][0]["from"][0];
            assert_eq!(
                callers,
                &json!({ "podSelector": { "matchExpressions": [
                    { "key": "tokenmeter-client", "operator": "In", "values": ["true"] },
                ] } }),
                "callers carry one label, and not those of the server"
            );
        }
    }
}

#[test]
fn no_secret_is_in_the_manifests_and_the_ledger_of_production_comes_from_one() {
    for overlay in OVERLAYS.map(Overlay::of) {
        assert!(overlay.all("Secret").is_empty());
    }
    let production = Overlay::of("production");
    for workload in production.workloads() {
        let variables = list(&container(workload)["env"]);
        let ledger = variables
            .iter()
            .find(|one| one["name"] == "TOKENMETER_LEDGER");
        let secret = &ledger.unwrap()["valueFrom"]["secretKeyRef"];
        assert_eq!(
            secret,
            &json!({ "name": "tokenmeter-ledger", "key": "url" })
        );
    }
}

#[test]
fn one_file_has_one_pod_and_the_nodes_of_production_are_replaced_one_by_one() {
    let embedded = Overlay::of("embedded");
    let node = embedded.all("Deployment")[0];
    assert_eq!(node["spec"]["replicas"], 1);
    assert_eq!(node["spec"]["strategy"], json!({ "type": "Recreate" }));

    let production = Overlay::of("production");
    for node in production.all("Deployment") {
        assert!(node["spec"]["replicas"].as_u64().unwrap() >= 2);
        assert_eq!(
            node["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"],
            0
        );
        let budget = production.one("PodDisruptionBudget", &node["metadata"]["name"]);
        assert_eq!(budget.unwrap()["spec"]["maxUnavailable"], 1);
        assert_eq!(list(&pod(node)["topologySpreadConstraints"]).len(), 2);
        let own = &labels(node)["app.kubernetes.io/component"];
        assert_eq!(name(node), format!("tokenmeter-{own}"));
        let service = production.one("Service", &node["metadata"]["name"]);
        assert_eq!(
            service.is_some(),
            own != "jobs",
            "{}",
            text(&node["metadata"]["name"])
        );
    }
}
