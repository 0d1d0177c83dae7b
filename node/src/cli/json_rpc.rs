//! A small JSON-RPC client: what the commands and the cluster tests ask of a node.

use std::time::Duration;

use alloy_primitives::{Address, B256, Bytes, U256};
use axolotl_common::PublicKey;
use serde_json::{Value, json};

/// A client of one node. Cloning shares its connections.
#[derive(Clone, Debug)]
pub struct JsonRpc {
    http: reqwest::Client,
    url: String,
}

/// Why a call gave no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RpcError {
    /// No answer: connection refused, timeout, not HTTP 200.
    #[error("{url} does not answer: {why}")]
    Unreachable {
        /// Who was asked.
        url: String,
        /// What happened.
        why: String,
    },
    /// The node refused, in its words.
    #[error("{message} (code {code})")]
    Refused {
        /// JSON-RPC error code.
        code: i64,
        /// Message of the node.
        message: String,
    },
    /// The answer is not what the method gives.
    #[error("{method} answered something else than expected: {answer}")]
    Unexpected {
        /// What was called.
        method: String,
        /// The beginning of the answer.
        answer: String,
    },
}

/// A block, as far as the commands and tests look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockSummary {
    /// Height.
    pub number: u64,
    /// Hash.
    pub hash: B256,
    /// Hash of the block before it.
    pub parent: B256,
    /// Seconds since 1970.
    pub timestamp: u64,
    /// Base fee, wei per gas.
    pub base_fee: u128,
    /// Validator that built it; `None` for the genesis.
    pub builder: Option<PublicKey>,
    /// Root of the state after it.
    pub state_root: B256,
    /// Hashes of its transactions.
    pub transactions: Vec<B256>,
}

/// A receipt, as far as the commands and tests look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptSummary {
    /// Whether execution succeeded.
    pub success: bool,
    /// Height of the block.
    pub block_number: u64,
    /// Hash of the block.
    pub block_hash: B256,
}

/// Longest part of an unexpected answer that is shown.
const SHOWN_ANSWER_CHARS: usize = 200;

impl JsonRpc {
    /// A client of the node at `url`; no call takes longer than `timeout`.
    ///
    /// # Errors
    /// When the HTTP client cannot be set up.
    pub fn new(url: &str, timeout: Duration) -> Result<Self, reqwest::Error> {
        let http = super::http_client(timeout)?;
        Ok(Self {
            http,
            url: url.trim_end_matches('/').to_owned(),
        })
    }

    /// Address of the node.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Sends a request body that is JSON already, and reads the JSON of the answer.
    ///
    /// # Errors
    /// [`RpcError::Unreachable`].
    pub async fn post(&self, body: Bytes) -> Result<Value, RpcError> {
        let unreachable = |error: reqwest::Error| RpcError::Unreachable {
            url: self.url.clone(),
            why: super::cause(&error),
        };
        let response = self
            .http
            .post(&self.url)
            .header("content-type", "application/json")
            .body(body.0)
            .send()
            .await
            .map_err(unreachable)?
            .error_for_status()
            .map_err(unreachable)?;
        response.json().await.map_err(unreachable)
    }

    /// Calls a method.
    ///
    /// # Errors
    /// Any [`RpcError`].
    pub async fn call(&self, method: &str, params: Value) -> Result<Value, RpcError> {
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let answer = self.post(request.to_string().into_bytes().into()).await?;
        result_of(method, answer)
    }

    /// Calls several methods in one request; answers come in the order of the calls.
    ///
    /// # Errors
    /// When the batch as a whole failed.
    pub async fn batch(
        &self,
        calls: &[(&str, Value)],
    ) -> Result<Vec<Result<Value, RpcError>>, RpcError> {
        let requests: Vec<Value> = calls
            .iter()
            .enumerate()
            .map(|(id, (method, params))| {
                json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
            })
            .collect();
        let answer = self
            .post(Value::Array(requests).to_string().into_bytes().into())
            .await?;
        let Value::Array(mut answers) = answer else {
            return Err(unexpected("a batch", &answer));
        };
        answers.sort_by_key(|answer| answer["id"].as_u64());
        if answers.len() != calls.len() {
            return Err(unexpected("a batch", &Value::Array(answers)));
        }
        Ok(calls
            .iter()
            .zip(answers)
            .map(|((method, _), answer)| result_of(method, answer))
            .collect())
    }

    /// The chain's EIP-155 id.
    ///
    /// # Errors
    /// Any [`RpcError`].
    pub async fn chain_id(&self) -> Result<u64, RpcError> {
        self.quantity("eth_chainId", json!([])).await
    }

    /// Height of the head.
    ///
    /// # Errors
    /// Any [`RpcError`].
    pub async fn block_number(&self) -> Result<u64, RpcError> {
        self.quantity("eth_blockNumber", json!([])).await
    }

    /// Transactions that an account has sent, those in the pool included.
    ///
    /// # Errors
    /// Any [`RpcError`].
    pub async fn pending_nonce(&self, address: Address) -> Result<u64, RpcError> {
        self.quantity("eth_getTransactionCount", json!([address, "pending"]))
            .await
    }

    /// Transactions that an account has sent and that are final.
    ///
    /// # Errors
    /// Any [`RpcError`].
    pub async fn nonce(&self, address: Address) -> Result<u64, RpcError> {
        self.quantity("eth_getTransactionCount", json!([address, "latest"]))
            .await
    }

    /// Balance of an account, wei.
    ///
    /// # Errors
    /// Any [`RpcError`].
    pub async fn balance(&self, address: Address) -> Result<U256, RpcError> {
        let method = "eth_getBalance";
        let answer = self.call(method, json!([address, "latest"])).await?;
        let digits = answer.as_str().unwrap_or_default().to_owned();
        digits.parse().map_err(|_| unexpected(method, &answer))
    }

    /// Suggested payment to the builder, wei per gas.
    ///
    /// # Errors
    /// Any [`RpcError`].
    pub async fn priority_fee(&self) -> Result<u64, RpcError> {
        self.quantity("eth_maxPriorityFeePerGas", json!([])).await
    }

    /// Gas that a transaction needs; `transaction` has the fields of `eth_estimateGas`.
    ///
    /// # Errors
    /// Any [`RpcError`].
    pub async fn estimate_gas(&self, transaction: Value) -> Result<u64, RpcError> {
        self.quantity("eth_estimateGas", json!([transaction])).await
    }

    /// What `method` gives for a hash, as the node wrote it; `None` when there is no such thing.
    ///
    /// # Errors
    /// Any [`RpcError`].
    pub async fn by_hash(&self, method: &str, hash: B256) -> Result<Option<Value>, RpcError> {
        let answer = self.call(method, json!([hash])).await?;
        Ok((!answer.is_null()).then_some(answer))
    }

    /// Hands a signed transaction in.
    ///
    /// # Errors
    /// Any [`RpcError`].
    pub async fn send_raw(&self, raw: &Bytes) -> Result<(), RpcError> {
        self.call("eth_sendRawTransaction", json!([raw]))
            .await
            .map(drop)
    }

    /// The block at a height, if there is one.
    ///
    /// # Errors
    /// Any [`RpcError`].
    pub async fn block(&self, number: u64) -> Result<Option<BlockSummary>, RpcError> {
        self.block_at(json!(format!("{number:#x}"))).await
    }

    /// The newest block.
    ///
    /// # Errors
    /// Any [`RpcError`].
    pub async fn latest_block(&self) -> Result<BlockSummary, RpcError> {
        let block = self.block_at(json!("latest")).await?;
        block.ok_or_else(|| unexpected("eth_getBlockByNumber", &Value::Null))
    }

    async fn block_at(&self, tag: Value) -> Result<Option<BlockSummary>, RpcError> {
        let method = "eth_getBlockByNumber";
        let answer = self.call(method, json!([tag, false])).await?;
        if answer.is_null() {
            return Ok(None);
        }
        let block = BlockSummary::read(&answer);
        block.map(Some).ok_or_else(|| unexpected(method, &answer))
    }

    /// The receipt of a transaction, once it is final.
    ///
    /// # Errors
    /// Any [`RpcError`].
    pub async fn receipt(&self, hash: B256) -> Result<Option<ReceiptSummary>, RpcError> {
        let method = "eth_getTransactionReceipt";
        let answer = self.call(method, json!([hash])).await?;
        if answer.is_null() {
            return Ok(None);
        }
        let receipt = ReceiptSummary::read(&answer);
        receipt.map(Some).ok_or_else(|| unexpected(method, &answer))
    }

    /// The receipts of several transactions in one request.
    ///
    /// # Errors
    /// Any [`RpcError`].
    pub async fn receipts(&self, hashes: &[B256]) -> Result<Vec<Option<ReceiptSummary>>, RpcError> {
        let method = "eth_getTransactionReceipt";
        let calls: Vec<_> = hashes.iter().map(|hash| (method, json!([hash]))).collect();
        let mut receipts = Vec::with_capacity(hashes.len());
        for answer in self.batch(&calls).await? {
            let answer = answer?;
            receipts.push(if answer.is_null() {
                None
            } else {
                let read = ReceiptSummary::read(&answer);
                Some(read.ok_or_else(|| unexpected(method, &answer))?)
            });
        }
        Ok(receipts)
    }

    async fn quantity(&self, method: &str, params: Value) -> Result<u64, RpcError> {
        let answer = self.call(method, params).await?;
        quantity(&answer).ok_or_else(|| unexpected(method, &answer))
    }
}

/// The result inside a JSON-RPC answer.
///
/// # Errors
/// The error inside it, or that it is no answer.
pub fn result_of(method: &str, mut answer: Value) -> Result<Value, RpcError> {
    if let Some(error) = answer.get("error") {
        return Err(RpcError::Refused {
            code: error["code"].as_i64().unwrap_or_default(),
            message: error["message"].as_str().unwrap_or_default().to_owned(),
        });
    }
    match answer.get_mut("result") {
        Some(result) => Ok(result.take()),
        None => Err(unexpected(method, &answer)),
    }
}

fn unexpected(method: &str, answer: &Value) -> RpcError {
    RpcError::Unexpected {
        method: method.to_owned(),
        answer: answer
            .to_string()
            .chars()
            .take(SHOWN_ANSWER_CHARS)
            .collect(),
    }
}

/// A number of Ethereum's JSON.
pub(super) fn quantity(value: &Value) -> Option<u64> {
    u64::from_str_radix(value.as_str()?.strip_prefix("0x")?, 16).ok()
}

fn hash(value: &Value) -> Option<B256> {
    value.as_str()?.parse().ok()
}

impl BlockSummary {
    fn read(value: &Value) -> Option<Self> {
        let number = quantity(&value["number"])?;
        let transactions = value["transactions"].as_array()?;
        Some(Self {
            number,
            hash: hash(&value["hash"])?,
            parent: hash(&value["parentHash"])?,
            timestamp: quantity(&value["timestamp"])?,
            base_fee: quantity(&value["baseFeePerGas"])?.into(),
            builder: match number {
                0 => None,
                _ => value["extraData"].as_str()?.parse().ok(),
            },
            state_root: hash(&value["stateRoot"])?,
            transactions: transactions.iter().map(hash).collect::<Option<_>>()?,
        })
    }
}

impl ReceiptSummary {
    fn read(value: &Value) -> Option<Self> {
        Some(Self {
            success: quantity(&value["status"])? == 1,
            block_number: quantity(&value["blockNumber"])?,
            block_hash: hash(&value["blockHash"])?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_the_words_of_the_node() {
        let answer = json!({"id": 1, "error": {"code": -32000, "message": "nonce too low"}});
        let error = result_of("eth_sendRawTransaction", answer).unwrap_err();
        assert_eq!(error.to_string(), "nonce too low (code -32000)");
        let error = result_of("eth_chainId", json!({"id": 1})).unwrap_err();
        assert!(matches!(error, RpcError::Unexpected { .. }), "{error}");
        assert_eq!(
            result_of("x", json!({"id": 1, "result": null})),
            Ok(Value::Null)
        );
    }

    #[test]
    fn blocks_name_their_builder() {
        let key = format!("0x{}", "ab".repeat(32));
        let zero = format!("{:?}", B256::ZERO);
        let mut block = json!({"number": "0x10", "hash": zero, "parentHash": zero,
            "timestamp": "0x1", "baseFeePerGas": "0x3b9aca00", "extraData": key,
            "stateRoot": zero, "transactions": [zero]});
        let read = BlockSummary::read(&block).unwrap();
        assert_eq!(read.builder.map(|key| key.to_string()), Some(key));
        assert_eq!((read.number, read.transactions.len()), (16, 1));
        block["number"] = json!("0x0");
        assert_eq!(BlockSummary::read(&block).unwrap().builder, None);
        block["hash"] = json!("0x12");
        assert_eq!(BlockSummary::read(&block), None);
    }
}
