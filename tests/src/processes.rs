//! Processes of this machine, from `/proc`.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, ensure};
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

/// Patience for a killed process to be gone.
const GONE: Duration = Duration::from_secs(10);
/// Lines of each log that a failed test prints.
const TAIL_LINES: usize = 40;

/// A living process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// File name of its program.
    pub program: String,
    /// Its environment.
    pub environment: Vec<(String, String)>,
}

impl Process {
    /// The value of a variable of its environment.
    pub fn variable(&self, name: &str) -> Option<&str> {
        let mut variables = self.environment.iter();
        variables.find_map(|(known, value)| (known == name).then_some(value.as_str()))
    }
}

/// The living processes whose environment names `marker`: all that belongs to a cluster, whoever
/// started it. Zombies do not count.
pub fn naming(marker: &Path) -> Vec<Process> {
    let marker = marker.to_string_lossy();
    let own = std::process::id();
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let mut found: Vec<Process> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != own && is_alive(*pid))
        .filter_map(|pid: u32| {
            let bytes = fs::read(format!("/proc/{pid}/environ")).ok()?;
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let ours = text.contains(marker.as_ref());
            ours.then(|| Process {
                pid,
                program: program(pid),
                environment: text
                    .split('\0')
                    .filter_map(|variable| variable.split_once('='))
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .collect(),
            })
        })
        .collect();
    found.sort_by_key(|process| process.pid);
    found
}

fn program(pid: u32) -> String {
    let path = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.into_owned()
}

/// Whether a process is there and no zombie.
pub fn is_alive(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    let state = stat
        .rfind(')')
        .and_then(|end| stat[end + 1..].trim_start().chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

/// Sends a signal.
///
/// # Errors
/// When there is no such process.
pub fn signal(pid: u32, signal: Signal) -> anyhow::Result<()> {
    let raw = i32::try_from(pid).context("a process id is a small number")?;
    let id = Pid::from_raw(raw).context("a process id is not 0")?;
    kill_process(id, signal).with_context(|| format!("{signal:?} to process {pid}"))
}

/// Kills a process (-9) and waits until it is gone.
///
/// # Errors
/// When there is no such process, or it stays.
pub async fn kill(pid: u32) -> anyhow::Result<()> {
    signal(pid, Signal::KILL)?;
    wait_gone(pid).await
}

/// Waits until a process is gone.
///
/// # Errors
/// When it stays.
pub async fn wait_gone(pid: u32) -> anyhow::Result<()> {
    crate::wait::until("a process to be gone", GONE, async || {
        ensure!(!is_alive(pid), "process {pid} is there");
        Ok(())
    })
    .await
}

/// Kills everything that names `marker`, again until nothing is left: a registry that is killed
/// second may have started a node anew. For `Drop`, so it does not wait long.
pub fn kill_all_naming(marker: &Path) {
    for _ in 0..20 {
        let left = naming(marker);
        if left.is_empty() {
            return;
        }
        // The registry first: it would replace what is killed before it.
        let (first, rest): (Vec<_>, Vec<_>) = left
            .into_iter()
            .partition(|process| process.program == "axolotl-registry");
        for process in first.into_iter().chain(rest) {
            let _ = signal(process.pid, Signal::KILL);
        }
        #[allow(
            clippy::disallowed_methods,
            reason = "Drop cannot await; this bounds the wait for the kernel to remove the dead"
        )]
        std::thread::sleep(crate::wait::POLL);
    }
}

/// The log files under a directory.
pub fn logs_under(directory: &Path) -> Vec<PathBuf> {
    let mut logs = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        let Ok(entries) = fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
            } else if is_text_log(&path) {
                logs.push(path);
            }
        }
    }
    logs.sort();
    logs
}

/// Whether this is a log for people; the segments of the record logs have numbers for names.
fn is_text_log(path: &Path) -> bool {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let is_log = path.extension().is_some_and(|extension| extension == "log");
    is_log && !name.bytes().all(|byte| byte.is_ascii_digit())
}

/// The end of each log file under a directory, as text.
pub fn log_tails(directory: &Path) -> String {
    let mut text = String::new();
    for path in logs_under(directory) {
        let log = fs::read_to_string(&path).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        let name = path.strip_prefix(directory).unwrap_or(&path);
        text.push_str(&format!(
            "---- {} ({} lines)\n{}\n",
            name.display(),
            lines.len(),
            tail.join("\n")
        ));
    }
    text
}
