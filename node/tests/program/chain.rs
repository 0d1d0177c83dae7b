//! Chains with one validator, and blocks made without running it.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Bytes, TxKind, U256};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use anyhow::Context;
use axolotl_common::{
    ChainId, CommitCertificate, Hash, Height, KeyPair, Member, NodeId, PublicKey, Round, VolumeId,
    VoteKind,
    certificate::vote_sign_bytes,
    genesis::{DEV_CHAIN_ID, GenesisDocument, dev_genesis},
};
use axolotl_ledger::{
    BlockAttributes, ChainSpec, Transaction, Unlimited, next_base_fee, state::account_key,
};
use axolotl_node::{
    cli::accounts::DEV_SECRETS,
    mempool::{Mempool, MempoolLimits, Origin, SenderState},
    storage::{Chain, DataDir, StorageOptions},
};
use serde_json::{Value, json};

use crate::harness::{Start, locks_held};

/// Seconds since 1970 of block 0.
pub(crate) const GENESIS_TIME: u64 = 1_700_000_000;
/// Fees that any block takes, wei per gas.
const FEE_CAP: u128 = 50_000_000_000;

/// A chain whose only validator keeps its data in `data`.
pub(crate) struct Solo {
    /// Where logs, data and genesis are.
    pub(crate) home: PathBuf,
    /// The validator's data directory.
    pub(crate) data: PathBuf,
    /// The genesis document.
    pub(crate) genesis: PathBuf,
    key: KeyPair,
}

impl Solo {
    /// Makes key, volume and genesis under `home`.
    pub(crate) fn new(home: &Path) -> anyhow::Result<Self> {
        Self::with_data(home, &home.join("data"))
    }

    /// As [`Self::new`], with the data directory elsewhere.
    pub(crate) fn with_data(home: &Path, data: &Path) -> anyhow::Result<Self> {
        Self::with(home, data, &[])
    }

    /// As [`Self::new`], with a second validator that does not exist.
    pub(crate) fn without_quorum(home: &Path) -> anyhow::Result<Self> {
        let absent = Member {
            node_id: NodeId::numbered(2),
            public_key: KeyPair::from_seed(&[2; 32]).public(),
            volume_id: VolumeId([2; 16]),
        };
        Self::with(home, &home.join("data"), &[absent])
    }

    fn with(home: &Path, data: &Path, others: &[Member]) -> anyhow::Result<Self> {
        let genesis = home.join("genesis.json");
        let (document, key) = with_directory(data, |directory| {
            Ok((
                genesis_with(directory, others, GENESIS_TIME)?,
                directory.key().clone(),
            ))
        })?;
        fs::write(&genesis, document.to_string())?;
        Ok(Self {
            home: home.to_owned(),
            data: data.to_owned(),
            genesis,
            key,
        })
    }

    /// Turns the genesis into one of an earlier release: 300 M gas, the rules of Prague, unbounded logs.
    pub(crate) fn of_earlier_release(self) -> anyhow::Result<Self> {
        let mut document: Value = serde_json::from_slice(&fs::read(&self.genesis)?)?;
        document["config"] = json!({ "chainId": DEV_CHAIN_ID });
        document["gasLimit"] = "0x11e1a300".into();
        if let Some(axolotl) = document["axolotl"].as_object_mut() {
            axolotl.remove("maxLogBytes");
        }
        fs::write(&self.genesis, document.to_string())?;
        Ok(self)
    }

    /// How its validator is started.
    pub(crate) fn start(&self) -> Start {
        Start::node(&self.home)
            .env("NODE_ID", "node1")
            .env("DATA_DIR", self.data.display())
            .env("GENESIS_FILE", self.genesis.display())
    }

    /// Names an authority in the genesis, before the first start.
    pub(crate) fn name_authority(&self, authority: &KeyPair) -> anyhow::Result<()> {
        let mut genesis: Value = serde_json::from_slice(&fs::read(&self.genesis)?)?;
        genesis["axolotl"]["authorityKey"] = json!(authority.public());
        Ok(fs::write(&self.genesis, genesis.to_string())?)
    }

    /// The genesis.
    pub(crate) fn document(&self) -> anyhow::Result<GenesisDocument> {
        Ok(GenesisDocument::parse(&fs::read(&self.genesis)?)?)
    }

    /// Public key of the validator.
    pub(crate) fn public_key(&self) -> PublicKey {
        self.key.public()
    }

    /// Peer id of the validator.
    pub(crate) fn peer_id(&self) -> String {
        self.key.public().peer_id()
    }

    /// Appends blocks while no process runs: one for each list of transactions.
    pub(crate) fn grow(&self, blocks: &[Vec<Bytes>]) -> anyhow::Result<()> {
        let _held = locks_held();
        let (spec, genesis) = ChainSpec::from_document(self.document()?)?;
        let options = StorageOptions::default();
        let chain = Chain::open(&self.data, Arc::clone(&spec), genesis, options, &mut |_| {})?;
        let pool = Mempool::new(Arc::clone(&spec), MempoolLimits::default());
        for transactions in blocks {
            let head = chain.tip();
            let state = chain.state(head.height())?;
            for raw in transactions {
                let tx = Arc::new(Transaction::decode(raw, ChainId(DEV_CHAIN_ID))?);
                let account = state.account(&account_key(&tx.sender()))?;
                let account = account.context("the sender has an account")?;
                let sender = SenderState {
                    nonce: account.nonce,
                    balance: account.balance,
                };
                pool.add(tx, Origin::Local, sender, 0)?;
            }
            let base_fee = next_base_fee(&head.header, spec.base_fee_floor);
            let attributes = BlockAttributes {
                timestamp: head.header.timestamp + 1,
                builder: self.key.public(),
                requests: Vec::new(),
            };
            let built = chain.build(attributes, &mut pool.best(base_fee), &Unlimited)?;
            let sent = built.block.transactions.clone();
            anyhow::ensure!(
                sent.len() == transactions.len(),
                "{} of {} transactions came into block {}",
                sent.len(),
                transactions.len(),
                built.block.header.number
            );
            let (height, hash) = (Height(built.block.header.number), Hash(built.hash.0));
            let epoch = head.validators.epoch();
            let bytes = vote_sign_bytes(
                &spec.chain,
                epoch,
                height,
                Round(0),
                VoteKind::Precommit,
                Some(hash),
            );
            let certificate = CommitCertificate {
                epoch,
                height,
                round: Round(0),
                block: hash,
                signatures: vec![(self.key.public(), self.key.sign(&bytes))],
            };
            chain.append(built, certificate)?;
            chain.publish()?;
            let state = chain.state(height)?;
            let account = |address| {
                let account = state.account(&account_key(&address)).ok().flatten();
                account.map_or_else(SenderState::default, |account| SenderState {
                    nonce: account.nonce,
                    balance: account.balance,
                })
            };
            pool.on_block(&sent, &account, base_fee);
        }
        Ok(())
    }
}

/// Opens a data directory in this process and closes it again.
pub(crate) fn with_directory<T>(
    path: &Path,
    look: impl FnOnce(&DataDir) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let _held = locks_held();
    look(&DataDir::open(path)?)
}

/// The development genesis with the owner of `directory` as its only validator. Without an
/// authority key: nobody may change the membership.
pub(crate) fn genesis_of(directory: &DataDir, timestamp: u64) -> anyhow::Result<Value> {
    genesis_with(directory, &[], timestamp)
}

fn genesis_with(directory: &DataDir, others: &[Member], timestamp: u64) -> anyhow::Result<Value> {
    let member = Member {
        node_id: NodeId::numbered(1),
        public_key: directory.key().public(),
        volume_id: directory.volume_id(),
    };
    let validators = [&[member], others].concat();
    let axolotl = serde_json::from_value(json!({
        "validators": validators,
        "timing": { "emptyBlockIntervalMs": 50 },
    }))?;
    Ok(dev_genesis(&axolotl, timestamp))
}

/// What a test transaction is made of.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// Which of the development accounts sends it.
    pub(crate) from: usize,
    /// Its place among the sender's.
    pub(crate) nonce: u64,
    /// Recipient or creation.
    pub(crate) to: TxKind,
    /// Most gas.
    pub(crate) gas: u64,
    /// Data or code.
    pub(crate) input: Bytes,
}

impl Call {
    /// Data for nobody.
    pub(crate) fn data(from: usize, nonce: u64, bytes: usize) -> Self {
        Self {
            from,
            nonce,
            to: TxKind::Call(alloy_primitives::Address::repeat_byte(0x42)),
            gas: 21_000 + 40 * bytes as u64,
            input: vec![1; bytes].into(),
        }
    }

    /// A contract that loops until its gas is used up.
    pub(crate) fn endless(from: usize, nonce: u64, gas: u64) -> Self {
        Self {
            from,
            nonce,
            to: TxKind::Create,
            gas,
            // JUMPDEST PUSH1 0 JUMP
            input: Bytes::from_static(&[0x5b, 0x60, 0x00, 0x56]),
        }
    }

    /// Signs it.
    pub(crate) fn sign(&self) -> anyhow::Result<Bytes> {
        let signer = PrivateKeySigner::from_slice(&DEV_SECRETS[self.from])?;
        let tx = TxEip1559 {
            chain_id: DEV_CHAIN_ID,
            nonce: self.nonce,
            gas_limit: self.gas,
            max_fee_per_gas: FEE_CAP,
            max_priority_fee_per_gas: 1,
            to: self.to,
            value: U256::ZERO,
            access_list: Default::default(),
            input: self.input.clone(),
        };
        let signature = signer.sign_hash_sync(&tx.signature_hash())?;
        let envelope: TxEnvelope = tx.into_signed(signature).into();
        Ok(envelope.encoded_2718().into())
    }
}
