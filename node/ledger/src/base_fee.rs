//! The price of gas from one block to the next (EIP-1559), with a floor.

use alloy_consensus::Header;

/// A block is meant to be this fraction full (EIP-1559, `ELASTICITY_MULTIPLIER`).
pub const ELASTICITY: u64 = 2;
/// The base fee moves by at most this fraction a block (EIP-1559,
/// `BASE_FEE_MAX_CHANGE_DENOMINATOR`).
pub const MAX_CHANGE_DENOMINATOR: u64 = 8;

/// Base fee of the block after `parent`, wei per gas: EIP-1559's, but never below `floor`.
pub fn next_base_fee(parent: &Header, floor: u64) -> u64 {
    let base_fee = parent.base_fee_per_gas.unwrap_or(floor);
    let target = parent.gas_limit / ELASTICITY;
    if target == 0 {
        return base_fee.max(floor);
    }
    let step = |distance: u64| {
        let step = u128::from(base_fee) * u128::from(distance)
            / u128::from(target)
            / u128::from(MAX_CHANGE_DENOMINATOR);
        u64::try_from(step).unwrap_or(u64::MAX)
    };
    let next = if parent.gas_used > target {
        base_fee.saturating_add(step(parent.gas_used - target).max(1))
    } else {
        base_fee.saturating_sub(step(target - parent.gas_used))
    };
    if parent.gas_used == target {
        base_fee.max(floor)
    } else {
        next.max(floor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(base_fee: u64, gas_limit: u64, gas_used: u64, floor: u64) -> u64 {
        let parent = Header {
            gas_limit,
            gas_used,
            base_fee_per_gas: Some(base_fee),
            ..Default::default()
        };
        next_base_fee(&parent, floor)
    }

    #[test]
    fn the_vectors_of_go_ethereum() {
        // consensus/misc/eip1559/eip1559_test.go, TestCalcBaseFee
        assert_eq!(
            next(1_000_000_000, 20_000_000, 10_000_000, 1),
            1_000_000_000
        );
        assert_eq!(next(1_000_000_000, 20_000_000, 9_000_000, 1), 987_500_000);
        assert_eq!(
            next(1_000_000_000, 20_000_000, 11_000_000, 1),
            1_012_500_000
        );
    }

    #[test]
    fn the_fee_moves_between_floor_and_largest_number() {
        let table = [
            // base fee, gas used of 30,000,000, floor, expected
            (1_000_000_000, 0, 1_000_000_000, 1_000_000_000),
            (1_100_000_000, 0, 1_000_000_000, 1_000_000_000),
            (8_000_000_000, 0, 1_000_000_000, 7_000_000_000),
            (8_000_000_000, 30_000_000, 1_000_000_000, 9_000_000_000),
            (1, 15_000_001, 1, 2),
            (7, 0, 1, 7),
            (500, 15_000_000, 1_000, 1_000),
            (u64::MAX, 30_000_000, 1, u64::MAX),
        ];
        for (base_fee, used, floor, expected) in table {
            assert_eq!(
                next(base_fee, 30_000_000, used, floor),
                expected,
                "base fee {base_fee}, used {used}, floor {floor}"
            );
        }
        assert_eq!(next(5, 1, 1, 3), 5);
    }
}
