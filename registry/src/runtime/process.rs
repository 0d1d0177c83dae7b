//! Nodes as child processes of the registry.
//!
//! Each child stands in its own process group, writes its log to a file, and carries a marker
//! (`<store>/<node>/<generation>`) in its environment. It outlives the registry; the next process
//! of the registry finds it by the marker, and from then on knows it by pid and start time, held by
//! a pidfd, so that a pid that was given to another process in between is never signalled.
//!
//! ```text
//! <nodes>/node3/data       the node's own data directory; `stopped` in it: it ended on purpose
//!               ports.json its ports
//!               log/node.log, node.log.1
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, SocketAddr},
    os::unix::{fs::DirBuilderExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axolotl_common::{NodeId, registry_api::RuntimeInfo};
use futures::future::{BoxFuture, FutureExt};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::{io::unix::AsyncFd, sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    Change, Exit, Found, Instance, Origin, PortBases, Runtime, RuntimeError, SpawnSpec,
    ports::Ports,
    proc_fs::{self, MARKER, Marker},
};

/// A node has this long to end after SIGTERM.
const TERM_PATIENCE: Duration = Duration::from_secs(8);
/// The system has this long to end a process after SIGKILL.
const KILL_PATIENCE: Duration = Duration::from_secs(5);
/// A log file that is larger is moved aside, bytes; one older file is kept.
const MAX_LOG_BYTES: u64 = 16 << 20;
/// Log files are looked at this often.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// A node leaves this file in its data directory when it ends on purpose.
const STOPPED_MARKER: &str = "stopped";

/// How children are started.
#[derive(Clone, Debug)]
pub struct ProcessOptions {
    /// The node's program.
    pub binary: PathBuf,
    /// Directory of all nodes' directories.
    pub nodes_dir: PathBuf,
    /// Random name of the store: children of other registries are none of ours.
    pub store_id: String,
    /// Where children listen, and what they advertise.
    pub host: IpAddr,
    /// Ports.
    pub ports: PortBases,
    /// Where children find this registry.
    pub registry_url: String,
    /// File with the join token.
    pub join_token_file: PathBuf,
    /// Further environment of children.
    pub environment: Vec<(String, String)>,
}

/// A process that runs, as this process of the registry sees it.
#[derive(Clone, Debug)]
struct Watched {
    instance: Instance,
    gone: CancellationToken,
}

impl Watched {
    fn new(instance: Instance) -> Self {
        Self {
            instance,
            gone: CancellationToken::new(),
        }
    }
}

/// Names one process for ever.
fn token(pid: u32, start_time: u64) -> String {
    format!("{pid}/{start_time}")
}

/// The start time in a [`token`].
fn start_time_of(instance: &Instance) -> u64 {
    let (_, start_time) = instance.token.split_once('/').unwrap_or_default();
    start_time.parse().unwrap_or(0)
}

struct Inner {
    options: ProcessOptions,
    changes: mpsc::Sender<Change>,
    /// By pid; in the normal run one process for each managed node.
    watched: Mutex<BTreeMap<u32, Watched>>,
}

/// Starts nodes as child processes.
#[derive(Clone)]
pub struct ProcessRuntime(Arc<Inner>);

fn describe(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(0), _) => Exit::Clean,
        (Some(code), _) => Exit::Crash(format!("exit code {code}")),
        (None, Some(signal)) => Exit::Crash(format!("killed by signal {signal}")),
        (None, None) => Exit::Crash(format!("{status}")),
    }
}

impl ProcessRuntime {
    /// A runtime that tells of ends through `changes`. Must be called inside a tokio runtime.
    pub fn new(options: ProcessOptions, changes: mpsc::Sender<Change>) -> Self {
        let runtime = Self(Arc::new(Inner {
            options,
            changes,
            watched: Mutex::default(),
        }));
        tokio::spawn(rotate_logs(Arc::downgrade(&runtime.0)));
        runtime
    }

    fn watched(&self) -> MutexGuard<'_, BTreeMap<u32, Watched>> {
        self.0
            .watched
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn home(&self, node: &NodeId) -> PathBuf {
        self.0.options.nodes_dir.join(node.as_str())
    }

    fn start(&self, spec: &SpawnSpec) -> Result<Instance, RuntimeError> {
        let options = &self.0.options;
        let what = format!("starting {}", spec.node);
        let error = |why: String| RuntimeError::new(what.clone(), why);
        let at = |path: &Path| {
            let path = path.display().to_string();
            let what = what.clone();
            move |e: io::Error| RuntimeError::new(what, format!("{path}: {e}"))
        };
        if let Some(running) = self.running(&spec.node) {
            return Ok(running);
        }
        let home = self.home(&spec.node);
        let (data, logs) = (home.join("data"), home.join("log"));
        for dir in [&data, &logs] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .map_err(at(dir))?;
        }
        let ports_file = home.join("ports.json");
        let kept = Ports::read(&ports_file);
        let ports = Ports::choose(
            kept,
            options.ports,
            spec.number,
            options.host,
            &self.ports_of_others(&spec.node),
        )
        .map_err(|e| error(e.to_string()))?;
        if kept != Some(ports) {
            let text = serde_json::to_vec(&ports).map_err(|e| error(e.to_string()))?;
            fs::write(&ports_file, text).map_err(at(&ports_file))?;
        }
        let stopped = data.join(STOPPED_MARKER);
        remove_if_there(&stopped).map_err(at(&stopped))?;
        let log = logs.join("node.log");
        let open_log = || fs::OpenOptions::new().create(true).append(true).open(&log);
        let (out, err) = (open_log().map_err(at(&log))?, open_log().map_err(at(&log))?);

        let marker = Marker {
            store: options.store_id.clone(),
            node: spec.node.clone(),
            generation: spec.generation,
        };
        let host = options.host.to_string();
        let mut command = tokio::process::Command::new(&options.binary);
        command
            .arg("node")
            .env_clear()
            .envs(options.environment.iter().map(|(k, v)| (k, v)))
            .env(MARKER, marker.to_string())
            .env("NODE_ID", spec.node.as_str())
            .env("IS_LEADER", spec.leader.to_string())
            .env("PORT", ports.p2p.to_string())
            .env("HTTP_PORT", ports.http.to_string())
            .env("RPC_PORT", ports.rpc.to_string())
            .env("BIND_ADDR", &host)
            .env("ADVERTISE_ADDR", &host)
            .env("REGISTRY_URL", &options.registry_url)
            .env("JOIN_TOKEN_FILE", &options.join_token_file)
            .env("DATA_DIR", &data)
            .current_dir(&home)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0);
        let mut child = command.spawn().map_err(|e| {
            error(format!(
                "{}: {e}; NODE_BINARY names the node's program",
                options.binary.display()
            ))
        })?;
        let pid = child.id().unwrap_or_default();
        // A child that ended at once is still there as a zombie: nobody has waited for it.
        let start_time = proc_fs::stat(pid).map_or(0, |stat| stat.start_time);
        let watched = Watched::new(self.instance(&marker, pid, start_time, ports.rpc));
        let instance = watched.instance.clone();
        self.watched().insert(pid, watched.clone());
        let runtime = self.clone();
        tokio::spawn(async move {
            let exit = match child.wait().await {
                Ok(status) => describe(status),
                Err(e) => Exit::Crash(format!("it ended, how is unknown ({e})")),
            };
            runtime.tell_gone(pid, watched, exit).await;
        });
        Ok(instance)
    }

    fn instance(&self, marker: &Marker, pid: u32, start_time: u64, rpc: u16) -> Instance {
        let address = SocketAddr::new(self.0.options.host, rpc);
        Instance {
            node: marker.node.clone(),
            generation: marker.generation,
            info: RuntimeInfo::Process { pid },
            token: token(pid, start_time),
            public_rpc_url: Some(format!("http://{address}")),
        }
    }

    fn running(&self, node: &NodeId) -> Option<Instance> {
        let watched = self.watched();
        let mut all = watched.values().map(|watched| &watched.instance);
        all.find(|instance| instance.node == *node).cloned()
    }

    async fn tell_gone(&self, pid: u32, watched: Watched, exit: Exit) {
        self.watched().remove(&pid);
        let ended = Change::Ended {
            node: watched.instance.node,
            token: watched.instance.token,
            exit,
        };
        // Nobody listens any more when the registry is ending.
        let _ = self.0.changes.send(ended).await;
        watched.gone.cancel();
    }

    fn ports_of_others(&self, node: &NodeId) -> BTreeSet<u16> {
        let mut taken = BTreeSet::new();
        let Ok(entries) = fs::read_dir(&self.0.options.nodes_dir) else {
            return taken;
        };
        for entry in entries.flatten() {
            if entry.file_name().to_str() == Some(node.as_str()) {
                continue;
            }
            if let Some(ports) = Ports::read(&entry.path().join("ports.json")) {
                taken.extend(ports.all());
            }
        }
        taken
    }

    /// Holds a process that is not a child of this process, and tells of its end.
    fn watch_adopted(&self, pid: u32, start_time: u64, marker: &Marker) -> Option<()> {
        let pidfd = open_pidfd(pid, start_time)?;
        let watch = async_pidfd(pidfd).ok()?;
        let rpc = Ports::read(&self.home(&marker.node).join("ports.json"))?.rpc;
        let watched = Watched::new(self.instance(marker, pid, start_time, rpc));
        self.watched().insert(pid, watched.clone());
        let runtime = self.clone();
        tokio::spawn(async move {
            // A pidfd is readable once its process has ended.
            let _ = watch.readable().await;
            let exit = runtime.trace_of(&watched.instance.node);
            runtime.tell_gone(pid, watched, exit).await;
        });
        Some(())
    }

    /// How a process ended that nobody waited for: it leaves a file when it ends on purpose.
    fn trace_of(&self, node: &NodeId) -> Exit {
        if self.home(node).join("data").join(STOPPED_MARKER).exists() {
            Exit::Clean
        } else {
            Exit::Crash("ended without a word".to_owned())
        }
    }

    /// What runs, the newest start of each node; then what ended and has left its data.
    fn find(&self) -> Result<Vec<Found>, RuntimeError> {
        let what = "listing processes";
        let found =
            proc_fs::find(&self.0.options.store_id).map_err(|e| RuntimeError::new(what, e))?;
        for (pid, stat, marker) in found {
            if !self.watched().contains_key(&pid) {
                // Gone in between: it is then found by its data.
                let _ = self.watch_adopted(pid, stat.start_time, &marker);
            }
        }
        let mut all: Vec<Found> = self
            .watched()
            .values()
            .map(|watched| Found {
                instance: watched.instance.clone(),
                origin: Origin::Registry,
                ended: None,
            })
            .collect();
        all.sort_by_key(|found| std::cmp::Reverse(found.instance.generation));
        for node in self
            .nodes_with_data()
            .map_err(|e| RuntimeError::new(what, e))?
        {
            if !all.iter().any(|found| found.instance.node == node) {
                all.push(Found {
                    ended: Some(self.trace_of(&node)),
                    origin: Origin::Registry,
                    instance: Instance {
                        node,
                        generation: 0,
                        info: RuntimeInfo::Process { pid: 0 },
                        token: String::new(),
                        public_rpc_url: None,
                    },
                });
            }
        }
        Ok(all)
    }

    fn nodes_with_data(&self) -> io::Result<Vec<NodeId>> {
        let dir = &self.0.options.nodes_dir;
        if !dir.exists() {
            return Ok(Vec::new());
        }
        let mut nodes = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let label = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            if let Some(label) = label.filter(|_| entry.path().join("data").is_dir()) {
                nodes.push(label);
            }
        }
        Ok(nodes)
    }

    /// Removes data and ports of a node; its log stays for whoever wants to know.
    fn erase(&self, node: &NodeId) -> Result<(), RuntimeError> {
        let what = format!("removing {node}");
        if self.running(node).is_some() {
            return Err(RuntimeError::new(what, "it runs"));
        }
        let home = self.home(node);
        let data = home.join("data");
        let removed = match fs::remove_dir_all(&data) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => remove_if_there(&home.join("ports.json")),
        };
        removed.map_err(|e| RuntimeError::new(what, format!("{}: {e}", home.display())))
    }

    async fn end(&self, instance: &Instance) -> Result<(), RuntimeError> {
        let what = format!("stopping {}", instance.node);
        let RuntimeInfo::Process { pid } = instance.info else {
            return Err(RuntimeError::new(what, "it is not a process"));
        };
        let Some(pidfd) = open_pidfd(pid, start_time_of(instance)) else {
            return Ok(());
        };
        let watch = async_pidfd(pidfd).map_err(|e| RuntimeError::new(what.clone(), e))?;
        let known = self.watched().get(&pid).cloned();
        for (signal, patience) in [(Signal::TERM, TERM_PATIENCE), (Signal::KILL, KILL_PATIENCE)] {
            match pidfd_send_signal(watch.get_ref(), signal) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(e) => return Err(RuntimeError::new(what, e)),
            }
            if timeout(patience, watch.readable()).await.is_ok() {
                // Its end is told before this returns.
                if let Some(known) = known {
                    known.gone.cancelled().await;
                }
                // The end was the registry's own doing, no wish that the node stays away.
                let trace = self.home(&instance.node).join("data").join(STOPPED_MARKER);
                return remove_if_there(&trace).map_err(|e| RuntimeError::new(what, e));
            }
            tracing::warn!(
                node = %instance.node,
                pid,
                "{} does not end {} s after {signal:?}",
                instance.node,
                patience.as_secs()
            );
        }
        Err(RuntimeError::new(
            what,
            format!("process {pid} does not end"),
        ))
    }
}

/// Lets tokio wait on a pidfd.
#[allow(
    deprecated,
    reason = "deprecated because a type could close its descriptor early; an OwnedFd cannot, and \
              the successor is an unsafe function"
)]
fn async_pidfd(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(pidfd)
}

/// A descriptor for exactly this process; `None` when it is gone.
fn open_pidfd(pid: u32, start_time: u64) -> Option<OwnedFd> {
    let raw = Pid::from_raw(i32::try_from(pid).ok()?)?;
    let pidfd = pidfd_open(raw, PidfdFlags::NONBLOCK).ok()?;
    // Only now is the pid held; what it names may have changed before.
    let same = proc_fs::stat(pid).is_some_and(|s| s.runs() && s.start_time == start_time);
    same.then_some(pidfd)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

impl Runtime for ProcessRuntime {
    fn kind(&self) -> &'static str {
        "process"
    }

    fn spawn<'a>(&'a self, spec: &'a SpawnSpec) -> BoxFuture<'a, Result<Instance, RuntimeError>> {
        async move { self.start(spec) }.boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Found>, RuntimeError>> {
        async move { self.find() }.boxed()
    }

    fn stop<'a>(&'a self, instance: &'a Instance) -> BoxFuture<'a, Result<(), RuntimeError>> {
        self.end(instance).boxed()
    }

    fn remove<'a>(&'a self, node: &'a NodeId) -> BoxFuture<'a, Result<(), RuntimeError>> {
        async move { self.erase(node) }.boxed()
    }
}

/// Keeps log files small. The file is copied and cut, because the child holds it open; lines
/// written in between are lost.
async fn rotate_logs(runtime: std::sync::Weak<Inner>) {
    let mut tick = tokio::time::interval(LOG_INTERVAL);
    loop {
        tick.tick().await;
        let Some(inner) = runtime.upgrade() else {
            return;
        };
        let nodes_dir = inner.options.nodes_dir.clone();
        drop(inner);
        let rotated = tokio::task::spawn_blocking(move || rotate_all(&nodes_dir, MAX_LOG_BYTES));
        if let Ok(Err(error)) = rotated.await {
            tracing::warn!(%error, "logs of nodes could not be cut");
        }
    }
}

fn rotate_all(nodes_dir: &Path, max_bytes: u64) -> io::Result<()> {
    if !nodes_dir.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(nodes_dir)? {
        let log = entry?.path().join("log/node.log");
        let large = fs::metadata(&log).is_ok_and(|meta| meta.len() > max_bytes);
        if large {
            fs::copy(&log, log.with_extension("log.1"))?;
            fs::OpenOptions::new()
                .write(true)
                .truncate(true)
                .open(&log)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_logs_are_moved_aside() {
        let dir = tempfile::tempdir().unwrap();
        let logs = dir.path().join("node1/log");
        fs::create_dir_all(&logs).unwrap();
        fs::write(logs.join("node.log"), "0123456789").unwrap();
        rotate_all(dir.path(), 10).unwrap();
        assert!(!logs.join("node.log.1").exists());
        rotate_all(dir.path(), 9).unwrap();
        assert_eq!(fs::read(logs.join("node.log.1")).unwrap(), b"0123456789");
        assert_eq!(fs::read(logs.join("node.log")).unwrap(), b"");
    }
}
