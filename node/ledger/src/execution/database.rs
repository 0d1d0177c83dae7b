//! What revm reads and writes while a block is executed.

use std::collections::BTreeMap;

use alloy_eips::eip2935::{HISTORY_SERVE_WINDOW, HISTORY_STORAGE_ADDRESS};
use alloy_primitives::{
    Address, B256, Bytes, U256,
    map::{AddressMap, B256Map, HashMap, hash_map::Entry},
};
use alloy_trie::KECCAK_EMPTY;
use revm::{
    Database, DatabaseCommit,
    database_interface::DBErrorMarker,
    state::{Account as EvmAccount, AccountInfo, Bytecode},
};

use super::{CallError, StateOverride};
use crate::state::{Account, FlatState, StateDiff, StateError, account_key, slot_key};

impl DBErrorMarker for StateError {}

/// A state with what the transactions so far changed in it.
///
/// An account with storage always has code or a nonce: contracts have, delegated accounts
/// (EIP-7702) have, and a genesis is refused otherwise. Such an account is never created again, and
/// since EIP-6780 only an account that was created in the same transaction is destroyed; so the
/// stored slots of an account are never wiped, only set one by one.
pub(super) struct BlockState<'a> {
    base: &'a dyn FlatState,
    accounts: AddressMap<CachedAccount>,
    code: B256Map<Bytecode>,
}

/// An account that was read.
struct CachedAccount {
    key: B256,
    /// As it is in the base.
    before: Option<Account>,
    /// As it is now.
    info: Option<AccountInfo>,
    /// Slots that were read or written.
    storage: HashMap<U256, Slot>,
    /// Slots that are not in `storage` are zero, whatever the base says.
    cleared: bool,
}

/// A storage slot that was read or written.
struct Slot {
    before: U256,
    now: U256,
}

impl<'a> BlockState<'a> {
    pub(super) fn new(base: &'a dyn FlatState) -> Self {
        Self {
            base,
            accounts: AddressMap::default(),
            code: B256Map::default(),
        }
    }

    fn account(&mut self, address: Address) -> Result<&mut CachedAccount, StateError> {
        Ok(match self.accounts.entry(address) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let key = account_key(&address);
                let before = self.base.account(&key)?;
                entry.insert(CachedAccount {
                    key,
                    before,
                    info: before.map(|account| AccountInfo {
                        balance: account.balance,
                        nonce: account.nonce,
                        code_hash: account.code_hash,
                        ..AccountInfo::default().without_code()
                    }),
                    storage: HashMap::default(),
                    cleared: false,
                })
            }
        })
    }

    /// Pretends something about an account.
    pub(super) fn pretend(
        &mut self,
        address: Address,
        pretended: &StateOverride,
    ) -> Result<(), CallError> {
        if pretended.state.is_some() && pretended.state_diff.is_some() {
            return Err(CallError::Request(format!(
                "account {address} has both 'state' and 'stateDiff'"
            )));
        }
        let account = self.account(address)?;
        let info = account
            .info
            .get_or_insert_with(|| AccountInfo::default().without_code());
        if let Some(balance) = pretended.balance {
            info.balance = balance;
        }
        if let Some(nonce) = pretended.nonce {
            info.nonce = nonce;
        }
        let code = pretended.code.clone().map(bytecode);
        if let Some(code) = &code {
            info.code_hash = code.hash_slow();
        }
        account.cleared |= pretended.state.is_some();
        for slots in [&pretended.state, &pretended.state_diff]
            .into_iter()
            .flatten()
        {
            for (slot, value) in slots {
                let (before, now) = (U256::ZERO, (*value).into());
                account.storage.insert((*slot).into(), Slot { before, now });
            }
        }
        if let Some(code) = code {
            self.code.insert(code.hash_slow(), code);
        }
        Ok(())
    }

    /// Whether an account has code now.
    pub(super) fn has_code(&mut self, address: Address) -> Result<bool, StateError> {
        let info = &self.account(address)?.info;
        Ok(info.as_ref().is_some_and(|info| !info.is_empty_code_hash()))
    }

    /// The balance of an account now, wei.
    pub(super) fn balance(&mut self, address: Address) -> Result<U256, StateError> {
        let info = &self.account(address)?.info;
        Ok(info.as_ref().map(|info| info.balance).unwrap_or_default())
    }

    /// What differs from the base. Storage roots are still the old ones.
    pub(super) fn into_diff(self) -> StateDiff {
        let mut diff = StateDiff::default();
        // The maps are walked in no particular order; the result is sorted by key.
        for account in self.accounts.into_values() {
            let slots: BTreeMap<B256, U256> = account
                .storage
                .iter()
                .filter(|(_, slot)| slot.now != slot.before)
                .map(|(slot, value)| (slot_key(slot), value.now))
                .collect();
            let before = account.before.unwrap_or_default();
            let now = account.info.map(|info| Account {
                nonce: info.nonce,
                balance: info.balance,
                code_hash: info.code_hash,
                storage_root: before.storage_root,
            });
            if now == account.before && slots.is_empty() {
                continue;
            }
            if let Some(now) = now.filter(|now| now.code_hash != before.code_hash)
                && let Some(code) = self.code.get(&now.code_hash)
            {
                diff.code.insert(now.code_hash, code.original_bytes());
            }
            diff.accounts.insert(account.key, now);
            if !slots.is_empty() {
                diff.storage.insert(account.key, slots);
            }
        }
        diff
    }
}

/// Code as revm wants it. What begins like a delegation (EIP-7702) but is none is plain code: only
/// a genesis can hold it.
fn bytecode(code: Bytes) -> Bytecode {
    Bytecode::new_raw_checked(code.clone()).unwrap_or_else(|_| Bytecode::new_legacy(code))
}

impl Database for BlockState<'_> {
    type Error = StateError;

    fn basic(&mut self, address: Address) -> Result<Option<AccountInfo>, StateError> {
        Ok(self.account(address)?.info.clone())
    }

    fn code_by_hash(&mut self, hash: B256) -> Result<Bytecode, StateError> {
        if hash == KECCAK_EMPTY {
            return Ok(Bytecode::default());
        }
        if let Some(code) = self.code.get(&hash) {
            return Ok(code.clone());
        }
        let code = self.base.code(&hash)?;
        let code = code.ok_or_else(|| StateError(format!("the code {hash} is missing")))?;
        Ok(self.code.entry(hash).or_insert(bytecode(code)).clone())
    }

    fn storage(&mut self, address: Address, slot: U256) -> Result<U256, StateError> {
        let base = self.base;
        let account = self.account(address)?;
        Ok(match account.storage.entry(slot) {
            Entry::Occupied(entry) => entry.get().now,
            Entry::Vacant(entry) => {
                let value = if account.cleared || account.before.is_none() {
                    U256::ZERO
                } else {
                    base.storage(&account.key, &slot_key(&slot))?
                };
                let slot = Slot {
                    before: value,
                    now: value,
                };
                entry.insert(slot).now
            }
        })
    }

    /// The EIP-2935 contract remembers more blocks than `BLOCKHASH` may ask for.
    fn block_hash(&mut self, number: u64) -> Result<B256, StateError> {
        let slot = U256::from(number % HISTORY_SERVE_WINDOW as u64);
        self.storage(HISTORY_STORAGE_ADDRESS, slot).map(B256::from)
    }
}

impl DatabaseCommit for BlockState<'_> {
    fn commit(&mut self, changes: AddressMap<EvmAccount>) {
        for (address, account) in changes {
            if !account.is_touched() {
                continue;
            }
            let Some(cached) = self.accounts.get_mut(&address) else {
                continue; // revm reads an account before it touches it
            };
            let gone = account.is_selfdestructed();
            // Whatever is created or destroyed had no storage before its transaction (see above).
            cached.cleared |= gone || account.is_created();
            if gone || account.info.is_empty() {
                cached.info = None; // EIP-161: an empty account that was touched is removed
                continue;
            }
            for (slot, value) in account.storage {
                if value.is_changed() {
                    let now = value.present_value();
                    let before = U256::ZERO;
                    let written = |slot: &mut Slot| slot.now = now;
                    cached
                        .storage
                        .entry(slot)
                        .and_modify(written)
                        .or_insert(Slot { before, now });
                }
            }
            let mut info = account.info;
            if let Some(code) = info.take_bytecode()
                && !info.is_empty_code_hash()
            {
                self.code.entry(info.code_hash).or_insert(code);
            }
            cached.info = Some(info);
        }
    }
}
