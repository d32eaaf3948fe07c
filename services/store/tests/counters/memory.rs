//! The backend in memory, with its journal in a folder of its own.

use tokenmeter_store::clock::Clock;
use tokenmeter_store::counters::memory::Memory;

use super::Store;

/// A folder with a journal.
pub struct InMemory(tempfile::TempDir);

impl Store for InMemory {
    type Counters = Memory;

    fn fresh() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    async fn open(&self, clock: Clock) -> Memory {
        Memory::open(Some(&self.0.path().join("holds")), clock).unwrap()
    }
}
