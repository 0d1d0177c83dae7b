//! The settings of the program as it is started.
#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

use std::process::{Command, Stdio};

fn serve(dir: &std::path::Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_axolotl-registry"));
    command
        .args(["serve", "--port", "0"])
        .env_clear()
        .env("DATA_DIR", dir.join("data"))
        .stdin(Stdio::null());
    command
}

#[test]
fn variables_that_nobody_reads_are_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    // It ends by itself, after the warnings: there can be no such directory.
    let output = serve(dir.path())
        .env("DATA_DIR", "/dev/null/data")
        .env("AXOLOTL_MIN_NODES", "3")
        .env("AXOLOTL_HOME", "/nowhere")
        .env("AXOLOTL_SERVICE_HOST", "10.0.0.1")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let warned: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("AXOLOTL_"))
        .collect();
    assert_eq!(warned.len(), 2, "{said}");
    assert!(
        warned[0].contains("WARN") && warned[0].ends_with("called MIN_NODES"),
        "{said}"
    );
    assert!(warned[1].contains("AXOLOTL_SERVICE_HOST"), "{said}");
}

#[test]
fn wrong_settings_end_it_with_all_faults_named() {
    let dir = tempfile::tempdir().unwrap();
    let output = serve(dir.path())
        .env("MIN_NODES", "9")
        .env("RUNTIME", "podman")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    for words in ["MIN_NODES=9", "RUNTIME", "axolotl-registry serve --help"] {
        assert!(said.contains(words), "{said}");
    }
    assert!(!dir.path().join("data").exists(), "nothing was touched");
}
