//! Where the server is, who asks, and the bounds of a call.

use std::fmt;
use std::time::Duration;

use tonic::Code;
use tonic::codec::CompressionEncoding;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};
use tonic::transport::Endpoint;

use crate::error::{Error, Result};
use crate::transport::Manner;

/// The port of a server whose address names none.
pub const DEFAULT_PORT: u16 = 50_051;

/// Headers of every call; shown without their values, which may be secret.
#[derive(Clone)]
pub(crate) struct Headers(Vec<(&'static str, String)>);

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.0.iter().map(|(name, _)| name))
            .finish()
    }
}

/// How to connect and how to call. Every method answers the options with one more thing said.
///
/// ```
/// use std::time::Duration;
/// use tokenmeter_client::Options;
///
/// let options = Options::new("meter.example:50051")
///     .tenant("acme")
///     .user("ada")
///     .deadline(Duration::from_secs(5));
/// ```
#[derive(Debug, Clone)]
pub struct Options {
    pub(crate) address: String,
    pub(crate) metadata: Headers,
    pub(crate) connect_timeout: Duration,
    pub(crate) deadline: Duration,
    pub(crate) attempts: u32,
    pub(crate) first_wait: Duration,
    pub(crate) longest_wait: Duration,
    pub(crate) keepalive: Option<Duration>,
    pub(crate) max_message_bytes: usize,
    pub(crate) user_agent: Option<String>,
    pub(crate) compression: Option<CompressionEncoding>,
    #[cfg(feature = "tls")]
    pub(crate) ca_pem: Option<Vec<u8>>,
    #[cfg(feature = "tls")]
    pub(crate) domain: Option<String>,
}

impl Options {
    /// Of the server at `HOST:PORT`, `http://HOST:PORT` or `https://HOST:PORT`. Without a port it is
    /// 50051, without a scheme plain `http`. `https` needs the crate's feature `tls`.
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            metadata: Headers(Vec::new()),
            connect_timeout: Duration::from_secs(5),
            deadline: Duration::from_secs(30),
            attempts: 5,
            first_wait: Duration::from_millis(100),
            longest_wait: Duration::from_secs(10),
            keepalive: Some(Duration::from_secs(20)),
            max_message_bytes: 16 * 1024 * 1024,
            user_agent: None,
            compression: None,
            #[cfg(feature = "tls")]
            ca_pem: None,
            #[cfg(feature = "tls")]
            domain: None,
        }
    }

    /// The tenant to act in, where the server lets the caller choose.
    #[must_use]
    pub fn tenant(self, tenant: impl Into<String>) -> Self {
        self.metadata("tokenmeter-tenant", tenant.into())
    }

    /// The user to act as, where the server lets the caller choose.
    #[must_use]
    pub fn user(self, user: impl Into<String>) -> Self {
        self.metadata("tokenmeter-user", user.into())
    }

    /// Credentials: sent as `authorization: Bearer TOKEN`. Refused at connecting over plain `http`
    /// to another machine, where everyone on the way could read it.
    #[must_use]
    pub fn bearer_token(self, token: impl AsRef<str>) -> Self {
        self.metadata("authorization", format!("Bearer {}", token.as_ref()))
    }

    /// One more header of every call. A call that sets it itself keeps its own.
    #[must_use]
    pub fn metadata(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.metadata.0.push((name, value.into()));
        self
    }

    /// How long connecting may take. 5 seconds if not said.
    #[must_use]
    pub fn connect_timeout(mut self, time: Duration) -> Self {
        self.connect_timeout = time;
        self
    }

    /// How long a unary call may take with all its attempts, unless its request says otherwise by
    /// `Request::set_timeout`. 30 seconds if not said. Streams have no deadline.
    #[must_use]
    pub fn deadline(mut self, time: Duration) -> Self {
        self.deadline = time;
        self
    }

    /// How often a unary call is sent at most, the first time included. 5 if not said; 1 repeats
    /// nothing.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// What to wait before the first repetition, and at most before a later one; each wait is twice
    /// the one before, less up to half of it by chance. 100 ms and 10 seconds if not said.
    #[must_use]
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        (self.first_wait, self.longest_wait) = (first, longest.max(first));
        self
    }

    /// The silence after which the connection is tried with a ping; without an answer within 10
    /// seconds it is taken as lost. 20 seconds if not said, `None` never tries.
    #[must_use]
    pub fn keepalive(mut self, silence: Option<Duration>) -> Self {
        self.keepalive = silence;
        self
    }

    /// The largest answer that is read, in bytes. 16 MiB if not said.
    #[must_use]
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.max_message_bytes = bytes;
        self
    }

    /// What the program calls itself, as `importer/1.4`.
    #[must_use]
    pub fn user_agent(mut self, name: impl Into<String>) -> Self {
        self.user_agent = Some(name.into());
        self
    }

    /// Sends requests compressed. Compressed answers are read in any case.
    #[must_use]
    pub fn compression(mut self, encoding: CompressionEncoding) -> Self {
        self.compression = Some(encoding);
        self
    }

    /// The certificates, in PEM, of who vouches for the server, instead of those that the system
    /// trusts.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca_pem = Some(pem.into());
        self
    }

    /// The name that the server's certificate has to carry, where it is not that of the address.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn domain(mut self, name: impl Into<String>) -> Self {
        self.domain = Some(name.into());
        self
    }

    /// The address with scheme and port.
    pub(crate) fn full_address(&self) -> Result<http::Uri> {
        let wrong = |why: &str| {
            Error::local(
                Code::InvalidArgument,
                format!("the address {why}; give HOST:PORT or http://HOST:PORT"),
            )
        };
        let given = &self.address;
        let with_scheme = match given.contains("://") {
            true => given.clone(),
            false => format!("http://{given}"),
        };
        let uri: http::Uri = with_scheme
            .parse()
            .map_err(|_| wrong("is not an address"))?;
        let scheme = match uri.scheme_str() {
            Some("http") => "http",
            Some("https") if cfg!(feature = "tls") => "https",
            Some("https") => {
                return Err(wrong(
                    "is https, which needs the feature `tls` of this crate",
                ));
            }
            _ => return Err(wrong("has a scheme that is not http or https")),
        };
        let authority = uri
            .authority()
            .filter(|authority| !authority.host().is_empty())
            .ok_or_else(|| wrong("names no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("has a user in it"));
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(wrong("has a path"));
        }
        let full = match authority.port_u16() {
            Some(_) => format!("{scheme}://{authority}"),
            None => format!("{scheme}://{authority}:{DEFAULT_PORT}"),
        };
        full.parse().map_err(|_| wrong("is not an address"))
    }

    /// The connection's settings, with nothing connected yet.
    pub(crate) fn endpoint(&self) -> Result<Endpoint> {
        let uri = self.full_address()?;
        let secret = self
            .metadata
            .0
            .iter()
            .any(|(name, _)| *name == "authorization");
        if secret && uri.scheme_str() == Some("http") && !is_loopback(&uri) {
            return Err(Error::local(
                Code::InvalidArgument,
                "a bearer token would cross the network in plain text; use an https:// address",
            ));
        }
        let bad = |error: tonic::transport::Error| {
            Error::local(Code::InvalidArgument, crate::error::innermost(&error))
        };
        let secure = uri.scheme_str() == Some("https");
        let mut endpoint = Endpoint::from(uri)
            .connect_timeout(self.connect_timeout)
            .keep_alive_timeout(Duration::from_secs(10))
            .tcp_nodelay(true);
        if let Some(silence) = self.keepalive {
            endpoint = endpoint
                .http2_keep_alive_interval(silence)
                .keep_alive_while_idle(true);
        }
        if let Some(name) = &self.user_agent {
            endpoint = endpoint.user_agent(name.clone()).map_err(bad)?;
        }
        if secure {
            endpoint = self.secured(endpoint)?;
        }
        Ok(endpoint)
    }

    #[cfg(feature = "tls")]
    fn secured(&self, endpoint: Endpoint) -> Result<Endpoint> {
        use tonic::transport::{Certificate, ClientTlsConfig};
        let mut tls = ClientTlsConfig::new();
        tls = match &self.ca_pem {
            Some(pem) => tls.ca_certificate(Certificate::from_pem(pem)),
            None => tls.with_native_roots(),
        };
        if let Some(name) = &self.domain {
            tls = tls.domain_name(name.clone());
        }
        endpoint.tls_config(tls).map_err(|error| {
            let cause = crate::error::innermost(&error);
            Error::local(
                Code::InvalidArgument,
                format!("TLS cannot be set up: {cause}"),
            )
        })
    }

    /// `full_address` refuses https without the feature, so that there is nothing to do.
    #[cfg(not(feature = "tls"))]
    #[allow(clippy::unused_self, clippy::unnecessary_wraps, reason = "as with TLS")]
    fn secured(&self, endpoint: Endpoint) -> Result<Endpoint> {
        Ok(endpoint)
    }

    /// How calls are made.
    pub(crate) fn manner(&self) -> Result<Manner> {
        let mut caller = MetadataMap::new();
        for (name, value) in &self.metadata.0 {
            let bad = |what: &str| {
                Error::local(
                    Code::InvalidArgument,
                    format!("metadata {name} {what}; use visible ASCII characters only"),
                )
            };
            let key = AsciiMetadataKey::from_bytes(name.as_bytes());
            let key = key.map_err(|_| bad("is no name of a header"))?;
            let value = value.parse::<AsciiMetadataValue>();
            let mut value = value.map_err(|_| bad("has a value that no header can carry"))?;
            value.set_sensitive(*name == "authorization");
            caller.insert(key, value);
        }
        Ok(Manner {
            caller,
            deadline: self.deadline,
            attempts: self.attempts,
            first_wait: self.first_wait,
            longest_wait: self.longest_wait,
            max_message_bytes: self.max_message_bytes,
        })
    }
}

/// Whether an address is of this machine only.
fn is_loopback(uri: &http::Uri) -> bool {
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_get_scheme_and_port() {
        for (given, full) in [
            ("localhost:7", "http://localhost:7/"),
            ("localhost", "http://localhost:50051/"),
            ("http://127.0.0.1:50051/", "http://127.0.0.1:50051/"),
            ("[::1]:7", "http://[::1]:7/"),
        ] {
            let uri = Options::new(given).full_address().unwrap();
            assert_eq!(uri.to_string(), full);
        }
        for wrong in [
            "",
            "ftp://h:1",
            "h:1/path",
            "a b",
            "http://",
            "http://a:b@h:1",
        ] {
            let error = Options::new(wrong).full_address().unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument, "{wrong}");
        }
        let https = Options::new("https://h:1").full_address();
        assert_eq!(https.is_ok(), cfg!(feature = "tls"));
    }

    #[test]
    fn metadata_are_checked_before_anything_is_sent() {
        let manner = Options::new("h").tenant("acme").manner().unwrap();
        assert_eq!(manner.caller.get("tokenmeter-tenant").unwrap(), "acme");
        assert!(manner.caller.get("tokenmeter-user").is_none());
        assert!(Options::new("h").user("a\nb").manner().is_err());
        assert!(Options::new("h").metadata("no name", "x").manner().is_err());
    }

    #[test]
    fn a_token_stays_on_this_machine_without_tls() {
        for near in ["localhost:1", "127.0.0.1:1", "[::1]:1"] {
            assert!(Options::new(near).bearer_token("t").endpoint().is_ok());
        }
        let far = Options::new("10.0.0.1:1").bearer_token("t").endpoint();
        assert!(far.unwrap_err().message.contains("https"));
        let secret = Options::new("h").bearer_token("hidden");
        let shown = format!("{secret:?} {:?}", secret.manner().unwrap());
        assert!(!shown.contains("hidden"), "{shown}");
    }
}
