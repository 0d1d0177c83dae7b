//! Starting the program, watching it, and waiting for conditions.

use std::{
    fs::{self, File},
    net::TcpListener,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{PoisonError, RwLock, RwLockReadGuard},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, ensure};
use axolotl_common::registry_api::Problem;
use axolotl_node::cli::json_rpc::JsonRpc;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

/// No test waits longer for a single condition.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
/// An orderly end is capped at this by the node itself.
pub(crate) const STOP_MAX: Duration = Duration::from_secs(8);
/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(10);
/// Lines of a log that a failure shows.
const TAIL_LINES: usize = 40;

/// Looks at `condition` until it gives a value; fails with what it saw last.
pub(crate) async fn until<T, F>(what: &str, mut condition: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let end = Instant::now() + DEADLINE;
    loop {
        let seen = match condition().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if Instant::now() >= end {
            return Err(seen.context(format!("waited {DEADLINE:?} for {what}")));
        }
        // The pause of the poll.
        tokio::time::sleep(POLL).await;
    }
}

/// A process that another test starts holds, until it has become another program, copies of all files
/// of this one, locked ones included: nothing is started while this process has a lock.
static LOCKS: RwLock<()> = RwLock::new(());

/// Held while this process has a lock on a data directory.
pub(crate) fn locks_held() -> RwLockReadGuard<'static, ()> {
    LOCKS.read().unwrap_or_else(PoisonError::into_inner)
}

/// A port that nobody uses.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// How a node is to be started.
#[derive(Clone, Debug)]
pub(crate) struct Start {
    program: PathBuf,
    home: PathBuf,
    env: Vec<(String, String)>,
    args: Vec<String>,
    uid: Option<u32>,
    open_files_max: Option<u32>,
    closed: bool,
}

impl Start {
    /// `axolotl node` with `home` as its directory for logs and an otherwise empty environment.
    pub(crate) fn node(home: &Path) -> Self {
        Self {
            program: env!("CARGO_BIN_EXE_axolotl").into(),
            home: home.to_owned(),
            env: Vec::new(),
            args: vec!["node".to_owned()],
            uid: None,
            open_files_max: None,
            closed: false,
        }
        .env("RUST_LOG", "info")
        .env("PORT", 0)
        .env("HTTP_PORT", 0)
        .env("RPC_PORT", 0)
    }

    /// Sets a variable, in place of an earlier value.
    pub(crate) fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.to_string()));
        self
    }

    /// Adds arguments.
    pub(crate) fn args(mut self, more: &[&str]) -> Self {
        self.args.extend(more.iter().map(|text| (*text).to_owned()));
        self
    }

    /// Runs a copy of the program in another place.
    pub(crate) fn program(mut self, program: &Path) -> Self {
        self.program = program.to_owned();
        self
    }

    /// Runs it as another user.
    pub(crate) fn uid(mut self, uid: u32) -> Self {
        self.uid = Some(uid);
        self
    }

    /// Lets it open so many files.
    pub(crate) fn open_files_max(mut self, max: u32) -> Self {
        self.open_files_max = Some(max);
        self
    }

    /// Gives it standard streams that nobody reads.
    pub(crate) fn closed_streams(mut self) -> Self {
        self.closed = true;
        self
    }

    /// Starts it.
    pub(crate) fn spawn(&self) -> anyhow::Result<Node> {
        let log = self.home.join("log");
        let open = || File::options().create(true).append(true).open(&log);
        let from = fs::metadata(&log).map_or(0, |meta| meta.len());
        let mut command = match self.open_files_max {
            None => Command::new(&self.program),
            Some(max) => {
                let mut shell = Command::new("/bin/sh");
                shell
                    .arg("-c")
                    .arg(format!("ulimit -n {max} && exec \"$0\" \"$@\""))
                    .arg(&self.program);
                shell
            }
        };
        command
            .args(&self.args)
            .env_clear()
            .envs(self.env.iter().cloned())
            .current_dir(&self.home)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        match self.closed {
            true => command.stdout(Stdio::piped()).stderr(Stdio::piped()),
            false => command.stdout(open()?).stderr(open()?),
        };
        if let Some(uid) = self.uid {
            command.uid(uid);
        }
        let nothing_locked = LOCKS.write().unwrap_or_else(PoisonError::into_inner);
        let mut child = command
            .spawn()
            .with_context(|| format!("starting {}", self.program.display()))?;
        drop(nothing_locked);
        // The reading ends are closed: from now on every write fails.
        drop((child.stdout.take(), child.stderr.take()));
        let pid = child.id().context("it has just been started")?;
        Ok(Node {
            child,
            pid,
            log,
            from,
        })
    }

    /// Starts it and waits until it ends; gives exit code and log.
    pub(crate) async fn ends(&self) -> anyhow::Result<(ExitStatus, String)> {
        let mut node = self.spawn()?;
        let status = node.ended(DEADLINE).await?;
        Ok((status, node.log()))
    }

    /// It must end with this code and say all of this; gives the log.
    pub(crate) async fn refuses(&self, code: i32, words: &[&str]) -> anyhow::Result<String> {
        let (status, log) = self.ends().await?;
        ensure!(status.code() == Some(code), "{status}, not {code}:\n{log}");
        for word in words {
            ensure!(log.contains(word), "{word:?} is missing in:\n{log}");
        }
        ensure!(!log.contains("panicked"), "a panic:\n{log}");
        Ok(log)
    }
}

/// A started node.
pub(crate) struct Node {
    child: Child,
    pid: u32,
    log: PathBuf,
    /// Where this run's part of the log begins.
    from: u64,
}

impl Node {
    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// What this run has logged.
    pub(crate) fn log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        let from = usize::try_from(self.from).unwrap_or(0).min(bytes.len());
        String::from_utf8_lossy(&bytes[from..]).into_owned()
    }

    fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    /// Waits until the log says this; gives the line.
    pub(crate) async fn says(&self, words: &str) -> anyhow::Result<String> {
        until(&format!("the log to say {words:?}"), async || {
            let log = self.log();
            let line = log.lines().find(|line| line.contains(words));
            line.map(str::to_owned)
                .ok_or_else(|| anyhow!("the log ends:\n{}", self.tail()))
        })
        .await
    }

    /// Waits until it is up.
    pub(crate) async fn up(&self) -> anyhow::Result<()> {
        self.says("node is up").await.map(drop)
    }

    async fn port(&self, words: &str) -> anyhow::Result<u16> {
        let line = self.says(words).await?;
        let (_, port) = line.rsplit_once(':').context("no address in the line")?;
        port.trim()
            .parse()
            .with_context(|| format!("no port in {line}"))
    }

    /// Its JSON-RPC, once that is open.
    pub(crate) async fn rpc(&self) -> anyhow::Result<JsonRpc> {
        let port = self.rpc_port().await?;
        let url = format!("http://127.0.0.1:{port}");
        Ok(JsonRpc::new(&url, DEADLINE)?)
    }

    /// Port of its JSON-RPC, once that is open.
    pub(crate) async fn rpc_port(&self) -> anyhow::Result<u16> {
        self.port("JSON-RPC is open").await
    }

    /// Port of its own HTTP.
    pub(crate) async fn http_port(&self) -> anyhow::Result<u16> {
        self.port("the node's HTTP is open").await
    }

    /// Status code and body of a path of its own HTTP.
    pub(crate) async fn http(&self, path: &str) -> anyhow::Result<(u16, String)> {
        let port = self.http_port().await?;
        let response = client()?
            .get(format!("http://127.0.0.1:{port}{path}"))
            .send()
            .await?;
        Ok((response.status().as_u16(), response.text().await?))
    }

    /// Waits until `/readyz` is refused for this reason.
    pub(crate) async fn waits_for(&self, reason: &str) -> anyhow::Result<()> {
        until(&format!("/readyz to say {reason:?}"), async || {
            let (code, body) = self.http("/readyz").await?;
            ensure!(code == 503, "{code}: {body}");
            let problem: Problem = serde_json::from_str(&body)?;
            ensure!(problem.detail.contains(reason), "{}", problem.detail);
            Ok(())
        })
        .await
        .with_context(|| self.tail())?;
        let (code, body) = self.http("/livez").await?;
        ensure!(code == 200, "/livez: {code} {body}");
        Ok(())
    }

    /// Waits until `/readyz` says yes.
    pub(crate) async fn ready(&self) -> anyhow::Result<()> {
        until("/readyz to be 200", async || {
            let (code, body) = self.http("/readyz").await?;
            ensure!(code == 200, "{code}: {body}");
            Ok(())
        })
        .await
        .with_context(|| self.tail())
    }

    /// Waits until its head is at `height`.
    pub(crate) async fn reaches(&self, height: u64) -> anyhow::Result<()> {
        let rpc = self.rpc().await?;
        until(&format!("height {height}"), async || {
            let at = rpc.block_number().await?;
            ensure!(at >= height, "height {at}");
            Ok(())
        })
        .await
        .with_context(|| self.tail())
    }

    /// Waits until it has made `blocks` more blocks than now.
    pub(crate) async fn goes_on(&self, blocks: u64) -> anyhow::Result<()> {
        let height = self.rpc().await?.block_number().await?;
        self.reaches(height + blocks).await
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.pid)
            .ok()
            .and_then(Pid::from_raw)
            .context("a process id")?;
        kill_process(pid, signal).with_context(|| format!("{signal:?} to the node"))
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        match tokio::time::timeout(patience, self.child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => Err(anyhow!("not ended after {patience:?}:\n{}", self.tail())),
        }
    }

    /// Sends SIGTERM; it must end in time, with code 0, and leave its mark. Gives how long it took.
    pub(crate) async fn stop(mut self, data: &Path) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        self.signal(Signal::TERM)?;
        self.stopped(data).await?;
        Ok(begun.elapsed())
    }

    /// As [`Self::stop`], of a node that was told to already.
    pub(crate) async fn stopped(&mut self, data: &Path) -> anyhow::Result<()> {
        let status = self.ended(STOP_MAX).await?;
        ensure!(
            status.code() == Some(0),
            "{status} (signal {:?}):\n{}",
            status.signal(),
            self.tail()
        );
        let mark = data.join("stopped");
        ensure!(mark.is_file(), "no {}:\n{}", mark.display(), self.tail());
        Ok(())
    }

    /// Resident memory, MB.
    pub(crate) fn memory_mb(&self) -> anyhow::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kb = line.and_then(|line| line.split_whitespace().nth(1));
        Ok(kb.context("no VmRSS")?.parse::<f64>()? / 1_024.0)
    }

    /// Open file descriptors.
    pub(crate) fn open_files(&self) -> anyhow::Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.pid))?.count())
    }
}

/// An HTTP client that keeps no connection.
pub(crate) fn client() -> anyhow::Result<reqwest::Client> {
    Ok(reqwest::Client::builder()
        .no_proxy()
        .pool_max_idle_per_host(0)
        .timeout(Duration::from_secs(5))
        .build()?)
}
