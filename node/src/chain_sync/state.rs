//! What to ask of whom. Pure: no clock, no randomness, no I/O; `now` is the time since the start.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use axolotl_common::{Height, PublicKey};

use crate::network::{Fault, SyncBlock, limits::MAX_SYNC_RESPONSE_BYTES};

/// Blocks asked for in one request.
pub(crate) const RANGE_BLOCKS: u64 = 128;
/// Ranges that are wanted, asked for or waiting to be applied; no further ones are begun.
pub(crate) const MAX_RANGES: usize = 16;
/// Requests open with one peer.
pub(crate) const MAX_OPEN_PER_PEER: usize = 2;
/// Bytes of blocks that wait to be applied, open requests counted in full; at the bound only the range
/// that is due next is asked for.
pub(crate) const MAX_BUFFERED_BYTES: usize = 56 << 20;
/// Peers whose heights are known; further ones are left out.
pub(crate) const MAX_PEERS: usize = 256;
/// A request without an answer for so long is asked elsewhere.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(6);
/// First rest of a peer that failed; doubles each time.
pub(crate) const REST_MIN: Duration = Duration::from_millis(200);
/// Longest rest.
pub(crate) const REST_MAX: Duration = Duration::from_secs(30);
/// So many blocks behind, a node fetches at once.
pub(crate) const LAG_AT_ONCE: u64 = 8;
/// Less behind, it fetches after so long without a new block: consensus usually brings them.
pub(crate) const PATIENCE: Duration = Duration::from_millis(500);
/// The same when consensus has seen messages of a later height.
pub(crate) const HINT_PATIENCE: Duration = Duration::from_millis(100);
/// Statuses are asked for again at most this often when consensus knows more than they say.
pub(crate) const REFRESH_INTERVAL: Duration = Duration::from_millis(250);

/// Names a request.
pub(crate) type RequestId = u64;

/// What happened.
#[derive(Debug)]
pub(crate) enum Input {
    /// A peer says how high its chain is.
    Claim(PublicKey, Height),
    /// A peer is no longer connected.
    Gone(PublicKey),
    /// An answer to a request.
    Answer(RequestId, Vec<SyncBlock>),
    /// A request has no answer. The network charged the peer if that was its fault.
    Failed(RequestId),
    /// Blocks were applied up to this height; `refused` when the next one was refused.
    Applied {
        /// Height of the chain now.
        tip: Height,
        /// Whether a block of the batch was refused, through the fault of the peer that gave it.
        refused: bool,
    },
    /// Consensus committed this height.
    Committed(Height),
    /// Consensus saw an authenticated message of this later height.
    Behind(Height),
    /// Time passed.
    Tick,
}

/// What to do.
#[derive(Debug, PartialEq)]
pub(crate) enum Action {
    /// Ask a peer for blocks.
    Request {
        /// Comes back in [`Input::Answer`] or [`Input::Failed`].
        id: RequestId,
        /// Whom.
        peer: PublicKey,
        /// First height.
        from: Height,
        /// How many.
        count: u32,
    },
    /// Apply blocks that follow the chain. One batch at a time.
    Apply(Vec<SyncBlock>),
    /// Charge a peer.
    Charge(PublicKey, Fault),
    /// Ask a peer for its status.
    Refresh(PublicKey),
}

/// How far the node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncStatus {
    /// Height of its chain.
    pub tip: Height,
    /// Highest height that a trusted-so-far peer claims; never below `tip`.
    pub target: Height,
    /// Whether it fetches blocks.
    pub syncing: bool,
    /// Peers whose height is known.
    pub peers: usize,
}

impl SyncStatus {
    /// Whether the node has heard of at least one peer and is level with all of them, but for the
    /// few blocks that consensus is about to bring.
    pub fn caught_up(&self) -> bool {
        self.peers > 0 && !self.syncing && self.target.0 - self.tip.0 < LAG_AT_ONCE
    }
}

#[derive(Debug, Default)]
struct Peer {
    claim: u64,
    open: usize,
    strikes: u32,
    rests_until: Duration,
}

#[derive(Debug)]
enum Stage {
    /// To be asked for, if possible of none of these.
    Wanted(BTreeSet<PublicKey>),
    Asked {
        id: RequestId,
        peer: PublicKey,
        deadline: Duration,
    },
    Ready {
        peer: PublicKey,
        blocks: Vec<SyncBlock>,
        bytes: usize,
    },
}

#[derive(Debug)]
struct Range {
    end: u64,
    stage: Stage,
}

/// The state. All methods but [`State::step`] only look.
#[derive(Debug)]
pub(crate) struct State {
    tip: u64,
    /// When the tip last moved.
    moved: Duration,
    peers: BTreeMap<PublicKey, Peer>,
    /// By first height; they neither overlap nor leave gaps.
    ranges: BTreeMap<u64, Range>,
    /// Who gave the batch that is being applied, and its last height.
    applying: Option<(PublicKey, u64)>,
    hint: u64,
    refreshed: Option<Duration>,
    active: bool,
    next_id: RequestId,
}

impl State {
    pub(crate) fn new(tip: Height) -> Self {
        Self {
            tip: tip.0,
            moved: Duration::ZERO,
            peers: BTreeMap::new(),
            ranges: BTreeMap::new(),
            applying: None,
            hint: 0,
            refreshed: None,
            active: false,
            next_id: 0,
        }
    }

    /// Takes an input and says what to do.
    pub(crate) fn step(&mut self, now: Duration, input: Input) -> Vec<Action> {
        let mut actions = Vec::new();
        match input {
            Input::Claim(peer, height) => self.claim(peer, height.0),
            Input::Gone(peer) => self.gone(&peer),
            Input::Answer(id, blocks) => self.answer(now, id, blocks, &mut actions),
            Input::Failed(id) => self.failed(now, id),
            Input::Applied { tip, refused } => self.applied(now, tip.0, refused, &mut actions),
            Input::Committed(height) => self.raise_tip(now, height.0),
            Input::Behind(height) => self.hint = self.hint.max(height.0),
            Input::Tick => self.expire(now),
        }
        self.trim();
        self.decide(now, &mut actions);
        self.plan(now);
        self.ask(now, &mut actions);
        self.apply(&mut actions);
        actions
    }

    /// How far the node is.
    pub(crate) fn status(&self, now: Duration) -> SyncStatus {
        SyncStatus {
            tip: Height(self.tip),
            target: Height(self.target(now).max(self.tip)),
            syncing: self.active,
            peers: self.peers.len(),
        }
    }

    /// Highest claim of peers that are not resting.
    fn target(&self, now: Duration) -> u64 {
        let awake = self.peers.values().filter(|peer| peer.rests_until <= now);
        awake.map(|peer| peer.claim).max().unwrap_or(0)
    }

    fn claim(&mut self, peer: PublicKey, height: u64) {
        if let Some(known) = self.peers.get_mut(&peer) {
            known.claim = height;
        } else if self.peers.len() < MAX_PEERS {
            let peer_state = Peer {
                claim: height,
                ..Peer::default()
            };
            self.peers.insert(peer, peer_state);
        }
    }

    fn gone(&mut self, peer: &PublicKey) {
        self.peers.remove(peer);
        for range in self.ranges.values_mut() {
            if matches!(&range.stage, Stage::Asked { peer: asked, .. } if asked == peer) {
                range.stage = Stage::Wanted(BTreeSet::new());
            }
        }
    }

    /// Takes an open request off the books. `None` when it is no longer awaited.
    fn close(&mut self, id: RequestId) -> Option<(u64, PublicKey)> {
        let (start, range) = self.ranges.iter_mut().find(
            |(_, range)| matches!(&range.stage, Stage::Asked { id: asked, .. } if *asked == id),
        )?;
        let Stage::Asked { peer, .. } = range.stage else {
            return None;
        };
        range.stage = Stage::Wanted(BTreeSet::from([peer]));
        if let Some(known) = self.peers.get_mut(&peer) {
            known.open = known.open.saturating_sub(1);
        }
        Some((*start, peer))
    }

    /// The peer did not do what it could be expected to: it rests.
    fn strike(&mut self, now: Duration, peer: &PublicKey) {
        if let Some(known) = self.peers.get_mut(peer) {
            let rest = REST_MIN * 2u32.saturating_pow(known.strikes.min(16));
            known.rests_until = now + rest.min(REST_MAX);
            known.strikes += 1;
        }
    }

    fn answer(
        &mut self,
        now: Duration,
        id: RequestId,
        blocks: Vec<SyncBlock>,
        actions: &mut Vec<Action>,
    ) {
        let Some((start, peer)) = self.close(id) else {
            return;
        };
        let end = self.ranges.get(&start).map_or(start, |range| range.end);
        if blocks.is_empty() {
            // It claimed to have them. It may claim anew with its next status.
            if let Some(known) = self.peers.get_mut(&peer) {
                known.claim = known.claim.min(start - 1);
            }
            actions.push(Action::Charge(peer, Fault::Unanswered));
            return self.strike(now, &peer);
        }
        let heights = blocks.iter().map(|block| block.height().0);
        if blocks.len() as u64 > end - start + 1 || !heights.eq(start..start + blocks.len() as u64)
        {
            actions.push(Action::Charge(peer, Fault::InvalidBlock));
            return self.strike(now, &peer);
        }
        let last = start + blocks.len() as u64 - 1;
        let bytes = blocks.iter().map(SyncBlock::size).sum();
        let stage = Stage::Ready {
            peer,
            blocks,
            bytes,
        };
        self.ranges.insert(start, Range { end: last, stage });
        if last < end {
            let stage = Stage::Wanted(BTreeSet::new());
            self.ranges.insert(last + 1, Range { end, stage });
        }
    }

    fn failed(&mut self, now: Duration, id: RequestId) {
        if let Some((_, peer)) = self.close(id) {
            self.strike(now, &peer);
        }
    }

    fn applied(&mut self, now: Duration, tip: u64, refused: bool, actions: &mut Vec<Action>) {
        self.raise_tip(now, tip);
        let Some((peer, end)) = self.applying.take() else {
            return;
        };
        if !refused {
            if let Some(known) = self.peers.get_mut(&peer) {
                known.strikes = known.strikes.saturating_sub(1);
            }
        } else {
            actions.push(Action::Charge(peer, Fault::InvalidBlock));
            self.strike(now, &peer);
            // Whatever else it gave is not worth the work of checking.
            for range in self.ranges.values_mut() {
                if matches!(&range.stage, Stage::Ready { peer: giver, .. } if *giver == peer) {
                    range.stage = Stage::Wanted(BTreeSet::from([peer]));
                }
            }
        }
        if self.tip < end {
            let stage = Stage::Wanted(BTreeSet::from([peer]));
            self.ranges.insert(self.tip + 1, Range { end, stage });
        }
    }

    fn raise_tip(&mut self, now: Duration, tip: u64) {
        if tip > self.tip {
            self.tip = tip;
            self.moved = now;
        }
    }

    fn expire(&mut self, now: Duration) {
        let late = |range: &Range| match range.stage {
            Stage::Asked { id, deadline, .. } if deadline <= now => Some(id),
            _ => None,
        };
        let late: Vec<_> = self.ranges.values().filter_map(late).collect();
        for id in late {
            // Charged by the network once its own, longer timeout passes.
            self.failed(now, id);
        }
    }

    /// Drops what the chain has already.
    fn trim(&mut self) {
        // The batch being applied ends above the tip or is about to be told as applied; ranges
        // begin after it.
        while let Some(mut entry) = self.ranges.first_entry() {
            let (start, end) = (*entry.key(), entry.get().end);
            if start > self.tip {
                break;
            }
            if end > self.tip && matches!(entry.get().stage, Stage::Asked { .. }) {
                // Cut when the answer is there.
                break;
            }
            if let Stage::Asked { peer, .. } = entry.get().stage
                && let Some(known) = self.peers.get_mut(&peer)
            {
                known.open = known.open.saturating_sub(1);
            }
            if end <= self.tip {
                entry.remove();
                continue;
            }
            if let Stage::Ready { blocks, bytes, .. } = &mut entry.get_mut().stage {
                blocks.drain(..(self.tip - start + 1) as usize);
                *bytes = blocks.iter().map(SyncBlock::size).sum();
            }
            let range = entry.remove();
            self.ranges.insert(self.tip + 1, range);
        }
    }

    /// Whether to fetch.
    fn decide(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let target = self.target(now);
        // A message of height h is sent by whoever has block h - 1.
        let hinted = self.hint.saturating_sub(1);
        if target <= self.tip {
            self.active = false;
        } else if !self.active {
            let still = now.saturating_sub(self.moved);
            let hinted = hinted > self.tip && still >= HINT_PATIENCE;
            self.active = target - self.tip >= LAG_AT_ONCE || still >= PATIENCE || hinted;
        }
        // Statuses are older than that.
        let stale =
            hinted > target.max(self.tip) && now.saturating_sub(self.moved) >= HINT_PATIENCE;
        let due = self.refreshed.is_none_or(|at| now - at >= REFRESH_INTERVAL);
        if stale && due {
            self.refreshed = Some(now);
            actions.extend(self.peers.keys().map(|peer| Action::Refresh(*peer)));
        }
        if !self.active {
            // Nobody left claims more: what is wanted and not there is dropped. What is ready or
            // asked for is kept, it may still serve.
            while let Some(entry) = self.ranges.last_entry() {
                if !matches!(entry.get().stage, Stage::Wanted(_)) {
                    break;
                }
                entry.remove();
            }
        }
    }

    /// Begins ranges up to the target.
    fn plan(&mut self, now: Duration) {
        let target = self.target(now);
        while self.active && self.ranges.len() < MAX_RANGES {
            let applying = self.applying.map_or(0, |(_, end)| end);
            let planned = self.ranges.values().next_back().map_or(0, |last| last.end);
            let start = planned.max(applying).max(self.tip) + 1;
            if start > target {
                break;
            }
            let end = target.min(start + RANGE_BLOCKS - 1);
            let stage = Stage::Wanted(BTreeSet::new());
            self.ranges.insert(start, Range { end, stage });
        }
    }

    /// Asks for wanted ranges, lowest first.
    fn ask(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let mut buffered = self.buffered_bytes();
        for (nth, (start, range)) in self.ranges.iter_mut().enumerate() {
            let Stage::Wanted(tried) = &mut range.stage else {
                continue;
            };
            if nth > 0 && buffered + MAX_SYNC_RESPONSE_BYTES > MAX_BUFFERED_BYTES {
                break;
            }
            let able = |peer: &Peer| {
                peer.claim >= *start && peer.open < MAX_OPEN_PER_PEER && peer.rests_until <= now
            };
            let best = |tried: &BTreeSet<PublicKey>| {
                let able = self.peers.iter().filter(|(_, peer)| able(peer));
                let untried = able.filter(|(key, _)| !tried.contains(key));
                // Who can give the whole range comes first, then the idle, then the reliable.
                let best = untried.min_by_key(|(key, peer)| {
                    (peer.claim < range.end, peer.open, peer.strikes, **key)
                });
                best.map(|(key, _)| *key)
            };
            let Some(key) = best(tried).or_else(|| best(&BTreeSet::new())) else {
                continue;
            };
            let Some(peer) = self.peers.get_mut(&key) else {
                continue;
            };
            peer.open += 1;
            buffered += MAX_SYNC_RESPONSE_BYTES;
            let id = self.next_id;
            self.next_id += 1;
            actions.push(Action::Request {
                id,
                peer: key,
                from: Height(*start),
                count: (range.end - start + 1) as u32,
            });
            range.stage = Stage::Asked {
                id,
                peer: key,
                deadline: now + ANSWER_TIMEOUT,
            };
        }
    }

    /// Hands out the batch that is due.
    fn apply(&mut self, actions: &mut Vec<Action>) {
        if self.applying.is_some() {
            return;
        }
        let due = self.ranges.first_entry().filter(|entry| {
            *entry.key() == self.tip + 1 && matches!(entry.get().stage, Stage::Ready { .. })
        });
        if let Some(Range {
            end,
            stage: Stage::Ready { peer, blocks, .. },
        }) = due.map(|entry| entry.remove())
        {
            self.applying = Some((peer, end));
            actions.push(Action::Apply(blocks));
        }
    }

    /// Bytes that wait to be applied, with room for open answers.
    fn buffered_bytes(&self) -> usize {
        let bytes = |range: &Range| match range.stage {
            Stage::Wanted(_) => 0,
            Stage::Asked { .. } => MAX_SYNC_RESPONSE_BYTES,
            Stage::Ready { bytes, .. } => bytes,
        };
        self.ranges.values().map(bytes).sum()
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
