//! What the runner does with recovery and forced records: puts them into force, and tells those who lack
//! them.

use alloy_primitives::Bytes;
use axolotl_common::{
    Hash, Height, PublicKey, SignedRecord, crypto::random_bytes, membership::EpochRecord,
    recovery::Ballot, registry_api::RecoveryAnswer,
};
use axolotl_ledger::block::encode_record;
use tokio::sync::oneshot;

use super::{Runner, orders::Reply, planned::RECORD_INTERVAL};
use crate::{
    engine::{
        EngineError,
        records::encode_message,
        recovery::{seals_in, tasks::TaskError},
        since,
    },
    network::MessageToken,
    storage::{ActivateError, Activated, StageError},
};

/// Whom a record came from.
pub(super) enum Source {
    /// The registry waits for an answer.
    Order(Reply),
    /// A peer passed it on.
    Gossip(PublicKey, MessageToken),
}

/// What a task of the runner came to.
pub(super) enum Task {
    /// Staging a draft.
    Staged {
        ballot: Ballot,
        draft: Box<EpochRecord>,
        result: Result<(), TaskError<StageError>>,
        reply: Reply,
    },
    /// Putting a record into force.
    Activated {
        record: Box<SignedRecord>,
        result: Result<Activated, TaskError<ActivateError>>,
        source: Source,
    },
}

impl Runner {
    /// The registry orders a record into force.
    pub(super) fn on_ordered_recovery(&mut self, record: SignedRecord, reply: Reply) {
        let number = record.record.number;
        let why = if self.is_in_force(&record) {
            self.tell_recovery();
            Ok(format!("epoch {number} is in force"))
        } else if !self.is_authentic(&record) {
            Err("the record is not signed by the authority of this chain".to_owned())
        } else if self.is_second(&record) {
            Err(self.note_second(&record))
        } else if !self.tasks.is_empty() {
            Err("this node is busy with a draft or a record; send the record again".to_owned())
        } else {
            self.begin_activation(record, Source::Order(reply));
            return;
        };
        self.answer(reply, RecoveryAnswer::default(), Some(number), why);
    }

    /// A peer passed on a record that follows a seal.
    pub(super) fn on_gossiped_recovery(
        &mut self,
        from: PublicKey,
        record: SignedRecord,
        token: MessageToken,
    ) {
        let known = record.record.number <= self.chain.head().validators.epoch();
        if self.is_second(&record) && self.is_authentic(&record) {
            tracing::error!(%from, "{}", self.note_second(&record));
        }
        if known || !self.tasks.is_empty() {
            self.network.ignore(token);
        } else if self.is_authentic(&record) {
            self.begin_activation(record, Source::Gossip(from, token));
        } else {
            tracing::warn!(%from, "a gossiped record is not signed by the authority of this chain");
            self.network.reject(token);
        }
    }

    fn is_in_force(&self, record: &SignedRecord) -> bool {
        let hash = record.record.hash(&self.chain.spec().chain);
        self.chain.head().validators.record_hash() == hash
    }

    /// Whether it has the number of the record in force and is another one.
    fn is_second(&self, record: &SignedRecord) -> bool {
        record.record.number == self.chain.head().validators.epoch() && !self.is_in_force(record)
    }

    /// The authority signed one number twice, which one store never does: shows its key with those that
    /// contradicted themselves. This node keeps to the record that it has.
    fn note_second(&self, record: &SignedRecord) -> String {
        if let Some(authority) = self.chain.spec().authority_key {
            self.note_misbehaviour(authority);
        }
        format!(
            "the authority signed two records of epoch {}: its key is in two stores. Stop all registries but one, and compare the membership of the nodes before anything else",
            record.record.number
        )
    }

    fn is_authentic(&self, record: &SignedRecord) -> bool {
        let spec = self.chain.spec();
        let authority = spec.authority_key.as_ref();
        authority.is_some_and(|key| record.verify(&spec.chain, key))
    }

    fn begin_activation(&mut self, record: SignedRecord, source: Source) {
        let base = record.record.handover.as_deref().map(|h| h.base);
        let block = self.locked_block(base);
        // Whoever acknowledged the draft has the block.
        let acknowledged = record.acknowledgements.iter().map(|a| a.member);
        let holders: Vec<PublicKey> = acknowledged.collect();
        let hands = self.hands();
        self.tasks.spawn(async move {
            let result = hands.activate(record.clone(), block, holders).await;
            Task::Activated {
                record: Box::new(record),
                result,
                source,
            }
        });
    }

    /// A task came to its end.
    pub(super) fn on_task(&mut self, task: Task) {
        match task {
            Task::Staged {
                ballot,
                draft,
                result,
                reply,
            } => self.on_staged(ballot, &draft, result, reply),
            Task::Activated {
                record,
                result,
                source,
            } => self.on_activated(&record, result, source),
        }
    }

    fn on_activated(
        &mut self,
        record: &SignedRecord,
        result: Result<Activated, TaskError<ActivateError>>,
        source: Source,
    ) {
        let number = record.record.number;
        if let Err(TaskError::Chain(ActivateError::Behind { base, .. })) = &result {
            self.seek(*base);
        }
        if let Ok(Activated::Now { adopted }) = &result {
            let adopted = adopted.as_ref().map(|block| block.hash);
            tracing::warn!(epoch = %number, kind = ?record.record.kind, base = %record.record.base_height, ?adopted, "a recovery record is in force");
            self.note_seals();
            self.tell_recovery();
        }
        if let Source::Gossip(from, token) = &source {
            let token = token.clone();
            match &result {
                Ok(Activated::Now { .. }) => self.network.accept(token),
                Err(TaskError::Chain(error @ ActivateError::False(_))) => {
                    tracing::warn!(%from, %error, "a gossiped record is false");
                    self.network.reject(token);
                }
                Ok(Activated::Before) => self.network.ignore(token),
                Err(error) => {
                    tracing::warn!(%from, %error, epoch = %number, "a gossiped record is not in force here");
                    self.network.ignore(token);
                }
            }
        }
        if let Source::Order(reply) = source {
            let outcome = match result {
                Ok(_) => Ok(format!("epoch {number} is in force")),
                Err(error) => Err(error.to_string()),
            };
            self.answer(reply, RecoveryAnswer::default(), Some(number), outcome);
        }
    }

    /// What this node holds contradicts a record of the authority: the volume is kept as it is, and votes
    /// no more; whoever looks at it finds out who was wrong.
    pub(super) fn conflict(&mut self, why: &str) -> EngineError {
        let why = format!(
            "this chain contradicts a record of the authority: {why}; the data directory is kept for whoever looks into it, and votes no more: let the node join anew with another one"
        );
        tracing::error!("{why}");
        self.unfit = Some(why.clone());
        self.note_round();
        if let Err(error) = self
            .data
            .write_record(crate::engine::CONFLICT_RECORD, why.as_bytes())
        {
            tracing::error!(%error, "the conflict could not be noted in the data directory");
        }
        EngineError(why)
    }

    /// The block that this node is locked on or has staged, if it is the one of this hash.
    pub(super) fn locked_block(&self, hash: Option<Hash>) -> Option<Bytes> {
        let hash = hash?;
        let locked = self.driver.lock().filter(|lock| lock.block == hash);
        let staged = || {
            let staged = self.chain.staged()?;
            let base = staged.draft.handover.as_ref()?.base;
            staged.block.clone().filter(|_| base == hash)
        };
        locked
            .and_then(|lock| lock.bytes)
            .map(Bytes::from)
            .or_else(staged)
    }

    /// A peer asks for a block that is not final.
    pub(super) fn on_locked_wanted(&self, hash: Hash, reply: oneshot::Sender<Option<Bytes>>) {
        if reply.send(self.locked_block(Some(hash))).is_err() {
            tracing::debug!(block = %hash, "nobody waits for a locked block any more");
        }
    }

    /// A block of this height is final somewhere: sync shall bring it.
    pub(super) fn seek(&self, height: Height) {
        self.status.send_modify(|status| {
            status.behind = status.behind.max(Some(height.next()));
        });
    }

    /// Keeps what the status exchange tells each validator about its own seals.
    pub(super) fn note_seals(&self) {
        let (staged, newest) = (self.chain.staged(), self.chain.newest_record());
        let drafts = staged.iter().filter_map(|s| s.draft.handover.as_deref());
        let records = newest.iter().filter_map(|r| r.record.handover.as_deref());
        let seals = seals_in(drafts.chain(records));
        self.facts(|facts| facts.seals = seals);
    }

    /// The record by which the epoch in force began, if it followed a seal.
    fn recovery_in_force(&self) -> Option<std::sync::Arc<SignedRecord>> {
        let epoch = self.chain.head().validators.epoch();
        self.chain
            .newest_record()
            .filter(|signed| signed.record.number == epoch)
    }

    /// Whether a peer is at the base of the record in force, or above it, and does not know that record.
    fn somebody_lacks(&self, record: &EpochRecord) -> bool {
        self.network.peers().iter().any(|peer| {
            let status = peer.status.as_ref().filter(|_| peer.connected);
            status.is_some_and(|status| {
                status.epoch < record.number && status.height.next() >= record.base_height
            })
        })
    }

    /// Tells the record in force again, while somebody lacks it.
    pub(super) fn greet_with_recovery(&mut self) {
        self.recovery_due = since(self.start) + RECORD_INTERVAL;
        let lacking = self
            .recovery_in_force()
            .filter(|signed| self.somebody_lacks(&signed.record));
        if lacking.is_some() {
            self.tell_recovery();
        }
    }

    fn tell_recovery(&mut self) {
        self.recovery_due = since(self.start) + RECORD_INTERVAL;
        if let Some(signed) = self.recovery_in_force() {
            let copy = u64::from_le_bytes(random_bytes());
            let message = encode_message(copy, &encode_record(&signed));
            if let Err(error) = self.network.publish_record(message) {
                tracing::warn!(%error, "a recovery record was not sent; it is sent again");
            }
        }
    }
}
