//! The tour of README.md runs as it stands there.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::symlink;
use std::path::Path;

use tokenmeter_tests::{binary, repository, sqlite_only, tour};

/// The port that README.md names.
const PORT: u16 = 50_051;

#[test]
fn every_command_of_the_readme_prints_what_the_readme_shows() {
    if !sqlite_only("the tour starts a server with its defaults") {
        return;
    }
    let page = fs::read_to_string(repository("README.md")).unwrap();
    let blocks = tour::blocks(&page).unwrap_or_else(|error| panic!("README.md: {error}"));
    assert!(!blocks.is_empty(), "README.md has no tour");
    // Bound for a moment only: what the tour starts binds it again.
    TcpListener::bind((Ipv4Addr::LOCALHOST, PORT)).unwrap_or_else(|error| {
        panic!("the tour of README.md needs port {PORT}: {error}; stop what listens there")
    });
    let folder = tempfile::tempdir().unwrap();
    as_checkout(folder.path());
    tour::run(&blocks, folder.path(), binary());
}

/// Links what the checkout holds into a folder; only what a tour writes is its own.
fn as_checkout(folder: &Path) {
    for entry in fs::read_dir(repository("")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        if !["data", "target"].contains(&&*name.to_string_lossy()) {
            let from = entry.path().canonicalize().unwrap();
            symlink(from, folder.join(name)).unwrap();
        }
    }
}
