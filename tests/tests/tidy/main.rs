//! The rules of the code that a compiler does not know: which module may use what, in which
//! direction data passes, and what may not be left lying about.

#![allow(
    clippy::unwrap_used,
    reason = "a test program; clippy knows test functions, but not what they call"
)]

mod source;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt,
};

use axolotl_tests::binaries::repository;

use crate::source::{
    belongs, dependencies, dependencies_in, files, git, modules_named, names, relative, sources,
    texts, uses,
};

/// Longest file, in lines.
const MAX_LINES: usize = 600;

/// A crate (or module of std), and the only places that may use it.
const ONLY_IN: [(&str, &[&str]); 8] = [
    ("bollard", &["registry/src/runtime/docker"]),
    ("revm", &["node/ledger/src/execution"]),
    ("bft", &["node/consensus/src/context"]),
    ("bft_types", &["node/consensus/src/context"]),
    ("libp2p", &["node/src/network"]),
    (
        "redb",
        &["node/src/storage/state_store", "node/src/storage/schema"],
    ),
    ("sled", &["registry/src/store"]),
    ("tikv_jemallocator", &["node/src/main", "registry/src/main"]),
];

/// Where clocks, threads, input and output, randomness and maps without an order have no place.
const PURE: [&str; 6] = [
    "common/src",
    "model/src",
    "node/consensus/src",
    "node/ledger/src",
    "node/src/chain_sync/state",
    "registry/src/cluster",
];
const IMPURE: [&str; 14] = [
    "Instant::now",
    "SystemTime::now",
    "std::fs",
    "TcpListener",
    "TcpStream",
    "UdpSocket",
    "std::thread",
    "std::process",
    "tokio",
    "axum",
    "reqwest",
    "rand",
    "HashMap",
    "HashSet",
];

/// Where maps without an order are allowed: what goes through them goes into ordered ones.
const ORDERED_LATER: [&str; 1] = ["node/ledger/src/execution/database.rs"];

/// A module that sees all others: the composition root.
const ALL: &str = "*";

/// Modules of the node, each with the modules of the same package that it may use.
const NODE_MODULES: [(&str, &[&str]); 14] = [
    ("storage", &[]),
    ("mempool", &[]),
    ("network", &[]),
    ("registry_client", &[]),
    ("telemetry", &[]),
    ("config", &["telemetry"]),
    ("metrics", &["storage", "mempool", "network"]),
    ("transactions", &["storage", "mempool", "network", "engine"]),
    ("chain_sync", &["storage", "network"]),
    ("rpc", &["storage", "mempool"]),
    ("engine", &["storage", "mempool", "network", "chain_sync"]),
    ("admin", &["storage", "mempool", "telemetry"]),
    ("cli", &["storage", "config"]),
    ("app", &[ALL]),
];

/// Packages, each with those of our own that it may depend on.
const PACKAGES: [(&str, &[&str]); 7] = [
    ("common", &[]),
    ("model", &["axolotl-common"]),
    ("node/consensus", &["axolotl-common"]),
    ("node/ledger", &["axolotl-common"]),
    (
        "node",
        &["axolotl-common", "axolotl-consensus", "axolotl-ledger"],
    ),
    ("registry", &["axolotl-common"]),
    (
        "tests",
        &[
            "axolotl-common",
            "axolotl-consensus",
            "axolotl-ledger",
            "axolotl-node",
        ],
    ),
];

/// What the tests of a package may use beyond that: the simulator drives the registry's recovery machine
/// with the consensus driver.
const TESTED_WITH: [(&str, &str); 1] = [("node/consensus", "axolotl-registry")];

/// Places that a failed rule shows.
const SHOWN: usize = 40;
/// Longest part of a place that is shown.
const SHOWN_CHARS: usize = 160;

fn report(rule: &str, faults: &[String]) {
    let shown: Vec<String> = faults
        .iter()
        .take(SHOWN)
        .map(|fault| fault.chars().take(SHOWN_CHARS).collect())
        .collect();
    assert!(
        faults.is_empty(),
        "{rule}: {} places\n{}",
        faults.len(),
        shown.join("\n")
    );
}

#[test]
fn each_library_is_used_in_its_place_only() {
    let mut faults = Vec::new();
    for source in sources() {
        for (library, places) in ONLY_IN {
            let here = source.path.starts_with("tests/tests/tidy/");
            if here || places.iter().any(|place| belongs(&source.path, place)) {
                continue;
            }
            for (line, code) in (1..).zip(&source.code) {
                if uses(code, library) {
                    faults.push(format!("{}:{line}: {}", source.path, code.trim()));
                }
            }
        }
    }
    report("a library outside of the module that hides it", &faults);
}

#[test]
fn only_the_configuration_reads_the_environment() {
    let mut faults = Vec::new();
    for source in sources() {
        let allowed = source.path.starts_with("tests/")
            || source.path.contains("/tests/")
            || source.path.contains("/benches/")
            || belongs(&source.path, "node/src/config")
            || belongs(&source.path, "registry/src/config");
        for (line, code) in (1..).zip(&source.code) {
            let reads = ["env::var", "env::vars", "env::args", "env::var_os"];
            if !allowed && reads.iter().any(|call| code.contains(call)) {
                faults.push(format!("{}:{line}: {}", source.path, code.trim()));
            }
        }
    }
    report("the environment read outside of config", &faults);
}

#[test]
fn pure_code_stays_pure() {
    let mut faults = Vec::new();
    for source in sources() {
        let pure = PURE.iter().any(|place| {
            source.path.starts_with(&format!("{place}/")) || belongs(&source.path, place)
        });
        if !pure || source.path.contains("/tests/") || source.for_tests {
            continue;
        }
        for (line, code) in (1..).zip(&source.code) {
            // What follows is the module's own tests, which may do as they like.
            if code.trim() == "#[cfg(test)]" {
                break;
            }
            for word in IMPURE {
                if word.starts_with("Hash") && ORDERED_LATER.contains(&&*source.path) {
                    continue;
                }
                let found = match word.contains("::") {
                    true => code.contains(word),
                    false => names(code, word),
                };
                if found {
                    faults.push(format!("{}:{line}: {word}: {}", source.path, code.trim()));
                }
            }
        }
    }
    report(
        "a clock, input or output, randomness or unordered map in pure code",
        &faults,
    );
}

#[test]
fn modules_of_the_node_look_in_one_direction() {
    let mut faults = Vec::new();
    for source in sources() {
        if source.for_tests {
            continue;
        }
        let Some((module, may_use)) = NODE_MODULES
            .iter()
            .find(|(module, _)| belongs(&source.path, &format!("node/src/{module}")))
        else {
            continue;
        };
        for (line, other) in modules_named(&source.code) {
            let is_module = NODE_MODULES.iter().any(|(known, _)| *known == other);
            let allowed = other == *module || may_use.contains(&ALL) || may_use.contains(&&*other);
            if is_module && !allowed {
                faults.push(format!("{}:{line}: {module} uses {other}", source.path));
            }
        }
    }
    report("a module that looks the wrong way", &faults);
}

#[test]
fn every_module_of_the_node_has_its_direction() {
    let mut faults = Vec::new();
    for source in sources() {
        let Some(rest) = source.path.strip_prefix("node/src/") else {
            continue;
        };
        let module = rest.split(['/', '.']).next().unwrap();
        let known = NODE_MODULES.iter().any(|(known, _)| *known == module);
        if !known && !["lib", "main"].contains(&module) {
            faults.push(source.path);
        }
    }
    report("a module without an entry in NODE_MODULES", &faults);
}

#[test]
fn files_are_of_a_size_that_can_be_read() {
    let mut faults = Vec::new();
    for path in files() {
        let is_code = path
            .extension()
            .is_some_and(|extension| ["rs", "sh", "py"].contains(&&*extension.to_string_lossy()));
        if is_code {
            let lines = fs::read_to_string(&path).unwrap().lines().count();
            if lines > MAX_LINES {
                faults.push(format!("{}: {lines} lines", relative(&path)));
            }
        }
    }
    report("a file of more than 600 lines", &faults);
}

#[test]
fn nothing_is_left_for_later() {
    // Put together here, so that this file does not find itself.
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X:"),
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
        concat!("#[ig", "nore"),
        concat!("pytest.mark.", "skip"),
    ];
    let mut faults = Vec::new();
    for (path, text) in texts() {
        for (line, content) in (1..).zip(text.lines()) {
            if words.iter().any(|word| content.contains(word)) {
                faults.push(format!("{path}:{line}: {}", content.trim()));
            }
        }
    }
    report("something left for later", &faults);
}

#[test]
fn tests_wait_on_conditions() {
    let mut faults = Vec::new();
    for source in sources() {
        let is_test = source.path.contains("tests/");
        if !is_test || source.path.starts_with("tests/tests/tidy/") {
            continue;
        }
        let lines: Vec<&str> = source.text.lines().collect();
        for (index, code) in source.code.iter().enumerate() {
            // A fault at a random moment, a while in which nothing may happen, the pause of a poll:
            // whoever lets time pass says right above what for.
            let excused = lines[index.saturating_sub(3)..index]
                .iter()
                .any(|line| line.contains("// ") || line.contains("reason = "));
            if code.contains("sleep(") && !excused {
                faults.push(format!("{}:{}: {}", source.path, index + 1, code.trim()));
            }
        }
    }
    report(
        "a sleep in a test (wait on a condition, or say what the time is for)",
        &faults,
    );
}

#[test]
fn no_path_of_one_machine_is_written_down() {
    let roots = [
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
        concat!("/wo", "rk/"),
        concat!("/Us", "ers/"),
        concat!("/tmp/", "ax"),
    ];
    let mut faults = Vec::new();
    for (path, text) in texts() {
        for (line, content) in (1..).zip(text.lines()) {
            if roots.iter().any(|root| content.contains(root)) {
                faults.push(format!("{path}:{line}: {}", content.trim()));
            }
        }
    }
    report("a path of somebody's machine", &faults);
}

#[test]
fn every_crate_comes_from_the_public_registry() {
    let lock = fs::read_to_string(repository().join("Cargo.lock")).unwrap();
    let known = "registry+https://github.com/rust-lang/crates.io-index";
    let faults: Vec<String> = lock
        .lines()
        .filter_map(|line| line.strip_prefix("source = "))
        .filter(|source| source.trim_matches('"') != known)
        .map(str::to_owned)
        .collect();
    report("a crate from elsewhere", &faults);
}

#[test]
fn packages_depend_in_one_direction() {
    let mut faults = Vec::new();
    for (package, allowed) in PACKAGES {
        let normal = dependencies_in(package, |section| section == "dependencies");
        for dependency in dependencies(package) {
            let of_tests = TESTED_WITH.contains(&(package, &*dependency));
            let allowed =
                allowed.contains(&&*dependency) || (of_tests && !normal.contains(&dependency));
            if dependency.starts_with("axolotl-") && !allowed {
                faults.push(format!("{package} depends on {dependency}"));
            }
        }
    }
    for package in ["common", "node/consensus", "node/ledger"] {
        for dependency in ["tokio", "axum", "libp2p", "reqwest", "redb", "sled"] {
            if dependencies(package).contains(dependency) {
                faults.push(format!("{package} depends on {dependency}"));
            }
        }
    }
    report("a dependency in the wrong direction", &faults);
}

#[test]
fn every_dependency_has_its_sentence() {
    let text = fs::read_to_string(repository().join("docs/dependencies.md")).unwrap();
    // A table row for each: | `name` | sentence |
    let described: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.strip_prefix("| `")?.split_once('`')?;
            Some((name, rest.trim_matches(['|', ' '])))
        })
        .collect();
    let mut direct = BTreeSet::new();
    for (package, _) in PACKAGES {
        let ours = |name: &String| name.starts_with("axolotl-");
        direct.extend(dependencies(package).into_iter().filter(|name| !ours(name)));
    }
    let mut faults: Vec<String> = direct
        .iter()
        .filter(|name| {
            described
                .get(name.as_str())
                .is_none_or(|words| words.len() < 10)
        })
        .map(|name| format!("{name} has no sentence"))
        .collect();
    faults.extend(
        described
            .keys()
            .filter(|name| !direct.contains(**name))
            .map(|name| format!("{name} is no direct dependency any more")),
    );
    report("docs/dependencies.md", &faults);
}

#[test]
fn scripts_can_be_run() {
    let mut faults = Vec::new();
    // Outside of a git checkout the mode on disk is all there is.
    let staged = git(&["ls-files", "--stage", "scripts", ".ci"]).unwrap_or_default();
    for path in files() {
        let path_text = relative(&path);
        let directory = path_text.split('/').next().unwrap();
        if !["scripts", ".ci"].contains(&directory) || path_text.starts_with("scripts/lib/") {
            continue;
        }
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        if mode & 0o111 == 0 {
            faults.push(format!("{path_text} is not executable"));
        }
        let wrong = staged
            .lines()
            .any(|line| line.ends_with(&format!("\t{path_text}")) && !line.starts_with("100755"));
        if wrong {
            faults.push(format!("{path_text} is not executable in git"));
        }
    }
    report("scripts", &faults);
}

#[test]
fn every_test_program_is_run() {
    // test.sh names those that begin with "docker", and those that do not begin with "d".
    let mut faults = Vec::new();
    for path in files() {
        let path_text = relative(&path);
        let Some((_, program)) = path_text.split_once("/tests/") else {
            continue;
        };
        let program = program
            .strip_suffix("/main.rs")
            .or(program.strip_suffix(".rs"));
        let program = program.filter(|program| !program.contains('/'));
        if program.is_some_and(|name| name.starts_with('d') && !name.starts_with("docker")) {
            faults.push(format!("{path_text}: scripts/test.sh does not run it"));
        }
    }
    report("scripts/test.sh", &faults);
}
