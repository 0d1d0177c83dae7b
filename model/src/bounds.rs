//! How far each configuration goes. One model, several small worlds: each is exhausted alone, for
//! together they would never end.

/// What a second registry with the same authority key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Second {
    /// There is none.
    None,
    /// Started from a copy of the store made before the newest start, again and again until its counter
    /// is higher. Every member has met the newest start.
    Restored,
    /// Started from a copy of the store as it was when the first registry started last.
    Cloned,
    /// Told by its operator to take over from one whose orders it does not know.
    TakeOver,
}

/// Bounds of one configuration.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// What it is called where its states are counted.
    pub name: &'static str,
    /// Members of epoch 0.
    pub members: usize,
    /// Nodes that may become members.
    pub learners: usize,
    /// Rounds of voting in epoch 0; 0 is no voting at all.
    pub rounds: u8,
    /// Rounds of voting in epoch 1, planned or recovered.
    pub rounds_after: u8,
    /// Different blocks at one height.
    pub values: u8,
    /// Members append blocks by their certificates; else nobody holds one.
    pub certificates: bool,
    /// Recoveries, one after the other.
    pub recoveries: u8,
    /// Ballots of the first recovery; the second one has a single one.
    pub ballots: u8,
    /// Wipes and rollbacks.
    pub accidents: u8,
    /// Staging and signing are steps of their own; else a draft is a record at once.
    pub staging: bool,
    /// Once there is a record the epoch before votes no more: the configuration that has members go on
    /// voting after it is another one.
    pub silent_after: bool,
    /// One member lies: it precommits everything, and states any lock for which a proof exists, or none.
    pub liar: bool,
    /// A new set may hold sealed members whose statements were not used.
    pub unheard_members: bool,
    /// Block 2 of the first height carries a planned record, whose epoch votes on the second height.
    pub planned: bool,
    /// Nodes can be cut off and come back, and the veto is asked.
    pub cuts: bool,
    /// Every member has precommitted block 2, the planned record's, and any of those that it names have
    /// appended it: each choice of them is a state to begin with.
    pub in_flight: bool,
    /// A second registry.
    pub second: Second,
    /// Ballots of the second registry.
    pub second_ballots: u8,
}

impl Bounds {
    /// The same further out, for long runs: two rounds in each epoch that votes at all, two blocks, one
    /// more learner where the new set is looked at, and one more accident where there are any.
    pub fn large(self) -> Self {
        let rounds_after = match self.rounds_after {
            0 => 0,
            _ => 2,
        };
        let voting = self.rounds > 0;
        Self {
            learners: self.learners + usize::from(self.staging || self.recoveries > 1),
            rounds: if voting { 2 } else { 0 },
            rounds_after,
            certificates: true,
            values: if voting { 2 } else { 1 },
            accidents: self.accidents + u8::from(self.accidents > 0),
            ..self
        }
    }
}

const NOTHING: Bounds = Bounds {
    name: "",
    members: 4,
    learners: 2,
    rounds: 0,
    rounds_after: 0,
    values: 1,
    certificates: true,
    recoveries: 1,
    ballots: 1,
    accidents: 0,
    staging: false,
    silent_after: false,
    liar: false,
    unheard_members: false,
    planned: false,
    cuts: false,
    in_flight: false,
    second: Second::None,
    second_ballots: 1,
};

/// Seal and adoption: two rounds, two blocks, one recovery; members that the survivors do not reach vote
/// on before and after, crashes and two wiped or rolled back volumes at any moment.
pub const SEAL: Bounds = Bounds {
    name: "seal and adopt",
    rounds: 2,
    values: 2,
    accidents: 2,
    ..NOTHING
};

/// Seal and adoption with one member that lies, by the condition for that: `s + q - n > 1`.
pub const LIAR: Bounds = Bounds {
    name: "one member lies",
    rounds: 2,
    values: 2,
    liar: true,
    ..NOTHING
};

/// Ballots, staging and records: one round, one block or none, two ballots of the first recovery, a
/// second loss after it, crashes of the registry and of nodes at any moment.
pub const STAGING: Bounds = Bounds {
    name: "stage and sign",
    rounds: 1,
    certificates: false,
    recoveries: 2,
    silent_after: true,
    ballots: 2,
    staging: true,
    ..NOTHING
};

/// Two recoveries in a row at one height: two blocks, two rounds in both epochs, and old members that
/// sealed without being heard are members of the new epoch.
pub const EPOCHS: Bounds = Bounds {
    name: "epochs",
    learners: 1,
    rounds: 2,
    values: 2,
    recoveries: 2,
    silent_after: true,
    rounds_after: 1,
    unheard_members: true,
    ..NOTHING
};

/// A planned record in flight: two heights, two rounds, two blocks; block 2 of the first height swaps a
/// member for a learner.
pub const PLANNED: Bounds = Bounds {
    name: "planned record in flight",
    learners: 1,
    rounds: 1,
    values: 2,
    rounds_after: 1,
    planned: true,
    ..NOTHING
};

/// A registry that lost everything since an older copy of its store, beside what it ordered before.
pub const RESTORED: Bounds = Bounds {
    name: "restored registry",
    staging: true,
    second: Second::Restored,
    ..NOTHING
};

/// Two registries on two copies of one store.
pub const CLONED: Bounds = Bounds {
    name: "cloned registry",
    second: Second::Cloned,
    ..RESTORED
};

/// A take-over of four.
pub const TAKE_OVER_OF_4: Bounds = Bounds {
    name: "take-over, n = 4",
    ballots: 2,
    second: Second::TakeOver,
    ..RESTORED
};

/// A take-over of five: the smallest set in which a majority is no quorum and shares nobody with the
/// fewest survivors.
pub const TAKE_OVER_OF_5: Bounds = Bounds {
    name: "take-over, n = 5",
    members: 5,
    ballots: 1,
    ..TAKE_OVER_OF_4
};

/// A take-over whose registry starts once more before it is through.
pub const TAKE_OVER_TWICE: Bounds = Bounds {
    name: "take-over, two starts",
    ballots: 1,
    second_ballots: 2,
    ..TAKE_OVER_OF_4
};

/// A take-over while a planned record is in flight: some have its block, others have precommitted it.
pub const TAKE_OVER_PLANNED: Bounds = Bounds {
    name: "take-over, planned record in flight",
    rounds: 1,
    values: 2,
    ballots: 1,
    planned: true,
    in_flight: true,
    certificates: false,
    ..TAKE_OVER_OF_4
};

/// Who is sealed when: nodes cut off and back again, a registry that reaches some of them only.
pub const VETO: Bounds = Bounds {
    name: "veto and dry run",
    learners: 1,
    cuts: true,
    ..NOTHING
};
