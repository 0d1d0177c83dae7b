//! What takes a while: staging a draft and putting a record into force, with the block that they adopt.
//!
//! That block is in no chain. Who is locked on it has it in the consensus log, who has staged it in the
//! staging record; both give it by its hash.

use std::time::Duration;

use alloy_primitives::Bytes;
use axolotl_common::{EpochRecord, Hash, Height, PublicKey, SignedRecord, recovery::Ballot};
use tokio::sync::{mpsc, oneshot};

use crate::{
    engine::worker::Job,
    network::Network,
    storage::{ActivateError, Activated, StageError},
};

/// Fetching and executing the adopted block is given up after so long.
const PATIENCE: Duration = Duration::from_secs(6);
/// Peers that are asked for the adopted block, one after the other.
const MAX_ASKED: usize = 16;

/// What the tasks work with.
#[derive(Clone)]
pub(in crate::engine) struct Hands {
    pub(in crate::engine) network: Network,
    pub(in crate::engine) jobs: mpsc::Sender<Job>,
}

/// Why a task did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(in crate::engine) enum TaskError<E: std::error::Error> {
    /// The chain's word.
    #[error(transparent)]
    Chain(E),
    /// Nobody gave the adopted block.
    #[error("no peer gave the adopted block {block}; asked {asked}")]
    Missing {
        /// Its hash.
        block: Hash,
        /// How many were asked.
        asked: usize,
    },
    /// It took too long.
    #[error("it took longer than {} s", PATIENCE.as_secs())]
    Late,
    /// The worker is gone.
    #[error("the node is stopping")]
    Stopping,
}

impl<E: std::error::Error> From<tokio::time::error::Elapsed> for TaskError<E> {
    fn from(_: tokio::time::error::Elapsed) -> Self {
        Self::Late
    }
}

impl Hands {
    /// Stages a draft. `block` is the adopted one, if it is at hand.
    ///
    /// # Errors
    /// See [`TaskError`].
    pub(in crate::engine) async fn stage(
        self,
        ballot: Ballot,
        draft: EpochRecord,
        block: Option<Bytes>,
        holders: Vec<PublicKey>,
    ) -> Result<(), TaskError<StageError>> {
        let staged = async {
            let mut block = block;
            loop {
                let (reply, answer) = oneshot::channel();
                let job = Job::Stage {
                    ballot,
                    draft: Box::new(draft.clone()),
                    block: block.clone().map(Into::into),
                    reply,
                };
                self.jobs.send(job).await.map_err(|_| TaskError::Stopping)?;
                let error = match answer.await.map_err(|_| TaskError::Stopping)? {
                    Ok(()) => return Ok(()),
                    Err(error) => error,
                };
                match (&error, adopted(&draft)) {
                    (StageError::Behind { base, head }, Some(hash))
                        if block.is_none() && is_next(*base, *head) =>
                    {
                        block = Some(self.fetch(hash, &holders).await?);
                    }
                    _ => return Err(TaskError::Chain(error)),
                }
            }
        };
        tokio::time::timeout(PATIENCE, staged).await?
    }

    /// Puts a record into force. `block` is the adopted one, if it is at hand.
    ///
    /// # Errors
    /// See [`TaskError`].
    pub(in crate::engine) async fn activate(
        self,
        record: SignedRecord,
        block: Option<Bytes>,
        holders: Vec<PublicKey>,
    ) -> Result<Activated, TaskError<ActivateError>> {
        let activated = async {
            let mut block = block;
            loop {
                let (reply, answer) = oneshot::channel();
                let job = Job::Activate {
                    record: Box::new(record.clone()),
                    block: block.clone().map(Into::into),
                    reply,
                };
                self.jobs.send(job).await.map_err(|_| TaskError::Stopping)?;
                let error = match answer.await.map_err(|_| TaskError::Stopping)? {
                    Ok(activated) => return Ok(activated),
                    Err(error) => error,
                };
                match (&error, adopted(&record.record)) {
                    (ActivateError::Behind { base, head }, Some(hash))
                        if block.is_none() && is_next(*base, *head) =>
                    {
                        block = Some(self.fetch(hash, &holders).await?);
                    }
                    _ => return Err(TaskError::Chain(error)),
                }
            }
        };
        tokio::time::timeout(PATIENCE, activated).await?
    }

    /// Asks those who should hold a block that is not final, then the other peers.
    async fn fetch<E: std::error::Error>(
        &self,
        block: Hash,
        holders: &[PublicKey],
    ) -> Result<Bytes, TaskError<E>> {
        let connected = self.network.connected();
        let (first, then): (Vec<PublicKey>, Vec<PublicKey>) = connected
            .into_iter()
            .partition(|peer| holders.contains(peer));
        let mut asked = 0;
        for peer in first.into_iter().chain(then).take(MAX_ASKED) {
            asked += 1;
            match self.network.request_locked(peer, block).await {
                Ok(Some(bytes)) if is_block(&bytes, block) => return Ok(bytes),
                Ok(Some(_)) => {
                    tracing::warn!(%peer, %block, "a peer gave another block than was asked for");
                    self.network.report(peer, crate::network::Fault::Garbage);
                }
                Ok(None) => tracing::debug!(%peer, %block, "a peer does not have the block"),
                Err(error) => tracing::debug!(%peer, %block, %error, "a peer gave no block"),
            }
        }
        Err(TaskError::Missing { block, asked })
    }
}

/// Hash of the block that a record adopts.
fn adopted(record: &EpochRecord) -> Option<Hash> {
    let handover = record.handover.as_deref()?;
    handover.adopted.then_some(handover.base)
}

fn is_next(base: Height, head: Height) -> bool {
    base == head.next()
}

fn is_block(bytes: &[u8], hash: Hash) -> bool {
    axolotl_ledger::read_header(bytes).is_ok_and(|header| header.hash_slow().0 == hash.0)
}
