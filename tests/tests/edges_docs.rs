//! docs/configuration.md says what the programs say: its tables are made from their `--help`.
//!
//! After a flag was changed, `AXOLOTL_WRITE_DOCS=1` with this test writes the tables anew.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, ensure};
use axolotl_tests::binaries;

/// Line above a table, up to the command that it is made from.
const BEGIN: &str = "<!-- made from: ";
/// Line below it.
const END: &str = "<!-- end -->";

/// A flag, as `--help` describes it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Flag {
    name: String,
    variable: String,
    default: String,
    meaning: String,
}

/// Takes `[label …]` out of a text; gives what stood behind the label.
fn take(text: &mut String, label: &str) -> Option<String> {
    let begin = text.find(&format!("[{label}"))?;
    let end = begin + text[begin..].find(']')?;
    let inside = text[begin + 1 + label.len()..end].trim().to_owned();
    text.replace_range(begin..=end, "");
    Some(inside)
}

fn read(help: &str) -> Vec<Flag> {
    let mut flags: Vec<Flag> = Vec::new();
    let (_, options) = help.split_once("Options:\n").unwrap_or_default();
    // What stands below the options, examples, begins at the margin.
    let options = options
        .lines()
        .take_while(|line| line.is_empty() || line.starts_with(' '));
    for line in options {
        let words = line.trim();
        match words.split_whitespace().find(|word| word.starts_with("--")) {
            Some(name) if words.starts_with('-') => {
                let spaced = words.split_once("  ").map_or("", |(_, meaning)| meaning);
                flags.push(Flag {
                    name: name.to_owned(),
                    meaning: spaced.trim().to_owned(),
                    ..Flag::default()
                });
            }
            _ => {
                if let Some(flag) = flags.last_mut() {
                    flag.meaning.push(' ');
                    flag.meaning.push_str(words);
                }
            }
        }
    }
    flags.retain(|flag| !["--help", "--version"].contains(&flag.name.as_str()));
    for flag in &mut flags {
        let mut text = std::mem::take(&mut flag.meaning);
        flag.variable = take(&mut text, "env:").unwrap_or_default();
        flag.variable = flag.variable.trim_end_matches('=').to_owned();
        flag.default = take(&mut text, "default:").unwrap_or_default();
        flag.meaning = text.split_whitespace().collect::<Vec<_>>().join(" ");
        flag.meaning = flag.meaning.replace(" ;", ";").replace('|', "\\|");
    }
    flags
}

fn table(flags: &[Flag]) -> String {
    let code = |text: &str| match text {
        "" => String::new(),
        text if text.contains('`') => text.to_owned(),
        text => format!("`{text}`"),
    };
    let rows = flags.iter().map(|flag| {
        format!(
            "| {} | `{}` | {} | {} |\n",
            code(&flag.variable),
            flag.name,
            code(&flag.default),
            flag.meaning
        )
    });
    format!(
        "| Variable | Flag | Default | Meaning |\n|---|---|---|---|\n{}",
        rows.collect::<String>()
    )
}

/// What `command --help` says, with an empty environment: values of variables would be shown.
fn help(command: &str) -> anyhow::Result<String> {
    let mut words = command.split_whitespace();
    let program = match words.next() {
        Some("axolotl") => binaries::axolotl()?,
        Some("axolotl-registry") => binaries::registry()?,
        other => anyhow::bail!("{other:?} is no program of ours"),
    };
    let output = Command::new(program)
        .args(words)
        .arg("--help")
        .env_clear()
        .output()?;
    ensure!(
        output.status.success(),
        "{command} --help: {}",
        output.status
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// The document with every table made anew.
fn renewed(text: &str) -> anyhow::Result<String> {
    let mut new = String::new();
    let mut rest = text;
    let mut tables = 0;
    while let Some(at) = rest.find(BEGIN) {
        let (before, marked) = rest.split_at(at);
        let (line, after) = marked.split_once('\n').context("a marker has a line")?;
        let command = line[BEGIN.len()..].trim_end_matches("-->").trim();
        let (_, below) = after
            .split_once(END)
            .with_context(|| format!("no {END} below {line}"))?;
        let flags = read(&help(command)?);
        ensure!(
            flags.len() > 3,
            "{command} --help was not understood: {flags:?}"
        );
        new.push_str(&format!("{before}{line}\n{}{END}", table(&flags)));
        rest = below;
        tables += 1;
    }
    ensure!(tables >= 2, "{tables} tables");
    new.push_str(rest);
    Ok(new)
}

#[test]
fn the_tables_of_settings_are_those_of_the_programs() -> anyhow::Result<()> {
    let path = binaries::repository().join("docs").join("configuration.md");
    let text = fs::read_to_string(&path)?;
    let new = renewed(&text)?;
    if std::env::var("AXOLOTL_WRITE_DOCS").is_ok_and(|value| value == "1") {
        return Ok(fs::write(&path, new)?);
    }
    for (old, new) in text.lines().zip(new.lines()) {
        ensure!(
            old == new,
            "{} says\n  {old}\nand the program\n  {new}\nWrite it anew: AXOLOTL_WRITE_DOCS=1 cargo \
             test --release -p axolotl-tests --test edges_docs",
            Path::new("docs/configuration.md").display()
        );
    }
    ensure!(
        text.lines().count() == new.lines().count(),
        "lines are missing"
    );
    Ok(())
}

#[test]
fn help_texts_are_understood() {
    let help = "Run it\n\nUsage: x [OPTIONS]\n\nOptions:\n      --port <PORT>\n          Port, where \
                free [default: 1] or\n          not [env: PORT=]\n  -h, --help\n          Print help\n\n\
                Examples:\n  x --port 1\n";
    let expected = Flag {
        name: "--port".into(),
        variable: "PORT".into(),
        default: "1".into(),
        meaning: "Port, where free or not".into(),
    };
    assert_eq!(read(help), [expected]);
}
