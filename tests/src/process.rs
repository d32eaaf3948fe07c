//! A child process whose output is read as it comes, so that it never waits for a reader.

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::places::wait_until;

/// How much of each output is kept: its first and its last lines.
const LINES_KEPT: usize = 10_000;
/// How long a command may take that is run to its end.
const FINISH_LIMIT: Duration = Duration::from_secs(180);

/// What a process wrote so far, by lines.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    pub(crate) fn all(&self) -> Vec<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn push(&self, line: String) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LINES_KEPT {
            lines.remove(LINES_KEPT / 2);
        }
        lines.push(line);
    }

    fn follow(&self, output: impl Read + Send + 'static) -> JoinHandle<()> {
        let lines = self.clone();
        thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut line = Vec::new();
            while output
                .read_until(b'\n', &mut line)
                .is_ok_and(|read| read > 0)
            {
                lines.push(String::from_utf8_lossy(&line).trim_end().to_owned());
                line.clear();
            }
        })
    }
}

/// A command that ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Finished {
    /// Runs a command to its end. One that does not end within minutes fails the test.
    pub fn of(command: &mut Command) -> Self {
        Process::spawn(command).finish(FINISH_LIMIT)
    }

    /// The same, if it ended well; else the test fails with what it wrote.
    pub fn success(self) -> Self {
        assert!(self.status.success(), "{self:#?}");
        self
    }

    /// What it wrote to stdout as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

/// A running child. It is killed when it goes out of scope.
#[derive(Debug)]
pub struct Process {
    child: Child,
    readers: Vec<JoinHandle<()>>,
    pub(crate) stdout: Lines,
    pub(crate) stderr: Lines,
}

impl Process {
    /// Starts a command, without input.
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", command.get_program().display()));
        let stdout = Lines::default();
        let stderr = Lines::default();
        let readers = vec![
            stdout.follow(child.stdout.take().expect("stdout is piped")),
            stderr.follow(child.stderr.take().expect("stderr is piped")),
        ];
        Self {
            child,
            readers,
            stdout,
            stderr,
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Sends SIGTERM, as an orchestrator does.
    pub fn terminate(&mut self) {
        // The shell's own kill: there is no safe call for it in the standard library. The child is
        // not waited for yet, so its number cannot belong to another process.
        let sent = Command::new("sh")
            .args(["-c", "kill -TERM \"$0\"", &self.id().to_string()])
            .status()
            .expect("sh can be run");
        assert!(sent.success(), "kill -TERM: {sent}");
    }

    /// Sends SIGKILL, unless it ended already, and waits for the end.
    pub fn kill(&mut self) -> ExitStatus {
        // Fails only for a child that was waited for, and then waiting answers again.
        let _ = self.child.kill();
        let status = self.child.wait().expect("a child can be waited for");
        self.join();
        status
    }

    /// Waits for the end, and for the last line of its output.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let id = self.id();
        let status = wait_until(&format!("process {id} to end"), limit, || self.ended());
        self.join();
        status
    }

    /// Waits for the end and answers everything that it wrote.
    pub fn finish(mut self, limit: Duration) -> Finished {
        let status = self.wait(limit);
        Finished {
            status,
            stdout: self.stdout.all().join("\n"),
            stderr: self.stderr.all().join("\n"),
        }
    }

    /// The lines that it wrote to stdout so far.
    pub fn stdout(&self) -> Vec<String> {
        self.stdout.all()
    }

    fn join(&mut self) {
        for reader in self.readers.drain(..) {
            reader.join().expect("a reader does not panic");
        }
    }

    /// Everything that it wrote, for a failed test.
    pub(crate) fn report(&self) -> String {
        format!(
            "--- stdout of process {id}\n{}\n--- stderr of process {id}\n{}\n---",
            self.stdout.all().join("\n"),
            self.stderr.all().join("\n"),
            id = self.id(),
        )
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("{}", self.report());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Process {
        Process::spawn(Command::new("sh").args(["-c", script]))
    }

    #[test]
    fn both_outputs_are_read_to_the_end() {
        let mut process = shell("echo one; echo two >&2; printf three; exit 7");
        let status = process.wait(Duration::from_secs(10));
        assert_eq!(status.code(), Some(7));
        assert_eq!(process.stdout.all(), ["one", "three"]);
        assert_eq!(process.stderr.all(), ["two"]);
    }

    #[test]
    fn terminating_leaves_it_the_choice_and_killing_does_not() {
        let mut polite = shell("trap 'exit 3' TERM; echo ready; while :; do sleep 0.01; done");
        wait_until("ready", Duration::from_secs(10), || {
            (!polite.stdout.all().is_empty()).then_some(())
        });
        polite.terminate();
        assert_eq!(polite.wait(Duration::from_secs(10)).code(), Some(3));

        let mut deaf = shell("trap '' TERM; echo ready; while :; do sleep 0.01; done");
        assert_eq!(deaf.ended(), None);
        assert_eq!(deaf.kill().code(), None, "a signal ended it");
    }
}
