//! Block 0: geth's genesis JSON read into a header and a state.
//!
//! Of geth's fields, `alloc`, `gasLimit`, `timestamp`, `baseFeePerGas`, `coinbase`, `mixHash` and
//! `nonce` count. `extraData` is replaced by the hash of the document, so that the hash of block 0
//! commits to the validators as well. `config` holds the fork schedule ([`crate::rules`]); `difficulty`
//! means nothing since the merge.
//!
//! A document whose limits would let a block be decided that no node can store is refused
//! ([`axolotl_common::limits`]), here and so at each start of a node.
//!
//! The EIP-2935 history contract is added to every genesis that does not hold it, as geth does for
//! its own development chains: `BLOCKHASH` is answered from it.

use std::{collections::BTreeMap, sync::Arc};

use alloy_consensus::{EMPTY_OMMER_ROOT_HASH, Header};
use alloy_eips::eip2935::{HISTORY_STORAGE_ADDRESS, HISTORY_STORAGE_CODE};
use alloy_primitives::{Address, B64, B256, Bytes, U256, keccak256};
use alloy_trie::{EMPTY_ROOT_HASH, KECCAK_EMPTY};
use axolotl_common::{
    ChainRef, PublicKey,
    genesis::GenesisDocument,
    limits::{BlockLimits, RLP_HEAD_BYTES, Unstorable},
    membership::MAX_RECORD_BYTES,
};
use serde_json::{Map, Value};

use crate::{
    block::{Block, MAX_FRAME_BYTES, requests_hash},
    rules::{ForkFault, Rules, read_schedule},
    state::{
        Account, MemoryState, StateDiff, account_key, slot_key, state_root_from_scratch,
        storage_root_from_scratch,
    },
};

/// Base fee of block 0 when the document names none, wei per gas (EIP-1559).
pub const INITIAL_BASE_FEE: u64 = 1_000_000_000;
/// Bounds of the gas limit, as in geth.
pub const GAS_LIMITS: std::ops::RangeInclusive<u64> = 5_000..=i64::MAX as u64;

/// What is wrong with a field of a genesis document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldFault {
    /// It is not there.
    #[error("missing")]
    Missing,
    /// It cannot be read, or its value is not allowed.
    #[error("{0}")]
    Value(String),
    /// A fork that is unknown or out of place.
    #[error(transparent)]
    Fork(#[from] ForkFault),
    /// The limits do not fit together.
    #[error(transparent)]
    Limits(#[from] Unstorable),
}

impl From<String> for FieldFault {
    fn from(why: String) -> Self {
        Self::Value(why)
    }
}

impl From<&str> for FieldFault {
    fn from(why: &str) -> Self {
        Self::Value(why.to_owned())
    }
}

/// One fault of a genesis document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("genesis field `{field}`: {why}")]
pub struct GenesisFault {
    /// Path of the field.
    pub field: String,
    /// What is wrong with it.
    pub why: FieldFault,
}

/// Why a document is not a genesis: all its faults.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct GenesisError(pub Vec<GenesisFault>);

/// What all nodes of a chain agree on from the start.
#[derive(Clone, Debug)]
pub struct ChainSpec {
    /// Chain id, and hash of the genesis document.
    pub chain: ChainRef,
    /// The genesis document.
    pub genesis: GenesisDocument,
    /// Gas limit of every block.
    pub gas_limit: u64,
    /// Lowest base fee, wei per gas.
    pub base_fee_floor: u64,
    /// Largest encoded block, bytes, but for the record that it may carry.
    pub max_block_bytes: usize,
    /// Most bytes of logs in a block ([`crate::receipts::log_bytes`]); `None` on chains of earlier releases.
    pub max_log_bytes: Option<u64>,
    /// First time stamp of a block at the rules of Osaka; without it Prague's hold for ever.
    pub osaka_time: Option<u64>,
    /// Key that signs epoch records; without it there is never a record in a block.
    pub authority_key: Option<PublicKey>,
    /// Block 0.
    pub genesis_block: Block,
}

impl ChainSpec {
    /// Reads a genesis document: the chain's parameters, and the state of block 0 as a difference
    /// to nothing.
    ///
    /// # Errors
    /// When fields are missing or wrong; all of them are named.
    pub fn from_document(doc: GenesisDocument) -> Result<(Arc<Self>, StateDiff), GenesisError> {
        let mut faults = Faults::default();
        let root = doc.value();
        let floor = doc.axolotl().base_fee_floor;
        let gas_limit = faults.required(root, "gasLimit", u64_of);
        if let Some(limit) = gas_limit.filter(|limit| !GAS_LIMITS.contains(limit)) {
            let (least, most) = GAS_LIMITS.into_inner();
            faults.add("gasLimit", format!("{limit} is not from {least} to {most}"));
        }
        let timestamp = faults.optional(root, "timestamp", u64_of);
        let base_fee = faults.optional(root, "baseFeePerGas", u64_of);
        if let Some(fee) = base_fee.filter(|fee| *fee < floor) {
            faults.add(
                "baseFeePerGas",
                format!("{fee} is below axolotl.baseFeeFloor ({floor})"),
            );
        }
        let coinbase = faults.optional(root, "coinbase", address_of);
        let mix_hash = faults.optional(root, "mixHash", word_of);
        let nonce = faults.optional(root, "nonce", u64_of);
        for zero in [
            "number",
            "gasUsed",
            "parentHash",
            "excessBlobGas",
            "blobGasUsed",
        ] {
            if faults
                .optional(root, zero, number_of)
                .is_some_and(|n| !n.is_zero())
            {
                faults.add(zero, "must be zero or left out");
            }
        }
        let max_log_bytes = doc.axolotl().max_log_bytes;
        let config = root.get("config").unwrap_or(&Value::Null);
        let genesis_time = timestamp.unwrap_or_default();
        let (osaka_time, forks) = read_schedule(config, genesis_time, max_log_bytes.is_some());
        for (name, fault) in forks {
            faults.add(format!("config.{name}"), fault);
        }
        if let Some(gas_limit) = gas_limit.filter(|limit| GAS_LIMITS.contains(limit)) {
            let limits = BlockLimits {
                gas_limit,
                max_block_bytes: doc.axolotl().max_block_bytes,
                max_log_bytes,
            };
            if let Err(unstorable) = limits.check() {
                faults.add("gasLimit", unstorable);
            }
        }
        let state = faults.alloc(root);
        if !faults.0.is_empty() {
            return Err(GenesisError(faults.0));
        }
        let gas_limit = gas_limit.unwrap_or_default();
        let header = Header {
            ommers_hash: EMPTY_OMMER_ROOT_HASH,
            beneficiary: coinbase.unwrap_or_default(),
            state_root: state_root_from_scratch(&MemoryState::from_diff(&state))
                .expect("a state in memory can be read"),
            transactions_root: EMPTY_ROOT_HASH,
            receipts_root: EMPTY_ROOT_HASH,
            gas_limit,
            timestamp: timestamp.unwrap_or_default(),
            extra_data: Bytes::copy_from_slice(&doc.hash().0),
            mix_hash: mix_hash.unwrap_or_default(),
            nonce: B64::from(nonce.unwrap_or_default()),
            base_fee_per_gas: Some(base_fee.unwrap_or(INITIAL_BASE_FEE.max(floor))),
            withdrawals_root: Some(EMPTY_ROOT_HASH),
            blob_gas_used: Some(0),
            excess_blob_gas: Some(0),
            parent_beacon_block_root: Some(B256::ZERO),
            requests_hash: Some(requests_hash(&[])),
            ..Header::default()
        };
        let spec = Self {
            chain: doc.chain(),
            gas_limit,
            base_fee_floor: floor,
            max_block_bytes: usize::try_from(doc.axolotl().max_block_bytes).unwrap_or(usize::MAX),
            max_log_bytes,
            osaka_time,
            authority_key: doc.axolotl().authority_key,
            genesis_block: Block::new(header, Vec::new(), Vec::new()),
            genesis: doc,
        };
        Ok((Arc::new(spec), state))
    }

    /// Largest encoded block with the record that it may carry, bytes.
    pub fn max_encoded_bytes(&self) -> usize {
        self.max_block_bytes
            .saturating_add(MAX_RECORD_BYTES + RLP_HEAD_BYTES)
    }

    /// Room for the encoded transactions of a block, bytes.
    pub fn max_transactions_bytes(&self) -> usize {
        self.max_block_bytes.saturating_sub(MAX_FRAME_BYTES)
    }

    /// The rules of a block with this time stamp.
    pub fn rules_at(&self, timestamp: u64) -> Rules {
        match self.osaka_time {
            Some(from) if timestamp >= from => Rules::Osaka,
            _ => Rules::Prague,
        }
    }

    /// What bounds the size of a block.
    pub fn block_limits(&self) -> BlockLimits {
        BlockLimits {
            gas_limit: self.gas_limit,
            max_block_bytes: self.max_block_bytes as u64,
            max_log_bytes: self.max_log_bytes,
        }
    }

    /// EIP-155 chain id.
    pub fn chain_id(&self) -> u64 {
        self.chain.id.0
    }

    /// Hash of block 0.
    pub fn genesis_hash_block(&self) -> B256 {
        self.genesis_block.hash()
    }
}

/// The faults found so far.
#[derive(Default)]
struct Faults(Vec<GenesisFault>);

impl Faults {
    fn add(&mut self, field: impl Into<String>, why: impl Into<FieldFault>) {
        self.0.push(GenesisFault {
            field: field.into(),
            why: why.into(),
        });
    }

    fn checked<T>(&mut self, field: &str, read: Result<T, String>) -> Option<T> {
        read.map_err(|why| self.add(field, why)).ok()
    }

    fn optional<T>(
        &mut self,
        object: &Value,
        field: &str,
        read: impl Fn(&Value) -> Result<T, String>,
    ) -> Option<T> {
        let value = object.get(field).filter(|value| !value.is_null())?;
        self.checked(field, read(value))
    }

    fn required<T>(
        &mut self,
        object: &Value,
        field: &str,
        read: impl Fn(&Value) -> Result<T, String>,
    ) -> Option<T> {
        if object.get(field).is_none_or(Value::is_null) {
            self.add(field, FieldFault::Missing);
            return None;
        }
        self.optional(object, field, read)
    }

    /// Reads `alloc` into accounts, storage and code.
    fn alloc(&mut self, root: &Value) -> StateDiff {
        let mut diff = StateDiff::default();
        let mut supply = U256::ZERO;
        let Some(alloc) = root.get("alloc") else {
            self.add("alloc", FieldFault::Missing);
            return diff;
        };
        let Some(alloc) = alloc.as_object() else {
            self.add("alloc", "not an object");
            return diff;
        };
        for (name, entry) in alloc {
            let path = format!("alloc.{name}");
            let Some(address) = self.checked(&path, address_of_text(name)) else {
                continue;
            };
            let Some(entry) = entry.as_object() else {
                self.add(path, "not an object");
                continue;
            };
            let key = account_key(&address);
            if diff.accounts.contains_key(&key) {
                self.add(path, "the account is there twice");
                continue;
            }
            let account = self.account(&path, &address, entry, &mut diff);
            match supply.checked_add(account.balance) {
                Some(sum) => supply = sum,
                None => self.add(path, "all balances together are no 256-bit number"),
            }
            diff.accounts.insert(key, Some(account));
        }
        let history = account_key(&HISTORY_STORAGE_ADDRESS);
        diff.accounts.entry(history).or_insert_with(|| {
            let code_hash = keccak256(&HISTORY_STORAGE_CODE);
            diff.code.insert(code_hash, HISTORY_STORAGE_CODE.clone());
            Some(Account {
                nonce: 1,
                code_hash,
                ..Account::default()
            })
        });
        diff
    }

    /// Reads one account; its storage and code go into `diff`.
    fn account(
        &mut self,
        path: &str,
        address: &Address,
        entry: &Map<String, Value>,
        diff: &mut StateDiff,
    ) -> Account {
        let mut account = Account::default();
        let at = |field: &str| format!("{path}.{field}");
        let given = |field: &str| entry.get(field).filter(|value| !value.is_null());
        match given("balance") {
            None => self.add(at("balance"), FieldFault::Missing),
            Some(value) => {
                let balance = self.checked(&at("balance"), number_of(value));
                account.balance = balance.unwrap_or_default();
            }
        }
        if let Some(value) = given("nonce") {
            account.nonce = self
                .checked(&at("nonce"), u64_of(value))
                .unwrap_or_default();
        }
        if let Some(value) = given("code") {
            let code = self
                .checked(&at("code"), bytes_of(value))
                .unwrap_or_default();
            if !code.is_empty() {
                account.code_hash = keccak256(&code);
                diff.code.insert(account.code_hash, code);
            }
        }
        if *address == HISTORY_STORAGE_ADDRESS
            && account.code_hash != keccak256(&HISTORY_STORAGE_CODE)
        {
            self.add(
                at("code"),
                "must be that of EIP-2935; leave the account out to have it",
            );
        }
        let Some(storage) = given("storage") else {
            return account;
        };
        let Some(storage) = storage.as_object() else {
            self.add(at("storage"), "not an object");
            return account;
        };
        let mut slots = BTreeMap::new();
        for (slot, value) in storage {
            let place = format!("{path}.storage.{slot}");
            let slot = self.checked(&place, word_of_text(slot));
            let value = self.checked(&place, word_of(value));
            if let (Some(slot), Some(value)) = (slot, value)
                && !value.is_zero()
            {
                slots.insert(slot_key(&slot.into()), value.into());
            }
        }
        if slots.is_empty() {
            return account;
        }
        if account.nonce == 0 && account.code_hash == KECCAK_EMPTY {
            self.add(
                at("storage"),
                "an account with neither code nor nonce has no storage",
            );
        }
        let key = account_key(address);
        let alone = StateDiff {
            storage: BTreeMap::from([(key, slots)]),
            ..StateDiff::default()
        };
        account.storage_root = storage_root_from_scratch(&MemoryState::from_diff(&alone), &key)
            .expect("a state in memory can be read");
        diff.storage.extend(alone.storage);
        account
    }
}

fn digits_of(text: &str) -> &str {
    let prefixed = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    prefixed.unwrap_or(text)
}

/// geth's `HexOrDecimal256`: text in hexadecimal with `0x`, or in decimal, or a JSON number.
fn number_of(value: &Value) -> Result<U256, String> {
    const WHAT: &str = "not a whole number below 2^256, in decimal or in hexadecimal with 0x";
    let parsed = match value {
        Value::Number(number) => number.as_u64().map(U256::from),
        Value::String(text) if text.is_empty() => Some(U256::ZERO),
        Value::String(text) => {
            let digits = digits_of(text);
            let radix = if digits.len() < text.len() { 16 } else { 10 };
            // The parser of the library accepts underscores, geth does not.
            let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
            plain
                .then(|| U256::from_str_radix(digits, radix).ok())
                .flatten()
        }
        _ => None,
    };
    parsed.ok_or_else(|| WHAT.to_owned())
}

fn u64_of(value: &Value) -> Result<u64, String> {
    u64::try_from(number_of(value)?).map_err(|_| "not below 2^64".to_owned())
}

fn text_of(value: &Value) -> Result<&str, String> {
    value.as_str().ok_or_else(|| "not a text".to_owned())
}

fn address_of(value: &Value) -> Result<Address, String> {
    address_of_text(text_of(value)?)
}

fn address_of_text(text: &str) -> Result<Address, String> {
    let mut bytes = [0; 20];
    hex::decode_to_slice(digits_of(text), &mut bytes)
        .map_err(|_| "not an address: expected 40 hexadecimal digits".to_owned())?;
    Ok(bytes.into())
}

fn word_of(value: &Value) -> Result<B256, String> {
    word_of_text(text_of(value)?)
}

/// geth's storage keys and values: up to 32 bytes in hexadecimal, the leading ones may be missing.
fn word_of_text(text: &str) -> Result<B256, String> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(format!("{:0>64}", digits_of(text)), &mut bytes)
        .map_err(|_| "not up to 64 hexadecimal digits".to_owned())?;
    Ok(bytes.into())
}

fn bytes_of(value: &Value) -> Result<Bytes, String> {
    let text = text_of(value)?;
    let digits = text.strip_prefix("0x").ok_or("hexadecimal without 0x")?;
    hex::decode(digits)
        .map(Bytes::from)
        .map_err(|e| format!("not hexadecimal: {e}"))
}
