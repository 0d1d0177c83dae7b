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
        .args(&["--rpcport", "8545", "--mempool-max-per-sender", "0"]);
    let words = [
        "PORT=70000",
        "ROLE=king",
        "BIND_ADDR=here",
        "HEARTBEAT_INTERVAL=5: expected a time with its unit",
        "GENESIS_FILE=none.json: No such file",
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
