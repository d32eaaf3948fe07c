//! The built binary as a server in a folder of its own.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;
use std::{env, ffi::OsString, fmt};

use serde_json::Value;
use tonic::transport::Channel;

use crate::ledger::{self, Backend, backend};
use crate::places::{tool, wait_until};
use crate::process::{Finished, Process};

/// How long a start, and an end that was asked for, may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a server is started.
#[derive(Debug, Clone)]
pub struct Start {
    program: Option<PathBuf>,
    folder: PathBuf,
    listen: SocketAddr,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    under: Vec<OsString>,
}

impl Start {
    /// In this folder, which is its working directory and home, on a free port, with the folder's
    /// ledger ([`crate::backend`]) unless an argument or a variable names another.
    /// Without the role `jobs`, unless it is given: what periodic work does to a ledger is for the
    /// tests that are about it.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            program: None,
            folder: folder.into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            arguments: Vec::new(),
            environment: vec![("TOKENMETER_ROLES".into(), "metering,analytics,admin".into())],
            under: Vec::new(),
        }
    }

    /// On this address.
    pub fn listen(mut self, listen: SocketAddr) -> Self {
        self.listen = listen;
        self
    }

    /// With one more argument after `serve --listen ADDRESS`.
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// With one more environment variable.
    pub fn variable(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// With this binary instead of [`crate::binary`], such as one with a planted fault.
    pub fn program(mut self, program: PathBuf) -> Self {
        self.program = Some(program);
        self
    }

    /// As the argument of another command, which has to become the server, as `strace -D` does.
    pub fn under<T: Into<OsString>>(mut self, command: impl IntoIterator<Item = T>) -> Self {
        self.under = command.into_iter().map(Into::into).collect();
        self
    }

    /// Starts it and waits until it accepts connections. A server that ends instead fails the test.
    pub fn serve(self) -> Server {
        let mut process = self.spawn();
        let address = wait_until("the server's first line", PATIENCE, || {
            if let Some(status) = process.ended() {
                // For the lines that came with the end.
                process.wait(PATIENCE);
                panic!("the server ended before it listened: {status}");
            }
            address_in(process.stdout.all().first()?)
        });
        wait_until("the server to accept", PATIENCE, || {
            TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()
        });
        Server {
            start: self,
            process,
            address,
        }
    }

    /// Starts it where it is expected to refuse: answers how it ended and what it wrote to stderr.
    pub fn refused(self) -> (ExitStatus, String) {
        let mut process = self.spawn();
        let status = process.wait(PATIENCE);
        (status, process.stderr.all().join("\n"))
    }

    fn spawn(&self) -> Process {
        let program = self.program.as_deref();
        let program = program.unwrap_or_else(|| crate::binary());
        let mut words = self.under.iter().map(OsString::as_os_str);
        let mut command = match words.next() {
            None => Command::new(program),
            Some(first) => {
                let mut command = Command::new(first);
                command.args(words).arg(program);
                command
            }
        };
        command
            .args(["serve", "--listen", &self.listen.to_string()])
            .args(&self.arguments);
        at_home(&mut command, &self.folder);
        if backend() != Backend::Sqlite && !self.names_a_ledger() {
            command.env("TOKENMETER_LEDGER", self.ledger());
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        Process::spawn(&mut command)
    }

    /// The URL of the folder's ledger, as `--ledger` takes it.
    pub fn ledger(&self) -> String {
        ledger::url_of(&self.folder)
    }

    fn names_a_ledger(&self) -> bool {
        let mut words = self.arguments.iter();
        words.any(|word| word == "--ledger" || word.starts_with("--ledger="))
    }
}

/// A running server. It is killed when it goes out of scope; if the test fails, what it wrote is
/// printed.
#[derive(Debug)]
pub struct Server {
    start: Start,
    process: Process,
    address: SocketAddr,
}

impl Server {
    /// Starts one with its defaults in this folder, on a free port.
    pub fn start(folder: &Path) -> Self {
        Start::new(folder).serve()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id, for a tracer.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Its resident memory in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id()));
        let status = status.expect("the server runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        number
            .and_then(|number| number.parse().ok())
            .expect("a number of KiB")
    }

    /// The folder that it runs in.
    pub fn folder(&self) -> &Path {
        &self.start.folder
    }

    /// The URL of its folder's ledger, which is its own unless it was told otherwise.
    pub fn ledger(&self) -> String {
        self.start.ledger()
    }

    /// The lines that it wrote to stdout so far.
    pub fn stdout(&self) -> Vec<String> {
        self.process.stdout.all()
    }

    /// The lines that it wrote to stderr so far.
    pub fn stderr(&self) -> Vec<String> {
        self.process.stderr.all()
    }

    /// A connection for the generated clients.
    pub async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address))
            .expect("an address makes a URI")
            .connect()
            .await
            .unwrap_or_else(|error| panic!("{}: {error:?}", self.address))
    }

    /// Kills it without warning (SIGKILL), as a crash does.
    pub fn kill(&mut self) -> ExitStatus {
        self.process.kill()
    }

    /// Asks it to end (SIGTERM) and waits until it did.
    pub fn terminate(&mut self) -> ExitStatus {
        self.process.terminate();
        self.process.wait(PATIENCE)
    }

    /// Starts it again as it was: same folder, arguments and port. One that still runs is killed.
    pub fn restart(&mut self) {
        self.process.kill();
        let next = self.start.clone().listen(self.address).serve();
        self.process = next.process;
    }

    /// Asks it to end (SIGTERM) and does not wait.
    pub fn ask_to_end(&mut self) {
        self.process.terminate();
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.ended()
    }

    /// The command line as a client of this server, at home in its folder.
    pub fn client<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new(crate::binary());
        command
            .args(["--server", &self.address.to_string()])
            .args(arguments);
        at_home(&mut command, self.folder());
        command
    }

    /// Runs the command line as a client of this server, and waits for its end.
    pub fn run<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Finished {
        Finished::of(&mut self.client(arguments))
    }

    /// Runs grpcurl with these arguments before the address and those after it.
    pub fn grpcurl_words(&self, before: &[&str], after: &[&str]) -> Finished {
        let mut command = Command::new(tool("grpcurl"));
        command
            .args(["-plaintext", "-max-time", "30"])
            .args(before)
            .arg(self.address.to_string())
            .args(after);
        Finished::of(&mut command)
    }

    /// Calls a method through grpcurl, which learns the contract by reflection, such as
    /// `tokenmeter.v1.AdminService/GetStatus`.
    pub fn grpcurl(&self, method: &str, request: &Value) -> Result<Value, Refused> {
        let output = Command::new(tool("grpcurl"))
            .args(["-plaintext", "-emit-defaults", "-format-error"])
            .args(["-max-time", "30", "-d", &request.to_string()])
            .args([&self.address.to_string(), method])
            .stdin(Stdio::null())
            .output()
            .expect("grpcurl can be run");
        let text = String::from_utf8_lossy(&output.stdout);
        if output.status.success() {
            return Ok(serde_json::from_str(&text)
                .unwrap_or_else(|error| panic!("{method} answered {text:?}: {error}")));
        }
        let told = String::from_utf8_lossy(&output.stderr);
        Err(serde_json::from_str(&told).map_or_else(
            |_| panic!("grpcurl {method} failed without a status: {told}"),
            Refused,
        ))
    }
}

/// A status that was no OK: `code` (a number), `message` and `details`.
#[derive(Debug, Clone, PartialEq)]
pub struct Refused(pub Value);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Gives a command a folder to work and live in, and nothing that the one who runs the tests has set
/// for servers of their own.
fn at_home(command: &mut Command, folder: &Path) {
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("TOKENMETER_") {
            command.env_remove(name);
        }
    }
    command
        .current_dir(folder)
        .env("HOME", folder)
        .env_remove("XDG_STATE_HOME");
}

/// The address of a line such as `tokenmeter 0.1.0 listening on 127.0.0.1:50051; try: …`.
fn address_in(line: &str) -> Option<SocketAddr> {
    let (_, after) = line.split_once("listening on ")?;
    let word = after.split_whitespace().next()?;
    word.trim_start_matches("http://")
        .trim_end_matches([',', ';', '.', ')', '/'])
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_tells_the_address() {
        let expected = Some(SocketAddr::from(([127, 0, 0, 1], 50_051)));
        for line in [
            "listening on 127.0.0.1:50051",
            "tokenmeter 0.1.0 listening on 127.0.0.1:50051; try: grpcurl …",
            "tokenmeter is listening on http://127.0.0.1:50051, without credentials",
        ] {
            assert_eq!(address_in(line), expected, "{line}");
        }
        assert_eq!(address_in("listening on port 50051"), None);
        assert_eq!(address_in("hello"), None);
    }
}
