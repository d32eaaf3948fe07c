//! `docs/api.md` and `docs/errors.md` name everything that the contracts have, and nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use tokenmeter_api::status::{code_of, name_of};
use tokenmeter_api::v1::ErrorReason;

use crate::contracts::{Rpc, comment, files, rpcs};

/// The table rows of a page, each split into trimmed cells.
fn rows(page: &str) -> Vec<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs")
        .join(page);
    fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            line.trim_matches('|')
                .split(" | ")
                .map(|cell| cell.trim().to_owned())
                .collect()
        })
        .collect()
}

/// The first word in backticks.
fn name(cell: &str) -> String {
    cell.split('`').nth(1).unwrap_or_default().to_owned()
}

/// What follows `start` in the line of the comment that begins with it.
fn line_of(rpc: &Rpc, start: &str) -> String {
    rpc.comment
        .lines()
        .find_map(|line| line.trim().strip_prefix(start))
        .unwrap_or_default()
        .trim_end_matches('.')
        .to_owned()
}

#[test]
fn the_api_page_lists_every_rpc_with_its_rows_access_and_state() {
    let rows = rows("api.md");
    let listed: BTreeSet<String> = rows.iter().map(|row| name(&row[0])).collect();
    let defined: BTreeSet<String> = rpcs().into_iter().map(|rpc| rpc.name).collect();
    assert_eq!(listed, defined);
    for rpc in rpcs() {
        let row = rows.iter().find(|row| name(&row[0]) == rpc.name).unwrap();
        assert_eq!(row[2], line_of(&rpc, "Rows: "), "rows of {}", rpc.name);
        let access = line_of(&rpc, "Access: credentials ").replace("; roles: ", "; ");
        assert_eq!(row[3], access, "access of {}", rpc.name);
        assert!(
            ["implemented", "UNIMPLEMENTED"].contains(&row[4].as_str()),
            "state of {}: {}",
            rpc.name,
            row[4]
        );
        assert!(!rpc.service.is_empty());
    }
}

#[test]
fn the_errors_page_lists_every_reason_with_its_code() {
    let rows = rows("errors.md");
    let listed: BTreeSet<String> = rows.iter().map(|row| name(&row[0])).collect();
    let mut defined = BTreeSet::new();
    for file in files() {
        for (e, kind) in file.enum_type.iter().enumerate() {
            if kind.name() != "ErrorReason" {
                continue;
            }
            for (v, value) in kind.value.iter().enumerate().skip(1) {
                let reason = ErrorReason::try_from(value.number()).unwrap();
                let code = constant(&format!("{:?}", code_of(reason)));
                let path = [5, e, 2, v].map(|part| i32::try_from(part).unwrap());
                let text = comment(&file, &path);
                assert!(
                    text.trim_start().starts_with(&format!("{code}. ")),
                    "{} is {code}, its comment says {text}",
                    value.name()
                );
                let row = rows.iter().find(|row| name(&row[0]) == name_of(reason));
                assert_eq!(row.map(|row| row[1].clone()), Some(code), "{reason:?}");
                defined.insert(name_of(reason).to_owned());
            }
        }
    }
    assert_eq!(listed, defined);
}

/// `InvalidArgument` as `INVALID_ARGUMENT`.
fn constant(camel: &str) -> String {
    let mut out = String::new();
    for letter in camel.chars() {
        if letter.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(letter.to_ascii_uppercase());
    }
    out
}
