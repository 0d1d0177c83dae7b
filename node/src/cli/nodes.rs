//! `axolotl nodes`: who there is, as the registry knows it, or else as one node sees it.

use std::process::ExitCode;

use anyhow::Context;
use axolotl_common::{
    Member, PublicKey,
    registry_api::{NodeSelfStatus, NodeStatus},
};
use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    json_rpc::JsonRpc,
    options::{CALL_TIMEOUT, OutputArgs, RegistryArgs, RpcArgs, advise, check_url},
    output::{self, Colour, ColourArgs},
    registry, status,
    table::{self, Cell, plain},
};

/// Arguments of `axolotl nodes`.
#[derive(Args, Clone, Debug)]
pub struct NodesArgs {
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    rpc: RpcArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    colour: ColourArgs,
}

/// The validators of an epoch, as a node tells them (`axolotl_getMembership`).
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Membership {
    pub(super) quorum: usize,
    pub(super) validators: Vec<Member>,
}

/// What one node says about itself and the epoch.
///
/// # Errors
/// When it cannot be asked, or is no Axolotl node.
pub(super) async fn view(node: &JsonRpc) -> anyhow::Result<(NodeSelfStatus, Membership)> {
    let status = node
        .call("axolotl_status", json!([]))
        .await
        .map_err(advise)?;
    let status = serde_json::from_value(status)
        .with_context(|| format!("the status of {} is not understood", node.url()))?;
    let membership = node
        .call("axolotl_getMembership", json!([]))
        .await
        .map_err(advise)?;
    let membership = serde_json::from_value(membership)
        .with_context(|| format!("the membership of {} is not understood", node.url()))?;
    Ok((status, membership))
}

/// Prints the nodes.
///
/// # Errors
/// When neither the registry nor the node can be asked.
pub async fn run(args: NodesArgs) -> anyhow::Result<ExitCode> {
    check_url("--rpc", &args.rpc.rpc)?;
    check_url("--registry", args.registry.url())?;
    let colours = args.colour.on();
    let asked = registry::status(args.registry.url(), CALL_TIMEOUT).await;
    let away = match asked {
        Ok(status) => {
            let mut nodes: Vec<&NodeStatus> = status.nodes.values().collect();
            nodes.sort_by_key(|node| (node.id.number().unwrap_or(u64::MAX), node.id.clone()));
            if args.output.json {
                let nodes: Vec<Value> = nodes.iter().map(|node| registered_json(node)).collect();
                output::print_json(&json!({ "source": "registry", "nodes": nodes }))?;
            } else {
                let rows: Vec<_> = nodes.iter().map(|node| registered_row(node)).collect();
                let headings = ["NODE", "STATE", "ROLE", "HEIGHT", "RPC", "PEER ID"];
                output::print(&table::render(headings, &rows, colours))?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => error,
    };
    let node = args.rpc.client()?;
    let (own, membership) = view(&node)
        .await
        .with_context(|| format!("{away:#}\nNor can a node be asked"))?;
    output::note(&format!(
        "No registry answers at {}; this is what the node at {} sees.",
        args.registry.url(),
        node.url()
    ));
    let rows = seen_by(&own, &membership);
    if args.output.json {
        let nodes: Vec<Value> = rows
            .iter()
            .map(|(label, key, state)| {
                json!({
                    "id": label, "peer_id": key.peer_id(), "state": state,
                    "role": if is_member(&membership, key) { Some("validator") } else { None },
                    "height": (*key == own.public_key).then_some(own.height),
                    "rpc_url": (*key == own.public_key).then(|| node.url()),
                })
            })
            .collect();
        output::print_json(&json!({ "source": "node", "nodes": nodes }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let cells: Vec<[Cell; 4]> = rows
        .iter()
        .map(|(label, key, state)| {
            let colour = match *state {
                "unreachable" => Colour::Red,
                _ => Colour::Green,
            };
            let role = if is_member(&membership, key) {
                "validator"
            } else {
                "-"
            };
            [
                plain(label.as_deref().unwrap_or("-")),
                ((*state).to_owned(), colour),
                plain(role),
                plain(key.peer_id()),
            ]
        })
        .collect();
    output::print(&table::render(
        ["NODE", "STATE", "ROLE", "PEER ID"],
        &cells,
        colours,
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn is_member(membership: &Membership, key: &PublicKey) -> bool {
    membership
        .validators
        .iter()
        .any(|member| member.public_key == *key)
}

/// The validators in their order, then what else the node is connected to.
fn seen_by(
    own: &NodeSelfStatus,
    membership: &Membership,
) -> Vec<(Option<String>, PublicKey, &'static str)> {
    let state = |key: &PublicKey| {
        if *key == own.public_key {
            "itself"
        } else if own.reachable.contains(key) {
            "reachable"
        } else {
            "unreachable"
        }
    };
    let members = membership.validators.iter().map(|member| {
        let label = Some(member.node_id.to_string());
        (label, member.public_key, state(&member.public_key))
    });
    let others = own.reachable.iter().chain([&own.public_key]);
    let others = others.filter(|key| !is_member(membership, key)).map(|key| {
        let label = own.node_id.as_ref().filter(|_| *key == own.public_key);
        (label.map(ToString::to_string), *key, state(key))
    });
    members.chain(others).collect()
}

fn registered_json(node: &NodeStatus) -> Value {
    json!({
        "id": node.id, "peer_id": node.peer_id, "state": node.state, "role": node.role,
        "height": node.height, "rpc_url": url_of(node), "voting": node.voting, "symptom": node.symptom,
        "proposal_faults": node.proposal_faults,
    })
}

fn registered_row(node: &NodeStatus) -> [Cell; 6] {
    let role = if node.is_leader {
        "leader"
    } else {
        status::role(node.role)
    };
    [
        plain(node.id.to_string()),
        status::state_cell(node),
        plain(role),
        plain(node.height.to_string()),
        plain(url_of(node)),
        plain(node.peer_id.clone()),
    ]
}

/// JSON-RPC as this machine reaches it, if the registry knows.
fn url_of(node: &NodeStatus) -> &str {
    node.public_rpc_url.as_deref().unwrap_or(&node.rpc_url)
}
