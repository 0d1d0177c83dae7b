use axolotl_common::{Hash, KeyPair, PublicKey, registry_api::NodeSelfStatus};
use serde_json::{Value, json};

use super::*;
use crate::cli::{doctor::observe::Members, registry};

fn key(seed: u8) -> PublicKey {
    KeyPair::from_seed(&[seed; 32]).public()
}

fn own() -> NodeSelfStatus {
    serde_json::from_value(json!({
        "node_id": "node1", "public_key": key(1), "peer_id": key(1).peer_id(),
        "volume_id": "0x".to_owned() + &"01".repeat(16), "incarnation": 1,
        "version": env!("CARGO_PKG_VERSION"), "chain_id": 7777,
        "genesis_hash": Hash([7; 32]), "height": 12, "head": null, "epoch": 0, "round": 0,
        "leader": null, "is_validator": true, "voting": true, "syncing": false, "peers": 3,
        "reachable": [key(2), key(3), key(4)], "tx_pool_size": 0, "last_commit_age_ms": 5,
    }))
    .unwrap()
}

fn status() -> Value {
    let node = |number: u8| {
        json!({"id": format!("node{number}"), "address": "127.0.0.1", "port": 50051,
            "is_leader": number == 1, "is_healthy": true, "last_seen": "2026-01-01T00:00:00Z",
            "height": 12, "tx_pool_size": 0, "peer_id": key(number).peer_id(), "addresses": [],
            "http_url": "http://127.0.0.1:8080", "rpc_url": "http://127.0.0.1:8545",
            "public_rpc_url": null, "role": "validator", "state": "healthy", "voting": true, "peers": 3,
            "incarnation": 1, "version": env!("CARGO_PKG_VERSION"), "managed": true,
            "runtime": null})
    };
    json!({"total_nodes": 4, "healthy_nodes": 4, "min_nodes": 2, "max_nodes": 10,
        "target_nodes": 4, "consensus_possible": true, "scale_threshold": 2, "quorum": 3,
        "epoch": 0, "height": 12, "leader": "node1", "recovery": null, "registration": "token",
        "genesis_hash": Hash([7; 32]), "chain_id": 7777, "forming": null, "warnings": [],
        "plan": [], "decisions": [],
        "nodes": {"node1": node(1), "node2": node(2), "node3": node(3), "node4": node(4)}})
}

fn facts() -> Facts {
    Facts {
        registry: Some(RegistryFacts {
            url: "http://registry:9090".to_owned(),
            status: Ok(Box::new(registry::read_status(status()).unwrap())),
            ahead_ms: Some(0),
            resolved: Ok(vec![[10, 0, 0, 2].into()]),
            is_name: true,
            unresolved_nodes: Vec::new(),
        }),
        ports: PortFacts {
            http: (8080, Listener::Node),
            rpc: (8545, Listener::Node),
            p2p: (50051, Listener::Node),
        },
        node: Ok((
            own(),
            Members {
                quorum: 3,
                keys: (1..=4).map(key).collect(),
            },
        )),
        disk: DiskFacts {
            path: "/data".into(),
            is_data_dir: true,
            free_bytes: Ok(50 << 30),
            writable: true,
        },
        stored_genesis: Some(Ok(Hash([7; 32]))),
    }
}

/// Judges a system in which one thing is changed; tells the finding of `check`, and that no other
/// is worse than a warning about it.
fn after(check: &str, change: impl FnOnce(&mut Facts)) -> Finding {
    let mut facts = facts();
    change(&mut facts);
    let findings = judge(&facts);
    for other in findings.iter().filter(|finding| finding.check != check) {
        assert_ne!(other.verdict, Verdict::Fail, "beside {check}: {other:?}");
    }
    let mut of_check = findings
        .into_iter()
        .filter(|finding| finding.check == check);
    of_check.next().unwrap()
}

#[track_caller]
fn expect(finding: &Finding, verdict: Verdict, words: &str) {
    assert_eq!(finding.verdict, verdict, "{finding:?}");
    let text = format!(
        "{}. {}",
        finding.found,
        finding.advice.as_deref().unwrap_or_default()
    );
    assert!(text.contains(words), "no {words:?} in {text:?}");
    let advised = finding.advice.is_some();
    assert_eq!(
        advised,
        verdict != Verdict::Ok,
        "advice exactly where something is wrong"
    );
}

fn registry(facts: &mut Facts) -> &mut RegistryFacts {
    facts.registry.as_mut().unwrap()
}

fn set_status(facts: &mut Facts, pointer: &str, value: Value) {
    let mut status = status();
    *status.pointer_mut(pointer).unwrap() = value;
    registry(facts).status = Ok(Box::new(registry::read_status(status).unwrap()));
}

fn node(facts: &mut Facts) -> &mut NodeSelfStatus {
    &mut facts.node.as_mut().unwrap().0
}

#[test]
fn a_healthy_system_is_ok_in_each_line() {
    let findings = judge(&facts());
    let checks: Vec<&str> = findings.iter().map(|finding| finding.check).collect();
    let all = [
        "registry", "dns", "ports", "disk", "clock", "peers", "vote", "genesis", "version",
    ];
    assert_eq!(checks, all);
    for finding in &findings {
        expect(finding, Verdict::Ok, "");
    }
}

#[test]
fn the_registry() {
    use Verdict::{Fail, Warn};
    let finding = after("registry", |facts| {
        registry(facts).status = Err("no registry answers at X\nsecond line".into());
        registry(facts).ahead_ms = None;
    });
    expect(&finding, Fail, "--without-registry");
    assert!(!finding.found.contains("second line"));
    let finding = after("registry", |facts| {
        set_status(facts, "/consensus_possible", json!(false));
    });
    expect(&finding, Fail, "too few");
    let forming = json!("waiting for 2 more nodes");
    let finding = after("registry", |facts| set_status(facts, "/forming", forming));
    expect(&finding, Warn, "waiting for 2 more nodes");
    let warnings = json!(["Docker does not answer"]);
    let finding = after("registry", |facts| set_status(facts, "/warnings", warnings));
    expect(&finding, Warn, "Docker does not answer");
}

#[test]
fn dns() {
    let finding = after("dns", |facts| {
        registry(facts).resolved = Err("no such name".into());
    });
    expect(&finding, Verdict::Fail, "axolotl_blockchain");
    let finding = after("dns", |facts| {
        registry(facts).unresolved_nodes = vec!["node1".into(), "node2".into()];
    });
    expect(&finding, Verdict::Warn, "node1, node2");
    let finding = after("dns", |facts| registry(facts).is_name = false);
    expect(&finding, Verdict::Ok, "by its address");
}

#[test]
fn ports() {
    let finding = after("ports", |facts| {
        facts.ports.http.1 = Listener::Nobody;
        facts.ports.rpc.1 = Listener::Nobody;
        facts.ports.p2p.1 = Listener::Nobody;
        facts.node = Err("refused".into());
    });
    expect(&finding, Verdict::Fail, "Start the node");
    let finding = after("ports", |facts| {
        facts.ports.http.1 = Listener::Other("it answers 404 to /livez".into());
    });
    expect(&finding, Verdict::Fail, "set HTTP_PORT");
    let finding = after("ports", |facts| facts.ports.p2p.1 = Listener::Nobody);
    expect(&finding, Verdict::Warn, "50051 (libp2p)");
}

#[test]
fn disk() {
    for (free, verdict) in [
        (10 << 20, Verdict::Fail),
        (500 << 20, Verdict::Warn),
        (2 << 30, Verdict::Ok),
    ] {
        let finding = after("disk", |facts| facts.disk.free_bytes = Ok(free));
        expect(&finding, verdict, "free in /data");
    }
    let finding = after("disk", |facts| facts.disk.writable = false);
    expect(&finding, Verdict::Fail, "not writable");
    let finding = after("disk", |facts| {
        facts.disk.free_bytes = Err("No such file or directory".into());
        facts.disk.writable = false;
    });
    expect(&finding, Verdict::Warn, "DATA_DIR");
}

#[test]
fn clock() {
    for (ahead, verdict, words) in [
        (45_000, Verdict::Fail, "45.0 s ahead of"),
        (-3_600_000, Verdict::Fail, "3600.0 s behind"),
        (-5_000, Verdict::Warn, "5.0 s behind"),
        (1_999, Verdict::Ok, "level"),
    ] {
        let finding = after("clock", |facts| registry(facts).ahead_ms = Some(ahead));
        expect(&finding, verdict, words);
    }
    let finding = after("clock", |facts| registry(facts).ahead_ms = None);
    expect(&finding, Verdict::Warn, "told no time");
}

#[test]
fn peers() {
    let finding = after("peers", |facts| {
        node(facts).reachable.clear();
        node(facts).peers = 0;
    });
    expect(&finding, Verdict::Fail, "1 of 4 validators");
    let finding = after("peers", |facts| node(facts).reachable.truncate(2));
    expect(&finding, Verdict::Warn, "3 of 4 validators");
    let finding = after("peers", |facts| node(facts).syncing = true);
    expect(&finding, Verdict::Warn, "fetching blocks");
    // An observer counts for nothing itself.
    let finding = after("peers", |facts| {
        node(facts).public_key = key(9);
        node(facts).reachable.truncate(2);
    });
    expect(&finding, Verdict::Fail, "2 of 4 validators");
}

#[test]
fn vote() {
    let finding = after("vote", |facts| {
        node(facts).unfit = Some("the consensus log is missing".into());
        node(facts).is_validator = false;
        node(facts).voting = false;
    });
    expect(&finding, Verdict::Fail, "log is missing. Stop it, remove");
    let finding = after("vote", |facts| {
        facts.registry = None;
        node(facts).unfit = Some("the consensus log is damaged".into());
    });
    expect(&finding, Verdict::Fail, "Where a registry names validators");
    let finding = after("vote", |facts| {
        set_status(facts, "/nodes/node3/state", json!("unfit"));
    });
    expect(&finding, Verdict::Warn, "never voting again: node3");
    let finding = after("vote", |facts| {
        let symptom = json!({"code": "not_voting", "text": "no vote of it reached node1 for 9 s",
            "height": 7, "age_ms": 9_000, "reporters": ["node1"]});
        let mut node = status()["nodes"]["node3"].clone();
        node["symptom"] = symptom;
        set_status(facts, "/nodes/node3", node);
    });
    expect(
        &finding,
        Verdict::Warn,
        "node3 is not voting (no vote of it",
    );
    let finding = after("vote", |facts| node(facts).voting = false);
    expect(&finding, Verdict::Warn, "does not vote yet");
    let finding = after("vote", |facts| {
        node(facts).voting = false;
        node(facts).is_validator = false;
    });
    expect(&finding, Verdict::Ok, "no validator of epoch 0");
}

#[test]
fn genesis() {
    let finding = after("genesis", |facts| {
        node(facts).genesis_hash = Some(Hash([8; 32]));
        facts.stored_genesis = None;
    });
    expect(&finding, Verdict::Fail, "another chain");
    let finding = after("genesis", |facts| {
        facts.stored_genesis = Some(Ok(Hash([8; 32])));
    });
    expect(&finding, Verdict::Fail, "the data directory");
    let finding = after("genesis", |facts| {
        facts.stored_genesis = Some(Err("genesis.json: not JSON".into()));
    });
    expect(&finding, Verdict::Fail, "not JSON");
    let finding = after("genesis", |facts| {
        set_status(facts, "/genesis_hash", Value::Null);
        node(facts).genesis_hash = None;
        facts.stored_genesis = None;
    });
    expect(&finding, Verdict::Warn, "none yet");
}

#[test]
fn version() {
    let finding = after("version", |facts| node(facts).version = "0.0.1".into());
    expect(&finding, Verdict::Warn, "the node 0.0.1");
    let finding = after("version", |facts| {
        set_status(facts, "/nodes/node3/version", json!("9.9.9"));
    });
    expect(&finding, Verdict::Warn, "node3 9.9.9");
}

#[test]
fn a_node_that_does_not_answer_is_one_failure() {
    let mut facts = facts();
    facts.node = Err("refused".into());
    facts.ports.http.1 = Listener::Nobody;
    facts.ports.rpc.1 = Listener::Nobody;
    facts.stored_genesis = None;
    let findings = judge(&facts);
    let failed: Vec<&str> = findings
        .iter()
        .filter(|finding| finding.verdict == Verdict::Fail)
        .map(|finding| finding.check)
        .collect();
    assert_eq!(failed, ["ports"]);
}

#[test]
fn a_node_without_a_registry_is_judged_by_itself() {
    let mut facts = facts();
    facts.registry = None;
    for finding in judge(&facts) {
        expect(&finding, Verdict::Ok, "");
    }
}
