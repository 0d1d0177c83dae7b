//! A registry that is away, has a wrong clock, another token, another chain: the node says what it
//! waits for, and once it knows its chain it needs no registry.

use std::fs;

use anyhow::ensure;
use axolotl_common::KeyPair;

use crate::{
    chain::Solo,
    harness::{Start, free_port},
    stand_in::{Mind, Registry, lock, newcomer},
};

const HOUR_MS: i64 = 3_600_000;

#[tokio::test]
async fn a_registry_may_come_late_and_go_for_ever() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let data = home.path().join("data");
    let port = free_port()?;
    let start = newcomer(home.path(), &format!("http://127.0.0.1:{port}"));
    let node = start.spawn()?;
    node.waits_for("the registry cannot be reached").await?;
    let registry = Registry::start(port, Mind::default()).await?;
    node.ready().await?;
    registry.hears(3).await?;
    drop(registry);
    node.says("a heartbeat failed, tried again; blocks go on")
        .await?;
    node.goes_on(5).await?;
    node.stop(&data).await?;

    // Without a registry from the first moment on.
    let node = start.spawn()?;
    node.ready().await?;
    node.says("not registered, tried again; blocks go on")
        .await?;
    node.goes_on(5).await?;
    // And it comes back after all.
    let registry = Registry::start(port, Mind::default()).await?;
    registry.hears(3).await?;
    node.stop(&data).await?;
    Ok(())
}

#[tokio::test]
async fn of_port_0_the_port_that_was_got_is_advertised() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let registry = Registry::start(0, Mind::default()).await?;
    let data = home.path().join("data");
    let node = Start::node(home.path())
        .env("DATA_DIR", data.display())
        .env("REGISTRY_URL", registry.url())
        .spawn()?;
    node.up().await?;
    let addresses = lock(&registry.mind).addresses.clone();
    let port = addresses[0].rsplit('/').next().unwrap_or_default();
    ensure!(port.parse::<u16>()? > 0, "{addresses:?}");
    // Somebody listens there.
    tokio::net::TcpStream::connect(format!("127.0.0.1:{port}")).await?;
    node.stop(&data).await?;
    Ok(())
}

#[tokio::test]
async fn clocks_an_hour_apart_are_told_and_do_not_stop_a_chain() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let data = home.path().join("data");
    for ahead_ms in [HOUR_MS, -HOUR_MS] {
        let mind = Mind {
            ahead_ms,
            ..Mind::default()
        };
        let registry = Registry::start(0, mind).await?;
        let node = newcomer(home.path(), &registry.url()).spawn()?;
        if ahead_ms > 0 {
            // It has no chain yet, and waits.
            node.waits_for("set the clock").await?;
            registry.change(|mind| mind.ahead_ms = 0);
            node.ready().await?;
            registry.hears(2).await?;
            registry.change(|mind| mind.ahead_ms = ahead_ms);
            node.says("a heartbeat failed, tried again; blocks go on")
                .await?;
        }
        node.ready().await?;
        node.says("set the clock").await?;
        node.goes_on(3).await?;
        node.stop(&data).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_wrong_token_is_told_and_may_be_put_right() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let token = home.path().join("join_token");
    let mind = Mind {
        token: Some("right".to_owned()),
        ..Mind::default()
    };
    let registry = Registry::start(0, mind).await?;
    let node = newcomer(home.path(), &registry.url())
        .env("JOIN_TOKEN_FILE", token.display())
        .spawn()?;
    node.waits_for("shows no join token").await?;
    node.waits_for(&format!(
        "JOIN_TOKEN_FILE={}: No such file",
        token.display()
    ))
    .await?;
    fs::write(&token, "wrong\n")?;
    node.waits_for("the join token is not this registry's")
        .await?;
    fs::write(&token, "right\n")?;
    node.ready().await?;
    assert!(
        !node.log().contains("wrong"),
        "a token in the log:\n{}",
        node.log()
    );
    node.stop(&home.path().join("data")).await?;
    Ok(())
}

#[tokio::test]
async fn a_registry_of_another_chain_changes_nothing() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let solo = Solo::new(home.path())?;
    let mind = Mind {
        other_chain: true,
        ..Mind::default()
    };
    let registry = Registry::start(0, mind).await?;
    // It knows its chain, but not its label: it needs the registry, which refuses for good.
    let nameless =
        newcomer(home.path(), &registry.url()).env("GENESIS_FILE", solo.genesis.display());
    let words = [
        "does not take this node",
        "another chain than this registry",
    ];
    nameless.refuses(1, &words).await?;
    // It hands out another genesis: refused, and the own one is kept.
    let other = tempfile::tempdir()?;
    let foreign = fs::read(Solo::new(other.path())?.genesis)?;
    registry.change(|mind| mind.other_chain = false);
    registry.change(|mind| mind.genesis = serde_json::from_slice(&foreign).ok());
    nameless
        .refuses(1, &["holds chain 7777", "was told to join"])
        .await?;
    assert_eq!(
        fs::read(solo.data.join("genesis.json"))?,
        fs::read(&solo.genesis)?
    );

    // It runs already: it says so, and goes on.
    registry.change(|mind| mind.other_chain = true);
    let node = solo.start().env("REGISTRY_URL", registry.url()).spawn()?;
    node.says("the registry does not take this node").await?;
    node.ready().await?;
    node.goes_on(3).await?;
    node.stop(&solo.data).await?;
    Ok(())
}

#[tokio::test]
async fn a_node_waits_while_another_process_has_its_key() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let solo = Solo::new(home.path())?;
    let (authority, stranger) = (KeyPair::from_seed(&[99; 32]), KeyPair::from_seed(&[98; 32]));
    solo.name_authority(&authority)?;
    let mind = Mind {
        other_process: Some(stranger),
        ..Mind::default()
    };
    let registry = Registry::start(0, mind).await?;
    let start = || solo.start().env("REGISTRY_URL", registry.url()).spawn();
    // Who is not the authority of this chain stops nobody.
    let node = start()?;
    node.says("the registry does not take this node").await?;
    node.ready().await?;
    node.goes_on(3).await?;
    node.stop(&solo.data).await?;

    // It can be stopped while it waits, and has signed nothing.
    registry.change(|mind| mind.other_process = Some(authority.clone()));
    let node = start()?;
    node.waits_for("alive in another process").await?;
    assert!(!node.log().contains("consensus begins"), "{}", node.log());
    node.stop(&solo.data).await?;

    // The other one ends: it goes on.
    let node = start()?;
    node.waits_for("alive in another process").await?;
    registry.change(|mind| mind.other_process = None);
    node.ready().await?;
    node.goes_on(3).await?;
    node.stop(&solo.data).await?;

    // The other one stays: it ends.
    registry.change(|mind| mind.other_process = Some(authority.clone()));
    let words = ["does not take this node", "alive in another process"];
    solo.start()
        .env("REGISTRY_URL", registry.url())
        .refuses(1, &words)
        .await?;
    Ok(())
}
