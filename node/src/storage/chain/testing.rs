//! A small chain for tests: funded accounts, a contract that stores what it is told, and signed
//! transactions.

use std::{collections::VecDeque, path::Path, sync::Arc};

use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Address, Bytes, TxKind, U256};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use axolotl_common::{
    CommitCertificate, Epoch, Hash, Height, KeyPair, Member, NodeId, PublicKey, Round, VolumeId,
    genesis::{AxolotlGenesis, GenesisDocument},
};
use axolotl_ledger::{
    Block, BlockAttributes, ChainSpec, FlatState, Interruption, StateDiff, Transaction, Tx,
    TxSource, Unlimited, state::account_key,
};

use super::{Chain, Replay, StorageOptions};

pub(crate) const CHAIN_ID: u64 = 7777;
pub(crate) const GWEI: u128 = 1_000_000_000;
/// Its code stores word 1 of the call data in the slot that word 0 names, and logs 32 zero bytes.
pub(crate) const STORE: Address = Address::repeat_byte(0x57);
const STORE_CODE: &str = "0x60203560003555602060 00a000";

pub(crate) fn signer(i: u8) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&[i + 1; 32].into()).unwrap()
}

pub(crate) fn authority() -> KeyPair {
    KeyPair::from_seed(&[99; 32])
}

pub(crate) fn validator() -> PublicKey {
    KeyPair::from_seed(&[1; 32]).public()
}

/// A member whose key and volume follow from its number.
pub(crate) fn member(seed: u8) -> Member {
    Member {
        node_id: NodeId::numbered(seed.into()),
        public_key: KeyPair::from_seed(&[seed; 32]).public(),
        volume_id: VolumeId([seed; 16]),
    }
}

/// A chain with sixteen funded accounts and one validator.
pub(crate) fn spec(timestamp: u64) -> (Arc<ChainSpec>, StateDiff) {
    spec_of(timestamp, &[1])
}

/// A chain with sixteen funded accounts and these validators.
pub(crate) fn spec_of(timestamp: u64, validators: &[u8]) -> (Arc<ChainSpec>, StateDiff) {
    let members: Vec<Member> = validators.iter().map(|seed| member(*seed)).collect();
    let axolotl: AxolotlGenesis = serde_json::from_value(serde_json::json!({
        "validators": members,
        "authorityKey": authority().public(),
    }))
    .unwrap();
    let mut alloc: serde_json::Map<String, serde_json::Value> = (0..16)
        .map(|i| {
            let balance = serde_json::json!({ "balance": "0x21e19e0c9bab2400000" });
            (signer(i).address().to_string(), balance)
        })
        .collect();
    let contract = serde_json::json!({
        "balance": "0x1",
        "code": STORE_CODE.replace(' ', ""),
        "storage": { format!("0x{:064x}", 3): format!("0x{:064x}", 33) },
    });
    alloc.insert(STORE.to_string(), contract);
    let document = GenesisDocument::from_value(serde_json::json!({
        "config": { "chainId": CHAIN_ID },
        "timestamp": format!("0x{timestamp:x}"),
        "gasLimit": "0x11e1a300",
        "alloc": alloc,
        "axolotl": axolotl,
    }))
    .unwrap();
    ChainSpec::from_document(document).unwrap()
}

/// What a test transaction says.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) from: u8,
    pub(crate) nonce: u64,
    pub(crate) to: Address,
    pub(crate) value: u128,
    pub(crate) input: Vec<u8>,
    pub(crate) fee_cap: u128,
    pub(crate) tip: u128,
    pub(crate) gas: u64,
}

impl Call {
    pub(crate) fn transfer(from: u8, nonce: u64, to: Address, value: u128) -> Self {
        Self {
            from,
            nonce,
            to,
            value,
            input: Vec::new(),
            fee_cap: 100 * GWEI,
            tip: GWEI,
            gas: 21_000,
        }
    }

    pub(crate) fn store(from: u8, nonce: u64, slot: u64, value: u64) -> Self {
        let mut input = U256::from(slot).to_be_bytes::<32>().to_vec();
        input.extend(U256::from(value).to_be_bytes::<32>());
        Self {
            input,
            gas: 100_000,
            ..Self::transfer(from, nonce, STORE, 0)
        }
    }

    pub(crate) fn sign(self) -> Tx {
        let tx = TxEip1559 {
            chain_id: CHAIN_ID,
            nonce: self.nonce,
            gas_limit: self.gas,
            max_fee_per_gas: self.fee_cap,
            max_priority_fee_per_gas: self.tip,
            to: TxKind::Call(self.to),
            value: U256::from(self.value),
            access_list: Default::default(),
            input: Bytes::from(self.input),
        };
        let signature = signer(self.from)
            .sign_hash_sync(&tx.signature_hash())
            .unwrap();
        let raw = TxEnvelope::from(tx.into_signed(signature)).encoded_2718();
        Arc::new(Transaction::decode(&raw, CHAIN_ID.into()).unwrap())
    }
}

/// Hands out a list.
pub(crate) struct List(pub(crate) VecDeque<Tx>);

impl TxSource for List {
    fn next(&mut self) -> Option<Tx> {
        self.0.pop_front()
    }

    fn skip_sender(&mut self, tx: &Tx, why: &str) {
        panic!("{:?} was refused: {why}", tx.hash());
    }

    fn interrupted(&mut self, tx: &Tx, why: Interruption) {
        panic!("{:?} was interrupted: {why:?}", tx.hash());
    }
}

pub(crate) fn certificate(block: &Block) -> CommitCertificate {
    CommitCertificate {
        epoch: Epoch(0),
        height: Height(block.header.number),
        round: Round(0),
        block: Hash(block.hash().0),
        signatures: Vec::new(),
    }
}

pub(crate) fn open(dir: &Path, options: StorageOptions) -> Chain {
    let (spec, diff) = spec(1_000);
    Chain::open(dir, spec, diff, options, &mut |_: Replay| {}).unwrap()
}

/// Builds a block of these transactions and requests on the tip, and appends it.
pub(crate) fn append(chain: &Chain, txs: Vec<Tx>, requests: Vec<Bytes>) {
    let attributes = BlockAttributes {
        timestamp: 1_000 + chain.tip().header.number,
        builder: validator(),
        requests,
    };
    let count = txs.len();
    let built = chain
        .build(attributes, &mut List(txs.into()), &Unlimited)
        .unwrap();
    assert_eq!(built.block.transactions.len(), count);
    let certificate = certificate(&built.block);
    chain.append(built, certificate).unwrap();
}

/// The transactions of block `height` in the chain that [`grow`] makes.
pub(crate) fn block_txs(height: u64) -> Vec<Tx> {
    let n = height - 1;
    vec![
        Call::transfer(
            0,
            n,
            Address::repeat_byte(height as u8),
            1_000 + u128::from(height),
        )
        .sign(),
        // Every third block clears the slot that an earlier one set.
        Call::store(
            1,
            n,
            n % 5,
            if height.is_multiple_of(3) { 0 } else { height },
        )
        .sign(),
    ]
}

/// Appends and publishes blocks up to a height.
pub(crate) fn grow(chain: &Chain, to: u64) {
    for height in chain.tip().header.number + 1..=to {
        append(chain, block_txs(height), Vec::new());
        chain.publish().unwrap();
    }
}

/// A whole state, to be compared.
pub(crate) fn dump(state: &dyn FlatState) -> Vec<String> {
    use alloy_primitives::B256;
    use axolotl_ledger::state::{FIRST_KEY, LAST_KEY};
    let mut keys = Vec::new();
    let mut out = Vec::new();
    state
        .accounts_from(FIRST_KEY, LAST_KEY, &mut |key, account| {
            keys.push(key);
            out.push(format!("{key} {account:?}"));
        })
        .unwrap();
    assert!(keys.is_sorted());
    for key in keys {
        let account = state.account(&key).unwrap().unwrap();
        let mut slots: Vec<(B256, U256)> = Vec::new();
        state
            .storage_from(&key, FIRST_KEY, LAST_KEY, &mut |slot, value| {
                slots.push((slot, value));
            })
            .unwrap();
        assert!(slots.is_sorted());
        assert!(state.slot_count(&key).unwrap() >= slots.len() as u64);
        for (slot, value) in slots {
            assert_eq!(state.storage(&key, &slot).unwrap(), value);
            out.push(format!("{key} {slot} {value}"));
        }
        let code = state.code(&account.code_hash).unwrap();
        assert_eq!(code.is_some(), account.has_code(), "{account:?}");
    }
    out
}

/// Nonce of a test account.
pub(crate) fn nonce_of(state: &dyn FlatState, i: u8) -> u64 {
    let account = state.account(&account_key(&signer(i).address())).unwrap();
    account.unwrap_or_default().nonce
}
