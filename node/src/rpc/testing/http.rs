//! HTTP over a real listener: what a client may get wrong, and what it may try.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::Fixture;
use crate::rpc::{RpcLimits, bind, serve};

/// No test waits longer for anything.
const DEADLINE: Duration = Duration::from_secs(20);

struct Server {
    address: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<std::io::Result<()>>,
    _fixture: Fixture,
}

impl Server {
    fn start(limits: RpcLimits) -> Self {
        let fixture = Fixture::new(limits);
        let listener = bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(serve(listener, fixture.context.clone(), shutdown.clone()));
        Self {
            address,
            shutdown,
            task,
            _fixture: fixture,
        }
    }

    /// Sends a body on a connection of its own; gives status and answer.
    async fn post(&self, body: impl Into<reqwest::Body>) -> (u16, String) {
        let response = reqwest::Client::new()
            .post(format!("http://{}/", self.address))
            .body(body)
            .timeout(DEADLINE)
            .send()
            .await
            .unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    async fn json(&self, body: &str) -> Value {
        let (status, text) = self.post(body.to_owned()).await;
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn still_answers(&self) {
        let answer = self.json(BLOCK_NUMBER).await;
        assert_eq!(answer["result"], "0x0");
    }

    async fn stop(self) {
        self.shutdown.cancel();
        timeout(DEADLINE, self.task)
            .await
            .expect("it stops")
            .unwrap()
            .unwrap();
    }
}

const BLOCK_NUMBER: &str = r#"{"jsonrpc":"2.0","id":1,"method":"eth_blockNumber","params":[]}"#;

/// Everything until the other side closes; an aborted connection is closed, too.
async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let read = timeout(DEADLINE, stream.read_to_end(&mut text)).await;
    let _ = read.expect("the connection is closed in time");
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn wrong_bodies_get_the_standard_codes() {
    let server = Server::start(RpcLimits::default());
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep_params = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"eth_call","params":[{}]}}"#,
        format_args!("{}{}", "[".repeat(40), "]".repeat(40))
    );
    let table = [
        ("", -32700),
        ("{", -32700),
        ("hello", -32700),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"eth_blockNumber""#,
            -32700,
        ),
        ("{} {}", -32700),
        ("[]", -32600),
        ("{}", -32600),
        ("5", -32600),
        ("null", -32600),
        (r#""text""#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":7}"#, -32600),
        (
            r#"{"jsonrpc":"1.0","id":1,"method":"eth_blockNumber"}"#,
            -32600,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"eth_getBalance","params":{"a":1}}"#,
            -32602,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"eth_getBalance","params":7}"#,
            -32602,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"eth_getBalance","params":[7,"latest"]}"#,
            -32602,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"eth_nothing","params":[]}"#,
            -32601,
        ),
        (deep.as_str(), -32600),
        (deep_params.as_str(), -32600),
    ];
    for (body, code) in table {
        let answer = server.json(body).await;
        let shown = &body[..body.len().min(100)];
        assert_eq!(answer["error"]["code"], code, "{shown}: {answer}");
        assert_eq!(answer["jsonrpc"], "2.0", "{shown}");
        assert!(answer.get("id").is_some(), "{shown}: an answer has an id");
    }
    let unknown = server
        .json(r#"{"jsonrpc":"2.0","id":"a","method":"eth_nothing"}"#)
        .await;
    assert_eq!(unknown["id"], "a");
    assert_eq!(
        unknown["error"]["message"],
        "the method eth_nothing does not exist/is not available"
    );
    server.still_answers().await;
    server.stop().await;
}

#[tokio::test]
async fn batches_are_answered_in_order_and_bounded() {
    let limits = RpcLimits {
        max_batch: 4,
        max_response_bytes: 150,
        ..RpcLimits::default()
    };
    let server = Server::start(limits);
    let call = |id: u64, method: &str| json!({ "jsonrpc": "2.0", "id": id, "method": method });
    let note = json!({ "jsonrpc": "2.0", "method": "eth_chainId" });
    let batch = json!([call(1, "eth_chainId"), note, 5, call(2, "eth_x")]);
    let answers = server.json(&batch.to_string()).await;
    assert_eq!(answers.as_array().unwrap().len(), 3, "{answers}");
    assert_eq!(answers[0]["id"], 1);
    assert_eq!(answers[0]["result"], "0x1e61");
    assert_eq!(answers[1]["error"]["code"], -32600);
    assert_eq!(answers[2]["error"]["code"], -32601);

    let long = json!([
        call(1, "rpc_modules"),
        call(2, "rpc_modules"),
        call(3, "rpc_modules")
    ]);
    let answers = server.json(&long.to_string()).await;
    assert!(answers[0]["result"].is_object(), "{answers}");
    assert_eq!(answers[2]["error"]["code"], -32003, "{answers}");
    assert_eq!(answers[2]["error"]["message"], "response too large");

    let many = Value::from(vec![call(1, "eth_chainId"); 5]);
    let answer = server.json(&many.to_string()).await;
    assert_eq!(answer["error"]["code"], -32600, "{answer}");
    assert!(
        answer["error"]["message"]
            .as_str()
            .unwrap()
            .starts_with("batch too large")
    );

    for silent in [note.clone(), json!([note, note])] {
        assert_eq!(server.post(silent.to_string()).await, (204, String::new()));
    }
    server.stop().await;
}

#[tokio::test]
async fn large_bodies_are_refused_before_they_are_held() {
    let limits = RpcLimits {
        max_body_bytes: 10_000,
        max_bodies_bytes: 100 << 10,
        ..RpcLimits::default()
    };
    let server = Server::start(limits);
    let (status, text) = server.post(" ".repeat(10_001)).await;
    assert_eq!(status, 413, "{text}");
    assert!(text.contains("request too large"), "{text}");

    // Without an announced length it is cut off where it becomes too long.
    let mut stream = server.connect().await;
    let head = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let chunk = format!("{:x}\r\n{}\r\n", 4_000, " ".repeat(4_000));
    for _ in 0..3 {
        stream.write_all(chunk.as_bytes()).await.unwrap();
    }
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");

    // Bodies that are being sent share one budget.
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut stream = server.connect().await;
        stream
            .write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9000\r\n\r\n")
            .await
            .unwrap();
        stream.write_all(&[b' '; 8_000]).await.unwrap();
        slow.push(stream);
    }
    let mut busy = 0;
    for stream in &mut slow {
        let mut first = [0; 12];
        let read = timeout(Duration::from_millis(500), stream.read_exact(&mut first)).await;
        busy += usize::from(read.is_ok() && first.starts_with(b"HTTP/1.1 503"));
    }
    assert!(busy > 0, "eight bodies of 9 kB passed a budget of 100 kB");
    server.still_answers().await;
    server.stop().await;
}

#[tokio::test]
async fn browsers_may_call_from_anywhere() {
    let server = Server::start(RpcLimits::default());
    let url = format!("http://{}/", server.address);
    let client = reqwest::Client::new();
    let preflight = client
        .request(reqwest::Method::OPTIONS, &url)
        .header("origin", "https://app.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "content-type")
        .send()
        .await
        .unwrap();
    assert!(preflight.status().is_success(), "{preflight:?}");
    let headers = preflight.headers();
    assert_eq!(headers["access-control-allow-origin"], "*");
    assert!(
        headers["access-control-allow-methods"]
            .to_str()
            .unwrap()
            .contains("POST")
    );
    assert!(headers.contains_key("access-control-allow-headers"));

    let answer = client
        .post(&url)
        .header("origin", "null")
        .header("content-type", "application/json")
        .body(BLOCK_NUMBER)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.headers()["access-control-allow-origin"], "*");
    assert_eq!(answer.headers()["content-type"], "application/json");

    let page = client.get(&url).send().await.unwrap();
    assert_eq!(page.status(), 200);
    assert!(page.text().await.unwrap().contains("POST"));
    let missing = client.get(format!("{url}nothing")).send().await.unwrap();
    assert_eq!(missing.status(), 404);
    let wrong = client.put(&url).send().await.unwrap();
    assert_eq!(wrong.status(), 405);
    server.stop().await;
}

#[tokio::test]
async fn slow_and_silent_clients_are_cut() {
    let limits = RpcLimits {
        header_timeout: Duration::from_millis(300),
        body_timeout: Duration::from_millis(300),
        ..RpcLimits::default()
    };
    let server = Server::start(limits);
    let started = Instant::now();

    let mut silent = server.connect().await;
    assert_eq!(read_to_end(&mut silent).await, "");

    let mut slow_head = server.connect().await;
    slow_head
        .write_all(b"POST / HTTP/1.1\r\nhost:")
        .await
        .unwrap();
    let answer = read_to_end(&mut slow_head).await;
    assert!(!answer.contains("200"), "{answer}");

    let mut slow_body = server.connect().await;
    slow_body
        .write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n{")
        .await
        .unwrap();
    let answer = read_to_end(&mut slow_body).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");

    let mut idle = server.connect().await;
    let request = format!(
        "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{BLOCK_NUMBER}",
        BLOCK_NUMBER.len()
    );
    idle.write_all(request.as_bytes()).await.unwrap();
    let answer = read_to_end(&mut idle).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(started.elapsed() >= Duration::from_millis(1_200));
    server.still_answers().await;
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answers_is_cut() {
    let limits = RpcLimits {
        write_timeout: Duration::from_millis(300),
        max_response_bytes: 64 << 20,
        ..RpcLimits::default()
    };
    let server = Server::start(limits);
    let mut stream = server.connect().await;
    // Ids are repeated in answers: a thousand of a thousand bytes, over and over.
    let id = "x".repeat(1_000);
    let call = json!({ "jsonrpc": "2.0", "id": id, "method": "rpc_modules" });
    let body = Value::from(vec![call; 1_000]).to_string();
    let request = format!(
        "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let cut = async { while stream.write_all(request.as_bytes()).await.is_ok() {} };
    timeout(DEADLINE, cut).await.expect("the connection is cut");
    server.still_answers().await;
    server.stop().await;
}

#[tokio::test]
async fn idle_connections_do_not_keep_others_out() {
    let limits = RpcLimits {
        max_connections: 20,
        ..RpcLimits::default()
    };
    let server = Server::start(limits);
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(server.connect().await);
    }
    server.still_answers().await;
    let mut closed = 0;
    for stream in &mut idle {
        let mut byte = [0];
        let read = timeout(Duration::from_millis(20), stream.read(&mut byte)).await;
        closed += usize::from(matches!(read, Ok(Ok(0) | Err(_))));
    }
    assert!((80..=90).contains(&closed), "{closed} of 100 were closed");
    server.stop().await;
}

#[tokio::test]
async fn it_stops_with_open_connections() {
    let server = Server::start(RpcLimits::default());
    let _silent = server.connect().await;
    let mut half = server.connect().await;
    half.write_all(b"POST / HTTP/1.1\r\n").await.unwrap();
    server.still_answers().await;
    let started = Instant::now();
    server.stop().await;
    assert!(
        started.elapsed() < Duration::from_secs(6),
        "{:?}",
        started.elapsed()
    );
}

/// A call of code that returns `bytes` zeros: PUSH4 bytes, PUSH0, RETURN.
fn returning(bytes: u32) -> String {
    let code = format!("0x63{bytes:08x}5ff3");
    let to = "0x00000000000000000000000000000000000000c0";
    let call = json!([{ "to": to }, "latest", { to: { "code": code } }]);
    json!({ "jsonrpc": "2.0", "id": 1, "method": "eth_call", "params": call }).to_string()
}

fn post_of(body: &str) -> String {
    let length = body.len();
    format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}")
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_answers_leave_room_for_small_ones_and_give_their_bytes_back() {
    let limits = RpcLimits {
        max_answers_bytes: 4 << 20,
        write_timeout: Duration::from_secs(4),
        ..RpcLimits::default()
    };
    let server = Server::start(limits);
    let large = returning(1 << 20);
    assert_eq!(
        server.json(&large).await["result"].as_str().unwrap().len(),
        2 + (2 << 20)
    );

    // Each of them asks eight times and reads nothing.
    let mut silent = Vec::new();
    for _ in 0..8 {
        let mut stream = server.connect().await;
        let ahead = post_of(&large).repeat(8);
        stream.write_all(ahead.as_bytes()).await.unwrap();
        silent.push(stream);
    }
    let deadline = Instant::now() + DEADLINE;
    let refused = loop {
        let answer = server.json(&large).await;
        if answer["error"].is_object() {
            break answer;
        }
        assert!(Instant::now() < deadline, "the budget is never in use");
    };
    assert_eq!(refused["error"]["code"], -32005, "{refused}");
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("limit exceeded"), "{message}");
    assert_eq!(refused["id"], 1);
    server.still_answers().await;
    let small = server.json(&returning(7 << 10)).await;
    assert!(small["result"].is_string(), "{small}");
    // A batch of which a part finds no room: errors in its place, the rest is answered.
    let batch = format!("[{BLOCK_NUMBER},{large},{large},{large},{BLOCK_NUMBER}]");
    let answers = server.json(&batch).await;
    assert_eq!(answers[0]["result"], "0x0");
    assert_eq!(answers[4]["result"], "0x0");

    // They are ended where their bytes are asked for, and at the latest when the time for writing is over.
    loop {
        let answer = server.json(&large).await;
        if answer["result"].is_string() {
            break;
        }
        assert!(Instant::now() < deadline, "{answer}");
    }
    drop(silent);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn output_and_time_of_one_call_are_bounded() {
    let limits = RpcLimits {
        max_call_output_bytes: 100_000,
        max_response_bytes: 150_000,
        call_timeout: Duration::from_millis(100),
        // More than it can count in the time.
        call_gas_cap: 1_000_000_000,
        ..RpcLimits::default()
    };
    let server = Server::start(limits);
    let of = async |body: &str| server.json(body).await["error"]["code"].clone();
    assert!(of(&returning(70_000)).await.is_null());
    assert_eq!(of(&returning(100_001)).await, -32005);
    assert_eq!(of(&returning(80_000)).await, -32003);
    // As much in the data of a revert.
    let reverting = returning(100_001).replace("5ff3", "5ffd");
    assert_eq!(of(&reverting).await, -32005);

    // JUMPDEST, PUSH0, JUMP. The answer to a batch does not wait for each of them longer than for one.
    let endless = returning(0).replace("0x63000000005ff3", "0x5b5f56");
    let started = Instant::now();
    let batch = server.json(&format!("[{endless},{BLOCK_NUMBER}]")).await;
    let aborted = &batch[0]["error"];
    assert_eq!(aborted["code"], -32000, "geth's code: {batch}");
    assert_eq!(aborted["message"], "execution aborted (timeout = 100ms)");
    assert_eq!(batch[1]["result"], "0x0", "{batch}");
    assert!(
        started.elapsed() < Duration::from_secs(3),
        "{:?}",
        started.elapsed()
    );
    server.shutdown.cancel();
}
