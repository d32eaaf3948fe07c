//! The tour of README.md: its commands run word for word, and what they print is compared with what
//! it shows.
//!
//! A tour is every block fenced as `console` between the lines `<!-- tour:start -->` and
//! `<!-- tour:end -->`. In a block
//!
//! - a line that begins with `$ ` is a command; it goes on in the next line after a trailing `\`, and
//!   in lines that begin with `> `;
//! - the lines after it, up to the next command, are what it prints, stdout and stderr as a terminal
//!   shows them; `…` stands for any text within a line, and a line of only `…` for any lines;
//! - a command has to succeed, unless what it prints shows a line with `error:` or `ERROR:`;
//! - if the first line is `# in one terminal`, the block has one command, which runs until the end of
//!   the tour; its output is waited for. Other lines that begin with `# ` before the first command are
//!   remarks.
//!
//! All other commands run in one bash, in a folder that is empty at the start. `tokenmeter` is the
//! binary under test, and so is `cargo run --release --`. A tour uses the port that it names.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use std::{env, thread};

use crate::places::wait_until;
use crate::process::Process;

const START: &str = "<!-- tour:start -->";
const END: &str = "<!-- tour:end -->";
const BACKGROUND: &str = "# in one terminal";
/// What a reader types to run the binary from the sources.
const FROM_SOURCE: &str = "cargo run --release --";
/// How long one command may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// One command and what it prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The command, lines joined as they stand.
    pub command: String,
    /// The lines it prints.
    pub expected: Vec<String>,
}

/// One fenced block.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Block {
    /// Whether it runs until the end of the tour.
    pub background: bool,
    /// Its commands.
    pub steps: Vec<Step>,
}

/// The blocks of a page's tours.
///
/// # Errors
/// What is wrong with the page.
pub fn blocks(page: &str) -> Result<Vec<Block>, String> {
    let mut blocks = Vec::new();
    let (mut on_tour, mut block) = (false, None::<Vec<&str>>);
    for line in page.lines() {
        match (line.trim(), &mut block) {
            ("```", Some(lines)) => {
                blocks.push(read_block(lines)?);
                block = None;
            }
            (_, Some(lines)) => lines.push(line.trim_end()),
            (START, None) => on_tour = true,
            (END, None) => on_tour = false,
            ("```console", None) if on_tour => block = Some(Vec::new()),
            _ => {}
        }
    }
    match (block, on_tour) {
        (Some(_), _) => Err("a console block has no end".into()),
        (None, true) => Err(format!("{START} without {END}")),
        (None, false) => Ok(blocks),
    }
}

fn read_block(lines: &[&str]) -> Result<Block, String> {
    let mut block = Block {
        background: lines.first() == Some(&BACKGROUND),
        steps: Vec::new(),
    };
    let mut goes_on = false;
    for line in lines {
        if let Some(command) = line.strip_prefix("$ ") {
            block.steps.push(Step {
                command: command.to_owned(),
                expected: Vec::new(),
            });
            goes_on = command.ends_with('\\');
            continue;
        }
        let Some(step) = block.steps.last_mut() else {
            if line.starts_with("# ") || line.is_empty() {
                continue;
            }
            return Err(format!(
                "{line:?} stands before the first command of its block"
            ));
        };
        let continued = line.strip_prefix("> ").filter(|_| step.expected.is_empty());
        if goes_on || continued.is_some() {
            let more = continued.unwrap_or(line);
            step.command.push('\n');
            step.command.push_str(more);
            goes_on = more.ends_with('\\');
        } else {
            step.expected.push((*line).to_owned());
        }
    }
    match (block.background, block.steps.len()) {
        (_, 0) => Err("a console block has no command".into()),
        (true, 2..) => Err(format!("a block {BACKGROUND:?} has more than one command")),
        _ => Ok(block),
    }
}

/// Whether what a command printed is what is expected.
pub fn matches(expected: &[impl AsRef<str>], printed: &[impl AsRef<str>]) -> bool {
    let Some((first, rest)) = expected.split_first() else {
        return printed.is_empty();
    };
    if first.as_ref().trim() == "…" {
        return (0..=printed.len()).any(|skipped| matches(rest, &printed[skipped..]));
    }
    match printed.split_first() {
        Some((line, others)) => {
            line_matches(first.as_ref().trim_end(), line.as_ref().trim_end())
                && matches(rest, others)
        }
        None => false,
    }
}

/// Whether a line is what is expected; `…` is any text.
fn line_matches(expected: &str, line: &str) -> bool {
    match expected.split_once('…') {
        None => expected == line,
        Some((head, tail)) => line.strip_prefix(head).is_some_and(|rest| {
            (0..=rest.len())
                .filter(|at| rest.is_char_boundary(*at))
                .any(|at| line_matches(tail, &rest[at..]))
        }),
    }
}

/// Runs a tour in a folder. Panics at the first difference.
pub fn run(blocks: &[Block], folder: &Path, binary: &Path) {
    let path = path_with(folder, binary);
    let mut background = Vec::new();
    let mut bash = Bash::start(folder, &path);
    for block in blocks {
        for step in &block.steps {
            println!("$ {}", step.command);
            if block.background {
                background.push(start(step, folder, &path));
            } else {
                run_step(step, &mut bash);
            }
        }
    }
    bash.end();
}

/// A folder for `PATH` in which `tokenmeter` is the binary, before the tools and the rest.
fn path_with(folder: &Path, binary: &Path) -> std::ffi::OsString {
    let bin = folder.join(".bin");
    fs::create_dir_all(&bin).expect("the tour's folder can be written");
    symlink(binary, bin.join("tokenmeter")).expect("the binary can be linked");
    let tools = env::var_os("TOKENMETER_TOOLS").map_or_else(
        || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache/tokenmeter-tools"),
        PathBuf::from,
    );
    let rest = env::var_os("PATH").unwrap_or_default();
    env::join_paths(
        [bin, tools.join("bin")]
            .into_iter()
            .chain(env::split_paths(&rest)),
    )
    .expect("folders of PATH have no colon")
}

fn command(folder: &Path, path: &std::ffi::OsStr) -> Command {
    let mut command = Command::new("bash");
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("TOKENMETER_") {
            command.env_remove(name);
        }
    }
    command
        .args(["--noprofile", "--norc"])
        .current_dir(folder)
        .env("HOME", folder)
        .env_remove("XDG_STATE_HOME")
        .env("PATH", path)
        .env("COLUMNS", "120");
    command
}

/// The command with the binary for what runs it from the sources.
fn substituted(command: &str) -> String {
    command.replace(FROM_SOURCE, "tokenmeter")
}

/// Starts a command that runs until the end, and waits for what it prints.
fn start(step: &Step, folder: &Path, path: &std::ffi::OsStr) -> Process {
    // With exec, the process that is killed at the end is the command and not its shell.
    let text = format!(
        "exec {}",
        substituted(step.command.trim_end_matches('&').trim())
    );
    let mut process = Process::spawn(command(folder, path).args(["-c", &text]));
    wait_until(
        &format!("{} to print what it should", step.command),
        PATIENCE,
        || {
            let printed = process.stdout();
            if let Some(status) = process.ended() {
                process.wait(PATIENCE);
                panic!("{} ended: {status}", step.command);
            }
            let as_far = printed.len().min(step.expected.len());
            matches(&step.expected, &printed[..as_far]).then_some(())
        },
    );
    process
}

fn run_step(step: &Step, bash: &mut Bash) {
    let (printed, status) = bash.run(&substituted(&step.command));
    assert!(
        matches(&step.expected, &printed),
        "$ {}\nshould print\n{}\nand printed\n{}",
        step.command,
        step.expected.join("\n"),
        printed.join("\n")
    );
    let shows_error = |line: &String| line.contains("error:") || line.contains("ERROR:");
    assert!(
        status == 0 || step.expected.iter().any(shows_error),
        "$ {} ended with status {status}",
        step.command
    );
}

/// One bash that runs command after command.
struct Bash {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Bash {
    fn start(folder: &Path, path: &std::ffi::OsStr) -> Self {
        let mut child = command(folder, path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("bash can be run");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        let stdout = child.stdout.take().expect("stdout is piped");
        let (send, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        // One stream, as on a terminal.
        writeln!(stdin, "exec 2>&1").expect("bash reads");
        Self {
            child,
            stdin,
            lines,
        }
    }

    /// Runs a command; answers the lines that it printed and its exit status.
    fn run(&mut self, command: &str) -> (Vec<String>, i32) {
        const DONE: &str = "-- tour: done ";
        // In braces, it runs in this shell and cannot read the commands that follow it.
        write!(
            self.stdin,
            "{{\n{command}\n}} </dev/null\nprintf '\\n{DONE}%s\\n' $?\n"
        )
        .expect("bash reads");
        let mut printed = Vec::new();
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|error| {
                panic!("$ {command}\nprinted {printed:#?}\nand did not end: {error}")
            });
            if let Some(status) = line.strip_prefix(DONE) {
                // The line end before the sign is ours.
                if printed.last().is_some_and(String::is_empty) {
                    printed.pop();
                }
                return (printed, status.parse().expect("bash prints a number"));
            }
            printed.push(line);
        }
    }

    /// Ends what runs in its background, and bash itself.
    fn end(&mut self) {
        self.run("for job in $(jobs -p); do kill \"$job\"; done; wait");
        self.kill();
    }

    fn kill(&mut self) {
        // Fails only for a child that was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Bash {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = r#"
```console
$ not on the tour
```
<!-- tour:start -->
Start it:

```console
# in one terminal
$ cargo run --release -- serve
tokenmeter … listening on …
```
```console
# in another
$ echo one \
  two
one two
$ printf '%s\n' 'a
> b'
a
…
$ true
```
```json
{}
```
<!-- tour:end -->
"#;

    fn step(command: &str, expected: &[&str]) -> Step {
        Step {
            command: command.into(),
            expected: expected.iter().map(|line| (*line).to_owned()).collect(),
        }
    }

    #[test]
    fn a_page_is_read_block_by_block() {
        let blocks = blocks(PAGE).unwrap();
        assert_eq!(blocks.len(), 2);
        assert!(blocks[0].background && !blocks[1].background);
        let listening = ["tokenmeter … listening on …"];
        assert_eq!(
            blocks[0].steps,
            [step("cargo run --release -- serve", &listening)]
        );
        assert_eq!(
            blocks[1].steps,
            [
                step("echo one \\\n  two", &["one two"]),
                step("printf '%s\\n' 'a\nb'", &["a", "…"]),
                step("true", &[]),
            ]
        );
    }

    #[test]
    fn a_page_that_is_not_well_formed_is_refused() {
        let page = |text: &str| format!("{START}\n```console\n{text}\n```\n{END}\n");
        assert!(blocks(&page("$ true")).is_ok());
        for bad in [
            page("output first\n$ true"),
            page("# only a remark"),
            page("# in one terminal\n$ one\n$ two"),
            format!("{START}\n```console\n$ true\n"),
            format!("{START}\n"),
        ] {
            assert!(blocks(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_ellipsis_is_any_text_or_any_lines() {
        let yes = |expected: &[&str], printed: &[&str]| assert!(matches(expected, printed));
        let no = |expected: &[&str], printed: &[&str]| assert!(!matches(expected, printed));
        yes(&[], &[]);
        no(&[], &["a"]);
        no(&["a"], &[]);
        yes(&["a "], &["a"]);
        no(&["a"], &["b"]);
        no(&["a"], &["a", "b"]);
        yes(&["a…c"], &["abc"]);
        yes(&["a…c"], &["ac"]);
        yes(&["…é…"], &["été"]);
        no(&["a…c"], &["abcd"]);
        no(&["a…c", "d"], &["ab", "c", "d"]);
        yes(&["…"], &[]);
        yes(&["…"], &["a", "b"]);
        yes(&["a", "…", "c"], &["a", "c"]);
        yes(&["a", "…", "c"], &["a", "b", "c", "c"]);
        no(&["a", "…", "c"], &["a", "b"]);
    }

    fn tour(text: &str) {
        let folder = tempfile::tempdir().unwrap();
        let page = format!("{START}\n```console\n{text}\n```\n{END}\n");
        run(
            &blocks(&page).unwrap(),
            folder.path(),
            Path::new("/bin/echo"),
        );
    }

    #[test]
    fn commands_share_one_shell_and_the_binary_stands_in_for_the_sources() {
        tour(
            "$ here=kept; mkdir -p deep; cd deep\n$ echo \"$here\" >&2; cat\nkept\n\
             $ cargo run --release -- serve --it\nserve --it\n$ pwd\n…/deep\n\
             $ printf 'no line end'\nno line end\n$ echo 'error: so' && false\nerror: so",
        );
    }

    #[test]
    #[should_panic(expected = "should print")]
    fn another_output_is_found() {
        tour("$ echo two\none");
    }

    #[test]
    #[should_panic(expected = "ended with status 1")]
    fn a_command_that_fails_is_found() {
        tour("$ false");
    }

    #[test]
    fn a_server_of_a_tour_runs_beside_its_commands() {
        let folder = tempfile::tempdir().unwrap();
        let page = format!(
            "{START}\n```console\n# in one terminal\n$ sh -c 'touch up; echo up; exec sleep 600' &\n\
             up\n```\n```console\n$ ls\nup\n```\n{END}\n"
        );
        run(
            &blocks(&page).unwrap(),
            folder.path(),
            Path::new("/bin/echo"),
        );
    }
}
