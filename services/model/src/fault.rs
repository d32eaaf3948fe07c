//! Why a port could not do its work, without saying how it is built.

/// Why a store could not answer. In every case nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It cannot be reached; try again later.
    Unavailable,
    /// Too much waits before it; try again later.
    Overloaded,
    /// The values do not fit, such as a total past 64 bits.
    OutOfRange,
    /// What the answer would be made of is not kept any more.
    NotRetained {
        /// The earliest time that is kept, in microseconds since the Unix epoch.
        oldest_us: i64,
    },
    /// What it holds cannot be read.
    Corrupt,
}
