//! The rate of hostile transactions: `cargo bench -p axolotl-ledger --bench hostile -- [gas] [prague] [text]`.
//!
//! Each row is one block with one transaction of so much gas, executed to its end; with a text only rows
//! whose name holds it. Slowest last.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    unreachable_pub,
    reason = "as in tests"
)]

#[path = "../tests/support/hostile.rs"]
mod hostile;
#[path = "../tests/support/mod.rs"]
mod support;

use std::time::Instant;

use alloy_consensus::{TxEip1559, TxEip7702};
use alloy_primitives::TxKind;
use axolotl_common::limits::TRANSACTION_GAS_CAP;
use axolotl_ledger::{Block, Tx};
use hostile::Row;
use support::*;

/// Slots of each contract with large storage.
const SLOTS: u64 = 100_000;

fn main() {
    let mut gas = TRANSACTION_GAS_CAP;
    let mut prague = false;
    let mut wanted = String::new();
    for argument in std::env::args().skip(1) {
        match argument.parse() {
            Ok(number) => gas = number,
            Err(_) if argument == "prague" => prague = true,
            Err(_) if argument.starts_with("--") => {} // of cargo
            Err(_) => wanted = argument,
        }
    }
    let mut rows = hostile::rows(gas);
    rows.extend(sweep(gas));
    rows.retain(|row| row.name.contains(&wanted));
    let mut document = genesis(&[]);
    if prague {
        let config = document["config"].as_object_mut().unwrap();
        config.remove("osakaTime");
    }
    document["gasLimit"] = gas.max(30_000_000).into();
    let alloc = document["alloc"].as_object_mut().unwrap();
    let large = rows.iter().any(|row| row.name.contains("large contracts"));
    alloc.extend(hostile::alloc(&rows, if large { SLOTS } else { 0 }));
    let chain = TestChain::of(document);
    let mut measured: Vec<_> = rows.iter().map(|row| measure(&chain, row)).collect();
    measured.sort_by(|a, b| b.rate.total_cmp(&a.rate));
    println!("| Transaction | gas used | ms | Mgas/s |\n|---|---|---|---|");
    for Measured {
        name,
        gas,
        ms,
        rate,
    } in measured
    {
        println!("| {name} | {gas} | {ms:.1} | {rate:.1} |");
    }
}

struct Measured {
    name: &'static str,
    gas: u64,
    ms: f64,
    rate: f64,
}

fn transaction(row: &Row) -> Tx {
    let base = transfer(0, TxKind::Call(row.address()));
    if row.authorizations.is_empty() {
        return decode(&sign_1559(
            &user(0),
            TxEip1559 {
                gas_limit: row.gas,
                input: row.input.clone().into(),
                ..base
            },
        ));
    }
    decode(&sign_7702(
        &user(0),
        TxEip7702 {
            chain_id: CHAIN,
            gas_limit: row.gas,
            max_fee_per_gas: base.max_fee_per_gas,
            max_priority_fee_per_gas: base.max_priority_fee_per_gas,
            to: row.address(),
            authorization_list: row.authorizations.clone(),
            ..TxEip7702::default()
        },
    ))
}

fn measure(chain: &TestChain, row: &Row) -> Measured {
    let tx = transaction(row);
    let mut queue = Queue::new(vec![tx]);
    let built = chain.build(&mut queue);
    assert_eq!(queue.skipped, [], "{}", row.name);
    let receipt = &built.receipts[0];
    assert!(receipt.success, "{} failed", row.name);
    let gas = built.block.header.gas_used;
    // Checked as another validator would, from its bytes.
    let block = Block::decode(&built.bytes, chain.spec.chain.id, &|_| None).unwrap();
    let start = Instant::now();
    chain.execute(block).unwrap();
    let seconds = start.elapsed().as_secs_f64();
    Measured {
        name: row.name,
        gas,
        ms: seconds * 1e3,
        rate: gas as f64 / seconds / 1e6,
    }
}

/// Shapes of MODEXP, to find the slowest for its gas.
fn sweep(gas: u64) -> Vec<Row> {
    let mut rows = Vec::new();
    for size in [
        8_usize, 31, 32, 33, 40, 48, 64, 96, 128, 192, 256, 512, 1_024,
    ] {
        for (exponent, first) in [(1, 1), (1, 3), (1, 0xff), (8, 0xff), (32, 0xff), (64, 0xff)] {
            for odd in [true, false] {
                let name = format!("sweep modexp {size} ^ {exponent} ({first:#x}) odd: {odd}");
                let words = size.div_ceil(8) as u64;
                let rest = (2 * words * words).max(16) * 8 * exponent as u64 * 2 + 20_000;
                if rest > gas / 2 {
                    continue;
                }
                let name: &'static str = Box::leak(name.into_boxed_str());
                rows.push(hostile::modexp(name, (size, exponent), first, odd, rest));
            }
        }
    }
    for row in &mut rows {
        row.gas = gas;
    }
    rows
}
