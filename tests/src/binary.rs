//! The binary under test.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::{env, str};

use serde_json::Value;

/// The `tokenmeter` binary: the one that `TOKENMETER_BIN` names, or else that of this checkout, which
/// cargo builds in the profile that `TOKENMETER_PROFILE` names (dev). It belongs to another package,
/// so cargo does not tell its path to a test; asking cargo to build it, once in a process, tells the
/// path and can never test yesterday's binary.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        named().unwrap_or_else(|| {
            // As tests/run.sh builds it, so that nothing is built twice.
            build(
                "tokenmeter",
                &["--workspace", "--bins", "--profile", &profile()],
            )
        })
    })
}

/// An example program of this checkout, which cargo builds first in the profile of [`binary`].
pub fn example(name: &str) -> PathBuf {
    build(
        name,
        &["--workspace", "--examples", "--profile", &profile()],
    )
}

fn profile() -> String {
    env::var("TOKENMETER_PROFILE").unwrap_or_else(|_| "dev".to_owned())
}

/// The `tokenmeter` binary as it is released: the one that `TOKENMETER_BIN` names, or else that of
/// this checkout, which cargo builds first.
pub fn release_binary() -> PathBuf {
    named().unwrap_or_else(|| build("tokenmeter", &["--package", "tokenmeter", "--release"]))
}

/// A binary of the same sources with the feature `planted-faults`, which `tests/run.sh` builds, or
/// `None`, with a line that says so, where `TOKENMETER_PLANTED_BIN` names none.
pub fn planted() -> Option<PathBuf> {
    let Some(path) = env::var_os("TOKENMETER_PLANTED_BIN").map(PathBuf::from) else {
        println!(
            "not tested: that this turns red against a planted fault; tests/run.sh builds the \
             binary for it, or name one in TOKENMETER_PLANTED_BIN"
        );
        return None;
    };
    assert!(
        path.is_file(),
        "TOKENMETER_PLANTED_BIN names {}, which is no file",
        path.display()
    );
    Some(path)
}

fn named() -> Option<PathBuf> {
    let path = PathBuf::from(env::var_os("TOKENMETER_BIN")?);
    assert!(
        path.is_file(),
        "TOKENMETER_BIN names {}, which is no file",
        path.display()
    );
    Some(path)
}

fn build(name: &str, what: &[&str]) -> PathBuf {
    let output = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .args(["build", "--locked"])
        .args(what)
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo can be run");
    assert!(output.status.success(), "cargo build: {}", output.status);
    let messages = str::from_utf8(&output.stdout).expect("cargo writes UTF-8");
    executable(name, messages).unwrap_or_else(|| panic!("cargo built no program called {name}"))
}

/// Where cargo's messages say that the binary is.
fn executable(name: &str, messages: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact")
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_told_from_libraries_and_other_binaries() {
        let messages = r#"
            {"reason":"compiler-artifact","target":{"name":"tokenmeter"},"executable":null}
            {"reason":"compiler-artifact","target":{"name":"other"},"executable":"/t/other"}
            {"reason":"compiler-artifact","target":{"name":"tokenmeter"},"executable":"/t/tokenmeter"}
            {"reason":"build-finished","success":true}
        "#;
        assert_eq!(
            executable("tokenmeter", messages),
            Some(PathBuf::from("/t/tokenmeter"))
        );
        assert_eq!(executable("tokenmeter", "no JSON"), None);
    }
}
