//! Limits that follow from each other: what the validators of a chain can decide, every node can
//! execute in time, store and pass on.
//!
//! Two chains of inequalities, with the arithmetic in docs/decisions/0010-limits-follow-from-each-other.md:
//!
//! - **Time.** A round leaves `(maxTimeoutMs - EXCHANGE_MS) / 2` for the execution of its block. At the
//!   slowest rate that was measured this is so much gas, and no more should be in a block
//!   ([`executable_gas`]). A larger gas limit is a warning: the chain goes on, slower.
//! - **Space.** A final block is one record of the block log: block, epoch record, proof, receipts and
//!   senders. The largest one that a chain's limits permit must fit into [`MAX_BLOCK_RECORD_BYTES`]
//!   ([`BlockLimits::check`]). A chain for which it does not is refused: the block that does not fit
//!   would end every node, and again at each start.

use crate::{genesis::Timing, membership::MAX_RECORD_BYTES};

/// Most gas of one transaction under the rules of Osaka (EIP-7825).
pub const TRANSACTION_GAS_CAP: u64 = 1 << 24;
/// Gas of a transaction that does nothing; no transaction uses less.
pub const MIN_TRANSACTION_GAS: u64 = 21_000;

/// Gas that the reference machine executes in a millisecond, for the slowest input of the slowest
/// operation under the rules of Osaka: 30 Mgas/s.
///
/// The machine has two shared cores of a cloud server, the rate is that of one node while three others
/// share them. Measured, Mgas/s: BLS12-381 precompiles 30 to 56 (the slowest: a pairing of few points),
/// ecrecover 55, alt_bn128 68 to 74, KECCAK256 68. MODEXP ran at 11.8 by the prices of Prague; EIP-7883
/// charges for the same input three times as much or more (2.5 times at its minimum), EIP-7823 bounds the
/// operands. A slower row of the table in docs/benchmarks.md changes this number, and nothing else.
pub const SLOWEST_GAS_PER_MS: u64 = 30_000;
/// Time of a round that goes into the exchange of its messages and not into execution, milliseconds: a
/// proposal of 2 MiB to all others at 100 Mbit/s (170 ms each, three of them), and a network delay.
pub const EXCHANGE_MS: u64 = 600;
/// Most gas of a block when the genesis names none and the timeouts are the default ones: 30 Mgas/s for
/// 1.2 s.
pub const DEFAULT_GAS_LIMIT: u64 = 36_000_000;
/// The default gas limit does not grow beyond this with the timeouts: receipts, senders and touched state
/// of a block are in memory at a time.
const MAX_DEFAULT_GAS_LIMIT: u64 = 60_000_000;

/// Largest `maxBlockBytes`: EIP-7934 allows 10 MiB less a margin of 2 MiB.
pub const MAX_MAX_BLOCK_BYTES: u64 = 8 << 20;
/// Smallest `maxBlockBytes`.
pub const MIN_MAX_BLOCK_BYTES: u64 = 64 << 10;
/// Bytes of logs in one block where the genesis is made by this release. It binds above a gas limit of
/// 67 million only; a block's receipts then take some 10 MB of memory instead of 40.
pub const DEFAULT_MAX_LOG_BYTES: u64 = 8 << 20;
/// Smallest `maxLogBytes`: what one transaction of [`TRANSACTION_GAS_CAP`] can log, so that under the
/// rules of Osaka there is none that pays its gas and fits into no block.
pub const MIN_MAX_LOG_BYTES: u64 = TRANSACTION_GAS_CAP / LOG_GAS_PER_BYTE;

/// Largest record of the block log, bytes. A record is read and checked as a whole, so it also is
/// what a damaged length field can make a reader allocate.
pub const MAX_BLOCK_RECORD_BYTES: usize = 64 << 20;
/// Largest proof of one block: an epoch record, or a certificate of 128 signatures.
pub const MAX_PROOF_BYTES: usize = MAX_RECORD_BYTES + 64;
/// Bytes of recovery and forced records that go to a syncing peer ahead of one block: those that took
/// force one after the other above one base. The first goes whatever its size.
pub const MAX_RECORDS_AHEAD_BYTES: usize = 2 * MAX_RECORD_BYTES;
/// Bytes that an RLP string or list has at most beside its content.
pub const RLP_HEAD_BYTES: usize = 9;
/// What a record of the block log begins with, bytes: version, height, three lengths.
pub const BLOCK_RECORD_PREFIX_BYTES: usize = 21;
/// Most bytes of a transaction's receipt, without its logs, and of its sender in the block log: length 4,
/// list heads 5 + 5 + 1, type and status 1 each, two numbers of 9, price 17, contract address 21, sender 20.
pub const RECEIPT_BYTES: u64 = 96;
/// Gas of one byte of logged data (yellow paper, `G_logdata`).
const LOG_GAS_PER_BYTE: u64 = 8;
/// Gas of a log without topics and data (yellow paper, `G_log`).
const LOG_GAS: u64 = 375;
/// Bytes of a log's address: the least that it counts in `maxLogBytes`.
const LOG_MIN_BYTES: u64 = 20;
/// Most bytes that a log's encoding is longer than what counts in `maxLogBytes`: list heads of 5 and 2,
/// a head for the address and for each of four topics, a head of 5 for the data.
pub const LOG_OVERHEAD_BYTES: u64 = 17;

/// Time that a round has for the execution of its block, milliseconds: the proposer executes the block
/// while it builds it, the others when they have it, and both before the longest timeout ends.
pub fn execution_ms(timing: &Timing) -> u64 {
    timing.max_timeout_ms.saturating_sub(EXCHANGE_MS) / 2
}

/// Gas that the reference machine executes in the time that a round has for it.
pub fn executable_gas(timing: &Timing) -> u64 {
    execution_ms(timing).saturating_mul(SLOWEST_GAS_PER_MS)
}

/// The gas limit of a new chain with these timeouts when nothing else is asked for: what can be executed
/// in a round, but at least one transaction of the largest gas.
pub fn default_gas_limit(timing: &Timing) -> u64 {
    executable_gas(timing).clamp(TRANSACTION_GAS_CAP, MAX_DEFAULT_GAS_LIMIT)
}

/// A gas limit above what a round has time for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "gasLimit {gas_limit}: a block of the slowest transactions takes {slowest_ms} ms ({gas_limit} / {} Mgas/s), \
     and a round leaves {round_ms} ms for it (({max_timeout_ms} - {EXCHANGE_MS}) / 2); blocks will need several \
     rounds under load; lower gasLimit to {gas_limit_max} or raise axolotl.timing.maxTimeoutMs to {needed_timeout_ms}",
    SLOWEST_GAS_PER_MS / 1_000
)]
pub struct SlowBlocks {
    /// The gas limit.
    pub gas_limit: u64,
    /// What the slowest block takes, milliseconds.
    pub slowest_ms: u64,
    /// What a round has for it, milliseconds.
    pub round_ms: u64,
    /// The chain's longest timeout, milliseconds.
    pub max_timeout_ms: u64,
    /// The largest gas limit for these timeouts.
    pub gas_limit_max: u64,
    /// The longest timeout that this gas limit needs, milliseconds.
    pub needed_timeout_ms: u64,
}

/// Checks that the slowest block can be executed within a round.
///
/// # Errors
/// When it cannot, with the arithmetic. Such a chain works, but slowly under hostile load.
pub fn check_time(gas_limit: u64, timing: &Timing) -> Result<(), SlowBlocks> {
    let gas_limit_max = executable_gas(timing);
    if gas_limit <= gas_limit_max {
        return Ok(());
    }
    let slowest_ms = gas_limit.div_ceil(SLOWEST_GAS_PER_MS);
    Err(SlowBlocks {
        gas_limit,
        slowest_ms,
        round_ms: execution_ms(timing),
        max_timeout_ms: timing.max_timeout_ms,
        gas_limit_max,
        needed_timeout_ms: slowest_ms.saturating_mul(2).saturating_add(EXCHANGE_MS),
    })
}

/// What bounds the size of a chain's blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockLimits {
    /// Gas limit of a block.
    pub gas_limit: u64,
    /// Largest encoded block without the epoch record that it may carry.
    pub max_block_bytes: u64,
    /// Most bytes of logs in a block; `None` for chains of earlier releases: only gas bounds them.
    pub max_log_bytes: Option<u64>,
}

/// The largest record of the block log that a chain's limits permit, bytes by part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LargestRecord {
    /// The encoded block without its epoch record.
    pub block: u64,
    /// The epoch record that it may carry.
    pub epoch_record: u64,
    /// The proof that it is final.
    pub proof: u64,
    /// Encoded logs.
    pub logs: u64,
    /// Receipts without their logs, and senders.
    pub receipts: u64,
    /// Prefix of the record.
    pub prefix: u64,
}

impl LargestRecord {
    /// All parts together.
    pub fn total(&self) -> u64 {
        [
            self.block,
            self.epoch_record,
            self.proof,
            self.logs,
            self.receipts,
            self.prefix,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }
}

/// A chain of which a block could be decided that no node can store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Unstorable {
    /// The chain's limits.
    pub limits: BlockLimits,
    /// What its largest block needs.
    pub needed: LargestRecord,
    /// Largest gas limit with the other limits as they are; `None` when there is none.
    pub gas_limit_max: Option<u64>,
}

impl std::fmt::Display for Unstorable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (limits, needed) = (&self.limits, &self.needed);
        let logs = match limits.max_log_bytes {
            None => format!("{} gas / {LOG_GAS_PER_BYTE}", limits.gas_limit),
            Some(most) => format!(
                "the lesser of {} gas / {LOG_GAS_PER_BYTE} and maxLogBytes {most} with their frames",
                limits.gas_limit
            ),
        };
        write!(
            f,
            "a block could be decided that no node can store: block {} + epoch record {} + proof {} + logs {} ({logs}) \
             + receipts and senders {} + prefix {} = {} bytes > {MAX_BLOCK_RECORD_BYTES} bytes of a record of the block log; ",
            needed.block,
            needed.epoch_record,
            needed.proof,
            needed.logs,
            needed.receipts,
            needed.prefix,
            needed.total(),
        )?;
        match self.gas_limit_max {
            Some(most) => write!(f, "lower gasLimit to {most} or less")?,
            None => write!(f, "lower axolotl.maxLogBytes")?,
        }
        if limits.max_log_bytes.is_none() {
            write!(
                f,
                ", or bound the logs with axolotl.maxLogBytes (such as {DEFAULT_MAX_LOG_BYTES})"
            )?;
        }
        Ok(())
    }
}

impl BlockLimits {
    /// The largest record that a block can need.
    pub fn largest_record(&self) -> LargestRecord {
        // A log of t topics and d bytes of data costs 375 + 375 t + 8 d gas and takes at most
        // 33 + 33 t + d bytes, so no log takes more than an eighth of its gas. Refunds do not change
        // that: none exceeds what the refunded operation cost, so gas spent on logs is gas used.
        let by_gas = self.gas_limit / LOG_GAS_PER_BYTE;
        let logs = self.max_log_bytes.map_or(by_gas, |most| {
            let count = (self.gas_limit / LOG_GAS).min(most / LOG_MIN_BYTES);
            by_gas.min(most.saturating_add(count * LOG_OVERHEAD_BYTES))
        });
        // What is left of the gas after those logs can go into transactions that do nothing.
        let rest = self.gas_limit - logs * LOG_GAS_PER_BYTE;
        let transactions = rest / MIN_TRANSACTION_GAS + 1;
        LargestRecord {
            block: self.max_block_bytes,
            epoch_record: (MAX_RECORD_BYTES + RLP_HEAD_BYTES) as u64,
            proof: MAX_PROOF_BYTES as u64,
            logs,
            receipts: transactions.saturating_mul(RECEIPT_BYTES),
            prefix: BLOCK_RECORD_PREFIX_BYTES as u64,
        }
    }

    fn fits(&self) -> bool {
        self.largest_record().total() <= MAX_BLOCK_RECORD_BYTES as u64
    }

    /// Checks that each block which these limits permit can be stored.
    ///
    /// # Errors
    /// When one cannot, with the arithmetic and with what to change.
    pub fn check(&self) -> Result<LargestRecord, Unstorable> {
        let needed = self.largest_record();
        if self.fits() {
            return Ok(needed);
        }
        // What a block needs only grows with its gas, so the largest gas limit is found by bisection.
        let with = |gas_limit| Self { gas_limit, ..*self };
        let (mut low, mut high) = (0, self.gas_limit);
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            if with(middle).fits() {
                low = middle;
            } else {
                high = middle;
            }
        }
        Err(Unstorable {
            limits: *self,
            needed,
            gas_limit_max: (low > 0).then_some(low),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(gas_limit: u64, max_block_bytes: u64, max_log_bytes: Option<u64>) -> BlockLimits {
        BlockLimits {
            gas_limit,
            max_block_bytes,
            max_log_bytes,
        }
    }

    #[test]
    fn the_default_gas_limit_is_what_a_round_has_time_for() {
        let timing = Timing::default();
        assert_eq!(execution_ms(&timing), 1_200);
        assert_eq!(executable_gas(&timing), DEFAULT_GAS_LIMIT);
        assert_eq!(default_gas_limit(&timing), DEFAULT_GAS_LIMIT);
        assert_eq!(check_time(DEFAULT_GAS_LIMIT, &timing), Ok(()));
        let slow = check_time(DEFAULT_GAS_LIMIT + 1, &timing).unwrap_err();
        assert_eq!((slow.slowest_ms, slow.round_ms), (1_201, 1_200));
        let slow = check_time(300_000_000, &timing).unwrap_err();
        assert_eq!(
            slow.to_string(),
            "gasLimit 300000000: a block of the slowest transactions takes 10000 ms (300000000 / 30 Mgas/s), and a \
             round leaves 1200 ms for it ((3000 - 600) / 2); blocks will need several rounds under load; lower gasLimit \
             to 36000000 or raise axolotl.timing.maxTimeoutMs to 20600"
        );
        let patient = Timing {
            max_timeout_ms: slow.needed_timeout_ms,
            ..timing.clone()
        };
        assert_eq!(check_time(300_000_000, &patient), Ok(()));
        let hasty = Timing {
            max_timeout_ms: 1,
            ..timing
        };
        assert_eq!(executable_gas(&hasty), 0);
        assert_eq!(default_gas_limit(&hasty), TRANSACTION_GAS_CAP);
        assert_eq!(default_gas_limit(&patient), MAX_DEFAULT_GAS_LIMIT);
    }

    #[test]
    fn what_can_be_decided_can_be_stored() {
        let default = Some(DEFAULT_MAX_LOG_BYTES);
        let table = [
            // gas limit, bytes of a block, bytes of logs, largest gas limit if refused
            (DEFAULT_GAS_LIMIT, 2 << 20, default, None),
            (300_000_000, 2 << 20, None, None),
            (503_000_000, 2 << 20, None, None),
            (530_000_000, 2 << 20, None, Some(503_314_967)),
            (530_000_000, 2 << 20, default, None),
            (503_000_000, 8 << 20, None, Some(452_983_319)),
            (i64::MAX as u64, 2 << 20, None, Some(503_314_967)),
            (u64::MAX, 8 << 20, Some(u64::MAX), Some(452_983_319)),
        ];
        for (gas_limit, max_block_bytes, max_log_bytes, refused) in table {
            let case = limits(gas_limit, max_block_bytes, max_log_bytes);
            let most = case.check().err().map(|error| {
                assert_eq!(error.needed, case.largest_record());
                error.gas_limit_max.unwrap()
            });
            assert_eq!(most, refused, "{case:?}");
            if let Some(most) = most {
                assert!(limits(most, max_block_bytes, max_log_bytes).check().is_ok());
                assert!(
                    limits(most + 1, max_block_bytes, max_log_bytes)
                        .check()
                        .is_err()
                );
            }
        }
        let none = limits(i64::MAX as u64, 60 << 20, Some(60 << 20))
            .check()
            .unwrap_err();
        assert!(none.needed.total() > MAX_BLOCK_RECORD_BYTES as u64);
    }

    #[test]
    fn a_refusal_shows_the_arithmetic() {
        let error = limits(600_000_000, 2 << 20, None).check().unwrap_err();
        assert_eq!(
            error.to_string(),
            "a block could be decided that no node can store: block 2097152 + epoch record 1048585 + proof 1048640 + \
             logs 75000000 (600000000 gas / 8) + receipts and senders 96 + prefix 21 = 79194494 bytes > 67108864 bytes \
             of a record of the block log; lower gasLimit to 503314967 or less, or bound the logs with \
             axolotl.maxLogBytes (such as 8388608)"
        );
        let error = limits(20_000_000_000, 2 << 20, Some(8 << 20))
            .check()
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("the lesser of 20000000000 gas / 8 and maxLogBytes 8388608"),
            "{text}"
        );
        assert!(text.contains("lower gasLimit to "), "{text}");
    }
}
