//! The rules of `proto/README.md`, checked on the descriptor.

use std::collections::HashMap;

use prost::Message;
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FileDescriptorProto, FileDescriptorSet};

/// One RPC with its comment.
pub(crate) struct Rpc {
    pub(crate) service: String,
    pub(crate) name: String,
    pub(crate) request: String,
    pub(crate) comment: String,
}

/// The contract files, without what they import from google.
pub(crate) fn files() -> Vec<FileDescriptorProto> {
    FileDescriptorSet::decode(tokenmeter_api::FILE_DESCRIPTOR_SET)
        .unwrap()
        .file
        .into_iter()
        .filter(|file| file.package() == "tokenmeter.v1")
        .collect()
}

/// The comment above what `path` points to.
pub(crate) fn comment(file: &FileDescriptorProto, path: &[i32]) -> String {
    file.source_code_info
        .iter()
        .flat_map(|info| &info.location)
        .find(|location| location.path == path)
        .map(|location| location.leading_comments().to_owned())
        .unwrap_or_default()
}

fn index(position: usize) -> i32 {
    i32::try_from(position).unwrap()
}

pub(crate) fn rpcs() -> Vec<Rpc> {
    let mut rpcs = Vec::new();
    for file in files() {
        for (s, service) in file.service.iter().enumerate() {
            for (m, method) in service.method.iter().enumerate() {
                rpcs.push(Rpc {
                    service: service.name().to_owned(),
                    name: method.name().to_owned(),
                    request: method.input_type().trim_start_matches('.').to_owned(),
                    comment: comment(&file, &[6, index(s), 2, index(m)]),
                });
            }
        }
    }
    rpcs
}

fn messages() -> HashMap<String, DescriptorProto> {
    files()
        .into_iter()
        .flat_map(|file| file.message_type)
        .map(|message| (format!("tokenmeter.v1.{}", message.name()), message))
        .collect()
}

#[test]
fn imports_are_of_google_protobuf_or_of_our_own() {
    for file in files() {
        for import in &file.dependency {
            assert!(
                import.starts_with("google/protobuf/") || import.starts_with("tokenmeter/v1/"),
                "{} imports {import}",
                file.name()
            );
        }
    }
}

#[test]
fn everything_is_commented() {
    let mut missing = Vec::new();
    for file in files() {
        let mut check = |path: &[i32], name: String| {
            if comment(&file, path).trim().is_empty() {
                missing.push(name);
            }
        };
        for (i, message) in file.message_type.iter().enumerate() {
            assert!(message.nested_type.is_empty(), "{}", message.name());
            check(&[4, index(i)], message.name().to_owned());
            for (f, field) in message.field.iter().enumerate() {
                check(
                    &[4, index(i), 2, index(f)],
                    format!("{}.{}", message.name(), field.name()),
                );
            }
        }
        for (i, kind) in file.enum_type.iter().enumerate() {
            check(&[5, index(i)], kind.name().to_owned());
            for (v, value) in kind.value.iter().enumerate() {
                check(&[5, index(i), 2, index(v)], value.name().to_owned());
            }
        }
        for (i, service) in file.service.iter().enumerate() {
            check(&[6, index(i)], service.name().to_owned());
            for (m, method) in service.method.iter().enumerate() {
                check(&[6, index(i), 2, index(m)], method.name().to_owned());
            }
        }
    }
    assert!(missing.is_empty(), "without comment: {missing:?}");
}

#[test]
fn a_field_s_comment_begins_with_its_name() {
    let mut wrong = Vec::new();
    for file in files() {
        for (i, message) in file.message_type.iter().enumerate() {
            for (f, field) in message.field.iter().enumerate() {
                let text = comment(&file, &[4, index(i), 2, index(f)]);
                if !text.trim_start().starts_with(field.name()) {
                    wrong.push(format!("{}.{}", message.name(), field.name()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn every_rpc_says_who_may_call_it() {
    for rpc in rpcs() {
        let last = rpc.comment.trim_end().lines().last().unwrap_or_default();
        let (credentials, roles) = last
            .trim()
            .strip_prefix("Access: credentials ")
            .and_then(|rest| rest.split_once("; roles: "))
            .unwrap_or_else(|| panic!("{}: {last:?}", rpc.name));
        assert!(
            ["required", "optional", "not needed"].contains(&credentials),
            "{}: {credentials}",
            rpc.name
        );
        for role in roles.split(", ") {
            assert!(
                ["meter", "read_own", "read_tenant", "admin", "any"].contains(&role),
                "{}: {role}",
                rpc.name
            );
        }
        assert!(rpc.comment.contains("Rows: R"), "{} names no row", rpc.name);
    }
}

#[test]
fn every_mutating_request_can_be_repeated_safely() {
    // Their items carry ids of their own, as their comments say.
    let by_item = [
        "RecordUsage",
        "BatchRecordUsage",
        "StreamUsage",
        "MeterCall",
        "RecordToolInvocations",
        "RecordMessages",
        "RecordChampionCases",
        "PublishTokenEvents",
    ];
    let reads = [
        "Get",
        "List",
        "Query",
        "Watch",
        "Export",
        "StreamTokenEvents",
    ];
    let messages = messages();
    for rpc in rpcs() {
        if by_item.contains(&rpc.name.as_str())
            || reads.iter().any(|read| rpc.name.starts_with(read))
        {
            continue;
        }
        let request = &messages[&rpc.request];
        assert!(
            request.field.iter().any(|f| f.name() == "request_id"),
            "{} has no request_id",
            rpc.name
        );
    }
}

#[test]
fn no_request_carries_a_tenant() {
    let messages = messages();
    for rpc in rpcs() {
        let mut waiting = vec![rpc.request.clone()];
        let mut seen = Vec::new();
        while let Some(name) = waiting.pop() {
            let Some(message) = messages.get(&name).filter(|_| !seen.contains(&name)) else {
                continue;
            };
            for field in &message.field {
                let text = matches!(field.r#type(), Type::String | Type::Bytes);
                assert!(
                    !(text && field.name().contains("tenant")),
                    "{} carries {name}.{}",
                    rpc.name,
                    field.name()
                );
                waiting.push(field.type_name().trim_start_matches('.').to_owned());
            }
            seen.push(name);
        }
    }
}

#[test]
fn no_float_and_no_unsigned_number_is_sent() {
    for (name, message) in messages() {
        for field in &message.field {
            let kind = field.r#type();
            assert!(
                !matches!(
                    kind,
                    Type::Float | Type::Double | Type::Uint32 | Type::Uint64
                ),
                "{name}.{}",
                field.name()
            );
        }
    }
}

#[test]
fn lists_page_alike() {
    let messages = messages();
    for rpc in rpcs().iter().filter(|rpc| rpc.name.starts_with("List")) {
        if rpc.name == "ListJobs" {
            continue;
        }
        let names = |message: &str| -> Vec<String> {
            messages[message]
                .field
                .iter()
                .map(|f| f.name().to_owned())
                .collect()
        };
        let request = names(&rpc.request);
        assert!(request.contains(&"page_size".to_owned()), "{}", rpc.name);
        assert!(request.contains(&"page_token".to_owned()), "{}", rpc.name);
        let response = names(&rpc.request.replace("Request", "Response"));
        assert!(
            response.contains(&"next_page_token".to_owned()),
            "{}",
            rpc.name
        );
    }
}
