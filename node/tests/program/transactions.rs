//! Transactions that are refused: geth's words for each, and nothing changes by it.

use alloy_consensus::{
    Signed, TxEip1559, TxEip4844, TxEip7702, TxEnvelope, TxLegacy, transaction::SignableTransaction,
};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, hex};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use anyhow::{Context, ensure};
use axolotl_common::genesis::DEV_CHAIN_ID;
use axolotl_node::cli::accounts::DEV_SECRETS;
use serde_json::{Value, json};

use crate::{
    chain::Solo,
    harness::{Node, client, until},
};

const TO: TxKind = TxKind::Call(Address::repeat_byte(0x42));
/// Curve order of secp256k1: r and s lie below it.
const ORDER: U256 = U256::from_be_bytes(hex!(
    "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141"
));

/// A transfer that would be taken.
fn good(nonce: u64) -> TxEip1559 {
    TxEip1559 {
        chain_id: DEV_CHAIN_ID,
        nonce,
        gas_limit: 21_000,
        max_fee_per_gas: 10_000_000_000,
        max_priority_fee_per_gas: 1_000,
        to: TO,
        value: U256::from(1),
        access_list: Default::default(),
        input: Bytes::new(),
    }
}

fn signer() -> anyhow::Result<PrivateKeySigner> {
    Ok(PrivateKeySigner::from_slice(&DEV_SECRETS[0])?)
}

fn signed<T>(tx: T) -> anyhow::Result<Bytes>
where
    T: SignableTransaction<Signature>,
    TxEnvelope: From<Signed<T>>,
{
    let signature = signer()?.sign_hash_sync(&tx.signature_hash())?;
    Ok(encoded(tx, signature))
}

fn encoded<T>(tx: T, signature: Signature) -> Bytes
where
    T: SignableTransaction<Signature>,
    TxEnvelope: From<Signed<T>>,
{
    TxEnvelope::from(tx.into_signed(signature))
        .encoded_2718()
        .into()
}

/// Code and message of the error that a call gives; or its result.
async fn call(
    node: &Node,
    method: &str,
    params: &Value,
) -> anyhow::Result<Result<Value, (i64, String)>> {
    let url = format!("http://127.0.0.1:{}", node.rpc_port().await?);
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    let answer: Value = client()?.post(url).json(&body).send().await?.json().await?;
    Ok(match answer.get("error") {
        None => Ok(answer["result"].clone()),
        Some(error) => Err((
            error["code"].as_i64().context("no code")?,
            error["message"].as_str().context("no message")?.to_owned(),
        )),
    })
}

async fn send(node: &Node, raw: &Bytes) -> anyhow::Result<Result<Value, (i64, String)>> {
    call(node, "eth_sendRawTransaction", &json!([raw])).await
}

/// Waits until a transaction is in a block.
async fn mined(node: &Node, raw: &Bytes) -> anyhow::Result<()> {
    let params = json!([alloy_primitives::keccak256(raw)]);
    until("a receipt", async || {
        let receipt = call(node, "eth_getTransactionReceipt", &params).await?;
        let status = receipt.map(|receipt| receipt["status"].clone());
        ensure!(status == Ok(json!("0x1")), "{status:?}");
        Ok(())
    })
    .await
}

async fn waiting_transactions(node: &Node) -> anyhow::Result<u64> {
    let (_, status) = node.http("/status").await?;
    let status: Value = serde_json::from_str(&status)?;
    status["tx_pool_size"].as_u64().context("no tx_pool_size")
}

#[tokio::test]
async fn each_wrong_transaction_is_refused_in_geths_words() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let solo = Solo::new(home.path())?;
    let node = solo.start().spawn()?;
    node.up().await?;
    let first = signed(good(0))?;
    ensure!(send(&node, &first).await?.is_ok(), "a good one is refused");
    mined(&node, &first).await?;
    // A gap is no fault: what is above it waits.
    let waiting = signed(good(2))?;
    ensure!(send(&node, &waiting).await?.is_ok(), "a gap is refused");

    let wrong = |change: &dyn Fn(&mut TxEip1559)| {
        let mut tx = good(1);
        change(&mut tx);
        signed(tx)
    };
    let blob = TxEip4844 {
        chain_id: DEV_CHAIN_ID,
        nonce: 1,
        gas_limit: 21_000,
        max_fee_per_gas: 10_000_000_000,
        max_priority_fee_per_gas: 1_000,
        to: Address::repeat_byte(0x42),
        value: U256::ZERO,
        access_list: Default::default(),
        blob_versioned_hashes: vec![B256::repeat_byte(1)],
        max_fee_per_blob_gas: 1,
        input: Bytes::new(),
    };
    let set_code = TxEip7702 {
        chain_id: DEV_CHAIN_ID,
        nonce: 1,
        gas_limit: 100_000,
        max_fee_per_gas: 10_000_000_000,
        max_priority_fee_per_gas: 1_000,
        to: Address::repeat_byte(0x42),
        value: U256::ZERO,
        access_list: Default::default(),
        authorization_list: Vec::new(),
        input: Bytes::new(),
    };
    let unprotected = TxLegacy {
        chain_id: None,
        nonce: 1,
        gas_price: 10_000_000_000,
        gas_limit: 21_000,
        to: TO,
        value: U256::ZERO,
        input: Bytes::new(),
    };
    let signature = signer()?.sign_hash_sync(&good(1).signature_hash())?;
    let high_s = Signature::new(signature.r(), ORDER - signature.s(), !signature.v());
    let no_r = Signature::new(U256::ZERO, signature.s(), signature.v());
    let whole = signed(good(1))?;
    let table: Vec<(&str, Bytes, &str)> = vec![
        (
            "chain id",
            wrong(&|tx| tx.chain_id = 1)?,
            "invalid sender: invalid chain id for signer: have 1 want 7777",
        ),
        (
            "no chain id",
            signed(unprotected)?,
            "only replay-protected (EIP-155) transactions allowed over RPC",
        ),
        (
            "used nonce",
            wrong(&|tx| tx.nonce = 0)?,
            "nonce too low: next nonce 1, tx nonce 0",
        ),
        (
            "far nonce",
            wrong(&|tx| tx.nonce = 100_000)?,
            "nonce too high: next nonce 1, tx nonce 100000",
        ),
        (
            "last nonce",
            wrong(&|tx| tx.nonce = u64::MAX)?,
            "nonce has max value",
        ),
        ("known", waiting.clone(), "already known"),
        (
            "replacement",
            wrong(&|tx| (tx.nonce, tx.value) = (2, U256::from(2)))?,
            "replacement transaction underpriced",
        ),
        (
            "funds",
            wrong(&|tx| tx.value = U256::from(10).pow(U256::from(24)))?,
            "insufficient funds for gas * price + value: balance 99",
        ),
        (
            "no such sum",
            wrong(&|tx| tx.value = U256::MAX)?,
            "insufficient funds for gas * price + value: ",
        ),
        (
            "intrinsic gas",
            wrong(&|tx| tx.gas_limit = 20_999)?,
            "intrinsic gas too low: gas 20999, minimum needed 21000",
        ),
        (
            "floor of data",
            wrong(&|tx| (tx.gas_limit, tx.input) = (40_000, vec![1; 1_000].into()))?,
            "insufficient gas for floor data gas cost: gas 40000, minimum needed 61000",
        ),
        (
            "gas above the cap of EIP-7825",
            wrong(&|tx| tx.gas_limit = 16_777_217)?,
            "transaction gas limit too high (cap: 16777216, tx: 16777217)",
        ),
        (
            "tip above cap",
            wrong(&|tx| tx.max_priority_fee_per_gas = tx.max_fee_per_gas + 1)?,
            "max priority fee per gas higher than max fee per gas",
        ),
        (
            "cap below the floor",
            wrong(&|tx| (tx.max_fee_per_gas, tx.max_priority_fee_per_gas) = (1, 1))?,
            "transaction underpriced",
        ),
        (
            "initcode",
            wrong(&|tx| {
                tx.to = TxKind::Create;
                tx.gas_limit = 5_000_000;
                tx.input = vec![0; 49_153].into();
            })?,
            "max initcode size exceeded: code size 49153, limit 49152",
        ),
        (
            "size",
            wrong(&|tx| (tx.gas_limit, tx.input) = (10_000_000, vec![1; 131_072].into()))?,
            "oversized data: transaction size 131",
        ),
        ("blobs", signed(blob)?, "transaction type not supported"),
        (
            "type 5",
            Bytes::from_static(&[5, 0xc0]),
            "transaction type not supported",
        ),
        (
            "type 0x7f",
            Bytes::from_static(&[0x7f, 0xc0]),
            "transaction type not supported",
        ),
        (
            "nothing set",
            signed(set_code)?,
            "set code tx must have at least one authorization tuple",
        ),
        ("high s", encoded(good(1), high_s), "invalid sender"),
        ("r is 0", encoded(good(1), no_r), "invalid sender"),
        ("nothing", Bytes::new(), "typed transaction too short"),
        ("cut off", whole.slice(..whole.len() - 1), "input too short"),
        (
            "bytes behind it",
            [&whole[..], &[0]].concat().into(),
            "unexpected length",
        ),
        (
            "no list",
            Bytes::from_static(&[0x02, 0x01]),
            "unexpected string",
        ),
    ];
    for (what, raw, words) in &table {
        let (code, message) = match send(&node, raw).await? {
            Ok(hash) => anyhow::bail!("{what}: taken as {hash}"),
            Err(error) => error,
        };
        assert_eq!(code, -32000, "{what}: {message}");
        assert!(message.starts_with(words), "{what}: {message}");
        let waiting = waiting_transactions(&node).await?;
        assert_eq!(waiting, 1, "{what} changed the pool");
    }
    // What waited is not lost.
    ensure!(send(&node, &whole).await?.is_ok(), "a good one is refused");
    mined(&node, &whole).await?;
    mined(&node, &waiting).await?;
    assert_eq!(waiting_transactions(&node).await?, 0);

    for (params, words) in [
        (json!([]), "missing value for required argument 0"),
        (json!([null]), "missing value for required argument 0"),
        (json!([7]), "invalid argument 0"),
        (json!([{}]), "invalid argument 0"),
        (json!(["02"]), "hex string without 0x prefix"),
        (json!(["0x0"]), "hex string of odd length"),
        (json!(["0xzz"]), "invalid hex string"),
        (
            json!(["0x02", "0x02"]),
            "too many arguments, want at most 1",
        ),
    ] {
        let answer = call(&node, "eth_sendRawTransaction", &params).await?;
        let (code, message) = answer.err().context("taken")?;
        assert_eq!(code, -32602, "{params}: {message}");
        assert!(message.contains(words), "{params}: {message}");
    }
    node.stop(&solo.data).await?;
    Ok(())
}
