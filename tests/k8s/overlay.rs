//! The overlays as kubectl renders them, and what tests ask of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tokenmeter_tests::{Finished, repository, tool};

/// Labels, and other texts by name.
pub(crate) type Texts = BTreeMap<String, String>;

/// Every overlay.
pub(crate) const OVERLAYS: [&str; 2] = ["embedded", "production"];

/// Where a container's environment variable gets its value from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Origin {
    /// The manifests say it.
    Text(String),
    /// A key of a Secret, which the manifests only name.
    Secret {
        /// Name of the Secret.
        name: String,
        /// Its key.
        key: String,
        /// Whether the variable is left out where the key is absent.
        optional: bool,
    },
}

/// What `kubectl kustomize` makes of an overlay.
pub(crate) fn rendered(overlay: &str) -> String {
    rendered_at(&repository("k8s/overlays").join(overlay))
}

/// What `kubectl kustomize` makes of a folder.
pub(crate) fn rendered_at(folder: &Path) -> String {
    let mut command = Command::new(tool("kubectl"));
    Finished::of(command.arg("kustomize").arg(folder))
        .success()
        .stdout
}

/// The objects of a rendered overlay, or what is wrong with them for the types of the API.
pub(crate) fn decoded(yaml: &str) -> Result<Vec<Value>, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), yaml).unwrap();
    let told = Finished::of(Command::new(tool("k8s-strict")).arg(file.path()));
    if told.status.success() {
        Ok(serde_json::from_str(&told.stdout).unwrap())
    } else {
        Err(told.stderr)
    }
}

/// An overlay, decoded.
#[derive(Debug, Clone)]
pub(crate) struct Overlay(pub(crate) Vec<Value>);

impl Overlay {
    pub(crate) fn of(name: &str) -> Self {
        Self(decoded(&rendered(name)).unwrap())
    }

    /// Every object of a kind.
    pub(crate) fn all(&self, kind: &str) -> Vec<&Value> {
        let of_kind = |object: &&Value| object["kind"] == kind;
        self.0.iter().filter(of_kind).collect()
    }

    /// The object of a kind and name.
    pub(crate) fn one(&self, kind: &str, name: &Value) -> Option<&Value> {
        let mut all = self.all(kind).into_iter();
        all.find(|object| &object["metadata"]["name"] == name)
    }

    /// Everything that runs pods: Deployments and Jobs.
    pub(crate) fn workloads(&self) -> Vec<&Value> {
        [self.all("Deployment"), self.all("Job")].concat()
    }

    /// The environment of a workload's container, or the names that nothing is behind.
    pub(crate) fn environment(
        &self,
        workload: &Value,
    ) -> Result<BTreeMap<String, Origin>, Vec<String>> {
        let container = container(workload);
        let (mut found, mut missing) = (BTreeMap::new(), Vec::new());
        for from in list(&container["envFrom"]) {
            let name = &from["configMapRef"]["name"];
            match self.one("ConfigMap", name) {
                Some(map) => {
                    let texts = texts(&map["data"]).into_iter();
                    found.extend(texts.map(|(name, value)| (name, Origin::Text(value))));
                }
                None => missing.push(format!("no ConfigMap {name}")),
            }
        }
        for variable in list(&container["env"]) {
            let name = text(&variable["name"]);
            let secret = &variable["valueFrom"]["secretKeyRef"];
            let origin = if secret.is_object() {
                Origin::Secret {
                    name: text(&secret["name"]),
                    key: text(&secret["key"]),
                    optional: secret["optional"] == true,
                }
            } else if let Some(value) = variable["value"].as_str() {
                Origin::Text(value.to_owned())
            } else {
                missing.push(format!("{name} has no value"));
                continue;
            };
            found.insert(name, origin);
        }
        if missing.is_empty() {
            Ok(found)
        } else {
            Err(missing)
        }
    }
}

/// The name of an object.
pub(crate) fn name(object: &Value) -> String {
    text(&object["metadata"]["name"])
}

/// What a workload's pods are.
pub(crate) fn pod(workload: &Value) -> &Value {
    &workload["spec"]["template"]["spec"]
}

/// The one container of a workload's pods.
pub(crate) fn container(workload: &Value) -> &Value {
    let containers = list(&pod(workload)["containers"]);
    assert_eq!(containers.len(), 1, "{}", name(workload));
    &containers[0]
}

/// The labels of a workload's pods.
pub(crate) fn labels(workload: &Value) -> Texts {
    texts(&workload["spec"]["template"]["metadata"]["labels"])
}

/// The entries of a list, none where it is absent.
pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A text.
pub(crate) fn text(value: &Value) -> String {
    let text = value.as_str();
    text.unwrap_or_else(|| panic!("{value} is no text"))
        .to_owned()
}

/// Texts by name, none where they are absent.
pub(crate) fn texts(value: &Value) -> Texts {
    let entries = value.as_object().into_iter().flatten();
    entries
        .map(|(name, value)| (name.clone(), text(value)))
        .collect()
}
