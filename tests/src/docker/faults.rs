//! What is done to containers from outside: crashes, volumes that are lost or wiped, networks that are cut.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use axolotl_node::storage::{DataDir, data_dir::VolumeIdentity};
use tempfile::TempDir;
use tokio::process::Command;

use super::{DockerCluster, docker, run};
use crate::checks;

/// The volume of a node's data.
const DATA: &str = r#"{{range .Mounts}}{{if eq .Destination "/data"}}{{.Name}}{{end}}{{end}}"#;
/// The address of a container, and of the host as the container sees it.
const ADDRESSES: &str = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.Gateway}}{{end}}";

/// Most addresses that are taken to move one container.
const PLACEHOLDERS: usize = 4;

/// A container that does nothing but hold an address of a cluster's network.
pub struct Placeholder(String);

impl Placeholder {
    async fn start(prefix: &str, number: usize) -> anyhow::Result<Self> {
        let name = format!("{prefix}placeholder{number}");
        let network = format!("{prefix}net");
        let image = format!("axolotl-registry:{}", super::TAG);
        let this = Self(name.clone());
        let run = ["run", "-d", "--name", &*name, "--network", &*network];
        let settings = ["-e", "RUNTIME=none"];
        docker(&[&run[..], &settings, &[&*image]].concat()).await?;
        Ok(this)
    }
}

impl Drop for Placeholder {
    fn drop(&mut self) {
        let remove = std::process::Command::new("docker")
            .args(["rm", "-f", &self.0])
            .output();
        if let Err(error) = remove {
            eprintln!("{} is left: {error}", self.0);
        }
    }
}

impl DockerCluster {
    /// Ends a container's process with -9 from outside: a crash, as the engine sees it.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn crash(&self, name: &str) -> anyhow::Result<()> {
        let pid = self.pid(name).await?;
        run(Command::new("kill").args(["-9", &pid])).await.map(drop)
    }

    async fn pid(&self, name: &str) -> anyhow::Result<String> {
        let container = self.container(name);
        let pid = docker(&["inspect", "-f", "{{.State.Pid}}", &container]).await?;
        ensure!(pid != "0", "{container} does not run");
        Ok(pid)
    }

    /// Takes a container off the network.
    ///
    /// # Errors
    /// As [`run`].
    pub async fn disconnect(&self, name: &str) -> anyhow::Result<()> {
        self.network("disconnect", name).await
    }

    /// Puts it back.
    ///
    /// # Errors
    /// As [`run`].
    pub async fn reconnect(&self, name: &str) -> anyhow::Result<()> {
        self.network("connect", name).await
    }

    /// Takes a container off the network and puts it back with another address. Addresses stay taken for as long as
    /// what is returned lives.
    ///
    /// # Errors
    /// As [`run`], or when the engine gives it the same address again and again.
    pub async fn move_elsewhere(&self, name: &str) -> anyhow::Result<Vec<Placeholder>> {
        let (before, _) = self.addresses(name).await?;
        let mut taken = Vec::new();
        while taken.len() < PLACEHOLDERS {
            self.disconnect(name).await?;
            // Whoever comes next may be given the address that became free.
            taken.push(Placeholder::start(&self.prefix, taken.len()).await?);
            self.reconnect(name).await?;
            let (after, _) = self.addresses(name).await?;
            if before != after {
                println!("{name} moved from {before} to {after}");
                return Ok(taken);
            }
        }
        anyhow::bail!("{name} has {before} again and again")
    }

    /// From now on a container exchanges no packets with `others`; everything else passes, such as the registry.
    ///
    /// # Errors
    /// When it does not run, or this user is not root.
    pub async fn cut_from(&self, name: &str, others: &[&str]) -> anyhow::Result<()> {
        let mut rules = Vec::new();
        for other in others {
            let (address, _) = self.addresses(other).await?;
            for (chain, side) in [("INPUT", "-s"), ("OUTPUT", "-d")] {
                rules.push(format!("iptables -w -A {chain} {side} {address} -j DROP"));
            }
        }
        self.in_network_of(name, &rules.join(" && ")).await
    }

    async fn network(&self, verb: &str, name: &str) -> anyhow::Result<()> {
        let (network, container) = (format!("{}net", self.prefix), self.container(name));
        docker(&["network", verb, &network, &container])
            .await
            .map(drop)
    }

    /// Address of a container, and of the host as it sees it.
    async fn addresses(&self, name: &str) -> anyhow::Result<(String, String)> {
        let text = docker(&["inspect", "-f", ADDRESSES, &self.container(name)]).await?;
        let (own, host) = text.split_once(' ').context("it has no address")?;
        Ok((own.to_owned(), host.to_owned()))
    }

    /// The address of a node's own HTTP, which is not published.
    ///
    /// # Errors
    /// When it does not run.
    pub(super) async fn http_of(&self, name: &str) -> anyhow::Result<String> {
        let (address, _) = self.addresses(name).await?;
        ensure!(!address.is_empty(), "{name} does not run");
        Ok(format!("http://{address}:8080"))
    }

    /// From now on a container exchanges packets with `others` and with this machine only. What is for
    /// anybody else, or from there, is lost without a word, as with a cut cable; also of connections
    /// that are open.
    ///
    /// # Errors
    /// When it does not run, or this user is not root.
    pub async fn confine(&self, name: &str, others: &[&str]) -> anyhow::Result<()> {
        let (_, host) = self.addresses(name).await?;
        let mut allowed = vec![host];
        for other in others {
            allowed.push(self.addresses(other).await?.0);
        }
        let mut rules = Vec::new();
        for (chain, way, side) in [("INPUT", "-i", "-s"), ("OUTPUT", "-o", "-d")] {
            // The engine's name server answers inside of the container.
            rules.push(format!("iptables -w -A {chain} {way} lo -j ACCEPT"));
            for address in &allowed {
                rules.push(format!("iptables -w -A {chain} {side} {address} -j ACCEPT"));
            }
        }
        // Last, so that nothing is cut before all is.
        rules.extend(["INPUT", "OUTPUT"].map(|chain| format!("iptables -w -A {chain} -j DROP")));
        self.in_network_of(name, &rules.join(" && ")).await
    }

    /// Ends [`Self::confine`] and [`Self::cut_from`].
    ///
    /// # Errors
    /// When it does not run.
    pub async fn release(&self, name: &str) -> anyhow::Result<()> {
        let flush = "iptables -w -F INPUT && iptables -w -F OUTPUT";
        self.in_network_of(name, flush).await
    }

    /// Runs a script of this machine in the network of a container.
    async fn in_network_of(&self, name: &str, script: &str) -> anyhow::Result<()> {
        let space = format!("--net=/proc/{}/ns/net", self.pid(name).await?);
        let words = [&*space, "sh", "-c", script];
        run(Command::new("nsenter").args(words)).await.map(drop)
    }

    /// Removes running containers all at once, then their volumes: they are gone for good.
    ///
    /// # Errors
    /// As [`run`].
    pub async fn lose(&self, names: &[String]) -> anyhow::Result<()> {
        let mut volumes = Vec::new();
        for name in names {
            volumes.push(self.volume(name).await?);
        }
        let containers: Vec<String> = names.iter().map(|name| self.container(name)).collect();
        let remove = async |verb: &[&str], things: &[String]| {
            let things: Vec<&str> = things.iter().map(String::as_str).collect();
            docker(&[verb, &things].concat()).await
        };
        remove(&["rm", "-f"], &containers).await?;
        // With -f: the registry removes what it made itself, and may be faster.
        remove(&["volume", "rm", "-f"], &volumes).await?;
        let left = self.volumes().await?;
        ensure!(
            !volumes.iter().any(|volume| left.contains(volume)),
            "{left:?} are left of {volumes:?}"
        );
        Ok(())
    }

    /// Name of the volume of a node's data.
    ///
    /// # Errors
    /// When the node has no container.
    pub async fn volume(&self, name: &str) -> anyhow::Result<String> {
        let volume = docker(&["inspect", "-f", DATA, &self.container(name)]).await?;
        ensure!(!volume.is_empty(), "{name} has no volume");
        Ok(volume)
    }

    /// Removes what is in the volume of a stopped node, but for the files named.
    ///
    /// # Errors
    /// When it runs, or this user is not root.
    pub async fn wipe(&self, name: &str, but_for: &[&str]) -> anyhow::Result<()> {
        let pid = self.pid(name).await;
        ensure!(pid.is_err(), "{name} runs");
        let directory = place_of(&self.volume(name).await?).await?;
        let entries = std::fs::read_dir(&directory).with_context(|| not_root(&directory))?;
        for entry in entries {
            let path = entry?.path();
            let kept = path
                .file_name()
                .is_some_and(|name| but_for.iter().any(|kept| name == *kept));
            match (kept, path.is_dir()) {
                (true, _) => {}
                (false, true) => std::fs::remove_dir_all(path)?,
                (false, false) => std::fs::remove_file(path)?,
            }
        }
        Ok(())
    }

    /// Who a stopped node is, by its volume.
    ///
    /// # Errors
    /// When this user is not root.
    pub async fn identity(&self, name: &str) -> anyhow::Result<VolumeIdentity> {
        let place = place_of(&self.volume(name).await?).await?;
        DataDir::identity(&place).with_context(|| not_root(&place))
    }

    /// Stops everything for good and gives copies of the consensus logs of all volumes that are left,
    /// each in a directory of the volume's name. No validator signed two different things in one place, by all that they hold.
    ///
    /// # Errors
    /// With the two signatures, or when this user is not root.
    pub async fn end_and_read_logs(&self) -> anyhow::Result<TempDir> {
        self.do_to(&["stop"], "registry").await?;
        let running = self.running().await?;
        let running: Vec<String> = running.iter().map(|name| self.container(name)).collect();
        let names: Vec<&str> = running.iter().map(String::as_str).collect();
        docker(&[&["stop"], &names[..]].concat()).await?;
        let copies = tempfile::Builder::new().prefix("axolotl-test-").tempdir()?;
        for volume in self.volumes().await? {
            let log = place_of(&volume).await?.join("consensus");
            match log.try_exists() {
                Ok(true) => copy_files(&log, &copies.path().join(&volume).join("consensus"))?,
                Ok(false) => {}
                Err(error) => return Err(error).with_context(|| not_root(&log)),
            }
        }
        checks::never_signed_twice(copies.path())?;
        Ok(copies)
    }
}

/// Where the engine keeps a volume.
async fn place_of(volume: &str) -> anyhow::Result<PathBuf> {
    let place = docker(&["volume", "inspect", "-f", "{{.Mountpoint}}", volume]).await?;
    Ok(PathBuf::from(place))
}

fn not_root(path: &Path) -> String {
    format!("{}: only root reads the engine's volumes", path.display())
}

fn copy_files(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let copied = std::fs::copy(entry.path(), to.join(entry.file_name()));
        match copied {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => drop(other.with_context(|| entry.path().display().to_string())?),
        }
    }
    Ok(())
}
