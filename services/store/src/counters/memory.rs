//! Counters in memory, for one node; holds are kept in a journal so that they outlive the process.
