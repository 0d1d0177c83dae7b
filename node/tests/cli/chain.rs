//! Commands that ask a chain.

use std::process::Stdio;

use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, U256};
use axolotl_node::cli::accounts::Account;

use crate::{
    fake::{CHAIN_ID, Fake, Faults, key},
    tool::{Home, axolotl},
};

fn ether(n: u64) -> U256 {
    U256::from(n) * U256::from(10).pow(U256::from(18))
}

fn address(value: &serde_json::Value) -> Address {
    value.as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn ether_goes_from_a_development_account_to_a_name_and_on() {
    let fake = Fake::start(Faults::default()).await;
    let home = Home::of(&fake);
    home.write("pass", "pw");
    let alice = address(&home.json("wallet create alice --password-file pass").await["address"]);
    let sent = home.json("send --dev 0 alice 5ether").await;
    assert_eq!(sent["status"], "final");
    assert_eq!(sent["to"], alice.to_string());
    assert_eq!(sent["receipt"]["status"], "0x1");
    assert_eq!(fake.balance(alice), ether(5));

    let to = Account::dev(9).address();
    let on = home
        .json(&format!("send alice {to} 1.5ether --password-file pass"))
        .await;
    assert_eq!(
        (&on["status"], &on["nonce"], &on["wei"]),
        (&"final".into(), &0.into(), &"1500000000000000000".into())
    );
    let shown = home.json("balance alice").await;
    assert_eq!(shown["accounts"][0]["nonce"], 1);
    let wei: U256 = shown["accounts"][0]["wei"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(wei, fake.balance(alice));
    let text = home.succeed("balance").await.stdout;
    assert!(text.contains("alice") && text.contains("3.4999"), "{text}");
    let hash = on["hash"].as_str().unwrap();
    let text = home.succeed(&format!("tx {hash}")).await.stdout;
    assert!(
        text.contains("1.5 ether") && text.contains("final, succeeded"),
        "{text}"
    );
    let block = home.json("block latest").await;
    assert_eq!(block["transactions"][0], hash);
    let of_hash = home
        .json(&format!("block {}", block["hash"].as_str().unwrap()))
        .await;
    assert_eq!(of_hash, block);
    let unit = home.json(&format!("send --dev 1 {to} 7")).await;
    assert_eq!(unit["wei"], "7", "without a unit it is wei");
}

#[tokio::test]
async fn options_of_send_reach_the_transaction() {
    let fake = Fake::start(Faults::default()).await;
    let home = Home::of(&fake);
    let to = Account::dev(1).address();
    let words = format!("send --dev 0 {to} 0 --data 0xd09de08a --gas 90000 --nonce 4 --no-wait");
    let sent = home.json(&words).await;
    assert_eq!(
        (&sent["status"], &sent["receipt"]),
        (&"accepted".into(), &serde_json::Value::Null)
    );
    let taken = fake.taken();
    let [transaction] = taken.as_slice() else {
        panic!("{taken:?}");
    };
    assert_eq!(transaction.input().to_string(), "0xd09de08a");
    assert_eq!((transaction.gas_limit(), transaction.nonce()), (90_000, 4));
    assert_eq!(transaction.chain_id(), Some(CHAIN_ID));
    assert!(transaction.is_eip1559());
    let shown = home
        .succeed(&format!("tx {}", sent["hash"].as_str().unwrap()))
        .await;
    assert!(shown.stdout.contains("in the pool"), "{shown:#?}");
}

#[tokio::test]
async fn what_cannot_be_sent_says_what_to_do() {
    let fake = Fake::start(Faults::default()).await;
    let home = Home::of(&fake);
    home.write("pass", "pw");
    home.write("wrong", "no");
    home.succeed("wallet create alice --password-file pass")
        .await;
    let to = Account::dev(1).address();
    let send = |words: &str| format!("send {words}").replace("TO", &to.to_string());

    // Without a password: it is not asked for before the money is there.
    let poor = home
        .fail(
            &send("alice TO 1ether"),
            1,
            &["insufficient funds", "0 ether"],
        )
        .await;
    assert!(poor.stderr.contains("fund the account"), "{poor:#?}");
    home.succeed("send --dev 0 alice 1ether").await;
    home.fail(&send("alice TO 1ether"), 1, &["a fee of up to"])
        .await;
    let wrong = send("alice TO 0.5ether --password-file wrong");
    home.fail(&wrong, 1, &["wrong password"]).await;
    home.fail(&send("bob TO 1ether"), 1, &["no key of bob", "alice"])
        .await;
    home.fail("send --dev 0 bob 1ether", 1, &["bob"]).await;

    for (words, part) in [
        ("--dev 0 TO 1.5", "did you mean ether"),
        ("--dev 0 TO one", "no amount"),
        ("--dev 0 TO 1 2", "no FROM"),
        ("TO 1ether", "FROM TO AMOUNT"),
        ("--dev 10 TO 1", "10"),
        ("--dev 0 0x12 1", "no address"),
        ("--dev 0 TO 1 --data xyz", "--data"),
        ("--dev 0 TO 1 --rpc https://127.0.0.1", "no TLS"),
        ("--dev 0", "AMOUNT"),
    ] {
        home.fail(&send(words), 2, &[part]).await;
    }
    let low = send("--dev 0 TO 1 --nonce 0");
    home.fail(&low, 1, &["nonce too low", "leave out --nonce"])
        .await;
    fake.set(|faults| faults.refuses = Some("replacement transaction underpriced"));
    home.fail(
        &send("--dev 0 TO 1"),
        1,
        &["underpriced", "leave out --nonce"],
    )
    .await;
    fake.set(|faults| {
        *faults = Faults {
            reverts: true,
            ..Faults::default()
        }
    });
    home.fail(&send("--dev 0 TO 1"), 1, &["execution reverted", "--gas"])
        .await;
    let silent = send("--dev 0 TO 1 --rpc http://127.0.0.1:1");
    home.fail(&silent, 1, &["127.0.0.1:1", "--rpc", "AXOLOTL_RPC"])
        .await;
}

#[tokio::test]
async fn a_receipt_that_fails_or_does_not_come_is_exit_code_1() {
    let fake = Fake::start(Faults {
        reverts: true,
        ..Faults::default()
    })
    .await;
    let home = Home::of(&fake);
    let to = Account::dev(1).address();
    let failed = home.run(&format!("send --dev 0 {to} 1 --gas 30000")).await;
    assert_eq!(failed.code, 1, "{failed:#?}");
    assert!(failed.stdout.contains("FAILED"), "{failed:#?}");
    fake.set(|faults| {
        *faults = Faults {
            no_blocks: true,
            ..Faults::default()
        }
    });
    let words = format!("send --dev 1 {to} 1 --timeout 300ms");
    let said = [
        "no receipt after 300ms",
        "accepted, not acknowledged",
        "axolotl tx 0x",
        "--nonce 0",
    ];
    let late = home.fail(&words, 1, &said).await;
    assert!(!format!("{late:?}").contains("not lost"), "{late:?}");
}

#[tokio::test]
async fn development_accounts_are_refused_where_nobody_funded_them() {
    let fake = Fake::start(Faults {
        nobody_funded: true,
        ..Faults::default()
    })
    .await;
    let home = Home::of(&fake);
    let to = Account::dev(1).address();
    let words = format!("send --dev 0 {to} 1");
    home.fail(
        &words,
        1,
        &["does not fund the development accounts", "7777"],
    )
    .await;
    assert!(fake.taken().is_empty());
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let fake = Fake::start(Faults::default()).await;
    let home = Home::of(&fake);
    home.fail("block 99", 1, &["no block 99 yet", "height 2"])
        .await;
    home.fail("block newest", 2, &["`latest`"]).await;
    let nothing = format!("0x{}", "00".repeat(32));
    home.fail(&format!("block {nothing}"), 1, &["knows no block"])
        .await;
    home.fail(&format!("tx {nothing}"), 1, &["knows no transaction"])
        .await;
    home.fail("tx 0x12", 2, &["64 hexadecimal digits"]).await;
    home.fail("balance nobody", 1, &["wallet create"]).await;
    home.fail(
        "balance 0xF39Fd6e51aad88F6F4ce6aB8827279cffFb92266",
        2,
        &["check sum"],
    )
    .await;
    // What answers is no node.
    let registry = format!("block --rpc http://{}", fake.registry);
    home.fail(&registry, 1, &["does not answer"]).await;
}

#[tokio::test]
async fn nodes_come_from_the_registry_or_from_a_node() {
    let fake = Fake::start(Faults::default()).await;
    let home = Home::of(&fake);
    let listed = home.json("nodes").await;
    assert_eq!(
        (&listed["source"], listed["nodes"].as_array().unwrap().len()),
        (&"registry".into(), 4)
    );
    assert_eq!(listed["nodes"][1]["rpc_url"], "http://127.0.0.1:8546");

    let away = "nodes --registry http://127.0.0.1:1";
    let seen = home.json(away).await;
    assert_eq!(seen["source"], "node");
    let states: Vec<&str> = seen["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| node["state"].as_str().unwrap())
        .collect();
    assert_eq!(states, ["itself", "reachable", "reachable", "reachable"]);
    assert_eq!(seen["nodes"][0]["peer_id"], key(1).peer_id());
    fake.set(|faults| faults.alone = true);
    let text = home.succeed(away).await;
    assert_eq!(text.stdout.matches("unreachable").count(), 3, "{text:#?}");
    assert!(text.stderr.contains("No registry answers"), "{text:#?}");
    let nobody = format!("{away} --rpc http://127.0.0.1:1");
    home.fail(&nobody, 1, &["no registry answers", "Nor can a node"])
        .await;
}

#[tokio::test]
async fn the_registry_has_two_names_and_the_tools_own_comes_first() {
    let fake = Fake::start(Faults::default()).await;
    let mut home = Home::new();
    home.set("REGISTRY_URL", format!("http://{}", fake.registry));
    assert_eq!(home.json("status").await["healthy_nodes"], 4);
    home.set("AXOLOTL_REGISTRY", "http://127.0.0.1:1");
    home.fail("status", 1, &["no registry answers at http://127.0.0.1:1"])
        .await;
    let named = format!("status --registry http://{}", fake.registry);
    assert!(home.succeed(&named).await.stdout.starts_with("Chain 7777"));
}

#[tokio::test]
async fn a_closed_output_ends_quietly_and_a_full_one_does_not() {
    let fake = Fake::start(Faults::default()).await;
    let home = Home::of(&fake);
    for words in [
        "block",
        "status",
        "nodes",
        "completions bash",
        "doctor",
        "wallet list --json",
    ] {
        let mut command = home.command(axolotl());
        command
            .args(words.split(' '))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().await.unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words}: {stderr}");
        assert_eq!(stderr, "", "{words}");
    }
    let full = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let mut command = home.command(axolotl());
    command.arg("block").stdout(full).stderr(Stdio::piped());
    let output = command.spawn().unwrap().wait_with_output().await.unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("standard output"), "{stderr}");
}

#[tokio::test]
async fn nothing_is_coloured_into_a_pipe() {
    let fake = Fake::start(Faults::default()).await;
    let home = Home::of(&fake);
    for words in ["status", "nodes", "doctor", "--help", "send --help"] {
        let ended = home.run(words).await;
        assert!(!ended.stdout.contains('\x1b'), "{words}: {ended:#?}");
        assert!(!ended.stderr.contains('\x1b'), "{words}: {ended:#?}");
    }
}

#[tokio::test]
async fn health_answers_by_its_exit_code() {
    let fake = Fake::start(Faults::default()).await;
    let home = Home::of(&fake);
    assert_eq!(home.succeed("health").await.stdout, "ok\n");
    assert_eq!(home.json("health").await["well"], true);
    fake.set(|faults| faults.strange_http = true);
    home.fail("health", 1, &["404"]).await;
    home.fail("health --http-port 1", 1, &["HTTP_PORT"]).await;
}

#[tokio::test]
async fn each_shell_has_its_completions() {
    let home = Home::new();
    for (shell, part) in [
        ("bash", "complete -F _axolotl"),
        ("zsh", "#compdef axolotl"),
        ("fish", "complete -c axolotl"),
    ] {
        let script = home.succeed(&format!("completions {shell}")).await.stdout;
        assert!(
            script.contains(part) && script.contains("doctor"),
            "{shell}"
        );
    }
    home.fail("completions cobol", 2, &["cobol"]).await;
}
