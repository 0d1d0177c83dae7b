//! State: accounts, storage and code, keyed by the Keccak-256 of address and slot as in the trie.
//!
//! State is flat: a store maps keys to accounts and slots, and [`RootCache`] derives Ethereum's
//! state root from that. Execution reads through [`FlatState`] and yields a [`StateDiff`]; nothing
//! is written before a block is decided.

mod cost;
mod memory;
mod overlay;
mod root;
mod storage_tries;
mod trie;

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_rlp::{Decodable, Encodable, Header as RlpHeader};
use alloy_trie::{EMPTY_ROOT_HASH, KECCAK_EMPTY};

pub use cost::{LEAVES_PER_SECOND, RootCost, RootEstimate};
pub use memory::MemoryState;
pub use overlay::Overlay;
pub use root::{
    MAX_CACHE_BYTES, RootCache, RootDelta, state_root_from_scratch, storage_root_from_scratch,
};

/// The state could not be read. The store below failed, which is fatal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the state cannot be read: {0}")]
pub struct StateError(pub String);

/// Smallest key.
pub const FIRST_KEY: B256 = B256::ZERO;
/// Largest key.
pub const LAST_KEY: B256 = B256::repeat_byte(0xff);

/// An account as the state trie holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// Transactions sent from it, or contracts created by it.
    pub nonce: u64,
    /// Wei.
    pub balance: U256,
    /// Keccak-256 of its code.
    pub code_hash: B256,
    /// Root of its storage trie.
    pub storage_root: B256,
}

impl Default for Account {
    fn default() -> Self {
        Self {
            nonce: 0,
            balance: U256::ZERO,
            code_hash: KECCAK_EMPTY,
            storage_root: EMPTY_ROOT_HASH,
        }
    }
}

impl Account {
    /// Whether the account counts as absent (EIP-161).
    pub fn is_empty(&self) -> bool {
        self.nonce == 0 && self.balance.is_zero() && self.code_hash == KECCAK_EMPTY
    }

    /// Whether the account has code.
    pub fn has_code(&self) -> bool {
        self.code_hash != KECCAK_EMPTY
    }

    /// The value in the state trie: RLP of nonce, balance, storage root, code hash.
    pub fn trie_value(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_trie_value(&mut out);
        out
    }

    /// Appends [`Account::trie_value`].
    fn encode_trie_value(&self, out: &mut Vec<u8>) {
        self.encode_fields(&self.storage_root.0, &self.code_hash.0, out);
    }

    /// A shorter form for a store: the hashes of empty code and empty storage are left out, as in
    /// the snapshots of geth ("slim").
    pub fn encode(&self) -> Vec<u8> {
        let slim = |hash: &B256, empty| {
            if *hash == empty {
                Vec::new()
            } else {
                hash.to_vec()
            }
        };
        let mut out = Vec::new();
        self.encode_fields(
            &slim(&self.storage_root, EMPTY_ROOT_HASH),
            &slim(&self.code_hash, KECCAK_EMPTY),
            &mut out,
        );
        out
    }

    fn encode_fields(&self, root: &[u8], code: &[u8], out: &mut Vec<u8>) {
        let payload_length =
            self.nonce.length() + self.balance.length() + root.length() + code.length();
        let header = RlpHeader {
            list: true,
            payload_length,
        };
        out.reserve(header.length_with_payload());
        header.encode(out);
        self.nonce.encode(out);
        self.balance.encode(out);
        root.encode(out);
        code.encode(out);
    }

    /// Reads what [`Account::encode`] or [`Account::trie_value`] wrote.
    ///
    /// # Errors
    /// When the bytes are anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let error = |why: &dyn std::fmt::Display| StateError(format!("account: {why}"));
        let mut rest = bytes;
        let mut body = RlpHeader::decode_bytes(&mut rest, true).map_err(|e| error(&e))?;
        let nonce = u64::decode(&mut body).map_err(|e| error(&e))?;
        let balance = U256::decode(&mut body).map_err(|e| error(&e))?;
        let mut hash = |empty| {
            let bytes = RlpHeader::decode_bytes(&mut body, false).map_err(|e| error(&e))?;
            match bytes.len() {
                0 => Ok(empty),
                32 => Ok(B256::from_slice(bytes)),
                n => Err(error(&format!("a hash of {n} bytes"))),
            }
        };
        let storage_root = hash(EMPTY_ROOT_HASH)?;
        let code_hash = hash(KECCAK_EMPTY)?;
        if body.is_empty() && rest.is_empty() {
            Ok(Self {
                nonce,
                balance,
                code_hash,
                storage_root,
            })
        } else {
            Err(error(&"bytes after its end"))
        }
    }
}

/// Key of an account.
pub fn account_key(address: &Address) -> B256 {
    keccak256(address)
}

/// Key of a storage slot.
pub fn slot_key(slot: &U256) -> B256 {
    keccak256(slot.to_be_bytes::<32>())
}

/// What a block changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateDiff {
    /// Accounts after the block, by key; `None` is a removed one.
    pub accounts: BTreeMap<B256, Option<Account>>,
    /// Slots after the block, by account and key; zero is a removed one.
    pub storage: BTreeMap<B256, BTreeMap<B256, U256>>,
    /// New code by hash. Code is never removed.
    pub code: BTreeMap<B256, Bytes>,
}

impl StateDiff {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty() && self.storage.is_empty() && self.code.is_empty()
    }

    /// The difference that takes this one back, given the state before it. Code stays.
    ///
    /// # Errors
    /// When `before` cannot be read.
    pub fn inverse(&self, before: &dyn FlatState) -> Result<Self, StateError> {
        let mut inverse = Self::default();
        for key in self.accounts.keys() {
            inverse.accounts.insert(*key, before.account(key)?);
        }
        for (account, slots) in &self.storage {
            let mut old = BTreeMap::new();
            for slot in slots.keys() {
                old.insert(*slot, before.storage(account, slot)?);
            }
            inverse.storage.insert(*account, old);
        }
        Ok(inverse)
    }
}

/// The state at one block. Implemented by the store, by [`MemoryState`], and by [`Overlay`] for a
/// state with a difference on top.
pub trait FlatState: Send + Sync {
    /// The account with this key.
    ///
    /// # Errors
    /// When the store fails, as with every method here.
    fn account(&self, key: &B256) -> Result<Option<Account>, StateError>;

    /// A storage slot; zero when it was never set.
    ///
    /// # Errors
    /// When the store fails.
    fn storage(&self, account: &B256, slot: &B256) -> Result<U256, StateError>;

    /// The code with this hash.
    ///
    /// # Errors
    /// When the store fails.
    fn code(&self, hash: &B256) -> Result<Option<Bytes>, StateError>;

    /// All accounts with keys from `lo` to `hi`, both inclusive, in ascending order.
    ///
    /// # Errors
    /// When the store fails.
    fn accounts_from(
        &self,
        lo: B256,
        hi: B256,
        f: &mut dyn FnMut(B256, &Account),
    ) -> Result<(), StateError>;

    /// All non-zero slots of an account with keys from `lo` to `hi`, both inclusive, in ascending
    /// order.
    ///
    /// # Errors
    /// When the store fails.
    fn storage_from(
        &self,
        account: &B256,
        lo: B256,
        hi: B256,
        f: &mut dyn FnMut(B256, U256),
    ) -> Result<(), StateError>;

    /// About how many non-zero slots an account has, without reading them: not fewer than there are.
    ///
    /// # Errors
    /// When the store fails.
    fn slot_count(&self, account: &B256) -> Result<u64, StateError>;
}
