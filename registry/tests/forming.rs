//! One genesis, whenever the registry is killed while it forms.
#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

mod support;

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use axolotl_common::{genesis::GenesisDocument, registry_api::RegisterResponse};
use support::{Calls, key, request, wait_for};

const ROUNDS: u64 = 6;

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_killed_while_it_forms_forms_one_genesis() {
    let mut formed = Vec::new();
    for round in 0..ROUNDS {
        formed.push(one_round(round).await);
    }
    println!("kills survived while forming: {formed:?}");
}

async fn one_round(round: u64) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let port = {
        let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        free.local_addr().unwrap().port()
    };
    let api = Calls::new(SocketAddr::from(([127, 0, 0, 1], port)), dir.path());
    let nodes: Vec<_> = (1..=4)
        .map(|i| {
            let api = api.clone();
            tokio::spawn(async move { seen_by(&api, i, round).await })
        })
        .collect();
    let mut kills = 0;
    let spawn = || {
        tokio::process::Command::new(env!("CARGO_BIN_EXE_axolotl-registry"))
            .args(["serve", "--port", &port.to_string(), "--data-dir"])
            .arg(&data)
            .stderr(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    };
    while nodes.iter().any(|node| !node.is_finished()) && kills < 12 {
        let mut registry = spawn();
        // The kill comes at another moment each time.
        tokio::time::sleep(Duration::from_millis(15 + (round * 31 + kills * 23) % 90)).await;
        registry.start_kill().unwrap();
        registry.wait().await.unwrap();
        kills += 1;
    }
    let mut registry = spawn();
    let mut hashes = BTreeSet::new();
    for node in nodes {
        hashes.extend(node.await.unwrap());
    }
    let last = wait_for("the genesis", || async {
        let answer = api.send(api.http.get(format!("{}/genesis", api.url))).await;
        let answer = answer.map_err(|e| e.to_string())?;
        GenesisDocument::parse(&answer.body).map_err(|e| e.to_string())
    })
    .await;
    hashes.insert(last.hash());
    assert_eq!(hashes.len(), 1, "round {round}: {hashes:?}");
    let names: Vec<_> = last
        .axolotl()
        .validators
        .iter()
        .map(|m| m.node_id.number())
        .collect();
    assert_eq!(names, [Some(1), Some(2), Some(3), Some(4)], "round {round}");
    registry.start_kill().unwrap();
    registry.wait().await.unwrap();
    kills as usize
}

/// Every genesis that one node is shown: it registers until it has seen one, and once more.
async fn seen_by(api: &Calls, i: u8, round: u64) -> BTreeSet<axolotl_common::Hash> {
    let mut seen = BTreeSet::new();
    for _ in 0..2 {
        let shown = wait_for("a genesis shown to a node", || async {
            // Nodes ask at moments of their own.
            tokio::time::sleep(Duration::from_millis((u64::from(i) * 7 + round) % 20)).await;
            let answer = api.try_register(&key(i), &request(i)).await;
            let answer = answer.map_err(|e| e.to_string())?;
            if answer.status != 200 {
                return Err(format!("{answer:?}"));
            }
            let answer: RegisterResponse = answer.json();
            answer.genesis.ok_or(answer.message)
        })
        .await;
        seen.insert(GenesisDocument::from_value(shown).unwrap().hash());
    }
    seen
}
