//! A chain in memory, signers, and a few contracts.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test program uses its part"
)]

use std::{collections::VecDeque, sync::Arc};

use alloy_consensus::{
    Header, SignableTransaction, TxEip1559, TxEip2930, TxEip7702, TxEnvelope, TxLegacy,
};
use alloy_eips::{
    eip2718::Encodable2718,
    eip7702::{Authorization, SignedAuthorization},
};
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, keccak256};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use axolotl_common::{
    KeyPair, Member, NodeId, PublicKey, SignedRecord, ValidatorSet, VolumeId,
    genesis::{AxolotlGenesis, GenesisDocument, dev_genesis},
};
use axolotl_ledger::{
    Block, BlockAttributes, ChainSpec, DueRecord, ExecutedBlock, ExecutionError, Governance,
    Interruption, MemoryState, RootCache, StateDiff, Transaction, TransactionError, Tx, TxSource,
    Unlimited, build_block, execute_block,
};
use serde_json::{Value, json};

pub const CHAIN: u64 = 7777;
pub const GENESIS_TIME: u64 = 1_800_000_000;
pub const GWEI: u128 = 1_000_000_000;

pub fn member(i: u8) -> Member {
    Member {
        node_id: NodeId::numbered(i.into()),
        public_key: KeyPair::from_seed(&[i; 32]).public(),
        volume_id: VolumeId([i; 16]),
    }
}

pub fn authority() -> KeyPair {
    KeyPair::from_seed(&[0xaa; 32])
}

pub fn axolotl() -> AxolotlGenesis {
    let members: Vec<Member> = (1..=4).map(member).collect();
    serde_json::from_value(json!({
        "validators": members,
        "authorityKey": authority().public(),
    }))
    .unwrap()
}

/// The development genesis with the test's own accounts beside the well-known ones.
pub fn genesis(accounts: &[(Address, Value)]) -> Value {
    let mut document = dev_genesis(&axolotl(), GENESIS_TIME);
    for (address, account) in accounts {
        document["alloc"][address.to_string()] = account.clone();
    }
    for i in 0..USERS {
        document["alloc"][user(i).address().to_string()] =
            json!({ "balance": "0xd3c21bcecceda1000000" });
    }
    document
}

pub const USERS: u64 = 8;

pub fn user(i: u64) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&keccak256(i.to_be_bytes())).unwrap()
}

/// A chain of one process: every block is built, executed from its bytes, and applied.
pub struct TestChain {
    pub spec: Arc<ChainSpec>,
    pub state: MemoryState,
    pub roots: RootCache,
    pub head: Header,
    pub hash: B256,
    pub validators: ValidatorSet,
    /// The record that the next block must carry, and the set that it succeeds.
    pub due: Option<(SignedRecord, ValidatorSet)>,
    pub nonces: Vec<u64>,
}

impl TestChain {
    pub fn new(accounts: &[(Address, Value)]) -> Self {
        Self::of(genesis(accounts))
    }

    pub fn of(document: Value) -> Self {
        let document = GenesisDocument::from_value(document).unwrap();
        let chain = document.chain();
        let validators = ValidatorSet::new(&chain, &document.epoch(), document.axolotl().quorum);
        let (spec, diff) = ChainSpec::from_document(document).unwrap();
        let state = MemoryState::from_diff(&diff);
        let roots = RootCache::build(&state).unwrap();
        Self {
            head: spec.genesis_block.header.clone(),
            hash: spec.genesis_hash_block(),
            spec,
            state,
            roots,
            validators,
            due: None,
            nonces: vec![0; USERS as usize],
        }
    }

    pub fn governance(&self) -> Governance<'_> {
        Governance {
            validators: &self.validators,
            due: self
                .due
                .as_ref()
                .map(|(signed, succeeded)| DueRecord { signed, succeeded }),
        }
    }

    pub fn attributes(&self) -> BlockAttributes {
        BlockAttributes {
            timestamp: self.head.timestamp,
            builder: builder(),
            requests: Vec::new(),
        }
    }

    pub fn build(&self, source: &mut dyn TxSource) -> ExecutedBlock {
        self.build_with(self.attributes(), source).unwrap()
    }

    pub fn build_with(
        &self,
        attributes: BlockAttributes,
        source: &mut dyn TxSource,
    ) -> Result<ExecutedBlock, ExecutionError> {
        build_block(
            &self.spec,
            &self.head,
            self.hash,
            &self.state,
            &self.roots,
            self.governance(),
            attributes,
            source,
            &Unlimited,
        )
    }

    pub fn execute(&self, block: Block) -> Result<ExecutedBlock, ExecutionError> {
        execute_block(
            &self.spec,
            &self.head,
            self.hash,
            &self.state,
            &self.roots,
            self.governance(),
            block,
            &Unlimited,
        )
    }

    pub fn apply(&mut self, executed: ExecutedBlock) -> StateDiff {
        self.roots.apply(executed.roots);
        self.state.apply(&executed.diff);
        self.head = executed.block.header;
        self.hash = executed.hash;
        executed.diff
    }

    /// Builds a block of these transactions, all of which must be in it, executes it as another
    /// validator would, and applies it.
    pub fn add(&mut self, txs: Vec<Tx>) -> ExecutedBlock {
        let mut queue = Queue::new(txs.clone());
        let built = self.build(&mut queue);
        assert_eq!(queue.skipped, [], "a transaction was left out");
        assert_eq!(built.block.transactions, txs);
        let received = Block::decode(&built.bytes, self.spec.chain.id, &|_| None).unwrap();
        let executed = self.execute(received).unwrap();
        assert_same(&built, &executed);
        self.apply(executed);
        built
    }

    /// The next nonce of a user, counted here.
    pub fn nonce(&mut self, i: u64) -> u64 {
        let nonce = &mut self.nonces[i as usize];
        *nonce += 1;
        *nonce - 1
    }

    /// A type 2 transaction of a user.
    pub fn tx(&mut self, from: u64, to: TxKind, value: u64, input: Bytes, gas: u64) -> Tx {
        let nonce = self.nonce(from);
        decode(&sign_1559(
            &user(from),
            TxEip1559 {
                value: U256::from(value),
                input,
                gas_limit: gas,
                ..transfer(nonce, to)
            },
        ))
    }
}

pub fn assert_same(built: &ExecutedBlock, executed: &ExecutedBlock) {
    assert_eq!(built.block, executed.block);
    assert_eq!(built.hash, executed.hash);
    assert_eq!(built.bytes, executed.bytes);
    assert_eq!(built.receipts, executed.receipts);
    assert_eq!(built.diff, executed.diff);
    assert_eq!(built.roots.root(), executed.roots.root());
}

pub fn builder() -> PublicKey {
    member(1).public_key
}

/// Transactions in a fixed order, with those that were skipped and why.
#[derive(Default)]
pub struct Queue {
    waiting: VecDeque<Tx>,
    pub skipped: Vec<(B256, String)>,
    /// Those that did not end in time.
    pub interrupted: Vec<(B256, Interruption)>,
    /// Those of the skipped that no block can hold.
    pub discarded: Vec<(B256, TransactionError)>,
}

impl Queue {
    pub fn new(txs: Vec<Tx>) -> Self {
        Self {
            waiting: txs.into(),
            ..Self::default()
        }
    }
}

impl TxSource for Queue {
    fn next(&mut self) -> Option<Tx> {
        self.waiting.pop_front()
    }

    fn skip_sender(&mut self, tx: &Tx, why: &str) {
        self.skipped.push((tx.hash(), why.to_owned()));
        self.waiting.retain(|other| other.sender() != tx.sender());
    }

    fn discard(&mut self, tx: &Tx, why: &TransactionError) {
        self.discarded.push((tx.hash(), why.clone()));
        self.skip_sender(tx, &why.to_string());
    }

    fn interrupted(&mut self, tx: &Tx, why: Interruption) {
        self.interrupted.push((tx.hash(), why));
        self.waiting.retain(|other| other.sender() != tx.sender());
    }
}

/// What the header of a block says that another chain of the same state built, on top of this chain.
pub fn on_top_of(chain: &TestChain, header: &Header) -> Header {
    let mut seed = chain.hash.to_vec();
    seed.extend(header.number.to_be_bytes());
    Header {
        parent_hash: chain.hash,
        mix_hash: keccak256(seed),
        gas_limit: chain.spec.gas_limit,
        ..header.clone()
    }
}

pub fn decode(raw: &[u8]) -> Tx {
    Arc::new(Transaction::decode(raw, axolotl_common::ChainId(CHAIN)).unwrap())
}

pub fn transfer(nonce: u64, to: TxKind) -> TxEip1559 {
    TxEip1559 {
        chain_id: CHAIN,
        nonce,
        gas_limit: 21_000,
        max_fee_per_gas: 3 * GWEI,
        max_priority_fee_per_gas: GWEI / 2,
        to,
        ..TxEip1559::default()
    }
}

fn signature(signer: &PrivateKeySigner, hash: B256) -> Signature {
    signer.sign_hash_sync(&hash).unwrap()
}

pub fn sign_1559(signer: &PrivateKeySigner, tx: TxEip1559) -> Vec<u8> {
    let signature = signature(signer, tx.signature_hash());
    TxEnvelope::from(tx.into_signed(signature)).encoded_2718()
}

pub fn sign_2930(signer: &PrivateKeySigner, tx: TxEip2930) -> Vec<u8> {
    let signature = signature(signer, tx.signature_hash());
    TxEnvelope::from(tx.into_signed(signature)).encoded_2718()
}

pub fn sign_legacy(signer: &PrivateKeySigner, tx: TxLegacy) -> Vec<u8> {
    let signature = signature(signer, tx.signature_hash());
    TxEnvelope::from(tx.into_signed(signature)).encoded_2718()
}

pub fn sign_7702(signer: &PrivateKeySigner, tx: TxEip7702) -> Vec<u8> {
    let signature = signature(signer, tx.signature_hash());
    TxEnvelope::from(tx.into_signed(signature)).encoded_2718()
}

pub fn authorize(signer: &PrivateKeySigner, address: Address, nonce: u64) -> SignedAuthorization {
    let authorization = Authorization {
        chain_id: U256::from(CHAIN),
        address,
        nonce,
    };
    let signature = signature(signer, authorization.signature_hash());
    authorization.into_signed(signature)
}

/// Creation code that returns `runtime`.
pub fn deploy(runtime: &[u8]) -> Bytes {
    // PUSH2 length DUP1 PUSH1 10 PUSH0 CODECOPY PUSH0 RETURN
    let length = u16::try_from(runtime.len()).unwrap().to_be_bytes();
    let mut code = vec![
        0x61, length[0], length[1], 0x80, 0x60, 0x0a, 0x5f, 0x39, 0x5f, 0xf3,
    ];
    assert_eq!(code.len(), 10);
    code.extend_from_slice(runtime);
    code.into()
}

/// Stores the second word of its input under the first one, and logs the first.
pub fn storer() -> Vec<u8> {
    // PUSH1 32 CALLDATALOAD PUSH0 CALLDATALOAD SSTORE PUSH0 CALLDATALOAD PUSH0 PUSH0 LOG1 STOP
    vec![
        0x60, 0x20, 0x35, 0x5f, 0x35, 0x55, 0x5f, 0x35, 0x5f, 0x5f, 0xa1, 0x00,
    ]
}

pub fn store_input(slot: u64, value: u64) -> Bytes {
    let mut input = U256::from(slot).to_be_bytes_vec();
    input.extend(U256::from(value).to_be_bytes_vec());
    input.into()
}

/// Destroys itself in favour of its caller.
pub fn suicidal() -> Vec<u8> {
    vec![0x33, 0xff]
}

/// Reverts with `Error("no")`.
pub fn reverter() -> Vec<u8> {
    let mut data = hex::decode("08c379a0").unwrap();
    data.extend(U256::from(32).to_be_bytes_vec());
    data.extend(U256::from(2).to_be_bytes_vec());
    let mut word = [0; 32];
    word[..2].copy_from_slice(b"no");
    data.extend(word);
    // PUSH1 100 PUSH1 10 PUSH0 CODECOPY PUSH1 100 PUSH0 REVERT
    let mut code = vec![0x60, 100, 0x60, 10, 0x5f, 0x39, 0x60, 100, 0x5f, 0xfd];
    code.extend(data);
    code
}
