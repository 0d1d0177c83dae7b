//! What stands in the way of a container, and an engine that is away or hangs.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use axolotl_common::registry_api::RuntimeInfo;
use axolotl_registry::runtime::{Change, DockerRuntime, Exit, Runtime, change_queue};
use tokio::net::UnixListener;

use crate::engine::{Bench, IMAGE, docker, options, spec};

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_taken_is_avoided() {
    let bench = Bench::new().await;
    docker(&["create", "--name", &bench.name("node5"), IMAGE]);
    let instance = bench.runtime.spawn(&spec(5)).await.unwrap();
    let long = format!("{}-node5", bench.network());
    assert_eq!(
        instance.info,
        RuntimeInfo::Docker {
            container: long.clone()
        }
    );
    let told = docker(&["inspect", "-f", "{{.Config.Env}}", &long]);
    assert!(told.contains(&format!("ADVERTISE_ADDR={long}")), "{told}");
    bench.runtime.stop(&instance).await.unwrap();
    bench.runtime.remove(&instance.node).await.unwrap();
    // The other one is untouched.
    docker(&["rm", &bench.name("node5")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_that_are_taken_are_passed_over() {
    let bench = Bench::new().await;
    let rpc = bench.options.rpc_port;
    let _held = TcpListener::bind(("127.0.0.1", rpc)).unwrap();
    let instance = bench.runtime.spawn(&spec(5)).await.unwrap();
    let url = instance.public_rpc_url.clone().unwrap();
    let port: u16 = url.rsplit(':').next().unwrap().parse().unwrap();
    assert!(port > rpc, "{port} is taken from {rpc} on");
    // The next one passes over those of the first, also while that one is stopped.
    bench.runtime.stop(&instance).await.unwrap();
    let second = bench.runtime.spawn(&spec(6)).await.unwrap();
    assert_ne!(second.public_rpc_url, instance.public_rpc_url);
    assert_eq!(
        bench.containers().lines().count(),
        2,
        "no container is left of an attempt"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_image_is_named_with_what_to_do() {
    let mut bench = Bench::new().await;
    bench.options.image = "axolotl-node:no-such-tag".to_owned();
    bench.restart().await;
    let error = bench.runtime.spawn(&spec(5)).await.unwrap_err().to_string();
    for words in [
        "axolotl-node:no-such-tag",
        "build-images.sh",
        "DOCKER_IMAGE",
    ] {
        assert!(error.contains(words), "{error}");
    }
    assert_eq!(bench.containers(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_registry_left_half_made_is_used_or_removed() {
    let bench = Bench::new().await;
    // Killed between the making and the start of a container.
    bench.half_made("node5");
    let found = bench.found(5).await;
    assert!(
        matches!(&found.ended, Some(Exit::Crash(why)) if why.contains("never started")),
        "{found:?}"
    );
    let instance = bench.runtime.spawn(&spec(5)).await.unwrap();
    assert_ne!(instance.token, found.instance.token);
    assert_eq!(
        bench.containers().lines().count(),
        1,
        "{}",
        bench.containers()
    );
    // One that is not wanted any more goes, too.
    bench.half_made("node6");
    let six = bench.found(6).await.instance;
    bench.runtime.stop(&six).await.unwrap();
    bench.runtime.remove(&six.node).await.unwrap();
    assert_eq!(
        bench.containers().lines().count(),
        1,
        "{}",
        bench.containers()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_not_there_is_said_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (changes, _heard) = change_queue();
    let mut options = options("x");
    options.host = format!("unix://{}", dir.path().join("no.sock").display());
    let runtime = DockerRuntime::new(options.clone(), changes.clone());
    let begin = Instant::now();
    let error = runtime.list().await.unwrap_err().to_string();
    assert!(
        error.contains("no.sock") && error.contains("DOCKER_HOST"),
        "{error}"
    );
    let error = runtime.spawn(&spec(5)).await.unwrap_err().to_string();
    assert!(error.contains("starting node5"), "{error}");

    // A socket of which nobody is left.
    let dead = dir.path().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    options.host = format!("unix://{}", dead.display());
    let runtime = DockerRuntime::new(options, changes);
    let error = runtime.list().await.unwrap_err().to_string();
    assert!(error.contains("no Docker engine answers"), "{error}");
    assert!(
        begin.elapsed() < Duration::from_secs(5),
        "{:?}",
        begin.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_hangs_holds_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("hanging.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let hang = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    let (changes, _heard) = change_queue();
    let mut options = options("x");
    options.host = format!("unix://{}", socket.display());
    let runtime = DockerRuntime::new(options, changes);
    let begin = Instant::now();
    let error = runtime.list().await.unwrap_err().to_string();
    assert!(error.contains("did not answer within 5 s"), "{error}");
    assert!(
        begin.elapsed() < Duration::from_secs(20),
        "{:?}",
        begin.elapsed()
    );
    hang.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_outage_everything_is_looked_at_and_told() {
    let mut bench = Bench::behind_proxy().await;
    let instance = bench.runtime.spawn(&spec(5)).await.unwrap();
    bench.hear(|c| matches!(c, Change::Started(_))).await;
    bench.proxy().cut();
    let error = bench.runtime.list().await.unwrap_err().to_string();
    assert!(error.contains("no Docker engine answers"), "{error}");
    docker(&["kill", &bench.name("node5")]);
    bench.proxy().mend();
    // A short outage loses nothing: the engine tells what was missed.
    assert_eq!(bench.ended(&instance).await, Exit::Clean);
    bench.hear(|c| *c == Change::Look).await;
    assert_eq!(bench.found(5).await.ended, Some(Exit::Clean));
    let again = bench.runtime.spawn(&spec(5)).await.unwrap();
    assert_eq!(again.token, instance.token);
}
