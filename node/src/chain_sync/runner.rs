//! The task that performs what [`State`] says.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axolotl_common::{Height, PublicKey};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

use super::state::{Action, Input, RequestId, State, SyncStatus};
use crate::network::{
    BlocksReply, Network, RequestError, SyncBlock,
    limits::{MAX_SYNC_BLOCKS, SYNC_ANSWER_TARGET_BYTES},
};

/// Claims of peers that wait for the task; when full they are dropped, the next status brings them again.
const INPUT_QUEUE: usize = 1_024;
/// Requests of peers that are being served; further ones are declined, the peers ask elsewhere.
const MAX_SERVING: usize = 4;
/// How often timeouts are looked at.
const TICK: Duration = Duration::from_millis(100);

/// Takes blocks into the chain.
pub trait Applier: Send + Sync + 'static {
    /// Height of the chain.
    fn tip_height(&self) -> Height;

    /// Checks and applies blocks of consecutive heights, in order, and makes them durable. Called on a
    /// blocking thread, one call at a time. For each block: if it stands at or below the tip, skip
    /// it; else check that it follows the tip, that its certificate names its hash and height and
    /// holds for the validators that govern that height, then execute and append it.
    ///
    /// It must keep consensus from appending meanwhile.
    ///
    /// # Errors
    /// When a block is refused or the store fails; the blocks before it stay applied.
    fn apply(&self, blocks: Vec<SyncBlock>) -> Result<Height, ApplyError>;
}

/// Why not all blocks of a batch were applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("block {} was not applied: {why}", .tip.next())]
pub struct ApplyError {
    /// Height of the chain after what was applied.
    pub tip: Height,
    /// Whether the block is at fault, and so whoever gave it. Otherwise the node is, and sync ends.
    pub peer_fault: bool,
    /// What is wrong.
    pub why: String,
}

/// Gives blocks to peers.
pub trait BlockSource: Send + Sync + 'static {
    /// Up to `count` durable blocks from `first` on, in order, together about `max_bytes` at most: the
    /// first is given whatever its size. Empty when there is none. Called on a blocking thread.
    fn blocks(&self, first: Height, count: usize, max_bytes: usize) -> Vec<SyncBlock>;
}

/// Why sync ended although nobody asked it to. The process must end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SyncFatal {
    /// The node could not apply a block, through no fault of the block.
    #[error("sync: {0}")]
    Apply(#[from] ApplyError),
    /// Applying a block panicked.
    #[error("sync: applying blocks panicked: {0}")]
    Panic(String),
}

/// Tells sync what happens. Cheap to clone; never waits.
#[derive(Clone)]
pub struct SyncHandle {
    inputs: mpsc::Sender<Input>,
    committed: watch::Sender<Height>,
    behind: watch::Sender<Height>,
    status: watch::Receiver<SyncStatus>,
    source: Arc<dyn BlockSource>,
    serving: Arc<Semaphore>,
}

impl SyncHandle {
    /// A peer's status said that its chain is so high.
    pub fn peer_height(&self, peer: PublicKey, height: Height) {
        // Full: the next status, a second later, says it again.
        let _ = self.inputs.try_send(Input::Claim(peer, height));
    }

    /// A peer is no longer connected.
    pub fn peer_gone(&self, peer: PublicKey) {
        // Full: requests to it fail at once, and it rests.
        let _ = self.inputs.try_send(Input::Gone(peer));
    }

    /// Consensus appended a block of this height. To be called for each, so that sync goes on from
    /// there.
    pub fn committed(&self, height: Height) {
        raise(&self.committed, height);
    }

    /// Consensus saw an authenticated message of this later height.
    pub fn behind(&self, height_seen: Height) {
        raise(&self.behind, height_seen);
    }

    /// How far the node is, as it changes.
    pub fn status(&self) -> watch::Receiver<SyncStatus> {
        self.status.clone()
    }

    /// Answers a peer that asks for blocks. Too many at once are declined.
    pub fn serve(&self, first: Height, count: u32, reply: BlocksReply) {
        let Ok(permit) = self.serving.clone().try_acquire_owned() else {
            return;
        };
        let source = self.source.clone();
        let count = (count as usize).min(MAX_SYNC_BLOCKS);
        // Ends by itself, and holds nothing that must be waited for.
        drop(tokio::task::spawn_blocking(move || {
            reply.send(source.blocks(first, count, SYNC_ANSWER_TARGET_BYTES));
            drop(permit);
        }));
    }
}

fn raise(sender: &watch::Sender<Height>, height: Height) {
    sender.send_if_modified(|known| {
        let higher = height > *known;
        *known = height.max(*known);
        higher
    });
}

/// Starts sync. The task ends when `shutdown` is cancelled, after the batch that is being applied.
pub fn start(
    network: Network,
    applier: Arc<dyn Applier>,
    source: Arc<dyn BlockSource>,
    shutdown: CancellationToken,
) -> (SyncHandle, JoinHandle<Result<(), SyncFatal>>) {
    let (inputs, input_receiver) = mpsc::channel(INPUT_QUEUE);
    let tip = applier.tip_height();
    let (committed, committed_receiver) = watch::channel(tip);
    let (behind, behind_receiver) = watch::channel(Height(0));
    let (status_sender, status) = watch::channel(SyncStatus {
        tip,
        target: tip,
        ..SyncStatus::default()
    });
    let runner = Runner {
        network,
        applier,
        state: State::new(tip),
        started: Instant::now(),
        requests: JoinSet::new(),
        applying: JoinSet::new(),
        refreshing: JoinSet::new(),
        status: status_sender,
    };
    let task = tokio::spawn(runner.run(
        input_receiver,
        committed_receiver,
        behind_receiver,
        shutdown,
    ));
    let handle = SyncHandle {
        inputs,
        committed,
        behind,
        status,
        source,
        serving: Arc::new(Semaphore::new(MAX_SERVING)),
    };
    (handle, task)
}

type Answer = (RequestId, Result<Vec<SyncBlock>, RequestError>);

struct Runner {
    network: Network,
    applier: Arc<dyn Applier>,
    state: State,
    started: Instant,
    /// Bounded by the ranges of the state.
    requests: JoinSet<Answer>,
    /// At most one.
    applying: JoinSet<Result<Height, ApplyError>>,
    /// At most one for each peer of the state.
    refreshing: JoinSet<()>,
    status: watch::Sender<SyncStatus>,
}

impl Runner {
    async fn run(
        mut self,
        mut inputs: mpsc::Receiver<Input>,
        mut committed: watch::Receiver<Height>,
        mut behind: watch::Receiver<Height>,
        shutdown: CancellationToken,
    ) -> Result<(), SyncFatal> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let input = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(done) = self.applying.join_next() => match done {
                    Ok(result) => applied(result)?,
                    Err(error) => return Err(SyncFatal::Panic(error.to_string())),
                },
                Some(done) = self.requests.join_next() => match done {
                    Ok((id, Ok(blocks))) => Input::Answer(id, blocks),
                    Ok((id, Err(error))) => {
                        tracing::debug!(%error, "a sync request has no answer");
                        Input::Failed(id)
                    }
                    Err(error) => return Err(SyncFatal::Panic(error.to_string())),
                },
                Some(_) = self.refreshing.join_next() => continue,
                Ok(()) = committed.changed() => Input::Committed(*committed.borrow_and_update()),
                Ok(()) = behind.changed() => Input::Behind(*behind.borrow_and_update()),
                Some(input) = inputs.recv() => input,
                _ = tick.tick() => Input::Tick,
            };
            self.step(input);
        }
        // A batch under way is seen to its end: the thread cannot be stopped, and the store is closed
        // after this.
        match self.applying.join_next().await {
            Some(Ok(result)) => applied(result).map(|_| ()),
            Some(Err(error)) => Err(SyncFatal::Panic(error.to_string())),
            None => Ok(()),
        }
    }

    fn step(&mut self, input: Input) {
        let now = self.started.elapsed();
        for action in self.state.step(now, input) {
            match action {
                Action::Request {
                    id,
                    peer,
                    from,
                    count,
                } => {
                    let network = self.network.clone();
                    self.requests.spawn(async move {
                        (id, network.request_blocks(peer, from, count).await)
                    });
                }
                Action::Apply(blocks) => {
                    let applier = self.applier.clone();
                    self.applying.spawn_blocking(move || applier.apply(blocks));
                }
                Action::Charge(peer, fault) => self.network.report(peer, fault),
                Action::Refresh(peer) => {
                    if self.refreshing.len() < super::state::MAX_PEERS {
                        let network = self.network.clone();
                        // The answer comes as an event, like every status.
                        self.refreshing.spawn(async move {
                            let _ = network.request_status(peer).await;
                        });
                    }
                }
            }
        }
        let status = self.state.status(now);
        self.status.send_if_modified(|known| {
            let changed = *known != status;
            if known.syncing != status.syncing {
                tracing::info!(
                    tip = status.tip.0,
                    target = status.target.0,
                    syncing = status.syncing,
                    "sync"
                );
            }
            *known = status;
            changed
        });
    }
}

fn applied(result: Result<Height, ApplyError>) -> Result<Input, SyncFatal> {
    match result {
        Ok(tip) => Ok(Input::Applied {
            tip,
            refused: false,
        }),
        Err(error) if error.peer_fault => {
            tracing::warn!(%error, "a block from a peer was refused; it is asked of another");
            Ok(Input::Applied {
                tip: error.tip,
                refused: true,
            })
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
#[path = "runner_tests.rs"]
mod tests;
