//! `axolotl doctor` on a system with one thing wrong at a time.

use serde_json::Value;

use crate::{
    fake::{Fake, Faults},
    tool::Home,
};

/// Runs the doctor; tells its exit code and the verdict and words of one line.
async fn line(home: &Home, words: &str, check: &str) -> (i32, String, String) {
    let ended = home.run(&format!("doctor --json {words}")).await;
    let document: Value =
        serde_json::from_str(&ended.stdout).unwrap_or_else(|e| panic!("{e}: {ended:#?}"));
    assert_eq!(document["well"] == true, ended.code == 0, "{document:#}");
    let checks = document["checks"].as_array().unwrap();
    let found = checks.iter().find(|found| found["check"] == check).unwrap();
    (
        ended.code,
        found["verdict"].as_str().unwrap().to_owned(),
        found.to_string(),
    )
}

#[track_caller]
fn expect(line: &(i32, String, String), verdict: &str, part: &str) {
    let code = i32::from(verdict == "fail");
    assert_eq!((line.0, line.1.as_str()), (code, verdict), "{}", line.2);
    assert!(line.2.contains(part), "no {part:?} in {}", line.2);
}

#[tokio::test]
async fn a_healthy_system_is_well() {
    let fake = Fake::start(Faults::default()).await;
    let home = Home::of(&fake);
    let ended = home.succeed("doctor").await;
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(lines.len(), 9, "{ended:#?}");
    // The disk of whoever runs the test may be nearly full: a warning is none of this test's.
    let others = lines.iter().filter(|line| !line.contains("disk"));
    for line in others {
        assert!(line.starts_with("ok "), "{ended:#?}");
    }
}

#[tokio::test]
async fn each_fault_shows_in_its_own_line() {
    let fake = Fake::start(Faults::default()).await;
    let home = Home::of(&fake);
    let with = async |faults: Faults, check: &str| {
        fake.set(|current| *current = faults);
        line(&home, "", check).await
    };
    let alone = Faults {
        alone: true,
        ..Faults::default()
    };
    expect(&with(alone, "peers").await, "fail", "1 of 4 validators");
    let other = Faults {
        other_genesis: true,
        ..Faults::default()
    };
    expect(&with(other, "genesis").await, "fail", "another chain");
    let ahead = Faults {
        clock_ahead_s: 3_600,
        ..Faults::default()
    };
    expect(&with(ahead, "clock").await, "fail", "behind the registry");
    let behind = Faults {
        clock_ahead_s: -10,
        ..Faults::default()
    };
    expect(
        &with(behind, "clock").await,
        "warn",
        "ahead of the registry",
    );
    let old = Faults {
        old_version: true,
        ..Faults::default()
    };
    expect(&with(old, "version").await, "warn", "0.0.9");
    let strange = Faults {
        strange_http: true,
        ..Faults::default()
    };
    expect(&with(strange, "ports").await, "fail", "another program");

    fake.set(|current| *current = Faults::default());
    let away = line(&home, "--registry http://127.0.0.1:1", "registry").await;
    expect(&away, "fail", "no registry answers");
    // A name that no resolver knows (RFC 6761).
    let unknown = line(&home, "--registry http://registry.invalid:9090", "dns").await;
    expect(&unknown, "fail", "axolotl_blockchain");
    let no_node = line(&home, "--http-port 1 --rpc-port 1 --port 1", "ports").await;
    expect(&no_node, "fail", "Start the node");
    let no_http = line(&home, "--http-port 1", "ports").await;
    expect(&no_http, "warn", "1 (HTTP)");
    let no_dir = line(&home, "--data-dir gone", "disk").await;
    expect(&no_dir, "warn", "DATA_DIR");
    home.write("genesis.json", "{}");
    let damaged = line(&home, "--data-dir .", "genesis").await;
    expect(&damaged, "fail", "genesis.json");
    let none = line(&home, "--without-registry", "registry").await;
    expect(&none, "ok", "none is used");
}
