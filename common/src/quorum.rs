//! The one quorum function, used by the node, the registry and the tests.

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

/// How many of `n` validators must agree.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    BorshSerialize,
    BorshDeserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum QuorumRule {
    /// floor(2n/3) + 1: safe while fewer than a third lie (Tendermint, arXiv 1807.04938).
    #[default]
    Byzantine = 0,
    /// floor(n/2) + 1: safe only while validators crash but never lie.
    Majority = 1,
}

impl QuorumRule {
    /// Votes that finalise a block among `n` validators.
    ///
    /// Not ceil(2n/3): that is another function, smaller at n = 3, 6, 9.
    pub const fn quorum(self, n: usize) -> usize {
        match self {
            Self::Byzantine => 2 * n / 3 + 1,
            Self::Majority => n / 2 + 1,
        }
    }

    /// Validators of `n` that may lie without harm to safety.
    pub const fn byzantine_faults(self, n: usize) -> usize {
        match self {
            Self::Byzantine => n.saturating_sub(1) / 3,
            Self::Majority => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::QuorumRule::{Byzantine, Majority};

    #[test]
    fn quorums_of_small_sets() {
        let table = [
            (1, 1),
            (2, 2),
            (3, 3),
            (4, 3),
            (5, 4),
            (6, 5),
            (7, 5),
            (9, 7),
            (10, 7),
        ];
        for (n, q) in table {
            assert_eq!(Byzantine.quorum(n), q, "n = {n}");
        }
        for (n, q) in [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (10, 6)] {
            assert_eq!(Majority.quorum(n), q, "n = {n}");
        }
    }

    #[test]
    fn two_quorums_share_an_honest_member() {
        for n in 1..200 {
            for rule in [Byzantine, Majority] {
                let (q, f) = (rule.quorum(n), rule.byzantine_faults(n));
                assert!(
                    2 * q > n + f,
                    "{rule:?} n = {n}: two quorums share at most {f}"
                );
                assert!(
                    q <= n - f,
                    "{rule:?} n = {n}: {f} silent members stop the chain"
                );
            }
        }
    }
}
