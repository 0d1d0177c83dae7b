//! What strangers on the registry's port may try: nodes are heard meanwhile.
#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

mod support;

use std::{
    io::ErrorKind,
    net::SocketAddr,
    time::{Duration, Instant},
};

use axolotl_common::{
    NodeId,
    registry_api::{ControlAnswer, NodeState},
    signed_request::HEADER_KEY,
};
use reqwest::Method;
use support::{Calls, DEADLINE, TestRegistry, beat, key, next_counter, now_ms, request, wait_for};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::TcpStream,
    time::timeout,
};

/// Connections that say nothing.
const IDLE: usize = 1_100;
/// Requests that never end.
const UNFINISHED: usize = 400;
/// A node gives up a call after this time.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// Lets this process, which is registry and strangers in one, open enough files.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    let current = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    assert!(
        current > 8_192,
        "this test needs 8,192 files, and may open {current}"
    );
}

async fn open(address: SocketAddr, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // One that was cut meanwhile is none the less one that was tried.
    let _ = stream.write_all(text.as_bytes()).await;
    stream
}

/// The beginnings of requests, of every kind.
fn unfinished(index: usize) -> String {
    let body = |path: &str, more: &str, length: usize| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{more}content-length: \
             {length}\r\n\r\n{{"
        )
    };
    let of_node1 = format!("{HEADER_KEY}: {}\r\n", key(1).public());
    match index % 6 {
        0 => "POST /health HTTP/1.1\r\nhost:".to_owned(),
        1 => body("/health", "", 1_000),
        2 => body("/health", &of_node1, 1_000),
        3 => body("/register", "", 1 << 20),
        4 => body("/control/answers", &of_node1, 6 << 20),
        _ => "GET /health?node_id=node1 HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n"
            .to_owned(),
    }
}

/// A heartbeat on a connection of its own, as after a restart, within a node's patience.
async fn beat_afresh(api: &Calls, i: u8, seq: u64) {
    let fresh = Calls {
        http: reqwest::Client::builder()
            .no_proxy()
            .timeout(CALL_TIMEOUT)
            .build()
            .unwrap(),
        ..api.clone()
    };
    let answer = fresh.beat(&key(i), &beat(i, seq, 1)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_and_idle_connections_keep_no_heartbeat_out() {
    raise_open_files();
    let dir = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start(dir.path(), &[]).await;
    let api = registry.api();
    api.register_all(2).await;
    let mut kept = api.signed_get(&key(1), "/control").send().await.unwrap();
    assert_eq!(kept.status(), 200);

    let mut strangers = Vec::new();
    for index in 0..UNFINISHED {
        strangers.push(open(registry.address, &unfinished(index)).await);
    }
    for seq in 1..=5 {
        // On the connection that it has, and on a new one.
        let answer = api.beat(&key(1), &beat(1, seq, 1)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        beat_afresh(&api, 2, seq).await;
    }
    for _ in 0..IDLE {
        strangers.push(open(registry.address, "").await);
    }
    for seq in 6..=10 {
        let answer = api.beat(&key(1), &beat(1, seq, 1)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        beat_afresh(&api, 2, seq).await;
    }
    // A newcomer registers, and the chain is formed.
    for i in 3..=4 {
        let answer = api.register(&key(i), &request(i)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        beat_afresh(&api, i, 1).await;
    }
    let status = api.status().await;
    assert_eq!(status.healthy_nodes, 4, "{status:#?}");
    assert_eq!(status.nodes[&NodeId::numbered(1)].state, NodeState::Healthy);
    let chunk = timeout(DEADLINE, kept.chunk()).await.unwrap().unwrap();
    assert!(chunk.is_some(), "the control stream is open still");
    drop(strangers);
    registry.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_that_never_end_make_room_for_answers() {
    let dir = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start(dir.path(), &[]).await;
    let api = registry.api();
    api.register_all(1).await;
    // Each is one byte short of the largest answer, in the name of a key that is known: 120 MiB in all.
    let mut strangers = Vec::new();
    for _ in 0..20 {
        let head = unfinished(4);
        let mut stream = open(registry.address, &head).await;
        let body = vec![b' '; (6 << 20) - 2];
        strangers.push(tokio::spawn(async move {
            // Refused and cut ones fail.
            let _ = stream.write_all(&body).await;
            let mut byte = [0];
            let _ = stream.read(&mut byte).await;
        }));
    }
    let answer = ControlAnswer {
        node_id: NodeId::numbered(1),
        number: 1 << 32,
        done: true,
        detail: "x".repeat(1 << 20),
        recovery: None,
    };
    let body = serde_json::to_vec(&answer).unwrap();
    wait_for("an answer to an order", || async {
        let call = api.signed_at(
            &key(1),
            Method::POST,
            "/control/answers",
            &body,
            now_ms(),
            next_counter(),
        );
        let started = Instant::now();
        let answer = api.send(call.timeout(CALL_TIMEOUT)).await;
        // What the registry thinks of this one does not matter: it was read and its key was seen.
        match answer {
            Ok(answer) if answer.status != 503 && answer.status != 408 => Ok(()),
            other => Err((started.elapsed(), other.map(|answer| answer.status))),
        }
    })
    .await;
    beat_afresh(&api, 1, 1).await;
    strangers.iter().for_each(tokio::task::JoinHandle::abort);
    registry.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_answers_stop_the_connection_and_nobody_else() {
    raise_open_files();
    let dir = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start(dir.path(), &[]).await;
    let api = registry.api();
    api.register_all(4).await;
    // Far more answers than the buffers on the way hold; a connection that went on would answer all.
    let asked = 200_000;
    let ahead = "GET /status HTTP/1.1\r\nhost: x\r\n\r\n".repeat(asked);
    let silent = TcpStream::connect(registry.address).await.unwrap();
    let ended = tokio::spawn(async move {
        let mut left = ahead.as_bytes();
        while let Ok(ready) = silent.ready(Interest::WRITABLE).await {
            if ready.is_write_closed() {
                break;
            }
            match silent.try_write(left) {
                Ok(0) => silent.ready(Interest::ERROR).await.map(drop).unwrap(),
                Ok(written) => left = &left[written..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
    });
    for seq in 1..=5 {
        beat_afresh(&api, 1, seq).await;
    }
    // It is ended for what it leaves unread, although it goes on asking.
    timeout(2 * DEADLINE, ended).await.unwrap().unwrap();
    let body = api.get("/metrics").await.body;
    let text = String::from_utf8(body).unwrap();
    let answered = text
        .lines()
        .filter(|line| line.contains("responses") && line.contains("200"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum::<f64>();
    assert!(
        answered < asked as f64 / 2.0,
        "{answered} of {asked} were answered: {text}"
    );
    registry.stop().await;
}
