//! The open loop: hands each transfer in when it is due.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::sync::{Notify, Semaphore};

use super::plan::Plan;
use crate::cli::json_rpc::{JsonRpc, RpcError, result_of};

/// Requests under way at one node. When all are taken the loop waits, and the latencies of what was
/// due meanwhile show it.
const MAX_IN_FLIGHT: usize = 256;
/// Different refusals that are told apart.
const MAX_REFUSALS: usize = 16;

/// How fast and how long.
pub(super) struct Pace {
    pub(super) rate: f64,
    pub(super) duration: Duration,
    pub(super) batch: usize,
}

impl Pace {
    /// When transfer `index` is due.
    pub(super) fn due(started: Instant, rate: f64, index: usize) -> Instant {
        started + Duration::from_secs_f64(index as f64 / rate)
    }
}

/// What a node answered to a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    None,
    Accepted,
    Refused,
}

/// What became of the transfers so far.
pub(super) struct Tally {
    total: usize,
    senders: usize,
    offered: AtomicUsize,
    accepted: AtomicUsize,
    answered: AtomicUsize,
    finalised: AtomicUsize,
    /// When each was seen in a block.
    seen: Mutex<Vec<Option<Instant>>>,
    answers: Mutex<Vec<Answer>>,
    refusals: Mutex<BTreeMap<String, usize>>,
    /// Told after each block with transfers of ours, and when the last answer is in.
    pub(super) changed: Notify,
}

impl Tally {
    /// A tally of `total` transfers of `senders` accounts that take turns.
    pub(super) fn new(total: usize, senders: usize) -> Self {
        Self {
            total,
            senders,
            offered: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
            answered: AtomicUsize::new(0),
            finalised: AtomicUsize::new(0),
            seen: Mutex::new(vec![None; total]),
            answers: Mutex::new(vec![Answer::None; total]),
            refusals: Mutex::new(BTreeMap::new()),
            changed: Notify::new(),
        }
    }

    pub(super) fn offered(&self) -> usize {
        self.offered.load(Ordering::Relaxed)
    }

    pub(super) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    pub(super) fn finalised(&self) -> usize {
        self.finalised.load(Ordering::Relaxed)
    }

    pub(super) fn refusals(&self) -> BTreeMap<String, usize> {
        let refusals = self.refusals.lock();
        refusals.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// When each transfer was seen in a block.
    pub(super) fn seen(&self) -> Vec<Option<Instant>> {
        let seen = self.seen.lock();
        seen.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether every transfer was handed in, answered, and, if accepted, finalised as far as it can
    /// be.
    pub(super) fn is_drained(&self) -> bool {
        self.answered.load(Ordering::Relaxed) == self.total
            && (self.finalised() >= self.accepted()
                || self.finalised() + self.stranded() >= self.accepted())
    }

    /// Accepted transfers that are in no block and cannot be: one of the same sender before them was
    /// refused, so that their nonces never come up.
    pub(super) fn stranded(&self) -> usize {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut blocked = vec![false; self.senders];
        let mut stranded = 0;
        for (index, answer) in answers.iter().enumerate() {
            // Transfer `i` is of sender `i % senders`, in the order of nonces.
            let blocked = &mut blocked[index % self.senders];
            match answer {
                Answer::Refused if seen[index].is_none() => *blocked = true,
                Answer::Accepted if *blocked && seen[index].is_none() => stranded += 1,
                _ => {}
            }
        }
        stranded
    }

    pub(super) fn block(&self, at: Instant, indices: &[usize]) {
        if indices.is_empty() {
            return;
        }
        let mut new = 0;
        {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            for index in indices {
                if seen[*index].is_none() {
                    seen[*index] = Some(at);
                    new += 1;
                }
            }
        }
        self.finalised.fetch_add(new, Ordering::Relaxed);
        self.changed.notify_one();
    }

    fn answers(&self, indices: &[usize], answer: Result<Value, RpcError>) {
        let method = "eth_sendRawTransaction";
        match answer {
            // One of several: each answer names its transfer.
            Ok(Value::Array(answers)) => {
                let mut waiting: BTreeSet<usize> = indices.iter().copied().collect();
                for answer in answers {
                    let id = answer["id"]
                        .as_u64()
                        .and_then(|id| usize::try_from(id).ok());
                    if let Some(index) = id.filter(|index| waiting.remove(index)) {
                        self.answer(&[index], result_of(method, answer).err());
                    }
                }
                let waiting: Vec<usize> = waiting.into_iter().collect();
                let missing = RpcError::Unexpected {
                    method: method.to_owned(),
                    answer: "nothing, in a batch".to_owned(),
                };
                self.answer(&waiting, Some(missing));
            }
            Ok(answer) => self.answer(indices, result_of(method, answer).err()),
            Err(error) => self.answer(indices, Some(error)),
        }
        if self.answered.load(Ordering::Relaxed) == self.total {
            self.changed.notify_one();
        }
    }

    fn answer(&self, indices: &[usize], error: Option<RpcError>) {
        if indices.is_empty() {
            return;
        }
        let outcome = match &error {
            None => Answer::Accepted,
            Some(_) => Answer::Refused,
        };
        {
            let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            for index in indices {
                answers[*index] = outcome;
            }
        }
        match error {
            None => {
                self.accepted.fetch_add(indices.len(), Ordering::Relaxed);
            }
            Some(error) => {
                let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
                let text = error.to_string();
                let known = refusals.len() < MAX_REFUSALS || refusals.contains_key(&text);
                let text = if known { text } else { "others".to_owned() };
                *refusals.entry(text).or_default() += indices.len();
            }
        }
        self.answered.fetch_add(indices.len(), Ordering::Relaxed);
    }

    /// One line about the run so far.
    pub(super) fn progress(&self, elapsed: Duration) -> String {
        format!(
            "{:>4} s  offered {}  accepted {}  finalised {}",
            elapsed.as_secs(),
            self.offered(),
            self.accepted(),
            self.finalised()
        )
    }
}

/// Hands in all transfers and waits for the answers. Returns by how much the loop itself was late
/// at worst.
pub(super) async fn offer(
    targets: Vec<JsonRpc>,
    plan: Arc<Plan>,
    tally: Arc<Tally>,
    started: Instant,
    pace: Pace,
) -> Duration {
    let total = plan.transfers.len();
    if total == 0 {
        tokio::time::sleep(pace.duration).await;
        return Duration::ZERO;
    }
    let gates: Vec<Arc<Semaphore>> = targets
        .iter()
        .map(|_| Arc::new(Semaphore::new(MAX_IN_FLIGHT)))
        .collect();
    let mut lateness = Duration::ZERO;
    let mut next = 0;
    while next < total {
        let due = Pace::due(started, pace.rate, next);
        tokio::time::sleep_until(due.into()).await;
        lateness = lateness.max(due.elapsed());
        // Everything that is due by now, by node: a sender always talks to the same one, so that
        // its transfers arrive in the order of their nonces.
        let mut ready: Vec<Vec<usize>> = vec![Vec::new(); targets.len()];
        let now = Instant::now();
        while next < total && Pace::due(started, pace.rate, next) <= now {
            ready[plan.transfers[next].sender % targets.len()].push(next);
            next += 1;
        }
        for (node, indices) in ready.iter().enumerate() {
            for chunk in indices.chunks(pace.batch) {
                let permit = gates[node].clone().acquire_owned().await;
                let permit = permit.expect("the semaphore is never closed");
                tally.offered.fetch_add(chunk.len(), Ordering::Relaxed);
                let body = body(&plan, chunk);
                let (target, tally, chunk) = (targets[node].clone(), tally.clone(), chunk.to_vec());
                tokio::spawn(async move {
                    tally.answers(&chunk, target.post(body.into()).await);
                    drop(permit);
                });
            }
        }
    }
    for gate in &gates {
        let all = u32::try_from(MAX_IN_FLIGHT).expect("a small number");
        let waited = gate.acquire_many(all).await;
        drop(waited.expect("the semaphore is never closed"));
    }
    lateness
}

fn body(plan: &Plan, chunk: &[usize]) -> Vec<u8> {
    if let [one] = chunk {
        return plan.transfers[*one].request.to_vec();
    }
    let mut body = vec![b'['];
    for (place, index) in chunk.iter().enumerate() {
        if place > 0 {
            body.push(b',');
        }
        body.extend_from_slice(&plan.transfers[*index].request);
    }
    body.push(b']');
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn answers_are_counted_once_each() {
        let tally = Tally::new(4, 4);
        tally.answers(&[0], Ok(json!({"id": 0, "result": "0x"})));
        let refused = json!({"id": 2, "error": {"code": -32000, "message": "nonce too low"}});
        tally.answers(&[1, 2, 3], Ok(json!([{"id": 1, "result": "0x"}, refused])));
        assert_eq!(tally.accepted(), 2);
        assert!(!tally.is_drained(), "two are accepted, none is finalised");
        let now = Instant::now();
        tally.block(now, &[0, 1]);
        tally.block(now, &[1]);
        assert_eq!(tally.finalised(), 2);
        assert!(tally.is_drained());
        let refusals = tally.refusals();
        assert_eq!(refusals.get("nonce too low (code -32000)"), Some(&1));
        assert_eq!(refusals.values().sum::<usize>(), 2);
    }

    #[test]
    fn what_stands_behind_a_refused_one_is_not_waited_for() {
        // Two senders: 0, 2, 4 are of the one, 1, 3, 5 of the other.
        let tally = Tally::new(6, 2);
        let full = || {
            Err(RpcError::Refused {
                code: -32000,
                message: "txpool is full".to_owned(),
            })
        };
        for index in [0, 1, 3, 4, 5] {
            tally.answers(&[index], Ok(json!({"id": index, "result": "0x"})));
        }
        tally.answers(&[2], full());
        tally.block(Instant::now(), &[0, 1, 3]);
        assert_eq!(tally.stranded(), 1, "4 waits for 2");
        assert!(!tally.is_drained(), "5 can still come");
        tally.block(Instant::now(), &[5]);
        assert!(tally.is_drained());
    }

    #[test]
    fn transfers_are_due_evenly() {
        let start = Instant::now();
        let due = |index| Pace::due(start, 1_000.0, index) - start;
        assert_eq!(due(0), Duration::ZERO);
        assert_eq!(due(2_500), Duration::from_millis(2_500));
    }
}
