//! The files of the repository, and what they name.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use axolotl_tests::binaries::repository;

/// A source file: its path in the repository, and its lines without comments.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) code: Vec<String>,
    /// Whether it belongs to a module that is only there for tests.
    pub(crate) for_tests: bool,
}

pub(crate) fn ignored(name: &str) -> bool {
    matches!(name, ".git" | "target" | ".axolotl" | "__pycache__") || name.contains("venv")
}

/// The files of the repository: what git tracks or would add, else all that lies there.
pub(crate) fn files() -> Vec<PathBuf> {
    let listed = git(&["ls-files", "--cached", "--others", "--exclude-standard"]);
    let mut found: Vec<PathBuf> = match listed {
        Some(text) => text.lines().map(|path| repository().join(path)).collect(),
        None => all_files(),
    };
    found.retain(|path| path.is_file());
    found.sort();
    found
}

pub(crate) fn all_files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![repository().to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if ignored(&path.file_name().unwrap().to_string_lossy()) {
                continue;
            }
            if path.is_dir() {
                directories.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found
}

/// What git answers; `None` outside of a git checkout.
pub(crate) fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .args(arguments)
        .current_dir(repository())
        .output();
    let output = output.ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

pub(crate) fn relative(path: &Path) -> String {
    let path = path.strip_prefix(repository()).unwrap();
    path.to_string_lossy().into_owned()
}

pub(crate) fn sources() -> Vec<Source> {
    let mut sources: Vec<Source> = files()
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            Source {
                path: relative(&path),
                code: text.lines().map(code).collect(),
                text,
                for_tests: false,
            }
        })
        .collect();
    let test_modules: Vec<String> = sources.iter().flat_map(test_modules).collect();
    for source in &mut sources {
        let mut modules = test_modules.iter();
        source.for_tests = modules.any(|module| belongs(&source.path, module));
    }
    sources
}

/// The modules that a file declares below `#[cfg(test)]`, as paths without an ending.
fn test_modules(source: &Source) -> Vec<String> {
    let (directory, file) = source.path.rsplit_once('/').unwrap_or(("", &source.path));
    let stem = file.trim_end_matches(".rs");
    let inside = match stem {
        "mod" | "lib" | "main" => directory.to_owned(),
        _ => format!("{directory}/{stem}"),
    };
    let below = source.code.windows(2).filter_map(|two| {
        let declared = two[1].trim().trim_start_matches("pub(crate) ");
        let name = declared.strip_prefix("mod ")?.strip_suffix(';')?;
        (two[0].trim() == "#[cfg(test)]").then(|| format!("{inside}/{name}"))
    });
    below.collect()
}

/// A line without its comment.
pub(crate) fn code(line: &str) -> String {
    line.split("//").next().unwrap_or_default().to_owned()
}

/// Whether `code` uses `name` as a path or in a `use`, and not as a part of another word.
pub(crate) fn uses(code: &str, name: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = &code[at + name.len()..];
        let path = after.starts_with("::") || {
            let head = code.trim_start();
            let import = head.starts_with("use ") || head.starts_with("pub use ");
            import && !after.starts_with(word)
        };
        path && !before.is_some_and(|c| word(c) || c == ':' || c == '"' || c == '.')
    })
}

/// Whether `path` is the module `place`: `place.rs`, or a file below `place/`.
pub(crate) fn belongs(path: &str, place: &str) -> bool {
    path.strip_prefix(place)
        .is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
}

/// Whether `code` names the type or crate `word`.
pub(crate) fn names(code: &str, word: &str) -> bool {
    let letter = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        let lower_case = word.starts_with(|c: char| c.is_ascii_lowercase());
        !before.is_some_and(letter)
            && !after.is_some_and(letter)
            && (!lower_case || code[at + word.len()..].starts_with("::"))
    })
}

/// The modules that `crate::…` names, with their lines, those in groups (`crate::{a, b::{c}}`)
/// included.
pub(crate) fn modules_named(code: &[String]) -> Vec<(usize, String)> {
    let text = code.join("\n");
    let mut found = Vec::new();
    for (at, path) in text.match_indices("crate::") {
        let rest = &text[at + path.len()..];
        let first = text[..at].matches('\n').count() + 1;
        let Some(group) = rest.strip_prefix('{') else {
            found.push((first, identifier(rest)));
            continue;
        };
        let (mut depth, mut line, mut expected) = (1, first, true);
        for (place, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => expected = true,
                '\n' => line += 1,
                c if expected && !c.is_whitespace() => {
                    found.push((line, identifier(&group[place..])));
                    expected = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    found
}

/// The identifier that a text begins with.
pub(crate) fn identifier(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

/// All text files of the repository.
pub(crate) fn texts() -> Vec<(String, String)> {
    files()
        .into_iter()
        .filter(|path| path.file_name().is_some_and(|name| name != "Cargo.lock"))
        .filter_map(|path| Some((relative(&path), fs::read_to_string(&path).ok()?)))
        .collect()
}

/// The direct dependencies of a package, by its Cargo.toml, those of its tests included.
pub(crate) fn dependencies(package: &str) -> BTreeSet<String> {
    dependencies_in(package, |section| section.ends_with("dependencies"))
}

/// The direct dependencies of a package that stand in such sections of its Cargo.toml.
pub(crate) fn dependencies_in(package: &str, wanted: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let manifest = fs::read_to_string(repository().join(package).join("Cargo.toml")).unwrap();
    let mut inside = false;
    let mut found = BTreeSet::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = wanted(line.trim_matches(['[', ']']));
        } else if line.starts_with('#') {
            continue;
        } else if inside && let Some((name, _)) = line.split_once(['.', '=', ' ']) {
            found.insert(name.trim().to_owned());
        }
    }
    found.remove("");
    found
}

#[test]
fn the_rules_find_what_they_look_for() {
    assert!(uses("use revm::Context;", "revm"));
    assert!(uses("let x = revm::context::Cfg;", "revm"));
    assert!(uses("use bft as core;", "bft"));
    assert!(!uses("let name = \"revm::\";", "revm"));
    assert!(!uses("use my_revm::X;", "revm"));
    assert!(!uses("let libp2p_port = 1;", "libp2p"));
    assert!(belongs(
        "node/ledger/src/execution.rs",
        "node/ledger/src/execution"
    ));
    assert!(belongs(
        "node/ledger/src/execution/call.rs",
        "node/ledger/src/execution"
    ));
    assert!(!belongs(
        "node/ledger/src/execution_x.rs",
        "node/ledger/src/execution"
    ));
    assert!(names("let map: HashMap<u8, u8>", "HashMap"));
    assert!(!names("let map: MyHashMap<u8, u8>", "HashMap"));
    assert!(names("rand::random()", "rand"));
    assert!(!names("let rand = 1;", "rand"));
    let lines = |text: &str| -> Vec<String> { text.lines().map(str::to_owned).collect() };
    let group = lines("x\nuse crate::{\n    a::{b, c},\n    d,\n};\nlet y = crate::e::f();");
    let named = [(3, "a"), (4, "d"), (6, "e")].map(|(line, name)| (line, name.to_owned()));
    assert_eq!(modules_named(&group), named);
    let normal = dependencies_in("node/consensus", |section| section == "dependencies");
    assert!(dependencies("node/consensus").contains("rand") && !normal.contains("rand"));
    assert!(dependencies("tests").contains("tokio"));
    assert!(dependencies("node").contains("axolotl-ledger"));
}
