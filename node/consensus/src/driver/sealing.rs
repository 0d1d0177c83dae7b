//! The end of an epoch whose quorum is lost: the seal, and what is said of what was held before it.
//!
//! From the seal on nothing reaches the core of the sealed epoch or of an earlier one; [`Driver::feed`]
//! is the only way there, and shut. Certificates still move the node to further heights, and an epoch
//! above the sealed one is as any other.

use std::collections::BTreeMap;

use super::{Current, Driver, Lock, Phase};
use crate::{
    effect::Effect,
    input::{Now, TimerKind},
    log_record::{LogEntry, LogRecord},
    message::{PolkaCertificate, SignedVote},
};
use axolotl_common::{
    CommitCertificate, Epoch, Hash, Height, PublicKey, Round, Signature, VoteKind,
    membership::MAX_MEMBERS,
    recovery::{Ballot, SealNote, StatedLock, Statement},
};

/// The end of the chain, as a statement tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatedHead {
    /// Height of the last block.
    pub height: Height,
    /// Its hash.
    pub hash: Hash,
    /// Why it is final, where a certificate says so.
    pub certificate: Option<CommitCertificate>,
    /// Epoch that governs the height above.
    pub governing: Epoch,
}

impl Driver {
    /// Seals `epoch` and all before it: [`Effect::Append`] of the seal, [`Effect::Flush`], then
    /// [`Effect::Sealed`]; if they are sealed already, only the last. There is no way back. After
    /// [`Effect::Fatal`] nothing comes any more.
    pub fn seal(&mut self, epoch: Epoch) -> Vec<Effect> {
        let Some(height) = self.height().filter(|_| !self.dead) else {
            return Vec::new();
        };
        if self.sealed.is_none_or(|sealed| sealed < epoch) {
            self.out.push(Effect::Append(LogRecord {
                epoch,
                height,
                entry: LogEntry::Seal,
            }));
            self.sealed = Some(epoch);
            if self.is_sealed() {
                self.close();
            }
        }
        let epoch = self.sealed.unwrap_or(epoch);
        self.out.push(Effect::Sealed { epoch });
        self.finish(Ok(()))
    }

    /// This epoch and all before it are sealed.
    pub fn sealed(&self) -> Option<Epoch> {
        self.sealed
    }

    /// Epoch of which the log lacks the seal, if others hold this node's word that it is sealed.
    pub fn lost_seal(&self) -> Option<Epoch> {
        self.lost_seal
    }

    /// What this node says of itself as sealed in `epoch` (in a dry run: would say): the head as the chain
    /// has it, the lock at the height above it with its proof, the last vote signed and the highest
    /// vote seen of every other member. `carries` reads the number of the planned record in an encoded
    /// block.
    ///
    /// Needs no amnesia check: what others hold of this node is compared by whoever reads it.
    ///
    /// # Errors
    /// When the proof or the block of the lock is missing: then the log lost records, and this node is no
    /// survivor.
    pub fn statement(
        &self,
        epoch: Epoch,
        ballot: Ballot,
        head: StatedHead,
        carries: impl Fn(&[u8]) -> Option<Epoch>,
    ) -> Result<Statement, &'static str> {
        let me = self.signer.me();
        let lock = self
            .precommitted()
            .filter(|lock| lock.height == head.height.next());
        let lock = match lock {
            None => None,
            Some(lock) => Some(StatedLock {
                proof: lock.proof.ok_or("the proof of the lock is missing")?,
                carries: carries(&lock.bytes.ok_or("the block of the lock is missing")?),
            }),
        };
        let others = self.highest.all();
        let others = others.filter(|vote| vote.vote.validator != me);
        Ok(Statement {
            author: me,
            volume: self.config.volume,
            sealed: epoch,
            ballot,
            head: head.height,
            head_hash: head.hash,
            certificate: head.certificate,
            governing: head.governing,
            lock,
            last_vote: self.last_vote,
            seen: others.take(MAX_MEMBERS).copied().collect(),
        })
    }

    /// The lock, if this node itself precommitted: a core that only follows the rounds has one, too.
    fn precommitted(&self) -> Option<Lock> {
        let current = self.current.as_ref()?;
        match current.phase {
            Phase::Held(_) | Phase::Sealed(_) => self.lock(),
            _ => self.lock().filter(|_| current.votes),
        }
    }

    /// Whether the epoch that governs the present height is sealed.
    pub(super) fn is_sealed(&self) -> bool {
        self.epoch()
            .is_some_and(|epoch| self.sealed.is_some_and(|sealed| epoch <= sealed))
    }

    /// Shuts the core of the present height, and keeps what it is locked on.
    pub(super) fn close(&mut self) {
        let lock = self.precommitted();
        self.abandon();
        self.cancel_timers(|kind| kind != TimerKind::Behind);
        self.future.clear();
        if let Some(current) = &mut self.current {
            current.phase = Phase::Sealed(lock.map(Box::new));
            current.votes = false;
            current.building = None;
            current.core.silence();
        }
    }

    pub(super) fn note_own(&mut self, vote: &SignedVote) {
        let newer = |last: &SignedVote| last.vote.position() < vote.vote.position();
        if vote.vote.validator == self.signer.me() && self.last_vote.as_ref().is_none_or(newer) {
            self.last_vote = Some(*vote);
        }
    }

    /// Whether the log lacks the seal of the epoch that governs the present height.
    pub(super) fn lost_this_seal(&self) -> bool {
        self.epoch()
            .is_some_and(|epoch| self.lost_seal.is_some_and(|lost| epoch <= lost))
    }

    /// Somebody shows this node's own word that it is sealed.
    pub(super) fn seal_seen(&mut self, now: Now, note: &SealNote) -> Result<(), String> {
        let known = self.sealed.max(self.lost_seal);
        if known.is_some_and(|known| note.epoch <= known) {
            return Ok(());
        }
        if !note.verify(&self.config.chain, &self.signer.me()) {
            tracing::warn!(epoch = %note.epoch, "a seal is shown to this node that it did not sign");
            return Ok(());
        }
        self.lost_seal = Some(note.epoch);
        self.out.push(Effect::SealLost { epoch: note.epoch });
        if self.lost_this_seal()
            && !self.is_held()
            && let Some(current) = &mut self.current
        {
            current.core.silence();
            current.building = None;
            current.votes = false;
        }
        self.release(now)
    }
}

/// The lock that the log of a height holds: the block of the node's last precommit for one, with the
/// prevotes for it. All of that was durable before the precommit left.
pub(super) fn lock_in(records: &[LogRecord], me: &PublicKey, current: &Current) -> Option<Lock> {
    let entries = || records.iter().map(|record| &record.entry);
    let votes = || {
        entries().filter_map(|entry| match entry {
            LogEntry::Vote(signed) => Some(signed),
            _ => None,
        })
    };
    let own = votes().filter(|signed| signed.vote.validator == *me);
    let (round, block) = own
        .filter(|signed| signed.vote.kind == VoteKind::Precommit)
        .filter_map(|signed| Some((signed.vote.round, signed.vote.block?)))
        .max_by_key(|(round, _)| *round)?;
    let (epoch, height) = (current.committee.epoch(), current.start.height);
    let arrived = entries().find_map(|entry| match entry {
        LogEntry::Polka(polka) if (polka.round, polka.block) == (round, block) => {
            let mut polka = polka.clone();
            polka.signatures.sort_unstable_by_key(|(key, _)| *key);
            Some(polka)
        }
        _ => None,
    });
    let collected = || proof_of(votes(), epoch, height, round, block);
    let proof = arrived
        .or_else(collected)
        .filter(|proof| proof.signatures.len() >= current.committee.quorum());
    let bytes = entries().find_map(|entry| match entry {
        LogEntry::Block { block: hash, bytes } if *hash == block => Some(bytes.clone()),
        _ => None,
    });
    Some(Lock {
        epoch,
        height,
        round,
        block,
        proof,
        bytes,
    })
}

fn proof_of<'a>(
    votes: impl Iterator<Item = &'a SignedVote>,
    epoch: Epoch,
    height: Height,
    round: Round,
    block: Hash,
) -> Option<PolkaCertificate> {
    let prevotes: BTreeMap<PublicKey, Signature> = votes
        .filter(|signed| signed.vote.kind == VoteKind::Prevote)
        .filter(|signed| (signed.vote.round, signed.vote.block) == (round, Some(block)))
        .map(|signed| (signed.vote.validator, signed.signature))
        .collect();
    (!prevotes.is_empty()).then(|| PolkaCertificate {
        epoch,
        height,
        round,
        block,
        signatures: prevotes.into_iter().collect(),
    })
}
