//! Who proposes in which round.
//!
//! The leader is sticky: whoever built the last block proposes in round 0, and each failed round
//! moves on to the next validator in the record's list order. Every `term` blocks the turn passes on,
//! so that nobody leads for ever. The builder is read from the header, never derived from the round
//! of a certificate: nodes may decide one block in different rounds.

use axolotl_common::{Height, PublicKey, ValidatorSet};

/// Validators in the order in which they propose at `height`, round 0 first.
pub fn proposer_order(
    height: Height,
    validators: &ValidatorSet,
    last_builder: Option<&PublicKey>,
    previous: Option<&ValidatorSet>,
    term: u64,
) -> Vec<PublicKey> {
    let mut order: Vec<PublicKey> = validators.members().iter().map(|m| m.public_key).collect();
    let first = first_position(height, validators, last_builder, previous, term);
    let places = order.len().max(1);
    order.rotate_left(first % places);
    order
}

fn first_position(
    height: Height,
    validators: &ValidatorSet,
    last_builder: Option<&PublicKey>,
    previous: Option<&ValidatorSet>,
    term: u64,
) -> usize {
    let Some(builder) = last_builder else {
        return 0;
    };
    if let Some(position) = validators.position(builder) {
        let term_over = height.0.is_multiple_of(term.max(1));
        return position + usize::from(term_over);
    }
    // The builder has left the set: the first after it in the previous order that is still in.
    let Some((previous, left)) = previous.and_then(|set| Some((set, set.position(builder)?)))
    else {
        return 0;
    };
    let members = previous.members();
    (1..members.len())
        .map(|step| &members[(left + step) % members.len()].public_key)
        .find_map(|key| validators.position(key))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{key, set};

    #[test]
    fn the_order_follows_the_last_builder() {
        // (height, members, builder, previous members, term) -> order
        type Case = (
            u64,
            &'static [u8],
            Option<u8>,
            &'static [u8],
            u64,
            &'static [u8],
        );
        let table: &[Case] = &[
            (1, &[1, 2, 3, 4], None, &[], 1000, &[1, 2, 3, 4]),
            (2, &[1, 2, 3, 4], Some(1), &[], 1000, &[1, 2, 3, 4]),
            (3, &[1, 2, 3, 4], Some(3), &[], 1000, &[3, 4, 1, 2]),
            (999, &[1, 2, 3, 4], Some(3), &[], 1000, &[3, 4, 1, 2]),
            (1000, &[1, 2, 3, 4], Some(3), &[], 1000, &[4, 1, 2, 3]),
            (1000, &[1, 2, 3, 4], Some(4), &[], 1000, &[1, 2, 3, 4]),
            (1001, &[1, 2, 3, 4], Some(4), &[], 1000, &[4, 1, 2, 3]),
            // the builder left: the next of the previous order that stayed
            (
                7,
                &[1, 3, 4, 5],
                Some(2),
                &[1, 2, 3, 4],
                1000,
                &[3, 4, 5, 1],
            ),
            (
                7,
                &[1, 2, 5, 6],
                Some(3),
                &[1, 2, 3, 4],
                1000,
                &[1, 2, 5, 6],
            ),
            (7, &[5, 1, 6], Some(4), &[1, 2, 3, 4], 1000, &[1, 6, 5]),
            // nobody of the previous set stayed, or the previous set is unknown
            (7, &[5, 6, 7], Some(2), &[1, 2, 3], 1000, &[5, 6, 7]),
            (7, &[5, 6, 7], Some(2), &[], 1000, &[5, 6, 7]),
            // a set of one, a term of one, a term of zero
            (5, &[1], Some(1), &[], 1, &[1]),
            (5, &[1, 2], Some(1), &[], 1, &[2, 1]),
            (5, &[1, 2], Some(1), &[], 0, &[2, 1]),
        ];
        for (height, members, builder, previous, term, expected) in table {
            let previous = (!previous.is_empty()).then(|| set(0, previous));
            let order = proposer_order(
                Height(*height),
                &set(1, members),
                builder.map(|b| key(b).public()).as_ref(),
                previous.as_ref(),
                *term,
            );
            let expected: Vec<_> = expected.iter().map(|k| key(*k).public()).collect();
            assert_eq!(order, expected, "height {height}, {members:?}, {builder:?}");
        }
    }
}
