//! Ethereum JSON-RPC over HTTP.
//!
//! Purpose: unmodified Ethereum clients (web3.py, ethers, alloy, cast, MetaMask) read the chain and
//! send transactions. Methods and encodings follow the execution-apis specification, error codes
//! and wording follow geth, because clients match on them.
//!
//! How data passes through: [`serve`] accepts connections and bounds them; `http` reads a body
//! within a budget; `envelope` cuts it into calls without building a tree; `dispatch` finds the
//! method; the modules under `eth` answer from [`Chain`] and [`Mempool`]. What may take long runs on
//! blocking threads, a bounded number at a time, within a time and a gas limit. `answers` holds what
//! they make, within a budget of bytes, until `stall` has written it; a connection begins no further
//! request before that.
//!
//! Guarantees: only durable (hence final) blocks are visible, so a receipt that was given once stays;
//! nothing a client sends makes the node hold more than [`RpcLimits`] allow.
//!
//! Deviations from geth: `safe` and `finalized` are `latest`, since every visible block is final;
//! `pending` is `latest` but for nonces; state is kept for the last 128 blocks.

mod answers;
mod call;
mod connections;
mod convert;
mod dispatch;
mod envelope;
mod error;
mod eth;
mod filters;
mod http;
mod own;
mod params;
mod stall;
mod state;
#[cfg(test)]
mod testing;

use std::{
    num::NonZero,
    sync::{Arc, Mutex},
    time::Duration,
};

use axolotl_common::{Height, registry_api::NodeSelfStatus};
use axolotl_ledger::Tx;
use tokio::sync::Semaphore;

pub use error::RpcError;
pub use http::{bind, router, serve, serve_probes};

use crate::{mempool::Mempool, storage::Chain};
use answers::{AnswerBudget, AnswerBuffer};
use connections::Connections;
use eth::fees::TipCache;
use filters::Filters;

/// What a client may cost. Every default is a bound that a busy honest client does not reach.
#[derive(Clone, Debug)]
pub struct RpcLimits {
    /// Open connections; beyond it the one that has been idle longest is cut. By default at most a
    /// quarter of the files that the process may open.
    pub max_connections: usize,
    /// Time for the head of a request, and longest idle time between requests.
    pub header_timeout: Duration,
    /// Time for the body of a request.
    pub body_timeout: Duration,
    /// Longest time in which a client takes nothing of its answer.
    pub write_timeout: Duration,
    /// Time for all calls of one request.
    pub request_timeout: Duration,
    /// Time for one call, waiting for its place included.
    pub call_timeout: Duration,
    /// Largest body, bytes.
    pub max_body_bytes: usize,
    /// Bodies held at one time, bytes in all; further ones are refused with status 503.
    pub max_bodies_bytes: usize,
    /// Calls in one batch.
    pub max_batch: usize,
    /// Answer to one request, bytes: to one call, or to all calls of a batch.
    pub max_response_bytes: usize,
    /// Answers held at one time, bytes in all, from the moment they are made until clients have taken
    /// them; the first kilobytes of each are not counted. Further ones are refused.
    pub max_answers_bytes: usize,
    /// Calls of the EVM and log searches at one time; further ones wait.
    pub max_heavy_calls: usize,
    /// Reads of blocks, and transactions being checked, at one time; further ones wait.
    pub max_reads: usize,
    /// What one `eth_call` may return, bytes.
    pub max_call_output_bytes: usize,
    /// Gas of one `eth_call` or `eth_estimateGas`.
    pub call_gas_cap: u64,
    /// Blocks in one log search.
    pub max_log_blocks: u64,
    /// Logs in one answer.
    pub max_logs: usize,
    /// Installed filters.
    pub max_filters: usize,
    /// A filter that nobody asked for this long is removed.
    pub filter_idle: Duration,
}

impl Default for RpcLimits {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, NonZero::get);
        Self {
            max_connections: http::share_of_open_files(1_000),
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(15),
            write_timeout: Duration::from_secs(15),
            request_timeout: Duration::from_secs(30),
            call_timeout: Duration::from_secs(5),
            max_body_bytes: 5 << 20,
            max_bodies_bytes: 32 << 20,
            max_batch: 1_000,
            // The receipt of a transaction that spends 16.7 M gas (EIP-7825) on empty logs has 23 MB.
            max_response_bytes: 32 << 20,
            // One of the largest and three of 4 MiB beside it; with bodies, pool, state and what the
            // allocator keeps, a node stays far below the 512 MB of a small container.
            max_answers_bytes: 48 << 20,
            max_heavy_calls: cores.clamp(2, 8),
            max_reads: (4 * cores).clamp(8, 32),
            // 4 MiB of JSON; code that gathers the results of other calls returns some hundred kilobytes.
            max_call_output_bytes: 2 << 20,
            call_gas_cap: 50_000_000,
            max_log_blocks: 10_000,
            max_logs: 10_000,
            max_filters: 1_000,
            filter_idle: Duration::from_secs(300),
        }
    }
}

/// What the interface answers from, and where it sends transactions.
#[derive(Clone)]
pub struct RpcContext {
    /// Blocks and state.
    pub chain: Chain,
    /// Transactions that wait.
    pub mempool: Mempool,
    /// Takes a transaction that a client sent and the mempool accepted, to gossip it. Must not block.
    pub submit: Arc<dyn Fn(Tx) + Send + Sync>,
    /// The node's own view of itself.
    pub status: Arc<dyn Fn() -> NodeSelfStatus + Send + Sync>,
    /// Highest head that a peer told of; for `eth_syncing`.
    pub highest_known: Arc<dyn Fn() -> Height + Send + Sync>,
    /// Bounds.
    pub limits: RpcLimits,
}

impl std::fmt::Debug for RpcContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RpcContext")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// JSON text of a result.
type Answer = Result<AnswerBuffer, RpcError>;

/// Everything the handlers share.
struct Rpc {
    context: RpcContext,
    filters: Mutex<Filters>,
    tips: Mutex<TipCache>,
    connections: Arc<Connections>,
    heavy: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    /// Budget for bodies, in units of [`http::BODY_UNIT_BYTES`].
    bodies: Arc<Semaphore>,
    /// Budget for answers.
    answers: Arc<AnswerBudget>,
}

impl Rpc {
    fn new(context: RpcContext) -> Arc<Self> {
        let limits = &context.limits;
        let (heavy, reads) = (limits.max_heavy_calls, limits.max_reads);
        let bodies = limits.max_bodies_bytes / http::BODY_UNIT_BYTES;
        let filters = Filters::new(limits.max_filters, limits.filter_idle);
        let connections = Arc::new(Connections::new(limits.max_connections));
        let answers = AnswerBudget::new(limits.max_answers_bytes, Arc::clone(&connections));
        Arc::new(Self {
            context,
            filters: Mutex::new(filters),
            tips: Mutex::default(),
            connections,
            heavy: Arc::new(Semaphore::new(heavy)),
            reads: Arc::new(Semaphore::new(reads)),
            bodies: Arc::new(Semaphore::new(bodies)),
            answers,
        })
    }

    fn chain(&self) -> &Chain {
        &self.context.chain
    }

    fn limits(&self) -> &RpcLimits {
        &self.context.limits
    }
}
