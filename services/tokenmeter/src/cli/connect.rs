//! The connection to a server: address, caller, bounds.

use std::time::Duration;

use tokenmeter_client::Options;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Endpoint;

use super::error::{Error, innermost};

pub(crate) use tokenmeter_client::Client;

/// Heading of the client's options in `--help`.
pub(crate) const HEADING: &str = "Client options";
/// The port of a server whose address names none.
const PORT: u16 = tokenmeter_client::DEFAULT_PORT;
/// Largest answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the server is and who asks.
#[derive(Debug, clap::Args)]
pub(crate) struct ClientArgs {
    /// The server, as HOST:PORT or http://HOST:PORT.
    #[arg(
        long,
        global = true,
        value_name = "ADDR",
        env = "TOKENMETER_SERVER",
        default_value = "http://127.0.0.1:50051",
        help_heading = HEADING
    )]
    server: String,

    /// The tenant to act in, where the server lets the caller choose.
    #[arg(long, global = true, value_name = "TENANT", help_heading = HEADING)]
    tenant: Option<String>,

    /// The user to act as, where the server lets the caller choose.
    #[arg(long, global = true, value_name = "USER", help_heading = HEADING)]
    as_user: Option<String>,

    /// How long one request may take, in seconds.
    #[arg(
        long,
        global = true,
        value_name = "SECONDS",
        default_value_t = 30,
        value_parser = clap::value_parser!(u64).range(1..=86_400),
        help_heading = HEADING
    )]
    timeout: u64,
}

impl ClientArgs {
    /// What tells one server, tenant and caller from another.
    pub(crate) fn identity(&self) -> Result<[String; 3], Error> {
        Ok([
            address(&self.server)?,
            self.tenant.clone().unwrap_or_default(),
            self.as_user.clone().unwrap_or_default(),
        ])
    }

    /// Connects.
    pub(crate) async fn connect(&self) -> Result<Client, Error> {
        let address = address(&self.server)?;
        let timeout = Duration::from_secs(self.timeout);
        // Commands repeat what is worth it themselves, and say so while they do.
        let mut options = Options::new(&address)
            .attempts(1)
            .deadline(timeout)
            .max_message_bytes(MAX_ANSWER_BYTES);
        if let Some(tenant) = &self.tenant {
            metadata("--tenant", tenant)?;
            options = options.tenant(tenant);
        }
        if let Some(user) = &self.as_user {
            metadata("--as-user", user)?;
            options = options.user(user);
        }
        let unreachable = |error: &tonic::transport::Error| Error::Unreachable {
            address: address.clone(),
            cause: innermost(error),
        };
        let channel = Endpoint::from_shared(address.clone())
            .map_err(|error| unreachable(&error))?
            .connect_timeout(CONNECT_TIMEOUT)
            // Of streams too: until they are open.
            .timeout(timeout)
            .tcp_nodelay(true)
            .connect()
            .await
            .map_err(|error| unreachable(&error))?;
        Client::over(channel, options).map_err(|error| Error::other(error.to_string()))
    }
}

/// The address with scheme and port.
fn address(given: &str) -> Result<String, Error> {
    let wrong = |why: &str| {
        Error::Input(format!(
            "--server {given:?} {why}; give HOST:PORT or http://HOST:PORT"
        ))
    };
    let with_scheme = if given.contains("://") {
        given.to_owned()
    } else {
        format!("http://{given}")
    };
    let uri: http::Uri = with_scheme
        .parse()
        .map_err(|_| wrong("is not an address"))?;
    if uri.scheme_str() != Some("http") {
        return Err(wrong("is not plain http, which is all this version speaks"));
    }
    let authority = uri
        .authority()
        .filter(|authority| !authority.host().is_empty())
        .ok_or_else(|| wrong("names no host"))?;
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(wrong("has a path"));
    }
    Ok(match authority.port_u16() {
        Some(_) => format!("http://{authority}"),
        None => format!("http://{authority}:{PORT}"),
    })
}

/// A value that a header can carry.
fn metadata(flag: &str, value: &str) -> Result<(), Error> {
    match value.parse::<AsciiMetadataValue>() {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::Input(format!(
            "{flag} takes visible ASCII characters only"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_get_scheme_and_port() {
        for (given, full) in [
            ("localhost:7", "http://localhost:7"),
            ("localhost", "http://localhost:50051"),
            ("http://127.0.0.1:50051", "http://127.0.0.1:50051"),
            ("http://127.0.0.1:50051/", "http://127.0.0.1:50051"),
            ("[::1]:7", "http://[::1]:7"),
        ] {
            assert_eq!(address(given).unwrap(), full);
        }
        for wrong in ["", "https://h:1", "h:1/path", "a b", "http://"] {
            assert!(matches!(address(wrong), Err(Error::Input(_))), "{wrong}");
        }
    }

    #[test]
    fn tenant_and_user_have_to_fit_into_a_header() {
        assert!(metadata("--tenant", "acme").is_ok());
        assert!(matches!(metadata("--tenant", "a\nb"), Err(Error::Input(_))));
    }
}
