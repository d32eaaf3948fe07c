//! Why a provider's usage was refused. Texts name JSON paths and numbers, never content.

use std::fmt;

use crate::bounds;

/// What is wrong with one value of a usage document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// Below zero.
    Negative,
    /// Has a fraction.
    Fractional,
    /// Above [`bounds::MAX_TOKENS`].
    TooLarge,
    /// Not a JSON number.
    NotANumber,
    /// Not a JSON object.
    NotAnObject,
    /// Not a JSON array of objects.
    NotAList,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Negative => f.write_str("is negative"),
            Self::Fractional => f.write_str("has a fraction"),
            Self::TooLarge => write!(f, "is above {}", bounds::MAX_TOKENS),
            Self::NotANumber => f.write_str("is not a number"),
            Self::NotAnObject => f.write_str("is not an object"),
            Self::NotAList => f.write_str("is not a list of objects"),
        }
    }
}

/// A usage document that cannot be turned into disjoint counts without guessing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The document is not JSON.
    #[error(
        "{path} is not valid JSON (line {line}, column {column}); send the provider's document as it came"
    )]
    InvalidJson {
        /// Which document.
        path: String,
        /// Line of the fault, from 1.
        line: usize,
        /// Column of the fault, from 1.
        column: usize,
    },
    /// The document is JSON, but no object.
    #[error(
        "{path} is not a JSON object; send the usage object, or the response that holds it, one chunk per document"
    )]
    NotAnObject {
        /// Which document.
        path: String,
    },
    /// The document is too long.
    #[error("{path} has {bytes} bytes, more than {max}; send only the usage object")]
    TooLarge {
        /// Which document.
        path: String,
        /// Its length in bytes.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// More documents than one response may have.
    #[error(
        "{documents} documents, more than {max}; send the usage-bearing chunks of one response only"
    )]
    TooManyDocuments {
        /// How many came.
        documents: usize,
        /// The bound: 1 for a plain response.
        max: usize,
    },
    /// No document holds a usage object.
    #[error(
        "no document holds token counts; send the usage object or the stream's usage-bearing chunks, or report the counts as lines"
    )]
    UsageMissing,
    /// A count without which the usage cannot be understood is absent.
    #[error("{path} is missing; send every usage-bearing chunk of the response")]
    CountMissing {
        /// Path of the absent count.
        path: String,
    },
    /// A usage object was found, and none of its keys is known.
    #[error("{path} has no known token count; send the counts as lines instead")]
    UnknownShape {
        /// Path of the usage object.
        path: String,
    },
    /// The documents hold usage objects of different APIs.
    #[error("{path} is of another API than the usage before it; send the chunks of one response")]
    MixedShapes {
        /// Path of the first usage object that differs.
        path: String,
    },
    /// A value is not a count.
    #[error("{path} {problem}; send a whole number from 0 to {max}", max = bounds::MAX_TOKENS)]
    InvalidCount {
        /// Path of the value.
        path: String,
        /// What is wrong with it.
        problem: Problem,
    },
    /// A line is out of its bounds.
    #[error("{path}: {description}")]
    OutOfBounds {
        /// Path of the field in the lines.
        path: String,
        /// What is wrong, the bound, and the mend.
        description: String,
    },
    /// Parts add up to more than the count that includes them.
    #[error(
        "{path}: {what} would be {whole} - {parts}, a negative number; correct the document or report the counts as lines"
    )]
    NegativeRemainder {
        /// Path of the usage object.
        path: String,
        /// The remainder that would be negative.
        what: &'static str,
        /// The including count.
        whole: i64,
        /// Sum of the parts.
        parts: i64,
    },
    /// Two statements of the document disagree.
    #[error(
        "{path}: {what} is stated as {stated} and as {other}; correct the document or report the counts as lines"
    )]
    Contradiction {
        /// Path of the usage object.
        path: String,
        /// What is stated twice.
        what: &'static str,
        /// The one figure.
        stated: i64,
        /// The other figure.
        other: i64,
    },
    /// Neither the documents nor the request name a model.
    #[error("no model is named; send the request's model beside the usage")]
    ModelMissing,
    /// The model's name is too long to be one.
    #[error("the model's name has {bytes} bytes, more than {max}; send a shorter one", max = bounds::MAX_TEXT_BYTES)]
    ModelTooLong {
        /// Its length in bytes.
        bytes: usize,
    },
    /// One response bills more models than an event has lines.
    #[error("{lines} models in one response, more than {max}; record them as several events", max = bounds::MAX_LINES)]
    TooManyLines {
        /// How many models.
        lines: usize,
    },
}

impl Error {
    /// The same error; a place that has no path of its own is the whole document.
    pub(super) fn placed(mut self) -> Self {
        if let Self::UnknownShape { path }
        | Self::MixedShapes { path }
        | Self::NegativeRemainder { path, .. }
        | Self::Contradiction { path, .. } = &mut self
            && path.is_empty()
        {
            "the document".clone_into(path);
        }
        self
    }

    /// The name of the reason in the contract; one of [`REASONS`].
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidJson { .. } | Self::NotAnObject { .. } => "USAGE_JSON_INVALID",
            Self::TooLarge { .. } | Self::TooManyDocuments { .. } => "USAGE_TOO_LARGE",
            Self::UsageMissing | Self::CountMissing { .. } => "USAGE_MISSING",
            Self::UnknownShape { .. } | Self::MixedShapes { .. } => "USAGE_SHAPE_UNKNOWN",
            Self::InvalidCount { .. } | Self::OutOfBounds { .. } => "USAGE_COUNT_INVALID",
            Self::NegativeRemainder { .. } => "USAGE_NEGATIVE_REMAINDER",
            Self::Contradiction { .. } => "USAGE_CONTRADICTORY",
            Self::ModelMissing | Self::ModelTooLong { .. } => "MODEL_MISSING",
            Self::TooManyLines { .. } => "TOO_MANY_LINES",
        }
    }
}

/// Every value of [`Error::reason`].
pub const REASONS: [&str; 9] = [
    "USAGE_JSON_INVALID",
    "USAGE_TOO_LARGE",
    "USAGE_MISSING",
    "USAGE_SHAPE_UNKNOWN",
    "USAGE_COUNT_INVALID",
    "USAGE_NEGATIVE_REMAINDER",
    "USAGE_CONTRADICTORY",
    "MODEL_MISSING",
    "TOO_MANY_LINES",
];
