//! Clients that ask for large answers and read none of them.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};

use crate::{
    chain::Solo,
    harness::{DEADLINE, Node, client, until},
};

/// Connections that read nothing.
const SILENT: usize = 100;
/// Requests that each of them sends ahead.
const AHEAD: usize = 8;
/// So many of them are ended, and replaced, before the test ends.
const ENDED: usize = 30;
/// What a call returns, bytes: 4 MiB of JSON.
const OUTPUT_BYTES: u32 = 2 << 20;
/// What all of that may cost in memory, MB: 48 of answers, the calls in progress with their outputs in two
/// forms, what the allocator keeps.
const SILENT_MB: f64 = 150.0;
/// An honest call is answered within this time meanwhile.
const HONEST_TIMEOUT: Duration = Duration::from_secs(5);

/// A call of code that returns so many zeros: PUSH4 bytes, PUSH0, RETURN.
fn returning(bytes: u32) -> Value {
    let to = "0x00000000000000000000000000000000000000c0";
    let code = format!("0x63{bytes:08x}5ff3");
    let params = json!([{ "to": to }, "latest", { to: { "code": code } }]);
    json!({ "jsonrpc": "2.0", "id": 1, "method": "eth_call", "params": params })
}

fn call(method: &str, params: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params })
}

/// Opens a connection that asks `AHEAD` times; single calls and batches in turn.
async fn ask(address: SocketAddr, index: usize) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    let large = returning(OUTPUT_BYTES);
    let body = match index % 2 {
        0 => large.to_string(),
        _ => Value::from(vec![large; 4]).to_string(),
    };
    let length = body.len();
    let request = format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}");
    let request = request.repeat(AHEAD);
    timeout(DEADLINE, stream.write_all(request.as_bytes())).await??;
    Ok(stream)
}

/// Whether the node has ended the connection. What it sent before stays unread.
async fn is_ended(stream: &TcpStream) -> bool {
    let error = matches!(stream.take_error(), Ok(Some(_)));
    let ready = timeout(Duration::ZERO, stream.ready(tokio::io::Interest::WRITABLE)).await;
    error || matches!(ready, Ok(Ok(ready)) if ready.is_write_closed())
}

async fn post(node: &Node, body: &Value) -> anyhow::Result<Value> {
    let port = node.rpc_port().await?;
    let sent = client()?
        .post(format!("http://127.0.0.1:{port}"))
        .body(body.to_string())
        .timeout(HONEST_TIMEOUT)
        .send()
        .await?;
    Ok(serde_json::from_slice(&sent.bytes().await?)?)
}

#[tokio::test]
async fn answers_that_nobody_reads_cost_bounded_memory() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let solo = Solo::new(home.path())?;
    let node = solo.start().spawn()?;
    node.goes_on(2).await?;
    let address = SocketAddr::from(([127, 0, 0, 1], node.rpc_port().await?));
    let whole = post(&node, &returning(OUTPUT_BYTES)).await?;
    let length = whole["result"].as_str().map(str::len);
    ensure!(length == Some(2 + 2 * OUTPUT_BYTES as usize), "{length:?}");
    let before = node.memory_mb()?;

    let mut silent = Vec::new();
    for index in 0..SILENT {
        silent.push(ask(address, index).await?);
    }
    let honest = [
        call("eth_blockNumber", json!([])),
        call(
            "eth_getBalance",
            json!(["0x00000000000000000000000000000000000000c0", "latest"]),
        ),
        call("eth_getBlockByNumber", json!(["latest", true])),
        json!([
            call("eth_chainId", json!([])),
            call("eth_gasPrice", json!([]))
        ]),
    ];
    let started = Instant::now();
    let (mut highest, mut slowest, mut ended, mut answered) = (before, Duration::ZERO, 0, 0);
    // Most are refused their answers. Those that have one are ended for leaving it unread.
    while ended < ENDED {
        ensure!(
            started.elapsed() < 3 * DEADLINE,
            "{ended} connections were ended in {:?}",
            started.elapsed()
        );
        for body in &honest {
            let asked = Instant::now();
            let answer = post(&node, body).await.with_context(|| body.to_string())?;
            slowest = slowest.max(asked.elapsed());
            let answers = answer.as_array().cloned().unwrap_or(vec![answer]);
            for answer in answers {
                ensure!(!answer["result"].is_null(), "{body}: {answer}");
                answered += 1;
            }
        }
        for (index, stream) in silent.iter_mut().enumerate() {
            if is_ended(stream).await {
                ended += 1;
                *stream = ask(address, index).await?;
            }
        }
        highest = highest.max(node.memory_mb()?);
    }
    println!(
        "MEASURED {SILENT} connections that read nothing of {AHEAD} answers of 4 to 16 MiB each: \
         {highest:.1} MB, {before:.1} MB before; {answered} honest calls in {:?}, the slowest in \
         {slowest:?}",
        started.elapsed()
    );
    ensure!(
        highest - before < SILENT_MB,
        "{highest:.1} above {before:.1} MB"
    );
    node.goes_on(3).await?;
    drop(silent);
    until("a large answer", async || {
        let answer = post(&node, &returning(OUTPUT_BYTES)).await?;
        ensure!(answer["result"].is_string(), "{answer}");
        Ok(())
    })
    .await?;
    node.stop(&solo.data).await?;
    Ok(())
}
