//! Data directories that cannot be used: exit code 1, with the reason and what to do.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
};

use axolotl_node::storage::data_dir::FORMAT_VERSION;

use crate::{
    chain::{GENESIS_TIME, Solo, genesis_of, with_directory},
    harness::Start,
};

/// A user without rights: "nobody" on most systems.
const NOBODY: u32 = 65_534;

#[tokio::test]
async fn a_directory_in_use_names_the_process() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let solo = Solo::new(home.path())?;
    let first = solo.start().spawn()?;
    first.up().await?;
    let words = [
        format!("is in use by process {}", first.pid()),
        "another data directory".to_owned(),
    ];
    let words = words.each_ref().map(String::as_str);
    let elsewhere = tempfile::tempdir()?;
    let second = Start::node(elsewhere.path())
        .env("NODE_ID", "node1")
        .env("DATA_DIR", solo.data.display())
        .env("GENESIS_FILE", solo.genesis.display());
    second.refuses(1, &words).await?;
    first.goes_on(2).await?;
    first.stop(&solo.data).await?;
    Ok(())
}

#[tokio::test]
async fn a_directory_of_another_chain_is_left_alone() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let solo = Solo::new(home.path())?;
    let node = solo.start().spawn()?;
    node.reaches(2).await?;
    node.stop(&solo.data).await?;
    let before = fs::read(solo.data.join("genesis.json"))?;
    let other = with_directory(&solo.data, |directory| {
        genesis_of(directory, GENESIS_TIME + 1)
    })?;
    let own = fs::read(&solo.genesis)?;
    fs::write(&solo.genesis, other.to_string())?;
    let words = [
        "holds chain 7777",
        "was told to join chain 7777",
        "wipe this one",
    ];
    solo.start().refuses(1, &words).await?;
    assert_eq!(fs::read(solo.data.join("genesis.json"))?, before);

    // The state of another chain below the genesis of this one.
    fs::write(&solo.genesis, own)?;
    let other = tempfile::tempdir()?;
    let foreign = Solo::new(other.path())?;
    foreign.grow(&[Vec::new()])?;
    fs::copy(
        foreign.data.join("state.redb"),
        solo.data.join("state.redb"),
    )?;
    let words = ["holds the chain with genesis block", "wipe this one"];
    solo.start().refuses(1, &words).await?;
    Ok(())
}

#[tokio::test]
async fn a_directory_of_a_newer_version_is_left_alone() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let solo = Solo::new(home.path())?;
    let version = solo.data.join("version");
    fs::write(&version, format!("{}\n", FORMAT_VERSION + 1))?;
    let before = fs::read(solo.data.join("incarnation"))?;
    let words = [
        format!("has format version {}", FORMAT_VERSION + 1),
        format!("knows up to {FORMAT_VERSION}"),
        "use a newer program".to_owned(),
    ];
    let words = words.each_ref().map(String::as_str);
    solo.start().refuses(1, &words).await?;
    assert_eq!(
        fs::read(solo.data.join("incarnation"))?,
        before,
        "nothing was written"
    );
    Ok(())
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_says_whose_it_must_be() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let solo = Solo::new(home.path())?;
    let mut start = solo.start();
    if rustix::process::getuid().is_root() {
        // For root every directory can be written: the program runs as a user without rights,
        // from a place that this user may enter.
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755))?;
        let program = home.path().join("axolotl");
        fs::copy(env!("CARGO_BIN_EXE_axolotl"), &program)?;
        start = start.program(&program).uid(NOBODY);
        give_readable(&solo.data)?;
    } else {
        fs::set_permissions(&solo.data, fs::Permissions::from_mode(0o500))?;
        fs::set_permissions(solo.data.join("lock"), fs::Permissions::from_mode(0o400))?;
    }
    let words = [
        "Permission denied",
        "must belong to the user of this program",
        "lock",
    ];
    start.refuses(1, &words).await?;

    // A file where the directory should be.
    let file = home.path().join("file");
    fs::write(&file, "")?;
    let start = start.env("DATA_DIR", file.display());
    start.refuses(1, &["cannot", "file"]).await?;
    let start = start.env("DATA_DIR", "/proc/axolotl");
    start
        .refuses(1, &["cannot create directory /proc/axolotl"])
        .await?;
    Ok(())
}

/// Lets others look into a directory, not write.
fn give_readable(directory: &Path) -> anyhow::Result<()> {
    chown(directory, Some(0), Some(0))?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
    Ok(())
}
