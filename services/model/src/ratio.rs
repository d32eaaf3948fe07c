//! Quotients as integers, rounded half to even: rates in millionths, means.

/// Millionths in a whole.
const MILLION: i128 = 1_000_000;

/// `part ÷ whole` in millionths; none of nothing, or when it does not fit.
pub fn ppm(part: i64, whole: i64) -> Option<i64> {
    round(i128::from(part) * MILLION, i128::from(whole))
}

/// `sum ÷ count`; none of nothing.
pub fn mean(sum: i64, count: i64) -> Option<i64> {
    round(i128::from(sum), i128::from(count))
}

/// Both are products of 64-bit figures, so that nothing overflows on the way.
fn round(dividend: i128, divisor: i128) -> Option<i64> {
    if divisor == 0 {
        return None;
    }
    let (mut quotient, remainder) = (dividend.div_euclid(divisor), dividend.rem_euclid(divisor));
    let twice = 2 * remainder;
    if twice > divisor.abs() || (twice == divisor.abs() && quotient % 2 != 0) {
        quotient += divisor.signum();
    }
    i64::try_from(quotient).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_even_neighbour() {
        for (sum, count, expected) in [
            (1, 2, 0),
            (3, 2, 2),
            (5, 2, 2),
            (-1, 2, 0),
            (-3, 2, -2),
            (-5, 2, -2),
            (5, -2, -2),
            (-7, -2, 4),
            (2, 3, 1),
            (4, 3, 1),
            (0, 7, 0),
            (i64::MAX, 1, i64::MAX),
        ] {
            assert_eq!(mean(sum, count), Some(expected), "{sum} / {count}");
        }
        assert_eq!(mean(1, 0), None);
    }

    #[test]
    fn rates_are_millionths() {
        assert_eq!(ppm(1, 3), Some(333_333));
        assert_eq!(ppm(2, 3), Some(666_667));
        // 0.5 and 1.5 millionths.
        assert_eq!(ppm(1, 2_000_000), Some(0));
        assert_eq!(ppm(3, 2_000_000), Some(2));
        assert_eq!(ppm(i64::MAX, i64::MAX), Some(1_000_000));
        assert_eq!(ppm(0, 0), None);
        assert_eq!(ppm(i64::MAX, 1), None);
    }
}
