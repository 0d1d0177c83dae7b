//! The owner with a store that fails at every write in turn, and with a reconciler on a fake
//! runtime.

use std::{path::Path, sync::Arc, time::Duration};

use axolotl_common::{
    KeyPair, NodeId, ProcessId, QuorumRule, VolumeId,
    registry_api::{NodeState, RegisterRequest, Role, RuntimeInfo},
};

use super::*;
use crate::{
    authority::Token,
    cluster::{
        instance::{Instance, Origin},
        planner::{Action, Plan},
    },
    reconciler::Reconciler,
    runtime::{Change, Exit, FakeRuntime, Found, Runtime, change_queue},
};

const DEADLINE: Duration = Duration::from_secs(20);

fn key(i: u8) -> KeyPair {
    KeyPair::from_seed(&[i; 32])
}

fn setup(dir: &Path, genesis_nodes: usize) -> Setup {
    let token = |name: &str| Token::read_or_make(&dir.join(name)).unwrap();
    Setup {
        rules: Rules {
            min_nodes: 1,
            max_nodes: 10,
            target_nodes: genesis_nodes,
            genesis_nodes,
            heartbeat_interval: Duration::from_secs(5),
            genesis_timeout: Duration::ZERO,
            unhealthy_after: Duration::from_secs(15),
            peer_word: Duration::from_secs(10),
            trust: crate::cluster::recovery::Trust::Crash,
            open_registration: false,
        },
        timing: Timing::default(),
        heartbeat_interval: Duration::from_secs(5),
        authority: key(99),
        join_token: token("join_token"),
        admin_token: token("admin_token"),
    }
}

fn request(i: u8) -> RegisterRequest {
    RegisterRequest {
        node_id: Some(NodeId::numbered(i.into())),
        is_leader: i == 1,
        role: Role::Validator,
        volume_id: VolumeId([i; 16]),
        incarnation: 1,
        process: ProcessId([i; 16]),
        genesis_hash: None,
        addresses: vec![format!("/dns4/node{i}/tcp/50051")],
        http_url: format!("http://node{i}:8080"),
        rpc_url: format!("http://node{i}:8545"),
        version: String::new(),
    }
}

/// Opens the store, retrying while sled's background threads of an earlier one let go of the lock.
fn open_store(dir: &Path) -> Store {
    let begin = Instant::now();
    loop {
        match Store::open(&dir.join("store")) {
            Ok(store) => return store,
            Err(error) => assert!(begin.elapsed() < DEADLINE, "{error}"),
        }
        std::thread::yield_now();
    }
}

/// Registers nodes 1 to 4 on the store in `dir`, whose `fail_at`th write fails. Returns the genesis
/// hash that was shown, and whether everything succeeded.
async fn form(dir: &Path, fail_at: u64) -> (Option<axolotl_common::Hash>, bool) {
    let mut store = open_store(dir);
    store.fail_at(fail_at);
    let opened = Registry::open(store, setup(dir, 4));
    let Ok(registry) = opened else {
        return (None, false);
    };
    let mut shown = None;
    for i in 1..=4 {
        let signed = Signed {
            key: key(i).public(),
            counter: wall_ms() + u64::from(i),
        };
        match registry.register(signed, true, request(i)).await {
            Ok(answer) => {
                if let Some(genesis) = answer.genesis {
                    let hash = GenesisDocument::from_value(genesis).unwrap().hash();
                    assert!(shown.is_none_or(|shown| shown == hash));
                    shown = Some(hash);
                }
            }
            Err(CallError::Refused(Refusal::Replay { .. })) => {}
            Err(error) => {
                assert!(registry.ending().is_cancelled(), "{error}");
                return (shown, false);
            }
        }
    }
    (shown, true)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_at_every_write_leaves_one_genesis() {
    let mut completed = false;
    for fail_at in 1..40 {
        let dir = tempfile::tempdir().unwrap();
        let (first, whole) = form(dir.path(), fail_at).await;
        // What was begun goes on, again and again, and always towards the same genesis.
        let (second, _) = form(dir.path(), u64::MAX >> 1).await;
        let (third, _) = form(dir.path(), u64::MAX >> 1).await;
        let second = second.expect("formed after the restart");
        assert_eq!(third, Some(second), "write {fail_at}");
        assert!(first.is_none_or(|first| first == second), "write {fail_at}");
        let store = open_store(dir.path());
        let genesis = store.genesis().unwrap().unwrap();
        let document = GenesisDocument::from_value(genesis.document).unwrap();
        assert_eq!(document.hash(), second);
        let numbers: Vec<_> = document
            .axolotl()
            .validators
            .iter()
            .map(|member| member.node_id.number())
            .collect();
        assert_eq!(numbers, [Some(1), Some(2), Some(3), Some(4)]);
        assert_eq!(document.axolotl().quorum, QuorumRule::Byzantine);
        if whole {
            completed = true;
            break;
        }
    }
    assert!(completed, "40 writes were not enough to reach the end");
}

struct Rig {
    registry: Registry,
    runtime: FakeRuntime,
    task: tokio::task::JoinHandle<()>,
}

impl Rig {
    fn start(dir: &Path, machine: Option<&FakeRuntime>, fail_at: Option<u64>) -> Option<Self> {
        let mut store = open_store(dir);
        if let Some(n) = fail_at {
            store.fail_at(n);
        }
        let registry = Registry::open(store, setup(dir, 3)).ok()?;
        let (exits, heard) = change_queue();
        let runtime = machine.map_or_else(
            || FakeRuntime::new(exits.clone()),
            |machine| machine.heard_by(exits.clone()),
        );
        let shared: Arc<dyn Runtime> = Arc::new(runtime.clone());
        let reconciler =
            Reconciler::new(registry.clone(), shared, heard, Duration::from_millis(50));
        let task = tokio::spawn(reconciler.run());
        Some(Self {
            registry,
            runtime,
            task,
        })
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let begin = Instant::now();
        while !holds(self) {
            assert!(
                begin.elapsed() < DEADLINE,
                "{what} did not come about; running {:?}, history {:?}",
                self.runtime.running(),
                self.runtime.history()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends the registry as a kill would: nothing is told to anybody.
    async fn kill(self) -> FakeRuntime {
        self.task.abort();
        // Cancelled is what was asked for.
        let _ = self.task.await;
        self.runtime
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reconciler_restarts_crashed_nodes_and_leaves_stopped_ones() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::start(dir.path(), None, None).unwrap();
    rig.until("three running", |rig| rig.runtime.running().len() == 3)
        .await;
    let node = NodeId::numbered;
    rig.runtime
        .end(&node(2), Exit::Crash("signal 9".into()))
        .await;
    rig.until("node2 again", |rig| {
        rig.runtime
            .history()
            .iter()
            .filter(|h| *h == "spawn node2")
            .count()
            == 2
    })
    .await;
    rig.runtime.end(&node(3), Exit::Clean).await;
    let begin = Instant::now();
    loop {
        let status = rig.registry.status().await.unwrap();
        if status.nodes[&node(3)].state == NodeState::Stopped {
            break;
        }
        assert!(begin.elapsed() < DEADLINE, "{status:#?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    rig.runtime.fail_spawns(2);
    rig.runtime
        .end(&node(1), Exit::Crash("signal 6".into()))
        .await;
    rig.until("node1 after two failed starts", |rig| {
        rig.runtime.running().contains(&node(1))
    })
    .await;
    let message = rig.registry.shut_down().await.unwrap();
    assert!(message.contains("node2, node1"), "{message}");
    rig.until("nothing running", |rig| rig.runtime.running().is_empty())
        .await;
    let history = rig.runtime.history();
    assert_eq!(history.iter().filter(|h| *h == "spawn node3").count(), 1);
    assert!(
        !history.iter().any(|h| h.starts_with("double")),
        "{history:?}"
    );
    rig.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_every_write_leaves_no_orphan_and_no_double() {
    for fail_at in 1..16 {
        let dir = tempfile::tempdir().unwrap();
        let machine = match Rig::start(dir.path(), None, Some(fail_at)) {
            Some(rig) => {
                rig.until("the failed write, or all running", |rig| {
                    rig.registry.ending().is_cancelled() || rig.runtime.running().len() == 3
                })
                .await;
                Some(rig.kill().await)
            }
            None => None,
        };
        let rig = Rig::start(dir.path(), machine.as_ref(), None).unwrap();
        rig.until("three running", |rig| rig.runtime.running().len() == 3)
            .await;
        let begin = Instant::now();
        loop {
            let status = rig.registry.status().await.unwrap();
            if status.nodes.values().all(|node| node.runtime.is_some()) {
                break;
            }
            assert!(begin.elapsed() < DEADLINE, "write {fail_at}: {status:#?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let history = rig.runtime.history();
        assert!(
            !history.iter().any(|h| h.starts_with("double")),
            "write {fail_at}: {history:?}"
        );
        rig.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_was_stopped_node_by_node_comes_back_with_the_registry() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::start(dir.path(), None, None).unwrap();
    rig.until("three running", |rig| rig.runtime.running().len() == 3)
        .await;
    for i in 1..=3 {
        rig.runtime.end(&NodeId::numbered(i), Exit::Clean).await;
    }
    let begin = Instant::now();
    while rig.registry.status().await.unwrap().total_nodes > 0 {
        assert!(begin.elapsed() < DEADLINE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let machine = rig.kill().await;
    let rig = Rig::start(dir.path(), Some(&machine), None).unwrap();
    rig.until("three running again", |rig| {
        rig.runtime.running().len() == 3
    })
    .await;
    rig.kill().await;
}

/// A node as a compose file makes it; `ended` unless it runs.
fn given(i: u64, ended: Option<Exit>) -> Found {
    Found {
        instance: Instance {
            node: NodeId::numbered(i),
            generation: 0,
            info: RuntimeInfo::Docker {
                container: format!("node{i}"),
            },
            token: i.to_string(),
            public_rpc_url: None,
        },
        origin: Origin::Given,
        ended,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_that_a_compose_file_is_to_make_are_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open(open_store(dir.path()), setup(dir.path(), 3)).unwrap();
    registry.bootstrap(false).await.unwrap();
    let found = (1..=3).map(|i| given(i, None)).collect();
    registry.observe(found, true).await.unwrap();
    for i in 1..=3 {
        let signed = Signed {
            key: key(i).public(),
            counter: wall_ms() + u64::from(i),
        };
        registry.register(signed, true, request(i)).await.unwrap();
    }
    drop(registry);

    // Everything was removed while no registry lived, and the file's containers come after it.
    let registry = Registry::open(open_store(dir.path()), setup(dir.path(), 3)).unwrap();
    registry.bootstrap(false).await.unwrap();
    registry.observe(Vec::new(), true).await.unwrap();
    let plan = registry.plan().await.unwrap();
    let starts = |plan: &Plan| {
        let starts = plan.actions.iter();
        starts.filter(|a| matches!(a, Action::Start(_))).count()
    };
    assert_eq!(starts(&plan), 0, "{plan:?}");
    let made = || Exit::Crash("its container was never started".to_owned());
    let found = vec![given(1, None), given(2, Some(made()))];
    registry.observe(found, false).await.unwrap();
    let plan = registry.plan().await.unwrap();
    assert_eq!(plan.actions, [Action::Start(NodeId::numbered(2))]);
    let change = Change::Started(given(3, None));
    registry.changed(change).await.unwrap();
    let status = registry.status().await.unwrap();
    assert!(status.nodes[&NodeId::numbered(3)].runtime.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_newer_store_made_is_left_alone() {
    let found = || Found {
        instance: Instance {
            node: NodeId::numbered(9),
            generation: 1,
            info: RuntimeInfo::Process { pid: 1 },
            token: "1/1".to_owned(),
            public_rpc_url: None,
        },
        origin: Origin::Registry,
        ended: None,
    };
    for (given, doubles) in [(8, 0), (9, 1)] {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open_store(dir.path());
        store.set_highest_number(given).unwrap();
        let registry = Registry::open(store, setup(dir.path(), 4)).unwrap();
        for missed in [true, false] {
            let stopped = registry.observe(vec![found()], missed).await.unwrap();
            assert_eq!(stopped.len(), doubles, "numbers up to {given} were given");
        }
    }
}
