//! What must always hold, and what must be possible.

use stateright::Property;

use crate::{
    bounds::Second,
    drafts::{PLANNED_BLOCK, Recovery},
    state::{Draft, Node, State, Value},
};

/// Two different blocks are never final at one height, by certificate, by record or in a block log.
pub const AGREEMENT: &str = "agreement";
/// No epoch finalises above what the record that succeeds it hands over.
pub const NOTHING_ABOVE_THE_BASE: &str = "nothing is final above the base of a record";
/// One number is never signed twice with different content.
pub const ONE_RECORD_PER_NUMBER: &str = "one record per number";
/// A later record never hands over less.
pub const NO_LOWER_BASE: &str = "no record has a lower base, and no final block is lost";
/// What is in a block log is final.
pub const BLOCK_LOGS_ARE_FINAL: &str = "block logs hold final blocks only";
/// The first two, of the votes of an epoch that are forgotten once a record succeeds it.
pub const VOTES_AGREED: &str = "the votes of the epoch before agreed with its record";
/// No member seals unless the quorum was lost.
pub const HEALTHY_IS_NOT_SEALED: &str = "a healthy chain is not sealed";
/// Nobody seals unless the recovery can be carried to its end with who is there.
pub const NOT_IN_VAIN: &str = "nobody seals in vain";

/// Properties of a configuration: all that must hold, and what must be possible within its bounds.
pub(crate) fn of(model: &Recovery) -> Vec<Property<Recovery>> {
    let mut all = vec![
        Property::always(AGREEMENT, agreement),
        Property::always(NOTHING_ABOVE_THE_BASE, nothing_above_the_base),
        Property::always(ONE_RECORD_PER_NUMBER, one_record_per_number),
        Property::always(NO_LOWER_BASE, no_lower_base),
        Property::always(BLOCK_LOGS_ARE_FINAL, block_logs_are_final),
        Property::always(VOTES_AGREED, |_, state: &State| !state.broken),
    ];
    let bounds = model.bounds;
    if bounds.cuts {
        all.push(Property::always(
            HEALTHY_IS_NOT_SEALED,
            |model: &Recovery, state: &State| {
                let members = &state.nodes[..model.bounds.members];
                state.quorum_was_lost || members.iter().all(|node| node.sealed() == 0)
            },
        ));
        all.push(Property::always(NOT_IN_VAIN, |_, state: &State| {
            !state.sealed_in_vain
        }));
        all.push(Property::sometimes("a node seals", |_, state: &State| {
            state.nodes.iter().any(|node| node.sealed() > 0)
        }));
    }
    let recovers = bounds.second != Second::Restored && !bounds.cuts;
    if recovers && !bounds.in_flight {
        all.push(Property::sometimes(
            "a recovery completes without a block",
            |model: &Recovery, state: &State| {
                model.records(state).any(|(_, record)| record.first == 0)
            },
        ));
    }
    if bounds.rounds > 0 {
        all.push(Property::sometimes(
            "a recovery completes with an adopted block",
            |model: &Recovery, state: &State| {
                model.records(state).any(|(_, record)| record.adopted)
            },
        ));
    }
    if bounds.rounds > 0 && bounds.certificates {
        all.push(Property::sometimes(
            "a certificate completed after the seal is handed over",
            |model: &Recovery, state: &State| {
                let handed = |(_, record): (u8, Draft)| record.first > 0 && !record.adopted;
                state.extended_after_seal && model.records(state).any(handed)
            },
        ));
    }
    if bounds.rounds > 0 && !bounds.silent_after {
        all.push(Property::sometimes(
            "a certificate exists for a block that a record adopted",
            |model: &Recovery, state: &State| {
                model.records(state).any(|(_, record)| {
                    record.adopted && record.first > 0 && model.is_certified(state, 0, record.first)
                })
            },
        ));
    }
    if bounds.rounds > 1 && !bounds.silent_after {
        all.push(Property::sometimes(
            "a lock of round 1 is adopted over one of round 0",
            |model: &Recovery, state: &State| {
                model.records(state).any(|(_, record)| {
                    record.adopted
                        && state.polka[0][1] == record.first
                        && state.nodes.iter().any(|node| {
                            node.said() > 0
                                && node.stated_lock().is_some_and(|lock| {
                                    lock.round == 0 && lock.value != record.first
                                })
                        })
                })
            },
        ));
    }
    if bounds.staging {
        all.extend(staging(model));
    }
    if bounds.recoveries > 1 {
        all.push(Property::sometimes(
            "a second recovery completes",
            |model: &Recovery, state: &State| model.record(state, 2).is_some(),
        ));
    }
    if bounds.rounds_after > 0 && !bounds.planned {
        all.push(Property::sometimes(
            "a recovered epoch finalises a block beside an old lock on another",
            |model: &Recovery, state: &State| {
                (1..=2).any(|value| {
                    let old = |node: &Node| {
                        node.epoch() == 1 && node.lock(0).is_some_and(|lock| lock.value != value)
                    };
                    model.is_certified(state, 1, value) && state.nodes.iter().any(old)
                })
            },
        ));
    }
    if bounds.planned {
        all.extend(planned(bounds.rounds_after > 0));
    }
    all
}

fn staging(model: &Recovery) -> Vec<Property<Recovery>> {
    let mut all = Vec::new();
    if model.bounds.ballots > 1 && model.bounds.second != Second::Restored {
        all.extend([
            Property::sometimes(
                "a recovery completes after the registry crashed without a draft",
                |_, state: &State| state.signed & 2 > 0 && state.crashed_with == 1,
            ),
            Property::sometimes(
                "a recovery completes after the registry crashed with a draft",
                |_, state: &State| state.signed & 2 > 0 && state.crashed_with == 2,
            ),
            Property::sometimes(
                "a recovery completes after the registry crashed with a staged draft",
                |_, state: &State| state.signed & 2 > 0 && state.crashed_with == 3,
            ),
        ]);
    }
    if model.bounds.second == Second::TakeOver {
        all.push(Property::sometimes(
            "a take-over signs what was staged before it",
            |_, state: &State| state.signed & 4 > 0 && state.drafts[2].root < 3,
        ));
        all.push(Property::sometimes(
            "a take-over signs its own draft",
            |_, state: &State| state.signed & 4 > 0 && state.drafts[2].root == 3,
        ));
        if model.bounds.second_ballots > 1 {
            all.push(Property::sometimes(
                "a second start of a take-over goes on with the draft of the first registry",
                |_, state: &State| state.signed & 4 > 0 && state.drafts[2].root == 1,
            ));
        }
    }
    if model.bounds.second == Second::Cloned {
        all.push(Property::sometimes(
            "the copy recovers where a quorum has met it",
            |_, state: &State| state.signed & 4 > 0,
        ));
    }
    if model.bounds.second == Second::Restored {
        all.push(Property::sometimes(
            "the registry recovers beside a refused copy",
            |_, state: &State| state.signed > 0 && state.current[1] > 0,
        ));
    }
    all
}

fn planned(votes: bool) -> Vec<Property<Recovery>> {
    let mut all = vec![Property::sometimes(
        "a block with a planned record is adopted",
        |model: &Recovery, state: &State| {
            let adopted = |record: Draft| record.adopted && record.first == PLANNED_BLOCK;
            model
                .records(state)
                .any(|(_, record)| adopted(record) && record.second == 0)
        },
    )];
    if votes {
        all.extend([
            Property::sometimes(
                "a lock of the planned epoch is adopted",
                |model: &Recovery, state: &State| {
                    model
                        .records(state)
                        .any(|(_, record)| record.adopted && record.second > 0)
                },
            ),
            Property::sometimes(
                "the planned epoch finalises a block",
                |model: &Recovery, state: &State| model.is_certified(state, 1, 1),
            ),
        ]);
    }
    all
}

/// What is asked of votes, before those of an old epoch are forgotten.
pub(crate) fn votes_agree(model: &Recovery, state: &State) -> bool {
    agreement(model, state) && nothing_above_the_base(model, state)
}

fn agreement(model: &Recovery, state: &State) -> bool {
    let planned = model.bounds.planned;
    let first = |value: Value| {
        model.is_certified(state, 0, value)
            || (!planned && model.is_certified(state, 1, value))
            || model
                .records(state)
                .any(|(_, record)| record.first == value)
            || state.nodes.iter().any(|node| node.first() == value)
    };
    let second = |value: Value| {
        (planned && model.is_certified(state, 1, value))
            || model
                .records(state)
                .any(|(_, record)| record.second == value)
            || state.nodes.iter().any(|node| node.second() == value)
    };
    let forked = (first(1) && first(2)) || (second(1) && second(2));
    !forked
}

fn nothing_above_the_base(model: &Recovery, state: &State) -> bool {
    model.records(state).all(|(_, record)| {
        let any = |epoch: u8| (1..=2).any(|value| model.is_certified(state, epoch, value));
        let first = record.first > 0 || (!any(0) && (record.succeeds == 0 || !any(1)));
        let second = !model.bounds.planned || record.second > 0 || !any(1);
        first && second
    })
}

fn one_record_per_number(model: &Recovery, state: &State) -> bool {
    model.records(state).all(|(_, one)| {
        model
            .records(state)
            .all(|(_, other)| one.number != other.number || one.root == other.root)
    })
}

fn no_lower_base(model: &Recovery, state: &State) -> bool {
    model.records(state).all(|(_, earlier)| {
        model.records(state).all(|(_, later)| {
            later.number <= earlier.number || later.first > 0 || earlier.first == 0
        })
    })
}

fn block_logs_are_final(model: &Recovery, state: &State) -> bool {
    state.nodes.iter().all(|node| {
        let value = node.first();
        value == 0
            || model.is_certified(state, 0, value)
            || (!model.bounds.planned && model.is_certified(state, 1, value))
            || model
                .records(state)
                .any(|(_, record)| record.first == value)
    })
}
