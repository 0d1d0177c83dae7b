//! Runs the `axolotl` program in a directory of its own, with nothing of this process' environment.

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt, process::Command};

use crate::fake::Fake;

/// Patience for one command.
const PATIENCE: Duration = Duration::from_secs(60);

/// A user's home directory.
pub(crate) struct Home {
    dir: TempDir,
    variables: Vec<(String, String)>,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            variables: Vec::new(),
        }
    }

    /// A home of a user of this system.
    pub(crate) fn of(fake: &Fake) -> Self {
        let mut home = Self::new();
        home.set("AXOLOTL_RPC", format!("http://{}", fake.rpc));
        home.set("AXOLOTL_REGISTRY", format!("http://{}", fake.registry));
        home.set("HTTP_PORT", fake.http.port().to_string());
        home.set("RPC_PORT", fake.rpc.port().to_string());
        home.set("PORT", fake.p2p.port().to_string());
        home
    }

    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) {
        self.variables.push((name.to_owned(), value.into()));
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The program, to be run here.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command
            .env_clear()
            .env("HOME", self.dir.path())
            .envs(self.variables.iter().cloned())
            .current_dir(self.dir.path())
            .kill_on_drop(true);
        command
    }

    /// Runs `axolotl` with these words, split at white space.
    pub(crate) async fn run(&self, words: &str) -> Ended {
        self.run_with(words, "").await
    }

    /// As [`Self::run`], with standard input.
    pub(crate) async fn run_with(&self, words: &str, stdin: &str) -> Ended {
        let mut command = self.command(axolotl());
        command.args(words.split_whitespace());
        ended(command, stdin).await
    }

    /// Runs `axolotl` and expects that it succeeds.
    pub(crate) async fn succeed(&self, words: &str) -> Ended {
        let ended = self.run(words).await;
        assert_eq!(ended.code, 0, "axolotl {words}: {ended:#?}");
        ended
    }

    /// Runs `axolotl … --json` and expects success and one JSON document.
    pub(crate) async fn json(&self, words: &str) -> Value {
        let ended = self.succeed(&format!("{words} --json")).await;
        serde_json::from_str(&ended.stdout).unwrap_or_else(|e| panic!("{words}: {e}: {ended:#?}"))
    }

    /// Runs `axolotl` and expects this exit code and these words on standard error.
    pub(crate) async fn fail(&self, words: &str, code: i32, expected: &[&str]) -> Ended {
        let ended = self.run(words).await;
        assert_eq!(ended.code, code, "axolotl {words}: {ended:#?}");
        for part in expected {
            let found = ended.stderr.contains(part);
            assert!(found, "axolotl {words}: no {part:?} in {ended:#?}");
        }
        ended
    }
}

pub(crate) fn axolotl() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_axolotl"))
}

/// Runs a command to its end.
pub(crate) async fn ended(mut command: Command, stdin: &str) -> Ended {
    let shown = format!("{:?}", command.as_std());
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let text = stdin.to_owned();
    // A program that does not read its input closes it early.
    let writing = tokio::spawn(async move {
        let _ = input.write_all(text.as_bytes()).await;
    });
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
    let Output {
        status,
        stdout,
        stderr,
    } = output
        .unwrap_or_else(|_| panic!("{shown} did not end within {PATIENCE:?}"))
        .unwrap();
    writing.await.unwrap();
    Ended {
        code: status
            .code()
            .unwrap_or_else(|| panic!("{shown} ended by {status}")),
        stdout: String::from_utf8(stdout).unwrap(),
        stderr: String::from_utf8(stderr).unwrap(),
    }
}
