//! What the state store holds, and how.
//!
//! | table | key | value |
//! |---|---|---|
//! | `accounts` | keccak(address) | the account in its short form |
//! | `storage` | keccak(address), keccak(slot) | the value, big-endian without leading zeros |
//! | `slots` | keccak(address) | number of its slots in `storage` |
//! | `code` | keccak(code) | code |
//! | `transactions` | hash | height, index |
//! | `blocks` | hash | height |
//! | `meta` | `checkpoint` | [`Checkpoint`] |
//! | `meta` | `slots` | hash of the block whose slots are counted in `slots` |

use alloy_consensus::Header;
use alloy_primitives::{B256, U256};
use alloy_rlp::Decodable;
use axolotl_common::{Hash, SignedRecord, recovery::Sets};
use borsh::{BorshDeserialize, BorshSerialize};
use redb::TableDefinition;

/// Version of this schema.
pub(super) const SCHEMA_VERSION: u32 = 3;

pub(super) const ACCOUNTS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("accounts");
pub(super) const STORAGE: TableDefinition<'_, &[u8; 64], &[u8]> = TableDefinition::new("storage");
pub(super) const SLOTS: TableDefinition<'_, &[u8; 32], u64> = TableDefinition::new("slots");
pub(super) const CODE: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("code");
pub(super) const TRANSACTIONS: TableDefinition<'_, &[u8; 32], (u64, u32)> =
    TableDefinition::new("transactions");
pub(super) const BLOCKS: TableDefinition<'_, &[u8; 32], u64> = TableDefinition::new("blocks");
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
pub(super) const CHECKPOINT: &str = "checkpoint";
pub(super) const COUNTED: &str = "slots";

/// The block whose state the store holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Hash of block 0: which chain this is.
    pub genesis: B256,
    /// Hash of the block.
    pub hash: B256,
    /// Header of the block.
    pub header: Header,
    /// End of the block log when the checkpoint was taken.
    pub log_position: u64,
    /// Validators of the newest epochs; the last one governs the next block.
    pub sets: Sets,
    /// Whether the last one begins above this block.
    pub begins: bool,
    /// The recovery or forced record that the next block must carry.
    pub due: Option<SignedRecord>,
}

#[derive(BorshSerialize, BorshDeserialize)]
struct Stored {
    version: u32,
    genesis: Hash,
    hash: Hash,
    header: Vec<u8>,
    log_position: u64,
    sets: Sets,
    begins: bool,
    due: Option<SignedRecord>,
}

impl Checkpoint {
    /// Height of the block.
    pub fn height(&self) -> u64 {
        self.header.number
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let stored = Stored {
            version: SCHEMA_VERSION,
            genesis: Hash(self.genesis.0),
            hash: Hash(self.hash.0),
            header: alloy_rlp::encode(&self.header),
            log_position: self.log_position,
            sets: self.sets.clone(),
            begins: self.begins,
            due: self.due.clone(),
        };
        borsh::to_vec(&stored).expect("writing to a Vec does not fail")
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let stored = Stored::try_from_slice(bytes).map_err(|e| format!("checkpoint: {e}"))?;
        if stored.version != SCHEMA_VERSION {
            return Err(format!(
                "schema version {}, expected {SCHEMA_VERSION}",
                stored.version
            ));
        }
        let header = Header::decode(&mut &stored.header[..])
            .map_err(|e| format!("header of the checkpoint: {e}"))?;
        if header.hash_slow().0 != stored.hash.0 {
            return Err("header of the checkpoint: wrong hash".into());
        }
        Ok(Self {
            genesis: B256::from(stored.genesis.0),
            hash: B256::from(stored.hash.0),
            header,
            log_position: stored.log_position,
            sets: stored.sets,
            begins: stored.begins,
            due: stored.due,
        })
    }
}

/// Key of a slot.
pub(super) fn slot_key(account: &B256, slot: &B256) -> [u8; 64] {
    let mut key = [0; 64];
    key[..32].copy_from_slice(&account.0);
    key[32..].copy_from_slice(&slot.0);
    key
}

/// A slot's value without leading zeros.
pub(super) fn trimmed(value: &U256) -> Vec<u8> {
    value.to_be_bytes_trimmed_vec()
}

/// Reads what [`trimmed`] gave.
pub(super) fn read_value(bytes: &[u8]) -> Option<U256> {
    U256::try_from_be_slice(bytes)
}
