//! Which registry speaks, and in which attempt.

use std::fmt;

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::hex_bytes;

hex_bytes! {
    /// Names one start of the registry; random.
    StartId, 16, "start id"
}

impl StartId {
    /// A fresh random id.
    pub fn generate() -> Self {
        Self(crate::crypto::random_bytes())
    }
}

/// One start of the registry. Its store lists them all; a node that has met one accepts no registry
/// whose list lacks it.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
    ToSchema,
)]
pub struct RegistryStart {
    /// Grows by one with each start of one store; above all that is known after a take-over.
    pub counter: u64,
    /// Tells starts of copies of one store apart.
    pub id: StartId,
}

/// Names one attempt of a recovery. Ordered by counter, id and attempt.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
    ToSchema,
)]
pub struct Ballot {
    /// The start of the registry that opened it.
    pub start: RegistryStart,
    /// Counts the attempts of that start, from 1.
    pub attempt: u64,
}

impl fmt::Display for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.start.counter, self.attempt)
    }
}
