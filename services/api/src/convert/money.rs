//! Money: whole nano-USD on one side, units and nanos on the other.

use tokenmeter_model::bounds::Violation;

use crate::v1;

/// Nano-USD in one USD.
const NANOS: i64 = 1_000_000_000;
/// The only currency.
const USD: &str = "USD";

/// An amount as the wire has it.
pub fn from_nano_usd(nano_usd: i64) -> v1::Money {
    v1::Money {
        currency_code: USD.to_owned(),
        units: nano_usd / NANOS,
        // The remainder is below 10⁹ in size, which fits.
        nanos: i32::try_from(nano_usd % NANOS).unwrap_or_default(),
    }
}

/// An amount as the model has it; `field` is its path in the request.
pub fn to_nano_usd(field: &str, money: &v1::Money) -> Result<i64, Violation> {
    if !matches!(money.currency_code.as_str(), "" | USD) {
        return Err(Violation::new(
            format!("{field}.currency_code"),
            "is another currency; send USD or leave it empty",
        ));
    }
    let nanos = i64::from(money.nanos);
    if nanos <= -NANOS || nanos >= NANOS {
        return Err(Violation::new(
            format!("{field}.nanos"),
            format!("{nanos} is out of bounds; send a value from -999999999 to 999999999"),
        ));
    }
    if money.units.signum() * nanos.signum() < 0 {
        return Err(Violation::new(
            format!("{field}.nanos"),
            "has another sign than units; send both with the sign of the amount",
        ));
    }
    money
        .units
        .checked_mul(NANOS)
        .and_then(|whole| whole.checked_add(nanos))
        .ok_or_else(|| {
            Violation::new(
                format!("{field}.units"),
                "is out of bounds; send at most 9223372036 units either way",
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_survive_a_round_trip() {
        for nano in [
            0,
            1,
            -1,
            999_999_999,
            1_000_000_000,
            -1_750_000_000,
            i64::MAX,
            i64::MIN,
        ] {
            let money = from_nano_usd(nano);
            assert_eq!(to_nano_usd("cost", &money), Ok(nano), "{money:?}");
        }
        let money = from_nano_usd(-1_750_000_000);
        assert_eq!((money.units, money.nanos), (-1, -750_000_000));
    }

    #[test]
    fn what_is_no_amount_names_its_field() {
        let money = |currency_code: &str, units, nanos| v1::Money {
            currency_code: currency_code.into(),
            units,
            nanos,
        };
        for (wrong, field) in [
            (money("EUR", 1, 0), "cost.currency_code"),
            (money("", 1, -1), "cost.nanos"),
            (money("", -1, 1), "cost.nanos"),
            (money("", 0, 1_000_000_000), "cost.nanos"),
            (money("", 0, i32::MIN), "cost.nanos"),
            (money("", i64::MAX, 0), "cost.units"),
            (money("", 9_223_372_036, 854_775_808), "cost.units"),
        ] {
            assert_eq!(to_nano_usd("cost", &wrong).unwrap_err().field, field);
        }
    }
}
