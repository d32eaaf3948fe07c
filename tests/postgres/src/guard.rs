//! Ends what a test process started, also when that process is killed and can do nothing any more.
//!
//! A guard is a shell that waits for the end of its input, which comes when the process that holds the
//! other end is gone. It is no member of that one's process group, so that what is sent to the group
//! does not reach it.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::programs;

/// Stops a server, whose pg_ctl and what comes before it are the arguments, and removes its folder,
/// which is the working directory.
const END_SERVER: &str = r#"
read -r _
"$@" stop -D data -m immediate -t 30
folder=$PWD
cd / && rm -rf "$folder"
"#;

/// Drops the databases whose names begin with a prefix: psql's arguments are the arguments.
const DROP_DATABASES: &str = r#"
read -r _
prefix=$1
shift
"$@" <<END
SELECT format('DROP DATABASE %I WITH (FORCE)', datname)
FROM pg_database WHERE starts_with(datname, '$prefix') \gexec
END
"#;

/// Ends something when it goes out of scope, or with this process.
#[derive(Debug)]
pub(crate) struct Guard {
    child: Child,
    input: Option<ChildStdin>,
}

impl Guard {
    /// Of a private server in this folder.
    pub(crate) fn of_server(folder: &Path, pg_ctl: &Command) -> Self {
        Self::with(END_SERVER, &[], pg_ctl, folder)
    }

    /// Of databases on a server of others.
    pub(crate) fn of_databases(url: &str, prefix: &str) -> Self {
        Self::with(DROP_DATABASES, &[prefix], &crate::psql(url), Path::new("/"))
    }

    fn with(script: &str, first: &[&str], then: &Command, folder: &Path) -> Self {
        let mut child = programs::command(Path::new("sh"))
            .args(["-c", script, "guard"])
            .args(first)
            .arg(then.get_program())
            .args(then.get_args())
            .current_dir(folder)
            .process_group(0)
            .stdin(Stdio::piped())
            // Whoever reads the outputs of the test process shall not wait for the guard.
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh can be run");
        let input = child.stdin.take();
        Self { child, input }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.input.take();
        let _ = self.child.wait();
    }
}
