//! The role table says what the contracts say, RPC for RPC.

#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::fs;
use std::path::Path;

use prost::Message as _;
use prost_types::FileDescriptorSet;
use tokenmeter_identity::{Access, Credentials, TABLE};

/// Field numbers of `FileDescriptorProto.service` and `ServiceDescriptorProto.method`.
const SERVICE: i32 = 6;
const METHOD: i32 = 2;

/// `Service/Method` with the last line of its comment.
fn contracts() -> Vec<(String, String)> {
    let set = FileDescriptorSet::decode(tokenmeter_api::FILE_DESCRIPTOR_SET).unwrap();
    let mut rpcs = Vec::new();
    for file in set
        .file
        .iter()
        .filter(|file| file.package() == "tokenmeter.v1")
    {
        for (s, service) in (0..).zip(&file.service) {
            for (m, method) in (0..).zip(&service.method) {
                let path = [SERVICE, s, METHOD, m];
                let locations = &file.source_code_info.as_ref().unwrap().location;
                let comment = locations
                    .iter()
                    .find(|location| location.path == path)
                    .map(|location| location.leading_comments().trim().to_owned())
                    .unwrap_or_default();
                let last = comment.lines().last().unwrap_or_default().trim().to_owned();
                rpcs.push((format!("{}/{}", service.name(), method.name()), last));
            }
        }
    }
    rpcs.sort();
    rpcs
}

fn as_comment(access: &Access) -> String {
    let credentials = match access.credentials {
        Credentials::Required => "required",
        Credentials::Optional => "optional",
        Credentials::NotNeeded => "not needed",
    };
    let roles: Vec<_> = access.roles.iter().map(|role| role.as_str()).collect();
    let roles = if roles.is_empty() {
        "any".to_owned()
    } else {
        roles.join(", ")
    };
    format!("Access: credentials {credentials}; roles: {roles}")
}

#[test]
fn the_role_table_equals_the_contracts() {
    let mut table: Vec<_> = TABLE
        .iter()
        .map(|access| (access.rpc.to_owned(), as_comment(access)))
        .collect();
    table.sort();
    assert_eq!(table, contracts());
}

/// Every RPC of `docs/api.md` as `Service/Method`, with whether its state is `implemented`.
fn states_of_the_api_page() -> Vec<(String, bool)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/api.md");
    let page = fs::read_to_string(&path).unwrap();
    let mut service = "";
    let mut states = Vec::new();
    for line in page.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            service = heading;
        } else if let Some(row) = line.strip_prefix("| `") {
            let (method, _) = row.split_once('`').unwrap();
            let implemented = row.ends_with("| implemented |");
            states.push((format!("{service}/{method}"), implemented));
        }
    }
    states.sort();
    states
}

#[test]
fn the_api_page_calls_implemented_what_the_role_table_does() {
    let mut table: Vec<_> = TABLE
        .iter()
        .map(|access| (access.rpc.to_owned(), access.implemented))
        .collect();
    table.sort();
    assert_eq!(states_of_the_api_page(), table);
}
