//! The tour of README.md runs as it stands there.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};

use tokenmeter_tests::{binary, repository, tour};

/// The port that README.md names.
const PORT: u16 = 50_051;

#[test]
fn every_command_of_the_readme_prints_what_the_readme_shows() {
    let Ok(page) = fs::read_to_string(repository("README.md")) else {
        println!("not tested: there is no README.md yet");
        return;
    };
    let blocks = tour::blocks(&page).unwrap_or_else(|error| panic!("README.md: {error}"));
    assert!(!blocks.is_empty(), "README.md has no tour");
    // Bound for a moment only: what the tour starts binds it again.
    TcpListener::bind((Ipv4Addr::LOCALHOST, PORT)).unwrap_or_else(|error| {
        panic!("the tour of README.md needs port {PORT}: {error}; stop what listens there")
    });
    let folder = tempfile::tempdir().unwrap();
    tour::run(&blocks, folder.path(), binary());
}
