//! An operator's word: what it allows, and when it is refused.

use std::collections::BTreeSet;

use axolotl_common::{
    Epoch, ValidatorSet,
    membership::Member,
    recovery::{RegistryStart, StartId, fewest_survivors},
    registry_api::RecoverRequest,
};

use super::{Facts, Intent, Ledger, Recovery, Seen};

/// Why an operator's word is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Neither of the two, or both.
    #[error("ask for one thing: either \"accept_data_loss\":true or \"take_over\":true")]
    OneThing,
    /// The genesis is not formed, so there is nothing to recover.
    #[error("there is no chain yet")]
    NoChain,
    /// Another epoch than the one in force.
    #[error(
        "epoch {in_force} is in force, not {named}; GET /status says which has lost its quorum"
    )]
    Epoch {
        /// As the request spells it.
        named: Epoch,
        /// In force.
        in_force: Epoch,
    },
    /// Nothing may be done now.
    #[error("{0}")]
    Obstacle(String),
    /// A record is on its way.
    #[error("epoch {0} is signed already, and handed to everybody")]
    Signed(Epoch),
    /// The chain is not lost.
    #[error(
        "{alive} of {n} validators are alive and unsealed, {quorum} make a quorum: the chain needs no \
         recovery"
    )]
    QuorumLives {
        /// Alive and unsealed.
        alive: usize,
        /// Validators.
        n: usize,
        /// Quorum.
        quorum: usize,
    },
    /// It goes on by itself, and safely.
    #[error(
        "{survivors} of {n} validators can be reached and {needed} are needed: the recovery runs by \
         itself, and loses nothing"
    )]
    ConditionHolds {
        /// Reached.
        survivors: usize,
        /// Validators.
        n: usize,
        /// Needed.
        needed: usize,
    },
    /// Nobody is left to go on with.
    #[error("none of the {0} validators can be reached: somebody must be there to go on with")]
    Nobody(usize),
    /// The registry is not refused.
    #[error("this registry is refused by nobody: there is nothing to take over")]
    NotRefused,
    /// Too few members tell what they know.
    #[error(
        "a take-over needs the answers of {needed} of {n} validators and has {have}: so many share one \
         with every recovery before; bring more of them back, or accept a loss of data"
    )]
    TooFewAnswer {
        /// Answers.
        have: usize,
        /// Validators.
        n: usize,
        /// Needed.
        needed: usize,
    },
}

/// What an operator's word starts. It must be durable, all of it at once, before anything is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Starts to be added to the list, the last one of them this process; empty when it stays what it
    /// is.
    pub starts: Vec<RegistryStart>,
    /// Intent and ballots.
    pub ledger: Ledger,
    /// In words.
    pub told: String,
}

impl Recovery {
    /// Judges `POST /recover`. `fresh` names a new start, should one be needed.
    ///
    /// # Errors
    /// Says why the word is not taken.
    pub fn grant(
        &self,
        seen: &Seen<'_>,
        request: &RecoverRequest,
        fresh: StartId,
    ) -> Result<Granted, Refused> {
        if request.accept_data_loss == request.take_over {
            return Err(Refused::OneThing);
        }
        let (set, start) = seen
            .epochs
            .governing()
            .zip(self.start())
            .ok_or(Refused::NoChain)?;
        let in_force = set.epoch();
        if request.epoch != in_force {
            let named = request.epoch;
            return Err(Refused::Epoch { named, in_force });
        }
        if let Some(epoch) = seen.epochs.signed {
            return Err(Refused::Signed(epoch));
        }
        // A store that is older than the chain cannot go on from it, whoever allows it.
        if let Some(obstacle) = &seen.obstacle {
            return Err(Refused::Obstacle(obstacle.clone()));
        }
        if request.take_over {
            return self.grant_take_over(seen, set, start, fresh);
        }
        self.grant_loss(seen, set, start, fresh)
    }

    fn is_stranger(&self, set: &ValidatorSet, start: RegistryStart) -> bool {
        let going_on = self.memory.ledger.intent.is_some();
        let foreign = self.answers.foreign_ballot(&self.memory, set).is_some();
        self.answers.refusing(&self.memory, set).next().is_some()
            || foreign
            || (self.is_unmet(set, start).is_some() && !going_on)
    }

    fn grant_take_over(
        &self,
        seen: &Seen<'_>,
        set: &ValidatorSet,
        start: RegistryStart,
        fresh: StartId,
    ) -> Result<Granted, Refused> {
        if !self.is_stranger(set, start) {
            return Err(Refused::NotRefused);
        }
        let answers = |member: &&Member| {
            let said = self.answers.of(&member.public_key);
            self.reach.contains_key(&member.public_key) && said.is_some_and(|s| s.met.is_some())
        };
        let blank = self.blank(seen, start);
        let intent = Intent {
            epoch: seen.epochs.planned.unwrap_or_default().max(blank.epoch),
            ..blank
        };
        let answering = |set: &ValidatorSet| set.members().iter().filter(answers).count();
        for set in Self::concerned(seen, &intent) {
            let (have, n, needed) = (answering(set), set.len(), set.quorum());
            if have < needed {
                return Err(Refused::TooFewAnswer { have, n, needed });
            }
        }
        let (have, n) = (answering(set), set.len());
        Ok(self.as_new_start(
            seen,
            Intent {
                take_over: true,
                ..intent
            },
            fresh,
            format!("the operator lets this registry take over: {have} of {n} validators answer"),
        ))
    }

    fn grant_loss(
        &self,
        seen: &Seen<'_>,
        set: &ValidatorSet,
        start: RegistryStart,
        fresh: StartId,
    ) -> Result<Granted, Refused> {
        let (n, quorum) = (set.len(), set.quorum());
        let alive = self.alive(seen, set);
        if alive >= quorum {
            return Err(Refused::QuorumLives { alive, n, quorum });
        }
        let reached = |member: &&Member| {
            let facts = seen.nodes.get(&member.public_key);
            facts.is_some_and(Facts::is_reachable)
        };
        if !set.members().iter().any(|member| reached(&member)) {
            return Err(Refused::Nobody(n));
        }
        let survivors = self.present(seen, set);
        let needed = fewest_survivors(set);
        let stranger = self.is_stranger(set, start);
        let intent = self.blank(seen, start);
        if stranger {
            let intent = Intent {
                take_over: true,
                forced: true,
                sealing: true,
                ..intent
            };
            let told = format!(
                "the operator accepts a loss of data: {survivors} of {n} validators answer, and another \
                 registry may have recovered"
            );
            return Ok(self.as_new_start(seen, intent, fresh, told));
        }
        // A take-over goes on with what an earlier registry had staged; where that cannot be carried to its
        // end, only a loss of data is left.
        if self.too_few(seen, set).is_none() && !intent.take_over {
            return Err(Refused::ConditionHolds {
                survivors,
                n,
                needed,
            });
        }
        let consent = survivors >= needed && !intent.take_over;
        let intent = Intent {
            ballot: self.memory.ledger.next(start),
            consent,
            forced: !consent,
            sealing: !consent || intent.sealing,
            ..intent
        };
        let told = match consent {
            true => format!(
                "the operator takes the {survivors} survivors at their word, {needed} are needed if they \
                 do not lie"
            ),
            false => format!(
                "the operator accepts a loss of data: {survivors} of {n} validators answer, {needed} would \
                 be needed"
            ),
        };
        Ok(Granted {
            starts: Vec::new(),
            ledger: self.memory.ledger.with(intent),
            told,
        })
    }

    /// The intent under way, or a new one.
    fn blank(&self, seen: &Seen<'_>, start: RegistryStart) -> Intent {
        let ledger = &self.memory.ledger;
        let epochs = &seen.epochs;
        ledger.intent.unwrap_or(Intent {
            ballot: ledger.next(start),
            epoch: epochs.planned.unwrap_or(epochs.in_force),
            sealing: false,
            asking: false,
            consent: false,
            forced: false,
            take_over: false,
        })
    }

    /// An intent of a new start of this process, whose counter is above all that is known, and whose
    /// list holds all starts that nodes have met.
    fn as_new_start(
        &self,
        seen: &Seen<'_>,
        intent: Intent,
        fresh: StartId,
        told: String,
    ) -> Granted {
        let (met, ballots) = self.answers.heard_of(&seen.epochs);
        let known: BTreeSet<RegistryStart> = self.memory.starts.iter().copied().collect();
        let highest = met.iter().chain(&known).map(|start| start.counter).max();
        let start = RegistryStart {
            counter: highest.unwrap_or_default() + 1,
            id: fresh,
        };
        let mut ledger = self.memory.ledger.clone();
        for ballot in ballots {
            ledger.note(ballot);
        }
        let intent = Intent {
            ballot: ledger.next(start),
            ..intent
        };
        Granted {
            starts: met.difference(&known).copied().chain([start]).collect(),
            ledger: ledger.with(intent),
            told,
        }
    }
}
