//! docs/cli.md against the program: each block that begins with `$ axolotl …` is run, in the order
//! of the page, and what it prints is compared.
//!
//! `…` in an expected line stands for anything: keys are random. With `AXOLOTL_UPDATE_DOCS=1` the
//! blocks that differ are written anew, and the test passes.

use std::{collections::BTreeSet, path::PathBuf};

use axolotl_node::cli;

use crate::{
    fake::{Fake, Faults},
    tool::Home,
};

fn page() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md")
}

/// What the page shows for one command.
struct Block {
    /// Words after `axolotl`.
    words: String,
    /// Lines of the page: the first one below the command, and the closing fence.
    output: std::ops::Range<usize>,
}

fn blocks(lines: &[&str]) -> Vec<Block> {
    let mut found = Vec::new();
    let mut start: Option<(usize, String)> = None;
    for (number, line) in lines.iter().enumerate() {
        if let Some(words) = line.strip_prefix("$ axolotl") {
            assert_eq!(
                lines[number - 1],
                "```console",
                "line {}: {line}",
                number + 1
            );
            start = Some((number + 1, words.trim().to_owned()));
        } else if *line == "```"
            && let Some((first, words)) = start.take()
        {
            found.push(Block {
                words,
                output: first..number,
            });
        }
    }
    assert!(start.is_none(), "a block that does not end");
    found
}

/// Whether `shown` is `expected`, in which `…` stands for anything.
fn matches(expected: &str, shown: &str) -> bool {
    if expected == shown {
        return true;
    }
    let mut parts = expected.split('…');
    let Some(mut rest) = parts.next().and_then(|first| shown.strip_prefix(first)) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, between)) = parts.split_last() else {
        return false;
    };
    for part in between {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

fn same(expected: &[&str], shown: &[String]) -> bool {
    expected.len() == shown.len()
        && expected
            .iter()
            .zip(shown)
            .all(|(expected, shown)| matches(expected, shown))
}

/// Runs a command and tells what a terminal would show, on a machine with the usual ports.
async fn show(home: &Home, fake: &Fake, words: &str) -> Vec<String> {
    let ended = home.run(words).await;
    let mut text = format!("{}{}", ended.stdout, ended.stderr);
    for (address, usual) in [
        (fake.rpc, 8545),
        (fake.registry, 9090),
        (fake.http, 8080),
        (fake.p2p, 50051),
    ] {
        text = text.replace(&address.to_string(), &format!("127.0.0.1:{usual}"));
        text = text.replace(&format!("{} (", address.port()), &format!("{usual} ("));
    }
    text = text.replace(home.path("").to_str().unwrap().trim_end_matches('/'), "~");
    let mut lines: Vec<String> = text
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect();
    if ended.code != 0 {
        lines.push(format!("(exit code {})", ended.code));
    }
    lines
}

#[tokio::test]
async fn the_page_shows_what_the_commands_print() {
    let text = std::fs::read_to_string(page()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let fake = Fake::start(Faults::default()).await;
    let home = Home::of(&fake);
    // The files that the page speaks of.
    home.write("alice.pass", "correct horse battery staple\n");
    home.write(
        "key.hex",
        "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d\n",
    );

    let mut written: Vec<String> = Vec::new();
    let mut copied = 0;
    let mut faults = Vec::new();
    for block in blocks(&lines) {
        let shown = show(&home, &fake, &block.words).await;
        let expected = &lines[block.output.clone()];
        written.extend(
            lines[copied..block.output.start]
                .iter()
                .map(|line| (*line).to_owned()),
        );
        copied = block.output.end;
        if same(expected, &shown) {
            written.extend(expected.iter().map(|line| (*line).to_owned()));
        } else {
            let (page, program) = (expected.join("\n"), shown.join("\n"));
            faults.push(format!(
                "axolotl {}\n--- the page\n{page}\n--- the program\n{program}\n",
                block.words
            ));
            written.extend(shown);
        }
    }
    written.extend(lines[copied..].iter().map(|line| (*line).to_owned()));
    if std::env::var_os("AXOLOTL_UPDATE_DOCS").is_some() {
        std::fs::write(page(), written.join("\n") + "\n").unwrap();
        return;
    }
    assert!(
        faults.is_empty(),
        "docs/cli.md differs from the program:\n{}",
        faults.join("\n")
    );
}

fn all_commands(command: &clap::Command, path: &str, found: &mut Vec<(String, bool)>) {
    found.push((path.to_owned(), !command.has_subcommands()));
    for inner in command
        .get_subcommands()
        .filter(|inner| inner.get_name() != "help")
    {
        all_commands(inner, format!("{path} {}", inner.get_name()).trim(), found);
    }
}

#[test]
fn every_command_has_its_help_and_an_example_on_the_page() {
    let text = std::fs::read_to_string(page()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let shown: BTreeSet<String> = blocks(&lines)
        .into_iter()
        .map(|block| block.words)
        .collect();
    let mut commands = Vec::new();
    all_commands(&cli::command(), "", &mut commands);
    assert!(commands.len() > 15, "{commands:?}");
    let mut missing = Vec::new();
    for (path, is_leaf) in commands {
        let help = format!("{path} --help");
        if !shown.contains(help.trim()) {
            missing.push(format!("axolotl {path} --help"));
        }
        let begins = |words: &String| {
            words
                .strip_prefix(&path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
        };
        if is_leaf
            && !shown
                .iter()
                .any(|words| begins(words) && !words.ends_with("--help"))
        {
            missing.push(format!("an example of axolotl {path}"));
        }
    }
    assert!(missing.is_empty(), "not in docs/cli.md: {missing:#?}");
}

#[test]
fn dots_stand_for_anything() {
    for (expected, shown, is) in [
        ("a", "a", true),
        ("a…c", "abc", true),
        ("a…c", "abcd", false),
        ("…", "", true),
        ("a … b …", "a x b y", true),
        ("a … b …", "a x c y", false),
        ("ab", "abc", false),
    ] {
        assert_eq!(matches(expected, shown), is, "{expected} {shown}");
    }
}
