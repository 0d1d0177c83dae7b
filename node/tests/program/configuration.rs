//! Wrong settings: all reported at once, exit code 2, nothing touched.

use std::{fs, net::TcpListener};

use crate::{
    chain::{GENESIS_TIME, Solo, genesis_of, with_directory},
    harness::Start,
};

#[tokio::test]
async fn all_wrong_settings_are_reported_at_once() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let data = home.path().join("data");
    let start = Start::node(home.path())
        .env("DATA_DIR", data.display())
        .env("PORT", 70_000)
        .env("ROLE", "king")
        .env("BIND_ADDR", "here")
        .env("HEARTBEAT_INTERVAL", "5")
        .env("GENESIS_FILE", "none.json")
        .env("GENESIS_HASH", "0x12")
        .args(&["--rpcport", "8545", "--mempool-max-per-sender", "0"]);
    let words = [
        "PORT=70000",
        "ROLE=king",
        "BIND_ADDR=here",
        "HEARTBEAT_INTERVAL=5: expected a time with its unit",
        "GENESIS_FILE=none.json: No such file",
        "GENESIS_HASH=0x12: expected 64 hexadecimal digits",
        "NODE_ID is not set",
        "--rpcport: there is no such flag; did you mean --rpc-port?",
        "MEMPOOL_MAX_PER_SENDER=0",
        "See `axolotl node --help`",
    ];
    start.refuses(2, &words).await?;
    assert!(!data.exists(), "a wrong configuration leaves no trace");
    Ok(())
}

#[tokio::test]
async fn a_wrong_genesis_is_a_wrong_setting() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let data = home.path().join("data");
    let good = with_directory(&data, |directory| genesis_of(directory, GENESIS_TIME))?;
    let path = home.path().join("genesis.json");
    let start = Start::node(home.path())
        .env("NODE_ID", "node1")
        .env("DATA_DIR", data.display())
        .env("GENESIS_FILE", path.display());
    let mut no_validators = good.clone();
    no_validators["axolotl"]["validators"] = serde_json::json!([]);
    let mut no_account = good.clone();
    no_account["alloc"]["0x12"] = serde_json::json!({ "balance": "0x1" });
    let mut no_balance = good.clone();
    no_balance["alloc"]["0x4200000000000000000000000000000000000042"] =
        serde_json::json!({ "balance": "much" });
    for (text, why) in [
        (String::new(), "not JSON"),
        ("{".to_owned(), "not JSON"),
        ("[]".to_owned(), "config.chainId"),
        (no_validators.to_string(), "axolotl.validators"),
        (no_account.to_string(), "alloc"),
        (no_balance.to_string(), "alloc"),
    ] {
        fs::write(&path, text)?;
        let named = format!("GENESIS_FILE={}", path.display());
        start.refuses(2, &[&named, why]).await?;
        assert!(!data.join("genesis.json").exists(), "{why}: it was kept");
    }
    // The corrected document is taken.
    fs::write(&path, good.to_string())?;
    let node = start.spawn()?;
    node.up().await?;
    node.stop(&data).await?;
    Ok(())
}

#[tokio::test]
async fn a_malformed_genesis_hash_is_a_wrong_setting() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let solo = Solo::new(home.path())?;
    let good = solo.document()?.hash().to_string();
    for hash in [
        "0x",
        "x",
        " ",
        &good[..65],
        &format!("{good}0"),
        &format!("{good} "),
        &format!("{}g", &good[..65]),
        &format!("{good},{good}"),
    ] {
        let said = format!("GENESIS_HASH={hash}: expected 64 hexadecimal digits");
        let start = solo.start().env("GENESIS_HASH", hash);
        start.refuses(2, &[&said, "axolotl genesis show"]).await?;
    }
    assert!(!solo.data.join("genesis.json").exists());
    Ok(())
}

#[tokio::test]
async fn a_pinned_genesis_is_the_only_one_that_is_taken() -> anyhow::Result<()> {
    let (home, other_home) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let (solo, other) = (Solo::new(home.path())?, Solo::new(other_home.path())?);
    let (hash, wrong) = (solo.document()?.hash(), other.document()?.hash());
    let file = format!(
        "GENESIS_FILE={}: its genesis has the hash {hash}, and GENESIS_HASH={wrong};",
        solo.genesis.display()
    );
    let directory = format!(
        "DATA_DIR={}: its genesis has the hash {hash}, and GENESIS_HASH={wrong};",
        solo.data.display()
    );
    let starts = || fs::read(solo.data.join("incarnation"));
    let begun = starts()?;
    let mistaken = solo.start().env("GENESIS_HASH", wrong);
    mistaken.refuses(2, &[&file, "name the file of"]).await?;
    assert!(!solo.data.join("genesis.json").exists(), "it was kept");
    assert_eq!(starts()?, begun, "a wrong configuration leaves no trace");

    // Without 0x, and in capitals, it is the same hash.
    let plain = hash.to_string()[2..].to_uppercase();
    for spelled in [hash.to_string(), plain] {
        let node = solo.start().env("GENESIS_HASH", spelled).spawn()?;
        node.up().await?;
        node.stop(&solo.data).await?;
    }

    // The directory holds this chain now: both are named, and so is the directory alone.
    let begun = starts()?;
    mistaken.refuses(2, &[&file, &directory]).await?;
    let log = mistaken
        .clone()
        .env("GENESIS_FILE", "")
        .refuses(2, &[&directory, "choose another data directory"])
        .await?;
    assert!(!log.contains("GENESIS_FILE="), "{log}");
    // A file and a hash of another chain do not take the directory over.
    let elsewhere = mistaken.env("GENESIS_FILE", other.genesis.display());
    elsewhere.refuses(2, &[&directory]).await?;
    assert_eq!(starts()?, begun, "a wrong configuration leaves no trace");
    assert_eq!(
        fs::read(solo.data.join("genesis.json"))?,
        fs::read(&solo.genesis)?
    );
    let kept = solo.start().env("GENESIS_FILE", "");
    let node = kept.env("GENESIS_HASH", hash).spawn()?;
    node.up().await?;
    node.stop(&solo.data).await?;
    Ok(())
}

#[tokio::test]
async fn variables_that_nobody_reads_are_warned_of() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let solo = Solo::new(home.path())?;
    let node = solo
        .start()
        .env("AXOLOTL_RPC_PORT", 1)
        .env("AXOLOTL_HOME", "/nowhere")
        .env("AXOLOTL_SERVICE_HOST", "10.0.0.1")
        .spawn()?;
    let line = node.says("AXOLOTL_RPC_PORT").await?;
    assert!(
        line.contains("WARN") && line.ends_with("called RPC_PORT"),
        "{line}"
    );
    node.says("AXOLOTL_SERVICE_HOST").await?;
    node.up().await?;
    assert!(!node.log().contains("AXOLOTL_HOME"), "{}", node.log());
    node.stop(&solo.data).await?;
    Ok(())
}

#[tokio::test]
async fn each_taken_port_is_named() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let solo = Solo::new(home.path())?;
    let taken = TcpListener::bind(("127.0.0.1", 0))?;
    let port = taken.local_addr()?.port();
    for (name, what) in [
        ("PORT", "libp2p"),
        ("HTTP_PORT", "the node's HTTP"),
        ("RPC_PORT", "JSON-RPC"),
    ] {
        let said = format!("{what} cannot listen on 127.0.0.1:{port}");
        let advice = format!("Choose another {name}");
        let start = solo.start().env(name, port);
        start
            .refuses(1, &[&said, &advice, "Address already in use"])
            .await?;
    }
    // An address that is not this machine's.
    let start = solo.start().env("BIND_ADDR", "192.0.2.1");
    start.refuses(1, &["192.0.2.1", "BIND_ADDR"]).await?;
    drop(taken);
    Ok(())
}
