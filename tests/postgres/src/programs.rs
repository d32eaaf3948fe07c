//! Where PostgreSQL's programs are, and as whom they run.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where Debian puts the programs of each version that is installed.
const VERSIONS: &str = "/usr/lib/postgresql";

/// A program of PostgreSQL: of the newest version that Debian installed, or else in `PATH`.
pub(crate) fn find(name: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    newest_first(Path::new(VERSIONS))
        .into_iter()
        .chain(env::split_paths(&path))
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
        .unwrap_or_else(|| {
            panic!("{name} of PostgreSQL is missing: run tests/tools.sh, which installs it")
        })
}

fn newest_first(versions: &Path) -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir(versions)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    found.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    found.into_iter().map(|(_, folder)| folder).collect()
}

/// A command without input, and without the variables by which libpq and the server are told
/// otherwise than by their arguments.
pub(crate) fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// The user that the server runs as, if it cannot be this one: PostgreSQL refuses root.
pub(crate) fn server_user() -> Option<&'static str> {
    let id = |words: &[&str]| {
        let output = Command::new("id").args(words).output().expect("id can run");
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then_some(text)
    };
    if id(&["-u"])? != "0" {
        return None;
    }
    let known = |name: &&str| id(&["-u", name]).is_some();
    Some(
        ["postgres", "nobody"]
            .into_iter()
            .find(known)
            .expect("a user that is not root, which PostgreSQL refuses to run as"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        for version in ["9", "15", "17", "README"] {
            fs::create_dir(folder.path().join(version)).unwrap();
        }
        let found = newest_first(folder.path());
        let expected = ["17", "15", "9"].map(|version| folder.path().join(version).join("bin"));
        assert_eq!(found, expected);
        assert!(newest_first(&folder.path().join("none")).is_empty());
    }
}
