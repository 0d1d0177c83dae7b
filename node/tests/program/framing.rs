//! Requests whose end two readers would see in different places: none may be read as two.

use std::time::Duration;

use anyhow::ensure;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    chain::Solo,
    harness::{DEADLINE, Node},
};

const BLOCK_NUMBER: &str = r#"{"jsonrpc":"2.0","id":1,"method":"eth_blockNumber","params":[]}"#;

/// Everything that a connection answers to these bytes until it is closed by the other side; without
/// an answer to some of them it is closed once the head took too long, which is for another test.
async fn answer(node: &Node, request: &[u8]) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", node.rpc_port().await?)).await?;
    // The other side may have closed before all is sent.
    let _ = timeout(DEADLINE, stream.write_all(request)).await;
    let mut text = Vec::new();
    let mut buffer = [0; 4_096];
    loop {
        match timeout(SILENCE, stream.read(&mut buffer)).await {
            Ok(Ok(read)) if read > 0 => text.extend_from_slice(&buffer[..read]),
            // An aborted connection is closed, too.
            Ok(_) => break,
            Err(_) => {
                ensure!(
                    text.is_empty(),
                    "open after an answer: {}",
                    String::from_utf8_lossy(&text)
                );
                break;
            }
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// An open connection that says nothing for so long waits for more of the request.
const SILENCE: Duration = Duration::from_secs(1);

async fn started(home: &std::path::Path) -> anyhow::Result<(Solo, Node)> {
    let solo = Solo::new(home)?;
    let node = solo.start().spawn()?;
    node.up().await?;
    Ok((solo, node))
}

/// A call that a smuggler would hide behind another one.
fn hidden() -> String {
    let body = r#"{"jsonrpc":"2.0","id":666,"method":"eth_chainId","params":[]}"#;
    format!(
        "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Answers by status, in order.
fn statuses(answer: &str) -> Vec<&str> {
    let heads = answer.match_indices("HTTP/1.1 ");
    heads.map(|(at, _)| &answer[at + 9..at + 12]).collect()
}

#[tokio::test]
async fn lengths_that_contradict_each_other_end_the_connection() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let (solo, node) = started(home.path()).await?;
    let length = BLOCK_NUMBER.len();
    let chunks = format!("{length:x}\r\n{BLOCK_NUMBER}\r\n0\r\n\r\n");
    let both_ways = [
        format!("content-length: {length}\r\ntransfer-encoding: chunked\r\n"),
        format!("transfer-encoding: chunked\r\ncontent-length: {length}\r\n"),
        "content-length: 0\r\ntransfer-encoding: chunked\r\n".to_owned(),
    ];
    // One answer, by the chunks, and no second request on that connection.
    for headers in both_ways {
        let request = format!(
            "POST / HTTP/1.1\r\nhost: x\r\n{headers}\r\n{chunks}{}",
            hidden()
        );
        let answer = answer(&node, request.as_bytes()).await?;
        assert_eq!(statuses(&answer), ["200"], "{headers:?}: {answer}");
        assert!(!answer.contains("666"), "{headers:?}: {answer}");
    }
    let wrong = [
        format!(
            "content-length: {length}\r\ncontent-length: {}\r\n",
            length + 1
        ),
        format!("content-length: {length}, {}\r\n", length + 1),
        format!("content-length: +{length}\r\n"),
        "content-length: -1\r\n".to_owned(),
        "content-length: 0x10\r\n".to_owned(),
        "content-length: 99999999999999999999999\r\n".to_owned(),
        "content-length:\r\n".to_owned(),
        format!("content-length : {length}\r\n"),
        format!("content-length: {length}\r\n folded: x\r\n"),
        "transfer-encoding: chunked, identity\r\n".to_owned(),
        "transfer-encoding: gzip\r\n".to_owned(),
        "transfer-encoding: xchunked\r\n".to_owned(),
        "transfer-encoding : chunked\r\n".to_owned(),
        format!("x: {}\r\n", "y".repeat(200 << 10)),
        "x: y\r\n".repeat(65),
        "x: \0\r\n".to_owned(),
    ];
    for headers in wrong {
        let request = format!(
            "POST / HTTP/1.1\r\nhost: x\r\n{headers}\r\n{BLOCK_NUMBER}{}",
            hidden()
        );
        let answer = answer(&node, request.as_bytes()).await?;
        let shown: String = headers.chars().take(60).collect();
        assert!(
            !answer.contains(" 200 ") && !answer.contains("666"),
            "{shown:?}: {answer}"
        );
        let refused = statuses(&answer);
        assert!(refused.len() <= 1, "{shown:?}: {answer}");
        assert!(
            refused.iter().all(|status| status.starts_with('4')),
            "{shown:?}: {answer}"
        );
    }
    // The same length twice says nothing new.
    let twice = format!("content-length: {length}\r\n").repeat(2);
    let request =
        format!("POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{twice}\r\n{BLOCK_NUMBER}");
    let answer = answer(&node, request.as_bytes()).await?;
    assert_eq!(statuses(&answer), ["200"], "{answer}");
    node.goes_on(1).await?;
    node.stop(&solo.data).await?;
    Ok(())
}

#[tokio::test]
async fn bad_chunks_end_the_connection() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let (solo, node) = started(home.path()).await?;
    let whole = format!("{:x}\r\n{BLOCK_NUMBER}\r\n", BLOCK_NUMBER.len());
    let bad = [
        format!("zz\r\n{BLOCK_NUMBER}\r\n0\r\n\r\n"),
        format!("-1\r\n{BLOCK_NUMBER}\r\n0\r\n\r\n"),
        format!("fffffffffffffffff\r\n{BLOCK_NUMBER}\r\n0\r\n\r\n"),
        format!("\r\n{BLOCK_NUMBER}\r\n0\r\n\r\n"),
        format!("5\r\n{BLOCK_NUMBER}\r\n0\r\n\r\n"),
        format!("{whole}{whole}0\r\n{}\r\n", "x".repeat(20 << 10)),
        format!("1;{}\r\n{{\r\n", "e".repeat(20 << 10)),
    ];
    for chunks in bad {
        let head = "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
        let request = format!("{head}{chunks}{}", hidden());
        let answer = answer(&node, request.as_bytes()).await?;
        let shown: String = chunks.chars().take(60).collect();
        assert!(!answer.contains("666"), "{shown:?}: {answer}");
        let statuses = statuses(&answer);
        assert!(statuses.len() <= 1, "{shown:?}: {answer}");
        assert!(
            statuses.iter().all(|status| status.starts_with('4')),
            "{shown:?}: {answer}"
        );
    }
    node.goes_on(1).await?;
    node.stop(&solo.data).await?;
    Ok(())
}

#[tokio::test]
async fn other_protocols_are_turned_away() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let (solo, node) = started(home.path()).await?;
    for request in [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\0\0\0\0\r\n\r\n",
    ] {
        let answer = answer(&node, request).await?;
        assert!(!answer.contains(" 200 "), "{answer}");
    }
    node.goes_on(1).await?;
    node.stop(&solo.data).await?;
    Ok(())
}
