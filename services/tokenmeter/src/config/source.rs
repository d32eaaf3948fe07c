//! Where values come from: flags before environment before file before defaults.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Arg, ArgMatches, Args, FromArgMatches};

use tokenmeter_store::address::redacted;

use super::{SETTINGS, Setting};

/// Prefix of every environment variable.
const PREFIX: &str = "TOKENMETER_";

/// The flags of `serve`: one for each setting, and the file.
#[derive(Debug, Clone, Default)]
pub(crate) struct ServeArgs {
    pub(crate) file: Option<PathBuf>,
    pub(crate) flags: BTreeMap<&'static str, String>,
}

/// The flag of a setting, without dashes.
fn flag(setting: &Setting) -> String {
    setting.key.replace('_', "-")
}

/// The environment variable of a setting.
pub(super) fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.to_ascii_uppercase())
}

impl Args for ServeArgs {
    fn augment_args(mut command: clap::Command) -> clap::Command {
        command = command.arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .help("TOML file of settings [env: TOKENMETER_CONFIG]"),
        );
        for setting in SETTINGS {
            let help = format!(
                "{} [env: {}] [default: {}]",
                setting.help,
                variable(setting.key),
                setting.default
            );
            let mut arg = Arg::new(setting.key)
                .long(flag(setting))
                .value_name("VALUE")
                .help(help);
            if matches!(setting.default, "true" | "false") {
                // A flag alone means true.
                arg = arg
                    .num_args(0..=1)
                    .require_equals(true)
                    .default_missing_value("true");
            }
            command = command.arg(arg);
        }
        command
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ServeArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let flags = SETTINGS
            .iter()
            .filter_map(|setting| {
                matches
                    .get_one::<String>(setting.key)
                    .map(|value| (setting.key, value.clone()))
            })
            .collect();
        Ok(Self {
            file: matches.get_one::<String>("config").map(PathBuf::from),
            flags,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The value of every setting as text, with where it comes from.
#[derive(Debug, Clone)]
pub(crate) struct Raw {
    values: BTreeMap<&'static str, (String, String)>,
    /// What is wrong with the file, a line each.
    pub(super) errors: Vec<String>,
}

impl Raw {
    /// Gathers every value; `env` looks up an environment variable. Variables of other names are
    /// left alone: Kubernetes sets some of its own for a service named tokenmeter. What is wrong
    /// with the file is told when the values are checked, together with what is wrong with them.
    pub(crate) fn gather(args: &ServeArgs, env: impl Fn(&str) -> Option<String>) -> Self {
        let file = args
            .file
            .clone()
            .or_else(|| env("TOKENMETER_CONFIG").map(PathBuf::from));
        let (mut from_file, mut errors) = file.map(|path| read_file(&path)).unwrap_or_default();
        let mut values = BTreeMap::new();
        for Setting { key, default, .. } in SETTINGS {
            let in_file = from_file
                .remove(*key)
                .map(|value| (value, "file".to_owned()));
            let value = args
                .flags
                .get(key)
                .map(|value| (value.clone(), format!("--{}", key.replace('_', "-"))))
                .or_else(|| env(&variable(key)).map(|value| (value, variable(key))))
                .or(in_file)
                .unwrap_or_else(|| ((*default).to_owned(), "default".to_owned()));
            values.insert(*key, value);
        }
        let known: Vec<_> = SETTINGS.iter().map(|setting| setting.key).collect();
        errors.extend(from_file.keys().map(|key| {
            format!(
                "{key}: is no setting; the settings are {}",
                known.join(", ")
            )
        }));
        Self { values, errors }
    }

    /// The text of a setting and where it comes from.
    pub(super) fn get(&self, key: &str) -> (&str, &str) {
        self.values
            .get(key)
            .map_or(("", "default"), |(value, from)| (value, from))
    }

    /// The values as a commented file that reads back to the same, passwords aside: they are left
    /// out.
    pub(crate) fn to_file(&self) -> String {
        let mut text = String::from(
            "# Settings of tokenmeter. Flags come before environment variables before this file.\n",
        );
        for Setting { key, default, help } in SETTINGS {
            let (value, from) = self.get(key);
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "\n# {help}.\n# --{}, {}; default {}; this value: {from}\n{key} = {}\n",
                key.replace('_', "-"),
                variable(key),
                quoted(default),
                quoted(&redacted(value))
            );
        }
        text
    }
}

fn quoted(value: &str) -> String {
    toml::Value::String(value.to_owned()).to_string()
}

/// The values of a file as texts, and what is wrong with it.
fn read_file(path: &std::path::Path) -> (BTreeMap<String, String>, Vec<String>) {
    let unreadable = |why: &str| {
        (
            BTreeMap::new(),
            vec![format!("config file {}: {why}", path.display())],
        )
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => return unreadable(&error.to_string()),
    };
    let table: toml::Table = match text.parse() {
        Ok(table) => table,
        Err(error) => return unreadable(toml::de::Error::message(&error)),
    };
    let mut errors = Vec::new();
    let mut values = BTreeMap::new();
    for (key, value) in table {
        match value {
            toml::Value::String(text) => drop(values.insert(key, text)),
            toml::Value::Integer(number) => drop(values.insert(key, number.to_string())),
            toml::Value::Boolean(flag) => drop(values.insert(key, flag.to_string())),
            toml::Value::Array(list) if list.iter().all(toml::Value::is_str) => {
                let list: Vec<_> = list.iter().filter_map(toml::Value::as_str).collect();
                values.insert(key, list.join(","));
            }
            _ => errors.push(format!(
                "{key}: must be a text, a whole number, true or false"
            )),
        }
    }
    (values, errors)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(flags: &[(&'static str, &str)], file: Option<PathBuf>) -> ServeArgs {
        ServeArgs {
            file,
            flags: flags.iter().map(|(k, v)| (*k, (*v).to_owned())).collect(),
        }
    }

    #[test]
    fn flags_come_before_environment_before_file_before_defaults() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("t.toml");
        std::fs::write(
            &file,
            "listen = \"file\"\nledger = \"file\"\nroles = [\"a\", \"b\"]\n",
        )
        .unwrap();
        let env = |name: &str| {
            matches!(name, "TOKENMETER_LISTEN" | "TOKENMETER_LEDGER").then(|| "env".to_owned())
        };
        let raw = Raw::gather(&args(&[("listen", "flag")], Some(file)), env);
        assert_eq!(raw.get("listen"), ("flag", "--listen"));
        assert_eq!(raw.get("ledger"), ("env", "TOKENMETER_LEDGER"));
        assert_eq!(raw.get("roles"), ("a,b", "file"));
        assert_eq!(raw.get("feed"), ("memory:", "default"));
    }

    #[test]
    fn what_is_printed_reads_back_to_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("t.toml");
        let raw = Raw::gather(&args(&[("log", "a=\"b\"")], None), |_| None);
        std::fs::write(&file, raw.to_file()).unwrap();
        let again = Raw::gather(&args(&[], Some(file)), |_| None);
        for setting in SETTINGS {
            assert_eq!(again.get(setting.key).0, raw.get(setting.key).0);
        }
    }

    #[test]
    fn a_password_is_not_printed() {
        let url = "postgres://u:geheim@h/t";
        let raw = Raw::gather(&args(&[("ledger", url)], None), |_| None);
        let file = raw.to_file();
        assert!(file.contains("postgres://u:***@h/t"), "{file}");
        assert!(!file.contains("geheim"), "{file}");
    }

    #[test]
    fn every_unknown_key_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("t.toml");
        std::fs::write(&file, "lissten = \"x\"\nledgr = 1\n").unwrap();
        let errors = Raw::gather(&args(&[], Some(file)), |_| None).errors;
        assert_eq!(errors.len(), 2);
        assert!(errors[0].starts_with("ledgr: is no setting"), "{errors:?}");
    }
}
