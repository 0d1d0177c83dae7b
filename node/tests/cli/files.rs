//! Commands on files: keys of nodes, genesis documents.

use axolotl_common::genesis::GenesisDocument;
use axolotl_node::storage::DataDir;

use crate::{fake::key, tool::Home};

fn validators(count: u8) -> String {
    let line = |number: u8| {
        let volume = hex::encode([number; 16]);
        format!("--validator node{number},{},{volume} ", key(number))
    };
    (1..=count).map(line).collect()
}

#[tokio::test]
async fn a_key_is_made_once_and_its_public_half_shown() {
    let home = Home::new();
    home.fail("keys show --data-dir node", 1, &["keys init"])
        .await;
    let made = home.json("keys init --data-dir node --node-id node1").await;
    home.fail("keys init --data-dir node", 1, &["keys show"])
        .await;
    let mut shown = home.json("keys show --data-dir node").await;
    assert_eq!(shown["node_id"], serde_json::Value::Null);
    shown["node_id"] = made["node_id"].clone();
    assert_eq!(shown, made);

    // The node that starts on the directory is the one that was shown.
    let data = DataDir::open(&home.path("node")).unwrap();
    assert_eq!(made["public_key"], data.key().public().to_string());
    assert_eq!(made["peer_id"], data.key().public().peer_id());
    assert_eq!(made["volume_id"], data.volume_id().to_string());
    assert!(data.log_matches_volume());
    let seed = hex::encode(*data.key().seed());
    // Also while a node runs on it.
    let text = home.succeed("keys show --data-dir node").await;
    assert!(!text.stdout.contains(&seed) && !text.stderr.contains(&seed));
    let line = text
        .stdout
        .lines()
        .find(|line| line.contains("--validator"))
        .unwrap();
    assert!(line.contains("NODE_ID,0x"), "{line}");
}

#[tokio::test]
async fn a_genesis_made_here_is_one_that_a_node_reads() {
    let home = Home::new();
    let funded = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";
    home.write("alloc.json", r#"{"alloc": {"1000000000000000000000000000000000000001": {"balance": "0x5", "code": "0x6001"}}}"#);
    let made = home
        .succeed(&format!(
            "genesis make {}--chain-id 4242 --fund {funded}=2.5ether --alloc alloc.json \
             --authority-key {} --timestamp 1767225600 --quorum majority",
            validators(3),
            key(9)
        ))
        .await;
    assert_eq!(made.stderr, "", "{made:#?}");
    let document = GenesisDocument::parse(made.stdout.as_bytes()).unwrap();
    let labels: Vec<&str> = document
        .axolotl()
        .validators
        .iter()
        .map(|member| member.node_id.as_str())
        .collect();
    assert_eq!(labels, ["node1", "node2", "node3"]);
    assert_eq!(document.axolotl().authority_key, Some(key(9)));
    let (spec, _) = axolotl_ledger::ChainSpec::from_document(document).unwrap();
    assert_eq!(spec.chain.id.0, 4242);

    home.write("genesis.json", &made.stdout);
    let checked = home.json("genesis check genesis.json").await;
    assert_eq!(checked["genesis_hash"], spec.chain.genesis.to_string());
    let shown = home.json("genesis show genesis.json").await;
    assert_eq!(
        (&shown["quorum"], &shown["funded_accounts"]),
        (&2.into(), &2.into())
    );
    assert_eq!(shown["funded_wei"], "2500000000000000005");
    let text = home.succeed("genesis show genesis.json").await.stdout;
    assert!(text.contains("2 of 3 (none may lie)"), "{text}");

    let data = DataDir::open(&home.path("node")).unwrap();
    let raw = std::fs::read(home.path("genesis.json")).unwrap();
    assert_eq!(data.set_genesis(&raw).unwrap().hash(), spec.chain.genesis);
}

#[tokio::test]
async fn a_development_genesis_says_so() {
    let home = Home::new();
    let words = format!("genesis make --dev {}--out g.json", validators(4));
    let made = home.succeed(&words).await;
    assert!(made.stderr.contains("everybody has the keys"), "{made:#?}");
    assert!(made.stderr.contains("fixed for ever"), "{made:#?}");
    assert_eq!(home.json("genesis show g.json").await["chain_id"], 7777);
    home.fail(&words, 1, &["must not be there yet"]).await;
}

#[tokio::test]
async fn what_is_no_genesis_is_refused_with_every_fault() {
    let home = Home::new();
    for (words, part) in [
        ("--chain-id 1", "--validator"),
        ("--chain-id 1 --validator node1", "LABEL,KEY,VOLUME"),
        ("--chain-id 1 --validator node1,12,34", "public key"),
        ("VALIDATORS", "--chain-id"),
        ("VALIDATORS --chain-id 0", "chainId"),
        ("VALIDATORS --chain-id 1 --gas-limit 1", "gasLimit"),
        ("VALIDATORS --chain-id 1 --fund 0x12=1", "no address"),
        ("VALIDATORS --chain-id 1 --fund 1ether", "ADDRESS=AMOUNT"),
        ("VALIDATORS VALIDATORS --chain-id 1", "shares its id"),
    ] {
        let words = format!("genesis make {words}").replace("VALIDATORS", &validators(1));
        home.fail(&words, 2, &[part]).await;
    }
    let twice = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8=1";
    let words = format!("genesis make --dev {}--fund {twice}", validators(1));
    home.fail(&words, 2, &["twice"]).await;

    let good = home
        .succeed(&format!("genesis make --dev {}", validators(1)))
        .await
        .stdout;
    home.write("text.json", "hello");
    home.fail("genesis check text.json", 1, &["not JSON"]).await;
    home.fail("genesis check gone.json", 1, &["gone.json is not there"])
        .await;
    home.write(
        "wrong.json",
        &good.replace(
            "\"gasLimit\": \"0x2255100\"",
            "\"gasLimit\": 1, \"coinbase\": \"x\"",
        ),
    );
    home.fail("genesis check wrong.json", 1, &["gasLimit", "coinbase"])
        .await;
}

#[tokio::test]
async fn limits_that_do_not_fit_together_are_refused_or_warned_of() {
    let home = Home::new();
    let make = |gas: u64| {
        let machines = validators(1);
        format!(
            "genesis make --dev --authority-key {} {machines}--gas-limit {gas}",
            key(9)
        )
    };
    let good = home.succeed(&make(36_000_000)).await;
    assert!(!good.stderr.contains("gasLimit"), "{good:#?}");
    home.write("good.json", &good.stdout);
    let checked = home.json("genesis check good.json").await;
    assert_eq!(checked["warnings"], serde_json::json!([]));
    assert_eq!(checked["executable_gas"], 36_000_000);
    assert_eq!(checked["osaka_time"], 0);
    assert!(checked["largest_record"].as_u64() < checked["max_record"].as_u64());

    let slow = home.succeed(&make(300_000_000)).await;
    let warning = "lower gasLimit to 36000000 or raise axolotl.timing.maxTimeoutMs to 20600";
    assert!(slow.stderr.contains(warning), "{slow:#?}");
    home.write("slow.json", &slow.stdout);
    let text = home.succeed("genesis check slow.json").await;
    assert!(text.stderr.contains(warning), "{text:#?}");
    assert!(
        text.stdout.contains("30 Mgas/s x (3000 - 600) ms / 2"),
        "{text:#?}"
    );
    let checked = home.json("genesis check slow.json").await;
    assert!(
        checked["warnings"][0]
            .as_str()
            .is_some_and(|text| text.contains(warning))
    );

    // As an earlier release wrote it, and with a gas limit that would end every node.
    let mut document: serde_json::Value = serde_json::from_str(&good.stdout).unwrap();
    document["config"] = serde_json::json!({ "chainId": 7777 });
    document["axolotl"]
        .as_object_mut()
        .unwrap()
        .remove("maxLogBytes");
    document["gasLimit"] = 530_000_000.into();
    home.write("deadly.json", &document.to_string());
    let sum = "logs 66250000 (530000000 gas / 8) + receipts and senders 96 + prefix 21 = 70444494 bytes > 67108864";
    let words = [sum, "lower gasLimit to 503314967 or less"];
    home.fail("genesis check deadly.json", 1, &words).await;
    document["gasLimit"] = 503_314_967.into();
    home.write("old.json", &document.to_string());
    let text = home.succeed("genesis check old.json").await.stdout;
    assert!(text.contains("Prague, for ever"), "{text}");

    document["config"]["amsterdamTime"] = 5.into();
    home.write("later.json", &document.to_string());
    home.fail("genesis check later.json", 1, &["config.amsterdamTime"])
        .await;
}
