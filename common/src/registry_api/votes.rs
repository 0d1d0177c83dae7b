//! Whose votes arrive: what nodes report, and what is shown of a member whose votes do not.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    crypto::PublicKey,
    ids::{Height, NodeId},
};

/// A validator is silent when votes of others have come in for so long without one of it. Shorter than the
/// 10 s within which it must be shown, by what a report and a look take; longer than a restart of its network.
pub const SILENT_AFTER: Duration = Duration::from_secs(8);
/// And when so many heights were decided above its last vote: on an idle chain two empty blocks.
pub const SILENT_HEIGHTS: u64 = 2;

/// What a node has received of one validator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VoteReport {
    /// Whose votes.
    pub validator: PublicKey,
    /// Highest height with a vote of it, for a block or for nil, first-hand or relayed.
    pub height: Height,
    /// Age of its last vote, or of this watch if none came since.
    pub age_ms: u64,
    /// For how long votes of others have arrived for greater heights and none of it; absent while it keeps up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_ms: Option<u64>,
}

impl VoteReport {
    /// Whether the reporter, whose head this is, takes the validator for silent.
    pub fn is_silent(&self, head: Height) -> bool {
        let long = |ms| Duration::from_millis(ms) >= SILENT_AFTER;
        let above = head.0.checked_sub(self.height.0);
        self.missing_ms.is_some_and(long) && above.is_some_and(|above| above >= SILENT_HEIGHTS)
    }
}

/// Proposals of one validator that a node could not vote for, since its process began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProposalFaultReport {
    /// The proposer.
    pub validator: PublicKey,
    /// Blocks that were not valid.
    pub invalid: u64,
    /// Blocks whose execution did not end within their round.
    pub not_in_time: u64,
}

/// What the others report of one node's proposals. It is no proof: a reporter may lie, and a slow reporter
/// finds others slow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProposalFaults {
    /// Blocks that were not valid, by the reporter that counts most.
    pub invalid: u64,
    /// Blocks whose execution did not end within their round, by the reporter that counts most.
    pub not_in_time: u64,
    /// Validators that report any.
    pub reporters: Vec<NodeId>,
}

impl fmt::Display for ProposalFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reporters: Vec<&str> = self.reporters.iter().map(NodeId::as_str).collect();
        write!(
            f,
            "proposed {} invalid blocks and {} that were not executed in time, reported by {}",
            self.invalid,
            self.not_in_time,
            reporters.join(", ")
        )
    }
}

/// What is wrong with a node that reports in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SymptomCode {
    /// It is a validator, and its votes do not reach the others.
    NotVoting,
}

impl SymptomCode {
    /// The code as it stands in JSON. It does not change.
    pub const fn code(self) -> &'static str {
        match self {
            Self::NotVoting => "not_voting",
        }
    }
}

impl fmt::Display for SymptomCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotVoting => "not voting",
        })
    }
}

/// What is wrong with a node that reports in time, and how it is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Symptom {
    /// Which.
    pub code: SymptomCode,
    /// The same as text.
    pub text: String,
    /// Height of the last vote that any of the reporters received.
    pub height: Height,
    /// Age of that vote.
    pub age_ms: u64,
    /// Members that report it.
    pub reporters: Vec<NodeId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_takes_time_and_decided_heights() {
        let table = [
            (None, 10, 1_000, false),
            (Some(7_999), 10, 1_000, false),
            (Some(8_000), 10, 11, false),
            (Some(8_000), 10, 12, true),
            (Some(u64::MAX), u64::MAX, u64::MAX, false),
            // It is ahead of the reporter.
            (Some(9_000), 12, 10, false),
        ];
        for (missing_ms, height, head, silent) in table {
            let report = VoteReport {
                validator: PublicKey([1; 32]),
                height: Height(height),
                age_ms: 60_000,
                missing_ms,
            };
            assert_eq!(report.is_silent(Height(head)), silent, "{report:?}, {head}");
        }
    }

    #[test]
    fn codes_are_those_of_json() {
        let code = SymptomCode::NotVoting;
        assert_eq!(code.code(), "not_voting");
        assert_eq!(serde_json::to_value(code).unwrap(), code.code());
    }
}
