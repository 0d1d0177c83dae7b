//! The Docker runtime against the engine of this machine, with the real image of nodes.
#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

mod engine;
mod faults;

use std::time::{Duration, Instant};

use axolotl_common::{NodeId, registry_api::RuntimeInfo};
use axolotl_registry::runtime::{Change, Exit, Origin, Runtime};
use engine::{Bench, docker, spec};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_started_found_stopped_started_again_and_removed() {
    let mut bench = Bench::new().await;
    let node = NodeId::numbered(5);
    let first = bench.runtime.spawn(&spec(5)).await.unwrap();
    let name = bench.name("node5");
    assert_eq!(
        first.info,
        RuntimeInfo::Docker {
            container: name.clone()
        }
    );
    assert_eq!(first.generation, 7);
    let rpc = first.public_rpc_url.clone().unwrap();
    assert!(rpc.starts_with("http://127.0.0.1:"), "{rpc}");
    bench
        .hear(|c| matches!(c, Change::Started(f) if f.instance == first))
        .await;

    // As locked up as is promised.
    let seen = docker(&[
        "inspect",
        "-f",
        "{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.HostConfig.SecurityOpt}} \
         {{.HostConfig.RestartPolicy.Name}} {{.HostConfig.Memory}} {{.HostConfig.PidsLimit}} \
         {{.Config.User}} {{.HostConfig.NetworkMode}} {{range .HostConfig.PortBindings}}\
         {{range .}}{{.HostIp}} {{end}}{{end}}{{range .Mounts}}{{.Destination}}={{.RW}} {{end}}",
        &name,
    ]);
    let wanted = format!(
        "true [ALL] [no-new-privileges:true] no 134217728 256 65532:65532 {} 127.0.0.1 127.0.0.1 ",
        bench.network()
    );
    assert!(seen.starts_with(&wanted), "{seen}\nis not\n{wanted}");
    assert!(
        seen.contains("/data=true") && seen.contains("/join=false"),
        "{seen}"
    );

    // Already there: given back as it is.
    let again = bench.runtime.spawn(&spec(5)).await.unwrap();
    assert_eq!(again, first);
    let found = bench.found(5).await;
    assert_eq!((found.origin, &found.ended), (Origin::Registry, &None));
    assert_eq!(found.instance, first);
    let refused = bench.runtime.remove(&node).await.unwrap_err().to_string();
    assert!(refused.contains("runs"), "{refused}");

    bench.runtime.stop(&first).await.unwrap();
    assert_eq!(bench.ended(&first).await, Exit::Clean);
    assert_eq!(bench.found(5).await.ended, Some(Exit::Clean));
    bench.runtime.stop(&first).await.unwrap();

    let second = bench.runtime.spawn(&spec(5)).await.unwrap();
    assert_eq!(second.token, first.token, "the container that was there");
    assert_eq!(
        second.public_rpc_url, first.public_rpc_url,
        "ports are kept"
    );
    bench.runtime.stop(&second).await.unwrap();
    bench.runtime.remove(&node).await.unwrap();
    bench
        .hear(|c| matches!(c, Change::Removed { token, .. } if *token == first.token))
        .await;
    assert_eq!(bench.containers(), "");
    assert_eq!(bench.volumes(), "");
    bench.runtime.remove(&node).await.unwrap();
    bench.runtime.stop(&second).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn crash_stop_kill_and_removal_are_told_apart() {
    let mut bench = Bench::new().await;
    let instance = bench.runtime.spawn(&spec(5)).await.unwrap();
    let name = bench.name("node5");

    let pid = docker(&["inspect", "-f", "{{.State.Pid}}", &name]);
    engine::run("kill", &["-9", &pid]);
    let exit = bench.ended(&instance).await;
    assert_eq!(exit, Exit::Crash("killed by signal 9".to_owned()));
    assert_eq!(bench.found(5).await.ended, Some(exit));

    docker(&["start", &name]);
    let started = bench.hear(|c| matches!(c, Change::Started(_))).await;
    let Change::Started(found) = started else {
        panic!("{started:?}");
    };
    assert_eq!(
        (found.instance.token, found.ended),
        (instance.token.clone(), None)
    );
    docker(&["kill", &name]);
    assert_eq!(bench.ended(&instance).await, Exit::Clean);

    docker(&["start", &name]);
    // A signal that a node does not end by explains no later crash.
    docker(&["kill", "--signal", "HUP", &name]);
    let pid = docker(&["inspect", "-f", "{{.State.Pid}}", &name]);
    engine::run("kill", &["-9", &pid]);
    assert!(matches!(bench.ended(&instance).await, Exit::Crash(_)));

    docker(&["start", &name]);
    docker(&["stop", &name]);
    assert_eq!(bench.ended(&instance).await, Exit::Clean);
    docker(&["rm", &name]);
    bench
        .hear(|c| matches!(c, Change::Removed { token, .. } if *token == instance.token))
        .await;

    // Its volume stays, and the next container is made on it.
    let volumes = bench.volumes();
    let next = bench.runtime.spawn(&spec(5)).await.unwrap();
    assert_ne!(next.token, instance.token);
    assert_eq!(bench.volumes(), volumes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_container_runs_and_can_be_stopped() {
    let mut bench = Bench::new().await;
    let instance = bench.runtime.spawn(&spec(5)).await.unwrap();
    docker(&["pause", &bench.name("node5")]);
    assert_eq!(bench.found(5).await.ended, None);
    let begin = Instant::now();
    bench.runtime.stop(&instance).await.unwrap();
    assert!(
        begin.elapsed() < Duration::from_secs(30),
        "{:?}",
        begin.elapsed()
    );
    assert_eq!(bench.ended(&instance).await, Exit::Clean);
    bench.runtime.remove(&instance.node).await.unwrap();
    assert_eq!(bench.containers(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_others_are_started_again_but_never_removed() {
    let mut bench = Bench::new().await;
    bench.given("node2");
    let found = bench.found(2).await;
    assert_eq!(found.origin, Origin::Given);
    assert_eq!(found.ended, None);
    docker(&["stop", "-t", "2", &bench.name("node2")]);
    assert_eq!(bench.ended(&found.instance).await, Exit::Clean);
    bench.runtime.remove(&NodeId::numbered(2)).await.unwrap();
    let again = bench.runtime.spawn(&spec(2)).await.unwrap();
    assert_eq!(again.token, found.instance.token);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_image_means_a_new_container_on_the_same_volume() {
    let mut bench = Bench::new().await;
    bench.own_image().await;
    let first = bench.runtime.spawn(&spec(5)).await.unwrap();
    let volumes = bench.volumes();
    bench.new_image();
    bench.runtime.stop(&first).await.unwrap();
    let second = bench.runtime.spawn(&spec(5)).await.unwrap();
    assert_ne!(second.token, first.token);
    assert_eq!(bench.volumes(), volumes);
    assert_eq!(bench.containers().lines().count(), 1);
}
