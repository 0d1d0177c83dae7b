//! Where a message stands with respect to the epoch and height being decided.

use axolotl_common::{Epoch, Height};

/// Heights ahead of ours whose messages are kept; beyond that only a sync helps. More than are decided
/// while an answer of the sync is on its way, or a node that was behind never catches up with a busy
/// chain.
pub(crate) const MAX_FUTURE_HEIGHTS: u64 = 32;

/// Standing of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Of a superseded epoch: refused, whatever its height.
    LowerEpoch,
    /// Of an epoch that we do not know yet: not ours to judge, others are ahead.
    NewerEpoch,
    /// About a height below ours.
    Past,
    /// About our height.
    Current,
    /// About one of the next heights.
    Future,
    /// About a height too far above ours to be kept.
    FarFuture,
}

/// Compares (epoch, height) of a message with ours.
pub(crate) fn standing(ours: (Epoch, Height), theirs: (Epoch, Height)) -> Standing {
    let ((our_epoch, our_height), (epoch, height)) = (ours, theirs);
    if epoch < our_epoch {
        Standing::LowerEpoch
    } else if epoch > our_epoch {
        Standing::NewerEpoch
    } else if height < our_height {
        Standing::Past
    } else if height == our_height {
        Standing::Current
    } else if height.0 - our_height.0 <= MAX_FUTURE_HEIGHTS {
        Standing::Future
    } else {
        Standing::FarFuture
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epoch_comes_before_the_height() {
        let table = [
            (1, 10, Standing::LowerEpoch),
            (1, 12, Standing::LowerEpoch),
            (2, 9, Standing::Past),
            (2, 10, Standing::Current),
            (2, 11, Standing::Future),
            (2, 42, Standing::Future),
            (2, 43, Standing::FarFuture),
            (3, 9, Standing::NewerEpoch),
            (3, 10, Standing::NewerEpoch),
        ];
        for (epoch, height, expected) in table {
            let found = standing((Epoch(2), Height(10)), (Epoch(epoch), Height(height)));
            assert_eq!(found, expected, "epoch {epoch}, height {height}");
        }
    }
}
