//! What the system knows of this process, by the names that Prometheus clients use. Read from
//! /proc; where there is none, the figures are left out.

use std::fs;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::metrics::Page;

/// A clock tick of /proc: Linux shows a hundredth of a second on every machine.
const TICK: Duration = Duration::from_millis(10);

/// When this process began to gather metrics.
static STARTED: OnceLock<SystemTime> = OnceLock::new();

/// Notes the time as that of the start.
pub(super) fn start() {
    STARTED.get_or_init(SystemTime::now);
}

/// Adds what is known now.
pub(super) fn add(page: &mut Page) {
    if let Some(started) = STARTED.get()
        && let Ok(since) = started.duration_since(UNIX_EPOCH)
    {
        page.gauge(
            "process_start_time_seconds",
            "When the server started, in seconds since the Unix epoch",
            since.as_secs_f64(),
        );
    }
    if let Some(used) = read("stat").and_then(|stat| cpu_time(&stat)) {
        page.counter(
            "process_cpu_seconds_total",
            "Processor time used, by the process and by the system for it",
            used.as_secs_f64(),
        );
    }
    if let Some(status) = read("status") {
        for (name, help, key) in [
            ("process_resident_memory_bytes", "Memory in use", "VmRSS:"),
            (
                "process_virtual_memory_bytes",
                "Addresses in use",
                "VmSize:",
            ),
        ] {
            if let Some(bytes) = kibibytes(&status, key) {
                page.gauge(name, help, bytes);
            }
        }
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        page.gauge("process_open_fds", "Open file descriptors", open.count());
    }
    if let Some(most) = read("limits").and_then(|limits| max_fds(&limits)) {
        page.gauge("process_max_fds", "File descriptors that may be open", most);
    }
}

fn read(name: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/self/{name}")).ok()
}

/// User and system time in a line of /proc/PID/stat: the 14th and 15th words. The second word is
/// the program's name in brackets, with any characters in it.
fn cpu_time(stat: &str) -> Option<Duration> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut words = after_name.split_whitespace().skip(11);
    let mut ticks = || words.next()?.parse::<u32>().ok();
    let (user, system) = (ticks()?, ticks()?);
    TICK.checked_mul(user.checked_add(system)?)
}

/// A value of /proc/PID/status in bytes.
fn kibibytes(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    let number = line.trim().strip_suffix(" kB")?;
    number.parse::<u64>().ok()?.checked_mul(1024)
}

/// The soft limit in /proc/PID/limits; unlimited is left out.
fn max_fds(limits: &str) -> Option<u64> {
    let mut lines = limits.lines();
    let line = lines.find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 5 0 0 0 150 25 0 0 20 0 9 0 77 1 2";
        assert_eq!(cpu_time(stat), Some(Duration::from_millis(1_750)));
        assert_eq!(cpu_time("7 (a) S 1"), None);
        let status = "Name:\ta\nVmSize:\t   20 kB\nVmRSS:\t   3 kB\n";
        assert_eq!(kibibytes(status, "VmRSS:"), Some(3_072));
        assert_eq!(kibibytes(status, "VmSwap:"), None);
        let limits =
            "Limit  Soft Limit  Hard Limit  Units\nMax open files    1024    4096    files\n";
        assert_eq!(max_fds(limits), Some(1_024));
        assert_eq!(max_fds("Max open files unlimited unlimited files"), None);
    }
}
