//! Building and executing blocks.

use std::time::Duration;

use alloy_consensus::{EMPTY_OMMER_ROOT_HASH, Header, Transaction as _};
use alloy_eips::{eip2935::HISTORY_STORAGE_ADDRESS, eip4788::BEACON_ROOTS_ADDRESS};
use alloy_primitives::{Address, B64, B256, Bytes, U256, keccak256};
use alloy_rlp::Encodable;
use alloy_trie::EMPTY_ROOT_HASH;
use axolotl_common::{PublicKey, limits::MIN_TRANSACTION_GAS};
use revm::{ExecuteCommitEvm, ExecuteEvm, SystemCallCommitEvm, state::EvmState};

use super::{
    BlockAttributes, ExecutedBlock, ExecutionError, Interruption, InvalidBlock, TxSource,
    database::BlockState,
    deadline::{Evm, TimeLimit, Unlimited},
    evm::{Refusal, block_env, cfg, evm, refusal, tx_env},
    records::{Governance, check_requests, requests_of},
};
use crate::{
    base_fee::next_base_fee,
    block::{Block, beneficiary_of, builder_of, requests_hash},
    genesis::ChainSpec,
    receipts::{Receipt, log_bytes, receipts_root_and_bloom},
    state::{FlatState, RootCache, StateDiff, StateError, account_key, slot_key},
    transaction::{Transaction, TransactionError, Tx},
};

/// Leaves of storage that the state root reads without being counted: some milliseconds.
const FREE_LEAVES: u64 = 2_048;

/// Builds the block after `parent`: `state` and `roots` are those after `parent`, `governance` says
/// under whom it stands. A request that the block cannot hold is left out; a record that is due is put
/// in. A transaction that does not end in the time that `limit` gives is left out, see
/// [`TxSource::interrupted`]; `txs` says when the block is to be closed.
///
/// # Errors
/// When the attributes do not follow the parent, or the state cannot be read.
#[allow(
    clippy::too_many_arguments,
    reason = "the inputs of a state transition"
)]
pub fn build_block(
    spec: &ChainSpec,
    parent: &Header,
    parent_hash: B256,
    state: &dyn FlatState,
    roots: &RootCache,
    governance: Governance<'_>,
    attributes: BlockAttributes,
    txs: &mut dyn TxSource,
    limit: &dyn TimeLimit,
) -> Result<ExecutedBlock, ExecutionError> {
    let BlockAttributes {
        timestamp,
        builder,
        requests,
    } = attributes;
    let header = header_after(spec, parent, parent_hash, timestamp, &builder)?;
    let requests = requests_of(spec, governance, header.number, requests);
    let mut room = spec.max_transactions_bytes();
    let mut run = Run::start(spec, &header, state, limit)?;
    let mut transactions = Vec::new();
    run.reads = Some((roots, state));
    while run.gas_left() >= MIN_TRANSACTION_GAS {
        let Some(tx) = txs.next() else { break };
        let size = tx.encoded_len();
        if size > room {
            txs.skip_sender(&tx, "the block is full: bytes");
            continue;
        }
        if tx.gas_limit() > run.gas_left() {
            txs.skip_sender(&tx, "the block is full: gas");
            continue;
        }
        match run.transact(&tx) {
            Ok(Included::Yes) => {
                room -= size;
                transactions.push(tx);
            }
            Ok(Included::LogsDoNotFit { bytes, limit }) if bytes > limit => {
                txs.discard(&tx, &TransactionError::LogsTooLong { bytes, limit });
            }
            Ok(Included::LogsDoNotFit { .. }) => {
                txs.skip_sender(&tx, "the block is full: logs");
            }
            Err(Refusal::Transaction(why)) if why.is_final() => txs.discard(&tx, &why),
            Err(Refusal::Transaction(why)) => txs.skip_sender(&tx, &why.to_string()),
            Err(Refusal::State(error)) => return Err(error.into()),
            Err(Refusal::Interrupted) => txs.interrupted(&tx, Interruption::Execution),
            Err(Refusal::StateNotRead(storages)) => {
                prepare(&storages, state, roots, limit)?;
                txs.interrupted(&tx, Interruption::State);
            }
        }
    }
    let draft = Block::new(header, transactions, requests);
    finish(draft, run, state, roots, &Unlimited)
}

/// Executes a block on top of `parent` and compares all that follows with its header: `state` and
/// `roots` are those after `parent`, `governance` says under whom it stands.
///
/// # Errors
/// When the block is not valid, the state cannot be read, or the time that `limit` gives is over.
#[allow(
    clippy::too_many_arguments,
    reason = "the inputs of a state transition"
)]
pub fn execute_block(
    spec: &ChainSpec,
    parent: &Header,
    parent_hash: B256,
    state: &dyn FlatState,
    roots: &RootCache,
    governance: Governance<'_>,
    block: Block,
    limit: &dyn TimeLimit,
) -> Result<ExecutedBlock, ExecutionError> {
    let Block {
        header: found,
        transactions,
        requests,
        ..
    } = block;
    let builder = builder_of(&found).ok_or_else(|| InvalidBlock::Header {
        field: "extraData",
        found: found.extra_data.to_string(),
        expected: "the 32 bytes of a validator's key".into(),
    })?;
    let header = header_after(spec, parent, parent_hash, found.timestamp, &builder)?;
    // What does not depend on execution is compared first: it costs nothing.
    let expected = Header {
        state_root: found.state_root,
        transactions_root: found.transactions_root,
        receipts_root: found.receipts_root,
        logs_bloom: found.logs_bloom,
        gas_used: found.gas_used,
        requests_hash: Some(requests_hash(&requests)),
        ..header.clone()
    };
    compare(&found, &expected)?;
    check_requests(spec, governance, header.number, &requests)?;
    let draft = Block::new(header, transactions, requests);
    let records: usize = draft
        .requests
        .iter()
        .map(|request| request[..].length())
        .sum();
    let size = draft.encode().len() - draft.header.length() + found.length() - records;
    if size > spec.max_block_bytes {
        let limit = spec.max_block_bytes;
        return Err(InvalidBlock::TooLong { size, limit }.into());
    }
    let mut run = Run::start(spec, &draft.header, state, limit)?;
    for (index, tx) in draft.transactions.iter().enumerate() {
        let outcome = if tx.gas_limit() > run.gas_left() {
            Err(Refusal::Transaction(TransactionError::GasLimitReached))
        } else {
            run.transact(tx)
        };
        match outcome {
            Ok(Included::Yes) => {}
            Ok(Included::LogsDoNotFit { bytes, limit }) => {
                let size = run.log_bytes.saturating_add(bytes);
                return Err(InvalidBlock::LogsTooLong { index, size, limit }.into());
            }
            Err(Refusal::Transaction(why)) => {
                let hash = tx.hash();
                let why = Box::new(why);
                return Err(InvalidBlock::Transaction { index, hash, why }.into());
            }
            Err(Refusal::State(error)) => return Err(error.into()),
            Err(Refusal::Interrupted | Refusal::StateNotRead(_)) => {
                return Err(ExecutionError::Interrupted);
            }
        }
    }
    let executed = finish(draft, run, state, roots, limit)?;
    compare(&found, &executed.block.header)?;
    Ok(executed)
}

/// The header of the block after `parent`, but for what follows from its contents.
fn header_after(
    spec: &ChainSpec,
    parent: &Header,
    parent_hash: B256,
    timestamp: u64,
    builder: &PublicKey,
) -> Result<Header, InvalidBlock> {
    if timestamp < parent.timestamp {
        return Err(InvalidBlock::Header {
            field: "timestamp",
            found: timestamp.to_string(),
            expected: format!("{} or later", parent.timestamp),
        });
    }
    let number = parent.number + 1;
    Ok(Header {
        parent_hash,
        ommers_hash: EMPTY_OMMER_ROOT_HASH,
        beneficiary: beneficiary_of(builder),
        difficulty: U256::ZERO,
        number,
        gas_limit: spec.gas_limit,
        timestamp,
        extra_data: Bytes::copy_from_slice(&builder.0),
        mix_hash: mix_hash(&parent_hash, number),
        nonce: B64::ZERO,
        base_fee_per_gas: Some(next_base_fee(parent, spec.base_fee_floor)),
        withdrawals_root: Some(EMPTY_ROOT_HASH),
        blob_gas_used: Some(0),
        excess_blob_gas: Some(0),
        parent_beacon_block_root: Some(B256::ZERO),
        ..Header::default()
    })
}

/// PREVRANDAO of a block: different in each, and known to everybody beforehand.
fn mix_hash(parent_hash: &B256, number: u64) -> B256 {
    let mut bytes = [0; 40];
    bytes[..32].copy_from_slice(parent_hash.as_slice());
    bytes[32..].copy_from_slice(&number.to_be_bytes());
    keccak256(bytes)
}

/// Names the first field in which a header differs from what it must be.
fn compare(found: &Header, expected: &Header) -> Result<(), InvalidBlock> {
    if found == expected {
        return Ok(());
    }
    macro_rules! fields {
        ($($field:ident $name:literal),* $(,)?) => {
            $(if found.$field != expected.$field {
                return Err(InvalidBlock::Header {
                    field: $name,
                    found: format!("{:?}", found.$field),
                    expected: format!("{:?}", expected.$field),
                });
            })*
        };
    }
    fields! {
        parent_hash "parentHash", number "number", timestamp "timestamp",
        extra_data "extraData", beneficiary "miner", gas_limit "gasLimit",
        base_fee_per_gas "baseFeePerGas", mix_hash "mixHash", nonce "nonce",
        difficulty "difficulty", ommers_hash "sha3Uncles", withdrawals_root "withdrawalsRoot",
        blob_gas_used "blobGasUsed", excess_blob_gas "excessBlobGas",
        parent_beacon_block_root "parentBeaconBlockRoot", requests_hash "requestsHash",
        transactions_root "transactionsRoot", gas_used "gasUsed", logs_bloom "logsBloom",
        receipts_root "receiptsRoot", state_root "stateRoot",
    }
    Err(InvalidBlock::Header {
        field: "hash",
        found: "fields of a later fork".into(),
        expected: "those of Prague and Osaka".into(),
    })
}

/// Whether a transaction that was executed is in the block.
enum Included {
    /// It is, and its effects stand.
    Yes,
    /// It is not: the block's logs would be too long. The state is as it was.
    LogsDoNotFit {
        /// What it logs, bytes.
        bytes: u64,
        /// The limit of a block, bytes.
        limit: u64,
    },
}

/// The transactions of one block being executed by one EVM.
struct Run<'a> {
    evm: Evm<'a>,
    base_fee: u64,
    gas_limit: u64,
    gas_used: u64,
    /// Most bytes of logs; `None` on chains of earlier releases.
    max_log_bytes: Option<u64>,
    log_bytes: u64,
    receipts: Vec<Receipt>,
    /// Cache of roots and state, where the root's cost counts against the time limit of each transaction.
    reads: Option<(&'a RootCache, &'a dyn FlatState)>,
}

impl<'a> Run<'a> {
    /// Begins a block with the calls that Prague and Osaka make before the first transaction: the parent's
    /// hash to the history contract (EIP-2935), and, if a genesis has that contract, the beacon
    /// root, which is always zero (EIP-4788).
    fn start(
        spec: &ChainSpec,
        header: &Header,
        state: &'a dyn FlatState,
        limit: &'a dyn TimeLimit,
    ) -> Result<Self, ExecutionError> {
        let base_fee = header.base_fee_per_gas.unwrap_or_default();
        let db = BlockState::new(state);
        let mut run = Self {
            evm: evm(cfg(spec, header), block_env(header), db, limit),
            base_fee,
            gas_limit: header.gas_limit,
            gas_used: 0,
            max_log_bytes: spec.max_log_bytes,
            log_bytes: 0,
            receipts: Vec::new(),
            reads: None,
        };
        let beacon_root = header.parent_beacon_block_root.unwrap_or_default();
        run.system_call(BEACON_ROOTS_ADDRESS, beacon_root)?;
        run.system_call(HISTORY_STORAGE_ADDRESS, header.parent_hash)?;
        Ok(run)
    }

    fn system_call(&mut self, contract: Address, word: B256) -> Result<(), ExecutionError> {
        if !self.evm.ctx.journaled_state.database.has_code(contract)? {
            return Ok(());
        }
        // Both EIPs: a call that fails changes nothing, and the block stays valid.
        let done = self.evm.system_call_commit(contract, word.0.into());
        match done.map_err(|error| refusal(error, &self.evm, self.base_fee)) {
            Ok(_) | Err(Refusal::Transaction(_)) => Ok(()),
            Err(Refusal::State(error)) => Err(error.into()),
            Err(Refusal::Interrupted | Refusal::StateNotRead(_)) => {
                Err(ExecutionError::Interrupted)
            }
        }
    }

    fn gas_left(&self) -> u64 {
        self.gas_limit - self.gas_used
    }

    /// Executes one transaction whose gas limit is not above [`Run::gas_left`].
    fn transact(&mut self, tx: &Transaction) -> Result<Included, Refusal> {
        self.evm.ctx.chain.restart();
        let executed = self
            .evm
            .transact(tx_env(tx))
            .map_err(|error| refusal(error, &self.evm, self.base_fee))?;
        let result = executed.result;
        let (success, gas_used) = (result.is_success(), result.tx_gas_used());
        let logs = if success {
            result.into_logs()
        } else {
            Vec::new()
        };
        let bytes = log_bytes(&logs);
        if let Some(limit) = self.max_log_bytes
            && self.log_bytes.saturating_add(bytes) > limit
        {
            return Ok(Included::LogsDoNotFit { bytes, limit });
        }
        self.reserve_root(&executed.state)?;
        self.evm.commit(executed.state);
        self.log_bytes += bytes;
        self.gas_used += gas_used;
        self.receipts.push(Receipt {
            tx_type: tx.tx_type(),
            success,
            gas_used,
            cumulative_gas_used: self.gas_used,
            // As in geth: also of a creation that failed.
            contract_address: tx
                .envelope()
                .is_create()
                .then(|| tx.sender().create(tx.nonce())),
            effective_gas_price: tx.effective_gas_price(self.base_fee),
            logs,
        });
        Ok(Included::Yes)
    }

    /// Reserves time for the state root, where the transaction changes storage that has to be read whole.
    fn reserve_root(&self, changed: &EvmState) -> Result<(), Refusal> {
        let Some((roots, state)) = self.reads else {
            return Ok(());
        };
        let mut estimate = roots.start_estimate(state);
        let mut storages = Vec::new();
        for (address, account) in changed {
            let slots = account.storage.iter().filter(|(_, slot)| slot.is_changed());
            let mut slots = slots.map(|(slot, _)| slot_key(slot)).peekable();
            if slots.peek().is_none() {
                continue;
            }
            let key = account_key(address);
            for slot in slots {
                estimate.slot(&key, &slot)?;
            }
            storages.push(key);
        }
        let cost = estimate.cost();
        if cost.slots <= FREE_LEAVES {
            return Ok(());
        }
        if !self.evm.ctx.chain.has(cost.time()) {
            return Err(Refusal::StateNotRead(storages));
        }
        self.evm.ctx.chain.reserve(cost.time());
        Ok(())
    }

    fn finish(self) -> (u64, Vec<Receipt>, StateDiff) {
        let diff = self.evm.ctx.journaled_state.database.into_diff();
        (self.gas_used, self.receipts, diff)
    }
}

/// Reads storage tries as far as the time allows. Returns whether all of them are there.
fn prepare<'a>(
    storages: impl IntoIterator<Item = &'a B256>,
    state: &dyn FlatState,
    roots: &RootCache,
    limit: &dyn TimeLimit,
) -> Result<bool, StateError> {
    let mut go_on = || limit.left() != Some(Duration::ZERO);
    for storage in storages {
        if !roots.prepare(state, storage, &mut go_on)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Completes the header of a block that was executed.
fn finish(
    draft: Block,
    run: Run<'_>,
    state: &dyn FlatState,
    roots: &RootCache,
    limit: &dyn TimeLimit,
) -> Result<ExecutedBlock, ExecutionError> {
    let (gas_used, receipts, mut diff) = run.finish();
    if limit.left().is_some() && !prepare(diff.storage.keys(), state, roots, limit)? {
        return Err(ExecutionError::Interrupted);
    }
    let transactions_root = draft.transactions_root();
    let (receipts_root, logs_bloom) = receipts_root_and_bloom(&receipts);
    let delta = roots
        .compute(state, &mut diff)
        .map_err(|StateError(why)| StateError(format!("state root: {why}")))?;
    let header = Header {
        state_root: delta.root(),
        transactions_root,
        receipts_root,
        logs_bloom,
        gas_used,
        requests_hash: Some(requests_hash(&draft.requests)),
        ..draft.header
    };
    let transactions: Vec<Tx> = draft.transactions;
    let block = Block::new(header, transactions, draft.requests);
    Ok(ExecutedBlock {
        hash: block.hash(),
        bytes: block.encode().into(),
        block,
        receipts,
        diff,
        roots: delta,
    })
}
