//! The start and stop scripts know one home however its path is spelled and whatever its pid file says, follow
//! each other, and remove nothing that a living process uses.

use std::{fs, io::Write, os::unix::fs::symlink, path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context, ensure};
use axolotl_tests::{Cluster, Options, binaries, checks, cluster::START, ports, processes, wait};
use rustix::fs::{FlockOperation, flock};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

const START_SCRIPT: &str = "start-auto-scaling.sh";
const STOP_SCRIPT: &str = "stop-auto-scaling.sh";
/// A run of a script must end within this, another run that it waits for included.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(90);
/// A script that was started holds the lock of its home within this.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// A way to name the home: the directory in which a script is called, and the value of `AXOLOTL_HOME`.
#[derive(Clone, Debug)]
struct Spelling {
    directory: PathBuf,
    home: String,
}

/// What a script did.
#[derive(Debug)]
struct Done {
    ok: bool,
    text: String,
}

impl Done {
    fn must_succeed(self) -> anyhow::Result<String> {
        ensure!(self.ok, "failed: {}", self.text);
        Ok(self.text)
    }

    /// It fails, and names each of `named`; it does not claim that nothing runs.
    fn must_refuse(self, named: &[&str]) -> anyhow::Result<()> {
        ensure!(!self.ok, "not refused: {}", self.text);
        ensure!(!self.text.contains("Nothing was running"), "{}", self.text);
        for named in named {
            ensure!(self.text.contains(named), "no {named:?} in {}", self.text);
        }
        Ok(())
    }
}

/// A chain of one validator that only the scripts start and stop.
struct Chain {
    cluster: Cluster,
    /// Everything that this test makes on disk.
    root: PathBuf,
    home: PathBuf,
}

impl Chain {
    async fn prepare() -> anyhow::Result<Self> {
        let options = Options {
            nodes: 1,
            ..Options::default()
        };
        let cluster = Cluster::prepare(options).await?;
        let root = fs::canonicalize(cluster.home())?;
        let home = root.join("a place/chain");
        fs::create_dir_all(&home)?;
        Ok(Self {
            cluster,
            root,
            home,
        })
    }

    fn plain(&self) -> Spelling {
        self.called_from("", &self.home.display().to_string())
    }

    fn called_from(&self, directory: &str, home: &str) -> Spelling {
        Spelling {
            directory: self.root.join(directory),
            home: home.to_owned(),
        }
    }

    /// A call of a script by this cluster's ports, in which `program` may be put before it.
    fn command(
        &self,
        before: &[&str],
        script: &str,
        spelling: &Spelling,
    ) -> anyhow::Result<Command> {
        let script = binaries::repository().join("scripts").join(script);
        let mut command = match before {
            [] => Command::new(script),
            [program, arguments @ ..] => {
                let mut command = Command::new(program);
                command.args(arguments).arg(script);
                command
            }
        };
        command
            .current_dir(&spelling.directory)
            .env("AXOLOTL_HOME", &spelling.home)
            .env("AXOLOTL_BIN", binaries::directory()?)
            .env("REGISTRY_PORT", self.cluster.ports().registry.to_string())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        for (name, value) in self.cluster.registry_env() {
            if name.ends_with("_PORT_BASE") {
                command.env(name, value);
            }
        }
        Ok(command)
    }

    async fn finish(&self, command: &mut Command, arguments: &[&str]) -> anyhow::Result<Done> {
        let output = command.args(arguments).output();
        let output = tokio::time::timeout(SCRIPT_TIMEOUT, output).await;
        let output = output.context("a script hangs")??;
        let out = String::from_utf8_lossy(&output.stdout);
        let text = format!("{out}{}", String::from_utf8_lossy(&output.stderr));
        println!("{command:?}: {}\n{text}", output.status);
        Ok(Done {
            ok: output.status.success(),
            text,
        })
    }

    async fn start(&self, spelling: &Spelling) -> anyhow::Result<Done> {
        let mut command = self.command(&[], START_SCRIPT, spelling)?;
        self.finish(&mut command, &["--local", "--nodes", "1"])
            .await
    }

    async fn stop(&self, spelling: &Spelling, arguments: &[&str]) -> anyhow::Result<Done> {
        let mut command = self.command(&[], STOP_SCRIPT, spelling)?;
        self.finish(&mut command, arguments).await
    }

    /// Registries and nodes of the chain that live.
    fn living(&self, program: &str) -> Vec<u32> {
        let all = self.cluster.processes().into_iter();
        all.filter(|process| process.program == program)
            .map(|process| process.pid)
            .collect()
    }

    /// The one registry of the chain; there is one node, too.
    fn registry(&self) -> anyhow::Result<u32> {
        let (registries, nodes) = (self.living("axolotl-registry"), self.living("axolotl"));
        ensure!(
            registries.len() == 1 && nodes.len() == 1,
            "registries {registries:?}, nodes {nodes:?}"
        );
        Ok(registries[0])
    }

    fn nothing_lives(&self) -> anyhow::Result<()> {
        let (registries, nodes) = (self.living("axolotl-registry"), self.living("axolotl"));
        ensure!(
            registries.is_empty() && nodes.is_empty(),
            "left: registries {registries:?}, nodes {nodes:?}"
        );
        Ok(())
    }

    fn pid_file(&self) -> PathBuf {
        self.home.join("registry.pid")
    }

    fn node_data(&self) -> PathBuf {
        self.home.join("nodes/node1/data")
    }

    /// Keys, blocks and the store are there.
    fn nothing_is_removed(&self) -> anyhow::Result<()> {
        for path in [
            self.node_data().join("node.key"),
            self.node_data().join("blocks"),
            self.home.join("registry/store/db"),
            self.home.join("registry/authority_key"),
        ] {
            ensure!(path.exists(), "{} is gone", path.display());
        }
        Ok(())
    }

    /// The chain makes blocks.
    async fn goes_on(&mut self) -> anyhow::Result<()> {
        self.cluster.refresh().await?;
        checks::goes_on(&self.cluster.rpc("node1")?, 1).await
    }

    /// Waits until a script of this kind has the lock of the home.
    async fn wait_locked_by(&self, doing: &str) -> anyhow::Result<()> {
        let path = self.home.join("home.lock");
        wait::until(&format!("a {doing} under way"), LOCK_TIMEOUT, async || {
            let holder = fs::read_to_string(&path)?;
            ensure!(holder.starts_with(doing), "{holder:?} has the lock");
            Ok(())
        })
        .await
    }
}

/// Ways to spell the home `<root>/a place/chain`.
fn spellings(chain: &Chain) -> anyhow::Result<Vec<(&'static str, Spelling)>> {
    let root = chain.root.display().to_string();
    fs::create_dir_all(chain.root.join("elsewhere"))?;
    symlink("a place", chain.root.join("link"))?;
    symlink("a place/chain", chain.root.join("short"))?;
    symlink("short", chain.root.join("shorter"))?;
    let at = |directory: &str, home: String| chain.called_from(directory, &home);
    Ok(vec![
        ("as it is", at("", format!("{root}/a place/chain"))),
        ("slash at the end", at("", format!("{root}/a place/chain/"))),
        (
            "doubled slashes",
            at("", format!("{root}//a place///chain//")),
        ),
        ("dots", at("", format!("{root}/./a place/./chain/."))),
        (
            "up and down",
            at("", format!("{root}/a place/../a place/chain")),
        ),
        ("relative", at("", "a place/chain".to_owned())),
        ("relative with dot", at("a place", "./chain/".to_owned())),
        (
            "from elsewhere",
            at("elsewhere", "../a place/chain".to_owned()),
        ),
        ("link to it", at("elsewhere", format!("{root}/short"))),
        ("link to its parent", at("", format!("{root}/link/chain"))),
        ("link to a link", at("", format!("{root}/shorter/"))),
        (
            "up behind a link",
            at("", format!("{root}/link/../link/chain")),
        ),
        ("from inside", at("a place/chain", ".".to_owned())),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_is_found_however_it_is_spelled() -> anyhow::Result<()> {
    let chain = Chain::prepare().await?;
    let table = spellings(&chain)?;
    for (row, (name, first)) in table.iter().enumerate() {
        let (second_name, second) = &table[(row + 1) % table.len()];
        let (third_name, third) = &table[(row + 5) % table.len()];
        let cycle = async {
            // "From inside" needs a directory to be in.
            fs::create_dir_all(&chain.home)?;
            chain.start(first).await?.must_succeed()?;
            let registry = chain.registry()?;
            let again = chain.start(second).await?.must_succeed()?;
            ensure!(again.contains("nothing was changed"), "{again}");
            ensure!(chain.registry()? == registry, "the registry is another one");
            let wiped = chain.stop(third, &["--wipe"]).await?.must_succeed()?;
            ensure!(!wiped.contains("Nothing was running"), "{wiped}");
            chain.nothing_lives()?;
            ensure!(!chain.home.exists(), "the wipe left something");
            anyhow::Ok(())
        };
        cycle.await.with_context(|| {
            format!("started as {name:?}, again as {second_name:?}, wiped as {third_name:?}")
        })?;
    }
    chain.cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pid_file_is_never_believed() -> anyhow::Result<()> {
    let chain = Chain::prepare().await?;
    let home = chain.plain();
    let mut other = Command::new("sleep")
        .arg("600")
        .kill_on_drop(true)
        .spawn()?;
    let reused = other.id().context("the other process ended")?.to_string();
    for (name, content) in [
        ("lost", None),
        ("empty", Some("")),
        ("of a process that is gone", Some("4194304\n")),
        ("no number", Some("../../etc\n")),
        ("of another process", Some(reused.as_str())),
    ] {
        let spoil = || match content {
            None => fs::remove_file(chain.pid_file()),
            Some(content) => fs::write(chain.pid_file(), content),
        };
        let row = async {
            chain.start(&home).await?.must_succeed()?;
            let registry = chain.registry()?;
            spoil()?;
            let again = chain.start(&home).await?.must_succeed()?;
            ensure!(again.contains("nothing was changed"), "{again}");
            ensure!(chain.registry()? == registry, "the registry is another one");
            let kept = fs::read_to_string(chain.pid_file())?;
            ensure!(kept.trim() == registry.to_string(), "{kept:?} was left");
            spoil()?;
            let stopped = chain.stop(&home, &[]).await?.must_succeed()?;
            ensure!(!stopped.contains("Nothing was running"), "{stopped}");
            chain.nothing_lives()?;
            ensure!(!chain.pid_file().exists(), "the pid file was left");
            chain.nothing_is_removed()?;
            ensure!(other.try_wait()?.is_none(), "another process was ended");
            anyhow::Ok(())
        };
        row.await.with_context(|| format!("a pid file {name}"))?;
    }
    // A chain that does not run, and a pid that lives.
    fs::write(chain.pid_file(), &reused)?;
    let nothing = chain.stop(&home, &["--wipe"]).await?.must_succeed()?;
    ensure!(nothing.contains("Nothing was running"), "{nothing}");
    ensure!(other.try_wait()?.is_none(), "another process was ended");
    ensure!(!chain.home.exists(), "the wipe left something");
    chain.cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_of_one_home_follow_each_other() -> anyhow::Result<()> {
    let mut chain = Chain::prepare().await?;
    let (plain, other) = (
        chain.plain(),
        chain.called_from("a place", "../a place//chain/"),
    );
    // A start that has to wait says for whom.
    let lock = fs::File::create(chain.home.join("home.lock"))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    (&lock).write_all(b"stop, process 4711\n")?;
    let mut waiting = chain.command(&[], START_SCRIPT, &other)?;
    let mut waiting = waiting
        .args(["--local", "--nodes", "1"])
        .stdout(Stdio::piped())
        .spawn()?;
    let out = waiting.stdout.take().context("its output is a pipe")?;
    let mut lines = BufReader::new(out).lines();
    let line = tokio::time::timeout(LOCK_TIMEOUT, lines.next_line()).await??;
    let line = line.context("it ended")?;
    ensure!(
        line.contains("waiting") && line.contains("stop, process 4711"),
        "{line}"
    );
    chain.nothing_lives()?;
    drop(lock);
    while lines.next_line().await?.is_some() {}
    ensure!(
        waiting.wait().await?.success(),
        "the start that waited failed"
    );
    chain.registry()?;
    chain.stop(&plain, &[]).await?.must_succeed()?;

    let (one, two) = tokio::try_join!(chain.start(&plain), chain.start(&other))?;
    let said = [one.must_succeed()?, two.must_succeed()?];
    let unchanged = said
        .iter()
        .filter(|text| text.contains("nothing was changed"));
    ensure!(unchanged.count() == 1, "{said:?}");
    let registry = chain.registry()?;

    let stop_then_start = async {
        chain.wait_locked_by("stop").await?;
        chain.start(&other).await
    };
    let (stopped, started) = tokio::try_join!(chain.stop(&plain, &[]), stop_then_start)?;
    stopped.must_succeed()?;
    started.must_succeed()?;
    ensure!(chain.registry()? != registry, "nothing was stopped");
    chain.goes_on().await?;

    chain.stop(&plain, &[]).await?.must_succeed()?;
    let start_then_wipe = async {
        chain.wait_locked_by("start").await?;
        chain.stop(&other, &["--wipe"]).await
    };
    let (started, wiped) = tokio::try_join!(chain.start(&plain), start_then_wipe)?;
    started.must_succeed()?;
    let wiped = wiped.must_succeed()?;
    ensure!(!wiped.contains("Nothing was running"), "{wiped}");
    chain.nothing_lives()?;
    ensure!(!chain.home.exists(), "the wipe left something");

    // The second wipe waits for a home that is gone then.
    chain.start(&plain).await?.must_succeed()?;
    let wipe = ["--wipe"];
    let (one, two) = tokio::try_join!(chain.stop(&plain, &wipe), chain.stop(&other, &wipe))?;
    one.must_succeed()?;
    two.must_succeed()?;
    chain.nothing_lives()?;
    ensure!(!chain.home.exists(), "a wipe left something");

    // A start that waits for a wipe makes a new home.
    chain.start(&plain).await?.must_succeed()?;
    let wipe_then_start = async {
        chain.wait_locked_by("stop").await?;
        chain.start(&plain).await
    };
    let (wiped, started) = tokio::try_join!(chain.stop(&other, &wipe), wipe_then_start)?;
    wiped.must_succeed()?;
    started.must_succeed()?;
    chain.registry()?;
    chain.nothing_is_removed()?;
    chain.stop(&plain, &wipe).await?.must_succeed()?;
    chain.cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_in_use_is_removed() -> anyhow::Result<()> {
    let mut chain = Chain::prepare().await?;
    let home = chain.plain();
    let (slash, wipe) = (chain.called_from("a place", "chain/"), ["--wipe"]);

    // A node lives, its registry was killed.
    chain.start(&home).await?.must_succeed()?;
    processes::kill(chain.registry()?).await?;
    ensure!(chain.living("axolotl").len() == 1, "the node does not live");
    let wiped = chain.stop(&slash, &wipe).await?.must_succeed()?;
    ensure!(!wiped.contains("Nothing was running"), "{wiped}");
    chain.nothing_lives()?;
    ensure!(!chain.home.exists(), "the wipe left something");

    // All live where the scripts cannot see them: their locks are seen.
    chain.start(&home).await?.must_succeed()?;
    let registry = chain.registry()?;
    let apart = ["unshare", "--pid", "--mount-proc", "--fork"];
    for (script, arguments) in [
        (STOP_SCRIPT, &wipe[..]),
        (STOP_SCRIPT, &[]),
        (START_SCRIPT, &["--local"]),
    ] {
        let mut command = chain.command(&apart, script, &slash)?;
        let done = chain.finish(&mut command, arguments).await?;
        let home = chain.home.display().to_string();
        done.must_refuse(&[&home, "not visible here", "where it was started"])?;
        chain.nothing_is_removed()?;
        ensure!(chain.registry()? == registry, "the registry is another one");
    }
    fs::remove_file(chain.pid_file())?;
    chain.goes_on().await?;

    // Another home at the same port: it neither runs nor is in the way.
    let other = chain.called_from("", "other home");
    let nothing = chain.stop(&other, &wipe).await?.must_succeed()?;
    let other_path = chain.root.join("other home").display().to_string();
    let (pid, data) = (registry.to_string(), chain.home.join("registry"));
    for named in [&other_path, &pid, &data.display().to_string()] {
        ensure!(nothing.contains(named), "no {named} in {nothing}");
    }
    let refused = chain.start(&other).await?;
    refused.must_refuse(&[&pid, "REGISTRY_PORT"])?;
    ensure!(chain.registry()? == registry, "the registry is another one");

    // Containers cannot be looked at.
    let mut command = chain.command(&[], STOP_SCRIPT, &home)?;
    command.env(
        "DOCKER_HOST",
        format!("unix://{}/nobody", chain.root.display()),
    );
    let done = chain.finish(&mut command, &["--docker"]).await?;
    done.must_refuse(&["docker"])?;

    // A process that holds a lock, and is no program of ours.
    chain.stop(&slash, &[]).await?.must_succeed()?;
    let lock = fs::File::open(chain.node_data().join("lock"))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    let me = std::process::id().to_string();
    let data = chain.node_data().display().to_string();
    for done in [
        chain.stop(&home, &wipe).await?,
        chain.stop(&slash, &[]).await?,
        chain.start(&home).await?,
    ] {
        done.must_refuse(&[&me, &data])?;
        chain.nothing_is_removed()?;
    }
    drop(lock);

    // What the start script did not make stays.
    let note = chain.home.join("note");
    fs::write(&note, "of the owner")?;
    let wiped = chain.stop(&home, &wipe).await?.must_succeed()?;
    ensure!(wiped.contains("note") && note.exists(), "{wiped}");
    let left: Vec<_> = fs::read_dir(&chain.home)?.collect();
    ensure!(left.len() == 1, "left: {left:?}");
    chain.cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_the_scripts_did_not_start_are_found() -> anyhow::Result<()> {
    let chain = Chain::prepare().await?;
    let home = chain.plain();
    spellings(&chain)?;
    let root = chain.root.display().to_string();

    // A registry as earlier versions of the start script ran it: with paths as they were typed.
    let mut registry = Command::new(binaries::registry()?);
    registry
        .arg("serve")
        .env_clear()
        .envs(chain.cluster.registry_env())
        .env("DATA_DIR", format!("{root}/link/chain//registry"))
        .env("NODES_DIR", format!("{root}/link/chain//nodes"));
    let mut registry = spawn(&mut registry, &chain)?;
    wait::until("a chain", START, async || {
        ensure!(
            chain.node_data().join("genesis.json").exists(),
            "no genesis"
        );
        chain.registry().map(drop)
    })
    .await?;
    let again = chain.start(&home).await?.must_succeed()?;
    ensure!(again.contains("nothing was changed"), "{again}");
    let stopped = chain.stop(&home, &[]).await?.must_succeed()?;
    ensure!(!stopped.contains("Nothing was running"), "{stopped}");
    chain.nothing_lives()?;
    registry.wait().await?;

    // A node by hand, its directory named by an argument, relative to where it was started.
    let mut node = Command::new(binaries::axolotl()?);
    node.args(["node", "--data-dir", "../short/nodes/node1/data"])
        .current_dir(chain.root.join("elsewhere"))
        .env_clear()
        .env("TEST_ROOT", &chain.root)
        .env("NODE_ID", "node1")
        .env("PORT", ports::free_port()?.to_string())
        .env("HTTP_PORT", ports::free_port()?.to_string())
        .env("RPC_PORT", ports::free_port()?.to_string());
    let mut node = spawn(&mut node, &chain)?;
    let pid = node.id().context("the node ended")?.to_string();
    wait::until("the node's lock", START, async || {
        let holder = fs::read_to_string(chain.node_data().join("lock"))?;
        ensure!(holder.trim() == pid, "{holder:?} has the lock");
        Ok(())
    })
    .await?;
    // It is stopped; without its mark the directory might be anybody's.
    let refused = chain.stop(&home, &["--wipe"]).await?;
    refused.must_refuse(&["was not made by the start script"])?;
    node.wait().await?;
    chain.nothing_is_removed()?;
    fs::write(chain.home.join("axolotl-home"), "")?;
    chain.stop(&home, &["--wipe"]).await?.must_succeed()?;
    ensure!(!chain.home.exists(), "the wipe left something");
    chain.cluster.finish().await
}

/// Starts a program of ours; what it says goes to a log of the cluster.
fn spawn(command: &mut Command, chain: &Chain) -> anyhow::Result<Child> {
    let open = || {
        let path = chain.root.join("by_hand.log");
        fs::File::options().create(true).append(true).open(path)
    };
    let (out, err) = (open()?, open()?);
    let command = command.stdin(Stdio::null()).stdout(out).stderr(err);
    Ok(command.kill_on_drop(true).spawn()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_whose_home_was_taken_away_still_runs() -> anyhow::Result<()> {
    let chain = Chain::prepare().await?;
    let home = chain.plain();
    chain.start(&home).await?.must_succeed()?;
    let registry = chain.registry()?.to_string();
    fs::rename(&chain.home, chain.root.join("taken away"))?;
    let refused = chain.start(&home).await?;
    refused.must_refuse(&[&registry, "data was removed"])?;
    let stopped = chain.stop(&home, &["--wipe"]).await?.must_succeed()?;
    ensure!(!stopped.contains("Nothing was running"), "{stopped}");
    chain.nothing_lives()?;
    ensure!(!chain.home.exists(), "the wipe left something");
    chain.cluster.finish().await
}
