//! A PostgreSQL for tests: one server a test process, a database a test.
//!
//! The rule of this crate: it knows nothing of the service, so that the tests of every crate may use
//! it, and what it started ends with the process that started it, however that ends. Everything here
//! panics when a test could not go on, and says why.
//!
//! `TOKENMETER_TEST_POSTGRES` names a server that runs already, as a superuser reaches it, such as
//! `postgres://postgres@127.0.0.1:5432/postgres`; without it [`shared`] starts a private one.

// A test that cannot go on stops here; this crate is no part of the service.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod guard;
mod own;
mod port;
mod programs;

use std::env;
use std::hash::{BuildHasher as _, RandomState};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use guard::Guard;
use own::Own;
pub use port::quiet_port;

/// The most bytes of a name in PostgreSQL; it cuts longer ones without a word.
const NAME_BYTES: usize = 63;

/// A server with databases for tests.
#[derive(Debug)]
pub struct Server {
    url: String,
    own: Option<Own>,
    /// What the names of this server's databases begin with, so that nobody else's are dropped.
    prefix: String,
    made: AtomicU32,
    _guard: Guard,
}

/// The server that the tests of this process share: the one that `TOKENMETER_TEST_POSTGRES` names, or
/// a private one. Its databases, or all of it, go when this process ends.
pub fn shared() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    SHARED.get_or_init(|| match env::var("TOKENMETER_TEST_POSTGRES") {
        Ok(url) if !url.is_empty() => Server::named(url),
        _ => Server::start(),
    })
}

impl Server {
    /// A private server in a temporary folder, on a port of the loopback interface, with the defaults
    /// of PostgreSQL for durability (`fsync` and `synchronous_commit` are on). It ends with this
    /// value, or with this process.
    pub fn start() -> Self {
        let (own, guard) = Own::start();
        Self::with(own.url(), Some(own), |_, _| guard)
    }

    /// A server that others started.
    fn named(url: String) -> Self {
        Self::with(url, None, Guard::of_databases)
    }

    fn with(url: String, own: Option<Own>, guard: impl FnOnce(&str, &str) -> Guard) -> Self {
        let random = RandomState::new().hash_one(std::process::id());
        let prefix = format!("tokenmeter_test_{random:016x}_");
        let guard = guard(&url, &prefix);
        Self {
            url,
            own,
            prefix,
            made: AtomicU32::new(0),
            _guard: guard,
        }
    }

    /// The URL of the database `postgres`, or of the one that was named.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Makes an empty database and answers its URL. The name, of which letters and digits are taken,
    /// helps whoever reads the server's log; it need not be unique.
    pub fn database(&self, name: &str) -> String {
        let n = self.made.fetch_add(1, Ordering::Relaxed);
        let name = database_name(&format!("{}{n}_{name}", self.prefix));
        sql(&self.url, &format!("CREATE DATABASE {name}"));
        url_of_database(&self.url, &name)
    }

    /// The process id of the private server.
    pub fn id(&self) -> u32 {
        self.own().id()
    }

    /// Stops the private server as a crash does: nothing is finished or flushed, and the next start
    /// recovers from the write-ahead log.
    pub fn crash(&self) {
        self.own().stop("immediate");
    }

    /// Stops the private server in order: connections are ended, what was begun is undone.
    pub fn stop(&self) {
        self.own().stop("fast");
    }

    /// Starts the private server again on the same port, and waits until it takes connections.
    pub fn start_again(&self) {
        self.own().run();
    }

    /// Keeps a copy of all that the private server has; it has to be stopped.
    pub fn keep_copy(&self) {
        self.own().copy("data", "copy");
    }

    /// Puts the copy in the place of all that the private server has; it has to be stopped.
    pub fn put_back_copy(&self) {
        self.own().copy("copy", "data");
    }

    /// The last lines that the private server logged.
    pub fn log(&self) -> String {
        self.own().log()
    }

    fn own(&self) -> &Own {
        self.own.as_ref().expect(
            "a server that TOKENMETER_TEST_POSTGRES names is not ours to stop; use Server::start()",
        )
    }
}

/// Runs statements through psql, and answers what they print: a line a row, `|` between columns. One
/// that fails fails the test. Several in one text are one transaction.
pub fn sql(url: &str, statements: &str) -> String {
    let output = psql(url)
        .args(["-c", statements])
        .output()
        .expect("psql can be run");
    assert!(
        output.status.success(),
        "psql {statements:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout)
        .trim_end()
        .to_owned()
}

/// Dumps a database and restores the dump into another one, which has to be empty.
pub fn restore_dump(from: &str, into: &str) {
    let mut dump = programs::command(&programs::find("pg_dump"));
    let dump = dump.args(["--dbname", from]).output();
    let dump = dump.expect("pg_dump can be run");
    let errors = String::from_utf8_lossy(&dump.stderr);
    assert!(dump.status.success(), "pg_dump: {errors}");
    let script = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(script.path(), &dump.stdout).expect("a temporary file is written");
    let mut restore = psql(into);
    let output = restore.arg("--file").arg(script.path()).output();
    let output = output.expect("psql can be run");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "psql: {errors}");
}

/// psql on a database, with plain output and nothing of the user's own settings.
fn psql(url: &str) -> Command {
    let mut command = programs::command(&programs::find("psql"));
    command
        .args(["--no-psqlrc", "--quiet", "--no-align", "--tuples-only"])
        .args(["--set=ON_ERROR_STOP=1", "--dbname", url]);
    command
}

/// A name that needs no quotes.
fn database_name(wish: &str) -> String {
    let mut name: String = wish
        .to_ascii_lowercase()
        .replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    name.truncate(NAME_BYTES);
    name
}

/// The URL of another database of the same server.
fn url_of_database(url: &str, name: &str) -> String {
    let (address, settings) = match url.split_once('?') {
        Some((address, settings)) => (address, format!("?{settings}")),
        None => (url, String::new()),
    };
    let (scheme, rest) = address.split_once("://").expect("a URL has a scheme");
    let authority = rest.split('/').next().unwrap_or_default();
    format!("{scheme}://{authority}/{name}{settings}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_database_keeps_all_else_of_the_url() {
        for (url, expected) in [
            ("postgres://u@h:1/postgres", "postgres://u@h:1/x"),
            ("postgresql://u:p@h", "postgresql://u:p@h/x"),
            ("postgres://h/a?host=/tmp/s", "postgres://h/x?host=/tmp/s"),
        ] {
            assert_eq!(url_of_database(url, "x"), expected);
        }
    }

    #[test]
    fn names_need_no_quotes_and_are_not_cut_by_the_server() {
        assert_eq!(database_name("T_1_a::b-c"), "t_1_a__b_c");
        assert_eq!(database_name(&"x".repeat(100)).len(), NAME_BYTES);
    }
}
