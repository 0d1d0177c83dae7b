//! A way to the Docker engine that a test can cut.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use tempfile::TempDir;
use tokio::{
    io::copy_bidirectional,
    net::{UnixListener, UnixStream},
    sync::watch,
    task::JoinHandle,
};

const ENGINE: &str = "/var/run/docker.sock";
const SOCKET: &str = "docker.sock";

/// Passes on what is said to the engine, while it is open. The socket itself stays: a container sees
/// the one that was mounted at its start.
pub struct EngineProxy {
    dir: TempDir,
    open: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl EngineProxy {
    /// An open way.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn open() -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("axolotl-engine-")
            .tempdir()?;
        // Others than this user go through it.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let socket = dir.path().join(SOCKET);
        let listener = UnixListener::bind(&socket)?;
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o666))?;
        let (open, is_open) = watch::channel(true);
        Ok(Self {
            dir,
            open,
            accepting: tokio::spawn(accept(listener, is_open)),
        })
    }

    /// The socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join(SOCKET)
    }

    /// Lets nothing pass: connections end, new ones at once.
    pub fn cut(&self) {
        self.open.send_replace(false);
    }

    /// Lets everything pass again.
    pub fn mend(&self) {
        self.open.send_replace(true);
    }
}

impl Drop for EngineProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: UnixListener, is_open: watch::Receiver<bool>) {
    while let Ok((mut client, _)) = listener.accept().await {
        let mut is_open = is_open.clone();
        if !*is_open.borrow_and_update() {
            continue;
        }
        tokio::spawn(async move {
            let Ok(mut engine) = UnixStream::connect(ENGINE).await else {
                return;
            };
            tokio::select! {
                // Either side may hang up.
                _ = copy_bidirectional(&mut client, &mut engine) => {}
                _ = is_open.changed() => {}
            }
        });
    }
}
