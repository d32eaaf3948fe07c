//! Opening the counters that the configuration names, and asking how they are.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use tokenmeter_admin::Probe;
use tokenmeter_store::address::Address;
use tokenmeter_store::clock;
use tokenmeter_store::counters::Counters;
use tokenmeter_store::counters::memory::Memory;

use super::wiring::InMemory;
use crate::config::Config;

/// Opens the counters, with the holds that their journal has.
///
/// # Errors
/// Why the journal cannot be used, and how to mend that.
pub(super) fn open(config: &Config) -> Result<Arc<dyn Counters>, String> {
    let journal = journal(config);
    if journal.is_none() {
        tracing::warn!(
            "holds have no journal: they end with this process; set counters to memory:PATH"
        );
    }
    let memory = Memory::open(journal.as_deref(), clock::system());
    let memory = memory.map_err(|error| error.to_string())?;
    Ok(Arc::new(memory))
}

/// The journal that is named, else one beside the file of the ledger, if that is one.
fn journal(config: &Config) -> Option<PathBuf> {
    match (&config.holds, &config.ledger) {
        (Some(path), _) => Some(path.clone()),
        (None, Address::Sqlite(file)) => {
            let mut path = file.clone().into_os_string();
            path.push("-holds");
            Some(path.into())
        }
        (None, Address::Postgres(_)) => None,
    }
}

/// Asks the counters how they are; those of a node that has none are well.
pub(super) fn probe(counters: Option<&Arc<dyn Counters>>) -> Box<dyn Probe> {
    match counters {
        Some(counters) => Box::new(CountersProbe(Arc::clone(counters))),
        None => Box::new(InMemory("counters")),
    }
}

struct CountersProbe(Arc<dyn Counters>);

#[async_trait]
impl Probe for CountersProbe {
    fn name(&self) -> &'static str {
        "counters"
    }

    fn backend(&self) -> &'static str {
        "memory"
    }

    /// What the system says of an error can hold paths: it goes to the log.
    async fn check(&self) -> Result<(), String> {
        self.0.check().await.map_err(|error| {
            tracing::warn!(%error, "the counters do not answer as they should");
            "the journal of holds cannot be written; see the log".to_owned()
        })
    }
}
