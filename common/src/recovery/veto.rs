//! Why a node does not seal: the chain is alive as far as it sees. Pure.

use std::time::Duration;

/// After its start a node does not know yet whether the chain is alive.
const SETTLING: Duration = Duration::from_secs(10);

/// What a node sees of the life of its chain.
#[derive(Clone, Copy, Debug)]
pub struct Sight {
    /// Time since the start of the process.
    pub running: Duration,
    /// Time since votes last decided a block in this process. What came by sync, replay or adoption
    /// does not count.
    pub decided: Option<Duration>,
    /// For so long such a block stands against a seal; of the genesis.
    pub patience: Duration,
    /// Members of the epoch that are not sealed and may vote, and that answered a ping within 5 s, this
    /// node included.
    pub unsealed: usize,
    /// The epoch's quorum.
    pub quorum: usize,
}

/// Why the node would not seal now, if there is a reason.
pub fn veto(sight: &Sight) -> Option<String> {
    let seconds = |duration: &Duration| duration.as_secs_f64();
    if let Some(age) = sight.decided.filter(|age| *age < sight.patience) {
        return Some(format!(
            "votes decided a block {:.1} s ago, less than {} s",
            seconds(&age),
            seconds(&sight.patience)
        ));
    }
    if sight.unsealed >= sight.quorum {
        return Some(format!(
            "{} unsealed validators are in reach, {} are a quorum",
            sight.unsealed, sight.quorum
        ));
    }
    if sight.running < SETTLING {
        return Some(format!(
            "this node started {:.1} s ago, less than {} s",
            seconds(&sight.running),
            seconds(&SETTLING)
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_that_is_alive_is_not_sealed() {
        let dead = Sight {
            running: Duration::from_secs(60),
            decided: Some(Duration::from_secs(15)),
            patience: Duration::from_secs(15),
            unsealed: 2,
            quorum: 3,
        };
        let seconds = Duration::from_secs;
        let table = [
            (dead, None),
            (
                Sight {
                    decided: None,
                    ..dead
                },
                None,
            ),
            (
                Sight {
                    running: seconds(10),
                    ..dead
                },
                None,
            ),
            (
                Sight {
                    decided: Some(Duration::from_millis(14_900)),
                    ..dead
                },
                Some("votes decided a block"),
            ),
            (
                Sight {
                    unsealed: 3,
                    ..dead
                },
                Some("3 unsealed"),
            ),
            (
                Sight {
                    unsealed: 4,
                    ..dead
                },
                Some("4 unsealed"),
            ),
            (
                Sight {
                    running: Duration::from_millis(9_900),
                    decided: None,
                    ..dead
                },
                Some("this node started"),
            ),
            (
                Sight {
                    patience: seconds(16),
                    ..dead
                },
                Some("votes decided a block 15.0 s ago, less than 16 s"),
            ),
        ];
        for (sight, expected) in table {
            let found = veto(&sight);
            assert_eq!(found.is_some(), expected.is_some(), "{sight:?}: {found:?}");
            if let (Some(found), Some(expected)) = (found, expected) {
                assert!(found.starts_with(expected), "{found}");
            }
        }
    }
}
