//! Why a statement failed, as far as a writer acts on it.

use crate::ledger::Error;

/// Raised by migrations/postgres: a key of the group is taken.
const KEY_TAKEN: &str = "TM001";
/// Raised by record.sql: a reservation of the group is settled.
const SETTLED: &str = "TM003";
/// Raised by migrations/postgres: an event of the group is charged at a time that is sealed.
const TOO_OLD: &str = "TM002";
/// check_violation; without the name of a constraint it is a row that no partition takes.
const CHECK: &str = "23514";
/// deadlock_detected, serialization_failure, lock_not_available: another try may do.
const CONTENDED: [&str; 3] = ["40P01", "40001", "55P03"];
/// read_only_sql_transaction, and a transaction ended for idling: the session is of no more use.
const SPENT: [&str; 2] = ["25006", "25P03"];

/// internal_error, such as a type that is gone, and undefined_object.
const INTERNAL: [&str; 2] = ["XX000", "42704"];

/// A failed statement. Whatever it is, the transaction left nothing behind, unless the connection was
/// lost while it committed.
#[derive(Debug)]
pub(super) enum Failure {
    /// A key of the group is taken.
    KeyTaken,
    /// An event of the group is charged at a time that is sealed.
    TooOld,
    /// A reservation of the group is settled.
    Settled,
    /// A month has no partition.
    NoPartition,
    /// Another transaction was in the way.
    Contended(String),
    /// A value does not fit.
    OutOfRange(String),
    /// The connection is of no more use.
    Lost(String),
    /// Anything else that the server said.
    Refused(String),
    /// What is there cannot be read.
    Corrupt(String),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        let text = error.to_string();
        let Some(said) = error.as_database_error() else {
            return match error {
                sqlx::Error::ColumnDecode { .. }
                | sqlx::Error::ColumnNotFound(_)
                | sqlx::Error::RowNotFound => Self::Corrupt(text),
                _ => Self::Lost(text),
            };
        };
        match said.code().as_deref().unwrap_or_default() {
            KEY_TAKEN => Self::KeyTaken,
            TOO_OLD => Self::TooOld,
            SETTLED => Self::Settled,
            CHECK if said.constraint().is_none() => Self::NoPartition,
            code if CONTENDED.contains(&code) => Self::Contended(text),
            // Data exceptions.
            code if code.starts_with("22") => Self::OutOfRange(text),
            // Connection exceptions, and operator intervention but for a cancelled statement.
            code if code.starts_with("08") || code.starts_with("57P") => Self::Lost(text),
            // What the session knows of the schema is not true any more: a dump was restored over it.
            code if INTERNAL.contains(&code) => Self::Lost(text),
            code if SPENT.contains(&code) => Self::Lost(text),
            _ => Self::Refused(text),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::OutOfRange(text) => Self::OutOfRange(text),
            Error::Corrupt(text) => Self::Corrupt(text),
            Error::Unavailable(text) => Self::Refused(text),
            other => Self::Refused(other.to_string()),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::OutOfRange(text) => Self::OutOfRange(text),
            Failure::Corrupt(text) => Self::Corrupt(text),
            Failure::KeyTaken => Self::Unavailable("keys were taken again and again".into()),
            Failure::TooOld => Self::Unavailable("months were sealed again and again".into()),
            Failure::Settled => {
                Self::Unavailable("reservations were settled again and again".into())
            }
            Failure::NoPartition => Self::Unavailable("a month has no partition".into()),
            Failure::Contended(text) | Failure::Lost(text) | Failure::Refused(text) => {
                Self::Unavailable(text)
            }
        }
    }
}
