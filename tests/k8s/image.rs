//! The Dockerfile against the repository and the manifests. There is no container engine here: what is
//! tested is what the file says, and that Cargo finds the workspace in what it copies.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tokenmeter_tests::{Finished, repository};

use crate::overlay::{OVERLAYS, Overlay, container, list, pod};

/// The instructions of the Dockerfile: a word and what follows it, continued lines as one.
fn instructions() -> Vec<(String, String)> {
    let text = fs::read_to_string(repository("Dockerfile")).unwrap();
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let joined = lines.join("\n").replace("\\\n", " ");
    let instructions = joined.lines().filter(|line| !line.trim().is_empty());
    instructions
        .map(|line| line.split_once(' ').unwrap())
        .map(|(word, rest)| (word.to_owned(), rest.trim().to_owned()))
        .collect()
}

/// What follows each instruction of this name.
fn all(word: &str) -> Vec<String> {
    let chosen = instructions().into_iter().filter(|(name, _)| name == word);
    chosen.map(|(_, rest)| rest).collect()
}

/// What is copied from the repository.
fn copied() -> Vec<String> {
    let from_repository = all("COPY")
        .into_iter()
        .filter(|rest| !rest.starts_with("--from="));
    let mut sources = Vec::new();
    for rest in from_repository {
        let mut words: Vec<_> = rest.split_whitespace().map(ToOwned::to_owned).collect();
        words.pop();
        sources.extend(words);
    }
    sources
}

/// Whether an image is pinned to a tag that stays what it is: one with a version.
fn is_pinned(image: &str) -> bool {
    let tag = image.split_once(':').map(|(_, tag)| tag);
    tag.is_some_and(|tag| {
        tag.starts_with(|first: char| first.is_ascii_digit()) && tag.contains('.')
    })
}

#[test]
fn base_images_are_pinned_by_tag() {
    let from = all("FROM");
    assert_eq!(from.len(), 2, "one to build in, one to run in");
    for image in from {
        assert!(
            is_pinned(image.split_whitespace().next().unwrap()),
            "{image}"
        );
    }
    for planted in ["rust", "rust:latest", "rust:1", "debian:bookworm-slim"] {
        assert!(!is_pinned(planted), "{planted}");
    }
}

#[test]
fn rust_of_the_image_is_not_older_than_the_workspace_wants() {
    let cargo: toml::Table = fs::read_to_string(repository("Cargo.toml"))
        .unwrap()
        .parse()
        .unwrap();
    let wanted = cargo["workspace"]["package"]["rust-version"]
        .as_str()
        .unwrap();
    let version =
        |text: &str| -> Vec<u32> { text.split('.').map(|part| part.parse().unwrap()).collect() };
    let from = all("FROM").remove(0);
    let tag = from.strip_prefix("rust:").unwrap();
    let have = tag.split('-').next().unwrap();
    assert!(
        version(have) >= version(wanted),
        "{have} is older than {wanted}"
    );
}

/// Copies these into a folder, as the builder does, and asks Cargo what it is.
fn metadata(sources: &[String]) -> Result<Value, String> {
    let folder = tempfile::tempdir().unwrap();
    for source in sources {
        let mut copy = Command::new("cp");
        copy.arg("-r").arg(repository(source)).arg(folder.path());
        Finished::of(&mut copy).success();
    }
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args([
        "metadata",
        "--locked",
        "--offline",
        "--no-deps",
        "--format-version=1",
    ]);
    let told = Finished::of(cargo.current_dir(folder.path()));
    if told.status.success() {
        Ok(told.json())
    } else {
        Err(told.stderr)
    }
}

#[test]
fn what_is_copied_is_there_and_is_a_workspace_with_the_binary() {
    let sources = copied();
    let missing = |source: &&String| !repository(source).exists();
    assert_eq!(sources.iter().find(missing), None);

    let told = metadata(&sources).unwrap();
    let built = list(&told["packages"])
        .iter()
        .find(|package| package["name"] == "tokenmeter")
        .map(|package| &package["targets"][0]);
    let built = built.unwrap();
    assert_eq!(
        (&built["name"], &built["kind"]),
        (&json!("tokenmeter"), &json!(["bin"]))
    );
    // Without one of the members there is no workspace.
    let planted: Vec<_> = sources
        .iter()
        .filter(|source| *source != "clients")
        .cloned()
        .collect();
    assert!(metadata(&planted).is_err());
    // What build scripts and macros read beside the crates.
    for source in ["migrations", "proto", ".cargo"] {
        assert!(sources.iter().any(|one| one == source), "{source}");
    }
}

#[test]
fn the_builder_gets_what_is_copied_and_nothing_else() {
    let text = fs::read_to_string(repository(".dockerignore")).unwrap();
    let rules: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(rules[0], "*");
    let mut sent: Vec<_> = rules
        .iter()
        .filter_map(|rule| rule.strip_prefix('!'))
        .collect();
    let mut sources = copied();
    sent.sort_unstable();
    sources.sort_unstable();
    assert_eq!(sent, sources);
}

/// The files of the image that the binary is run from and reads.
#[test]
fn the_image_runs_the_binary_as_the_user_of_the_manifests() {
    let user = all("USER");
    let (user, group) = user.last().unwrap().split_once(':').unwrap();
    let (user, group): (u64, u64) = (user.parse().unwrap(), group.parse().unwrap());
    assert_ne!(user, 0);
    let entry: Vec<String> = serde_json::from_str(&all("ENTRYPOINT")[0]).unwrap();
    let copy = format!("--from=build /tokenmeter {}", entry[0]);
    assert!(all("COPY").contains(&copy), "{copy}");
    assert_eq!(Path::new(&entry[0]).file_name().unwrap(), "tokenmeter");
    assert_eq!(all("CMD"), [r#"["serve"]"#]);
    let exposed = all("EXPOSE").remove(0);
    for overlay in OVERLAYS.map(Overlay::of) {
        for workload in overlay.workloads() {
            let context = &pod(workload)["securityContext"];
            assert_eq!(
                (&context["runAsUser"], &context["runAsGroup"]),
                (&json!(user), &json!(group))
            );
            for port in list(&container(workload)["ports"]) {
                let port = port["containerPort"].to_string();
                assert!(exposed.split(' ').any(|one| one == port), "{port}");
            }
        }
    }
}
