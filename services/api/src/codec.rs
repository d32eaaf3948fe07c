//! The codec of every RPC: prost, except that bytes which are no message are the caller's fault.
//!
//! tonic's own codec answers INTERNAL for them, which tells clients to retry or to report a bug
//! of the server. Here a request answers INVALID_ARGUMENT with reason `MESSAGE_UNDECODABLE` and
//! the field, if prost knows it. An answer that a client cannot decode stays INTERNAL, because
//! the caller did nothing wrong.

use std::marker::PhantomData;

use prost::{DecodeError, Message, Name};
use tonic::codec::{DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Status};

use crate::status::Failure;
use crate::v1::ErrorReason;

/// Encodes `T`, decodes `U`.
#[derive(Debug, Clone)]
pub struct Codec<T, U> {
    types: PhantomData<(T, U)>,
}

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self { types: PhantomData }
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Name + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = MessageEncoder<T>;
    type Decoder = MessageDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        MessageEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        MessageDecoder(PhantomData)
    }
}

/// Writes messages.
#[derive(Debug, Clone)]
pub struct MessageEncoder<T>(PhantomData<T>);

impl<T: Message> Encoder for MessageEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(buffer)
            .map_err(|_| Status::internal("the answer does not fit its buffer"))
    }
}

/// Reads messages.
#[derive(Debug, Clone)]
pub struct MessageDecoder<U>(PhantomData<U>);

impl<U: Message + Name + Default> Decoder for MessageDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        U::decode(buffer)
            .map(Some)
            .map_err(|error| undecodable(U::NAME, &error))
    }
}

/// What the contract ends the names of all answers with, and of no request.
const ANSWER: &str = "Response";

/// The status for bytes that are no message of the type `name`.
fn undecodable(name: &str, error: &DecodeError) -> Status {
    let (field, cause) = split(&error.to_string());
    let mut failure = Failure::new(
        ErrorReason::MessageUndecodable,
        "the message could not be decoded",
    );
    if name.ends_with(ANSWER) {
        failure.code = Code::Internal;
    }
    failure
        .violation(field.unwrap_or_else(|| name.to_owned()), cause)
        .into()
}

/// What a status of tonic says of a message that it did not take, in the words of the contract; none
/// for any other status, and for one that speaks those words already.
///
/// tonic refuses a message past the bound with OUT_OF_RANGE, or RESOURCE_EXHAUSTED if it was
/// compressed, and no details.
pub fn too_large(status: &Status, max_message_bytes: usize) -> Option<Failure> {
    let tells = match status.code() {
        Code::OutOfRange => "message length too large",
        Code::ResourceExhausted => "Error decompressing: size limit",
        _ => return None,
    };
    if !status.message().contains(tells) {
        return None;
    }
    let failure = Failure::new(
        ErrorReason::MessageTooLarge,
        format!(
            "the message is larger than {max_message_bytes} bytes; send fewer events a message"
        ),
    );
    Some(failure.metadata("max_message_bytes", max_message_bytes.to_string()))
}

/// The status that ends a stream whose next message could not be read: [`too_large`] or undecodable in
/// the words of the contract, and what else it is, such as a broken connection, as it is.
pub fn unreadable(status: Status, max_message_bytes: usize) -> Status {
    if let Some(failure) = too_large(&status, max_message_bytes) {
        return failure.into();
    }
    let bare = status.details().is_empty();
    match status.code() {
        Code::InvalidArgument | Code::Internal if bare => {
            Failure::new(ErrorReason::MessageUndecodable, status.message()).into()
        }
        _ => status,
    }
}

/// Splits prost's text `failed to decode Protobuf message: Inner.field: Outer.field: cause` into
/// the innermost field and the cause. prost lists the innermost field first and gives no other
/// access to it; `tests/it/codec.rs` notices should that change.
fn split(text: &str) -> (Option<String>, String) {
    let mut rest = text
        .strip_prefix("failed to decode Protobuf message: ")
        .unwrap_or(text);
    let mut innermost = None;
    while let Some((head, tail)) = rest.split_once(": ") {
        let is_field = head
            .split_once('.')
            .is_some_and(|(message, field)| is_name(message) && is_name(field));
        if !is_field {
            break;
        }
        innermost.get_or_insert_with(|| head.to_owned());
        rest = tail;
    }
    (innermost, rest.to_owned())
}

/// Whether `text` can be the name of a message or field.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}
