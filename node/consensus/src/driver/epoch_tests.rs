//! What a change of the validators between two heights does to one driver.

use std::sync::Arc;

use axolotl_common::{
    EpochRecord, Member, NodeId, QuorumRule, ValidatorSet, genesis::Timing, membership::RecordKind,
};

use super::*;
use crate::test_support::{chain, key, set};

fn config(number: u8) -> Config {
    Config {
        chain: chain(),
        key: key(number),
        volume: VolumeId([number; 16]),
        incarnation: 1,
        timing: Timing::default(),
        leader_term_blocks: 1_000,
        max_block_bytes: 1_000,
        summary: |_| None,
    }
}

fn start(
    height: u64,
    validators: &Arc<ValidatorSet>,
    previous: Option<&Arc<ValidatorSet>>,
    builder: u8,
) -> HeightStart {
    HeightStart {
        height: Height(height),
        validators: Arc::clone(validators),
        last_builder: Some(key(builder).public()),
        previous_validators: previous.cloned(),
        last_certificate: None,
    }
}

fn answer(driver: &mut Driver, from: u8) -> Vec<Effect> {
    let from = key(from).public();
    driver.step(Now::ZERO, Input::HighestVoteSeen { from, vote: None })
}

/// Whether anything of this node's own went to the log or to others.
fn signed(effects: &[Effect]) -> bool {
    let own = |effect: &Effect| {
        matches!(
            effect,
            Effect::Broadcast(_) | Effect::Append(_) | Effect::BuildBlock { .. }
        )
    };
    effects.iter().any(own)
}

/// A driver at height 5, where 1 to 4 vote.
fn at_height_five(config: Config) -> (Driver, Arc<ValidatorSet>) {
    let old = Arc::new(set(3, &[1, 2, 3, 4]));
    let mut driver = Driver::new(config);
    driver.replay(Now::ZERO, start(5, &old, None, 2), Vec::new());
    (driver, old)
}

#[test]
fn a_node_that_joins_while_it_runs_asks_for_its_votes_and_then_votes() {
    let (mut driver, old) = at_height_five(config(5));
    assert!(!driver.is_validator() && !driver.votes());
    let new = Arc::new(set(4, &[1, 2, 3, 5]));
    let begin = Input::Begin(start(6, &new, Some(&old), 2));
    let effects = driver.step(Now::ZERO, begin);
    assert!(effects.contains(&Effect::AskHighestVotes), "{effects:?}");
    assert!(driver.is_validator() && !driver.votes());
    let mut effects = driver.step(Now::ZERO, Input::Work(true));
    // Who has left does not count.
    for from in [4, 1] {
        effects.extend(answer(&mut driver, from));
        assert!(!driver.votes(), "an answer of {from} is not enough");
    }
    assert!(!signed(&effects), "{effects:?}");
    answer(&mut driver, 3);
    assert!(driver.votes());
    // The next height needs no answers any more.
    let effects = driver.step(Now::ZERO, Input::Begin(start(7, &new, None, 2)));
    assert!(!effects.contains(&Effect::AskHighestVotes), "{effects:?}");
    assert!(driver.votes());
}

#[test]
fn a_node_that_leaves_follows_and_signs_nothing() {
    let (mut driver, old) = at_height_five(config(1));
    for from in [2, 3] {
        answer(&mut driver, from);
    }
    assert!(driver.votes());
    let new = Arc::new(set(4, &[2, 3, 4, 5]));
    let begin = Input::Begin(start(6, &new, Some(&old), 1));
    let mut effects = driver.step(Now::ZERO, begin);
    effects.extend(driver.step(Now::ZERO, Input::Work(true)));
    assert!(!driver.is_validator() && !driver.votes());
    assert!(!signed(&effects), "{effects:?}");
    assert_eq!(driver.round(), Some(Round(0)), "it follows the rounds");
}

#[test]
fn a_node_with_another_volume_than_the_records_signs_nothing_in_that_epoch() {
    let named = |epoch, volume| {
        let members = [1, 2, 3, 5].map(|number| Member {
            node_id: NodeId::numbered(u64::from(number)),
            public_key: key(number).public(),
            volume_id: VolumeId([if number == 5 { volume } else { number }; 16]),
        });
        let record = EpochRecord {
            number: Epoch(epoch),
            kind: RecordKind::Planned,
            succeeds: Hash([0; 32]),
            members: members.to_vec(),
            base_height: Height(0),
            expiry_height: None,
            handover: None,
        };
        let rule = QuorumRule::Byzantine;
        Arc::new(ValidatorSet::new(&chain(), &record, rule))
    };
    let (mut driver, old) = at_height_five(config(5));
    let (foreign, own) = (named(4, 77), named(6, 5));
    let begin = Input::Begin(start(6, &foreign, Some(&old), 2));
    let mut effects = driver.step(Now::ZERO, begin);
    effects.extend(driver.step(Now::ZERO, Input::Work(true)));
    for from in [1, 2, 3] {
        effects.extend(answer(&mut driver, from));
    }
    assert_eq!(driver.other_volume(), Some(VolumeId([77; 16])));
    assert!(driver.is_validator() && !driver.votes());
    assert!(!signed(&effects), "{effects:?}");
    assert!(
        !effects.contains(&Effect::AskHighestVotes),
        "nothing to ask"
    );
    // A restart changes nothing about it.
    let mut again = Driver::new(config(5));
    again.replay(Now::ZERO, start(6, &foreign, Some(&old), 2), Vec::new());
    assert_eq!(again.other_volume(), Some(VolumeId([77; 16])));
    assert!(!again.votes() && !again.awaits_answers());
    // A record that names this volume does.
    driver.step(Now::ZERO, Input::Begin(start(7, &own, Some(&foreign), 2)));
    for from in [1, 2] {
        answer(&mut driver, from);
    }
    assert_eq!(driver.other_volume(), None);
    assert!(driver.votes());
}

#[test]
fn the_turn_passes_on_in_the_old_order_when_the_leader_has_left() {
    let (mut driver, old) = at_height_five(config(1));
    assert_eq!(driver.proposer(), Some(key(2).public()));
    // 2 has left, and so has 3, who would be next.
    let new = Arc::new(set(4, &[6, 5, 1, 4]));
    let begin = start(6, &new, Some(&old), 2);
    driver.step(Now::ZERO, Input::Begin(begin.clone()));
    assert_eq!(driver.proposer(), Some(key(4).public()));
    let mut again = Driver::new(config(4));
    again.replay(Now::ZERO, begin, Vec::new());
    assert_eq!(again.proposer(), Some(key(4).public()), "after a restart");
    // Without the old order nobody knows who is next: this is why the head keeps it.
    let mut forgetful = Driver::new(config(4));
    forgetful.replay(Now::ZERO, start(6, &new, None, 2), Vec::new());
    assert_eq!(forgetful.proposer(), Some(key(6).public()));
}
