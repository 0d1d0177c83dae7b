//! Hostile transactions: whatever one of them does, honest transfers go on being final, and it is included
//! or set aside.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use anyhow::ensure;
use axolotl_common::limits::TRANSACTION_GAS_CAP;
use axolotl_tests::{
    checks,
    hostile::{
        Chain, Honest, Hostile, Outcome, Rules,
        rows::{self, Row},
    },
    soak,
};

/// Deadline for a hostile transaction to be included or set aside, and for an honest one to be final.
const DEADLINE: Duration = Duration::from_secs(60);
/// Ninety-nine of a hundred honest transfers are final within this.
const FINAL: Duration = Duration::from_secs(10);
/// Most memory of a node, bytes.
const MEMORY: u64 = 300_000_000;
/// Slots of each of the ten contracts with large storage; four nodes on two cores read a genesis with a
/// million of them for a minute, so a short run has fewer.
fn slots() -> u64 {
    if soak() { 100_000 } else { 5_000 }
}
/// Senders at once.
const AT_ONCE: usize = 10;
/// Gas of a block, and of a transaction, of a chain of an earlier release.
const OLDER_GAS: u64 = 300_000_000;
/// Rows that are sent one at a time also in a short run: one of each kind of work.
const ALONE: [&str; 6] = [
    "modexp 32 bytes",
    "KECCAK256 of 4 KiB",
    "BLS12-381 pairing",
    "SSTORE of fresh slots",
    "cold SLOAD in ten large contracts",
    "one slot in each of ten large contracts",
];

fn alone(rows: &[Row]) -> Vec<Row> {
    let wanted = |row: &&Row| soak() || ALONE.contains(&row.name);
    rows.iter().filter(wanted).cloned().collect()
}

/// Sends these rows at once, with honest transfers beside them; gives a line for each.
async fn attack(chain: &mut Chain, rows: &[Row], deadline: Duration) -> anyhow::Result<String> {
    let nodes = chain.nodes().to_vec();
    let hostile: Vec<Hostile> = rows
        .iter()
        .map(|row| chain.sign(row))
        .collect::<anyhow::Result<_>>()?;
    let honest = Honest::start(&nodes, deadline).await?;
    let begun = Instant::now();
    for transaction in &hostile {
        transaction.send(&nodes).await?;
    }
    let mut report = String::new();
    for transaction in &hostile {
        let left = deadline.saturating_sub(begun.elapsed());
        let what = match transaction.outcome(&nodes, left).await? {
            Outcome::Included(gas) => format!("included, {gas} gas"),
            Outcome::SetAside(reason) => reason,
        };
        let seconds = begun.elapsed().as_secs_f64();
        writeln!(report, "{:45} {seconds:6.2} s  {what}", transaction.name)?;
    }
    let latencies = honest.stop().await?;
    let (p50, p99) = (latencies.percentile(50), latencies.percentile(99));
    let peak = chain.peak()?;
    writeln!(
        report,
        "    {} honest transfers: final after p50 {} ms, p99 {} ms; memory {} MB",
        latencies.count(),
        p50.as_millis(),
        p99.as_millis(),
        peak / 1_000_000
    )?;
    print!("{report}");
    ensure!(p99 <= FINAL, "honest transfers took {p99:?}:\n{report}");
    ensure!(peak <= MEMORY, "a node takes {peak} bytes:\n{report}");
    Ok(report)
}

#[tokio::test(flavor = "multi_thread")]
async fn honest_transfers_are_final_beside_every_hostile_transaction() -> anyhow::Result<()> {
    let rows = rows::rows(TRANSACTION_GAS_CAP);
    let mut chain = Chain::start(Rules {
        gas_limit: None,
        osaka: true,
        alloc: rows::alloc(&rows, slots()),
    })
    .await?;
    for row in alone(&rows) {
        attack(&mut chain, &[row], DEADLINE).await?;
    }
    let rest: Vec<Row> = rows
        .iter()
        .filter(|row| soak() || !ALONE.contains(&row.name))
        .cloned()
        .collect();
    for rows in rest.chunks(AT_ONCE) {
        attack(&mut chain, rows, DEADLINE).await?;
    }
    checks::same_chain(chain.nodes()).await?;
    chain.finish().await
}

/// As above, slower: no rule bounds the gas of one transaction but that of the block, and no round has time
/// for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_an_earlier_release_bears_transactions_of_its_whole_block() -> anyhow::Result<()>
{
    let worst = ["modexp 32 bytes", "KECCAK256 of 4 KiB", "BLS12-381 pairing"];
    let mut rows = rows::rows(OLDER_GAS);
    rows.retain(|row| worst.contains(&row.name));
    let mut chain = Chain::start(Rules {
        gas_limit: Some(OLDER_GAS),
        osaka: false,
        alloc: rows::alloc(&rows, 1),
    })
    .await?;
    for row in &rows {
        attack(&mut chain, std::slice::from_ref(row), DEADLINE).await?;
    }
    if soak() {
        attack(&mut chain, &rows, DEADLINE).await?;
    }
    checks::same_chain(chain.nodes()).await?;
    chain.finish().await
}
