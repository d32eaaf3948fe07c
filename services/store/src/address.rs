//! Where a ledger is: `sqlite:PATH` or `postgres://…`. What is shown of it never holds a password.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr as _;

use sqlx::postgres::PgConnectOptions;

use crate::sqlite;

/// What stands where a password was.
const HIDDEN: &str = "***";
/// What may follow the `?` of a PostgreSQL URL, as in libpq. Anything else would be ignored, so it
/// is refused.
const PARAMETERS: &[&str] = &[
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "user",
];

/// Where a ledger is.
#[derive(Clone, PartialEq, Eq)]
pub enum Address {
    /// A file.
    Sqlite(PathBuf),
    /// A database of a PostgreSQL server, by its URL, password and all. Shown by [`fmt::Display`]
    /// it has none.
    Postgres(String),
}

impl Address {
    /// Reads the URL of a ledger.
    ///
    /// # Errors
    /// What it must be instead; the text holds nothing of the URL.
    pub fn parse(url: &str) -> Result<Self, String> {
        if let Some(rest) = url.strip_prefix("sqlite:") {
            return match rest {
                "" | "//" | ":memory:" | "//:memory:" => {
                    Err("must be sqlite:PATH, a file that is kept".into())
                }
                _ => sqlite::path_of_url(url)
                    .map(Self::Sqlite)
                    .ok_or_else(|| "must be sqlite:PATH, a file that is kept".into()),
            };
        }
        if url.starts_with("postgres:") || url.starts_with("postgresql:") {
            return postgres(url).map(|()| Self::Postgres(url.to_owned()));
        }
        Err("must be sqlite:PATH or postgres://USER@HOST/DATABASE".into())
    }

    /// What serves it: `sqlite` or `postgres`.
    pub fn backend(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "sqlite",
            Self::Postgres(_) => "postgres",
        }
    }
}

impl fmt::Display for Address {
    /// The path, or the URL without its password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => path.display().fmt(f),
            Self::Postgres(url) => f.write_str(&redacted(url)),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({}: {self})", self.backend())
    }
}

/// Checks a PostgreSQL URL. What the driver says of one that it cannot read may hold parts of it.
fn postgres(url: &str) -> Result<(), String> {
    const SHAPE: &str = "must be postgres://USER@HOST:PORT/DATABASE, special characters as %XX";
    let (_, rest) = url.split_once("://").ok_or(SHAPE)?;
    if redacted(url) == url && url.contains(HIDDEN) {
        return Err(
            "has no password, it was left out where this was printed; put it in, or give it as \
             PGPASSWORD"
                .into(),
        );
    }
    let query = rest.split_once('?').map(|(_, query)| query);
    let query = query.map(|query| query.split_once('#').map_or(query, |(query, _)| query));
    for pair in query.unwrap_or_default().split('&') {
        let key = pair.split_once('=').map_or(pair, |(key, _)| key);
        if !key.is_empty() && !PARAMETERS.contains(&key) {
            return Err(format!(
                "has a parameter that is not known; after ? may follow {}",
                PARAMETERS.join(", ")
            ));
        }
    }
    PgConnectOptions::from_str(url).map_err(|_| SHAPE)?;
    Ok(())
}

/// A text as it may be shown: if it has the form of a URL, without the password of its user and
/// without the values of parameters that are or may be secret. It is not parsed, so that one with a
/// mistake in it is as safe; rather too much is hidden than too little.
pub fn redacted(text: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return redacted_text(text);
    };
    if let Some((before, _)) = rest.rsplit_once('@')
        && let Some((_, query)) = before.split_once('?')
        && query.contains('=')
        && let Some(end) = before.find([':', '?'])
    {
        // That @ may be in the value of a parameter.
        return Cow::Owned(format!("{scheme}://{}{HIDDEN}", &before[..=end]));
    }
    // The last @: a password may hold others, unescaped by mistake.
    let (user, rest) = match rest.rsplit_once('@') {
        Some((user, rest)) => (Some(user), rest),
        None => (None, rest),
    };
    let mut shown = format!("{scheme}://");
    if let Some(user) = user {
        match user.split_once(':') {
            Some((name, _)) => shown.extend([name, ":", HIDDEN]),
            None => shown.push_str(user),
        }
        shown.push('@');
    }
    match rest.split_once('?') {
        None => shown.push_str(rest),
        Some((place, query)) => {
            shown.push_str(place);
            let mut before = '?';
            for pair in query.split('&') {
                shown.push(before);
                before = '&';
                match pair.split_once('=') {
                    Some((key, value)) if !is_shown(key) && !value.is_empty() => {
                        shown.extend([key, "=", HIDDEN]);
                    }
                    _ => shown.push_str(pair),
                }
            }
        }
    }
    Cow::Owned(shown)
}

/// What is no URL: a path, or a mistake, such as a connection in libpq's other form.
fn redacted_text(text: &str) -> Cow<'_, str> {
    const MARKS: [&str; 3] = ["postgres:", "postgresql:", "password="];
    let end = |mark: &&str| text.find(mark).map(|at| at + mark.len());
    match MARKS.iter().filter_map(end).min() {
        Some(end) if !text.starts_with("sqlite:") => {
            Cow::Owned(format!("{}{HIDDEN}", &text[..end]))
        }
        _ => Cow::Borrowed(text),
    }
}

/// Whether a parameter's value is no secret.
fn is_shown(key: &str) -> bool {
    key != "password" && PARAMETERS.contains(&key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_backends_are_told_by_their_urls() {
        let sqlite = Address::parse("sqlite:a/b.db").unwrap();
        assert_eq!(sqlite, Address::Sqlite("a/b.db".into()));
        assert_eq!(sqlite.to_string(), "a/b.db");
        for url in [
            "postgres://localhost/t",
            "postgresql://u:p%40ss@db.example:5433/t?sslmode=verify-full&sslrootcert=/ca.pem",
            "postgres:///t?user=u&host=/run/postgresql&application_name=a",
            "postgres://[::1]:5432/t?options=-c%20statement_timeout=5s",
        ] {
            let address = Address::parse(url).unwrap_or_else(|why| panic!("{url}: {why}"));
            assert_eq!(address, Address::Postgres(url.to_owned()));
            assert_eq!(address.backend(), "postgres");
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_without_telling_it() {
        for (url, why) in [
            ("", "sqlite:PATH or postgres://"),
            ("a.db", "sqlite:PATH or postgres://"),
            ("mysql://secret@h/t", "sqlite:PATH or postgres://"),
            ("sqlite:", "a file that is kept"),
            ("sqlite::memory:", "a file that is kept"),
            ("sqlite://:memory:", "a file that is kept"),
            ("postgres:", "postgres://USER@HOST"),
            ("postgres:secret", "postgres://USER@HOST"),
            ("postgres://u:secret@h:port/t", "postgres://USER@HOST"),
            ("postgres://h/t?sslmode=secret", "postgres://USER@HOST"),
            ("postgres://h/t?sslpassword=secret", "is not known"),
            ("postgres://h/t?pass%77ord=secret", "is not known"),
            ("postgres://u:***@h/t", "PGPASSWORD"),
            ("postgres://h/t?password=***", "PGPASSWORD"),
        ] {
            let told = Address::parse(url).unwrap_err();
            assert!(told.contains(why), "{url}: {told}");
            assert!(!told.contains("secret"), "{url}: {told}");
        }
    }

    #[test]
    fn no_password_is_shown() {
        for (text, shown) in [
            ("sqlite:a@b:c", "sqlite:a@b:c"),
            ("postgres://h/t", "postgres://h/t"),
            ("postgres://u@h/t", "postgres://u@h/t"),
            ("postgres://u:pw@h/t", "postgres://u:***@h/t"),
            ("postgres://:pw@h/t", "postgres://:***@h/t"),
            ("postgres://u:p:w@/?#@h/t", "postgres://u:***@h/t"),
            (
                "postgres://h/t?sslmode=require&password=pw&sslpassword=pw&sslkey=/k&x",
                "postgres://h/t?sslmode=require&password=***&sslpassword=***&sslkey=/k&x",
            ),
            (
                "postgres://h/t?pass%77ord=pw",
                "postgres://h/t?pass%77ord=***",
            ),
            ("redis://:pw@h/0", "redis://:***@h/0"),
            ("postgres://u@h/t?password=p@w", "postgres://u@h/t?***"),
            ("postgres://u@h:1/t?password=p@w", "postgres://u@h:***"),
            ("postgres://u:p@h/t?password=p@w", "postgres://u:***"),
            ("postgres:u:pw@h/t", "postgres:***"),
            ("host=h password=pw user=u", "host=h password=***"),
            ("sqlite:password=x.db", "sqlite:password=x.db"),
        ] {
            assert_eq!(redacted(text), shown);
            assert_eq!(redacted(shown), shown, "shown again as it is");
        }
        let address = Address::parse("postgres://u:geheim@h/t").unwrap();
        assert!(!format!("{address} {address:?}").contains("geheim"));
        // What is shown is shown again as it is.
        assert_eq!(redacted("postgres://u:***@h/t"), "postgres://u:***@h/t");
    }
}
