//! The record that follows from statements, and who acknowledged it.

use std::collections::BTreeSet;

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Ballot, Finding, Obstacle, Sets, SignedStatement, StatementError, fewest_survivors, judge,
    judge_forced,
};
use crate::{
    crypto::{KeyPair, PublicKey, Signature, domain, sign_bytes},
    ids::{ChainRef, Hash},
    membership::{EpochRecord, RecordKind, SignedRecord, ValidatorSet},
};

/// What a recovery or forced record hands over from the epoch that was lost.
#[derive(
    Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize, ToSchema,
)]
pub struct Handover {
    /// The ballot under which the draft was made. It may be signed under a later one.
    pub ballot: Ballot,
    /// The statements that it rests on.
    pub statements: Vec<SignedStatement>,
    /// Hash of the block at the base height.
    pub base: Hash,
    /// Whether that block was only locked before, and is final by this record.
    pub adopted: bool,
}

/// A node's word that it has staged a draft durably.
#[derive(
    Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize, ToSchema,
)]
pub struct Acknowledgement {
    /// Who says so.
    pub member: PublicKey,
    /// The ballot of the order that it obeyed.
    pub ballot: Ballot,
    /// Its signature over chain, ballot and hash of the draft.
    pub signature: Signature,
}

impl Acknowledgement {
    fn signed_bytes(chain: &ChainRef, ballot: &Ballot, draft: &Hash) -> Vec<u8> {
        sign_bytes(domain::ACKNOWLEDGEMENT, &(chain, ballot, draft))
    }

    /// Signs that the draft with this hash ([`EpochRecord::hash`]) is staged.
    pub fn new(chain: &ChainRef, ballot: Ballot, draft: &Hash, key: &KeyPair) -> Self {
        Self {
            member: key.public(),
            ballot,
            signature: key.sign(&Self::signed_bytes(chain, &ballot, draft)),
        }
    }

    /// Whether the signature is the member's.
    pub fn verify(&self, chain: &ChainRef, draft: &Hash) -> bool {
        let bytes = Self::signed_bytes(chain, &self.ballot, draft);
        self.member.verify(&bytes, &self.signature)
    }
}

/// Why a draft or a record is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DraftError {
    /// It is no recovery record.
    #[error("it hands over nothing: it is no recovery record")]
    NoHandover,
    /// A statement in it does not hold.
    #[error("a statement in it: {0}")]
    Statement(#[from] StatementError),
    /// The statements do not allow it.
    #[error("{0}")]
    Obstacle(#[from] Obstacle),
    /// It says something else than what follows from its statements.
    #[error("{0}")]
    Contradiction(&'static str),
    /// Its acknowledgements are not enough.
    #[error("{0}")]
    Acknowledgements(String),
}

/// Checks that a draft of a recovery or forced record follows from its statements: the condition holds
/// (a forced record is signed because it does not), the base
/// and the record that it succeeds are the right ones, the new set is as large as the old one, and no old
/// member is in it that has not sealed.
///
/// Whether the base is on this node's own chain is for the node to check.
///
/// # Errors
/// The first thing found wrong.
pub fn check_draft(
    chain: &ChainRef,
    draft: &EpochRecord,
    sets: &Sets,
) -> Result<Finding, DraftError> {
    use DraftError::Contradiction;
    let handover = draft.handover.as_deref().ok_or(DraftError::NoHandover)?;
    let forced = draft.kind == RecordKind::Forced;
    if !(forced || draft.kind == RecordKind::Recovery) || draft.expiry_height.is_some() {
        return Err(DraftError::NoHandover);
    }
    for signed in &handover.statements {
        signed.check(chain, sets)?;
        if signed.statement.ballot > handover.ballot {
            return Err(Contradiction(
                "a statement is of a later ballot than the draft",
            ));
        }
    }
    let statements: Vec<_> = handover.statements.iter().map(|s| &s.statement).collect();
    let finding = if forced {
        judge_forced(&statements, sets)?
    } else {
        judge(&statements, sets)?
    };
    let succeeded = finding.succeeded();
    let old = sets
        .get(&succeeded)
        .ok_or(Obstacle::UnknownEpoch(succeeded))?;
    if draft.succeeds != old.record_hash() || draft.number <= succeeded {
        return Err(Contradiction("it does not succeed the epoch that was lost"));
    }
    let base = (draft.base_height, handover.base);
    if base != finding.base() || handover.adopted != finding.adopted.is_some() {
        return Err(Contradiction(
            "its base is not what its statements hand over",
        ));
    }
    let keys: BTreeSet<&PublicKey> = draft.members.iter().map(|m| &m.public_key).collect();
    if draft.members.len() != old.len() || keys.len() != draft.members.len() {
        return Err(Contradiction("the new set is not as large as the old one"));
    }
    let sealed = |key: &PublicKey| {
        let mut authors = statements.iter().filter(|s| s.sealed >= succeeded);
        authors.any(|s| s.author == *key)
    };
    if draft
        .members
        .iter()
        .any(|member| old.contains(&member.public_key) && !sealed(&member.public_key))
    {
        return Err(Contradiction(
            "an old member is in the new set that has not sealed",
        ));
    }
    Ok(finding)
}

/// Checks that enough nodes staged a record before it was signed: a quorum of the new set, so that a
/// loss in the new epoch leaves one that holds the base, and `n - q + 1` of the old one, so that whoever
/// takes over from a lost registry meets one that holds the draft.
///
/// # Errors
/// What is missing or wrong.
pub fn check_acknowledgements(
    chain: &ChainRef,
    signed: &SignedRecord,
    old: &ValidatorSet,
) -> Result<(), DraftError> {
    let fail = |why: String| Err(DraftError::Acknowledgements(why));
    let handover = signed
        .record
        .handover
        .as_deref()
        .ok_or(DraftError::NoHandover)?;
    let new = ValidatorSet::new(chain, &signed.record, old.rule());
    let draft = new.record_hash();
    let mut members = BTreeSet::new();
    for acknowledgement in &signed.acknowledgements {
        let member = &acknowledgement.member;
        if Some(acknowledgement.ballot) != signed.acknowledgements.first().map(|a| a.ballot)
            || acknowledgement.ballot < handover.ballot
        {
            return fail("the acknowledgements are not of one ballot".into());
        }
        if !acknowledgement.verify(chain, &draft) {
            return fail(format!("the acknowledgement of {member} does not hold"));
        }
        members.insert(member);
    }
    let count = |set: &ValidatorSet| members.iter().filter(|key| set.contains(key)).count();
    let (of_new, of_old) = (count(&new), count(old));
    // On an operator's word whoever is left of the old set will do.
    let enough_old = match signed.record.kind {
        RecordKind::Forced => 1,
        _ => fewest_survivors(old),
    };
    if of_new < new.quorum() || of_old < enough_old {
        return fail(format!(
            "{of_new} of the new set have staged it, {} must; {of_old} of the old one, {enough_old} must",
            new.quorum(),
        ));
    }
    Ok(())
}
