//! A network of its own on the machine's engine: names and ports of nobody else, and nothing left at
//! the end.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Once,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use axolotl_common::NodeId;
use axolotl_registry::runtime::{
    Change, DockerOptions, DockerRuntime, Exit, Found, Instance, Runtime, SpawnSpec, change_queue,
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{Notify, mpsc},
};

/// The image of the programs beside this test.
pub(crate) const IMAGE: &str = "axolotl-node:test";
const SOCKET: &str = "/var/run/docker.sock";
const DEADLINE: Duration = Duration::from_secs(20);

static COUNTER: AtomicU32 = AtomicU32::new(0);
static BUILT: Once = Once::new();

/// Runs a program and gives its output.
#[track_caller]
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    );
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {err}{out}"
    );
    out
}

#[track_caller]
pub(crate) fn docker(arguments: &[&str]) -> String {
    run("docker", arguments)
}

fn build_image() {
    let programs = Path::new(env!("CARGO_BIN_EXE_axolotl-registry"))
        .parent()
        .unwrap();
    assert!(
        programs.join("axolotl").is_file(),
        "{} is not built: cargo build --release -p axolotl-node",
        programs.join("axolotl").display()
    );
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/build-images.sh");
    let output = Command::new(script)
        .args(["--tag", "test"])
        .env("AXOLOTL_BIN", programs)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{script}: {text}");
}

fn free_port() -> u16 {
    // Below what outgoing connections get, and spread, so that tests beside this one look elsewhere.
    let begin =
        22_000 + (std::process::id() * 97 + COUNTER.fetch_add(1, Ordering::Relaxed) * 40) % 9_000;
    let mut ports = begin as u16..;
    ports
        .find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .unwrap()
}

pub(crate) fn options(name: &str) -> DockerOptions {
    DockerOptions {
        host: format!("unix://{SOCKET}"),
        network: format!("{name}net"),
        image: IMAGE.to_owned(),
        join_volume: format!("{name}join"),
        name_prefix: name.to_owned(),
        store_id: format!("{name}store"),
        registry_url: "http://registry:9090".to_owned(),
        p2p_port: free_port(),
        rpc_port: free_port(),
        memory: 128 << 20,
        environment: Vec::new(),
    }
}

pub(crate) fn spec(number: u64) -> SpawnSpec {
    SpawnSpec {
        node: NodeId::numbered(number),
        number,
        generation: 7,
        leader: false,
    }
}

/// A runtime with a network of its own.
pub(crate) struct Bench {
    pub(crate) options: DockerOptions,
    pub(crate) runtime: DockerRuntime,
    heard: mpsc::Receiver<Change>,
    proxy: Option<Proxy>,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        Self::make(None).await
    }

    pub(crate) async fn behind_proxy() -> Self {
        Self::make(Some(Proxy::start())).await
    }

    async fn make(proxy: Option<Proxy>) -> Self {
        tokio::task::spawn_blocking(|| BUILT.call_once(build_image))
            .await
            .unwrap();
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let mut options = options(&format!("axt{}-{number}-", std::process::id()));
        if let Some(proxy) = &proxy {
            options.host = format!("unix://{}", proxy.socket.display());
        }
        let (changes, heard) = change_queue();
        let mut bench = Self {
            runtime: DockerRuntime::new(options.clone(), changes),
            options,
            heard,
            proxy,
        };
        bench.hear(|c| *c == Change::Look).await;
        bench
    }

    /// The same with changed options, as after a restart of the registry.
    pub(crate) async fn restart(&mut self) {
        let (changes, heard) = change_queue();
        self.heard = heard;
        self.runtime = DockerRuntime::new(self.options.clone(), changes);
        self.hear(|c| *c == Change::Look).await;
    }

    pub(crate) fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().unwrap()
    }

    pub(crate) fn network(&self) -> &str {
        &self.options.network
    }

    pub(crate) fn name(&self, node: &str) -> String {
        format!("{}{node}", self.options.name_prefix)
    }

    fn filter(&self) -> String {
        format!("label=org.axolotl.network={}", self.network())
    }

    /// Names of all containers of the network, a line each.
    pub(crate) fn containers(&self) -> String {
        docker(&[
            "ps",
            "-a",
            "--format",
            "{{.Names}}",
            "--filter",
            &self.filter(),
        ])
    }

    /// Names of the volumes that were made for nodes.
    pub(crate) fn volumes(&self) -> String {
        docker(&["volume", "ls", "-q", "--filter", &self.filter()])
    }

    /// Waits for a change.
    pub(crate) async fn hear(&mut self, is: impl Fn(&Change) -> bool) -> Change {
        let mut heard = Vec::new();
        let wait = async {
            while let Some(change) = self.heard.recv().await {
                if is(&change) {
                    return Some(change);
                }
                heard.push(change);
            }
            None
        };
        let found = tokio::time::timeout(DEADLINE, wait).await;
        match found {
            Ok(Some(change)) => change,
            _ => panic!("not heard within {DEADLINE:?}; heard: {heard:#?}"),
        }
    }

    /// Waits for the end of an instance.
    pub(crate) async fn ended(&mut self, instance: &Instance) -> Exit {
        let change = self
            .hear(|c| matches!(c, Change::Ended { token, .. } if *token == instance.token))
            .await;
        match change {
            Change::Ended { exit, .. } => exit,
            other => panic!("{other:?}"),
        }
    }

    /// What the runtime lists of a node.
    pub(crate) async fn found(&self, number: u64) -> Found {
        let node = NodeId::numbered(number);
        let found = self.runtime.list().await.unwrap();
        let mut of_node = found.iter().filter(|f| f.instance.node == node);
        match (of_node.next(), of_node.next()) {
            (Some(one), None) => one.clone(),
            _ => panic!("{node} is there not exactly once: {found:#?}"),
        }
    }

    fn labels(&self, node: &str) -> [String; 2] {
        [
            format!("org.axolotl.network={}", self.network()),
            format!("org.axolotl.node={node}"),
        ]
    }

    /// A container as a compose file makes it.
    pub(crate) fn given(&self, node: &str) {
        let [network, label] = self.labels(node);
        docker(&[
            "run",
            "-d",
            "--name",
            &self.name(node),
            "--label",
            &network,
            "--label",
            &label,
            "-e",
            "REGISTRY_URL=http://registry:9090",
            IMAGE,
        ]);
    }

    /// A container of this registry that was made and not started.
    pub(crate) fn half_made(&self, node: &str) {
        let [network, label] = self.labels(node);
        let store = format!("org.axolotl.store={}", self.options.store_id);
        docker(&[
            "create",
            "--name",
            &self.name(node),
            "--label",
            &network,
            "--label",
            &label,
            "--label",
            &store,
            IMAGE,
        ]);
    }

    /// Gives the image a name that only this bench uses.
    pub(crate) async fn own_image(&mut self) {
        self.options.image = format!("axolotl-node:{}image", self.options.name_prefix);
        docker(&["tag", IMAGE, &self.options.image]);
        self.restart().await;
    }

    /// Lets the bench's own name of the image mean another one.
    pub(crate) fn new_image(&self) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("Dockerfile");
        std::fs::write(
            &file,
            format!("FROM {IMAGE}\nLABEL newer={}\n", self.network()),
        )
        .unwrap();
        let dir = dir.path().display().to_string();
        docker(&["build", "-q", "-t", &self.options.image, &dir]);
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let remove = |program: &[&str], ids: String| {
            for id in ids.lines() {
                let _ = Command::new("docker").args(program).arg(id).output();
            }
        };
        let name = format!("name={}", self.options.name_prefix);
        remove(&["rm", "-f", "-v"], self.containers());
        remove(
            &["rm", "-f", "-v"],
            docker(&["ps", "-aq", "--filter", &name]),
        );
        remove(&["volume", "rm"], self.volumes());
        remove(
            &["volume", "rm"],
            docker(&["volume", "ls", "-q", "--filter", &name]),
        );
        if self.options.image.contains(&self.options.name_prefix) {
            remove(&["image", "rm"], self.options.image.clone());
        }
        remove(
            &["network", "rm"],
            docker(&["network", "ls", "-q", "--filter", &name]),
        );
    }
}

/// The engine's socket once more, in a way that can be cut.
pub(crate) struct Proxy {
    _dir: tempfile::TempDir,
    pub(crate) socket: PathBuf,
    open: Arc<AtomicBool>,
    cut: Arc<Notify>,
}

impl Proxy {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("engine.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let open = Arc::new(AtomicBool::new(true));
        let cut = Arc::new(Notify::new());
        let (is_open, ending) = (open.clone(), cut.clone());
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                if !is_open.load(Ordering::SeqCst) {
                    continue;
                }
                let ending = ending.clone();
                tokio::spawn(async move {
                    let mut far = UnixStream::connect(SOCKET).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        () = ending.notified() => {}
                    }
                });
            }
        });
        Self {
            _dir: dir,
            socket,
            open,
            cut,
        }
    }

    /// Breaks all connections, and lets none through.
    pub(crate) fn cut(&self) {
        self.open.store(false, Ordering::SeqCst);
        self.cut.notify_waiters();
    }

    /// Lets connections through again.
    pub(crate) fn mend(&self) {
        self.open.store(true, Ordering::SeqCst);
    }
}
