//! The programs under test, built beforehand.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

/// The node's program.
///
/// # Errors
/// When it is not built.
pub fn axolotl() -> anyhow::Result<PathBuf> {
    binary("axolotl")
}

/// The registry's program.
///
/// # Errors
/// When it is not built.
pub fn registry() -> anyhow::Result<PathBuf> {
    binary("axolotl-registry")
}

/// Where programs lie: the test's own executable is in `<target>/<triple>/release/deps`.
///
/// # Errors
/// When the test runs from elsewhere.
pub fn directory() -> anyhow::Result<PathBuf> {
    let me = std::env::current_exe()?;
    let deps = me.parent().context("an executable has a directory")?;
    let release = deps.parent().context("no directory above deps/")?;
    ensure!(
        deps.ends_with("deps"),
        "{} is not in a cargo target directory",
        me.display()
    );
    Ok(release.to_owned())
}

fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let path = directory()?.join(name);
    ensure!(
        path.is_file(),
        "{} is not built; run scripts/test.sh, or `cargo build --release --workspace` with the \
         same CARGO_TARGET_DIR",
        path.display()
    );
    Ok(path)
}

/// The root of the repository.
///
/// # Panics
/// Never: the tests package lies inside of it.
pub fn repository() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().expect("tests/ lies in the repository")
}
