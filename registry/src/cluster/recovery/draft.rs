//! What would be handed over by whom to whom: the conditions, before a seal and after it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use axolotl_common::{
    Epoch, EpochRecord, Member, PublicKey, ValidatorSet,
    membership::{MAX_DRAFT_BYTES, RecordKind},
    recovery::{
        Finding, Handover, Obstacle, SignedStatement, Statement, check_draft, condition_margin,
        fewest_survivors, judge, judge_forced,
    },
};

use super::{Facts, Intent, Seen};

/// Members of a set that can be reached, and whose word counts.
pub(super) type Reached = BTreeSet<PublicKey>;

/// A recovery that could be carried to its end with what is there.
#[derive(Clone, Debug)]
pub(super) struct Prospect {
    /// What the statements hand over.
    pub(super) finding: Finding,
    /// Authors of the statements that it rests on.
    pub(super) authors: BTreeSet<PublicKey>,
    /// The new validators, in list order.
    pub(super) members: Vec<Member>,
    /// The arithmetic.
    pub(super) words: String,
}

/// Why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lack {
    /// In words.
    pub(super) why: String,
    /// Whether an operator has to look: it will not pass by itself.
    pub(super) grave: bool,
}

impl Lack {
    fn new(why: String) -> Self {
        Self { why, grave: false }
    }
}

impl From<Obstacle> for Lack {
    fn from(obstacle: Obstacle) -> Self {
        let grave = matches!(
            obstacle,
            Obstacle::TwoHeads { .. } | Obstacle::Misbehaviour { .. }
        );
        let why = match grave {
            true => format!("{obstacle}: nothing is recovered, the evidence stands in the log"),
            false => obstacle.to_string(),
        };
        Self { why, grave }
    }
}

/// Margin of `RECOVERY_TRUST`, unless an operator's word lowers it.
fn least_margin(seen: &Seen<'_>, intent: &Intent, set: &ValidatorSet) -> i64 {
    if intent.consent || intent.forced {
        return i64::MIN;
    }
    seen.trust.least_margin(set.rule(), set.len())
}

/// Looks whether a recovery on these statements could be carried to its end, one of each author.
/// `reached` are the nodes that count as reachable.
pub(super) fn prospect(
    seen: &Seen<'_>,
    intent: &Intent,
    statements: &[&Statement],
    reached: &Reached,
) -> Result<Prospect, Lack> {
    let (finding, used) = served(seen, intent, statements, reached)?;
    let succeeded = finding.succeeded();
    let sets = seen.epochs.sets;
    let old = sets
        .get(&succeeded)
        .ok_or(Obstacle::UnknownEpoch(succeeded))?;
    if succeeded > intent.epoch {
        return Err(Lack::new(format!(
            "epoch {succeeded} is to be sealed as well"
        )));
    }
    let governing = sets.get(&finding.governing).unwrap_or(old);
    let least = least_margin(seen, intent, governing);
    if finding.margin < least {
        return Err(Lack::new(format!(
            "{} of {} validators answer, so {} of them may lie without harm; RECOVERY_TRUST=byzantine \
             wants {least}, or an operator's word",
            finding.survivors.len(),
            governing.len(),
            finding.margin
        )));
    }
    let ignored = |key: &PublicKey| finding.ignored.iter().any(|(author, _)| author == key);
    let sealed: BTreeSet<PublicKey> = used
        .iter()
        .filter(|s| s.sealed >= succeeded && !ignored(&s.author))
        .filter(|s| {
            old.member(&s.author)
                .is_some_and(|m| m.volume_id == s.volume)
        })
        .map(|s| s.author)
        .collect();
    let (members, living, staying) = new_set(seen, old, &sealed, reached)?;
    let enough_old = match intent.forced {
        true => 1,
        false => fewest_survivors(old),
    };
    if staying < enough_old {
        return Err(Lack::new(format!(
            "{staying} of the validators that have spoken can be reached, {enough_old} must acknowledge"
        )));
    }
    let quorum = old.rule().quorum(members.len());
    if living < quorum {
        return Err(Lack::new(format!(
            "{living} of the {} new validators would vote at once, {quorum} make a quorum: more \
             replacements must be level",
            members.len()
        )));
    }
    let words = format!(
        "{} of {} validators of epoch {} answer and {} make a quorum: {} + {} - {} = {} shared with \
         every quorum, {} of which may lie without harm; {living} of {} new validators vote at once, \
         {quorum} make a quorum",
        finding.survivors.len(),
        governing.len(),
        finding.governing,
        governing.quorum(),
        finding.survivors.len(),
        governing.quorum(),
        governing.len(),
        condition_margin(finding.survivors.len(), governing) + 1,
        finding.margin,
        members.len(),
    );
    Ok(Prospect {
        authors: used.iter().map(|s| s.author).collect(),
        finding,
        members,
        words,
    })
}

/// Judges, without statements whose chain or block nobody reachable could serve.
fn served<'s>(
    seen: &Seen<'_>,
    intent: &Intent,
    statements: &[&'s Statement],
    reached: &Reached,
) -> Result<(Finding, Vec<&'s Statement>), Lack> {
    let mut used = statements.to_vec();
    let can_serve = |height| {
        let nodes = reached.iter().filter_map(|key| seen.nodes.get(key));
        nodes.map(|facts| facts.height).any(|head| head >= height)
    };
    loop {
        let finding = if intent.forced {
            judge_forced(&used, seen.epochs.sets)?
        } else {
            judge(&used, seen.epochs.sets)?
        };
        let tops = |s: &&Statement| s.head == finding.head && reached.contains(&s.author);
        let before = used.len();
        if !can_serve(finding.head) && !used.iter().any(tops) {
            used.retain(|s| s.head != finding.head);
        } else if finding.adopted.is_some()
            && !finding.holders.iter().any(|key| reached.contains(key))
        {
            used.retain(|s| !finding.holders.contains(&s.author));
        }
        if used.len() == before {
            return Ok((finding, used));
        }
    }
}

/// The new set, as large as the old one: sealed members that can be reached keep their seats, then come
/// level learners, then those on their way, then sealed members that cannot be reached; with how many
/// of it vote at once, and how many of the old ones among those.
fn new_set(
    seen: &Seen<'_>,
    old: &ValidatorSet,
    sealed: &BTreeSet<PublicKey>,
    reached: &Reached,
) -> Result<(Vec<Member>, usize, usize), Lack> {
    let stays = |key: &PublicKey| sealed.contains(key) && reached.contains(key);
    let newcomer = |facts: &&Facts| facts.candidate && !old.contains(&facts.member.public_key);
    let ready = |facts: &Facts| facts.level && reached.contains(&facts.member.public_key);
    let mut newcomers: Vec<&Facts> = seen.nodes.values().filter(newcomer).collect();
    let order = |facts: &Facts| (!ready(facts), facts.label().number(), facts.label().clone());
    newcomers.sort_by_key(|facts| order(facts));
    let level = newcomers.iter().filter(|facts| ready(facts)).count();
    let absent = old.members().iter();
    let absent = absent.filter(|m| sealed.contains(&m.public_key) && !stays(&m.public_key));
    let absent: Vec<PublicKey> = absent.map(|member| member.public_key).collect();
    let mut next: VecDeque<Member> = newcomers.iter().map(|facts| facts.member.clone()).collect();
    let staying = old
        .members()
        .iter()
        .filter(|m| stays(&m.public_key))
        .count();
    let free = old.len() - staying;
    let mut seats_of_absent = free.saturating_sub(next.len());
    if seats_of_absent > absent.len() {
        return Err(Lack::new(format!(
            "{} more replacements must register: the new set is as large as the old one",
            seats_of_absent - absent.len()
        )));
    }
    let mut members = Vec::with_capacity(old.len());
    for member in old.members() {
        let keeps_absent = seats_of_absent > 0 && absent.contains(&member.public_key);
        if stays(&member.public_key) || keeps_absent {
            seats_of_absent -= usize::from(keeps_absent);
            members.push(member.clone());
        } else {
            members.extend(next.pop_front());
        }
    }
    Ok((members, staying + level.min(free), staying))
}

/// The record of a prospect, without acknowledgements, and checked as every node will check it.
pub(super) fn record(
    seen: &Seen<'_>,
    intent: &Intent,
    prospect: &Prospect,
    statements: &BTreeMap<PublicKey, SignedStatement>,
) -> Result<EpochRecord, Lack> {
    let epochs = &seen.epochs;
    let succeeded = prospect.finding.succeeded();
    let old = epochs.sets.get(&succeeded);
    let old = old.ok_or(Obstacle::UnknownEpoch(succeeded))?;
    let (base_height, base) = prospect.finding.base();
    let used = statements.iter();
    let used: Vec<&SignedStatement> = used
        .filter(|(author, _)| prospect.authors.contains(author))
        .map(|(_, signed)| signed)
        .collect();
    // After a take-over members may have sealed a planned epoch that this store never signed.
    let sealed = used.iter().map(|signed| signed.statement.sealed).max();
    let newest = epochs.newest().max(sealed.unwrap_or_default());
    let draft = EpochRecord {
        number: Epoch(newest.0 + 1),
        kind: match intent.forced {
            true => RecordKind::Forced,
            false => RecordKind::Recovery,
        },
        succeeds: old.record_hash(),
        members: prospect.members.clone(),
        base_height,
        expiry_height: None,
        handover: Some(Box::new(Handover {
            ballot: intent.ballot,
            statements: used.into_iter().cloned().collect(),
            base,
            adopted: prospect.finding.adopted.is_some(),
        })),
    };
    let size = draft.size();
    if size > MAX_DRAFT_BYTES {
        let why = format!("the record would have {size} bytes, {MAX_DRAFT_BYTES} are allowed");
        return Err(Lack { why, grave: true });
    }
    match check_draft(&epochs.chain, &draft, epochs.sets) {
        Ok(_) => Ok(draft),
        Err(error) => Err(Lack::new(format!("the draft does not hold: {error}"))),
    }
}
