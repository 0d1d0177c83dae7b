//! The genesis: which nodes are its validators, and who is still awaited.

use axolotl_common::{Member, NodeId};

use super::state::{NodeRecord, State};

/// The nodes that may be validators of the genesis: registered, no observers, none whose place
/// another key took. First who claims to lead, then by number.
pub fn candidates(state: &State) -> Vec<&NodeRecord> {
    let mut candidates: Vec<&NodeRecord> = state
        .nodes
        .values()
        .map(|node| &node.record)
        .filter(|record| !record.observer && record.superseded_by.is_none())
        .collect();
    candidates.sort_by_key(|record| (!record.is_leader, record.number));
    candidates
}

/// The validators of the genesis, once enough nodes have registered, and unless it is formed
/// already or may not be formed.
pub fn validators(state: &State) -> Option<Vec<Member>> {
    if state.chain.is_some() || state.foreign.is_some() {
        return None;
    }
    let candidates = candidates(state);
    let wanted = state.rules.genesis_nodes;
    if candidates.len() < wanted {
        return None;
    }
    let member = |record: &&NodeRecord| Member {
        node_id: record.label.clone(),
        public_key: record.public_key,
        volume_id: record.volume_id,
    };
    Some(candidates.iter().take(wanted).map(member).collect())
}

/// How many nodes are missing for the genesis.
pub fn waiting_for(state: &State) -> usize {
    if state.chain.is_some() {
        return 0;
    }
    let registered = candidates(state).len();
    state.rules.genesis_nodes.saturating_sub(registered)
}

/// Who is awaited, in words; `None` once the genesis is formed.
pub fn awaited(state: &State) -> Option<String> {
    if state.chain.is_some() {
        return None;
    }
    if let Some(hash) = state.foreign {
        return Some(format!(
            "no genesis will be formed: a chain with genesis {hash} exists"
        ));
    }
    let missing = waiting_for(state);
    let started: Vec<&NodeId> = state
        .managed
        .keys()
        .filter(|label| state.node_run_by(label).is_none())
        .collect();
    let registered = candidates(state).len();
    let mut text = format!(
        "{registered} of {} nodes have registered, waiting for {missing} more",
        state.rules.genesis_nodes
    );
    if !started.is_empty() {
        let names: Vec<&str> = started.iter().map(|label| label.as_str()).collect();
        text.push_str(&format!(": {}", names.join(", ")));
    }
    Some(text)
}
