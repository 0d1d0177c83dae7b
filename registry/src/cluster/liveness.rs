//! How a node fares, as a function of what was heard of it and of `now`.
//!
//! | heard in time | runtime says | peers reach it | state |
//! |---|---|---|---|
//! | yes | anything but stopped | - | `healthy`, `syncing`, or `starting` before the first heartbeat |
//! | no | stopped on purpose | - | `stopped` |
//! | no | down | - | `failed` |
//! | no | started a moment ago | - | `starting` |
//! | no | running or unknown | yes | `unreachable` |
//! | no | running or unknown | no | `failed` |
//!
//! "Heard" is reset when the runtime reports an exit, so that the last heartbeat of a dead process
//! does not count. After the registry's own start nobody is declared failed before
//! `unhealthy_after` has passed.

use std::time::Duration;

use axolotl_common::registry_api::NodeState;

use super::Now;

/// What the runtime knows of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeFact {
    /// It does not run this node, or does not know.
    Unmanaged,
    /// Running since this time; [`Now::ZERO`] when it was running already at the registry's start.
    Running(Now),
    /// Ended without being told to; the text says how, and when it is started again.
    Down(String),
    /// Stopped on purpose.
    Stopped(String),
}

/// What is known of a node at one time.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Another key took over the label's place: this one is gone.
    pub superseded: Option<String>,
    /// The runtime's word.
    pub runtime: RuntimeFact,
    /// Last registration or heartbeat of the running process.
    pub heard: Option<Now>,
    /// Whether a heartbeat was among them.
    pub beat: bool,
    /// Whether the last heartbeat said that it fetches blocks.
    pub syncing: bool,
    /// Newest word of a healthy peer that it reaches this node.
    pub reached: Option<Now>,
}

/// The judgement on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// State.
    pub state: NodeState,
    /// Why, where there is something to say.
    pub detail: Option<String>,
    /// When the state may change without anything being heard.
    pub deadline: Option<Now>,
}

/// Judges one node. A pure function of its arguments.
pub fn judge(facts: &Facts, now: Now, unhealthy_after: Duration, peer_word: Duration) -> Verdict {
    let verdict = |state, detail: Option<String>, deadline| Verdict {
        state,
        detail,
        deadline,
    };
    if let Some(by) = &facts.superseded {
        return verdict(NodeState::Stopped, Some(by.clone()), None);
    }
    if let Some(heard) = facts.heard {
        let until = heard + unhealthy_after;
        if now < until {
            let (state, detail) = match (facts.beat, facts.syncing) {
                (false, _) => (
                    NodeState::Starting,
                    Some("registered, no heartbeat yet".to_owned()),
                ),
                (true, true) => (NodeState::Syncing, None),
                (true, false) => (NodeState::Healthy, None),
            };
            return verdict(state, detail, Some(until));
        }
    }
    let silent = match facts.heard {
        Some(heard) => format!("no heartbeat for {} s", now.saturating_sub(heard).as_secs()),
        None => "not heard since it was started".to_owned(),
    };
    match &facts.runtime {
        RuntimeFact::Stopped(why) => return verdict(NodeState::Stopped, Some(why.clone()), None),
        RuntimeFact::Down(why) => return verdict(NodeState::Failed, Some(why.clone()), None),
        RuntimeFact::Running(since) if facts.heard.is_none() => {
            let until = *since + unhealthy_after;
            if now < until {
                let detail = Some("started, has not registered yet".to_owned());
                return verdict(NodeState::Starting, detail, Some(until));
            }
        }
        RuntimeFact::Unmanaged if facts.heard.is_none() && now < unhealthy_after => {
            let detail = Some("not heard since the registry's start".to_owned());
            return verdict(NodeState::Starting, detail, Some(unhealthy_after));
        }
        RuntimeFact::Running(_) | RuntimeFact::Unmanaged => {}
    }
    match facts.reached.map(|reached| reached + peer_word) {
        Some(until) if now < until => verdict(
            NodeState::Unreachable,
            Some(format!("{silent}, but its peers reach it")),
            Some(until),
        ),
        _ => verdict(NodeState::Failed, Some(silent), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(15);
    const WORD: Duration = Duration::from_secs(10);

    fn s(seconds: u64) -> Now {
        Now::from_secs(seconds)
    }

    fn facts() -> Facts {
        Facts {
            superseded: None,
            runtime: RuntimeFact::Unmanaged,
            heard: Some(s(100)),
            beat: true,
            syncing: false,
            reached: None,
        }
    }

    #[test]
    fn the_table_holds() {
        let running = RuntimeFact::Running(s(100));
        let down = RuntimeFact::Down("signal 9".into());
        let stopped = RuntimeFact::Stopped("by hand".into());
        let silent = Facts {
            heard: None,
            beat: false,
            ..facts()
        };
        let with = |base: &Facts, runtime: &RuntimeFact| Facts {
            runtime: runtime.clone(),
            ..base.clone()
        };
        let reached = |at| Facts {
            reached: Some(s(at)),
            ..facts()
        };
        let cases = [
            (facts(), 100, NodeState::Healthy, Some(115)),
            (facts(), 114, NodeState::Healthy, Some(115)),
            (facts(), 115, NodeState::Failed, None),
            (
                Facts {
                    syncing: true,
                    ..facts()
                },
                101,
                NodeState::Syncing,
                Some(115),
            ),
            (
                Facts {
                    beat: false,
                    ..facts()
                },
                101,
                NodeState::Starting,
                Some(115),
            ),
            (reached(110), 116, NodeState::Unreachable, Some(120)),
            (reached(110), 120, NodeState::Failed, None),
            (with(&silent, &running), 114, NodeState::Starting, Some(115)),
            (with(&silent, &running), 115, NodeState::Failed, None),
            (with(&silent, &down), 1, NodeState::Failed, None),
            (with(&silent, &stopped), 1, NodeState::Stopped, None),
            (silent.clone(), 14, NodeState::Starting, Some(15)),
            (silent.clone(), 15, NodeState::Failed, None),
            // Started by hand after it was stopped on purpose: what is heard wins.
            (with(&facts(), &stopped), 101, NodeState::Healthy, Some(115)),
            (with(&facts(), &stopped), 115, NodeState::Stopped, None),
            (
                Facts {
                    superseded: Some("replaced".into()),
                    ..facts()
                },
                101,
                NodeState::Stopped,
                None,
            ),
        ];
        for (i, (facts, now, state, deadline)) in cases.into_iter().enumerate() {
            let verdict = judge(&facts, s(now), AFTER, WORD);
            assert_eq!(
                (verdict.state, verdict.deadline),
                (state, deadline.map(s)),
                "row {i} at {now} s: {facts:?}"
            );
        }
    }

    #[test]
    fn a_verdict_only_changes_at_its_deadline() {
        for reached in [None, Some(s(112))] {
            let facts = Facts { reached, ..facts() };
            let mut last = judge(&facts, s(100), AFTER, WORD);
            for ms in 100_000..140_000u64 {
                let now = Now::from_millis(ms);
                let verdict = judge(&facts, now, AFTER, WORD);
                if verdict.state != last.state {
                    assert_eq!(last.deadline, Some(now), "changed from {last:?} at {now:?}");
                }
                last = verdict;
            }
            assert_eq!(last.state, NodeState::Failed);
        }
    }
}
