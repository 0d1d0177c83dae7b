//! How long a block of transfers takes, by step:
//! `cargo bench -p axolotl-ledger --bench transfers -- [accounts] [transfers]`.
#![allow(clippy::unwrap_used, reason = "as in tests")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::Instant;

use alloy_primitives::{Address, TxKind, U256, keccak256};
use axolotl_ledger::{Account, Block, RootCache, StateDiff, Tx};
use support::*;

fn main() {
    // cargo passes flags of its own, which are no numbers.
    let mut arguments = std::env::args()
        .skip(1)
        .filter_map(|text| text.parse::<u64>().ok());
    let mut argument = |default| arguments.next().unwrap_or(default);
    let (accounts, transfers) = (argument(10_000), argument(1_000));
    let mut chain = TestChain::new(&[]);
    let signers: Vec<_> = (0..accounts.min(2_000)).map(|i| user(i + 100)).collect();
    let mut diff = StateDiff::default();
    let funded = Account {
        balance: U256::from(10u64.pow(19)),
        ..Account::default()
    };
    for signer in &signers {
        diff.accounts
            .insert(keccak256(signer.address()), Some(funded));
    }
    let target = |i: u64| Address::from_word(keccak256(i.to_le_bytes()));
    for i in 0..accounts {
        diff.accounts.insert(keccak256(target(i)), Some(funded));
    }
    chain.state.apply(&diff);
    chain.roots = timed("build the cache of roots", accounts, || {
        RootCache::build(&chain.state).unwrap()
    });
    chain.head.state_root = chain.roots.root();
    let raw: Vec<Vec<u8>> = (0..transfers)
        .map(|i| {
            let signer = &signers[i as usize % signers.len()];
            let to = TxKind::Call(target(i.wrapping_mul(2_654_435_761) % accounts));
            let mut tx = transfer(i / signers.len() as u64, to);
            tx.value = U256::from(1);
            sign_1559(signer, tx)
        })
        .collect();
    let txs: Vec<Tx> = timed("decode and recover", transfers, || {
        raw.iter().map(|raw| decode(raw)).collect()
    });
    for _ in 0..5 {
        let built = timed("build", transfers, || {
            chain.build(&mut Queue::new(txs.clone()))
        });
        let block = Block::new(built.block.header.clone(), txs.clone(), Vec::new());
        timed("execute", transfers, || chain.execute(block).unwrap());
        let mut diff = built.diff.clone();
        timed("  root alone", transfers, || {
            chain.roots.compute(&chain.state, &mut diff).unwrap()
        });
        timed("  encode alone", transfers, || built.block.encode());
        assert_eq!(built.receipts.len() as u64, transfers);
    }
}

fn timed<T>(what: &str, n: u64, f: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = f();
    let took = start.elapsed();
    println!(
        "{what:28} {:9.2} ms {:8.2} us each",
        took.as_secs_f64() * 1e3,
        took.as_secs_f64() * 1e6 / n as f64
    );
    result
}
