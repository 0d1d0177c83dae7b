//! What this node's votes have not decided: blocks from sync, records that take force between blocks,
//! and drafts of such records.

use axolotl_common::{
    BlockProof, CommitCertificate, EpochRecord, Height, SignedRecord, recovery::Ballot,
};
use axolotl_ledger::Tx;
use tokio::sync::oneshot;

use super::{Done, Fatal, Refusal, Worker};
use crate::{
    chain_sync::ApplyError,
    network::SyncBlock,
    storage::{ActivateError, Activated, Head, StageError},
};

impl Worker {
    pub(super) fn apply(
        &mut self,
        blocks: &[SyncBlock],
        reply: oneshot::Sender<Result<Height, ApplyError>>,
    ) -> Result<(), Fatal> {
        let before = self.chain.head();
        let mut mined = Vec::new();
        let mut outcome = Ok(());
        for sync_block in blocks {
            match self.apply_one(sync_block, &mut mined)? {
                Ok(()) => {}
                Err(reason) => {
                    outcome = Err(reason);
                    break;
                }
            }
        }
        self.publish_after(&before, &mined)?;
        let tip = self.chain.head().height();
        let answer = match outcome {
            Ok(()) => Ok(tip),
            Err(why) => Err(ApplyError {
                tip,
                peer_fault: true,
                why,
            }),
        };
        if reply.send(answer).is_err() {
            tracing::debug!("sync has stopped");
        }
        Ok(())
    }

    /// Publishes if tip or epoch are others than before.
    fn publish_after(&mut self, before: &Head, mined: &[Tx]) -> Result<(), Fatal> {
        let tip = self.chain.tip();
        let place = |head: &Head| (head.hash, head.validators.epoch());
        if place(&tip) != place(before) {
            self.executed.clear();
            self.publish(mined, false)?;
        }
        Ok(())
    }

    /// Verifies, executes and appends one block, and what stands ahead of it. The inner error is the
    /// peer's fault.
    fn apply_one(
        &mut self,
        sync_block: &SyncBlock,
        mined: &mut Vec<Tx>,
    ) -> Result<Result<(), String>, Fatal> {
        let height = sync_block.height();
        if height < self.next_height() {
            return Ok(Ok(()));
        }
        if height > self.next_height() {
            return Ok(Err(format!("a gap before height {height}")));
        }
        for record in &sync_block.records {
            if let Err(why) = self.activate(record, None, mined)? {
                return Ok(Err(format!("a record ahead of block {height}: {why}")));
            }
        }
        match &sync_block.proof {
            BlockProof::Certificate(certificate) => {
                self.apply_decided(certificate, &sync_block.block, mined)
            }
            BlockProof::Record(record) => {
                let outcome = self.activate(record, Some(&sync_block.block), mined)?;
                Ok(match outcome {
                    Ok(_) if self.chain.tip().height() == height => Ok(()),
                    Ok(_) => Err(format!("the record of block {height} does not adopt it")),
                    Err(why) => Err(format!("block {height}: {why}")),
                })
            }
        }
    }

    /// Verifies, executes and appends a block that was decided by votes.
    fn apply_decided(
        &mut self,
        certificate: &CommitCertificate,
        bytes: &[u8],
        mined: &mut Vec<Tx>,
    ) -> Result<Result<(), String>, Fatal> {
        let tip = self.chain.tip();
        if let Err(error) = certificate.verify(&self.chain.spec().chain, &tip.validators) {
            return Ok(Err(format!(
                "certificate of height {}: {error}",
                certificate.height
            )));
        }
        let executed = match self.finalised(&certificate.block.0.into(), bytes) {
            Ok(executed) if executed.hash.0 == certificate.block.0 => executed,
            Ok(_) => {
                return Ok(Err(format!(
                    "block and certificate of height {} differ",
                    certificate.height
                )));
            }
            Err(Refusal::State(error)) => return Err(Fatal(error)),
            Err(Refusal::NotYet) => {
                return Err(Fatal("an execution without a limit was interrupted".into()));
            }
            // The bytes may be garbage under a good certificate; if they are not, this node
            // disagrees with a quorum, which other peers' copies will show again.
            Err(Refusal::Invalid(reason)) => {
                return Ok(Err(format!(
                    "block of height {}: {reason}",
                    certificate.height
                )));
            }
        };
        mined.extend(executed.block.transactions.iter().cloned());
        self.chain.append(executed, certificate.clone())?;
        Ok(Ok(()))
    }

    /// Puts a record into force. A conflict and a failing store are fatal; the inner error is all else.
    fn activate(
        &mut self,
        record: &SignedRecord,
        block: Option<&[u8]>,
        mined: &mut Vec<Tx>,
    ) -> Result<Result<Activated, ActivateError>, Fatal> {
        match self.chain.activate(record, block) {
            Ok(activated) => {
                if let Activated::Now {
                    adopted: Some(adopted),
                } = &activated
                {
                    mined.extend(adopted.block.transactions.iter().cloned());
                }
                Ok(Ok(activated))
            }
            Err(ActivateError::Conflict(why)) => {
                self.answer(Done::Conflict(why.clone()));
                Err(Fatal(why))
            }
            Err(error @ ActivateError::Storage(_)) => Err(Fatal(error.to_string())),
            Err(error) => Ok(Err(error)),
        }
    }

    pub(super) fn on_record(
        &mut self,
        record: &SignedRecord,
        block: Option<&[u8]>,
        reply: oneshot::Sender<Result<Activated, ActivateError>>,
    ) -> Result<(), Fatal> {
        let (before, mut mined) = (self.chain.head(), Vec::new());
        let outcome = self.activate(record, block, &mut mined)?;
        self.publish_after(&before, &mined)?;
        if reply.send(outcome).is_err() {
            tracing::debug!("nobody waits for what became of a record");
        }
        Ok(())
    }

    pub(super) fn stage(
        &mut self,
        ballot: Ballot,
        draft: &EpochRecord,
        block: Option<&[u8]>,
        reply: oneshot::Sender<Result<(), StageError>>,
    ) -> Result<(), Fatal> {
        let outcome = match self.chain.stage(ballot, draft, block) {
            Err(StageError::Storage(error)) => return Err(error.into()),
            outcome => outcome,
        };
        if let Err(StageError::Block(why)) = &outcome {
            tracing::error!(epoch = %draft.number, why, "a block that is to be adopted does not do");
        }
        if reply.send(outcome).is_err() {
            tracing::debug!("nobody waits for what was staged");
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "foreign_tests.rs"]
mod tests;
