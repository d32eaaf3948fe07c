//! Which model is billed.

use super::{Error, Provider, Response};
use crate::bounds;

/// Decodes `%XX`; what is not a valid escape, or would not be UTF-8, stays as it is.
pub fn percent_decode(text: &str) -> String {
    if !text.contains('%') {
        return text.to_owned();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        match (first, tail) {
            (b'%', [high, low, after @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    bytes.push(high * 16 + low);
                    rest = after;
                    continue;
                }
                _ => bytes.push(first),
            },
            _ => bytes.push(first),
        }
        rest = tail;
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// The model whose price applies.
///
/// Elsewhere the response's model is the more exact one (`gpt-4o-2024-08-06` for `gpt-4o`), but
/// Bedrock prices hang on the id that was called: a geographic or `global.` prefix changes the
/// price, and the vendor's document inside knows nothing of it
/// (<https://docs.aws.amazon.com/bedrock/latest/userguide/inference-profiles-support.html>).
/// The path has the whole id, `:0` included, even where a client cut it from the model.
pub(super) fn billed_model(response: &Response<'_>, own: Option<&str>) -> Result<String, Error> {
    let requested = percent_decode(response.model);
    let requested = requested.trim();
    let from_path = path_model(response.provider, response.api);
    let own = own.map(str::to_owned);
    let given = Some(requested)
        .filter(|model| !model.is_empty())
        .map(str::to_owned);
    let model = match response.provider {
        Provider::Bedrock => from_path.or(given).or(own),
        _ => own.or(given).or(from_path),
    };
    let model = model.ok_or(Error::ModelMissing)?;
    let model = match response.provider {
        // Google's resource names: `models/gemini-2.5-flash`, `publishers/google/models/…`.
        Provider::Gemini | Provider::VertexAi => match model.rfind("models/") {
            Some(at) => model[at + "models/".len()..].to_owned(),
            None => model,
        },
        _ => model,
    };
    match model.len() {
        0 => Err(Error::ModelMissing),
        1..=bounds::MAX_TEXT_BYTES => Ok(model),
        bytes => Err(Error::ModelTooLong { bytes }),
    }
}

/// The model in the path of APIs that carry it there.
fn path_model(provider: Provider, api: &str) -> Option<String> {
    let (_, after) = match provider {
        Provider::Bedrock => api.split_once("/model/")?,
        Provider::Gemini | Provider::VertexAi => api.rsplit_once("models/")?,
        _ => return None,
    };
    let model = match provider {
        Provider::Bedrock => after.split('/').next()?,
        _ => after.split([':', '/']).next()?,
    };
    Some(percent_decode(model)).filter(|model| !model.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_decoding_keeps_what_it_cannot_read() {
        let cases = [
            ("a%3A0", "a:0"),
            ("arn%3aaws%2Fx", "arn:aws/x"),
            ("100%", "100%"),
            ("%zz%4", "%zz%4"),
            ("%ff", "%ff"),
            ("%25253A", "%253A"),
            ("é%C3%A9", "éé"),
        ];
        for (encoded, decoded) in cases {
            assert_eq!(percent_decode(encoded), decoded, "{encoded}");
        }
    }
}
