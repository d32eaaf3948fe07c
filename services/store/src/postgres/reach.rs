//! Whether the server takes connections yet.

use std::str::FromStr as _;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, Error};

/// How long a connection may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Codes of a server that is there and takes no connection now: it ends, it crashed, it starts, it has
/// all the connections that it may have.
const NOT_NOW: [&str; 4] = ["57P01", "57P02", "57P03", "53300"];

/// Whether the server of a ledger takes connections. The answer is no only for what time may mend; what
/// an administrator has to mend, such as a wrong password, is left to be told by whoever opens it.
pub async fn is_reached(url: &str) -> bool {
    let Ok(options) = PgConnectOptions::from_str(url) else {
        return true;
    };
    match tokio::time::timeout(TIMEOUT, options.connect()).await {
        Ok(Ok(connection)) => {
            // It is of no use any more, however it ends.
            let _ = connection.close().await;
            true
        }
        Ok(Err(Error::Io(_))) | Err(_) => false,
        Ok(Err(Error::Database(error))) => {
            !error.code().is_some_and(|code| NOT_NOW.contains(&&*code))
        }
        Ok(Err(_)) => true,
    }
}
