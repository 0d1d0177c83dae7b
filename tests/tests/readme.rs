//! The commands of README.md, typed as they stand: with local processes in a network namespace, where
//! all usual ports are free, and with containers under other names and ports. README.vi.md has the same.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, bail, ensure};
use axolotl_tests::{
    DockerCluster, binaries,
    document::{Step, steps},
    machines::Machines,
    python, wait,
};
use tokio::process::Command;

/// Patience for what comes about by itself.
const SOON: Duration = Duration::from_secs(60);

fn readme(name: &str) -> anyhow::Result<Vec<Step>> {
    let text = std::fs::read_to_string(binaries::repository().join(name))?;
    let steps = steps(&text);
    for step in &steps {
        let typed = matches!(step.language.as_deref(), Some("bash" | "python"));
        ensure!(
            !typed || step.mark.is_some(),
            "{name}:{}: commands that no test runs",
            step.line
        );
    }
    Ok(steps)
}

/// Text without what only aligns it.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn says(said: &str, text: &str) -> anyhow::Result<()> {
    ensure!(words(said).contains(text), "no {text:?} in {said}");
    Ok(())
}

/// Whether `…` in a line that is shown may stand for the rest of a line that came out.
fn fits(shown: &str, line: &str) -> bool {
    let (shown, line) = (words(shown), words(line));
    let mut parts = shown.split('…');
    let Some(mut rest) = parts.next().and_then(|first| line.strip_prefix(first)) else {
        return false;
    };
    let mut last = "";
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
        last = part;
    }
    rest.is_empty() || (shown.contains('…') && last.is_empty())
}

/// Every line that the document shows came out, in this order.
fn shows(said: &str, shown: &Step) -> anyhow::Result<()> {
    ensure!(
        shown.language.as_deref() == Some("text"),
        "line {}: no output is shown",
        shown.line
    );
    let mut lines = said.lines();
    for wanted in shown.text.lines() {
        ensure!(
            lines.any(|line| fits(wanted, line)),
            "README.md:{}: no line {wanted:?} in\n{said}",
            shown.line
        );
    }
    Ok(())
}

#[test]
fn both_languages_have_the_same_commands() -> anyhow::Result<()> {
    let typed = |name: &str| -> anyhow::Result<Vec<(Option<String>, String)>> {
        let steps = readme(name)?;
        let typed = steps
            .into_iter()
            .filter(|step| step.language.as_deref() != Some(""));
        let code = |text: &str| {
            let lines = text
                .lines()
                .filter(|line| !line.trim_start().starts_with('#'));
            lines.collect::<Vec<_>>().join("\n")
        };
        Ok(typed.map(|step| (step.mark, code(&step.text))).collect())
    };
    let (english, vietnamese) = (typed("README.md")?, typed("README.vi.md")?);
    for (one, two) in english.iter().zip(&vietnamese) {
        ensure!(one == two, "README.md: {one:#?}\nREADME.vi.md: {two:#?}");
    }
    ensure!(english.len() == vietnamese.len(), "one has more commands");
    Ok(())
}

#[test]
fn wildcards_fit() {
    for (shown, line, expected) in [
        ("Block:   …", "Block: 3 (0xd4)", true),
        ("height …, epoch 0", "height 12, epoch 0", true),
        ("height …, epoch 0", "height 12, epoch 01", false),
        ("4 of 4", "4 of 4 healthy", false),
    ] {
        assert_eq!(fits(shown, line), expected, "{shown} {line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_do_as_the_readme_says() -> anyhow::Result<()> {
    let python = python::environment().await?.join("bin/python");
    let machine = Machines::connect(&[1]).await?;
    let home = machine.home_of(1);
    std::fs::write(home.join("password"), "of a test\n")?;
    let begin = format!(
        "cd '{}' && export AXOLOTL_HOME=\"$HOME/chain\" AXOLOTL_BIN='{}'\n",
        binaries::repository().display(),
        binaries::directory()?.display()
    );
    let run = async |text: &str| machine.run(1, &format!("{begin}{text}")).await;
    let steps = readme("README.md")?;
    let mut stop = None;
    for (step, next) in steps
        .iter()
        .zip(steps.iter().skip(1).map(Some).chain([None]))
    {
        let done = async {
            let mark = step.mark.as_deref().unwrap_or_default();
            if mark.is_empty() || mark.starts_with("docker") || mark.starts_with("not run") {
                return Ok(None);
            }
            if mark == "start now, stop at the end" {
                let (first, second) = step.text.split_once('\n').context("two lines")?;
                says(&run(first).await?, "JSON-RPC http://127.0.0.1:8545")?;
                return Ok(Some(second.to_owned()));
            }
            let shorter = step
                .text
                .replace("--rate 1000 --duration 30s", "--rate 50 --duration 2s");
            match mark {
                "shows what follows" => {
                    shows(&run(&step.text).await?, next.context("nothing follows")?)?;
                }
                "with password" => {
                    let text = format!("{} --password-file $HOME/password", step.text.trim_end());
                    run(&text).await?;
                }
                "with web3" => {
                    std::fs::write(home.join("readme.py"), &step.text)?;
                    let said = run(&format!("'{}' $HOME/readme.py", python.display())).await?;
                    says(&said, "status 1")?;
                }
                "for a moment" => says(&run(&shorter).await?, "finalised")?,
                _ => {
                    if let Some(text) = mark.strip_prefix("until it says ") {
                        let what = format!("{text:?}");
                        wait::until(&what, SOON, async || says(&run(&step.text).await?, text))
                            .await?;
                    } else if let Some(text) = mark.strip_prefix("says ") {
                        says(&run(&step.text).await?, text)?;
                    } else {
                        bail!("{mark:?} says nothing to this test");
                    }
                }
            }
            Ok(None)
        };
        let second = done.await;
        let second = second.with_context(|| format!("README.md:{}", step.line))?;
        stop = stop.or(second);
    }
    run(&stop.context("nothing was started")?).await?;
    let left = axolotl_tests::processes::naming(&home);
    ensure!(left.is_empty(), "left after the stop script: {left:?}");
    machine.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_for_containers_do_as_the_readme_says() -> anyhow::Result<()> {
    let cluster = DockerCluster::start().await?;
    let no_settings = tempfile::NamedTempFile::new()?;
    let compose = format!(
        "docker-compose --env-file {} -f",
        no_settings.path().display()
    );
    let exec = format!("docker exec {}", cluster.container("registry"));
    let run = async |text: &str| -> anyhow::Result<String> {
        let text = text
            .replace("http://localhost:9090", &cluster.registry_url())
            .replace("docker-compose -f", &compose)
            .replace("docker exec registry", &exec);
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c", &text])
            .envs(
                cluster
                    .environment()
                    .iter()
                    .map(|(name, value)| (name, value)),
            )
            .current_dir(binaries::repository())
            .stdin(Stdio::null())
            .output()
            .await?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{text}: {said}{complaint}");
        Ok(said)
    };
    let mut ran = 0;
    for step in readme("README.md")? {
        let mark = step.mark.as_deref().unwrap_or_default();
        let Some(how) = mark.strip_prefix("docker") else {
            continue;
        };
        ran += 1;
        let done = async {
            if how == ", follows the log" {
                says(
                    &run(&step.text.replace(" -f registry", " registry")).await?,
                    "listening",
                )?;
            } else if let Some(text) = how.strip_prefix(" until it says ") {
                let what = format!("{text:?}");
                wait::until(&what, SOON, async || says(&run(&step.text).await?, text)).await?;
            } else {
                let text = how.strip_prefix(" says ").unwrap_or_default();
                says(&run(&step.text).await?, text)?;
            }
            anyhow::Ok(())
        };
        done.await
            .with_context(|| format!("README.md:{}", step.line))?;
    }
    ensure!(ran >= 5, "{ran} blocks for containers");
    cluster.finish().await
}
