//! The genesis document: geth's genesis JSON with an `axolotl` object.
//!
//! The document is hashed in canonical form (object keys sorted, no white space), so that its hash
//! does not depend on how a tool prints it. The header of block 0 carries the hash as `extraData`,
//! which makes the hash of block 0 commit to the validators as well. What geth's part of the
//! document means is the ledger's business; this module knows the `axolotl` object.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    crypto::PublicKey,
    ids::{ChainId, ChainRef, Hash},
    limits::{
        DEFAULT_MAX_LOG_BYTES, MAX_MAX_BLOCK_BYTES, MIN_MAX_BLOCK_BYTES, MIN_MAX_LOG_BYTES,
        default_gas_limit,
    },
    membership::{EpochRecord, MAX_MEMBERS, Member},
    quorum::QuorumRule,
};

/// Why a document is not a genesis.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GenesisError {
    /// Not JSON.
    #[error("the genesis is not JSON: {0}")]
    NotJson(String),
    /// A field is missing or wrong.
    #[error("genesis field `{field}`: {why}")]
    Field {
        /// Path of the field.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

/// Timing parameters of a chain, milliseconds. All nodes need the same, so they are in the genesis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Timing {
    /// An idle chain makes an empty block this often.
    pub empty_block_interval_ms: u64,
    /// Patience for a proposal in round 0.
    pub propose_ms: u64,
    /// Patience for the rest of the prevotes in round 0.
    pub prevote_ms: u64,
    /// Patience for the rest of the precommits in round 0.
    pub precommit_ms: u64,
    /// What each further round adds to each timeout.
    pub round_delta_ms: u64,
    /// No timeout grows beyond this.
    pub max_timeout_ms: u64,
    /// Votes of a round that goes on are sent again this often.
    pub rebroadcast_ms: u64,
    /// A node refuses to seal its epoch while it saw a block decided by votes within this time.
    pub seal_veto_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            empty_block_interval_ms: 5_000,
            propose_ms: 600,
            prevote_ms: 300,
            precommit_ms: 300,
            round_delta_ms: 200,
            max_timeout_ms: 3_000,
            rebroadcast_ms: 700,
            seal_veto_ms: 15_000,
        }
    }
}

/// Number of blocks after which the turn to lead passes on.
pub const DEFAULT_LEADER_TERM_BLOCKS: u64 = 1_000;
/// Largest encoded block, bytes.
pub const DEFAULT_MAX_BLOCK_BYTES: u64 = 2 << 20;
/// Lowest base fee, wei: 1 gwei. Wallets read 0 as "no EIP-1559".
pub const DEFAULT_BASE_FEE_FLOOR: u64 = 1_000_000_000;

/// The `axolotl` object of a genesis document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AxolotlGenesis {
    /// Validators of epoch 0, in list order; each weighs 1.
    pub validators: Vec<Member>,
    /// How many of them must agree.
    #[serde(default)]
    pub quorum: QuorumRule,
    /// Key that signs epoch records. Without it the membership is fixed for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority_key: Option<PublicKey>,
    /// Offline key that may replace the authority key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offline_key: Option<PublicKey>,
    /// Timeouts.
    #[serde(default)]
    pub timing: Timing,
    /// Blocks after which the turn to lead passes on.
    #[serde(default = "default_leader_term_blocks")]
    pub leader_term_blocks: u64,
    /// Largest encoded block, bytes.
    #[serde(default = "default_max_block_bytes")]
    pub max_block_bytes: u64,
    /// Most bytes of logs in a block: 20 for each log, 32 for each topic, and its data. Chains of earlier
    /// releases have none, and only gas bounds their logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_log_bytes: Option<u64>,
    /// Lowest base fee, wei.
    #[serde(default = "default_base_fee_floor")]
    pub base_fee_floor: u64,
}

fn default_leader_term_blocks() -> u64 {
    DEFAULT_LEADER_TERM_BLOCKS
}

fn default_max_block_bytes() -> u64 {
    DEFAULT_MAX_BLOCK_BYTES
}

fn default_base_fee_floor() -> u64 {
    DEFAULT_BASE_FEE_FLOOR
}

/// A genesis document whose `axolotl` object was read and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenesisDocument {
    value: Value,
    axolotl: AxolotlGenesis,
    chain: ChainRef,
}

impl GenesisDocument {
    /// Reads a document from JSON text.
    ///
    /// # Errors
    /// When it is not JSON, or its chain id or `axolotl` object is missing or wrong.
    pub fn parse(text: &[u8]) -> Result<Self, GenesisError> {
        let value =
            serde_json::from_slice(text).map_err(|e| GenesisError::NotJson(e.to_string()))?;
        Self::from_value(value)
    }

    /// Reads a document that is JSON already.
    ///
    /// # Errors
    /// When its chain id or `axolotl` object is missing or wrong.
    pub fn from_value(value: Value) -> Result<Self, GenesisError> {
        let field = |field, why: &str| GenesisError::Field {
            field,
            why: why.to_owned(),
        };
        let id = value
            .pointer("/config/chainId")
            .ok_or_else(|| field("config.chainId", "missing"))?
            .as_u64()
            .filter(|id| *id > 0 && *id <= MAX_CHAIN_ID)
            .ok_or_else(|| field("config.chainId", "not a whole number from 1 to 2^53 - 1"))?;
        let object = value
            .get("axolotl")
            .ok_or_else(|| field("axolotl", "missing"))?;
        let axolotl = AxolotlGenesis::deserialize(object).map_err(|e| GenesisError::Field {
            field: "axolotl",
            why: e.to_string(),
        })?;
        axolotl.check()?;
        let chain = ChainRef {
            id: ChainId(id),
            genesis: Hash::sha256(value.to_string().as_bytes()),
        };
        Ok(Self {
            value,
            axolotl,
            chain,
        })
    }

    /// The whole document.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The `axolotl` object.
    pub fn axolotl(&self) -> &AxolotlGenesis {
        &self.axolotl
    }

    /// SHA-256 of the canonical form.
    pub fn hash(&self) -> Hash {
        self.chain.genesis
    }

    /// Chain id and hash.
    pub fn chain(&self) -> ChainRef {
        self.chain
    }

    /// The record of epoch 0.
    pub fn epoch(&self) -> EpochRecord {
        EpochRecord::genesis(&self.chain, self.axolotl.validators.clone())
    }
}

/// Largest chain id: what a JavaScript wallet can represent.
pub const MAX_CHAIN_ID: u64 = (1 << 53) - 1;

impl AxolotlGenesis {
    /// Whether the values fit together.
    fn check(&self) -> Result<(), GenesisError> {
        let fault = |field, why: String| Err(GenesisError::Field { field, why });
        if self.validators.is_empty() || self.validators.len() > MAX_MEMBERS {
            return fault(
                "axolotl.validators",
                format!(
                    "{} validators, expected 1 to {MAX_MEMBERS}",
                    self.validators.len()
                ),
            );
        }
        for (i, member) in self.validators.iter().enumerate() {
            let twice = self.validators[..i].iter().any(|other| {
                other.public_key == member.public_key
                    || other.node_id == member.node_id
                    || other.volume_id == member.volume_id
            });
            if twice {
                return fault(
                    "axolotl.validators",
                    format!("{} shares its id, key or volume", member.node_id),
                );
            }
        }
        let t = &self.timing;
        let timeouts = [
            t.empty_block_interval_ms,
            t.propose_ms,
            t.prevote_ms,
            t.precommit_ms,
            t.max_timeout_ms,
            t.rebroadcast_ms,
            t.seal_veto_ms,
        ];
        if timeouts.contains(&0) {
            return fault("axolotl.timing", "no time but roundDeltaMs may be 0".into());
        }
        if t.empty_block_interval_ms > t.seal_veto_ms / 3 {
            return fault(
                "axolotl.timing.emptyBlockIntervalMs",
                format!(
                    "{} is above a third of sealVetoMs ({})",
                    t.empty_block_interval_ms, t.seal_veto_ms
                ),
            );
        }
        if self.base_fee_floor == 0 {
            return fault(
                "axolotl.baseFeeFloor",
                "must be above 0: wallets read 0 as \"no EIP-1559\"".into(),
            );
        }
        if self.leader_term_blocks == 0 {
            return fault("axolotl.leaderTermBlocks", "must be above 0".into());
        }
        let sizes = MIN_MAX_BLOCK_BYTES..=MAX_MAX_BLOCK_BYTES;
        if !sizes.contains(&self.max_block_bytes) {
            return fault(
                "axolotl.maxBlockBytes",
                format!("expected {} to {}", sizes.start(), sizes.end()),
            );
        }
        if let Some(bytes) = self.max_log_bytes.filter(|b| *b < MIN_MAX_LOG_BYTES) {
            return fault(
                "axolotl.maxLogBytes",
                format!(
                    "{bytes} is less than the {MIN_MAX_LOG_BYTES} bytes that one transaction can log"
                ),
            );
        }
        Ok(())
    }
}

/// Chain id of the development genesis.
pub const DEV_CHAIN_ID: u64 = 7777;

/// The ten accounts of the mnemonic "test test test test test test test test test test test junk",
/// prefunded by the development genesis. Everybody knows their keys.
pub const DEV_ACCOUNTS: [&str; 10] = [
    "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266",
    "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
    "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC",
    "0x90F79bf6EB2c4f870365E785982E1f101E93b906",
    "0x15d34AAf54267DB7D7c367839AAf71A00a2C6A65",
    "0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc",
    "0x976EA74026E726554dB657fA54763abd0C3a0aa9",
    "0x14dC79964da2C08b23698B3D3cc7Ca32193d9955",
    "0x23618e81E3f5cdF7f54C3d65f7FBc0aBf5B21E8f",
    "0xa0Ee7A142d267C1f36714E4a8F75612F20a79720",
];

/// Balance of each development account, wei: 10,000 ether.
pub const DEV_BALANCE_HEX: &str = "0x21e19e0c9bab2400000";

/// The `config` object of a new chain, complete as geth asks for it: every fork up to Osaka from block 0
/// on. The blob schedule is that of Ethereum; a chain of Axolotl takes no blobs.
pub fn chain_config(chain_id: u64) -> Value {
    serde_json::json!({
        "chainId": chain_id,
        "homesteadBlock": 0,
        "eip150Block": 0,
        "eip155Block": 0,
        "eip158Block": 0,
        "byzantiumBlock": 0,
        "constantinopleBlock": 0,
        "petersburgBlock": 0,
        "istanbulBlock": 0,
        "berlinBlock": 0,
        "londonBlock": 0,
        "terminalTotalDifficulty": 0,
        "shanghaiTime": 0,
        "cancunTime": 0,
        "pragueTime": 0,
        "osakaTime": 0,
        "blobSchedule": {
            "cancun": { "target": 3, "max": 6, "baseFeeUpdateFraction": 3_338_477 },
            "prague": { "target": 6, "max": 9, "baseFeeUpdateFraction": 5_007_716 },
            "osaka": { "target": 6, "max": 9, "baseFeeUpdateFraction": 5_007_716 },
        },
    })
}

/// The development genesis document for these validators, by the rules of this release: those of Osaka,
/// with bounded logs. `timestamp` is in seconds since 1970.
pub fn dev_genesis(axolotl: &AxolotlGenesis, timestamp: u64) -> Value {
    let alloc: serde_json::Map<String, Value> = DEV_ACCOUNTS
        .iter()
        .map(|address| {
            (
                (*address).to_owned(),
                serde_json::json!({ "balance": DEV_BALANCE_HEX }),
            )
        })
        .collect();
    let mut axolotl = axolotl.clone();
    axolotl.max_log_bytes.get_or_insert(DEFAULT_MAX_LOG_BYTES);
    serde_json::json!({
        "config": chain_config(DEV_CHAIN_ID),
        "timestamp": format!("0x{timestamp:x}"),
        "gasLimit": format!("{:#x}", default_gas_limit(&axolotl.timing)),
        "alloc": alloc,
        "axolotl": axolotl,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        crypto::KeyPair,
        ids::{NodeId, VolumeId},
    };

    fn sample() -> AxolotlGenesis {
        let validators = (1..=4u8)
            .map(|i| Member {
                node_id: NodeId::numbered(i.into()),
                public_key: KeyPair::from_seed(&[i; 32]).public(),
                volume_id: VolumeId([i; 16]),
            })
            .collect();
        serde_json::from_value(serde_json::json!({ "validators": serde_json::to_value::<Vec<Member>>(validators).unwrap() }))
            .unwrap()
    }

    #[test]
    fn the_hash_does_not_depend_on_layout() {
        let value = dev_genesis(&sample(), 1);
        let pretty = serde_json::to_vec_pretty(&value).unwrap();
        let one = GenesisDocument::parse(&pretty).unwrap();
        let two = GenesisDocument::from_value(value).unwrap();
        assert_eq!(one.hash(), two.hash());
        assert_eq!(one.axolotl().validators.len(), 4);
    }

    #[test]
    fn each_wrong_value_is_named() {
        let cases: [(&str, Value, &str); 10] = [
            ("/config/chainId", 0.into(), "config.chainId"),
            (
                "/axolotl/validators",
                serde_json::json!([]),
                "axolotl.validators",
            ),
            ("/axolotl/baseFeeFloor", 0.into(), "axolotl.baseFeeFloor"),
            (
                "/axolotl/leaderTermBlocks",
                0.into(),
                "axolotl.leaderTermBlocks",
            ),
            ("/axolotl/maxBlockBytes", 1.into(), "axolotl.maxBlockBytes"),
            (
                "/axolotl/maxBlockBytes",
                ((8 << 20) + 1).into(),
                "axolotl.maxBlockBytes`: expected 65536 to 8388608",
            ),
            (
                "/axolotl/maxLogBytes",
                ((2 << 20) - 1).into(),
                "axolotl.maxLogBytes`: 2097151 is less than the 2097152 bytes",
            ),
            ("/axolotl/maxLogBytes", "8388608".into(), "axolotl"),
            ("/axolotl/timing/proposeMs", 0.into(), "axolotl.timing"),
            (
                "/axolotl/timing/emptyBlockIntervalMs",
                5001.into(),
                "emptyBlockIntervalMs",
            ),
        ];
        for (pointer, wrong, named) in cases {
            let mut value = dev_genesis(&sample(), 1);
            *value.pointer_mut(pointer).unwrap() = wrong;
            let error = GenesisDocument::from_value(value).unwrap_err().to_string();
            assert!(error.contains(named), "{pointer}: {error}");
        }
        let mut twice = dev_genesis(&sample(), 1);
        twice["axolotl"]["validators"][1] = twice["axolotl"]["validators"][0].clone();
        assert!(
            GenesisDocument::from_value(twice)
                .unwrap_err()
                .to_string()
                .contains("shares")
        );
    }
}
