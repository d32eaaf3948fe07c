//! Imports against a store in memory.
