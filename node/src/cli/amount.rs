//! Amounts of ether as people write them.

use std::str::FromStr;

use alloy_primitives::U256;

/// Decimals of the units that are understood.
pub const UNITS: [(&str, usize); 3] = [("ether", 18), ("gwei", 9), ("wei", 0)];

/// An amount, wei.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount(pub U256);

/// Why a text is no amount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// Not digits with at most one point.
    #[error("{0:?} is no amount: expected a number and a unit, such as 1.5ether, 20gwei or 100wei")]
    NoNumber(String),
    /// Smaller than a wei.
    #[error("{text:?} is finer than a wei: a {unit} has {decimals} decimals{hint}")]
    TooFine {
        /// What was given.
        text: String,
        /// Its unit.
        unit: &'static str,
        /// Decimals of the unit.
        decimals: usize,
        /// What may have been meant.
        hint: &'static str,
    },
    /// Does not fit into 256 bits.
    #[error("{0:?} is more than a chain can count (2^256 - 1 wei)")]
    TooLarge(String),
}

impl FromStr for Amount {
    type Err = AmountError;

    /// A number with a unit; without one it is wei.
    fn from_str(text: &str) -> Result<Self, AmountError> {
        let given = text.trim();
        let with_unit = UNITS.iter().find_map(|(unit, decimals)| {
            let number = given.strip_suffix(unit)?;
            // "gwei" ends in "wei" too, but stands before it in the list.
            Some((number.trim_end(), *unit, *decimals))
        });
        let named = with_unit.is_some();
        let (number, unit, decimals) = with_unit.unwrap_or((given, "wei", 0));
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let point_alone = number.contains('.') && part.is_empty();
        if whole.is_empty() || point_alone || !digits(whole) || !digits(part) {
            return Err(AmountError::NoNumber(text.to_owned()));
        }
        let part = part.trim_end_matches('0');
        if part.len() > decimals {
            return Err(AmountError::TooFine {
                text: text.to_owned(),
                unit,
                decimals,
                hint: if named {
                    ""
                } else {
                    "; without a unit an amount is wei: did you mean ether?"
                },
            });
        }
        let wei = format!("{whole}{part:0<decimals$}");
        let wei = wei.trim_start_matches('0');
        let wei = if wei.is_empty() { "0" } else { wei };
        U256::from_str_radix(wei, 10)
            .map(Self)
            .map_err(|_| AmountError::TooLarge(text.to_owned()))
    }
}

/// An amount in ether, exactly: `1.5`.
pub fn ether(wei: U256) -> String {
    decimal(wei, 18)
}

/// An amount in gwei, exactly.
pub fn gwei(wei: U256) -> String {
    decimal(wei, 9)
}

fn decimal(wei: U256, decimals: usize) -> String {
    let digits = format!(
        "{wei:0>width$}",
        wei = wei.to_string(),
        width = decimals + 1
    );
    let (whole, part) = digits.split_at(digits.len() - decimals);
    match part.trim_end_matches('0') {
        "" => whole.to_owned(),
        part => format!("{whole}.{part}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wei(text: &str) -> Result<U256, AmountError> {
        text.parse::<Amount>().map(|amount| amount.0)
    }

    #[test]
    fn units_are_understood() {
        for (text, expected) in [
            ("0", "0"),
            ("7", "7"),
            ("7wei", "7"),
            ("1ether", "1000000000000000000"),
            ("1.5 ether", "1500000000000000000"),
            ("0.000000000000000001ether", "1"),
            ("2.50gwei", "2500000000"),
            ("1.000", "1"),
            ("007wei", "7"),
        ] {
            assert_eq!(wei(text).unwrap().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_amount_says_why() {
        for bad in [
            "",
            "ether",
            "1.",
            ".5ether",
            "-1ether",
            "+1",
            "1e3",
            "0x10",
            "1,5ether",
            "1..5ether",
            "1.5.5",
            "one",
            "1eth",
            "1 000",
            "١ether",
        ] {
            assert!(
                matches!(wei(bad), Err(AmountError::NoNumber(_))),
                "{bad:?}: {:?}",
                wei(bad)
            );
        }
        let unitless = wei("1.5").unwrap_err().to_string();
        assert!(unitless.contains("did you mean ether"), "{unitless}");
        let fine = wei("0.0000000001gwei").unwrap_err().to_string();
        assert!(fine.contains("9 decimals"), "{fine}");
        let huge = format!("{}ether", "9".repeat(70));
        assert!(matches!(wei(&huge), Err(AmountError::TooLarge(_))));
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(bytes in any::<[u8; 32]>()) {
            let amount = U256::from_be_bytes(bytes);
            prop_assert_eq!(wei(&format!("{}ether", ether(amount))).unwrap(), amount);
            prop_assert_eq!(wei(&format!("{}gwei", gwei(amount))).unwrap(), amount);
            prop_assert_eq!(wei(&amount.to_string()).unwrap(), amount);
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}") {
            let _ = wei(&text);
        }

        #[test]
        fn an_amount_is_its_digits_at_the_place_of_its_unit(
            whole in 0u64..1_000_000_000, part in 0u32..1_000_000, unit in 0usize..2,
        ) {
            let (name, decimals) = UNITS[unit];
            let read = wei(&format!("{whole}.{part:06}{name}")).unwrap();
            let scale = U256::from(10).pow(U256::from(decimals));
            let expected = U256::from(whole) * scale
                + U256::from(part) * scale / U256::from(1_000_000);
            prop_assert_eq!(read, expected);
        }
    }
}
