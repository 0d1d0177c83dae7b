//! What must hold whatever happened before.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, ensure};
use axolotl_common::{Epoch, Hash, Height, PublicKey, Round, VoteKind};
use axolotl_consensus::{LogEntry, LogRecord, message::Vote};
use axolotl_node::{cli::json_rpc::JsonRpc, storage::ConsensusLog};

use crate::{Acknowledged, wait};

/// Patience for a node to be level with the others.
const LEVEL: Duration = Duration::from_secs(60);
/// Receipts per request.
const RECEIPTS_PER_CALL: usize = 100;
/// Blocks compared one by one before the head; older ones are bound by parent hashes.
const COMPARED_BLOCKS: u64 = 20;

/// Every acknowledged transfer is in the same block on every node.
///
/// # Errors
/// With the first that is missing or elsewhere.
pub async fn all_present(nodes: &[JsonRpc], acknowledged: &[Acknowledged]) -> anyhow::Result<()> {
    let highest = acknowledged.iter().map(|one| one.block_number).max();
    for node in nodes {
        reach(node, highest.unwrap_or(0)).await?;
        for chunk in acknowledged.chunks(RECEIPTS_PER_CALL) {
            let hashes: Vec<_> = chunk.iter().map(|one| one.hash).collect();
            for (one, receipt) in chunk.iter().zip(node.receipts(&hashes).await?) {
                let url = node.url();
                let receipt = receipt
                    .with_context(|| format!("LOST: acknowledged {} is not at {url}", one.hash))?;
                ensure!(
                    (receipt.block_number, receipt.block_hash)
                        == (one.block_number, one.block_hash),
                    "FORK: {one:?} is at {url} in block {} {}",
                    receipt.block_number,
                    receipt.block_hash
                );
            }
        }
    }
    Ok(())
}

/// All nodes hold the same chain up to the lowest of their heads.
///
/// # Errors
/// With the first block that differs.
pub async fn same_chain(nodes: &[JsonRpc]) -> anyhow::Result<u64> {
    let mut lowest = u64::MAX;
    for node in nodes {
        lowest = lowest.min(node.block_number().await?);
    }
    let (first, rest) = nodes.split_first().context("no node to compare")?;
    for number in lowest.saturating_sub(COMPARED_BLOCKS)..=lowest {
        let block = first.block(number).await?;
        let block = block.with_context(|| format!("{} has no block {number}", first.url()))?;
        for node in rest {
            let other = node.block(number).await?;
            ensure!(
                other.as_ref() == Some(&block),
                "FORK at {number}: {} has {block:?}, {} has {other:?}",
                first.url(),
                node.url()
            );
        }
    }
    Ok(lowest)
}

/// Waits until a node's head is at `height` or above.
///
/// # Errors
/// After the deadline.
pub async fn reach(node: &JsonRpc, height: u64) -> anyhow::Result<()> {
    let what = format!("height {height} at {}", node.url());
    wait::until(&what, LEVEL, async || {
        let at = node.block_number().await?;
        ensure!(at >= height, "height {at}");
        Ok(())
    })
    .await
}

/// Waits until a node has a block more than now.
///
/// # Errors
/// After the deadline.
pub async fn goes_on(node: &JsonRpc, blocks: u64) -> anyhow::Result<()> {
    let height = node.block_number().await?;
    reach(node, height + blocks).await
}

/// What a validator may sign once: a vote of a kind, or (`None`) a proposal.
type Slot = (PublicKey, Epoch, Height, Round, Option<VoteKind>);
/// What it signed there: a block or nil, and for a proposal the round of its proof.
type Choice = (Option<Hash>, Option<Round>);

/// No validator signed two different votes or proposals of one height, epoch and round, by all that
/// the consensus logs of all nodes hold. The nodes must not run: opening a log may cut it.
///
/// # Errors
/// With the two signatures, or when a log cannot be read.
pub fn never_signed_twice(home: &Path) -> anyhow::Result<()> {
    let mut chosen: BTreeMap<Slot, (Choice, PathBuf)> = BTreeMap::new();
    let logs = each_signed(home, |directory, slot, choice| {
        let (first, place) = chosen
            .entry(slot)
            .or_insert_with(|| (choice, directory.to_owned()));
        ensure!(
            *first == choice,
            "SIGNED TWICE: {slot:?}: {first:?} in {}, {choice:?} in {}",
            place.display(),
            directory.display()
        );
        Ok(())
    })?;
    println!(
        "{} votes and proposals of {logs} logs: none contradicts another",
        chosen.len()
    );
    Ok(())
}

/// The highest height in which each validator signed something in each epoch, by all that the consensus
/// logs of all nodes hold. The nodes must not run.
///
/// # Errors
/// When a log cannot be read.
pub fn highest_signed(home: &Path) -> anyhow::Result<BTreeMap<(PublicKey, Epoch), Height>> {
    let mut highest = BTreeMap::new();
    each_signed(home, |_, (key, epoch, height, ..), _| {
        let known = highest.entry((key, epoch)).or_insert(height);
        *known = height.max(*known);
        Ok(())
    })?;
    Ok(highest)
}

/// What a validator voted for in an epoch, by all that the consensus logs under `home` hold.
///
/// # Errors
/// As [`never_signed_twice`].
pub fn votes_of(home: &Path, validator: PublicKey, epoch: Epoch) -> anyhow::Result<Vec<Vote>> {
    let mut votes = Vec::new();
    each_entry(home, |_, entry| {
        if let LogEntry::Vote(signed) = entry
            && (signed.vote.validator, signed.vote.epoch) == (validator, epoch)
        {
            votes.push(signed.vote);
        }
        Ok(())
    })?;
    Ok(votes)
}

/// Goes through the votes and proposals of all consensus logs; returns how many logs there are.
fn each_signed(
    home: &Path,
    mut look: impl FnMut(&Path, Slot, Choice) -> anyhow::Result<()>,
) -> anyhow::Result<usize> {
    each_entry(home, |directory, entry| match signed(&entry) {
        Some((slot, choice)) => look(directory, slot, choice),
        None => Ok(()),
    })
}

/// Looks at everything in the consensus logs under `home`; gives how many logs there are.
fn each_entry(
    home: &Path,
    mut look: impl FnMut(&Path, LogEntry) -> anyhow::Result<()>,
) -> anyhow::Result<usize> {
    let logs = consensus_logs(home)?;
    ensure!(
        !logs.is_empty(),
        "no consensus log under {}",
        home.display()
    );
    for directory in &logs {
        let (log, _) = ConsensusLog::open(directory)?;
        for record in log.all() {
            look(directory, LogRecord::decode(&record?.bytes)?.entry)?;
        }
    }
    Ok(logs.len())
}

fn signed(entry: &LogEntry) -> Option<(Slot, Choice)> {
    match entry {
        LogEntry::Vote(signed) => {
            let vote = &signed.vote;
            let kind = Some(vote.kind);
            let slot = (vote.validator, vote.epoch, vote.height, vote.round, kind);
            Some((slot, (vote.block, None)))
        }
        LogEntry::Proposal(signed) => {
            let made = &signed.proposal;
            let slot = (made.proposer, made.epoch, made.height, made.round, None);
            Some((slot, (Some(made.block), made.valid_round)))
        }
        _ => None,
    }
}

fn consensus_logs(home: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut directories = vec![home.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.is_dir() {
                if path.file_name().is_some_and(|name| name == "consensus") {
                    found.push(path);
                } else {
                    directories.push(path);
                }
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axolotl_common::{ChainId, KeyPair, ids::ChainRef};
    use axolotl_consensus::message::SignedVote;

    /// Writes votes of one validator for `blocks`, all in one place, into the logs of two nodes.
    fn home_with_votes(blocks: [u8; 2]) -> anyhow::Result<tempfile::TempDir> {
        let home = tempfile::tempdir()?;
        let key = KeyPair::from_seed(&[1; 32]);
        let chain = ChainRef {
            id: ChainId(1),
            genesis: Hash([0; 32]),
        };
        for (node, block) in blocks.into_iter().enumerate() {
            let directory = home.path().join(format!("node{node}/data/consensus"));
            fs::create_dir_all(&directory)?;
            let vote = Vote {
                epoch: Epoch(0),
                height: Height(7),
                round: Round(0),
                kind: VoteKind::Precommit,
                block: Some(Hash([block; 32])),
                validator: key.public(),
            };
            let record = LogRecord {
                epoch: vote.epoch,
                height: vote.height,
                entry: LogEntry::Vote(SignedVote {
                    vote,
                    signature: key.sign(&vote.sign_bytes(&chain)),
                }),
            };
            let (mut log, _) = ConsensusLog::open(&directory)?;
            log.append(record.epoch, record.height, &record.encode())?;
            log.sync()?;
        }
        Ok(home)
    }

    #[test]
    fn two_votes_of_one_place_are_found() -> anyhow::Result<()> {
        let agreeing = home_with_votes([1, 1])?;
        never_signed_twice(agreeing.path())?;
        let key = KeyPair::from_seed(&[1; 32]).public();
        assert_eq!(votes_of(agreeing.path(), key, Epoch(0))?.len(), 2);
        assert!(votes_of(agreeing.path(), key, Epoch(1))?.is_empty());
        let error = never_signed_twice(home_with_votes([1, 2])?.path()).unwrap_err();
        assert!(error.to_string().starts_with("SIGNED TWICE"), "{error}");
        Ok(())
    }
}
