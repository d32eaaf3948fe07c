//! A private server in a temporary folder.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use crate::guard::Guard;
use crate::port::quiet_port;
use crate::programs;

/// The oldest version that tests run on.
const OLDEST: u32 = 14;
/// From this version on, a cluster can sort by the rules of a language without one of the system's.
const SORTS_BY_LANGUAGE: u32 = 15;
/// How many lines of the log are shown.
const LOG_LINES: usize = 60;

/// The folder is made, used and removed by the user that the server runs as.
#[derive(Debug)]
pub(crate) struct Own {
    folder: PathBuf,
    port: u16,
    user: Option<&'static str>,
}

impl Own {
    pub(crate) fn start() -> (Self, Guard) {
        let folder = tempfile::Builder::new()
            .prefix("tokenmeter-postgres-")
            .tempdir()
            .expect("a temporary folder")
            // The guard removes it, because values of a whole process are never dropped.
            .keep();
        let user = programs::server_user();
        let port = quiet_port();
        let own = Self { folder, port, user };
        let guard = Guard::of_server(&own.folder, &own.program("pg_ctl"));
        if let Some(user) = user {
            let owner = format!("{user}:");
            let mut chown = Command::new("chown");
            done("chown", chown.arg(owner).arg(&own.folder).output());
        }
        own.initialise();
        own.run();
        (own, guard)
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    fn initialise(&self) {
        let version = self.version();
        assert!(
            version >= OLDEST,
            "PostgreSQL {version} is installed; tests need {OLDEST} or newer"
        );
        let mut initdb = self.program("initdb");
        // Without a sync of files that nobody needs after a crash of the machine. Whoever connects
        // is a superuser: it listens on the loopback interface only, and holds nothing of anybody.
        initdb.args(["--pgdata=data", "--username=postgres", "--auth=trust"]);
        initdb.args(["--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]);
        if version >= SORTS_BY_LANGUAGE {
            // As many a real database, so that a column that must sort by bytes has to say so.
            initdb.args(["--locale-provider=icu", "--icu-locale=en-US"]);
        }
        done("initdb", initdb.output());
    }

    /// Starts the server and waits until it takes connections.
    pub(crate) fn run(&self) {
        let mut settings = format!(
            "-p {} -k {} -c listen_addresses=127.0.0.1 -c max_connections=300",
            self.port,
            self.folder.display()
        );
        settings.push_str(" -c log_line_prefix='%m [%p] %d '");
        let mut start = self.program("pg_ctl");
        start.args(["start", "-D", "data", "-w", "-t", "60", "-l", "log"]);
        let output = start.args(["-o", &settings]).output();
        let started = output.as_ref().is_ok_and(|output| output.status.success());
        assert!(started, "pg_ctl start: {output:?}\n{}", self.log());
    }

    /// Stops the server, in a mode of pg_ctl, and waits until it ended.
    pub(crate) fn stop(&self, mode: &str) {
        let mut stop = self.program("pg_ctl");
        stop.args(["stop", "-D", "data", "-w", "-t", "60", "-m", mode]);
        done("pg_ctl stop", stop.output());
    }

    /// Copies a folder of the server's over another one.
    pub(crate) fn copy(&self, from: &str, to: &str) {
        let (from, to) = (self.folder.join(from), self.folder.join(to));
        if to.exists() {
            fs::remove_dir_all(&to).expect("the folder before is removed");
        }
        let mut copy = Command::new("cp");
        done("cp", copy.arg("-a").arg(from).arg(to).output());
    }

    pub(crate) fn id(&self) -> u32 {
        let text = fs::read_to_string(self.folder.join("data/postmaster.pid"));
        let text = text.expect("the server runs");
        let first = text.lines().next().and_then(|line| line.parse().ok());
        first.expect("the first line is the process id")
    }

    pub(crate) fn log(&self) -> String {
        let text = fs::read(self.folder.join("log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    fn version(&self) -> u32 {
        let output = done(
            "postgres --version",
            self.program("postgres").arg("--version").output(),
        );
        // Such as `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let word = text.split_whitespace().nth(2).unwrap_or_default();
        let major = word.split(|c: char| !c.is_ascii_digit()).next();
        major
            .and_then(|major| major.parse().ok())
            .unwrap_or_else(|| panic!("postgres --version printed {text:?}"))
    }

    /// A program of PostgreSQL in the server's folder, as the server's user.
    fn program(&self, name: &str) -> Command {
        let program = programs::find(name);
        let mut command = match self.user {
            None => programs::command(&program),
            Some(user) => {
                let mut command = programs::command(&programs::find("setpriv"));
                command
                    .args(["--reuid", user, "--regid", group(user), "--clear-groups"])
                    .arg(program);
                command
            }
        };
        command.current_dir(&self.folder);
        command
    }
}

fn group(user: &str) -> &str {
    if user == "nobody" { "nogroup" } else { user }
}

fn done(what: &str, output: std::io::Result<Output>) -> Output {
    let output = output.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(
        output.status.success(),
        "{what}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}
