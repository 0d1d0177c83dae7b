//! What the runner does with the registry's orders about a recovery.

use axolotl_common::{
    Epoch, PublicKey, SignedRecord,
    membership::EpochRecord,
    recovery::{Acknowledgement, Ballot, Sight, SignedStatement, Statement, veto},
    registry_api::{Order, RecoveryAnswer, StagedDraft, Survey},
};
use axolotl_consensus::StatedHead;
use tokio::sync::oneshot;

use super::{Runner, recovery::Task};
use crate::{
    engine::{
        EngineError,
        recovery::{
            OrderAnswer, follows_a_seal,
            promises::PromiseError,
            tasks::{Hands, TaskError},
        },
        since,
    },
    storage::StageError,
};

/// Where an answer goes.
pub(super) type Reply = oneshot::Sender<OrderAnswer>;

/// What became of an order, in words.
type Outcome = Result<String, String>;

impl Runner {
    /// Carries out an order about a recovery, or begins to.
    pub(super) async fn on_order(&mut self, order: Order, reply: Reply) -> Result<(), EngineError> {
        let mut said = RecoveryAnswer::default();
        let (epoch, outcome) = match order {
            Order::Meet { starts, take_over } => {
                let met = self.promises.meet(&self.data, &starts, take_over);
                (None, refused(met)?.map(|()| String::new()))
            }
            Order::Survey { ballot, epoch } => {
                let survey = self.survey(ballot, epoch);
                let outcome = survey.map(|survey| {
                    said.survey = Some(Box::new(survey));
                    "nothing is promised".to_owned()
                });
                (Some(epoch), outcome)
            }
            Order::Seal {
                ballot,
                epoch,
                forced,
            } => {
                let sealed = self.seal(ballot, epoch, forced).await?;
                let outcome = sealed.map(|statement| {
                    said.statement = Some(Box::new(statement));
                    format!("epoch {epoch} is sealed")
                });
                (Some(epoch), outcome)
            }
            Order::Stage {
                ballot,
                draft,
                holders,
            } => match self.begin_staging(ballot, *draft, holders, reply)? {
                None => return Ok(()),
                Some((reply, why, epoch)) => {
                    self.answer(reply, said, Some(epoch), Err(why));
                    return Ok(());
                }
            },
            Order::EpochRecord { record } if follows_a_seal(&record) => {
                self.on_ordered_recovery(record, reply);
                return Ok(());
            }
            other => (None, Err(format!("{other:?} is not about a recovery"))),
        };
        self.answer(reply, said, epoch, outcome);
        Ok(())
    }

    /// Answers with the facts that a registry may lack. `epoch` is what the order was about: a record
    /// that is newer is shown.
    pub(super) fn answer(
        &self,
        reply: Reply,
        mut said: RecoveryAnswer,
        epoch: Option<Epoch>,
        outcome: Outcome,
    ) {
        let promises = self.promises.get();
        said.met = promises.met;
        said.promised = promises.promised;
        said.sealed = self.driver.sealed();
        said.staged = self.chain.staged().map(|staged| StagedDraft {
            ballot: staged.ballot,
            draft: Box::new(staged.draft.clone()),
        });
        let newest = self.chain.newest_record();
        let newer = newest.filter(|signed| epoch.is_none_or(|epoch| signed.record.number > epoch));
        said.record = newer.map(|signed| Box::new(SignedRecord::clone(&signed)));
        if let Err(why) = &outcome {
            tracing::warn!(%why, "an order about a recovery is not carried out");
        }
        let answer = OrderAnswer {
            outcome,
            recovery: Box::new(said),
        };
        if reply.send(answer).is_err() {
            tracing::debug!("nobody waits for what became of an order");
        }
    }

    /// Whether an order about `epoch` under this ballot is obeyed at all, by a node that can answer for what
    /// it promised.
    fn may_obey(&self, ballot: &Ballot, epoch: Epoch) -> Result<(), String> {
        self.promises.get().check(ballot)?;
        let in_force = self.chain.head().validators.epoch();
        if in_force > epoch {
            return Err(format!(
                "epoch {in_force} is in force here, the order is about epoch {epoch}"
            ));
        }
        match self.unfit() {
            Some(why) => Err(format!("this node is no survivor: {why}")),
            None => Ok(()),
        }
    }

    fn survey(&self, ballot: Ballot, epoch: Epoch) -> Result<Survey, String> {
        self.may_obey(&ballot, epoch)?;
        let sealed = self.driver.sealed().is_some_and(|sealed| sealed >= epoch);
        Ok(Survey {
            statement: self.statement(ballot, epoch)?,
            veto: self.veto().filter(|_| !sealed),
        })
    }

    /// Seals and states. The inner error says why not.
    async fn seal(
        &mut self,
        ballot: Ballot,
        epoch: Epoch,
        forced: bool,
    ) -> Result<Result<SignedStatement, String>, EngineError> {
        if let Err(why) = self.may_obey(&ballot, epoch) {
            return Ok(Err(why));
        }
        if let Err(why) = refused(self.promises.promise(&self.data, &ballot))? {
            return Ok(Err(why));
        }
        if self.driver.sealed().is_none_or(|sealed| sealed < epoch) {
            if let Some(why) = self.veto() {
                return Ok(Err(why));
            }
            // Whoever cannot say what it holds does not give up its vote for it.
            if let Err(why) = self.statement(ballot, epoch) {
                return Ok(Err(why));
            }
            tracing::warn!(%epoch, %ballot, forced, "this node seals: it votes no more up to this epoch; a recovery goes on without its vote");
            let effects = self.driver.seal(epoch);
            self.perform(effects).await?;
        }
        let statement = self.statement(ballot, epoch);
        let chain = &self.chain.spec().chain;
        Ok(statement.map(|statement| statement.sign(chain, &self.identity)))
    }

    fn statement(&self, ballot: Ballot, epoch: Epoch) -> Result<Statement, String> {
        let head = self.chain.head();
        let stated = StatedHead {
            height: head.height(),
            hash: axolotl_common::Hash(head.hash.0),
            certificate: head.certificate.clone(),
            governing: head.validators.epoch(),
        };
        let epoch = self
            .driver
            .sealed()
            .map_or(epoch, |sealed| sealed.max(epoch));
        self.driver
            .statement(epoch, ballot, stated, axolotl_ledger::read_planned)
            .map_err(|why| format!("this node is no survivor: {why}"))
    }

    /// Why this node does not seal now.
    fn veto(&self) -> Option<String> {
        let head = self.chain.head();
        let (set, epoch) = (&head.validators, head.validators.epoch());
        let live = |sealed: Option<Epoch>, unfit: bool| {
            !unfit && sealed.is_none_or(|sealed| sealed < epoch)
        };
        let peers = self.network.peers();
        let others = peers.iter().filter(|peer| {
            let status = peer.status.as_ref();
            peer.connected
                && set.contains(&peer.key)
                && status.is_some_and(|status| live(status.sealed, status.unfit))
        });
        let own = set.contains(&self.key) && live(self.driver.sealed(), self.unfit().is_some());
        let timing = &self.chain.spec().genesis.axolotl().timing;
        veto(&Sight {
            running: since(self.start),
            decided: self.status.borrow().last_decided.map(|at| at.elapsed()),
            patience: std::time::Duration::from_millis(timing.seal_veto_ms),
            unsealed: others.count() + usize::from(own),
            quorum: set.quorum(),
        })
    }

    /// Begins to stage a draft. Gives the reply back with the reason when it is not obeyed, and the epoch
    /// that the order is about.
    fn begin_staging(
        &mut self,
        ballot: Ballot,
        draft: EpochRecord,
        holders: Vec<PublicKey>,
        reply: Reply,
    ) -> Result<Option<(Reply, String, Epoch)>, EngineError> {
        let in_force = self.chain.head().validators.epoch();
        let epoch = Epoch(draft.number.0.saturating_sub(1));
        if in_force >= draft.number {
            let why = format!(
                "epoch {in_force} is in force here, the draft is of {}",
                draft.number
            );
            return Ok(Some((reply, why, epoch)));
        }
        if !self.tasks.is_empty() {
            let why = "this node is busy with a draft or a record; send the order again".to_owned();
            return Ok(Some((reply, why, epoch)));
        }
        if let Err(why) = refused(self.promises.promise(&self.data, &ballot))? {
            return Ok(Some((reply, why, epoch)));
        }
        let block = self.locked_block(draft.handover.as_deref().map(|h| h.base));
        let hands = self.hands();
        self.tasks.spawn(async move {
            let result = hands.stage(ballot, draft.clone(), block, holders).await;
            Task::Staged {
                ballot,
                draft: Box::new(draft),
                result,
                reply,
            }
        });
        Ok(None)
    }

    /// A draft is staged, or is not: acknowledges it.
    pub(super) fn on_staged(
        &mut self,
        ballot: Ballot,
        draft: &EpochRecord,
        result: Result<(), TaskError<StageError>>,
        reply: Reply,
    ) {
        let epoch = Epoch(draft.number.0.saturating_sub(1));
        let mut said = RecoveryAnswer::default();
        if let Err(TaskError::Chain(StageError::Behind { base, .. })) = &result {
            self.seek(*base);
        }
        if let Err(TaskError::Chain(error @ (StageError::Block(_) | StageError::Conflict(_)))) =
            &result
        {
            tracing::error!(%error, draft = %draft.number, "a draft contradicts what this node holds; an operator must look at it before a recovery goes on");
        }
        // An order of a higher ballot may have come meanwhile.
        let outcome = result
            .map_err(|error| error.to_string())
            .and_then(|()| self.promises.get().check(&ballot));
        let outcome = outcome.map(|()| {
            let chain = &self.chain.spec().chain;
            let hash = draft.hash(chain);
            said.acknowledgement = Some(Acknowledgement::new(chain, ballot, &hash, &self.identity));
            format!("the draft of epoch {} is staged", draft.number)
        });
        self.note_seals();
        self.answer(reply, said, Some(epoch), outcome);
    }

    /// What a task needs.
    pub(super) fn hands(&self) -> Hands {
        Hands {
            network: self.network.clone(),
            jobs: self.jobs.clone(),
        }
    }
}

/// A refusal is an answer; a store that fails ends the process.
fn refused(made: Result<(), PromiseError>) -> Result<Result<(), String>, EngineError> {
    match made {
        Ok(()) => Ok(Ok(())),
        Err(PromiseError::Refused(why)) => Ok(Err(why)),
        Err(error @ PromiseError::Store(_)) => Err(EngineError(error.to_string())),
    }
}
