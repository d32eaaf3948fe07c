//! The connection to a server: address, caller, bounds.

use std::time::Duration;

use tokenmeter_api::v1;
use tonic::codec::CompressionEncoding::{Gzip, Zstd};
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use v1::admin_service_client::AdminServiceClient;
use v1::analytics_service_client::AnalyticsServiceClient;
use v1::metering_service_client::MeteringServiceClient;

use super::error::{Error, innermost};

/// Heading of the client's options in `--help`.
pub(crate) const HEADING: &str = "Client options";
/// The port of a server whose address names none.
const PORT: u16 = 50_051;
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
        let caller = CallerMetadata {
            tenant: metadata("--tenant", self.tenant.as_deref())?,
            user: metadata("--as-user", self.as_user.as_deref())?,
        };
        let unreachable = |error: &tonic::transport::Error| Error::Unreachable {
            address: address.clone(),
            cause: innermost(error),
        };
        let channel = Endpoint::from_shared(address.clone())
            .map_err(|error| unreachable(&error))?
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(Duration::from_secs(self.timeout))
            .tcp_nodelay(true)
            .connect()
            .await
            .map_err(|error| unreachable(&error))?;
        Ok(Client {
            channel,
            caller,
            timeout: Duration::from_secs(self.timeout),
        })
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

fn metadata(flag: &str, value: Option<&str>) -> Result<Option<AsciiMetadataValue>, Error> {
    value
        .map(|value| {
            value
                .parse()
                .map_err(|_| Error::Input(format!("{flag} takes visible ASCII characters only")))
        })
        .transpose()
}

/// Names tenant and user in every request.
#[derive(Debug, Clone)]
pub(crate) struct CallerMetadata {
    tenant: Option<AsciiMetadataValue>,
    user: Option<AsciiMetadataValue>,
}

impl Interceptor for CallerMetadata {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        if let Some(tenant) = &self.tenant {
            metadata.insert("tokenmeter-tenant", tenant.clone());
        }
        if let Some(user) = &self.user {
            metadata.insert("tokenmeter-user", user.clone());
        }
        Ok(request)
    }
}

/// A channel that says who asks.
pub(crate) type Service = InterceptedService<Channel, CallerMetadata>;

/// A connected client; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    channel: Channel,
    caller: CallerMetadata,
    timeout: Duration,
}

macro_rules! service {
    ($name:ident, $client:ident) => {
        pub(crate) fn $name(&self) -> $client<Service> {
            $client::with_interceptor(self.channel.clone(), self.caller.clone())
                .accept_compressed(Gzip)
                .accept_compressed(Zstd)
                .max_decoding_message_size(MAX_ANSWER_BYTES)
        }
    };
}

impl Client {
    service!(metering, MeteringServiceClient);
    service!(analytics, AnalyticsServiceClient);
    service!(admin, AdminServiceClient);

    /// A request that tells the server how long the caller waits, for work that the server would
    /// rather stop in time than have broken off.
    pub(crate) fn within_timeout<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        request
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
    fn tenant_and_user_travel_as_metadata() {
        let mut caller = CallerMetadata {
            tenant: metadata("--tenant", Some("acme")).unwrap(),
            user: metadata("--as-user", None).unwrap(),
        };
        let request = caller.call(Request::new(())).unwrap();
        assert_eq!(request.metadata().get("tokenmeter-tenant").unwrap(), "acme");
        assert!(request.metadata().get("tokenmeter-user").is_none());
        assert!(metadata("--tenant", Some("a\nb")).is_err());
    }
}
