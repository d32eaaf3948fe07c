//! Ports, tools, recorded data, and waiting.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{env, fs};

/// A port of the loopback interface that nobody listened on a moment ago. Where a test has the
/// choice, port 0 is better: the server then takes a free port itself.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .expect("the loopback interface has a free port")
        .port()
}

/// A file of the repository, such as `docs/errors.md`.
pub fn repository(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file)
}

/// A file of the recorded data, or `None`, with a line that says so, where that is absent. The data
/// are no part of the repository: they lie in `../shared/data` beside the checkout, or where
/// `TOKENMETER_SHARED_DATA` says.
pub fn shared_data(file: &str) -> Option<PathBuf> {
    let folder = env::var_os("TOKENMETER_SHARED_DATA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"),
        PathBuf::from,
    );
    let path = folder.join(file);
    if path.is_file() {
        return Some(path);
    }
    println!(
        "not tested: {} is absent; put ../shared/data beside the repository or name its folder in \
         TOKENMETER_SHARED_DATA",
        path.display()
    );
    None
}

/// Where a tool is: in the folder that `tests/tools.sh` installs to, or in `PATH`. A missing tool
/// fails the test.
pub fn tool(name: &str) -> PathBuf {
    let installed = env::var_os("TOKENMETER_TOOLS")
        .map(PathBuf::from)
        .or_else(|| {
            let home = env::var_os("HOME")?;
            Some(Path::new(&home).join(".cache/tokenmeter-tools"))
        });
    let path = env::var_os("PATH").unwrap_or_default();
    find(name, installed.map(|folder| folder.join("bin")), &path)
        .unwrap_or_else(|| panic!("{name} is missing: run tests/tools.sh, which installs it"))
}

fn find(name: &str, first: Option<PathBuf>, path: &OsStr) -> Option<PathBuf> {
    first
        .into_iter()
        .chain(env::split_paths(path))
        .map(|folder| folder.join(name))
        .find(|candidate| fs::metadata(candidate).is_ok_and(|found| found.is_file()))
}

/// How many times as many rounds a test with rounds makes: 10 with `tests/run.sh --soak`.
pub fn rounds() -> u32 {
    env::var("TOKENMETER_ROUNDS").map_or(1, |rounds| {
        rounds
            .parse()
            .unwrap_or_else(|_| panic!("TOKENMETER_ROUNDS is {rounds:?}; set it to a number"))
    })
}

/// Asks again and again until there is an answer; panics with `what` when there is none in time.
pub fn wait_until<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {limit:?} for {what}");
        sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_is_taken_from_our_folder_before_the_path() {
        let ours = tempfile::tempdir().unwrap();
        let theirs = tempfile::tempdir().unwrap();
        let path = env::join_paths([theirs.path()]).unwrap();
        let found = || find("grpcurl", Some(ours.path().to_owned()), &path);
        assert_eq!(found(), None);
        fs::write(theirs.path().join("grpcurl"), "").unwrap();
        assert_eq!(found(), Some(theirs.path().join("grpcurl")));
        fs::write(ours.path().join("grpcurl"), "").unwrap();
        assert_eq!(found(), Some(ours.path().join("grpcurl")));
    }

    #[test]
    fn waiting_ends_with_the_first_answer() {
        let mut asked = 0;
        let answer = wait_until("the third time", Duration::from_secs(5), || {
            asked += 1;
            (asked == 3).then_some(asked)
        });
        assert_eq!(answer, 3);
    }
}
