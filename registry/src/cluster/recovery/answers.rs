//! What nodes answered, since this process runs.

use std::collections::{BTreeMap, BTreeSet};

use axolotl_common::{
    Epoch, EpochRecord, Height, NodeId, PublicKey, SignedRecord, ValidatorSet,
    recovery::{Acknowledgement, Ballot, RegistryStart, SignedStatement, Statement},
    registry_api::{RecoveryAnswer, StagedDraft, Survey},
};

use super::{Epochs, MAX_ANSWERING, Memory};
use crate::cluster::Now;

/// What one node said last of each thing.
#[derive(Clone, Debug, Default)]
pub(super) struct Said {
    /// The newest start that it has met.
    pub(super) met: Option<RegistryStart>,
    /// The highest ballot that it answered.
    pub(super) promised: Option<Ballot>,
    /// It is sealed up to this epoch.
    pub(super) sealed: Option<Epoch>,
    /// What it has staged.
    pub(super) staged: Option<StagedDraft>,
    /// What it would state, and when it said so.
    pub(super) survey: Option<(Now, Survey)>,
    /// Why it did not do what it was told last.
    pub(super) refusal: Option<String>,
}

/// What nodes answered.
#[derive(Clone, Debug, Default)]
pub(super) struct Answers {
    said: BTreeMap<PublicKey, Said>,
    /// Statements that are not durable yet.
    unsaved: BTreeMap<PublicKey, SignedStatement>,
    /// Acknowledgements of the newest ballot each.
    acknowledged: BTreeMap<PublicKey, Acknowledgement>,
    /// The newest record that the store lacks.
    learned: Option<SignedRecord>,
}

impl Answers {
    /// Takes an answer of `key`, whose signature on the request holds. What it claims is checked; what
    /// does not hold is left out. Returns what was wrong, for the log.
    pub(super) fn take(
        &mut self,
        epochs: &Epochs<'_>,
        key: PublicKey,
        answer: RecoveryAnswer,
        refusal: Option<String>,
        now: Now,
    ) -> Vec<String> {
        let mut faults = Vec::new();
        if let Some(record) = answer.record {
            self.learn(epochs, *record, &mut faults);
        }
        // A member of a record that the store still lacks is heard with the answer that brings the record.
        let of_learned = self.learned.as_ref().is_some_and(|signed| {
            let mut members = signed.record.members.iter();
            members.any(|member| member.public_key == key)
        });
        if let Some(acknowledgement) = answer.acknowledgement {
            if acknowledgement.member == key
                && (self.acknowledged.contains_key(&key) || self.acknowledged.len() < MAX_ANSWERING)
            {
                self.acknowledged.insert(key, acknowledgement);
            } else {
                faults.push("the acknowledgement is another node's".to_owned());
            }
        }
        if !self.said.contains_key(&key) && self.said.len() >= MAX_ANSWERING {
            return faults;
        }
        let said = self.said.entry(key).or_default();
        // Whoever becomes a member later has met this start as a learner.
        said.met = answer.met.or(said.met);
        said.promised = said.promised.max(answer.promised);
        said.sealed = said.sealed.max(answer.sealed);
        said.refusal = refusal;
        if !of_learned && !is_member(epochs, &key) {
            return faults;
        }
        said.staged = answer.staged.or_else(|| said.staged.take());
        if let Some(survey) = answer.survey {
            match checked(epochs, &survey.statement, key) {
                Ok(()) => said.survey = Some((now, *survey)),
                Err(fault) => faults.push(fault),
            }
        }
        if let Some(signed) = answer.statement {
            let signature = signed.check(&epochs.chain, epochs.sets);
            let held = signature.map_err(|error| error.to_string());
            match held.and_then(|()| checked(epochs, &signed.statement, key)) {
                Ok(()) => {
                    self.unsaved.insert(key, *signed);
                }
                Err(fault) => faults.push(fault),
            }
        }
        faults
    }

    /// Forgets nodes that are not on record any more.
    pub(super) fn retain(&mut self, keep: impl Fn(&PublicKey) -> bool) {
        self.said.retain(|key, _| keep(key));
        self.unsaved.retain(|key, _| keep(key));
        self.acknowledged.retain(|key, _| keep(key));
    }

    fn learn(&mut self, epochs: &Epochs<'_>, record: SignedRecord, faults: &mut Vec<String>) {
        let number = record.record.number;
        let newer = self
            .learned
            .as_ref()
            .is_none_or(|l| l.record.number < number);
        if epochs.sets.contains_key(&number) || !newer {
            return;
        }
        let members = record.record.members.len();
        if members == 0 || members > axolotl_common::membership::MAX_MEMBERS {
            faults.push(format!("record {number} has {members} members"));
        } else if record.verify(&epochs.chain, &epochs.authority) {
            self.learned = Some(record);
        } else {
            faults.push(format!("record {number} is not this authority's"));
        }
    }

    /// A record that the store lacks.
    pub(super) fn learned(&mut self, epochs: &Epochs<'_>) -> Option<SignedRecord> {
        let learned = self.learned.take()?;
        (!epochs.sets.contains_key(&learned.record.number)).then_some(learned)
    }

    /// A statement that is not durable yet and says something new.
    pub(super) fn unsaved(&mut self, memory: &Memory) -> Option<SignedStatement> {
        while let Some((key, signed)) = self.unsaved.pop_first() {
            if memory.statements.get(&key) != Some(&signed) {
                return Some(signed);
            }
        }
        None
    }

    pub(super) fn of(&self, key: &PublicKey) -> Option<&Said> {
        self.said.get(key)
    }

    pub(super) fn acknowledgement(&self, key: &PublicKey) -> Option<&Acknowledgement> {
        self.acknowledged.get(key)
    }

    /// Whether a member is known to be sealed in `epoch`.
    pub(super) fn is_sealed(&self, memory: &Memory, key: &PublicKey, epoch: Epoch) -> bool {
        let by_word = self.of(key).and_then(|said| said.sealed);
        let stated = memory.statements.get(key).map(|s| s.statement.sealed);
        by_word >= Some(epoch) || stated >= Some(epoch)
    }

    /// Members of `set` that have met `start`.
    pub(super) fn met(&self, set: &ValidatorSet, start: RegistryStart) -> BTreeSet<PublicKey> {
        let keys = set.members().iter().map(|member| member.public_key);
        keys.filter(|key| self.of(key).is_some_and(|said| said.met == Some(start)))
            .collect()
    }

    /// A member of `set` that answered a ballot which the store does not know.
    pub(super) fn foreign_ballot(
        &self,
        memory: &Memory,
        set: &ValidatorSet,
    ) -> Option<(NodeId, Ballot)> {
        set.members().iter().find_map(|member| {
            let ballot = self.of(&member.public_key)?.promised?;
            (!memory.ledger.knows(&ballot)).then(|| (member.node_id.clone(), ballot))
        })
    }

    /// Members of `set` that have met a registry which is not in the store's list.
    pub(super) fn refusing<'a>(
        &'a self,
        memory: &'a Memory,
        set: &'a ValidatorSet,
    ) -> impl Iterator<Item = (&'a NodeId, RegistryStart)> {
        set.members().iter().filter_map(|member| {
            let met = self.of(&member.public_key)?.met?;
            (!memory.starts.contains(&met)).then_some((&member.node_id, met))
        })
    }

    /// Starts and ballots that a validator has met or answered.
    pub(super) fn heard_of(
        &self,
        epochs: &Epochs<'_>,
    ) -> (BTreeSet<RegistryStart>, BTreeSet<Ballot>) {
        let said = || {
            let said = self.said.iter();
            let members = said.filter(|(key, _)| is_member(epochs, key));
            members.map(|(_, said)| said)
        };
        let ballots: BTreeSet<Ballot> = said().filter_map(|said| said.promised).collect();
        let met = said().filter_map(|said| said.met);
        let starts = met.chain(ballots.iter().map(|ballot| ballot.start));
        (starts.collect(), ballots)
    }

    /// Of the drafts that hold, the one that was staged under the highest ballot. Only those of members
    /// are kept.
    pub(super) fn highest_staged(
        &self,
        holds: impl Fn(&EpochRecord) -> bool,
    ) -> Option<&StagedDraft> {
        let staged = self.said.values().filter_map(|said| said.staged.as_ref());
        staged
            .filter(|staged| holds(&staged.draft))
            .max_by_key(|staged| staged.ballot)
    }
}

fn is_member(epochs: &Epochs<'_>, key: &PublicKey) -> bool {
    epochs.sets.values().rev().any(|set| set.contains(key))
}

fn checked(epochs: &Epochs<'_>, statement: &Statement, key: PublicKey) -> Result<(), String> {
    if statement.author != key {
        return Err("the statement is another node's".to_owned());
    }
    let head = (statement.head, statement.head_hash);
    // Without a certificate only a record of ours makes a block final.
    if statement.certificate.is_none() && head.0 > Height(0) && !epochs.bases.contains(&head) {
        return Err("it does not show that its last block is final".to_owned());
    }
    statement
        .check(&epochs.chain, epochs.sets)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use axolotl_common::{
        ChainId, ChainRef, Hash, KeyPair, Member, QuorumRule, VolumeId, membership::RecordKind,
        recovery::StartId,
    };

    use super::*;

    #[test]
    fn a_member_of_a_record_that_the_store_lacks_is_heard() {
        let chain = ChainRef {
            id: ChainId(7),
            genesis: Hash([7; 32]),
        };
        let key = |seed: u8| KeyPair::from_seed(&[seed; 32]);
        let member = |seed: u8| Member {
            node_id: NodeId::numbered(seed.into()),
            public_key: key(seed).public(),
            volume_id: VolumeId([seed; 16]),
        };
        let genesis = EpochRecord::genesis(&chain, vec![member(1)]);
        let set = ValidatorSet::new(&chain, &genesis, QuorumRule::Byzantine);
        let next = EpochRecord {
            number: Epoch(1),
            kind: RecordKind::Recovery,
            succeeds: set.record_hash(),
            members: vec![member(2)],
            base_height: Height(1),
            expiry_height: None,
            handover: None,
        };
        let record = next.clone().sign(&chain, &key(9));
        let (sets, bases) = ([(Epoch(0), set)].into(), BTreeSet::new());
        let epochs = Epochs {
            chain,
            sets: &sets,
            bases: &bases,
            in_force: Epoch(0),
            planned: None,
            signed: None,
            authority: key(9).public(),
        };
        let met = RegistryStart {
            counter: 1,
            id: StartId([1; 16]),
        };
        let staged = StagedDraft {
            ballot: Ballot {
                start: met,
                attempt: 1,
            },
            draft: Box::new(next),
        };
        let (mut answers, newcomer) = (Answers::default(), key(2).public());
        for (record, heard) in [(None, false), (Some(Box::new(record)), true)] {
            let answer = RecoveryAnswer {
                met: Some(met),
                staged: Some(staged.clone()),
                record,
                ..RecoveryAnswer::default()
            };
            let faults = answers.take(&epochs, newcomer, answer, None, Now::ZERO);
            assert_eq!(faults, Vec::<String>::new());
            let said = answers.of(&newcomer).unwrap();
            assert_eq!((said.met, said.staged.is_some()), (Some(met), heard));
        }
    }
}
