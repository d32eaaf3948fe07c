//! What stops a command, in one line for people.

use std::fmt;
use std::io;

use tokenmeter_api::status::{code_name, failure_of, name_of};
use tonic::Status;

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Error {
    /// What the caller gave cannot be used; the text says how to mend it.
    Input(String),
    /// No connection to the server.
    Unreachable {
        /// Where it was looked for.
        address: String,
        /// What the connection ran into.
        cause: String,
    },
    /// The server refused.
    Rpc(Box<Status>),
    /// Standard output cannot be written.
    Output(io::Error),
    /// Everything is said already.
    Reported,
    /// The call may not run, as was said.
    Denied,
}

impl Error {
    /// A failure of another part of the program.
    #[allow(
        clippy::needless_pass_by_value,
        reason = "made for `Result::map_err`, which passes by value"
    )]
    pub(crate) fn other(text: String) -> Self {
        Self::Input(text)
    }

    /// A file that cannot be read or written.
    pub(crate) fn file(what: &str, path: &std::path::Path, error: &io::Error) -> Self {
        Self::Input(format!("cannot {what} {}: {error}", path.display()))
    }

    /// Whether nobody reads the output any more, as after `| head`.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::Rpc(Box::new(status))
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input(text) => f.write_str(text),
            Self::Unreachable { address, cause } => write!(
                f,
                "no server at {address} ({cause}); start one with `tokenmeter serve`, or name \
                 another with --server HOST:PORT"
            ),
            Self::Rpc(status) => f.write_str(&describe(status)),
            Self::Output(error) => write!(f, "cannot write the output: {error}"),
            Self::Reported => f.write_str("failed"),
            Self::Denied => f.write_str("denied"),
        }
    }
}

/// A status in one line: reason, message, fields with their mend, when to retry.
pub(crate) fn describe(status: &Status) -> String {
    let Some(failure) = failure_of(status) else {
        return match connection_cause(status) {
            Some(cause) => format!("the connection to the server failed: {cause}"),
            None => format!(
                "{}: {}",
                code_name(status.code()),
                one_line(status.message())
            ),
        };
    };
    let mut text = format!(
        "{}: {}",
        name_of(failure.reason),
        one_line(&failure.message)
    );
    for (field, description) in &failure.violations {
        let description = one_line(description);
        if text.contains(&description) {
            continue;
        }
        text.push_str(&format!("; {field}: {description}"));
    }
    if let Some((kind, name)) = &failure.resource {
        text.push_str(&format!("; {kind} {name}"));
    }
    let mut facts: Vec<_> = failure.metadata.iter().collect();
    facts.sort_unstable();
    for (key, value) in facts {
        text.push_str(&format!("; {key}={}", one_line(value)));
    }
    if let Some(delay) = failure.retry_after {
        text.push_str(&format!("; retry in {} ms", delay.as_millis()));
    }
    text
}

/// The innermost cause of a failed connection, such as `Connection refused`; none for an answer.
fn connection_cause(status: &Status) -> Option<String> {
    let mut cause: &dyn std::error::Error = std::error::Error::source(status)?;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    Some(one_line(&cause.to_string()))
}

/// The innermost cause of an error.
pub(crate) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    one_line(&cause.to_string())
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokenmeter_api::status::Failure;
    use tokenmeter_api::v1::ErrorReason;

    #[test]
    fn a_refusal_names_reason_field_and_mend_in_one_line() {
        let status = Status::from(
            Failure::new(ErrorReason::FieldInvalid, "a field is out of bounds")
                .violation("page_size", "-1 is out of bounds; send 0\nto 1000")
                .retry_after(Duration::from_millis(1_500)),
        );
        assert_eq!(
            Error::from(status).to_string(),
            "FIELD_INVALID: a field is out of bounds; page_size: -1 is out of bounds; send 0 to \
             1000; retry in 1500 ms"
        );
    }

    #[test]
    fn a_status_of_another_service_shows_its_code() {
        assert_eq!(
            describe(&Status::unimplemented("no such method")),
            "UNIMPLEMENTED: no such method"
        );
    }

    #[test]
    fn an_absent_server_says_how_to_start_one() {
        let error = Error::Unreachable {
            address: "http://127.0.0.1:1".into(),
            cause: "Connection refused".into(),
        };
        let text = error.to_string();
        assert!(text.contains("http://127.0.0.1:1") && text.contains("tokenmeter serve"));
    }
}
