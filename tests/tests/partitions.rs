//! A network that falls apart, between machines with an address each: blocks on one side at most, and none
//! where a quorum lives that only the registry can reach.

use std::time::Duration;

use anyhow::{Context, ensure};
use axolotl_common::{
    Epoch, Hash, Height,
    registry_api::{NodeSelfStatus, Role, StatusResponse},
};
use axolotl_tests::{machines::Machines, wait};

/// Patience for anything.
const AGAIN: Duration = Duration::from_secs(90);
const REGISTRY: u8 = 9;
const SERVE: &str = "mkdir -p ~/axolotl && cd ~/axolotl
BIND_ADDR=0.0.0.0 RUNTIME=none GENESIS_NODES=4 axolotl-registry serve";
const JOIN: &str = "mkdir -p ~/axolotl && cd ~/axolotl
scp 10.0.0.9:axolotl/registry-data/join_token .";
const RUN: &str = "cd ~/axolotl
NODE_ID=node$K BIND_ADDR=0.0.0.0 ADVERTISE_ADDR=10.0.0.$K REGISTRY_URL=http://10.0.0.9:9090 \
JOIN_TOKEN_FILE=join_token axolotl node";
const SEND: &str = "axolotl send --dev 0 0x000000000000000000000000000000000000dEaD 1ether";
const BALANCE: &str = "axolotl balance 0x000000000000000000000000000000000000dEaD";

/// Starts a node on each of these machines.
async fn join(machines: &mut Machines, numbers: &[u8]) -> anyhow::Result<()> {
    for number in numbers {
        machines.until(*number, JOIN, AGAIN).await?;
        machines.start(*number, RUN)?;
    }
    for number in numbers {
        let ready = "axolotl health --ready";
        machines.until(*number, ready, AGAIN).await?;
    }
    Ok(())
}

/// A registry, and four validators.
async fn four(others: &[u8]) -> anyhow::Result<Machines> {
    let numbers = [&[1, 2, 3, 4, REGISTRY], others].concat();
    let mut machines = Machines::connect(&numbers).await?;
    machines.start(REGISTRY, SERVE)?;
    join(&mut machines, &[1, 2, 3, 4]).await?;
    machines.run(1, SEND).await?;
    Ok(machines)
}

/// What the registry says.
async fn status(machines: &Machines) -> anyhow::Result<StatusResponse> {
    let ask = "axolotl status --json --registry http://127.0.0.1:9090";
    Ok(serde_json::from_str(&machines.run(REGISTRY, ask).await?)?)
}

/// What a node says of itself.
async fn own(machines: &Machines, number: u8) -> anyhow::Result<NodeSelfStatus> {
    let ask = "curl --silent --fail http://127.0.0.1:8080/status";
    Ok(serde_json::from_str(&machines.run(number, ask).await?)?)
}

async fn wait_role(machines: &Machines, label: &str, role: Role) -> anyhow::Result<()> {
    wait::until(&format!("{label} as {role:?}"), AGAIN, async || {
        let status = status(machines).await?;
        let node = status.nodes.values().find(|node| node.id.as_str() == label);
        let node = node.with_context(|| format!("no {label}"))?;
        ensure!(node.is_healthy && node.role == role, "{node:?}");
        Ok(())
    })
    .await
}

/// Waits until all of these have one head, and so many transfers in it.
async fn agree(machines: &Machines, numbers: &[u8], transfers: u32) -> anyhow::Result<Height> {
    let what = format!("one head with {transfers} transfers");
    wait::until(&what, AGAIN, async || {
        let mut heads: Vec<(u8, Height, Option<Hash>)> = Vec::new();
        for number in numbers {
            let own = own(machines, *number).await?;
            heads.push((*number, own.height, own.head));
        }
        let (_, height, head) = heads[0];
        let same = heads
            .iter()
            .all(|(_, h, hash)| (*h, *hash) == (height, head));
        ensure!(same, "{heads:?}");
        for number in numbers {
            let said = machines.run(*number, BALANCE).await?;
            let words: Vec<&str> = said.split_whitespace().collect();
            let there = words.join(" ").contains(&format!("dEaD 0 {transfers}"));
            ensure!(there, "{number}: {said}");
        }
        Ok(height)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_in_two_halves_goes_on_on_one_side_at_most() -> anyhow::Result<()> {
    let mut machines = four(&[5, 6]).await?;
    join(&mut machines, &[5, 6]).await?;
    for label in ["node5", "node6"] {
        wait_role(&machines, label, Role::Standby).await?;
    }
    machines.split(&[3, 4]).await?;
    // What was on its way when the network was split has arrived or is lost by then.
    wait::span(Duration::from_secs(2)).await;
    let before = [own(&machines, 3).await?, own(&machines, 4).await?];
    wait::until("a recovery on the registry's side", AGAIN, async || {
        let status = status(&machines).await?;
        let voting = status.nodes.values().filter(|node| node.voting);
        let labels: Vec<&str> = voting.map(|node| node.id.as_str()).collect();
        let expected = ["node1", "node2", "node5", "node6"];
        ensure!(
            status.epoch > Epoch(0) && labels == expected,
            "{labels:?}: {:?}",
            status.recovery
        );
        Ok(())
    })
    .await?;
    machines.run(1, SEND).await?;
    // The other side goes on with nothing, however long it is left.
    wait::span(Duration::from_secs(15)).await;
    for (number, before) in [3, 4].into_iter().zip(before) {
        let now = own(&machines, number).await?;
        ensure!(
            (now.height, now.head, now.epoch) == (before.height, before.head, Epoch(0)),
            "{number} went from {before:?} to {now:?}"
        );
    }
    machines.unite().await?;
    agree(&machines, &[1, 2, 3, 4, 5, 6], 2).await?;
    machines.run(3, SEND).await?;
    let height = agree(&machines, &[1, 2, 3, 4, 5, 6], 3).await?;
    println!("all agree at {height}");
    for label in ["node3", "node4"] {
        wait_role(&machines, label, Role::Standby).await?;
    }
    machines.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn validators_that_only_the_registry_reaches_are_left_alone() -> anyhow::Result<()> {
    let machines = four(&[]).await?;
    machines.part(&[1, 2, 3, 4], true).await?;
    machines.run(1, &format!("{SEND} --no-wait")).await?;
    wait::until("words about it", AGAIN, async || {
        let status = status(&machines).await?;
        let recovery = status.recovery.as_ref().context("nothing is said")?;
        ensure!(
            recovery.summary.contains("cut off from one another"),
            "{recovery:?}"
        );
        Ok(())
    })
    .await?;
    // Longer than any veto: nothing may be sealed or signed in it.
    wait::span(Duration::from_secs(20)).await;
    for number in 1..=4 {
        let own = own(&machines, number).await?;
        ensure!(own.sealed.is_none() && own.epoch == Epoch(0), "{own:?}");
    }
    ensure!(
        status(&machines).await?.epoch == Epoch(0),
        "a record was signed"
    );
    machines.part(&[1, 2, 3, 4], false).await?;
    let height = agree(&machines, &[1, 2, 3, 4], 2).await?;
    println!("all agree at {height}");
    machines.finish().await
}
