//! Recovery and forced epochs on the chain: staging what a draft hands over, and putting records into
//! force.
//!
//! A record takes force between two blocks: above its base, which is the head already or a block that
//! it adopts. It is checked in this order: that the authority signed it; that its base is on this chain;
//! that it succeeds the epoch which the chain up to the base gives, planned record of the adopted block
//! included; that it follows from what it rests on, and was staged by enough nodes.
//!
//! # What is durable when
//!
//! | step | what a crash after it leaves |
//! |---|---|
//! | the adopted block is in the block log, with the record as its proof, synced | all that is needed |
//! | the record is in the store of records | the same; without an adopted block this comes first |
//! | head and validators are visible | |
//! | what was staged is removed | at the next start, if not now |
//!
//! The store of records and the tip are made whole from the block log when the chain is opened.

use std::sync::{Arc, PoisonError};

use alloy_primitives::Bytes;
use axolotl_common::{
    BlockProof, Epoch, EpochRecord, Hash, Height, SignedRecord, ValidatorSet,
    membership::{MAX_DRAFT_BYTES, MAX_RECORD_BYTES, RecordKind},
    recovery::{Ballot, Handover, Sets, check_acknowledgements, check_draft},
};
use axolotl_ledger::{
    Block, ExecutedBlock, ExecutionError, RootCache, Unlimited, block::encode_record,
    check_members, read_header,
};

use super::{
    Chain, Inner, StorageError, StoredBlock,
    epochs::{self, Tip, stands_alone},
    lock,
};

/// What a node holds for a record that is not signed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staged {
    /// The ballot of the order that it obeyed.
    pub ballot: Ballot,
    /// The record, but for signature and acknowledgements.
    pub draft: EpochRecord,
    /// The block that it adopts, if this node's chain does not hold it anyway.
    pub block: Option<Bytes>,
}

/// Why a draft was not staged. The chain is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StageError {
    /// A draft of a higher ballot is staged.
    #[error("a draft of ballot {0} is staged, which is higher")]
    Ballot(Ballot),
    /// The chain does not reach the base yet, or its adopted block is not at hand: sync, or fetch it.
    #[error("the draft's base is block {base}, the head is block {head}")]
    Behind {
        /// Height of the base.
        base: Height,
        /// Height of the head.
        head: Height,
    },
    /// The chain holds something else than the base, or blocks above it.
    #[error("{0}")]
    Conflict(String),
    /// The draft does not follow from what it rests on, or does not fit this chain.
    #[error("{0}")]
    Draft(String),
    /// The adopted block cannot be executed, or is another one than the statements say: to be published.
    #[error("the adopted block: {0}")]
    Block(String),
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// What became of a record.
#[derive(Clone, Debug)]
pub enum Activated {
    /// It is in force since now. `Head.validators` are its validators; the height is the same as before
    /// unless it adopted a block.
    Now {
        /// The block that it adopted, final and visible since now.
        adopted: Option<Arc<StoredBlock>>,
    },
    /// It was in force before; an epoch after it may be by now. Nothing changed.
    Before,
}

/// Why a record is not in force. The chain is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ActivateError {
    /// Not signed by the authority, or no recovery or forced record at all: whoever passed it on did
    /// wrong.
    #[error("{0}")]
    False(String),
    /// The authority signed it, but it does not follow from what it rests on, or does not come after
    /// the epoch in force.
    #[error("{0}")]
    Void(String),
    /// The chain does not reach the base, or the adopted block is neither staged nor given: sync first.
    #[error("the record's base is block {base}, the head is block {head}")]
    Behind {
        /// Height of the base.
        base: Height,
        /// Height of the head.
        head: Height,
    },
    /// The block given is not the one that the record adopts, or cannot be executed: the fault of
    /// whoever gave it, or of this node.
    #[error("the adopted block: {0}")]
    Block(String),
    /// This chain holds another block at the base, or blocks above it: the process must end and keep
    /// its data directory, and the conflict must be published.
    #[error("{0}")]
    Conflict(String),
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Why a record or draft has no place on this chain.
enum Misplaced {
    Void(String),
    Behind { base: Height, head: Height },
    Conflict(String),
    Block(String),
    Storage(StorageError),
}

impl From<StorageError> for Misplaced {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

impl From<Misplaced> for StageError {
    fn from(why: Misplaced) -> Self {
        match why {
            Misplaced::Void(why) => Self::Draft(why),
            Misplaced::Behind { base, head } => Self::Behind { base, head },
            Misplaced::Conflict(why) => Self::Conflict(why),
            Misplaced::Block(why) => Self::Block(why),
            Misplaced::Storage(error) => Self::Storage(error),
        }
    }
}

impl From<Misplaced> for ActivateError {
    fn from(why: Misplaced) -> Self {
        match why {
            Misplaced::Void(why) => Self::Void(why),
            Misplaced::Behind { base, head } => Self::Behind { base, head },
            Misplaced::Conflict(why) => Self::Conflict(why),
            Misplaced::Block(why) => Self::Block(why),
            Misplaced::Storage(error) => Self::Storage(error),
        }
    }
}

/// Where a record stands.
struct Placed {
    /// The block that it adopts, executed, if it is above the head.
    adopted: Option<ExecutedBlock>,
    /// The set that it succeeds.
    succeeded: Arc<ValidatorSet>,
}

impl Chain {
    /// Puts a recovery or forced record into force. `block` is the encoded block that it adopts, if the
    /// caller has it; else the staged one is used. Everything appended is published first; the record
    /// (and the adopted block) is durable before the head shows it, and what was staged is cleared after.
    ///
    /// Called on the thread that appends.
    ///
    /// # Errors
    /// See [`ActivateError`].
    pub fn activate(
        &self,
        record: &SignedRecord,
        block: Option<&[u8]>,
    ) -> Result<Activated, ActivateError> {
        self.inner.check()?;
        let result = self.inner.activate(record, block);
        if let Err(ActivateError::Storage(error)) = &result {
            self.inner.note_failure(error);
        }
        result
    }

    /// Keeps a draft and the block that it adopts, durably when this returns; neither in the block log,
    /// nor in the state, nor visible. Takes the place of one of a lower or equal ballot. `block` is
    /// needed only when the base is above the head. That the ballot is not below one promised is for the
    /// caller to check.
    ///
    /// Called on the thread that appends.
    ///
    /// # Errors
    /// See [`StageError`].
    pub fn stage(
        &self,
        ballot: Ballot,
        draft: &EpochRecord,
        block: Option<&[u8]>,
    ) -> Result<(), StageError> {
        self.inner.check()?;
        let result = self.inner.stage(ballot, draft, block);
        if let Err(StageError::Storage(error)) = &result {
            self.inner.note_failure(error);
        }
        result
    }

    /// What is staged, also after a restart, until a record is in force.
    pub fn staged(&self) -> Option<Arc<Staged>> {
        lock(&self.inner.staging).get()
    }

    /// The newest recovery or forced record of this chain.
    pub fn newest_record(&self) -> Option<Arc<SignedRecord>> {
        lock(&self.inner.records).newest()
    }

    /// The validator sets of the epochs of this chain, the newest last: the one in force, and as many
    /// before it as [`KNOWN_EPOCHS`](super::KNOWN_EPOCHS) allows.
    pub fn sets(&self) -> Arc<Sets> {
        self.inner.tip().sets
    }
}

impl Inner {
    fn activate(
        &self,
        signed: &SignedRecord,
        given: Option<&[u8]>,
    ) -> Result<Activated, ActivateError> {
        let record = &signed.record;
        let handover = self.check_signed(signed)?;
        self.publish()?;
        let mut roots = self.roots.write().unwrap_or_else(PoisonError::into_inner);
        let tip = self.tip();
        if tip.has_seen(&self.spec, record) {
            return Ok(Activated::Before);
        }
        let staged = lock(&self.staging).get();
        let staged = staged.as_ref().and_then(|staged| {
            let same = staged.draft.handover.as_ref()?.base == handover.base;
            let block = staged.block.as_ref().filter(|_| same)?;
            Some(&block[..])
        });
        let placed = self.place(&roots, &tip, record, given.or(staged))?;
        if record.kind == RecordKind::Recovery {
            check_acknowledgements(&self.spec.chain, signed, &placed.succeeded)
                .map_err(|error| ActivateError::Void(error.to_string()))?;
        }
        let signed = Arc::new(signed.clone());
        let adopts = placed.adopted.is_some();
        match placed.adopted {
            Some(executed) => {
                let proof = BlockProof::Record(Box::new((*signed).clone()));
                self.log(&executed, &proof)?;
                self.blocks.sync().map_err(StorageError::from)?;
                lock(&self.records).put(&signed)?;
                self.apply(&mut roots, executed, proof)?;
            }
            None => {
                lock(&self.records).put(&signed)?;
                self.set_tip(tip.under(&self.spec, Arc::clone(&signed)));
            }
        }
        drop(roots);
        tracing::warn!(
            epoch = %record.number, kind = ?record.kind, base = %record.base_height,
            block = %handover.base, adopted = handover.adopted,
            "a record is in force that was not decided by votes"
        );
        self.publish()?;
        lock(&self.staging).clear()?;
        let adopted = adopts.then(|| lock(&self.cache).get(record.base_height.0));
        Ok(Activated::Now {
            adopted: adopted.flatten(),
        })
    }

    /// Checks what can be checked without the chain, and gives what the record hands over.
    fn check_signed<'a>(&self, signed: &'a SignedRecord) -> Result<&'a Handover, ActivateError> {
        let fail = |why: String| Err(ActivateError::False(why));
        let record = &signed.record;
        let handover = match record.handover.as_deref() {
            Some(handover) if stands_alone(record.kind) => handover,
            _ => return fail(format!("a {:?} record hands nothing over", record.kind)),
        };
        let size = encode_record(signed).len();
        if size > MAX_RECORD_BYTES {
            return fail(format!(
                "a record of {size} bytes, at most {MAX_RECORD_BYTES} allowed"
            ));
        }
        let authority = self.spec.authority_key.as_ref();
        if !authority.is_some_and(|key| signed.verify(&self.spec.chain, key)) {
            return fail("the record is not signed by the authority of this chain".into());
        }
        Ok(handover)
    }

    fn stage(
        &self,
        ballot: Ballot,
        draft: &EpochRecord,
        given: Option<&[u8]>,
    ) -> Result<(), StageError> {
        let staged = lock(&self.staging).get();
        if let Some(staged) = staged.filter(|staged| staged.ballot > ballot) {
            return Err(StageError::Ballot(staged.ballot));
        }
        let size = borsh::object_length(draft).unwrap_or(usize::MAX);
        if size > MAX_DRAFT_BYTES {
            return Err(StageError::Draft(format!(
                "a draft of {size} bytes, at most {MAX_DRAFT_BYTES} allowed"
            )));
        }
        self.publish()?;
        let roots = self.roots.read().unwrap_or_else(PoisonError::into_inner);
        let tip = self.tip();
        if tip.has_seen(&self.spec, draft) {
            return Err(StageError::Draft("it is in force already".into()));
        }
        let placed = self.place(&roots, &tip, draft, given)?;
        let block = placed.adopted.map(|executed| executed.bytes);
        Ok(lock(&self.staging).put(Staged {
            ballot,
            draft: draft.clone(),
            block,
        })?)
    }

    /// Finds where a record stands on this chain, executes the block that it adopts, and checks
    /// everything but signatures of authority and acknowledgements.
    fn place(
        &self,
        roots: &RootCache,
        tip: &Tip,
        record: &EpochRecord,
        block: Option<&[u8]>,
    ) -> Result<Placed, Misplaced> {
        let void = |why: &str| Misplaced::Void(why.into());
        let handover = match record.handover.as_deref() {
            Some(handover) if stands_alone(record.kind) => handover,
            _ => return Err(void("it hands nothing over")),
        };
        let in_force = tip.head.validators.epoch();
        if record.number <= in_force {
            return Err(Misplaced::Void(format!(
                "epoch {} does not come after epoch {in_force}, which is in force",
                record.number
            )));
        }
        if record.expiry_height.is_some() {
            return Err(void("only planned records expire"));
        }
        check_members(record).map_err(|why| Misplaced::Void(why.to_string()))?;
        let (base, head) = (record.base_height, tip.head.height());
        let adopted = if base <= head {
            self.check_base(tip, base, handover)?;
            None
        } else {
            let block = block.filter(|_| base == head.next() && handover.adopted);
            let block = block.ok_or(Misplaced::Behind { base, head })?;
            Some(self.execute_adopted(roots, handover, block)?)
        };

        let carried = adopted
            .as_ref()
            .and_then(|executed| epochs::planned(&self.spec, &executed.block));
        let governing = match &adopted {
            None if handover.adopted => tip.head.previous_validators.as_ref(),
            _ => None,
        };
        let governing = governing.unwrap_or(&tip.head.validators).epoch();
        let sets = match &carried {
            Some(set) => Arc::new(epochs::with(&tip.sets, set.clone())),
            None => Arc::clone(&tip.sets),
        };
        let carries = carried.as_ref().map(ValidatorSet::epoch);
        let succeeded = carried.map_or_else(|| Arc::clone(&tip.head.validators), Arc::new);
        if adopted.is_some() {
            check_locks(handover, carries)?;
        }
        if record.succeeds != succeeded.record_hash() || record.number <= succeeded.epoch() {
            return Err(Misplaced::Void(format!(
                "it does not succeed epoch {}, which the chain up to block {base} gives",
                succeeded.epoch()
            )));
        }
        if record.kind == RecordKind::Recovery {
            let finding = check_draft(&self.spec.chain, record, &sets)
                .map_err(|error| Misplaced::Void(error.to_string()))?;
            if finding.governing != governing {
                return Err(Misplaced::Void(format!(
                    "its statements are of epoch {}, block {} is governed by epoch {governing}",
                    finding.governing,
                    finding.head.next()
                )));
            }
        }
        Ok(Placed { adopted, succeeded })
    }

    /// Checks that a base at or below the head is the head.
    fn check_base(&self, tip: &Tip, base: Height, handover: &Handover) -> Result<(), Misplaced> {
        let head = tip.head.height();
        let own = if base == head {
            Some(Hash(tip.head.hash.0))
        } else {
            let proof = self.raw_block(base).ok().flatten();
            proof.and_then(|raw| raw.proof.block())
        };
        if own == Some(handover.base) && base == head {
            return Ok(());
        }
        Err(Misplaced::Conflict(match own {
            Some(own) if own != handover.base => format!(
                "a record of the authority has block {} at height {base} as its base, and this chain \
                 holds block {own} there: one of the two is a fork; keep this data directory",
                handover.base
            ),
            _ => format!(
                "a record of the authority ends the epoch at block {base}, and this chain has final \
                 blocks above it, up to {head}: keep this data directory"
            ),
        }))
    }

    /// Executes the block that a record adopts on the tip, as for a prevote.
    fn execute_adopted(
        &self,
        roots: &RootCache,
        handover: &Handover,
        bytes: &[u8],
    ) -> Result<ExecutedBlock, Misplaced> {
        let fault = |why: String| Misplaced::Block(why);
        if bytes.len() > self.spec.max_encoded_bytes() {
            return Err(fault(format!("{} bytes long", bytes.len())));
        }
        let header = read_header(bytes).map_err(|error| fault(error.to_string()))?;
        let hash = header.hash_slow();
        if hash.0 != handover.base.0 {
            return Err(fault(format!(
                "its hash is {hash}, the record names {}",
                handover.base
            )));
        }
        let block = Block::decode(bytes, self.spec.chain.id, &|_| None)
            .map_err(|error| fault(error.to_string()))?;
        // A quorum stands behind it: executed to its end, however long that takes.
        let executed = self.execute(roots, block, &Unlimited);
        executed.map_err(|error| match error {
            ExecutionError::State(error) => StorageError::Fatal(error.to_string()).into(),
            ExecutionError::Invalid(why) => fault(why.to_string()),
            interrupted @ ExecutionError::Interrupted => {
                StorageError::Fatal(interrupted.to_string()).into()
            }
        })
    }
}

/// Checks that the adopted block carries the planned record that the statements say.
fn check_locks(handover: &Handover, carries: Option<Epoch>) -> Result<(), Misplaced> {
    let locks = handover.statements.iter();
    let locks = locks.filter_map(|signed| signed.statement.lock.as_ref());
    let mut of_base = locks.filter(|lock| lock.block() == handover.base);
    match of_base.find(|lock| lock.carries != carries) {
        None => Ok(()),
        Some(lock) => {
            let name = |epoch: Option<Epoch>| {
                epoch.map_or("no record".into(), |e| format!("the record of epoch {e}"))
            };
            Err(Misplaced::Block(format!(
                "it carries {}, a statement says {}",
                name(carries),
                name(lock.carries)
            )))
        }
    }
}
