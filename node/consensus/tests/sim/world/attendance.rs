//! Whose votes each node misses, and for how long.

use super::World;

impl World {
    /// Notes for how long a node has missed the votes of others, in runs that ask for it.
    pub(super) fn note_missing(&mut self, node: usize) {
        let watched = self.net.far.is_some() || self.net.voiceless.is_some();
        if !watched || self.healed {
            return;
        }
        let now = self.clock(node);
        let Some(running) = &self.nodes[node].running else {
            return;
        };
        for last in running.driver.last_votes() {
            let place = self
                .nodes
                .iter()
                .position(|other| other.key.public() == last.validator);
            let (Some(place), Some(since)) = (place, last.missing_since) else {
                continue;
            };
            let longest = self.missing.entry((node, place)).or_default();
            *longest = (*longest).max(now.saturating_sub(since));
        }
    }
}
