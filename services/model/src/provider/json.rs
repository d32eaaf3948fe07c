//! Reading counts out of JSON objects, with the path of each for error messages.
//!
//! Paths are made of keys written in this crate and of indexes, so no text of a document can
//! reach an error message.

use serde_json::{Map, Value};

use super::error::{Error, Problem};
use crate::bounds;

/// A JSON object and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Node<'a> {
    pub(super) map: &'a Map<String, Value>,
    pub(super) path: String,
}

impl<'a> Node<'a> {
    pub(super) fn new(map: &'a Map<String, Value>, path: impl Into<String>) -> Self {
        Self {
            map,
            path: path.into(),
        }
    }

    /// Path of `key` in this object.
    pub(super) fn at(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Is one of `keys` present and not null?
    pub(super) fn has(&self, keys: &[&str]) -> bool {
        keys.iter().any(|key| self.get(key).is_some())
    }

    /// The count at `key`; absent and null are `None`.
    pub(super) fn count(&self, key: &str) -> Result<Option<i64>, Error> {
        self.get(key)
            .map(whole)
            .transpose()
            .map_err(|problem| self.invalid(key, problem))
    }

    /// The count at `key`; absent and null are 0.
    pub(super) fn count_or_zero(&self, key: &str) -> Result<i64, Error> {
        Ok(self.count(key)?.unwrap_or(0))
    }

    /// The count at `key`; absent is refused.
    pub(super) fn required(&self, key: &str) -> Result<i64, Error> {
        self.count(key)?
            .ok_or_else(|| Error::CountMissing { path: self.at(key) })
    }

    /// The one count that several keys state; they must agree.
    pub(super) fn agreed(&self, what: &'static str, keys: &[&str]) -> Result<Option<i64>, Error> {
        let mut stated = None;
        for key in keys {
            agree(&mut stated, self.count(key)?, what, &self.path)?;
        }
        Ok(stated)
    }

    /// The object at `key`; absent and null are `None`.
    pub(super) fn object(&self, key: &str) -> Result<Option<Node<'a>>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Node::new(map, self.at(key)))),
            Some(_) => Err(self.invalid(key, Problem::NotAnObject)),
        }
    }

    /// The object at the first of `keys` that is present.
    pub(super) fn first_object(&self, keys: &[&str]) -> Result<Option<Node<'a>>, Error> {
        for key in keys {
            if let Some(node) = self.object(key)? {
                return Ok(Some(node));
            }
        }
        Ok(None)
    }

    /// The object at `key`, or `None` when there is something else.
    pub(super) fn peek(&self, key: &str) -> Option<Node<'a>> {
        match self.get(key) {
            Some(Value::Object(map)) => Some(Node::new(map, self.at(key))),
            _ => None,
        }
    }

    /// The objects listed at `key`; absent and null are an empty list.
    pub(super) fn list(&self, key: &str) -> Result<Vec<Node<'a>>, Error> {
        let items = match self.get(key) {
            None => return Ok(Vec::new()),
            Some(Value::Array(items)) => items,
            Some(_) => return Err(self.invalid(key, Problem::NotAList)),
        };
        let path = self.at(key);
        items
            .iter()
            .enumerate()
            .map(|(i, item)| match item {
                Value::Object(map) => Ok(Node::new(map, format!("{path}[{i}]"))),
                _ => Err(self.invalid(key, Problem::NotAList)),
            })
            .collect()
    }

    /// The first object listed at `key`, if there is one.
    pub(super) fn peek_first(&self, key: &str) -> Option<Node<'a>> {
        match self.get(key) {
            Some(Value::Array(items)) => items
                .first()
                .and_then(Value::as_object)
                .map(|map| Node::new(map, format!("{}[0]", self.at(key)))),
            _ => None,
        }
    }

    /// A name such as a model or an id: 1 to 255 bytes without control characters.
    pub(super) fn name(&self, key: &str) -> Option<&'a str> {
        self.get(key)
            .and_then(Value::as_str)
            .map(str::trim)
            .filter(|s| {
                !s.is_empty()
                    && s.len() <= bounds::MAX_TEXT_BYTES
                    && !s.chars().any(char::is_control)
            })
    }

    /// One word of a provider's vocabulary, such as a tier or a stop reason. Anything that could
    /// be prose (spaces, other scripts, more than 64 bytes) is not a word and is not kept.
    pub(super) fn word(&self, key: &str) -> Option<&'a str> {
        self.get(key).and_then(Value::as_str).filter(|s| is_word(s))
    }

    fn invalid(&self, key: &str, problem: Problem) -> Error {
        Error::InvalidCount {
            path: self.at(key),
            problem,
        }
    }
}

/// Takes over `found`, or checks that it says what `stated` says.
pub(super) fn agree(
    stated: &mut Option<i64>,
    found: Option<i64>,
    what: &'static str,
    path: &str,
) -> Result<(), Error> {
    match (*stated, found) {
        (Some(stated), Some(other)) if stated != other => Err(Error::Contradiction {
            path: path.to_owned(),
            what,
            stated,
            other,
        }),
        (None, Some(_)) => {
            *stated = found;
            Ok(())
        }
        _ => Ok(()),
    }
}

/// `whole - parts`, which may not be negative.
pub(super) fn remainder(
    path: &str,
    what: &'static str,
    whole: i64,
    parts: i64,
) -> Result<i64, Error> {
    if parts > whole {
        return Err(Error::NegativeRemainder {
            path: path.to_owned(),
            what,
            whole,
            parts,
        });
    }
    Ok(whole - parts)
}

pub(super) fn is_word(s: &str) -> bool {
    (1..=64).contains(&s.len())
        && s.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_-.:/".contains(&b))
}

/// A whole number from 0 to [`bounds::MAX_TOKENS`]. JSON has one kind of number, so `12.0` is 12
/// (Cohere's published schema types its counts as doubles); `12.5` is refused.
fn whole(value: &Value) -> Result<i64, Problem> {
    let Value::Number(number) = value else {
        return Err(Problem::NotANumber);
    };
    let count = match number.as_i64() {
        Some(count) => count,
        None if number.is_u64() => return Err(Problem::TooLarge),
        // A double is read back from its decimal digits: exact, and no float arithmetic.
        None => match number.as_f64().map(|double| format!("{double}")) {
            Some(digits) if digits.contains('.') => return Err(Problem::Fractional),
            Some(digits) if digits.starts_with('-') && digits != "-0" => {
                return Err(Problem::Negative);
            }
            Some(digits) => digits.parse::<i64>().map_err(|_| Problem::TooLarge)?,
            None => return Err(Problem::NotANumber),
        },
    };
    match count {
        ..0 => Err(Problem::Negative),
        0..=bounds::MAX_TOKENS => Ok(count),
        _ => Err(Problem::TooLarge),
    }
}

/// The document as a JSON object.
pub(super) fn parse(document: &str, path: &str) -> Result<Map<String, Value>, Error> {
    let shown = if path.is_empty() {
        "the document"
    } else {
        path
    };
    if document.len() > bounds::MAX_USAGE_JSON_BYTES {
        return Err(Error::TooLarge {
            path: shown.to_owned(),
            bytes: document.len(),
            max: bounds::MAX_USAGE_JSON_BYTES,
        });
    }
    match serde_json::from_str(document) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Error::NotAnObject {
            path: shown.to_owned(),
        }),
        Err(fault) => Err(Error::InvalidJson {
            path: shown.to_owned(),
            line: fault.line(),
            column: fault.column(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_numbers_in_bounds_are_counts() {
        let cases = [
            ("12", Ok(12)),
            ("12.0", Ok(12)),
            ("1e3", Ok(1_000)),
            ("-0.0", Ok(0)),
            ("1000000000", Ok(1_000_000_000)),
            ("1000000001", Err(Problem::TooLarge)),
            ("18446744073709551615", Err(Problem::TooLarge)),
            ("1e300", Err(Problem::TooLarge)),
            ("12.5", Err(Problem::Fractional)),
            ("-1", Err(Problem::Negative)),
            ("-1e3", Err(Problem::Negative)),
            ("\"12\"", Err(Problem::NotANumber)),
            ("true", Err(Problem::NotANumber)),
        ];
        for (json, expected) in cases {
            let value: Value = serde_json::from_str(json).unwrap();
            assert_eq!(whole(&value), expected, "{json}");
        }
    }
}
