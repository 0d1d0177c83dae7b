//! The methods, against a chain.

use alloy_consensus::Header;
use alloy_primitives::{Address, B256, Bytes, TxKind, U256, hex, keccak256};
use axolotl_common::{CommitCertificate, genesis::DEV_CHAIN_ID};
use serde_json::{Value, json};
use std::sync::{Arc, atomic::Ordering};

use super::{Fixture, call};
use crate::rpc::{Rpc, RpcLimits};

const TARGET: Address = Address::repeat_byte(0x42);

/// Fails with the error when there is one.
async fn ok(rpc: &Arc<Rpc>, method: &str, params: Value) -> Value {
    match call(rpc, method, params.clone()).await {
        Ok(value) => value,
        Err(error) => panic!("{method} {params}: {} {error}", error.code()),
    }
}

/// Code and message of an error.
async fn err(rpc: &Arc<Rpc>, method: &str, params: Value) -> (i64, String) {
    match call(rpc, method, params.clone()).await {
        Ok(value) => panic!("{method} {params} gave {value}"),
        Err(error) => (error.code(), error.to_string()),
    }
}

async fn send(rpc: &Arc<Rpc>, raw: &Bytes) -> Value {
    ok(rpc, "eth_sendRawTransaction", json!([raw])).await
}

/// Creation code of a contract that logs one topic whenever it is called.
fn logger(topic: B256) -> Bytes {
    let mut code = hex!("60278060095f395ff3").to_vec();
    code.push(0x7f);
    code.extend(topic);
    code.extend(hex!("60006000a100"));
    code.into()
}

/// Code that reverts with these data of 100 bytes.
fn reverter(data: &[u8]) -> String {
    assert_eq!(data.len(), 100);
    hex::encode_prefixed([&hex!("6064600a5f3960645ffd")[..], data].concat())
}

#[tokio::test]
async fn a_transaction_is_followed_from_the_pool_into_a_block() {
    let fixture = Fixture::new(RpcLimits::default());
    let rpc = fixture.rpc();
    let from = fixture.account.address();
    let raw = fixture.sign(TxKind::Call(TARGET), 7, Bytes::new());
    let hash = send(&rpc, &raw).await;
    assert_eq!(hash, json!(keccak256(&raw)));
    assert_eq!(fixture.submitted.load(Ordering::SeqCst), 1);

    let waiting = ok(&rpc, "eth_getTransactionByHash", json!([hash])).await;
    assert_eq!(waiting["blockNumber"], Value::Null);
    assert_eq!(waiting["from"], json!(from));
    let nonce = |tag: &'static str| ok(&rpc, "eth_getTransactionCount", json!([from, tag]));
    assert_eq!(nonce("pending").await, "0x1");
    assert_eq!(nonce("latest").await, "0x0");
    let again = err(&rpc, "eth_sendRawTransaction", json!([raw])).await;
    assert_eq!(
        (again.0, again.1.contains("already known")),
        (-32000, true),
        "{again:?}"
    );

    fixture.append();
    let early = ok(&rpc, "eth_getTransactionReceipt", json!([hash])).await;
    assert_eq!(
        early,
        Value::Null,
        "a block that is not durable is not visible"
    );
    assert_eq!(ok(&rpc, "eth_blockNumber", json!([])).await, "0x0");
    let early = ok(&rpc, "eth_getBlockByNumber", json!(["0x1", false])).await;
    assert_eq!(early, Value::Null);

    fixture.publish();
    assert_eq!(ok(&rpc, "eth_blockNumber", json!([])).await, "0x1");
    let receipt = ok(&rpc, "eth_getTransactionReceipt", json!([hash])).await;
    for (field, expected) in [
        ("status", json!("0x1")),
        ("type", json!("0x2")),
        ("gasUsed", json!("0x5208")),
        ("cumulativeGasUsed", json!("0x5208")),
        ("transactionIndex", json!("0x0")),
        ("blockNumber", json!("0x1")),
        ("from", json!(from)),
        ("to", json!(TARGET)),
        ("contractAddress", Value::Null),
        ("logs", json!([])),
    ] {
        assert_eq!(receipt[field], expected, "{field}");
    }
    let block = ok(&rpc, "eth_getBlockByNumber", json!(["latest", true])).await;
    assert_eq!(block["hash"], receipt["blockHash"]);
    assert_eq!(block["transactions"][0]["hash"], hash);
    assert_eq!(
        block["transactions"][0]["gasPrice"],
        receipt["effectiveGasPrice"]
    );
    let by_hash = ok(&rpc, "eth_getBlockByHash", json!([block["hash"], false])).await;
    assert_eq!(by_hash["transactions"], json!([hash]));
    let header: Header = serde_json::from_value(block.clone()).unwrap();
    assert_eq!(
        json!(header.hash_slow()),
        block["hash"],
        "the hash follows from the fields"
    );

    for (method, params) in [
        ("eth_getTransactionByHash", json!([hash])),
        (
            "eth_getTransactionByBlockNumberAndIndex",
            json!(["0x1", "0x0"]),
        ),
        (
            "eth_getTransactionByBlockHashAndIndex",
            json!([block["hash"], "0x0"]),
        ),
    ] {
        assert_eq!(
            ok(&rpc, method, params).await,
            block["transactions"][0],
            "{method}"
        );
    }
    let beyond = json!(["0x1", "0x1"]);
    assert_eq!(
        ok(&rpc, "eth_getTransactionByBlockNumberAndIndex", beyond).await,
        Value::Null
    );
    assert_eq!(
        ok(&rpc, "eth_getBlockTransactionCountByNumber", json!(["0x1"])).await,
        "0x1"
    );
    assert_eq!(
        ok(&rpc, "eth_getUncleCountByBlockHash", json!([block["hash"]])).await,
        "0x0"
    );
    assert_eq!(
        ok(&rpc, "eth_getBlockReceipts", json!(["0x1"])).await,
        json!([receipt])
    );
    assert_eq!(
        ok(&rpc, "eth_getRawTransactionByHash", json!([hash])).await,
        json!(raw)
    );
    assert_eq!(
        ok(&rpc, "eth_getBalance", json!([TARGET, "latest"])).await,
        "0x7"
    );
    assert_eq!(
        ok(&rpc, "eth_getBalance", json!([TARGET, "0x0"])).await,
        "0x0"
    );
    assert_eq!(nonce("latest").await, "0x1");
    let low = err(&rpc, "eth_sendRawTransaction", json!([raw])).await;
    assert!(low.1.contains("nonce too low"), "{low:?}");
}

#[tokio::test]
async fn calls_revert_with_their_reason() {
    let fixture = Fixture::new(RpcLimits::default());
    let rpc = fixture.rpc();
    let mut data = hex!("08c379a0").to_vec();
    data.extend(U256::from(32).to_be_bytes::<32>());
    data.extend(U256::from(9).to_be_bytes::<32>());
    data.extend(b"too small");
    data.resize(100, 0);
    let overrides = json!({ TARGET.to_string(): { "code": reverter(&data) } });
    for method in ["eth_call", "eth_estimateGas"] {
        let params = json!([{ "to": TARGET }, "latest", overrides]);
        let error = call(&rpc, method, params).await.unwrap_err();
        assert_eq!(error.code(), 3, "{method}: {error}");
        assert_eq!(error.to_string(), "execution reverted: too small");
        assert_eq!(error.to_json()["data"], hex::encode_prefixed(&data));
    }
    // Returns the balance of the caller, which is pretended.
    let caller = Address::repeat_byte(1);
    let overrides = json!({
        TARGET.to_string(): { "code": "0x33315f5260205ff3" },
        caller.to_string(): { "balance": "0x63" },
    });
    let params = json!([{ "from": caller, "to": TARGET }, "latest", overrides]);
    let output = ok(&rpc, "eth_call", params).await;
    assert_eq!(output, json!(B256::with_last_byte(0x63)));

    let simple = json!([{ "from": fixture.account.address(), "to": TARGET, "value": "0x1" }]);
    assert_eq!(ok(&rpc, "eth_estimateGas", simple).await, "0x5208");
    let endless =
        json!([{ "to": TARGET }, "latest", { TARGET.to_string(): { "code": "0x5b5f56" } }]);
    let (code, text) = err(&rpc, "eth_call", endless).await;
    assert_eq!(code, -32000);
    assert!(text.contains("out of gas"), "{text}");

    let wrong = [
        (json!([]), -32602, "missing value for required argument 0"),
        (json!([[]]), -32602, "not an object"),
        (
            json!([{ "data": "0x01", "input": "0x02" }]),
            -32000,
            "not equal",
        ),
        (
            json!([{ "gasPrice": "0x1", "maxFeePerGas": "0x1" }]),
            -32000,
            "both gasPrice",
        ),
        (
            json!([{ "chainId": "0x1" }]),
            -32000,
            "chainId does not match",
        ),
        (
            json!([{}, "latest", { TARGET.to_string(): { "blance": "0x1" } }]),
            -32602,
            "unknown field",
        ),
        (
            json!([{}, "latest", {}, { "number": "0x1" }]),
            -32602,
            "block overrides",
        ),
        (json!([{}, "0x5"]), -32000, "header not found"),
    ];
    for (params, code, text) in wrong {
        let error = err(&rpc, "eth_call", params.clone()).await;
        assert_eq!(
            (error.0, error.1.contains(text)),
            (code, true),
            "{params}: {error:?}"
        );
    }
}

#[tokio::test]
async fn logs_are_found_and_bounded() {
    let limits = RpcLimits {
        max_logs: 4,
        max_log_blocks: 10,
        ..RpcLimits::default()
    };
    let fixture = Fixture::new(limits);
    let rpc = fixture.rpc();
    let topic = B256::repeat_byte(0x77);
    let deployed = send(&rpc, &fixture.sign(TxKind::Create, 0, logger(topic))).await;
    fixture.mine();
    let receipt = ok(&rpc, "eth_getTransactionReceipt", json!([deployed])).await;
    let contract: Address = serde_json::from_value(receipt["contractAddress"].clone()).unwrap();
    let code = ok(&rpc, "eth_getCode", json!([contract, "latest"])).await;
    assert!(code.as_str().unwrap().starts_with("0x7f7777"), "{code}");

    let by_topic = json!({ "fromBlock": "0x0", "topics": [topic] });
    let log_filter = ok(&rpc, "eth_newFilter", json!([by_topic])).await;
    let block_filter = ok(&rpc, "eth_newBlockFilter", json!([])).await;
    let pool_filter = ok(&rpc, "eth_newPendingTransactionFilter", json!([])).await;
    let mut sent = Vec::new();
    for _ in 0..2 {
        for _ in 0..2 {
            let raw = fixture.sign(TxKind::Call(contract), 0, Bytes::new());
            sent.push(send(&rpc, &raw).await);
        }
        fixture.mine();
    }
    let found = ok(&rpc, "eth_getLogs", json!([by_topic])).await;
    let places: Vec<_> = found
        .as_array()
        .unwrap()
        .iter()
        .map(|log| {
            assert_eq!(log["address"], json!(contract));
            assert_eq!(log["removed"], false);
            (
                log["blockNumber"].clone(),
                log["logIndex"].clone(),
                log["transactionHash"].clone(),
            )
        })
        .collect();
    let expected = [
        ("0x2", "0x0"),
        ("0x2", "0x1"),
        ("0x3", "0x0"),
        ("0x3", "0x1"),
    ];
    for (i, (block, index)) in expected.into_iter().enumerate() {
        assert_eq!(places[i], (json!(block), json!(index), sent[i].clone()));
    }
    let second = ok(&rpc, "eth_getTransactionReceipt", json!([sent[1]])).await;
    assert_eq!(second["logs"], json!([found[1]]));

    let changes = |filter: &Value| call(&rpc, "eth_getFilterChanges", json!([filter]));
    assert_eq!(changes(&log_filter).await.unwrap(), found);
    assert_eq!(changes(&log_filter).await.unwrap(), json!([]));
    assert_eq!(
        changes(&block_filter)
            .await
            .unwrap()
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert_eq!(changes(&pool_filter).await.unwrap(), json!(sent));
    let all = ok(&rpc, "eth_getFilterLogs", json!([log_filter])).await;
    assert_eq!(all, found);
    assert_eq!(
        ok(&rpc, "eth_uninstallFilter", json!([log_filter])).await,
        true
    );
    assert_eq!(
        err(&rpc, "eth_getFilterChanges", json!([log_filter]))
            .await
            .1,
        "filter not found"
    );

    let queries = [
        (json!({ "address": contract }), 2),
        (json!({ "address": TARGET, "fromBlock": "0x0" }), 0),
        (
            json!({ "fromBlock": "0x0", "topics": [[topic, B256::ZERO]] }),
            4,
        ),
        (json!({ "fromBlock": "0x0", "topics": [topic, null] }), 4),
        (json!({ "fromBlock": "0x0", "topics": [topic, topic] }), 0),
        (json!({ "blockHash": second["blockHash"] }), 2),
        (json!({ "fromBlock": "0x3", "toBlock": "0x99" }), 2),
        (json!({ "fromBlock": "0x98", "toBlock": "0x99" }), 0),
    ];
    for (query, count) in queries {
        let found = ok(&rpc, "eth_getLogs", json!([query])).await;
        assert_eq!(found.as_array().unwrap().len(), count, "{query}");
    }
    send(&rpc, &fixture.sign(TxKind::Call(contract), 0, Bytes::new())).await;
    while fixture.mine() < 12 {}
    let refused = [
        (
            json!({ "fromBlock": "0x1", "toBlock": "0xa" }),
            -32005,
            "query returned more than 4 results",
        ),
        (
            json!({ "fromBlock": "0x0", "toBlock": "0xa" }),
            -32005,
            "exceed maximum block range: 10",
        ),
        (
            json!({ "fromBlock": "0x2", "toBlock": "0x1" }),
            -32602,
            "invalid block range params",
        ),
        (json!({ "blockHash": B256::ZERO }), -32000, "unknown block"),
    ];
    for (query, code, text) in refused {
        let error = err(&rpc, "eth_getLogs", json!([query])).await;
        assert_eq!(
            (error.0, error.1.contains(text)),
            (code, true),
            "{query}: {error:?}"
        );
    }
}

#[tokio::test]
async fn fees_have_a_history() {
    let fixture = Fixture::new(RpcLimits::default());
    let rpc = fixture.rpc();
    send(&rpc, &fixture.sign(TxKind::Call(TARGET), 1, Bytes::new())).await;
    fixture.mine();
    fixture.mine();
    let history = ok(&rpc, "eth_feeHistory", json!(["0x2", "latest", [0, 50.5]])).await;
    assert_eq!(history["oldestBlock"], "0x1");
    assert_eq!(history["baseFeePerGas"].as_array().unwrap().len(), 3);
    assert_eq!(history["gasUsedRatio"].as_array().unwrap().len(), 2);
    assert_eq!(
        history["reward"],
        json!([["0x3e8", "0x3e8"], ["0x0", "0x0"]])
    );
    let all = ok(&rpc, "eth_feeHistory", json!([5_000, "latest"])).await;
    assert_eq!(all["oldestBlock"], "0x0");
    assert_eq!(all.get("reward"), None);
    for (params, text) in [
        (
            json!(["0x1", "0x9"]),
            "request beyond head block: requested 9, head 2",
        ),
        (
            json!(["0x1", "latest", [50, 10]]),
            "invalid reward percentile: #0:50 > #1:10",
        ),
        (
            json!(["0x1", "latest", [101]]),
            "invalid reward percentile: 101",
        ),
        (json!(["0x1"]), "missing value for required argument 1"),
    ] {
        let error = err(&rpc, "eth_feeHistory", params).await;
        assert_eq!(error.1, text);
    }
    let quantity = |value: Value| U256::from_str_radix(&value.as_str().unwrap()[2..], 16).unwrap();
    let tip = quantity(ok(&rpc, "eth_maxPriorityFeePerGas", json!([])).await);
    let price = quantity(ok(&rpc, "eth_gasPrice", json!([])).await);
    let next = quantity(history["baseFeePerGas"][2].clone());
    assert_eq!(tip, U256::from(1), "an idle chain asks for no more");
    assert_eq!(price, next + tip);
}

#[tokio::test]
async fn old_state_is_refused_in_words() {
    let fixture = Fixture::new(RpcLimits::default());
    let rpc = fixture.rpc();
    send(&rpc, &fixture.sign(TxKind::Call(TARGET), 1, Bytes::new())).await;
    while fixture.mine() < 140 {}
    assert_eq!(
        ok(&rpc, "eth_getBalance", json!([TARGET, "0x14"])).await,
        "0x1"
    );
    for (method, params) in [
        ("eth_getBalance", json!([TARGET, "0x1"])),
        ("eth_getTransactionCount", json!([TARGET, "0x1"])),
        ("eth_getCode", json!([TARGET, "0x1"])),
        ("eth_getStorageAt", json!([TARGET, "0x0", "0x1"])),
        ("eth_call", json!([{ "to": TARGET }, "0x1"])),
    ] {
        let (code, text) = err(&rpc, method, params).await;
        assert_eq!(code, -32000, "{method}");
        assert!(
            text.contains("historical state not available"),
            "{method}: {text}"
        );
    }
    let old = ok(&rpc, "eth_getBlockByNumber", json!(["0x1", true])).await;
    assert_eq!(
        old["transactions"].as_array().unwrap().len(),
        1,
        "blocks stay"
    );
}

#[tokio::test]
async fn what_clients_probe_is_answered() {
    let fixture = Fixture::new(RpcLimits::default());
    let rpc = fixture.rpc();
    fixture.mine();
    let chain_id = format!("{DEV_CHAIN_ID:#x}");
    for (method, params, expected) in [
        ("eth_chainId", json!([]), json!(chain_id)),
        ("net_version", json!([]), json!(DEV_CHAIN_ID.to_string())),
        ("net_listening", json!([]), json!(true)),
        ("net_peerCount", json!([]), json!("0x3")),
        ("eth_syncing", json!([]), json!(false)),
        ("eth_accounts", json!([]), json!([])),
        ("eth_mining", json!([]), json!(false)),
        ("eth_getCode", json!([TARGET, "latest"]), json!("0x")),
        (
            "eth_getStorageAt",
            json!([TARGET, "0x0", "latest"]),
            json!(B256::ZERO),
        ),
        (
            "eth_getUncleCountByBlockNumber",
            json!(["0x9"]),
            Value::Null,
        ),
        ("eth_getBlockReceipts", json!(["0x9"]), Value::Null),
        ("eth_getTransactionByHash", json!([B256::ZERO]), Value::Null),
        ("web3_sha3", json!(["0x"]), json!(keccak256([]))),
    ] {
        assert_eq!(ok(&rpc, method, params).await, expected, "{method}");
    }
    fixture.syncing.store(true, Ordering::SeqCst);
    let syncing = ok(&rpc, "eth_syncing", json!([])).await;
    assert_eq!(syncing["currentBlock"], "0x1");
    assert_eq!(syncing["highestBlock"], "0x3e8");

    let certificate = ok(&rpc, "axolotl_getCommitCertificate", json!(["0x1"])).await;
    let certificate: CommitCertificate = serde_json::from_value(certificate).unwrap();
    let head = fixture.context.chain.head();
    let chain = fixture.context.chain.spec().chain;
    certificate.verify(&chain, &head.validators).unwrap();
    assert_eq!(certificate.block.0, head.hash.0);
    let membership = ok(&rpc, "axolotl_getMembership", json!([])).await;
    assert_eq!(membership["quorum"], 1);
    assert_eq!(membership["validators"].as_array().unwrap().len(), 1);
    assert_eq!(ok(&rpc, "axolotl_status", json!([])).await["height"], 1);
    let (code, text) = err(&rpc, "eth_sendTransaction", json!([{}])).await;
    assert_eq!(code, -32601);
    assert_eq!(
        text,
        "the method eth_sendTransaction does not exist/is not available"
    );
}
