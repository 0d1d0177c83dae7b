//! Accounts: made, taken over, given out; who may read them.

use std::os::unix::fs::PermissionsExt;

use alloy_primitives::Address;
use axolotl_node::cli::accounts::Account;

use crate::tool::{Home, axolotl, ended};

const DEV_KEY: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
const DEV_ADDRESS: &str = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";

fn mode(path: &std::path::Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn an_account_is_made_listed_and_exported() {
    let home = Home::new();
    home.write("pass", "correct horse\n");
    let made = home.json("wallet create alice --password-file pass").await;
    let file = home.path(".axolotl/wallet/alice.json");
    assert_eq!(made["path"], file.to_str().unwrap());
    assert_eq!(mode(&file), 0o600);
    assert_eq!(mode(file.parent().unwrap()), 0o700);
    let listed = home.json("wallet list").await;
    assert_eq!(listed["accounts"][0]["address"], made["address"]);
    assert_eq!(listed["accounts"][0]["name"], "alice");

    // Without the explicit flag the secret stays encrypted.
    let exported = home
        .succeed("wallet export alice --password-file pass")
        .await;
    assert_eq!(exported.stdout, std::fs::read_to_string(&file).unwrap());
    let secret = home
        .succeed("wallet export alice --password-file pass --private-key")
        .await;
    let secret: [u8; 32] = hex::decode(secret.stdout.trim().trim_start_matches("0x"))
        .unwrap()
        .try_into()
        .unwrap();
    let address = Account::from_secret(&secret).unwrap().address();
    assert_eq!(made["address"], address.to_string());
    assert!(!exported.stdout.contains(&hex::encode(secret)));

    let copied = home
        .json("wallet export alice --password-file pass --out copy.json")
        .await;
    assert_eq!(copied["name"], "alice");
    assert_eq!(mode(&home.path("copy.json")), 0o600);
    let again = "wallet export alice --password-file pass --out copy.json";
    home.fail(again, 1, &["cannot write copy.json"]).await;
}

#[tokio::test]
async fn a_wrong_password_gives_nothing() {
    let home = Home::new();
    home.write("pass", "right");
    home.write("wrong", "wrong");
    home.succeed("wallet create alice --password-file pass")
        .await;
    for words in [
        "wallet export alice --password-file wrong",
        "wallet export alice --password-file wrong --private-key",
        "wallet export alice --password-file wrong --json",
    ] {
        let ended = home.fail(words, 1, &["wrong password", "alice"]).await;
        assert_eq!(ended.stdout, "", "{words}");
    }
}

#[tokio::test]
async fn a_password_comes_from_a_descriptor() {
    let home = Home::new();
    let words = "wallet create alice --password-fd 0 --json";
    let made = home.run_with(words, "from stdin\nmore").await;
    assert_eq!(made.code, 0, "{made:#?}");
    home.write("pass", "from stdin\n");
    let mut shell = home.command("/bin/sh");
    let line = format!(
        "exec {} wallet export alice --password-fd 7 7<pass",
        axolotl().display()
    );
    shell.args(["-c", &line]);
    let exported = ended(shell, "").await;
    assert_eq!(exported.code, 0, "{exported:#?}");
    let closed = "wallet export alice --password-fd 63";
    home.fail(closed, 1, &["--password-fd 63"]).await;
}

#[tokio::test]
async fn without_a_terminal_the_other_ways_are_named() {
    let home = Home::new();
    // `setsid` takes the terminal away, if this test has one.
    let mut command = home.command("setsid");
    command
        .env("PATH", "/usr/bin:/bin")
        .arg("--wait")
        .arg(axolotl());
    command.args(["wallet", "create", "alice"]);
    let asked = ended(command, "x\n").await;
    assert_eq!(asked.code, 2, "{asked:#?}");
    assert!(asked.stderr.contains("--password-file"), "{asked:#?}");
    assert!(!home.path(".axolotl/wallet/alice.json").exists());
}

#[tokio::test]
async fn keys_mnemonics_and_keystores_are_taken_over() {
    let home = Home::new();
    home.write("pass", "pw");
    home.write("other", "other");
    home.write("key", &format!("0x{DEV_KEY}\n"));
    home.write(
        "words",
        "test test test test test test test test test test test junk",
    );
    let key = home
        .json("wallet import a --key-file key --password-file pass")
        .await;
    assert_eq!(key["address"], DEV_ADDRESS);
    let twice = "wallet import b --key-file key --password-file pass";
    home.fail(twice, 1, &["already, as a"]).await;
    let words = "wallet import b --mnemonic-file words --index 1 --password-file pass";
    assert_eq!(
        home.json(words).await["address"],
        Account::dev(1).address().to_string()
    );

    // Into another wallet, by its keystore, under another password.
    let from = "wallet import c --keystore .axolotl/wallet/a.json --wallet second";
    home.fail(
        &format!("{from} --password-file other"),
        1,
        &["wrong password"],
    )
    .await;
    let words = format!("{from} --keystore-password-file pass --password-file other");
    assert_eq!(home.json(&words).await["address"], DEV_ADDRESS);
    let key = "wallet export c --wallet second --password-file other --private-key";
    assert_eq!(
        home.succeed(key).await.stdout.trim(),
        format!("0x{DEV_KEY}")
    );

    // From standard input, by a variable's wallet.
    let mut third = home;
    third.set("AXOLOTL_WALLET", third.path("third").to_str().unwrap());
    let words = "wallet import d --key-file - --password-file pass --json";
    let read = third.run_with(words, DEV_KEY).await;
    assert_eq!(read.code, 0, "{read:#?}");
    assert!(third.path("third/d.json").exists());
    let both = "wallet import e --key-file - --password-fd 0";
    third.fail(both, 2, &["not both"]).await;
}

#[tokio::test]
async fn wrong_input_is_refused_with_the_reason_and_no_secret() {
    let home = Home::new();
    home.write("pass", "pw");
    home.write("empty", "\n");
    home.write("short", &DEV_KEY[..60]);
    home.write("key", DEV_KEY);
    let wrong = "wallet import a --key-file short --password-file pass";
    let ended = home.fail(wrong, 1, &["64 hexadecimal digits"]).await;
    assert!(!ended.stderr.contains(&DEV_KEY[..16]), "{ended:#?}");
    home.fail("wallet create a --password-file empty", 1, &["empty"])
        .await;
    home.fail("wallet create 0xa --password-file pass", 2, &["no name"])
        .await;
    home.fail("wallet create ../a --password-file pass", 2, &["no name"])
        .await;
    home.fail("wallet create a --password-file gone", 1, &["gone"])
        .await;
    home.fail("wallet import a --password-file pass", 2, &["--key-file"])
        .await;
    home.fail("wallet export nobody", 1, &["wallet create NAME"])
        .await;
    home.fail(
        "wallet import a --key-file key --mnemonic-file key",
        2,
        &["cannot be used"],
    )
    .await;
    home.write("not.json", "{}");
    let words = "wallet import a --keystore not.json --password-file pass";
    home.fail(words, 1, &["no keystore of version 3"]).await;
    assert!(!home.path(".axolotl").exists(), "something was written");
}

#[tokio::test]
async fn a_wallet_that_others_may_read_is_warned_about() {
    let home = Home::new();
    home.write("pass", "pw");
    home.succeed("wallet create alice --password-file pass")
        .await;
    let file = home.path(".axolotl/wallet/alice.json");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let ended = home
        .succeed("wallet export alice --password-file pass")
        .await;
    assert!(ended.stderr.contains("chmod 600"), "{ended:#?}");
}

#[tokio::test]
async fn what_is_no_keystore_is_named_and_the_rest_listed() {
    let home = Home::new();
    home.write("pass", "pw");
    let made = home.json("wallet create alice --password-file pass").await;
    home.write(".axolotl/wallet/broken.json", "{");
    let listed = home.succeed("wallet list").await;
    let address: Address = made["address"].as_str().unwrap().parse().unwrap();
    assert!(listed.stdout.contains(&address.to_string()), "{listed:#?}");
    assert!(listed.stderr.contains("broken.json"), "{listed:#?}");
    home.fail("wallet export broken", 1, &["cannot be used"])
        .await;
}
