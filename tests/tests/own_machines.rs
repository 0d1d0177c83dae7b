//! docs/run-your-own.md, as it stands: each node on a machine of its own, that is, in a network
//! namespace with an address of its own, once without a registry and once with one for discovery.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use axolotl_common::registry_api::{Role, StatusResponse};
use axolotl_tests::{
    binaries,
    document::{Step, steps},
    machines::Machines,
    wait,
};

/// Patience for a chain to start, or a node to be level.
const READY: Duration = Duration::from_secs(60);
/// What machines 1 to 4 do when they join through a registry.
const JOIN: &str = "machines 1 2 3 4 until it succeeds";
/// Patience for a silent validator to be replaced: it is declared failed after 15 s.
const REPLACED: Duration = Duration::from_secs(60);

fn section(title: &str) -> anyhow::Result<Vec<Step>> {
    let path = binaries::repository().join("docs/run-your-own.md");
    let text = std::fs::read_to_string(&path)?;
    let mut steps = steps(&text);
    for step in &steps {
        let shell = step.language.as_deref() == Some("bash");
        ensure!(
            !shell || step.mark.is_some(),
            "docs/run-your-own.md:{}: commands that no test runs",
            step.line
        );
    }
    steps.retain(|step| step.section == title && step.mark.is_some());
    ensure!(!steps.is_empty(), "docs/run-your-own.md: no {title:?}");
    Ok(steps)
}

/// Text without what only aligns it.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Does what a step says, where it is one of the usual kind: "machine 2", "machines 1 2 3 4", then
/// nothing, "in the background", "until it succeeds", "says TEXT", "until it says TEXT".
async fn follow(machines: &mut Machines, step: &Step) -> anyhow::Result<()> {
    let mark = step.mark.as_deref().unwrap_or_default();
    let rest = mark.strip_prefix("machine").context("no machine")?;
    let rest = rest.trim_start_matches('s').trim_start();
    let how = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
    let numbers = rest[..rest.len() - how.len()].split_whitespace();
    for number in numbers {
        let number = number.parse()?;
        if how == "in the background" {
            machines.start(number, &step.text)?;
        } else if how == "until it succeeds" {
            machines.until(number, &step.text, READY).await?;
        } else if let Some(text) = how.strip_prefix("until it says ") {
            wait::until(&format!("{text:?}"), READY, async || {
                let said = machines.run(number, &step.text).await?;
                ensure!(words(&said).contains(text), "{said}");
                Ok(())
            })
            .await?;
        } else if how.is_empty() || how.starts_with("says ") {
            let said = machines.run(number, &step.text).await?;
            let text = how.strip_prefix("says ").unwrap_or_default();
            ensure!(words(&said).contains(text), "no {text:?} in {said}");
        } else {
            bail!("{how:?} is no way to run commands");
        }
    }
    Ok(())
}

fn at(step: &Step) -> String {
    format!("docs/run-your-own.md:{}", step.line)
}

#[tokio::test(flavor = "multi_thread")]
async fn four_machines_without_a_registry() -> anyhow::Result<()> {
    let mut machines = Machines::connect(&[1, 2, 3, 4, 5]).await?;
    for step in section("Without a registry")? {
        let mark = step.mark.as_deref().unwrap_or_default();
        if mark == "machine 1 with password" {
            std::fs::write(machines.home_of(1).join("axolotl/password"), "of a test\n")?;
            machines
                .run(1, &step.text)
                .await
                .with_context(|| at(&step))?;
        } else if let Some(numbers) = mark.strip_prefix("restart ") {
            for number in numbers.split_whitespace() {
                let number = number.parse()?;
                let script = machines.end(number).await?;
                machines.start(number, &script)?;
                machines
                    .until(number, "axolotl health --ready", READY)
                    .await?;
            }
        } else {
            let done = follow(&mut machines, &step).await;
            done.with_context(|| at(&step))?;
        }
    }
    // The chain bears one of four, and the one that was away catches up.
    let send = "cd ~/axolotl && axolotl send treasury 0x000000000000000000000000000000000000dEaD \
                1ether --password-file password";
    machines.unplug(4).await?;
    machines.run(1, send).await?;
    let script = machines.kill(3).await?;
    machines.plug(4).await?;
    machines.run(1, send).await?;
    machines.start(3, &script)?;
    for number in [3, 4, 5] {
        machines
            .until(number, "axolotl health --ready", READY)
            .await?;
        wait::until("both transfers", READY, async || {
            let said = machines
                .run(
                    number,
                    "axolotl balance 0x000000000000000000000000000000000000dEaD",
                )
                .await?;
            ensure!(words(&said).contains("dEaD 0 2"), "{said}");
            Ok(())
        })
        .await?;
    }
    machines.finish().await
}

async fn status(machines: &Machines) -> anyhow::Result<StatusResponse> {
    let ask = "axolotl status --json --registry http://10.0.0.9:9090";
    Ok(serde_json::from_str(&machines.run(1, ask).await?)?)
}

async fn wait_for(
    machines: &Machines,
    label: &str,
    role: Role,
    deadline: Duration,
) -> anyhow::Result<()> {
    wait::until(&format!("{label} as {role:?}"), deadline, async || {
        let status = status(machines).await?;
        let node = status.nodes.values().find(|node| node.id.as_str() == label);
        let node = node.with_context(|| format!("no {label}"))?;
        let voting = node.voting == (role == Role::Validator);
        ensure!(node.is_healthy && node.role == role && voting, "{node:?}");
        Ok(())
    })
    .await
}

/// Gives a machine the settings of the first four, and starts its node.
async fn join_like_the_first(
    machines: &mut Machines,
    number: u8,
    steps: &[Step],
) -> anyhow::Result<()> {
    let begin = steps
        .iter()
        .position(|step| step.mark.as_deref() == Some(JOIN));
    let begin = begin.context("nobody joins")?;
    machines.run(number, &steps[begin].text).await?;
    machines.start(number, &steps[begin + 1].text)
}

#[tokio::test(flavor = "multi_thread")]
async fn four_machines_with_a_registry_for_discovery() -> anyhow::Result<()> {
    let mut machines = Machines::connect(&[1, 2, 3, 4, 5, 6, 9]).await?;
    let steps = section("With a registry for discovery")?;
    for step in &steps {
        match step.mark.as_deref().unwrap_or_default() {
            "machine 6 repeats step 2" => {
                join_like_the_first(&mut machines, 6, &steps).await?;
                wait_for(&machines, "node5", Role::Observer, READY).await?;
                wait_for(&machines, "node6", Role::Standby, READY).await?;
                machines.unplug(4).await?;
                wait_for(&machines, "node6", Role::Validator, REPLACED).await?;
                machines.plug(4).await?;
                wait_for(&machines, "node4", Role::Standby, READY).await?;
            }
            "the registry ends" => {
                machines.kill(9).await?;
                // A node that is started again meanwhile finds the others by itself.
                let script = machines.kill(3).await?;
                machines.start(3, &script)?;
                machines.until(3, "axolotl health --ready", READY).await?;
            }
            _ => follow(&mut machines, step)
                .await
                .with_context(|| at(step))?,
        }
    }
    machines.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn four_machines_with_a_registry_and_accounts_of_their_own() -> anyhow::Result<()> {
    let mut machines = Machines::connect(&[1, 2, 3, 4, 5, 9]).await?;
    let mut registry = String::new();
    for step in &section("With a registry, and accounts of your own")? {
        match step.mark.as_deref().unwrap_or_default() {
            "end 9" => registry = machines.end(9).await?,
            "start 9" => machines.start(9, &registry)?,
            "machine 5 repeats step 2 of the one before" => {
                let before = section("With a registry for discovery")?;
                join_like_the_first(&mut machines, 5, &before).await?;
                wait_for(&machines, "node5", Role::Standby, READY).await?;
                machines.unplug(2).await?;
                wait_for(&machines, "node5", Role::Validator, REPLACED).await?;
            }
            _ => follow(&mut machines, step)
                .await
                .with_context(|| at(step))?,
        }
    }
    machines.finish().await
}
