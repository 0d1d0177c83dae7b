//! Heartbeats: what nodes say of themselves and of one another.

use std::collections::BTreeMap;

use axolotl_common::{Height, NodeId, PublicKey, membership::MAX_MEMBERS, registry_api::Heartbeat};

use super::{
    MAX_REPORTED_PEERS, Now, registration::Refusal, restart::Backoff, state::State,
    survey::LEVEL_BLOCKS,
};

impl State {
    /// Takes a heartbeat whose signature holds.
    ///
    /// # Errors
    /// When it is another node's, of another incarnation, or not the newest.
    pub fn heartbeat(
        &mut self,
        now: Now,
        wall_ms: u64,
        key: &PublicKey,
        beat: Heartbeat,
    ) -> Result<(), Refusal> {
        let node = self.speaks_for(key, &beat.node_id)?;
        if beat.reachable.len() > MAX_REPORTED_PEERS {
            return Err(Refusal::Invalid {
                field: "reachable",
                why: format!("at most {MAX_REPORTED_PEERS} peers"),
            });
        }
        if beat.votes.len() > MAX_MEMBERS {
            return Err(Refusal::Invalid {
                field: "votes",
                why: format!("at most {MAX_MEMBERS} validators"),
            });
        }
        if beat.proposal_faults.len() > MAX_MEMBERS {
            return Err(Refusal::Invalid {
                field: "proposal_faults",
                why: format!("at most {MAX_MEMBERS} validators"),
            });
        }
        let known = node.record.incarnation;
        if beat.incarnation != known {
            return Err(Refusal::Incarnation {
                got: beat.incarnation,
                known,
            });
        }
        let last = node.live.beat.as_ref().map(|(_, beat)| beat.seq);
        if let Some(last) = last.filter(|last| beat.seq <= *last) {
            return Err(Refusal::Replay {
                what: "seq",
                got: beat.seq,
                last,
            });
        }
        let level = !beat.syncing && beat.height.0 + LEVEL_BLOCKS >= self.head(now).0;
        let joins = self
            .chain
            .as_ref()
            .is_some_and(|chain| !chain.validators.contains(key));
        if level && joins {
            self.spawns = Backoff::default();
        }
        if let Some(node) = self.by_key_mut(key) {
            node.live.heard = Some(now);
            node.live.heard_ms = wall_ms;
            node.live.level_since = match node.live.level_since {
                Some(since) if level => Some(since),
                _ => level.then_some(now),
            };
            node.live.beat = Some((now, beat));
        }
        Ok(())
    }

    /// The highest height that living validators report to have reached, and more of them than may
    /// lie. Where fewer report anything, the lowest that they report.
    pub fn head(&self, now: Now) -> Height {
        let Some(chain) = &self.chain else {
            return Height::default();
        };
        let set = &chain.validators;
        let members = set.members().iter();
        let beats =
            members.filter_map(|member| self.by_key(&member.public_key)?.live.beat.as_ref());
        let in_time = |at: &Now| now.saturating_sub(*at) < self.rules.unhealthy_after;
        let heights = beats.filter(|(at, _)| in_time(at));
        let mut heights: Vec<Height> = heights.map(|(_, beat)| beat.height).collect();
        heights.sort_unstable();
        let liars = set.rule().byzantine_faults(set.len());
        let believed = heights.iter().rev().nth(liars).or(heights.first());
        believed.copied().unwrap_or_default()
    }

    /// Takes a bare heartbeat: the node lives, its state is what it said last.
    pub fn touch(&mut self, now: Now, wall_ms: u64, label: &NodeId) {
        if let Some(node) = self.nodes.get_mut(label) {
            node.live.heard = Some(now);
            node.live.heard_ms = wall_ms;
        }
    }

    /// Newest time at which a node that is itself heard said that it reaches each key.
    pub(super) fn reached(&self, now: Now) -> BTreeMap<PublicKey, Now> {
        let mut reached = BTreeMap::new();
        for node in self.nodes.values() {
            let Some((at, beat)) = &node.live.beat else {
                continue;
            };
            if now.saturating_sub(*at) >= self.rules.unhealthy_after {
                continue;
            }
            let others = beat
                .reachable
                .iter()
                .filter(|k| **k != node.record.public_key);
            for key in others {
                let newest = reached.entry(*key).or_insert(*at);
                *newest = (*newest).max(*at);
            }
        }
        reached
    }
}
