//! What a system-call trace says about durability: whether the answer to a request left before the
//! log of the ledger was on disk. A kill cannot show that, because the page cache outlives a process.

use std::collections::HashMap;

/// The calls that the check needs to see, as an argument of strace. Descriptors have to be decoded
/// (`-y`), threads followed (`-f`), and texts be long enough to hold the marker (`-s 4096`).
pub const CALLS: &str = "trace=fdatasync,fsync,pwrite64,pwritev,read,readv,recvfrom,recvmsg,write,writev,sendto,sendmsg";

/// One system call that returned.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Call {
    name: String,
    /// The number of its descriptor.
    descriptor: String,
    /// What the descriptor is: a path, or `socket:[…]`.
    target: String,
    /// Its arguments as strace shows them.
    text: String,
    result: i64,
    /// Where in the trace it began and ended.
    began: usize,
    ended: usize,
}

impl Call {
    fn is_one_of(&self, names: &[&str]) -> bool {
        names.contains(&self.name.as_str())
    }

    /// Whether it lies wholly between two places of the trace.
    fn between(&self, after: usize, before: usize) -> bool {
        self.began > after && self.ended < before
    }

    fn is_on_log(&self) -> bool {
        self.target.ends_with("-wal")
    }
}

/// How the log was flushed before the answer left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// With fdatasync.
    Fdatasync,
    /// With fsync.
    Fsync,
}

/// Whether, between the last read of the request that carries `marker` and the write of its answer,
/// which carries `marker` as well, the ledger's log was written and then flushed.
///
/// # Errors
/// What is missing from the trace.
pub fn flushed_before_answer(trace: &str, marker: &str) -> Result<Flush, String> {
    let calls = calls(trace);
    let carries = |call: &&Call| call.result > 0 && call.text.contains(marker);
    let first = calls
        .iter()
        .filter(carries)
        .find(|call| call.is_one_of(&["read", "readv", "recvfrom", "recvmsg"]))
        .ok_or("the request was never read")?;
    let answer = calls
        .iter()
        .filter(carries)
        .filter(|call| call.is_one_of(&["write", "writev", "sendto", "sendmsg"]))
        .find(|call| call.descriptor == first.descriptor && call.began > first.ended)
        .ok_or("no answer left on the request's connection")?;
    let request = calls
        .iter()
        .filter(carries)
        .filter(|call| call.is_one_of(&["read", "readv", "recvfrom", "recvmsg"]))
        .filter(|call| call.descriptor == first.descriptor && call.ended < answer.began)
        .max_by_key(|call| call.ended)
        .unwrap_or(first);
    let written = calls
        .iter()
        .filter(|call| call.is_one_of(&["pwrite64", "pwritev"]) && call.is_on_log())
        .filter(|call| call.result > 0 && call.between(request.ended, answer.began))
        .map(|call| call.ended)
        .max()
        .ok_or("the log was not written between request and answer")?;
    calls
        .iter()
        .filter(|call| call.is_on_log() && call.result == 0)
        .filter(|call| call.between(written, answer.began))
        .find_map(|call| match call.name.as_str() {
            "fdatasync" => Some(Flush::Fdatasync),
            "fsync" => Some(Flush::Fsync),
            _ => None,
        })
        .ok_or_else(|| "the log was written but not flushed before the answer left".to_owned())
}

/// The calls of a trace that returned, in the order of their ends.
fn calls(trace: &str) -> Vec<Call> {
    let mut open: HashMap<&str, (usize, &str)> = HashMap::new();
    let mut calls = Vec::new();
    for (at, line) in trace.lines().enumerate() {
        let Some((thread, rest)) = line.split_once(' ') else {
            continue;
        };
        let rest = rest.trim_start();
        if let Some(head) = rest.strip_suffix("<unfinished ...>") {
            open.insert(thread, (at, head));
            continue;
        }
        let (began, text) = match resumed(rest) {
            None => (at, rest.to_owned()),
            Some(tail) => match open.remove(thread) {
                Some((began, head)) => (began, format!("{head}{tail}")),
                None => continue,
            },
        };
        calls.extend(call(&text, began, at));
    }
    calls
}

/// What follows `<... NAME resumed>`.
fn resumed(text: &str) -> Option<&str> {
    let (_, tail) = text.strip_prefix("<... ")?.split_once(" resumed>")?;
    Some(tail)
}

/// Reads `NAME(DESCRIPTOR<TARGET>, …) = RESULT`.
fn call(text: &str, began: usize, ended: usize) -> Option<Call> {
    let (name, arguments) = text.split_once('(')?;
    let (descriptor, rest) = arguments.split_once('<')?;
    let (target, _) = rest.split_once('>')?;
    let (text, result) = arguments.rsplit_once(" = ")?;
    Some(Call {
        name: name.to_owned(),
        descriptor: descriptor.to_owned(),
        target: target.to_owned(),
        text: text.to_owned(),
        result: result.split_whitespace().next()?.parse().ok()?,
        began,
        ended,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: &str =
        r#"11 recvfrom(20<socket:[77]>, "\0\0\10ev-1\22", 8192, 0, NULL, NULL) = 90"#;
    const LOG: &str = r#"12 pwrite64(9</d/t.db-wal>, "7\177\6"..., 4096, 32) = 4096"#;
    const FLUSH: &str = "12 fdatasync(9</d/t.db-wal>) = 0";
    const ANSWER: &str = r#"11 sendto(20<socket:[77]>, "\0\22ev-1\32"..., 64, 0, NULL, 0) = 64"#;

    fn check(lines: &[&str]) -> Result<Flush, String> {
        flushed_before_answer(&lines.join("\n"), "ev-1")
    }

    #[test]
    fn a_flush_between_log_and_answer_is_found() {
        assert_eq!(check(&[READ, LOG, FLUSH, ANSWER]), Ok(Flush::Fdatasync));
        let fsync = FLUSH.replace("fdatasync", "fsync");
        assert_eq!(check(&[READ, LOG, &fsync, ANSWER]), Ok(Flush::Fsync));
        // Threads interleave, and other writes to the connection are no answer.
        let window = r#"11 sendto(20<socket:[77]>, "\0\0\4\10", 13, 0, NULL, 0) = 13"#;
        let interleaved = [
            READ,
            window,
            "12 pwrite64(9</d/t.db-wal>, \"7\"..., 4096, 32 <unfinished ...>",
            "13 read(5<anon_inode:[eventfd]>, 0x7f, 8) = -1 EAGAIN (Resource temporarily unavailable)",
            "12 <... pwrite64 resumed>) = 4096",
            "12 fdatasync(9</d/t.db-wal> <unfinished ...>",
            window,
            "12 <... fdatasync resumed>) = 0",
            ANSWER,
        ];
        assert_eq!(check(&interleaved), Ok(Flush::Fdatasync));
    }

    #[test]
    fn an_answer_without_a_flush_is_found_out() {
        let not_flushed = Err("the log was written but not flushed before the answer left".into());
        assert_eq!(check(&[READ, LOG, ANSWER]), not_flushed);
        assert_eq!(check(&[READ, LOG, ANSWER, FLUSH]), not_flushed, "too late");
        assert_eq!(check(&[READ, FLUSH, LOG, ANSWER]), not_flushed, "too soon");
        let failed = "12 fdatasync(9</d/t.db-wal>) = -1 EIO (Input/output error)";
        assert_eq!(check(&[READ, LOG, failed, ANSWER]), not_flushed);
        let other = FLUSH.replace("-wal", "");
        assert_eq!(check(&[READ, LOG, &other, ANSWER]), not_flushed);
        let begun = "12 fdatasync(9</d/t.db-wal> <unfinished ...>";
        let ended = "12 <... fdatasync resumed>) = 0";
        assert_eq!(check(&[READ, LOG, begun, ANSWER, ended]), not_flushed);
    }

    #[test]
    fn a_trace_that_shows_nothing_proves_nothing() {
        assert!(check(&[]).is_err());
        assert!(
            check(&[LOG, FLUSH, ANSWER])
                .unwrap_err()
                .contains("never read")
        );
        assert!(
            check(&[READ, LOG, FLUSH])
                .unwrap_err()
                .contains("no answer")
        );
        assert!(
            check(&[READ, FLUSH, ANSWER])
                .unwrap_err()
                .contains("log was not written")
        );
        let elsewhere = ANSWER.replace("20<", "21<");
        assert!(check(&[READ, LOG, FLUSH, &elsewhere]).is_err());
    }
}
