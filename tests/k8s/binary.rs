//! The binary in the environment of a container: nothing but what the manifests give it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use tokenmeter_tests::Finished;

use crate::overlay::Origin;

/// Stands for what the Secret holds.
const LEDGER: &str = "postgres://tokenmeter:secret@db.example/tokenmeter?sslmode=verify-full";

/// The values of an environment, with an address in the place of a secret.
pub(crate) fn values(environment: &BTreeMap<String, Origin>) -> BTreeMap<String, String> {
    let value = |origin: &Origin| match origin {
        Origin::Text(text) => text.clone(),
        Origin::Secret { .. } => LEDGER.to_owned(),
    };
    environment
        .iter()
        .map(|(name, origin)| (name.clone(), value(origin)))
        .collect()
}

/// Runs the binary to its end, with these variables and no others.
pub(crate) fn run(
    folder: &Path,
    arguments: &[&str],
    environment: &BTreeMap<String, String>,
) -> Finished {
    let mut command = Command::new(tokenmeter_tests::binary());
    command.args(arguments).current_dir(folder);
    Finished::of(command.env_clear().envs(environment))
}

/// Every setting that is in force in an environment, by its name as a variable, such as
/// `TOKENMETER_LISTEN`, as `config print` tells them.
///
/// # Errors
/// What `config check` says of the environment.
pub(crate) fn settings(
    environment: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, String> {
    let folder = tempfile::tempdir().unwrap();
    let checked = run(folder.path(), &["config", "check"], environment);
    if !checked.status.success() {
        return Err(checked.stderr);
    }
    let printed = run(folder.path(), &["config", "print"], environment).success();
    let table: toml::Table = printed.stdout.parse().unwrap();
    let entries = table.into_iter().map(|(key, value)| {
        let name = format!("TOKENMETER_{}", key.to_ascii_uppercase());
        (name, value.as_str().unwrap().to_owned())
    });
    Ok(entries.collect())
}
