//! `axolotl status`: the whole picture, as the registry sees it, in a table.

use std::{
    process::ExitCode,
    time::{Duration, SystemTime},
};

use axolotl_common::registry_api::{NodeState, NodeStatus, Role, RuntimeInfo, StatusResponse};
use clap::Args;

use super::{
    options::{self, OutputArgs, RegistryArgs},
    output::{self, Colour, ColourArgs},
    registry,
    table::{self, Cell, plain},
};

/// Arguments of `axolotl status`.
#[derive(Args, Clone, Debug)]
pub struct StatusArgs {
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    colour: ColourArgs,
    /// Give up after this long.
    #[arg(long, default_value = "5s", value_parser = options::time, value_name = "TIME")]
    pub timeout: Duration,
}

/// Prints the status; the exit code is 0 whenever the registry answered.
///
/// # Errors
/// When the registry cannot be asked; the text says what to do.
pub async fn run(args: StatusArgs) -> anyhow::Result<ExitCode> {
    let value = registry::status_json(args.registry.url(), args.timeout).await?;
    if args.output.json {
        output::print_json(&value)?;
        return Ok(ExitCode::SUCCESS);
    }
    let status = registry::read_status(value)?;
    output::print(&render(&status, SystemTime::now(), args.colour.on()))?;
    Ok(ExitCode::SUCCESS)
}

/// The colour of a state.
fn colour_of(state: NodeState) -> Colour {
    match state {
        NodeState::Healthy => Colour::Green,
        NodeState::Starting | NodeState::Syncing | NodeState::Draining => Colour::Yellow,
        NodeState::Stopped => Colour::Faint,
        NodeState::Unreachable | NodeState::Failed | NodeState::Unfit | NodeState::Sealed => {
            Colour::Red
        }
    }
}

const HEADINGS: [&str; 9] = [
    "NODE", "STATE", "ROLE", "HEIGHT", "PEERS", "POOL", "SEEN", "RPC", "RUNS AS",
];

/// The text of the status at time `now`.
pub fn render(status: &StatusResponse, now: SystemTime, colours: bool) -> String {
    let mut text = String::new();
    let line = |text: &mut String, line: &str| {
        text.push_str(line.trim_end());
        text.push('\n');
    };
    match (&status.forming, status.chain_id) {
        (Some(forming), _) => line(&mut text, &format!("The chain is forming: {forming}")),
        (None, Some(id)) => {
            let leader = status
                .leader
                .as_ref()
                .map_or("nobody".to_owned(), ToString::to_string);
            line(
                &mut text,
                &format!(
                    "Chain {id}, height {}, epoch {}, leader {leader}",
                    status.height, status.epoch
                ),
            );
        }
        (None, None) => line(&mut text, "No chain yet"),
    }
    line(
        &mut text,
        &format!(
            "{} of {} nodes healthy; target {} (from {} to {})",
            status.healthy_nodes,
            status.total_nodes,
            status.target_nodes,
            status.min_nodes,
            status.max_nodes
        ),
    );
    if status.chain_id.is_some() {
        let (colour, words) = if status.consensus_possible {
            (Colour::Green, "blocks can be finalised".to_owned())
        } else {
            (Colour::Red, too_few(status))
        };
        let words = colour.paint(&words, colours);
        line(&mut text, &format!("Quorum {}: {words}", status.quorum));
    }
    if let Some(recovery) = &status.recovery {
        let words = format!("{}: {}", recovery.phase.as_str(), recovery.summary);
        let words = Colour::Yellow.paint(&words, colours);
        line(&mut text, &format!("Recovery: {words}"));
    }
    for warning in &status.warnings {
        let words = Colour::Yellow.paint(warning, colours);
        line(&mut text, &format!("Warning: {words}"));
    }
    if status.nodes.is_empty() {
        return text;
    }
    text.push('\n');
    let mut nodes: Vec<&NodeStatus> = status.nodes.values().collect();
    nodes.sort_by_key(|node| (node.id.number().unwrap_or(u64::MAX), node.id.clone()));
    let rows: Vec<[Cell; 9]> = nodes.iter().map(|node| row(node, now)).collect();
    text.push_str(&table::render(HEADINGS, &rows, colours));
    for node in nodes {
        if let Some(symptom) = &node.symptom {
            let words = format!("{}: {}: {}", node.id, symptom.code, symptom.text);
            line(&mut text, &Colour::Red.paint(&words, colours));
        }
        if let Some(faults) = &node.proposal_faults {
            let words = format!("{}: {faults}", node.id);
            line(&mut text, &Colour::Yellow.paint(&words, colours));
        }
        if let Some(detail) = &node.detail {
            line(&mut text, &format!("{}: {detail}", node.id));
        }
    }
    text
}

/// How many validators are healthy, when that is too few: of the nodes all may be, for learners are nodes too.
pub(super) fn too_few(status: &StatusResponse) -> String {
    let all = status.nodes.values();
    let validators: Vec<_> = all.filter(|node| node.role == Role::Validator).collect();
    let healthy = validators
        .iter()
        .filter(|node| node.state == NodeState::Healthy && node.symptom.is_none());
    format!(
        "{} of {} validators healthy, too few to finalise blocks",
        healthy.count(),
        validators.len()
    )
}

fn row(node: &NodeStatus, now: SystemTime) -> [Cell; 9] {
    let role = if node.is_leader {
        "leader"
    } else {
        role(node.role)
    };
    let runs_as = match &node.runtime {
        Some(RuntimeInfo::Process { pid }) => format!("pid {pid}"),
        Some(RuntimeInfo::Docker { container }) => format!("container {container}"),
        None if node.managed => "does not run".to_owned(),
        None => "by hand".to_owned(),
    };
    [
        plain(node.id.to_string()),
        state_cell(node),
        plain(role.to_owned()),
        plain(node.height.to_string()),
        plain(node.peers.to_string()),
        plain(node.tx_pool_size.to_string()),
        plain(seen(&node.last_seen, now)),
        plain(
            node.public_rpc_url
                .as_ref()
                .unwrap_or(&node.rpc_url)
                .clone(),
        ),
        (runs_as, Colour::Faint),
    ]
}

/// The state, or what is wrong with a node that reports in time.
pub(super) fn state_cell(node: &NodeStatus) -> Cell {
    match &node.symptom {
        Some(symptom) if node.state == NodeState::Healthy => {
            (symptom.code.to_string(), Colour::Red)
        }
        _ => (state(node.state).to_owned(), colour_of(node.state)),
    }
}

pub(super) fn role(role: Role) -> &'static str {
    match role {
        Role::Validator => "validator",
        Role::Learner => "learner",
        Role::Standby => "standby",
        Role::Observer => "observer",
    }
}

fn state(state: NodeState) -> &'static str {
    match state {
        NodeState::Starting => "starting",
        NodeState::Syncing => "syncing",
        NodeState::Healthy => "healthy",
        NodeState::Unreachable => "unreachable",
        NodeState::Failed => "failed",
        NodeState::Unfit => "unfit",
        NodeState::Sealed => "sealed",
        NodeState::Draining => "draining",
        NodeState::Stopped => "stopped",
    }
}

/// How long ago an RFC 3339 time was, in whole units.
fn seen(time: &str, now: SystemTime) -> String {
    let Ok(time) = humantime::parse_rfc3339_weak(time) else {
        return "never".to_owned();
    };
    let seconds = now.duration_since(time).unwrap_or_default().as_secs();
    match seconds {
        0..60 => format!("{seconds} s ago"),
        60..3_600 => format!("{} min ago", seconds / 60),
        3_600..86_400 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axolotl_common::registry_api::RecoveryStatus;
    use serde_json::{Value, json};

    fn node(number: u64, leader: bool) -> Value {
        json!({"id": format!("node{number}"), "address": "127.0.0.1", "port": 50_050 + number,
            "is_leader": leader, "is_healthy": true, "last_seen": "2026-01-01T00:00:00Z",
            "height": 128, "tx_pool_size": 0, "peer_id": "12D3KooW", "addresses": [],
            "http_url": "http://127.0.0.1:8080", "rpc_url": "http://127.0.0.1:8545",
            "public_rpc_url": null, "role": "validator", "state": "healthy", "voting": true, "peers": 3,
            "incarnation": 1, "version": "0.1.0", "managed": true,
            "runtime": {"kind": "process", "pid": 1_000 + number}})
    }

    fn status() -> StatusResponse {
        let value = json!({"total_nodes": 2, "healthy_nodes": 2, "min_nodes": 2, "max_nodes": 10,
            "target_nodes": 4, "consensus_possible": true, "scale_threshold": 2, "quorum": 3,
            "epoch": 0, "height": 128, "leader": "node2", "recovery": null,
            "registration": "token", "genesis_hash": null, "chain_id": 7777, "forming": null,
            "warnings": [], "plan": [], "decisions": [], "nodes": {"node10": node(10, false), "node2": node(2, true)}});
        registry::read_status(value).unwrap()
    }

    fn now() -> SystemTime {
        humantime::parse_rfc3339_weak("2026-01-01T00:02:05Z").unwrap()
    }

    #[test]
    fn the_table_is_aligned_and_in_the_order_of_numbers() {
        let text = render(&status(), now(), false);
        let expected = "\
Chain 7777, height 128, epoch 0, leader node2
2 of 2 nodes healthy; target 4 (from 2 to 10)
Quorum 3: blocks can be finalised

NODE    STATE    ROLE       HEIGHT  PEERS  POOL  SEEN       RPC                    RUNS AS
node2   healthy  leader     128     3      0     2 min ago  http://127.0.0.1:8545  pid 1002
node10  healthy  validator  128     3      0     2 min ago  http://127.0.0.1:8545  pid 1010
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_member_whose_votes_do_not_arrive_is_shown() {
        let mut silent = node(3, false);
        silent["voting"] = json!(false);
        silent["symptom"] = json!({"code": "not_voting", "text": "no vote of it reached node2 for 9 s",
            "height": 120, "age_ms": 9_000, "reporters": ["node2"]});
        let mut status = status();
        let silent: NodeStatus = serde_json::from_value(silent).unwrap();
        status.nodes.insert(silent.id.clone(), silent);
        let text = render(&status, now(), false);
        assert!(text.contains("\nnode3   not voting  validator"), "{text}");
        let told = "\nnode3: not voting: no vote of it reached node2 for 9 s\n";
        assert!(text.contains(told), "{text}");
        status.consensus_possible = false;
        let text = render(&status, now(), false);
        assert!(text.contains("2 of 3 validators healthy"), "{text}");
    }

    #[test]
    fn colours_change_no_column() {
        let mut status = status();
        status.warnings.push("the clock of node2 is off".to_owned());
        status.recovery = Some(RecoveryStatus {
            summary: "a quorum is missing".to_owned(),
            ..RecoveryStatus::default()
        });
        let plain = render(&status, now(), false);
        let mut painted = render(&status, now(), true);
        assert!(!plain.contains('\x1b') && painted.contains('\x1b'));
        for code in ["0", "2", "31", "32", "33"] {
            painted = painted.replace(&format!("\x1b[{code}m"), "");
        }
        let trimmed: Vec<&str> = painted.lines().map(str::trim_end).collect();
        assert_eq!(trimmed, plain.lines().collect::<Vec<_>>());
    }

    #[test]
    fn a_forming_chain_says_who_is_awaited() {
        let mut status = status();
        status.forming = Some("waiting for 2 more nodes".to_owned());
        let text = render(&status, now(), false);
        assert!(
            text.starts_with("The chain is forming: waiting for 2 more nodes\n"),
            "{text}"
        );
    }
}
