//! Machines with a network and an address each, on one machine: network namespaces on a bridge.
//!
//! Machine k has the address 10.0.0.k and a home directory of its own; `K` is its number. `scp` copies
//! between their homes, since nobody listens for ssh there. Needs root and iproute2.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, ensure};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::{
    binaries,
    processes::{self, Signal},
    setup::take_turn,
    wait,
};

/// Most time for one block of commands.
const COMMANDS: Duration = Duration::from_secs(90);
/// Most time for an orderly end.
const END: Duration = Duration::from_secs(15);
/// Stands in for `scp`: the host's last number is the machine's.
const SCP: &str = r#"#!/bin/sh
set -eu
place() {
    case $1 in
    *:*) host=${1%%:*} && echo "$MACHINES/machine${host##*.}/${1#*:}" ;;
    *) echo "$1" ;;
    esac
}
exec cp "$(place "$1")" "$(place "$2")"
"#;

/// Some machines.
pub struct Machines {
    home: TempDir,
    prefix: String,
    numbers: Vec<u8>,
    /// What goes on in the background, with its script.
    running: BTreeMap<u8, (Child, String)>,
    finished: bool,
    _turn: File,
}

impl Machines {
    /// Connects machines with these numbers. Waits for clusters of other tests to end.
    ///
    /// # Errors
    /// When this user may not do that.
    pub async fn connect(numbers: &[u8]) -> anyhow::Result<Self> {
        let turn = take_turn("processes").await?;
        ensure!(
            rustix::process::geteuid().is_root(),
            "machines are network namespaces, and only root makes those: run the tests as root"
        );
        let home = tempfile::Builder::new().prefix("axolotl-test-").tempdir()?;
        let machines = Self {
            home,
            prefix: format!("axt{}", std::process::id()),
            numbers: numbers.to_vec(),
            running: BTreeMap::new(),
            finished: false,
            _turn: turn,
        };
        let tools = machines.home.path().join("tools");
        fs::create_dir(&tools)?;
        fs::write(tools.join("scp"), SCP)?;
        fs::set_permissions(tools.join("scp"), fs::Permissions::from_mode(0o755))?;
        let lan = machines.lan();
        ip(&["netns", "add", &lan]).await?;
        ip(&["-n", &lan, "link", "add", "bridge", "type", "bridge"]).await?;
        ip(&["-n", &lan, "link", "set", "bridge", "up"]).await?;
        for number in numbers {
            fs::create_dir(machines.home_of(*number))?;
            let space = machines.space(*number);
            let (port, address) = (format!("port{number}"), format!("10.0.0.{number}/24"));
            let pair = ["link", "add", "eth0", "type", "veth", "peer", "name", &port];
            ip(&["netns", "add", &space]).await?;
            ip(&[&["-n", &space], &pair[..], &["netns", &lan]].concat()).await?;
            ip(&["-n", &lan, "link", "set", &port, "master", "bridge", "up"]).await?;
            ip(&["-n", &space, "addr", "add", &address, "dev", "eth0"]).await?;
            ip(&["-n", &space, "link", "set", "lo", "up"]).await?;
            machines.plug(*number).await?;
        }
        Ok(machines)
    }

    fn lan(&self) -> String {
        format!("{}lan", self.prefix)
    }

    fn space(&self, number: u8) -> String {
        format!("{}m{number}", self.prefix)
    }

    /// Home directory on a machine.
    pub fn home_of(&self, number: u8) -> PathBuf {
        self.home.path().join(format!("machine{number}"))
    }

    /// Connects a machine with the network.
    ///
    /// # Errors
    /// When there is no such machine.
    pub async fn plug(&self, number: u8) -> anyhow::Result<()> {
        ip(&["-n", &self.space(number), "link", "set", "eth0", "up"]).await
    }

    /// Cuts a machine off; what runs on it goes on.
    ///
    /// # Errors
    /// When there is no such machine.
    pub async fn unplug(&self, number: u8) -> anyhow::Result<()> {
        ip(&["-n", &self.space(number), "link", "set", "eth0", "down"]).await
    }

    /// Splits the network in two: these machines on one side, all others on the other.
    ///
    /// # Errors
    /// When it is split already.
    pub async fn split(&self, side: &[u8]) -> anyhow::Result<()> {
        let lan = self.lan();
        ip(&["-n", &lan, "link", "add", "island", "type", "bridge"]).await?;
        ip(&["-n", &lan, "link", "set", "island", "up"]).await?;
        for number in side {
            let port = format!("port{number}");
            ip(&["-n", &lan, "link", "set", &port, "master", "island"]).await?;
        }
        Ok(())
    }

    /// Ends a [`Self::split`].
    ///
    /// # Errors
    /// When the network is not split.
    pub async fn unite(&self) -> anyhow::Result<()> {
        let lan = self.lan();
        for number in &self.numbers {
            let port = format!("port{number}");
            ip(&["-n", &lan, "link", "set", &port, "master", "bridge"]).await?;
        }
        ip(&["-n", &lan, "link", "del", "island"]).await
    }

    /// Lets these machines reach all but one another, or (`cut` is false) one another again.
    ///
    /// # Errors
    /// When there is no such machine.
    pub async fn part(&self, numbers: &[u8], cut: bool) -> anyhow::Result<()> {
        let (lan, cut) = (self.lan(), if cut { "on" } else { "off" });
        for number in numbers {
            let port = format!("port{number}");
            let isolate = [
                "link",
                "set",
                &port,
                "type",
                "bridge_slave",
                "isolated",
                cut,
            ];
            ip(&[&["-n", &lan], &isolate[..]].concat()).await?;
        }
        Ok(())
    }

    fn command(&self, number: u8, script: &str) -> anyhow::Result<Command> {
        let tools = self.home.path().join("tools");
        let programs = binaries::directory()?;
        let system = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{}:{system}", tools.display(), programs.display());
        let mut command = Command::new("ip");
        command
            .args([
                "netns",
                "exec",
                &self.space(number),
                "bash",
                "-euo",
                "pipefail",
                "-c",
                script,
            ])
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.home_of(number))
            .env("MACHINES", self.home.path())
            .env("K", number.to_string())
            .current_dir(self.home_of(number))
            .stdin(Stdio::null())
            .process_group(0)
            .kill_on_drop(true);
        Ok(command)
    }

    /// Runs commands on a machine; gives what they printed.
    ///
    /// # Errors
    /// When one of them fails, with what was said.
    pub async fn run(&self, number: u8, script: &str) -> anyhow::Result<String> {
        let output = tokio::time::timeout(COMMANDS, self.command(number, script)?.output())
            .await
            .with_context(|| format!("on machine {number} this does not end:\n{script}"))??;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "on machine {number}: {}\n{script}{text}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(text)
    }

    /// Starts commands on a machine that go on.
    ///
    /// # Errors
    /// When something goes on there already.
    pub fn start(&mut self, number: u8, script: &str) -> anyhow::Result<()> {
        ensure!(
            !self.running.contains_key(&number),
            "machine {number} is busy"
        );
        let log = self.home.path().join(format!("machine{number}.log"));
        let open = || File::options().create(true).append(true).open(&log);
        let mut command = self.command(number, script)?;
        let child = command.stdout(open()?).stderr(open()?).spawn()?;
        self.running.insert(number, (child, script.to_owned()));
        Ok(())
    }

    /// Ends what goes on at a machine in order; gives the script that started it.
    ///
    /// # Errors
    /// When nothing goes on, or it does not end, or not well.
    pub async fn end(&mut self, number: u8) -> anyhow::Result<String> {
        let (mut child, script) = self
            .running
            .remove(&number)
            .with_context(|| format!("nothing goes on at machine {number}"))?;
        for process in self.programs(number) {
            processes::signal(process, Signal::TERM)?;
        }
        let ended = tokio::time::timeout(END, child.wait()).await;
        let status = ended.with_context(|| format!("machine {number} does not end"))??;
        ensure!(status.success(), "machine {number} ended with {status}");
        Ok(script)
    }

    /// Ends what goes on at a machine with -9; gives the script that started it.
    ///
    /// # Errors
    /// When nothing goes on.
    pub async fn kill(&mut self, number: u8) -> anyhow::Result<String> {
        let (mut child, script) = self
            .running
            .remove(&number)
            .with_context(|| format!("nothing goes on at machine {number}"))?;
        for process in self.programs(number) {
            processes::kill(process).await?;
        }
        let ended = tokio::time::timeout(END, child.wait()).await;
        ended.with_context(|| format!("machine {number} does not end"))??;
        Ok(script)
    }

    /// Process ids of Axolotl's programs on a machine.
    fn programs(&self, number: u8) -> Vec<u32> {
        let home = self.home_of(number).display().to_string();
        processes::naming(self.home.path())
            .into_iter()
            .filter(|process| process.variable("HOME") == Some(&home))
            .filter(|process| process.program.starts_with("axolotl"))
            .map(|process| process.pid)
            .collect()
    }

    /// Waits until commands succeed on a machine.
    ///
    /// # Errors
    /// After the deadline, with what they said last.
    pub async fn until(
        &self,
        number: u8,
        script: &str,
        deadline: Duration,
    ) -> anyhow::Result<String> {
        let what = format!("machine {number}: {script}");
        wait::until(&what, deadline, async || self.run(number, script).await).await
    }

    /// Ends a test that went well: ends everything in order.
    ///
    /// # Errors
    /// When something does not end.
    pub async fn finish(mut self) -> anyhow::Result<()> {
        let running: Vec<u8> = self.running.keys().copied().collect();
        for number in running {
            self.end(number).await?;
        }
        self.finished = true;
        Ok(())
    }

    fn remove(home: &Path, spaces: &[String]) {
        processes::kill_all_naming(home);
        for space in spaces {
            let _ = std::process::Command::new("ip")
                .args(["netns", "del", space])
                .output();
        }
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        if !self.finished {
            eprintln!(
                "the test did not end well; the ends of its logs:\n{}",
                processes::log_tails(self.home.path())
            );
        }
        let spaces = self.numbers.iter().map(|number| self.space(*number));
        let spaces: Vec<String> = spaces.chain([self.lan()]).collect();
        Self::remove(self.home.path(), &spaces);
    }
}

async fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip").args(arguments).output().await;
    let output = output.context("ip cannot be run: scripts/test.sh installs iproute2")?;
    ensure!(
        output.status.success(),
        "ip {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
