//! Which registry a node obeys in a recovery, and which attempt: what it must not forget.
//!
//! A node keeps the newest start of a registry that it has met, and takes a newer one only from a registry
//! whose list of starts holds that one. It keeps the highest ballot that it answered, and obeys none
//! below it. Both are durable before anything is answered.

use borsh::{BorshDeserialize, BorshSerialize};

use super::{Ballot, RegistryStart};

/// What a node has promised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Promises {
    /// The newest start of a registry that the node has met.
    pub met: Option<RegistryStart>,
    /// The highest ballot that it answered.
    pub promised: Option<Ballot>,
}

impl Promises {
    /// A registry introduces itself with all starts of its store, the one that speaks last.
    ///
    /// # Errors
    /// Says why it is refused.
    pub fn meet(self, starts: &[RegistryStart], take_over: bool) -> Result<Self, String> {
        let Some(speaks) = starts.last() else {
            return Err("it names no start".into());
        };
        match self.met {
            Some(met) if !take_over && !starts.contains(&met) => Err(format!(
                "this node has met start {} of the registry ({}), which is not among those of this one's store: \
                 it is older, or another; taking over is an operator's decision",
                met.counter, met.id
            )),
            _ => Ok(Self {
                met: Some(*speaks),
                ..self
            }),
        }
    }

    /// Whether an order of this ballot is taken.
    ///
    /// # Errors
    /// Says why not.
    pub fn check(&self, ballot: &Ballot) -> Result<(), String> {
        if self.met != Some(ballot.start) {
            return Err(format!(
                "ballot {ballot} is not of the start of the registry that this node has met"
            ));
        }
        match self.promised {
            Some(promised) if *ballot < promised => Err(format!(
                "ballot {ballot} is below {promised}, which this node has answered"
            )),
            _ => Ok(()),
        }
    }

    /// Promises to obey nothing below this ballot.
    ///
    /// # Errors
    /// See [`Self::check`].
    pub fn promise(self, ballot: &Ballot) -> Result<Self, String> {
        self.check(ballot)?;
        Ok(Self {
            promised: Some(*ballot),
            ..self
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recovery::StartId;

    fn start(counter: u64, id: u8) -> RegistryStart {
        RegistryStart {
            counter,
            id: StartId([id; 16]),
        }
    }

    fn ballot(start: RegistryStart, attempt: u64) -> Ballot {
        Ballot { start, attempt }
    }

    #[test]
    fn a_registry_is_met_when_its_store_knows_the_start_met_before() {
        let (a, b, c) = (start(1, 1), start(2, 2), start(3, 3));
        // A copy of the store from before b, started more often than the original.
        let copy = [a, start(2, 7), start(3, 8), start(9, 9)];
        let none = Promises::default();
        let met = |promises: Promises, starts: &[RegistryStart], take_over| {
            promises.meet(starts, take_over).map(|p| p.met)
        };
        assert_eq!(met(none, &[a], false), Ok(Some(a)));
        let after_a = none.meet(&[a], false).unwrap();
        assert_eq!(met(after_a, &[a], false), Ok(Some(a)));
        assert_eq!(met(after_a, &[a, b, c], false), Ok(Some(c)));
        let after_b = after_a.meet(&[a, b], false).unwrap();
        assert!(met(after_b, &[a], false).is_err(), "an older store");
        assert!(
            met(after_b, &copy, false).is_err(),
            "a higher counter is no reason"
        );
        assert!(met(after_b, &[], false).is_err());
        assert_eq!(met(after_b, &copy, true), Ok(Some(start(9, 9))));
        let taken = after_b.meet(&copy, true).unwrap();
        assert!(
            met(taken, &[a, b, c], false).is_err(),
            "the former one is out"
        );
    }

    #[test]
    fn no_ballot_below_one_that_was_answered() {
        let (a, b) = (start(1, 1), start(2, 2));
        let met_a = Promises::default().meet(&[a], false).unwrap();
        assert!(
            Promises::default().check(&ballot(a, 1)).is_err(),
            "nobody was met"
        );
        assert!(met_a.check(&ballot(b, 1)).is_err(), "of another start");
        let promised = met_a.promise(&ballot(a, 2)).unwrap();
        assert!(promised.check(&ballot(a, 1)).is_err());
        assert_eq!(promised.check(&ballot(a, 2)), Ok(()));
        assert_eq!(promised.check(&ballot(a, 3)), Ok(()));
        assert_eq!(
            promised.promised,
            Some(ballot(a, 2)),
            "to look is not to promise"
        );
        // The next start, whose counter is higher.
        let met_b = promised.meet(&[a, b], false).unwrap();
        assert!(met_b.check(&ballot(a, 9)).is_err(), "a has spoken its last");
        assert_eq!(met_b.check(&ballot(b, 1)), Ok(()));
        // The promise outlives a take-over: its counter must be above all that were seen.
        let low = start(1, 9);
        let taken = met_b
            .promise(&ballot(b, 1))
            .unwrap()
            .meet(&[low], true)
            .unwrap();
        assert!(taken.check(&ballot(low, 5)).is_err());
    }
}
