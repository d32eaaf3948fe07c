//! Where tests keep their ledgers: the one switch between the backends.
//!
//! `TOKENMETER_TEST_LEDGER` is `sqlite` (the default) or `postgres`. A test starts servers in a folder
//! of its own, and that folder stands for its ledger: the file in it that is the server's default, or a
//! database that nobody else has. What else a test says of its ledger, it asks here.

use std::collections::HashMap;
use std::env;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use tokenmeter_test_postgres as postgres;

/// The ledger of a server that is told nothing else.
const DEFAULT_FILE: &str = "data/tokenmeter.db";

/// What a test's ledger is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// A SQLite file in the test's folder.
    Sqlite,
    /// A PostgreSQL database of the test's own.
    Postgres,
}

impl Backend {
    /// As the service calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Self::Sqlite, Self::Postgres]
            .into_iter()
            .find(|backend| backend.name() == name)
    }
}

/// The backend that the tests of this process run on.
pub fn backend() -> Backend {
    static BACKEND: OnceLock<Backend> = OnceLock::new();
    *BACKEND.get_or_init(|| match env::var("TOKENMETER_TEST_LEDGER") {
        Err(_) => Backend::Sqlite,
        Ok(name) => Backend::named(&name).unwrap_or_else(|| {
            panic!("TOKENMETER_TEST_LEDGER is {name:?}; set it to sqlite or postgres")
        }),
    })
}

/// Whether the tests run on SQLite; if not, prints that this one is not run, and why it is about
/// SQLite itself. A test calls it first and returns where the answer is no.
pub fn sqlite_only(why: &str) -> bool {
    only(Backend::Sqlite, why)
}

/// The same for PostgreSQL.
pub fn postgres_only(why: &str) -> bool {
    only(Backend::Postgres, why)
}

fn only(wanted: Backend, why: &str) -> bool {
    let matches = backend() == wanted;
    if !matches {
        println!("not tested on {}: {why}", backend().name());
    }
    matches
}

/// The URL of a folder's ledger, as `--ledger` takes it.
pub(crate) fn url_of(folder: &Path) -> String {
    match backend() {
        Backend::Sqlite => format!("sqlite:{}", folder.join(DEFAULT_FILE).display()),
        Backend::Postgres => database_of(folder),
    }
}

/// The database of a folder, made when it is first asked for.
fn database_of(folder: &Path) -> String {
    static DATABASES: Mutex<Option<HashMap<PathBuf, String>>> = Mutex::new(None);
    let mut databases = DATABASES.lock().unwrap_or_else(PoisonError::into_inner);
    databases
        .get_or_insert_default()
        .entry(folder.to_owned())
        .or_insert_with(|| postgres::shared().database(test_name().as_deref().unwrap_or("test")))
        .clone()
}

/// The test that runs on this thread, whose name the harness of Rust gives to the thread.
fn test_name() -> Option<String> {
    let thread = std::thread::current();
    let name = thread.name()?;
    Some(name.rsplit("::").next()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_named_as_the_service_names_it() {
        assert_eq!(Backend::named("sqlite"), Some(Backend::Sqlite));
        assert_eq!(Backend::named("postgres"), Some(Backend::Postgres));
        assert_eq!(Backend::named("Postgres"), None);
        assert_eq!(
            test_name().as_deref(),
            Some("a_backend_is_named_as_the_service_names_it")
        );
    }
}
