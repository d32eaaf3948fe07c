//! Money: whole numbers only, and exact text.
//!
//! A unit price is whole pico-USD (10⁻¹² USD) per token or per request; a line's cost is whole
//! nano-USD (10⁻⁹ USD). Nothing here passes through a float.

/// Pico-USD in one nano-USD.
const PICO_PER_NANO: i128 = 1_000;
/// Decimal places of a pico-USD amount.
const PICO_SCALE: i32 = 12;
/// Decimal places of a pico-USD-per-token rate that is written in USD per million tokens.
const PER_MILLION_SCALE: i32 = 6;
/// Longest amount that is read, in bytes.
const MAX_AMOUNT_BYTES: usize = 64;
/// Largest decimal exponent that is read, either sign.
const MAX_EXPONENT: i32 = 99;

/// Largest unit price in pico-USD per token: $0.01 a token, $10,000 per million tokens.
pub const MAX_UNIT_PRICE: i64 = 10_000_000_000;
/// Largest fee in pico-USD per request: $10.
pub const MAX_FEE_PICO_USD: i64 = 10_000_000_000_000;
/// Largest cost of one line in nano-USD: $100,000. A full batch of such lines (1,000 events of 16
/// lines) still fits an `i64`.
pub const MAX_LINE_COST_NANO_USD: i64 = 100_000_000_000_000;

/// Why a text is not an amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not a decimal number, or longer than 64 bytes.
    #[error("is not a decimal number; write one such as 0.0000025 or 2.5e-06")]
    NotANumber,
    /// Below zero.
    #[error("is negative; prices are zero or more")]
    Negative,
    /// Not a whole number of pico-USD.
    #[error("is finer than one pico-USD (1e-12 USD); round it to 12 decimal places of a USD")]
    TooFine,
    /// Above [`MAX_FEE_PICO_USD`].
    #[error("is too large; the largest amount is 10 USD a unit")]
    TooLarge,
}

/// Pico-USD to nano-USD, rounded once, half to even. `None` when the result does not fit an `i64`.
pub fn round_half_even_pico_to_nano(pico: i128) -> Option<i64> {
    let whole = pico.div_euclid(PICO_PER_NANO);
    let rest = pico.rem_euclid(PICO_PER_NANO) * 2;
    let up = rest > PICO_PER_NANO || (rest == PICO_PER_NANO && whole.rem_euclid(2) == 1);
    i64::try_from(whole + i128::from(up)).ok()
}

/// Exact decimal text in USD (`2.5e-06`, `0.0000025`, `15`) to whole pico-USD,
/// 0 to [`MAX_FEE_PICO_USD`]. Never rounds: an amount finer than one pico-USD is an error.
pub fn parse_usd_pico(text: &str) -> Result<i64, ParseError> {
    parse_scaled(text, PICO_SCALE)
}

/// Exact decimal text in USD per million tokens (`2.50`) to whole pico-USD per token,
/// 0 to [`MAX_FEE_PICO_USD`]. Never rounds.
pub fn parse_usd_per_million(text: &str) -> Result<i64, ParseError> {
    parse_scaled(text, PER_MILLION_SCALE)
}

/// A pico-USD amount as exact decimal USD, such as `0.0000025`; no exponent, no trailing zeros.
pub fn format_pico(pico: i64) -> String {
    format_scaled(pico, 12)
}

/// A nano-USD amount as exact decimal USD, such as `0.000001536`; negative for compensations.
pub fn format_nano_usd(nano: i64) -> String {
    format_scaled(nano, 9)
}

/// Pico-USD per token as exact decimal USD per million tokens, such as `2.5`.
pub fn format_usd_per_million(pico: i64) -> String {
    format_scaled(pico, 6)
}

/// Reads `text` × 10^`scale` as a whole number, 0 to [`MAX_FEE_PICO_USD`].
pub(crate) fn parse_scaled(text: &str, scale: i32) -> Result<i64, ParseError> {
    if text.len() > MAX_AMOUNT_BYTES {
        return Err(ParseError::NotANumber);
    }
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, parse_exponent(exponent)?),
        None => (text, 0),
    };
    let (negative, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, mantissa),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits_only = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() && fraction.is_empty() || !digits_only(whole) || !digits_only(fraction) {
        return Err(ParseError::NotANumber);
    }
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_start_matches('0').trim_end_matches('0');
    if significant.is_empty() {
        return Ok(0);
    }
    if negative {
        return Err(ParseError::Negative);
    }
    let dropped = digits.len() - digits.trim_end_matches('0').len();
    let shift = |length: usize| i32::try_from(length).map_err(|_| ParseError::NotANumber);
    let power = scale + exponent + shift(dropped)? - shift(fraction.len())?;
    let power = u32::try_from(power).map_err(|_| ParseError::TooFine)?;
    let value = significant.parse::<i64>().ok();
    let factor = 10_i64.checked_pow(power);
    match value.zip(factor).and_then(|(v, f)| v.checked_mul(f)) {
        Some(value) if value <= MAX_FEE_PICO_USD => Ok(value),
        _ => Err(ParseError::TooLarge),
    }
}

fn parse_exponent(text: &str) -> Result<i32, ParseError> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(ParseError::NotANumber);
    }
    match text.parse::<i32>() {
        Ok(exponent) if exponent.abs() <= MAX_EXPONENT => Ok(exponent),
        _ => Err(ParseError::NotANumber),
    }
}

fn format_scaled(value: i64, decimals: usize) -> String {
    let sign = if value < 0 { "-" } else { "" };
    let digits = format!("{:0>width$}", value.unsigned_abs(), width = decimals + 1);
    let (whole, fraction) = digits.split_at(digits.len() - decimals);
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() {
        format!("{sign}{whole}")
    } else {
        format!("{sign}{whole}.{fraction}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ties_go_to_the_even_neighbour() {
        let cases = [
            (499, 0),
            (500, 0),
            (501, 1),
            (1_499, 1),
            (1_500, 2),
            (2_500, 2),
            (2_501, 3),
            (-500, 0),
            (-501, -1),
            (-1_500, -2),
            (-2_500, -2),
            (-2_501, -3),
        ];
        for (pico, nano) in cases {
            assert_eq!(round_half_even_pico_to_nano(pico), Some(nano), "{pico}");
        }
        assert_eq!(round_half_even_pico_to_nano(i128::MAX), None);
        assert_eq!(round_half_even_pico_to_nano(i128::MIN), None);
    }

    #[test]
    fn amounts_are_read_exactly() {
        let cases = [
            ("2.5e-06", 2_500_000),
            ("0.0000025", 2_500_000),
            ("15e-7", 1_500_000),
            ("1E-12", 1),
            ("0.0", 0),
            ("-0.0", 0),
            ("0", 0),
            (".5", 500_000_000_000),
            ("10", MAX_FEE_PICO_USD),
            ("1e1", MAX_FEE_PICO_USD),
            ("2.50000000000000000000e-6", 2_500_000),
        ];
        for (text, pico) in cases {
            assert_eq!(parse_usd_pico(text), Ok(pico), "{text}");
        }
        assert_eq!(parse_usd_per_million("2.50"), Ok(2_500_000));
    }

    #[test]
    fn what_is_not_an_exact_amount_is_named() {
        let cases = [
            ("1.6000000000000001e-06", ParseError::TooFine),
            ("1e-13", ParseError::TooFine),
            ("-1e-6", ParseError::Negative),
            ("10.000000000001", ParseError::TooLarge),
            ("1e30", ParseError::TooLarge),
            ("99999999999999999999", ParseError::TooLarge),
            ("", ParseError::NotANumber),
            (".", ParseError::NotANumber),
            ("e5", ParseError::NotANumber),
            ("1e", ParseError::NotANumber),
            ("1e+-5", ParseError::NotANumber),
            ("1e999999999999", ParseError::NotANumber),
            ("1_000", ParseError::NotANumber),
            ("--1", ParseError::NotANumber),
            ("NaN", ParseError::NotANumber),
            ("$1", ParseError::NotANumber),
        ];
        for (text, error) in cases {
            assert_eq!(parse_usd_pico(text), Err(error), "{text}");
        }
    }

    #[test]
    fn amounts_are_written_exactly() {
        assert_eq!(format_nano_usd(1_536), "0.000001536");
        assert_eq!(format_nano_usd(-1_500_000_000), "-1.5");
        assert_eq!(format_nano_usd(0), "0");
        assert_eq!(format_nano_usd(i64::MIN), "-9223372036.854775808");
        assert_eq!(format_pico(2_500_000), "0.0000025");
        assert_eq!(format_usd_per_million(2_500_000), "2.5");
    }

    proptest! {
        #[test]
        fn text_and_amount_round_trip(pico in 0..=MAX_FEE_PICO_USD) {
            prop_assert_eq!(parse_usd_pico(&format_pico(pico)), Ok(pico));
            prop_assert_eq!(parse_usd_per_million(&format_usd_per_million(pico)), Ok(pico));
        }

        #[test]
        fn rounding_is_nearest_and_even_on_ties(pico in -10_i128.pow(18)..10_i128.pow(18)) {
            let nano = i128::from(round_half_even_pico_to_nano(pico).unwrap());
            let distance = (pico - nano * 1_000).abs();
            prop_assert!(distance < 500 || (distance == 500 && nano % 2 == 0));
        }
    }
}
