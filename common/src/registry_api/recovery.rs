//! What the registry shows of a recovery, and what an operator may ask for.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Event;
use crate::ids::Epoch;

/// `POST /recover`: an operator's word, one thing at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecoverRequest {
    /// The epoch in force, spelled out: what is asked for is about no other.
    pub epoch: Epoch,
    /// Go on without the knowledge of a quorum. Blocks that were final may be lost, and the chain says so
    /// for ever.
    #[serde(default)]
    pub accept_data_loss: bool,
    /// The nodes have met a registry that this store does not know; that one is gone for good.
    #[serde(default)]
    pub take_over: bool,
}

/// How far a recovery is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RecoveryPhase {
    /// A quorum is missing; members that crashed are started again, replacements are readied.
    #[default]
    Probing,
    /// Nothing is done before the condition holds, or an operator speaks.
    Waiting,
    /// The survivors say what they would say.
    Surveying,
    /// The survivors seal the epoch.
    Sealing,
    /// The new validators write down what they take over.
    Staging,
    /// The record is signed and handed out.
    Recorded,
}

impl RecoveryPhase {
    /// The phase as it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Probing => "probing",
            Self::Waiting => "waiting",
            Self::Surveying => "surveying",
            Self::Sealing => "sealing",
            Self::Staging => "staging",
            Self::Recorded => "recorded",
        }
    }
}

/// A lost quorum, and what is done about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecoveryStatus {
    /// How far it is.
    pub phase: RecoveryPhase,
    /// The epoch that lost its quorum.
    pub epoch: Epoch,
    /// The attempt: `<start of the registry>.<attempt>`.
    pub ballot: Option<String>,
    /// Its validators.
    pub validators: usize,
    /// Votes that finalise a block.
    pub quorum: usize,
    /// Validators that answer with their volumes.
    pub survivors: usize,
    /// How many must.
    pub needed: usize,
    /// How many of them may lie without harm; below 0 there are too few.
    pub margin: i64,
    /// What happens, or what is waited for, in words.
    pub summary: String,
    /// What an operator might do, if there is something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
    /// The newest steps, newest first.
    #[serde(default)]
    pub steps: Vec<Event>,
}
