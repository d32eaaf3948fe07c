//! From texts to a checked configuration, with every error told.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tokenmeter_model::zone::Zone;
use tokenmeter_store::address::{Address, redacted};

use super::{Config, LogFormat, Pool, Raw, ServeRole};

/// Reads settings and gathers what is wrong with them.
struct Reader<'a> {
    raw: &'a Raw,
    errors: Vec<String>,
}

impl Reader<'_> {
    fn error(&mut self, key: &str, why: &str) {
        let (value, from) = self.raw.get(key);
        let value = redacted(value);
        self.errors
            .push(format!("{key}: '{value}' (from {from}) {why}"));
    }

    /// Reads a value with `read`, or says why not and answers `fallback`.
    fn value<T>(
        &mut self,
        key: &str,
        fallback: T,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> T {
        match read(self.raw.get(key).0) {
            Ok(value) => value,
            Err(why) => {
                self.error(key, &why);
                fallback
            }
        }
    }

    fn number<T>(&mut self, key: &str, bounds: RangeInclusive<T>) -> T
    where
        T: FromStr + PartialOrd + Copy + std::fmt::Display,
    {
        let (low, high) = (*bounds.start(), *bounds.end());
        self.value(key, low, |text| {
            text.parse()
                .ok()
                .filter(|number| bounds.contains(number))
                .ok_or_else(|| format!("must be a whole number from {low} to {high}"))
        })
    }

    fn flag(&mut self, key: &str) -> bool {
        self.value(key, false, |text| {
            text.parse().map_err(|_| "must be true or false".to_owned())
        })
    }
}

impl Config {
    /// Reads and checks every setting.
    ///
    /// # Errors
    /// Every error, a line each: the setting, its value, where it comes from, and the mend.
    pub(crate) fn read(raw: &Raw) -> Result<Self, Vec<String>> {
        let mut from = Reader {
            raw,
            errors: raw.errors.clone(),
        };
        let listen = listen(&mut from);
        memory_only(&mut from, "feed");
        let config = Self {
            listen,
            ledger: from.value("ledger", Address::Sqlite(PathBuf::new()), Address::parse),
            pool: pool(&mut from),
            migrate_on_start: from.flag("migrate_on_start"),
            holds: from.value("counters", None, counters),
            retention_days: Some(from.number("retention_days", 0..=36_500))
                .filter(|days| *days > 0),
            roles: from.value("roles", Vec::new(), roles),
            zone: from.value("time_zone", Zone::utc(), |name| {
                Zone::named(name).map_err(|error| format!("is wrong: {error}"))
            }),
            max_message_bytes: from.number("max_message_bytes", 65_536..=67_108_864),
            max_concurrent_requests: from.number("max_concurrent_requests", 1..=1_000_000),
            max_streams_per_connection: from.number("max_streams_per_connection", 1..=1_000_000),
            max_open_streams: from.number("max_open_streams", 1..=1_000_000),
            request_timeout: Duration::from_millis(
                from.number("request_timeout_ms", 1..=3_600_000),
            ),
            shutdown_delay: Duration::from_millis(from.number("shutdown_delay_ms", 0..=600_000)),
            shutdown_grace: Duration::from_millis(from.number("shutdown_grace_ms", 0..=600_000)),
            log: from.value("log", String::new(), |filter| {
                filter
                    .parse::<tracing_subscriber::EnvFilter>()
                    .map(|_| filter.to_owned())
                    .map_err(|_| {
                        "must be a level (error, warn, info, debug, trace) or a filter".into()
                    })
            }),
            log_format: from.value("log_format", LogFormat::Human, |format| match format {
                "human" => Ok(LogFormat::Human),
                "json" => Ok(LogFormat::Json),
                _ => Err("must be human or json".into()),
            }),
            metrics_listen: from.value("metrics_listen", None, |text| match text {
                "" => Ok(None),
                text => text.parse().map(Some).map_err(|_| {
                    "must be an IP address and a port, such as 127.0.0.1:9464, or empty".into()
                }),
            }),
            otlp_endpoint: from.value("otlp_endpoint", None, |url| match url {
                "" => Ok(None),
                url => endpoint(url).map(Some),
            }),
        };
        if from.errors.is_empty() {
            Ok(config)
        } else {
            Err(from.errors)
        }
    }
}

/// The address; other than loopback only with the flag that says what it means (R53).
fn listen(from: &mut Reader<'_>) -> SocketAddr {
    let anonymous = from.flag("insecure_anonymous");
    let fallback = SocketAddr::from(([127, 0, 0, 1], 0));
    let listen = from.value("listen", fallback, |text| {
        text.parse()
            .map_err(|_| "must be an IP address and a port, such as 127.0.0.1:50051".into())
    });
    if !listen.ip().is_loopback() && !anonymous {
        from.error(
            "listen",
            "is not a loopback address, and this version knows no credentials; listen on \
             127.0.0.1, or give --insecure-anonymous if something else keeps strangers out",
        );
    }
    listen
}

/// Where the journal of holds is, if the URL says so.
fn counters(url: &str) -> Result<Option<PathBuf>, String> {
    match url.split_once(':') {
        Some(("memory", "")) => Ok(None),
        Some(("memory", path)) => Ok(Some(path.into())),
        Some(("redis" | "rediss", _)) => Err("comes with a later version; use memory:".into()),
        _ => Err("must be memory: or memory:PATH".into()),
    }
}

fn memory_only(from: &mut Reader<'_>, key: &str) {
    from.value(key, (), |url| match url {
        "memory:" => Ok(()),
        url if url.starts_with("redis:") || url.starts_with("rediss:") => {
            Err("comes with a later version; use memory:".into())
        }
        _ => Err("must be memory:".into()),
    });
}

fn pool(from: &mut Reader<'_>) -> Pool {
    Pool {
        replica: from.value("ledger_replica", None, |url| match url {
            "" => Ok(None),
            url => match Address::parse(url)? {
                Address::Sqlite(_) => Err("must be postgres://USER@HOST/DATABASE, or empty".into()),
                replica => Ok(Some(replica)),
            },
        }),
        writers: from.number("ledger_writers", 1..=16),
        readers: from.number("ledger_readers", 1..=1_000),
        group_events: from.number("ledger_group_events", 1..=1_000),
        queue_events: from.number("ledger_queue_events", 1_000..=1_000_000),
        unsafe_durability: from.flag("ledger_unsafe_durability"),
    }
}

/// An endpoint that the exporter takes, with a host to send to.
fn endpoint(url: &str) -> Result<String, String> {
    let wrong = || "must be http:// with a host, such as http://127.0.0.1:4317".to_owned();
    let uri: http::Uri = url.parse().map_err(|_| wrong())?;
    // `Uri` takes any text for a port, and answers none if it is no number.
    let sound = uri.authority().is_some_and(|authority| {
        let host = authority.host();
        !host.is_empty() && (authority.as_str().ends_with(host) || authority.port().is_some())
    });
    match uri.scheme_str() {
        Some("https") => Err("is https, which comes with a later version; use http://".to_owned()),
        Some("http") if sound => Ok(url.to_owned()),
        _ => Err(wrong()),
    }
}

fn roles(list: &str) -> Result<Vec<ServeRole>, String> {
    list.split(',')
        .map(|name| {
            ServeRole::ALL
                .into_iter()
                .find(|role| role.as_str() == name.trim())
        })
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| "must be a comma list of metering, analytics, admin, jobs".into())
}

#[cfg(test)]
mod tests {
    use super::super::ServeArgs;
    use super::*;

    fn read(flags: &[(&'static str, &str)]) -> Result<Config, Vec<String>> {
        let flags = flags
            .iter()
            .map(|(key, value)| (*key, (*value).to_owned()))
            .collect();
        let raw = Raw::gather(&ServeArgs { file: None, flags }, |_| None);
        Config::read(&raw)
    }

    #[test]
    fn the_defaults_are_valid() {
        let config = read(&[]).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:50051");
        assert_eq!(config.roles, ServeRole::ALL);
        assert_eq!(config.ledger.to_string(), "data/tokenmeter.db");
        assert!(config.migrate_on_start && !config.pool.unsafe_durability);
        assert_eq!(config.retention_days, Some(90));
    }

    #[test]
    fn a_postgres_ledger_is_read_and_its_password_is_never_told() {
        let url = "postgres://u:geheim@db.example/t?sslmode=require";
        let flags = [
            ("ledger", url),
            ("ledger_replica", url),
            ("retention_days", "0"),
        ];
        let config = read(&flags).unwrap();
        assert_eq!(config.ledger, Address::Postgres(url.into()));
        assert_eq!(config.retention_days, None);
        assert!(!format!("{config:?}").contains("geheim"));
        for key in ["ledger", "ledger_replica", "counters", "feed", "listen"] {
            let errors = read(&[(key, "postgres://u:geheim@h:x/t")]).unwrap_err();
            assert!(!errors.join("").contains("geheim"), "{errors:?}");
            assert!(errors[0].contains("u:***@h"), "{errors:?}");
        }
        let errors = read(&[("ledger_replica", "sqlite:t.db")]).unwrap_err();
        assert!(errors[0].contains("must be postgres://"), "{errors:?}");
    }

    #[test]
    fn every_error_is_told_at_once() {
        let errors = read(&[
            ("listen", "nowhere"),
            ("ledger", "mysql://x"),
            ("ledger_replica", "sqlite:x"),
            ("ledger_writers", "17"),
            ("ledger_readers", "0"),
            ("ledger_group_events", "1001"),
            ("ledger_queue_events", "999"),
            ("ledger_unsafe_durability", "yes"),
            ("migrate_on_start", "1"),
            ("retention_days", "-1"),
            ("shutdown_delay_ms", "soon"),
            ("counters", "redis://x"),
            ("feed", "kafka:"),
            ("roles", "metering,cook"),
            ("time_zone", "Mars"),
            ("max_message_bytes", "1"),
            ("request_timeout_ms", "soon"),
            ("log", "a=b=c"),
            ("log_format", "xml"),
            ("metrics_listen", "here"),
            ("otlp_endpoint", "here"),
        ])
        .unwrap_err();
        assert_eq!(errors.len(), 21, "{errors:#?}");
        assert!(
            errors.iter().all(|error| error.contains("(from --")),
            "{errors:#?}"
        );
    }

    #[test]
    fn errors_of_the_file_are_told_with_those_of_the_values() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("t.toml");
        std::fs::write(&file, "bogus = 1\nroles = \"cook\"\nlog = [1]\n").unwrap();
        let flags = [("time_zone", "Q".to_owned())].into();
        let raw = Raw::gather(
            &ServeArgs {
                file: Some(file),
                flags,
            },
            |_| None,
        );
        let errors = Config::read(&raw).unwrap_err();
        let keys: Vec<_> = errors
            .iter()
            .filter_map(|error| error.split(':').next())
            .collect();
        assert_eq!(keys, ["log", "bogus", "roles", "time_zone"], "{errors:#?}");
    }

    #[test]
    fn an_endpoint_of_traces_has_a_host() {
        for url in [
            "http://",
            "http://:4317",
            "http:///v1",
            "http://a b",
            "http://a:port",
            "ftp://a",
            "127.0.0.1:4317",
        ] {
            let errors = read(&[("otlp_endpoint", url)]).unwrap_err();
            assert!(errors[0].contains("with a host"), "{errors:?}");
        }
        let errors = read(&[("otlp_endpoint", "https://otel.example")]).unwrap_err();
        assert!(errors[0].contains("use http://"), "{errors:?}");
        for url in [
            "",
            "http://127.0.0.1:4317",
            "http://otel.example/",
            "http://[::1]:1",
        ] {
            assert!(read(&[("otlp_endpoint", url)]).is_ok(), "{url}");
        }
    }

    #[test]
    fn other_addresses_need_the_named_flag() {
        for address in ["0.0.0.0:1", "[::]:1", "192.0.2.1:1"] {
            let errors = read(&[("listen", address)]).unwrap_err();
            assert!(errors[0].contains("--insecure-anonymous"), "{errors:?}");
            assert!(read(&[("listen", address), ("insecure_anonymous", "true")]).is_ok());
        }
        for address in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1"] {
            assert!(read(&[("listen", address)]).is_ok());
        }
    }
}
