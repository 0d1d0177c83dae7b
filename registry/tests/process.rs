//! The process runtime with real processes: a small script plays the node.
#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use axolotl_common::{
    NodeId,
    registry_api::{NodeState, RuntimeInfo},
};
use rustix::process::{Pid, Signal, kill_process};
use support::{TestRegistry, wait_for};

/// Processes whose data directory lies in `dir`, by node. Ends them all on drop.
struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir }
    }

    /// Processes that lead their group: what the registry started, but not what those started.
    fn pids(&self) -> BTreeMap<String, Vec<u32>> {
        let mut found = BTreeMap::<String, Vec<u32>>::new();
        for (pid, node) in processes(self.dir.path()) {
            found.entry(node).or_default().push(pid);
        }
        found
    }

    fn pid(&self, node: &str) -> u32 {
        let pids = self.pids();
        match pids.get(node).map(Vec::as_slice) {
            Some([pid]) => *pid,
            other => panic!("{node} runs as {other:?}; all: {pids:?}"),
        }
    }

    fn data(&self, node: &str) -> PathBuf {
        self.dir.path().join("data/nodes").join(node).join("data")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for (pid, _) in processes(self.dir.path()) {
            signal(pid, Signal::KILL);
        }
    }
}

fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    // Gone already is as good.
    let _ = kill_process(pid, signal);
}

fn processes(dir: &Path) -> Vec<(u32, String)> {
    let wanted = format!("DATA_DIR={}/data/nodes/", dir.display());
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(environ) = fs::read(entry.path().join("environ")) else {
            continue;
        };
        let environ = String::from_utf8_lossy(&environ).into_owned();
        let ours = environ.split('\0').any(|line| line.starts_with(&wanted));
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .collect();
        let leads = fields[2] == pid.to_string() && fields[0] != "Z";
        let node = environ
            .split('\0')
            .find_map(|line| line.strip_prefix("NODE_ID="));
        if let Some(node) = node.filter(|_| ours && leads) {
            found.push((pid, node.to_owned()));
        }
    }
    found
}

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake-node.sh");

/// Flags of a cluster of two; `base` keeps clusters beside each other apart.
fn flags(base: u16) -> Vec<String> {
    let words = [
        "--runtime",
        "process",
        "--node-binary",
        SCRIPT,
        "--genesis-nodes",
        "2",
        "--scale-interval",
        "200ms",
        "--node-env",
        "EXTRA=1",
    ];
    let mut flags: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    for (i, name) in ["--p2p-port-base", "--http-port-base", "--rpc-port-base"]
        .iter()
        .enumerate()
    {
        flags.push((*name).to_owned());
        flags.push((base + 50 * i as u16).to_string());
    }
    flags
}

async fn start(machine: &Machine, base: u16) -> TestRegistry {
    let flags = flags(base);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    TestRegistry::start(machine.dir.path(), &flags).await
}

async fn both_run(machine: &Machine) {
    wait_for("two processes", || async {
        let pids = machine.pids();
        let ready = |node| machine.data(node).join("settings").exists();
        let two = pids.len() == 2 && pids.values().all(|pids| pids.len() == 1);
        if two && ready("node1") && ready("node2") {
            Ok(())
        } else {
            Err(pids)
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn crashed_nodes_come_back_stopped_ones_do_not() {
    let machine = Machine::new();
    let registry = start(&machine, 21_000).await;
    let api = registry.api();
    both_run(&machine).await;
    let settings = fs::read_to_string(machine.data("node2").join("settings")).unwrap();
    assert!(settings.starts_with("false 210"), "{settings}");
    let settings = fs::read_to_string(machine.data("node1").join("settings")).unwrap();
    assert!(settings.starts_with("true 210"), "{settings}");
    let status = api.status().await;
    let node = &status.nodes[&NodeId::numbered(1)];
    assert_eq!(
        (node.managed, node.state),
        (true, NodeState::Starting),
        "{node:?}"
    );
    let pid = machine.pid("node1");
    assert_eq!(node.runtime, Some(RuntimeInfo::Process { pid }));

    // The next start writes them again, once it has seen that it is not to crash.
    fs::remove_file(machine.data("node1").join("settings")).unwrap();
    signal(pid, Signal::KILL);
    wait_for("node1 again", || async {
        let pids = machine.pids();
        let again = pids
            .get("node1")
            .is_some_and(|now| now.len() == 1 && now[0] != pid);
        let settings = fs::read_to_string(machine.data("node1").join("settings"));
        let written = settings.is_ok_and(|settings| settings.ends_with('\n'));
        if again && written { Ok(()) } else { Err(pids) }
    })
    .await;
    let kept = fs::read_to_string(machine.data("node1").join("settings")).unwrap();
    assert_eq!(kept, settings, "ports are kept");

    // A crash loop: with growing patience, and visible.
    fs::write(machine.data("node1").join("crash"), "").unwrap();
    signal(machine.pid("node1"), Signal::KILL);
    wait_for("a crash loop that is seen", || async {
        let node = api.status().await.nodes[&NodeId::numbered(1)].clone();
        let detail = node.detail.clone().unwrap_or_default();
        if node.state == NodeState::Failed && detail.contains("exit code 3") {
            Ok(())
        } else {
            Err(node)
        }
    })
    .await;
    fs::remove_file(machine.data("node1").join("crash")).unwrap();
    both_run(&machine).await;

    // Stopped by hand: stays so.
    signal(machine.pid("node2"), Signal::TERM);
    wait_for("node2 stopped", || async {
        let node = api.status().await.nodes[&NodeId::numbered(2)].clone();
        if node.state == NodeState::Stopped {
            Ok(())
        } else {
            Err(node)
        }
    })
    .await;
    // Nothing may happen in this time: it is longer than the first pause before a new start.
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    assert!(
        !machine.pids().contains_key("node2"),
        "{:?}",
        machine.pids()
    );

    let answer = api.admin("/shutdown").await;
    assert_eq!(answer.status, 202, "{answer:?}");
    wait_for("the end of all", || async {
        let (pids, status) = (machine.pids(), api.status().await);
        if pids.is_empty() && status.total_nodes == 0 {
            Ok(())
        } else {
            Err((pids, status))
        }
    })
    .await;
    registry.stop().await;

    // After a shutdown a start of the registry brings back what was to run, but not node2.
    let registry = start(&machine, 21_000).await;
    wait_for("node1 after the shutdown", || async {
        let pids = machine.pids();
        if pids.contains_key("node1") {
            Ok(())
        } else {
            Err(pids)
        }
    })
    .await;
    assert!(
        !machine.pids().contains_key("node2"),
        "{:?}",
        machine.pids()
    );
    registry.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_outlive_the_registry_and_are_adopted() {
    let machine = Machine::new();
    let registry = start(&machine, 21_200).await;
    both_run(&machine).await;
    let before = machine.pids();
    registry.stop().await;
    assert_eq!(
        machine.pids(),
        before,
        "a registry that ends leaves its nodes"
    );

    let registry = start(&machine, 21_200).await;
    let api = registry.api();
    wait_for("both adopted", || async {
        let status = api.status().await;
        let pids: Vec<_> = status
            .nodes
            .values()
            .map(|node| node.runtime.clone())
            .collect();
        if pids.len() == 2 && pids.iter().all(Option::is_some) {
            Ok(())
        } else {
            Err(status)
        }
    })
    .await;
    assert_eq!(machine.pids(), before);
    // An adopted node that crashes is noticed at once, and comes back.
    signal(before["node2"][0], Signal::KILL);
    wait_for("node2 again", || async {
        let pids = machine.pids();
        let again = pids.get("node2").is_some_and(|now| *now != before["node2"]);
        if again { Ok(()) } else { Err(pids) }
    })
    .await;
    registry.stop().await;

    // Stopped by hand while the registry was away: stays so.
    signal(before["node1"][0], Signal::TERM);
    wait_for("node1's end", || async {
        let pids = machine.pids();
        if pids.contains_key("node1") {
            Err(pids)
        } else {
            Ok(())
        }
    })
    .await;
    let registry = start(&machine, 21_200).await;
    let api = registry.api();
    wait_for("node1 stopped", || async {
        let node = api.status().await.nodes[&NodeId::numbered(1)].clone();
        if node.state == NodeState::Stopped {
            Ok(())
        } else {
            Err(node)
        }
    })
    .await;
    registry.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_killed_at_any_moment_leaves_no_orphan_and_no_double() {
    let machine = Machine::new();
    let data = machine.dir.path().join("data");
    let flags = flags(21_400);
    let spawn = |port: u16| {
        tokio::process::Command::new(env!("CARGO_BIN_EXE_axolotl-registry"))
            .arg("serve")
            .args(&flags)
            .args(["--port", &port.to_string()])
            .arg("--data-dir")
            .arg(&data)
            .stderr(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    };
    for round in 0..20u64 {
        let mut registry = spawn(0);
        // Spread over the first start of all, adoption, and starts after crashes.
        tokio::time::sleep(std::time::Duration::from_millis(5 + 17 * round % 160)).await;
        if round % 3 == 2
            && let Some((pid, _)) = processes(machine.dir.path()).first()
        {
            signal(*pid, Signal::KILL);
        }
        registry.start_kill().unwrap();
        registry.wait().await.unwrap();
    }
    let port = {
        let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        free.local_addr().unwrap().port()
    };
    let mut registry = spawn(port);
    both_run(&machine).await;
    // Every process is one that the registry knows.
    let url = format!("http://127.0.0.1:{port}/status");
    wait_for("the same two in /status", || async {
        let status = reqwest::get(&url).await.map_err(|e| e.to_string())?;
        let status: serde_json::Value = status.json().await.map_err(|e| e.to_string())?;
        let known = |node: &str| status["nodes"][node]["runtime"]["pid"].as_u64();
        let pids = machine.pids();
        let same = ["node1", "node2"].iter().all(|node| {
            pids.get(*node)
                .is_some_and(|p| p.len() == 1 && known(node) == Some(p[0].into()))
        });
        if same && pids.len() == 2 {
            Ok(())
        } else {
            Err(format!("{pids:?} {status:#}"))
        }
    })
    .await;
    registry.start_kill().unwrap();
    registry.wait().await.unwrap();
}
