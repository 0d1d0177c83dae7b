//! A node and its registry in one: what they answer to the tool, in their forms and words.
//!
//! Transactions are real: decoded, their senders recovered, nonces, funds and chain id judged as a
//! pool does. A transaction is in a block at once, its receipt shows after a few questions.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use alloy_consensus::{Transaction as _, TxEnvelope, transaction::SignerRecoverable};
use alloy_eips::eip2718::Decodable2718;
use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use axolotl_common::{KeyPair, PublicKey, VolumeId, genesis::DEV_ACCOUNTS};
use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// The chain's id: that of the development genesis.
pub(crate) const CHAIN_ID: u64 = 7777;
/// Questions after which a receipt is there.
const QUESTIONS: usize = 3;
const GWEI: u64 = 1_000_000_000;
const GAS: u64 = 21_000;

/// What is wrong with the system.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    /// Transactions stay in the pool.
    pub(crate) no_blocks: bool,
    /// Transactions are reverted.
    pub(crate) reverts: bool,
    /// No account holds anything.
    pub(crate) nobody_funded: bool,
    /// The pool refuses with these words.
    pub(crate) refuses: Option<&'static str>,
    /// The registry's clock is ahead by so many seconds.
    pub(crate) clock_ahead_s: i64,
    /// The registry has another genesis than the node.
    pub(crate) other_genesis: bool,
    /// The node reaches nobody.
    pub(crate) alone: bool,
    /// The node answers /livez by something else.
    pub(crate) strange_http: bool,
    /// The node's version is another.
    pub(crate) old_version: bool,
}

struct Mined {
    raw: TxEnvelope,
    from: Address,
    block: usize,
    asked: usize,
    success: bool,
}

struct World {
    faults: Faults,
    balances: BTreeMap<Address, U256>,
    nonces: BTreeMap<Address, u64>,
    transactions: BTreeMap<B256, Mined>,
    /// Hashes by block; block 0 is the genesis.
    blocks: Vec<Vec<B256>>,
}

/// The running system.
pub(crate) struct Fake {
    /// JSON-RPC.
    pub(crate) rpc: SocketAddr,
    /// Registry.
    pub(crate) registry: SocketAddr,
    /// Read-only HTTP of the node.
    pub(crate) http: SocketAddr,
    /// A port that only accepts, as libp2p's does.
    pub(crate) p2p: SocketAddr,
    world: Arc<Mutex<World>>,
}

type Shared = Arc<Mutex<World>>;

impl Fake {
    /// A chain of four validators at height 2; `faults` can be changed later.
    pub(crate) async fn start(faults: Faults) -> Self {
        let rich: U256 = U256::from(10_000) * U256::from(GWEI) * U256::from(GWEI);
        let funded = DEV_ACCOUNTS
            .iter()
            .map(|address| (address.parse().unwrap(), rich));
        let world = Arc::new(Mutex::new(World {
            balances: if faults.nobody_funded {
                BTreeMap::new()
            } else {
                funded.collect()
            },
            faults,
            nonces: BTreeMap::new(),
            transactions: BTreeMap::new(),
            blocks: vec![vec![], vec![], vec![]],
        }));
        let serve = async |router: Router<Shared>| {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let router = router.with_state(Arc::clone(&world));
            tokio::spawn(async move { axum::serve(listener, router).await });
            address
        };
        Self {
            rpc: serve(Router::new().route("/", post(json_rpc))).await,
            registry: serve(Router::new().route("/status", get(registry_status))).await,
            http: serve(Router::new().route("/livez", get(livez))).await,
            p2p: serve(Router::new()).await,
            world,
        }
    }

    pub(crate) fn set(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.world.lock().unwrap().faults);
    }

    /// Balance of an account, wei.
    pub(crate) fn balance(&self, address: Address) -> U256 {
        self.world.lock().unwrap().balance(address)
    }

    /// Transactions that were taken.
    pub(crate) fn taken(&self) -> Vec<TxEnvelope> {
        let world = self.world.lock().unwrap();
        world
            .transactions
            .values()
            .map(|mined| mined.raw.clone())
            .collect()
    }
}

/// Key of validator `number`.
pub(crate) fn key(number: u8) -> PublicKey {
    KeyPair::from_seed(&[number; 32]).public()
}

async fn livez(State(world): State<Shared>) -> Response {
    match world.lock().unwrap().faults.strange_http {
        true => (StatusCode::NOT_FOUND, "nginx").into_response(),
        false => "ok\n".into_response(),
    }
}

async fn registry_status(State(world): State<Shared>) -> Response {
    let world = world.lock().unwrap();
    let now = std::time::SystemTime::now();
    // Some minutes and a half ago: the whole minutes do not change while a test runs.
    let seen = humantime::format_rfc3339_seconds(now - std::time::Duration::from_secs(630));
    let nodes: BTreeMap<String, Value> = (1..=4u8)
        .map(|number| {
            let k = u16::from(number);
            let node = json!({"id": format!("node{k}"), "address": "127.0.0.1",
                "port": 50_050 + k, "is_leader": k == 1, "is_healthy": true,
                "last_seen": seen.to_string(), "height": world.height(), "tx_pool_size": 0,
                "peer_id": key(number).peer_id(),
                "addresses": [format!("/ip4/127.0.0.1/tcp/{}", 50_050 + k)],
                "http_url": format!("http://127.0.0.1:{}", 8_079 + k),
                "rpc_url": format!("http://127.0.0.1:{}", 8_544 + k),
                "public_rpc_url": null, "role": "validator", "state": "healthy", "voting": true, "peers": 3,
                "incarnation": 1, "version": env!("CARGO_PKG_VERSION"), "managed": true,
                "runtime": {"kind": "process", "pid": 1_000 + k}});
            (format!("node{k}"), node)
        })
        .collect();
    let genesis = if world.faults.other_genesis { 8 } else { 7 };
    let status = json!({"total_nodes": 4, "healthy_nodes": 4, "min_nodes": 2, "max_nodes": 10,
        "target_nodes": 4, "consensus_possible": true, "scale_threshold": 2, "quorum": 3,
        "epoch": 0, "height": world.height(), "leader": "node1", "recovery": null,
        "registration": "token", "genesis_hash": hash_of(genesis), "chain_id": CHAIN_ID,
        "forming": null, "warnings": [], "plan": [], "decisions": [], "nodes": nodes});
    let ahead = world.faults.clock_ahead_s;
    let shift = std::time::Duration::from_secs(ahead.unsigned_abs());
    let date = httpdate::fmt_http_date(if ahead < 0 { now - shift } else { now + shift });
    ([("date", date)], Json(status)).into_response()
}

fn hash_of(byte: u8) -> String {
    format!("0x{}", hex::encode([byte; 32]))
}

async fn json_rpc(State(world): State<Shared>, Json(request): Json<Value>) -> Json<Value> {
    let mut world = world.lock().unwrap();
    Json(match request {
        Value::Array(calls) => calls.iter().map(|call| world.answer(call)).collect(),
        call => world.answer(&call),
    })
}

impl World {
    fn height(&self) -> usize {
        self.blocks.len() - 1
    }

    fn balance(&self, address: Address) -> U256 {
        self.balances.get(&address).copied().unwrap_or_default()
    }

    fn answer(&mut self, call: &Value) -> Value {
        let params = &call["params"];
        let result = self.call(call["method"].as_str().unwrap(), params);
        match result {
            Ok(result) => json!({"jsonrpc": "2.0", "id": call["id"], "result": result}),
            Err(message) => json!({"jsonrpc": "2.0", "id": call["id"],
                "error": {"code": -32000, "message": message}}),
        }
    }

    fn call(&mut self, method: &str, params: &Value) -> Result<Value, String> {
        let address = || params[0].as_str().unwrap().parse::<Address>().unwrap();
        let hash = || params[0].as_str().unwrap().parse::<B256>().unwrap();
        Ok(match method {
            "eth_chainId" => json!(format!("{CHAIN_ID:#x}")),
            "eth_blockNumber" => json!(format!("{:#x}", self.height())),
            "eth_maxPriorityFeePerGas" => json!(format!("{:#x}", GWEI / 10)),
            "eth_estimateGas" if self.faults.reverts => return Err("execution reverted".into()),
            "eth_estimateGas" => {
                let data = params[0]["data"].as_str().unwrap_or("0x");
                json!(format!("{:#x}", GAS + 40 * (data.len() as u64 - 2) / 2))
            }
            "eth_getBalance" => json!(format!("{:#x}", self.balance(address()))),
            "eth_getTransactionCount" => {
                json!(format!(
                    "{:#x}",
                    self.nonces.get(&address()).copied().unwrap_or_default()
                ))
            }
            "eth_getBlockByNumber" => match params[0].as_str().unwrap() {
                "latest" => self.block(self.height()),
                number => {
                    let digits = number.strip_prefix("0x").unwrap();
                    self.block(usize::from_str_radix(digits, 16).unwrap())
                }
            },
            "eth_getBlockByHash" => {
                let wanted = hash();
                let place = (0..self.blocks.len()).find(|number| block_hash(*number) == wanted);
                place.map_or(Value::Null, |number| self.block(number))
            }
            "eth_sendRawTransaction" => {
                let raw: Bytes = params[0].as_str().unwrap().parse().unwrap();
                self.take(&raw)?
            }
            "eth_getTransactionReceipt" => self.receipt(hash()),
            "eth_getTransactionByHash" => self.transaction(hash()),
            "axolotl_status" => json!({"node_id": "node1", "public_key": key(1),
                "peer_id": key(1).peer_id(), "volume_id": VolumeId([1; 16]), "incarnation": 1,
                "version": if self.faults.old_version { "0.0.9" } else { env!("CARGO_PKG_VERSION") },
                "chain_id": CHAIN_ID, "genesis_hash": hash_of(7), "height": self.height(),
                "head": null, "epoch": 0, "round": 0, "leader": key(1), "is_validator": true,
                "voting": true,
                "syncing": false, "peers": if self.faults.alone { 0 } else { 3 },
                "reachable": if self.faults.alone { vec![] } else { vec![key(2), key(3), key(4)] },
                "tx_pool_size": 0, "last_commit_age_ms": 5}),
            "axolotl_getMembership" => {
                let validators: Vec<Value> = (1..=4u8)
                    .map(|number| {
                        json!({"node_id": format!("node{number}"), "public_key": key(number),
                            "volume_id": VolumeId([number; 16])})
                    })
                    .collect();
                json!({"epoch": 0, "record_hash": hash_of(1), "quorum_rule": "byzantine",
                    "quorum": 3, "validators": validators})
            }
            other => return Err(format!("the method {other} does not exist")),
        })
    }

    /// Judges a transaction as a pool does, and carries it out.
    fn take(&mut self, raw: &Bytes) -> Result<Value, String> {
        if let Some(words) = self.faults.refuses {
            return Err(words.to_owned());
        }
        let envelope = TxEnvelope::decode_2718_exact(raw).map_err(|e| e.to_string())?;
        let from = envelope.recover_signer().map_err(|e| e.to_string())?;
        let hash = keccak256(raw);
        if self.transactions.contains_key(&hash) {
            return Err("already known".to_owned());
        }
        if envelope.chain_id() != Some(CHAIN_ID) {
            return Err("invalid sender".to_owned());
        }
        let next = self.nonces.get(&from).copied().unwrap_or_default();
        if envelope.nonce() < next {
            let tx = envelope.nonce();
            return Err(format!("nonce too low: next nonce {next}, tx nonce {tx}"));
        }
        let most = U256::from(envelope.max_fee_per_gas()) * U256::from(envelope.gas_limit());
        if envelope.value() + most > self.balance(from) {
            return Err("insufficient funds for gas * price + value".to_owned());
        }
        let success = !self.faults.reverts;
        if !self.faults.no_blocks {
            let fee = U256::from(GAS) * U256::from(GWEI + GWEI / 10);
            let value = if success {
                envelope.value()
            } else {
                U256::ZERO
            };
            *self.balances.entry(from).or_default() -= value + fee;
            *self.balances.entry(envelope.to().unwrap()).or_default() += value;
            self.nonces.insert(from, envelope.nonce() + 1);
            self.blocks.push(vec![hash]);
        }
        let block = self.height();
        self.transactions.insert(
            hash,
            Mined {
                raw: envelope,
                from,
                block,
                asked: 0,
                success,
            },
        );
        Ok(json!(hash))
    }

    fn receipt(&mut self, hash: B256) -> Value {
        let no_blocks = self.faults.no_blocks;
        let Some(mined) = self.transactions.get_mut(&hash) else {
            return Value::Null;
        };
        mined.asked += 1;
        if no_blocks || mined.asked < QUESTIONS {
            return Value::Null;
        }
        json!({"transactionHash": hash, "blockNumber": format!("{:#x}", mined.block),
            "blockHash": block_hash(mined.block), "from": mined.from, "to": mined.raw.to(),
            "status": if mined.success { "0x1" } else { "0x0" }, "gasUsed": format!("{GAS:#x}"),
            "effectiveGasPrice": format!("{:#x}", GWEI + GWEI / 10), "contractAddress": null,
            "logs": []})
    }

    fn transaction(&self, hash: B256) -> Value {
        self.transactions.get(&hash).map_or(Value::Null, |mined| {
            json!({"hash": hash, "from": mined.from, "to": mined.raw.to(),
                "value": format!("{:#x}", mined.raw.value()),
                "nonce": format!("{:#x}", mined.raw.nonce()), "input": mined.raw.input()})
        })
    }

    fn block(&self, number: usize) -> Value {
        let Some(transactions) = self.blocks.get(number) else {
            return Value::Null;
        };
        let parent = number.checked_sub(1).map_or(B256::ZERO, block_hash);
        json!({"number": format!("{number:#x}"), "hash": block_hash(number), "parentHash": parent,
            "timestamp": format!("{:#x}", 1_767_225_600 + number), "baseFeePerGas": format!("{GWEI:#x}"),
            "gasLimit": "0x11e1a300", "gasUsed": format!("{:#x}", GAS * transactions.len() as u64),
            "extraData": if number == 0 { hash_of(7) } else { key(1).to_string() },
            "stateRoot": keccak256([number as u8, 1]), "transactions": transactions})
    }
}

fn block_hash(number: usize) -> B256 {
    keccak256(number.to_be_bytes())
}
