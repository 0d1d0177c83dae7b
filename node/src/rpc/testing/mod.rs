//! A chain of one validator in a temporary directory, and the tests that need one.

mod http;
mod methods;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Address, B256, Bytes, TxKind, U256};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use axolotl_common::{
    CommitCertificate, Epoch, Hash, Height, KeyPair, Member, NodeId, Round, VolumeId, VoteKind,
    certificate::vote_sign_bytes,
    genesis::{DEV_CHAIN_ID, GenesisDocument, dev_genesis},
    registry_api::NodeSelfStatus,
};
use axolotl_ledger::{BlockAttributes, ChainSpec, Tx, Unlimited, state::account_key};
use serde_json::{Value, json, value::RawValue};
use tempfile::TempDir;

use super::{
    Rpc, RpcContext, RpcError, RpcLimits,
    call::{CallDeadline, RpcCall},
    dispatch,
    params::Params,
};
use crate::{
    mempool::{Mempool, MempoolLimits, SenderState},
    storage::{Chain, StorageOptions},
};

/// Seconds since 1970 of block 0.
const GENESIS_TIME: u64 = 1_700_000_000;
/// Key of the first development account, which everybody knows.
const DEV_KEY: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";

/// The chain, its validator, and one client account.
pub(super) struct Fixture {
    /// What the interface answers from.
    pub(super) context: RpcContext,
    /// Whether the node says that it is syncing.
    pub(super) syncing: Arc<AtomicBool>,
    /// Transactions handed on to be gossiped.
    pub(super) submitted: Arc<AtomicUsize>,
    /// The first development account.
    pub(super) account: PrivateKeySigner,
    validator: KeyPair,
    nonce: Mutex<u64>,
    appended: Mutex<Vec<Tx>>,
    _directory: TempDir,
}

impl Fixture {
    /// A fresh chain at block 0.
    pub(super) fn new(limits: RpcLimits) -> Self {
        let validator = KeyPair::from_seed(&[1; 32]);
        let member = Member {
            node_id: NodeId::numbered(1),
            public_key: validator.public(),
            volume_id: VolumeId([1; 16]),
        };
        let axolotl = serde_json::from_value(json!({ "validators": [member] })).unwrap();
        let document = GenesisDocument::from_value(dev_genesis(&axolotl, GENESIS_TIME)).unwrap();
        let (spec, diff) = ChainSpec::from_document(document).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let chain = Chain::open(
            directory.path(),
            Arc::clone(&spec),
            diff,
            StorageOptions::default(),
            &mut |_| {},
        )
        .unwrap();
        let syncing = Arc::new(AtomicBool::new(false));
        let submitted = Arc::new(AtomicUsize::new(0));
        let context = RpcContext {
            mempool: Mempool::new(spec, MempoolLimits::default()),
            submit: {
                let submitted = Arc::clone(&submitted);
                Arc::new(move |_| {
                    submitted.fetch_add(1, Ordering::SeqCst);
                })
            },
            status: status(&chain, &validator, &syncing),
            highest_known: Arc::new(|| Height(1_000)),
            chain,
            limits,
        };
        Self {
            context,
            syncing,
            submitted,
            account: DEV_KEY.parse().unwrap(),
            validator,
            nonce: Mutex::default(),
            appended: Mutex::default(),
            _directory: directory,
        }
    }

    /// The handlers, without HTTP.
    pub(super) fn rpc(&self) -> Arc<Rpc> {
        Rpc::new(self.context.clone())
    }

    /// A signed transaction of the account with its next nonce.
    pub(super) fn sign(&self, to: TxKind, value: u64, input: Bytes) -> Bytes {
        let mut nonce = self.nonce.lock().unwrap();
        *nonce += 1;
        self.sign_with_nonce(*nonce - 1, to, value, input)
    }

    /// As [`Fixture::sign`], with a nonce that is given.
    pub(super) fn sign_with_nonce(
        &self,
        nonce: u64,
        to: TxKind,
        value: u64,
        input: Bytes,
    ) -> Bytes {
        let tx = TxEip1559 {
            chain_id: DEV_CHAIN_ID,
            nonce,
            gas_limit: 200_000,
            max_fee_per_gas: 10_000_000_000,
            max_priority_fee_per_gas: 1_000,
            to,
            value: U256::from(value),
            access_list: Default::default(),
            input,
        };
        let signature = self.account.sign_hash_sync(&tx.signature_hash()).unwrap();
        let envelope: TxEnvelope = tx.into_signed(signature).into();
        envelope.encoded_2718().into()
    }

    /// Builds a block of what waits and appends it; it is not visible yet.
    pub(super) fn append(&self) {
        let chain = &self.context.chain;
        let parent = chain.tip().header.clone();
        let base_fee = super::eth::fees::next_fee(&self.rpc(), &chain.tip());
        let attributes = BlockAttributes {
            timestamp: parent.timestamp + 1,
            builder: self.validator.public(),
            requests: Vec::new(),
        };
        let block = chain
            .build(
                attributes,
                &mut self.context.mempool.best(base_fee),
                &Unlimited,
            )
            .unwrap();
        let certificate = self.certify(Height(block.block.header.number), block.hash);
        let txs = block.block.transactions.clone();
        chain.append(block, certificate).unwrap();
        self.appended.lock().unwrap().extend(txs);
    }

    /// Makes what was appended visible; tells the height of the head.
    pub(super) fn publish(&self) -> u64 {
        let chain = &self.context.chain;
        chain.publish().unwrap();
        let head = chain.head();
        let txs = std::mem::take(&mut *self.appended.lock().unwrap());
        let state = chain.state(head.height()).unwrap();
        let sender = |address: Address| {
            let account = state.account(&account_key(&address)).unwrap();
            SenderState {
                nonce: account.as_ref().map_or(0, |a| a.nonce),
                balance: account.map_or(U256::ZERO, |a| a.balance),
            }
        };
        let base_fee = super::eth::fees::next_fee(&self.rpc(), &head);
        self.context.mempool.on_block(&txs, &sender, base_fee);
        head.header.number
    }

    /// Builds a block of what waits; tells its height.
    pub(super) fn mine(&self) -> u64 {
        self.append();
        self.publish()
    }

    fn certify(&self, height: Height, hash: B256) -> CommitCertificate {
        let (epoch, round, block) = (Epoch(0), Round(0), Hash(hash.0));
        let chain = self.context.chain.spec().chain;
        let bytes = vote_sign_bytes(
            &chain,
            epoch,
            height,
            round,
            VoteKind::Precommit,
            Some(block),
        );
        CommitCertificate {
            epoch,
            height,
            round,
            block,
            signatures: vec![(self.validator.public(), self.validator.sign(&bytes))],
        }
    }
}

fn status(
    chain: &Chain,
    validator: &KeyPair,
    syncing: &Arc<AtomicBool>,
) -> Arc<dyn Fn() -> NodeSelfStatus + Send + Sync> {
    let (chain, key, syncing) = (chain.clone(), validator.public(), Arc::clone(syncing));
    Arc::new(move || {
        let head = chain.head();
        NodeSelfStatus {
            node_id: Some(NodeId::numbered(1)),
            public_key: key,
            peer_id: key.peer_id(),
            volume_id: VolumeId([1; 16]),
            incarnation: 1,
            version: "0".into(),
            chain_id: Some(DEV_CHAIN_ID),
            genesis_hash: Some(chain.spec().chain.genesis),
            height: Height(head.header.number),
            head: Some(Hash(head.hash.0)),
            epoch: Epoch(0),
            round: Round(0),
            leader: None,
            is_validator: true,
            voting: true,
            unfit: None,
            sealed: None,
            pending_epoch: None,
            misbehaving: Vec::new(),
            syncing: syncing.load(Ordering::SeqCst),
            peers: 3,
            reachable: Vec::new(),
            tx_pool_size: 0,
            last_commit_age_ms: None,
            votes: Vec::new(),
            proposal_faults: Vec::new(),
        }
    })
}

/// Carries out one call without HTTP.
pub(super) async fn call(rpc: &Arc<Rpc>, method: &str, params: Value) -> Result<Value, RpcError> {
    let raw = RawValue::from_string(params.to_string()).unwrap();
    let params = Params::parse(Some(&raw))?;
    let deadline = CallDeadline::at(Instant::now() + rpc.limits().call_timeout);
    let call = RpcCall::new(rpc, deadline);
    let answer = dispatch::call(&call, method, &params).await?;
    Ok(serde_json::from_str(&answer.text()).expect("answers are JSON"))
}
