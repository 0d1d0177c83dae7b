//! A chain of containers from the compose file, as a newcomer starts it.

use std::{
    process::{Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use axolotl_tests::{DockerCluster, binaries, checks, cluster::START, docker, wait};
use tokio::process::Command;

#[tokio::test(flavor = "multi_thread")]
async fn the_compose_file_starts_a_chain() -> anyhow::Result<()> {
    let cluster = DockerCluster::start().await?;
    let labels = ["node1", "node2", "node3", "node4"];
    ensure!(
        cluster.running().await? == labels,
        "{:?}",
        cluster.running().await?
    );
    let clients = cluster.rpcs(&labels).await?;
    for client in &clients {
        checks::reach(client, 1).await?;
    }
    checks::same_chain(&clients).await?;
    // Nothing is open to other machines, nobody is root, and only the registry has the socket.
    for name in ["registry", "node1", "node2", "node3", "node4"] {
        let format = "{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.Config.User}} \
                      {{range .NetworkSettings.Ports}}{{range .}}{{.HostIp}} {{end}}{{end}}\
                      {{range .Mounts}}{{.Destination}} {{end}}";
        let seen = docker::docker(&["inspect", "-f", format, &cluster.container(name)]).await?;
        ensure!(
            seen.starts_with("true [ALL] 65532:65532 127.0.0.1 /"),
            "{name}: {seen}"
        );
        ensure!(
            seen.contains("docker.sock") == (name == "registry"),
            "{name}: {seen}"
        );
    }
    // The health checks of the images pass.
    cluster.exec("node1", &["axolotl", "health"]).await?;
    cluster
        .exec("registry", &["axolotl-registry", "health"])
        .await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scripts_start_once_and_leave_nothing() -> anyhow::Result<()> {
    let cluster = DockerCluster::prepare(&[]).await?;
    let begun = Instant::now();
    let said = script(&cluster, "start-auto-scaling.sh", &["--docker"]).await?;
    let took = begun.elapsed();
    println!("MEASURED start of containers to four healthy validators: {took:.1?}");
    ensure!(took < Duration::from_secs(60), "the start took {took:?}");
    ensure!(said.contains("4 of 4 nodes healthy"), "{said}");
    let before = ids(&cluster).await?;
    let again = script(&cluster, "start-auto-scaling.sh", &["--docker"]).await?;
    ensure!(again.contains("nothing was changed"), "{again}");
    ensure!(
        ids(&cluster).await? == before,
        "the second start changed something"
    );

    // Another chain of containers is named, and is no reason to say that nothing runs.
    let other = [
        ("DOCKER_NETWORK", "axt-nobody"),
        ("AXOLOTL_PREFIX", "axt-nobody-"),
    ];
    let said = script_with(
        &cluster,
        &other,
        "stop-auto-scaling.sh",
        &["--docker", "--wipe"],
    )
    .await?;
    let said = output_text(&said);
    let network = setting(&cluster, "DOCKER_NETWORK")?;
    ensure!(said.contains(&network), "{said}");
    ensure!(
        ids(&cluster).await? == before,
        "the stop of another chain changed something"
    );

    let client = cluster.rpc("node1").await?;
    let block = wait::until("the first block", START, async || {
        let block = client.block(1).await?;
        ensure!(block.is_some(), "there is no block");
        Ok(block)
    })
    .await?;
    // A container that the registry started is stopped and started again like the others; that the first node
    // is not there is no reason to wait for it.
    cluster.stop(&["node1"]).await?;
    cluster.wait_voting("node5", 1, START).await?;
    let again = script(&cluster, "start-auto-scaling.sh", &["--docker"]).await?;
    ensure!(again.contains("nothing was changed"), "{again}");
    script(&cluster, "stop-auto-scaling.sh", &["--docker"]).await?;
    let left = cluster.present().await?;
    ensure!(left.is_empty(), "containers are left: {left:?}");
    ensure!(!cluster.volumes().await?.is_empty(), "the chain is gone");
    script(&cluster, "start-auto-scaling.sh", &["--docker"]).await?;
    // Four were ready; node1 may be the fifth.
    let same = wait::until("node1 to answer", START, async || {
        let client = cluster.rpc("node1").await?;
        Ok(client.block(1).await? == block)
    })
    .await?;
    ensure!(same, "it is another chain");
    // A volume that somebody else's container has: no volume is removed.
    let volumes = cluster.volumes().await?;
    let foreign = cluster.container("foreign");
    let image = setting(&cluster, "DOCKER_IMAGE")?;
    let mount = format!("{}:/other", volumes.first().context("no volumes")?);
    docker::docker(&["create", "--name", &foreign, "-v", &mount, &image]).await?;
    let refused = script_with(
        &cluster,
        &[],
        "stop-auto-scaling.sh",
        &["--docker", "--wipe"],
    )
    .await;
    docker::docker(&["rm", "-f", &foreign]).await?;
    let refused = refused?;
    let said = output_text(&refused);
    ensure!(
        !refused.status.success() && said.contains(&foreign),
        "{said}"
    );
    ensure!(cluster.volumes().await? == volumes, "volumes were removed");
    script(&cluster, "start-auto-scaling.sh", &["--docker"]).await?;
    let said = script(&cluster, "stop-auto-scaling.sh", &["--docker", "--wipe"]).await?;
    let (containers, volumes) = (cluster.present().await?, cluster.volumes().await?);
    ensure!(
        containers.is_empty() && volumes.is_empty(),
        "{containers:?} and {volumes:?} are left: {said}"
    );
    let said = script(&cluster, "stop-auto-scaling.sh", &["--docker", "--wipe"]).await?;
    ensure!(said.contains("Nothing was running"), "{said}");
    cluster.finish().await
}

/// Runs a script that must go well; gives what it says.
async fn script(cluster: &DockerCluster, name: &str, words: &[&str]) -> anyhow::Result<String> {
    let output = cluster.script(name, words).await?;
    let said = output_text(&output);
    println!("{name} {}:\n{said}", words.join(" "));
    ensure!(output.status.success(), "{name} failed: {said}");
    Ok(said)
}

/// Runs a script with other settings than the cluster's; gives its output, whether it went well or not.
async fn script_with(
    cluster: &DockerCluster,
    settings: &[(&str, &str)],
    name: &str,
    words: &[&str],
) -> anyhow::Result<Output> {
    let home = tempfile::tempdir()?;
    let output = Command::new(binaries::repository().join("scripts").join(name))
        .args(words)
        .env("AXOLOTL_HOME", home.path())
        .envs(
            cluster
                .environment()
                .iter()
                .map(|(name, value)| (name, value)),
        )
        .envs(settings.iter().copied())
        .stdin(Stdio::null())
        .output()
        .await?;
    println!("{name} {}:\n{}", words.join(" "), output_text(&output));
    Ok(output)
}

fn output_text(output: &Output) -> String {
    let said = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8_lossy(&said).into_owned()
}

/// A setting of the cluster.
fn setting(cluster: &DockerCluster, name: &str) -> anyhow::Result<String> {
    let mut settings = cluster.environment().iter();
    let found = settings.find(|(known, _)| known == name);
    found
        .map(|(_, value)| value.clone())
        .with_context(|| format!("{name} is not set"))
}

/// Ids of the containers.
async fn ids(cluster: &DockerCluster) -> anyhow::Result<Vec<String>> {
    let mut ids = Vec::new();
    for label in cluster.present().await? {
        let container = cluster.container(&label);
        ids.push(
            docker::docker(&["inspect", "-f", "{{.Id}} {{.State.StartedAt}}", &container]).await?,
        );
    }
    Ok(ids)
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_sockets_group_differs_the_registry_says_what_to_set() -> anyhow::Result<()> {
    // A group that nobody has.
    let cluster = DockerCluster::prepare(&[("DOCKER_GID", "54321")]).await?;
    cluster.up(&[]).await?;
    // The chain forms all the same: the socket is for replacements only.
    cluster.wait_healthy(4, START).await?;
    let said = wait::until(
        "words about DOCKER_GID",
        Duration::from_secs(10),
        async || {
            let log = cluster.log("registry").await?;
            let line = log.lines().find(|line| line.contains("DOCKER_GID="));
            line.map(str::to_owned)
                .ok_or_else(|| anyhow::anyhow!("{log}"))
        },
    )
    .await?;
    let right = cluster
        .environment()
        .iter()
        .find(|(name, _)| name == "DOCKER_GID");
    let right = right.map(|(_, value)| value.as_str()).unwrap_or_default();
    ensure!(said.contains(&format!("DOCKER_GID={right}")), "{said}");
    cluster.finish().await
}
