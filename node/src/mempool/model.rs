//! The pool against a reference that is too plain to be wrong.

use std::collections::BTreeMap;

use alloy_primitives::{Address, U256};
use axolotl_ledger::Tx;
use proptest::prelude::*;

use super::{
    tests::{BASE_FEE, TO, drain, mempool, rich, tx},
    *,
};
use crate::storage::chain::testing::{Call, GWEI, signer};

/// The pool's rules, written down as plainly as can be: a list that is searched for everything.
#[derive(Debug)]
struct Reference {
    limits: MempoolLimits,
    base_fee: u64,
    txs: Vec<Tx>,
    states: BTreeMap<Address, SenderState>,
    mined: Vec<Tx>,
}

impl Reference {
    fn of(&self, sender: Address) -> Vec<&Tx> {
        let mut own: Vec<&Tx> = self.txs.iter().filter(|tx| tx.sender() == sender).collect();
        own.sort_by_key(|tx| tx.nonce());
        own
    }

    fn ready(&self, sender: Address) -> u64 {
        let next = self.states[&sender].nonce;
        (next..)
            .find(|n| self.of(sender).iter().all(|tx| tx.nonce() != *n))
            .unwrap()
    }

    fn worth(&self, tx: &Tx, ready: u64) -> (bool, i128) {
        let cap = tx.max_fee_per_gas() as i128 - i128::from(self.base_fee);
        (
            tx.nonce() < ready,
            cap.min(tx.max_priority_fee_per_gas() as i128),
        )
    }

    fn bytes(&self) -> usize {
        self.txs.iter().map(queue::size_of).sum()
    }

    fn full(&self) -> bool {
        self.txs.len() > self.limits.max_count || self.bytes() > self.limits.max_bytes
    }

    /// Whether the transaction is taken. Arrival order is the order of `txs`.
    fn add(&mut self, tx: &Tx) -> bool {
        let (sender, nonce) = (tx.sender(), tx.nonce());
        let state = self.states[&sender];
        let own = self.of(sender);
        let old = own
            .iter()
            .find(|old| old.nonce() == nonce)
            .map(|old| Tx::clone(old));
        let spent: U256 = own
            .iter()
            .filter(|other| other.nonce() != nonce)
            .map(|other| other.max_cost())
            .sum();
        let more = |new: u128, old: u128| new > old && new * 100 >= old * 110;
        let fits = !self.txs.contains(tx)
            && !self.mined.contains(tx)
            && nonce >= state.nonce
            && nonce - state.nonce <= self.limits.max_nonce_gap
            && tx.max_fee_per_gas() >= u128::from(BASE_FEE)
            && spent + tx.max_cost() <= state.balance
            && (old.is_some() || own.len() < self.limits.max_per_sender)
            && old.as_ref().is_none_or(|old| {
                more(tx.max_fee_per_gas(), old.max_fee_per_gas())
                    && more(
                        tx.max_priority_fee_per_gas(),
                        old.max_priority_fee_per_gas(),
                    )
            });
        if !fits {
            return false;
        }
        let before = self.txs.clone();
        self.txs.retain(|other| Some(other) != old.as_ref());
        self.txs.push(Arc::clone(tx));
        let worth = self.worth(tx, self.ready(sender));
        while self.full() {
            let victim = self
                .states
                .keys()
                .filter_map(|other| {
                    let last = *self.of(*other).last()?;
                    let place = self.txs.iter().position(|tx| tx == last)?;
                    Some((
                        self.worth(last, self.ready(*other)),
                        std::cmp::Reverse(place),
                        last,
                    ))
                })
                .min_by_key(|(worth, place, _)| (*worth, *place))
                .map(|(worth, _, last)| (worth, Arc::clone(last)));
            match victim {
                Some((cheaper, victim)) if cheaper < worth && victim.sender() != sender => {
                    self.txs.retain(|other| *other != victim);
                }
                _ => {
                    self.txs = before;
                    return false;
                }
            }
        }
        true
    }

    fn on_block(&mut self, txs: &[Tx], changed: &[Address], base_fee: u64) {
        self.mined.extend(txs.iter().cloned());
        let states = &self.states;
        self.txs.retain(|tx| {
            let state = states[&tx.sender()];
            !changed.contains(&tx.sender())
                || (tx.nonce() >= state.nonce && tx.max_cost() <= state.balance)
        });
        if base_fee.abs_diff(self.base_fee) > self.base_fee / 4 {
            self.base_fee = base_fee;
        }
    }

    /// Order of a block: again and again the best of each sender's next ones.
    fn best(&self, base_fee: u64) -> Vec<(Tx, u128)> {
        let mut next: BTreeMap<Address, u64> = self
            .states
            .iter()
            .map(|(sender, state)| (*sender, state.nonce))
            .collect();
        let mut out = Vec::new();
        loop {
            let best = self
                .txs
                .iter()
                .enumerate()
                .filter(|(_, tx)| next[&tx.sender()] == tx.nonce())
                .filter_map(|(i, tx)| Some((tx.effective_tip(base_fee)?, std::cmp::Reverse(i), tx)))
                .max_by_key(|(tip, i, _)| (*tip, *i));
            let Some((tip, _, tx)) = best else {
                return out;
            };
            next.insert(tx.sender(), tx.nonce() + 1);
            out.push((Arc::clone(tx), tip));
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Add {
        from: u8,
        ahead: u64,
        fee_cap: u8,
        tip: u8,
        size: u8,
    },
    Block {
        count: usize,
        base_fee: u8,
    },
    Spend {
        from: u8,
        balance: u8,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..6u8, 0..7u64, 1..24u8, 0..12u8, 0..3u8).prop_map(
            |(from, ahead, fee_cap, tip, size)| Step::Add { from, ahead, fee_cap, tip, size }
        ),
        2 => (0..5usize, 1..12u8).prop_map(|(count, base_fee)| Step::Block { count, base_fee }),
        1 => (0..6u8, 1..30u8).prop_map(|(from, balance)| Step::Spend { from, balance }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn the_pool_does_what_the_reference_does(steps in proptest::collection::vec(step(), 1..120)) {
        let limits = MempoolLimits {
            max_count: 12,
            max_bytes: 22_000,
            max_per_sender: 5,
            max_nonce_gap: 5,
        };
        let pool = mempool(limits);
        let states = (0..6).map(|i| (signer(i).address(), rich(0))).collect();
        let mut reference = Reference {
            limits,
            base_fee: BASE_FEE,
            txs: Vec::new(),
            states,
            mined: Vec::new(),
        };
        let mut base_fee = BASE_FEE;
        for step in steps {
            match step {
                Step::Add { from, ahead, fee_cap, tip, size } => {
                    let (fee_cap, tip) = (u128::from(fee_cap) * GWEI, u128::from(tip) * GWEI);
                    let state = reference.states[&signer(from).address()];
                    let call = Call {
                        fee_cap,
                        tip: tip.min(fee_cap),
                        input: vec![1; usize::from(size) * 900],
                        gas: 200_000,
                        ..Call::transfer(from, state.nonce + ahead, TO, 1)
                    };
                    let tx = call.sign();
                    let taken = pool.add(Arc::clone(&tx), Origin::Peer, state, base_fee);
                    prop_assert_eq!(reference.add(&tx), taken.is_ok(), "{:?}", taken);
                }
                Step::Block { count, base_fee: next } => {
                    let block: Vec<Tx> =
                        reference.best(base_fee).into_iter().take(count).map(|(tx, _)| tx).collect();
                    let changed: Vec<Address> = block.iter().map(|tx| tx.sender()).collect();
                    for tx in &block {
                        reference.states.get_mut(&tx.sender()).unwrap().nonce = tx.nonce() + 1;
                    }
                    base_fee = u64::from(next) * BASE_FEE;
                    reference.on_block(&block, &changed, base_fee);
                    let states = reference.states.clone();
                    pool.on_block(&block, &|sender| states[&sender], base_fee);
                }
                Step::Spend { from, balance } => {
                    // Seen when a block touches the account.
                    let sender = signer(from).address();
                    let balance = U256::from(u128::from(balance) * 200_000 * GWEI);
                    let state = reference.states.get_mut(&sender).unwrap();
                    state.balance = balance;
                    let state = *state;
                    let touch = tx(from, 1_000, GWEI, 0);
                    reference.on_block(std::slice::from_ref(&touch), &[sender], base_fee);
                    pool.on_block(&[touch], &|_| state, base_fee);
                }
            }
            let stats = pool.stats();
            prop_assert!(stats.count <= limits.max_count && stats.bytes <= limits.max_bytes);
            let mut own: Vec<Tx> = Vec::new();
            let mut executable = 0;
            for part in pool.content() {
                let ready = reference.ready(part.sender);
                prop_assert!(part.pending.iter().all(|tx| tx.nonce() < ready));
                prop_assert!(part.queued.iter().all(|tx| tx.nonce() > ready));
                prop_assert!(part.pending.len() + part.queued.len() <= limits.max_per_sender);
                let pending = (!part.pending.is_empty()).then_some(ready);
                prop_assert_eq!(pool.pending_nonce(&part.sender), pending);
                executable += part.pending.len();
                own.extend(part.pending);
                own.extend(part.queued);
            }
            let mut expected = reference.txs.clone();
            own.sort_by_key(|tx| tx.hash());
            expected.sort_by_key(|tx| tx.hash());
            prop_assert_eq!(own, expected);
            prop_assert_eq!(stats.executable, executable);
            prop_assert_eq!(stats.bytes, reference.bytes());
            for at in [reference.base_fee, base_fee, 3 * BASE_FEE, 30 * BASE_FEE] {
                let found = drain(pool.best(at));
                let expected = reference.best(at);
                prop_assert_eq!(pool.has_executable(at), !expected.is_empty());
                let tips = |txs: Vec<Tx>| -> Vec<_> {
                    txs.iter().map(|tx| tx.effective_tip(at)).collect()
                };
                let expected: Vec<Tx> = expected.into_iter().map(|(tx, _)| tx).collect();
                if at == reference.base_fee {
                    prop_assert_eq!(found, expected);
                } else {
                    // Away from the index's base fee, equal tips may come in another order.
                    prop_assert_eq!(found.len(), expected.len());
                    prop_assert_eq!(tips(found), tips(expected));
                }
            }
        }
    }
}
