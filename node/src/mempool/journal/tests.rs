use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use alloy_primitives::B256;
use axolotl_common::crypto::random_bytes;
use proptest::prelude::*;
use tempfile::TempDir;

use super::{
    format::{Parsed, Salt, encode, header, parse},
    *,
};
use crate::{
    mempool::{
        InterruptReason, Mempool, MempoolError, Origin, Standing,
        best::lock,
        tests::{BASE_FEE, rich, tx},
    },
    storage::chain::testing::{CHAIN_ID, Call, GWEI, spec},
};

/// No test waits longer for its journal.
const DEADLINE: Duration = Duration::from_secs(20);
const REASON: InterruptReason = InterruptReason::ExecutionTime {
    limit: Duration::from_millis(150),
};

fn cheap(from: u8, nonce: u64) -> Tx {
    tx(from, nonce, 9 * GWEI, GWEI)
}

/// A journal of three transactions and an interrupted one, and what it holds.
fn small() -> (Vec<u8>, Vec<Entry>) {
    let mut entries: Vec<Entry> = (0..3)
        .map(|nonce| Entry::Transaction(cheap(0, nonce).raw().clone()))
        .collect();
    let of = cheap(0, 1);
    for standing in [Standing::Heavy, Standing::SetAside(REASON)] {
        entries.push(Entry::Interrupted(Interrupted {
            hash: of.hash(),
            sender: of.sender(),
            nonce: of.nonce(),
            standing,
        }));
    }
    (written(&entries), entries)
}

fn written(entries: &[Entry]) -> Vec<u8> {
    let salt = Salt(random_bytes());
    let mut bytes = header(salt).to_vec();
    for entry in entries {
        let before = bytes.len();
        encode(salt, entry, &mut bytes);
        assert_eq!(bytes.len() - before, entry.record_bytes());
    }
    bytes
}

fn parsed(bytes: &[u8]) -> Parsed {
    parse(&Bytes::copy_from_slice(bytes))
}

#[test]
fn what_was_written_is_read() {
    let (bytes, entries) = small();
    let whole = parsed(&bytes);
    let expected = Parsed {
        entries,
        ..Parsed::default()
    };
    assert_eq!(whole, expected);
    assert_eq!(parsed(&[]), Parsed::default());
}

#[test]
fn cut_at_every_byte() {
    let (bytes, entries) = small();
    for cut in 1..bytes.len() {
        let found = parsed(&bytes[..cut]);
        assert!(entries.starts_with(&found.entries), "cut at {cut}");
        assert_eq!(found.damaged, 0, "cut at {cut}: a torn tail is no damage");
        assert!(found.entries.len() < entries.len());
    }
}

#[test]
fn every_bit_flipped() {
    let (bytes, entries) = small();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut wrong = bytes.clone();
            wrong[at] ^= 1 << bit;
            let found = parsed(&wrong);
            assert!(!found.unreadable, "byte {at}: both copies of the salt");
            assert!(found.entries.iter().all(|entry| entries.contains(entry)));
            let lost = entries.len() - found.entries.len();
            assert!(lost <= 1, "byte {at}: {lost} records lost");
            let said = found.damaged + usize::from(found.torn_bytes > 0);
            assert_eq!(said, lost, "byte {at}");
        }
    }
}

#[test]
fn every_byte_left_out_or_put_in() {
    let (bytes, entries) = small();
    for at in 0..bytes.len() {
        let mut without = bytes.clone();
        without.remove(at);
        let mut with = bytes.clone();
        with.insert(at, 0xaa);
        for wrong in [without, with] {
            let found = parsed(&wrong);
            assert!(found.entries.iter().all(|entry| entries.contains(entry)));
            assert!(
                found.unreadable || found.entries.len() + 1 >= entries.len(),
                "byte {at}"
            );
        }
    }
}

/// Where the bytes of a record that a stranger made up stand alone behind damage, they are none.
#[test]
fn a_record_within_a_transaction_is_none() {
    let victim = cheap(1, 0);
    let made_up = Entry::Interrupted(Interrupted {
        hash: victim.hash(),
        sender: victim.sender(),
        nonce: 0,
        standing: Standing::SetAside(REASON),
    });
    let mut input = Vec::new();
    encode(Salt([0; 8]), &made_up, &mut input);
    let carrier = Call {
        gas: 200_000,
        input,
        ..Call::transfer(0, 0, crate::mempool::tests::TO, 1)
    };
    let entries = [
        Entry::Transaction(carrier.sign().raw().clone()),
        Entry::Transaction(victim.raw().clone()),
    ];
    let mut bytes = written(&entries);
    // The length of the first record.
    bytes[40] ^= 0xff;
    let found = parsed(&bytes);
    assert_eq!(found.entries, entries[1..]);
    assert_eq!(found.damaged, 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn nothing_but_what_was_written_is_read(
        changes in proptest::collection::vec((0..4u8, any::<prop::sample::Index>(), any::<u8>(), 1..40usize), 1..12)
    ) {
        let (mut bytes, entries) = small();
        for (kind, at, byte, count) in changes {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            let end = (at + count).min(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => drop(bytes.drain(at..end)),
                2 => bytes[at..end].fill(0),
                _ => {
                    let copy = bytes[at..end].to_vec();
                    bytes.splice(at..at, copy);
                }
            }
        }
        let found = parsed(&bytes);
        prop_assert!(found.entries.iter().all(|entry| entries.contains(entry)));
    }
}

/// A pool with a journal in a directory of its own.
struct Kept {
    directory: TempDir,
    options: JournalOptions,
    limits: MempoolLimits,
}

impl Kept {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            options: JournalOptions {
                flush_timeout: DEADLINE,
                retry_interval: Duration::from_millis(10),
                ..JournalOptions::default()
            },
            limits: MempoolLimits::default(),
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("data").join("pool.journal")
    }

    fn make_directory(&self) {
        std::fs::create_dir_all(self.path().parent().unwrap()).unwrap();
    }

    fn open(&self) -> (Mempool, Recovered) {
        self.make_directory();
        self.open_as_it_is()
    }

    fn open_as_it_is(&self) -> (Mempool, Recovered) {
        Mempool::open(spec(1_000).0, self.limits, &self.path(), self.options)
    }

    fn file(&self) -> Parsed {
        parsed(&std::fs::read(self.path()).unwrap())
    }
}

fn add(pool: &Mempool, tx: &Tx, origin: Origin) -> Result<(), MempoolError> {
    pool.add(Arc::clone(tx), origin, rich(0), BASE_FEE)
        .map(drop)
}

fn hashes(txs: &[Tx]) -> Vec<B256> {
    txs.iter().map(|tx| tx.hash()).collect()
}

#[test]
fn what_was_flushed_outlives_the_pool() {
    let kept = Kept::new();
    let (pool, recovered) = kept.open();
    assert!(recovered.transactions.is_empty() && recovered.damaged == 0);
    // Nonce 1 before 0; one by gossip; one that is refused; one twice.
    let taken = [cheap(0, 1), cheap(1, 0), cheap(0, 0), cheap(2, 0)];
    add(&pool, &taken[0], Origin::Local).unwrap();
    add(&pool, &taken[1], Origin::Peer).unwrap();
    add(&pool, &taken[2], Origin::Local).unwrap();
    add(&pool, &taken[2], Origin::Peer).unwrap_err();
    add(&pool, &tx(5, 0, 1, 1), Origin::Local).unwrap_err();
    add(&pool, &taken[3], Origin::Local).unwrap();
    // What leaves the pool before it was written need not be in the file.
    pool.flush().unwrap();
    pool.interrupted(&taken[1].hash(), REASON);
    pool.interrupted(&taken[3].hash(), REASON);
    pool.interrupted(&taken[3].hash(), REASON);
    pool.flush().unwrap();
    // The process is gone: nothing more is written, and the next start finds this.
    let (again, recovered) = kept.open();
    assert_eq!(hashes(&recovered.transactions), hashes(&taken));
    assert_eq!((recovered.damaged, recovered.torn_bytes), (0, 0));
    for tx in &recovered.transactions {
        let added = add(&again, tx, Origin::Returned);
        match added {
            Err(MempoolError::SetAside(reason)) => {
                assert_eq!((tx.hash(), reason), (taken[3].hash(), REASON));
            }
            other => other.unwrap(),
        }
    }
    assert!(again.is_heavy(&taken[1].hash()));
    assert!(!again.is_heavy(&taken[0].hash()));
    assert_eq!(again.len(), 3);
    again.set_waiting(Vec::new());
    again.flush().unwrap();
    drop((pool, again));
    let (_, third) = kept.open();
    let ended: BTreeSet<B256> = hashes(&third.transactions).into_iter().collect();
    assert_eq!(ended, hashes(&taken[..3]).into_iter().collect());
    assert_eq!(third.interrupted.len(), 2);
}

#[test]
fn a_torn_tail_and_damage_cost_what_they_hit() {
    let kept = Kept::new();
    let (pool, _) = kept.open();
    let taken: Vec<Tx> = (0..5).map(|from| cheap(from, 0)).collect();
    for tx in &taken {
        add(&pool, tx, Origin::Local).unwrap();
    }
    pool.flush().unwrap();
    let mut bytes = std::fs::read(kept.path()).unwrap();
    let record = bytes.len() / 5;
    bytes[record] ^= 1;
    bytes.truncate(bytes.len() - 7);
    std::fs::write(kept.path(), &bytes).unwrap();
    let (again, recovered) = kept.open();
    assert_eq!(recovered.damaged, 1);
    assert!(recovered.torn_bytes > 0);
    assert_eq!(recovered.transactions.len(), 3);
    assert_eq!(again.counters().journal_damaged.get(), 1);
    again.flush().unwrap();
    // The new file is whole, though nothing was admitted yet.
    let file = kept.file();
    assert_eq!(
        (file.entries.len(), file.damaged, file.torn_bytes),
        (3, 0, 0)
    );
}

#[test]
fn what_is_no_journal_is_put_aside() {
    let kept = Kept::new();
    for nonsense in [
        "no journal at all, but long enough to have a header".as_bytes(),
        b"x",
        &[0; 64],
    ] {
        kept.make_directory();
        std::fs::write(kept.path(), nonsense).unwrap();
        let (pool, recovered) = kept.open();
        assert!(recovered.transactions.is_empty() && recovered.damaged == 1);
        add(&pool, &cheap(0, 0), Origin::Local).unwrap();
        pool.flush().unwrap();
        let aside = std::fs::read(beside(&kept.path(), "unreadable")).unwrap();
        assert_eq!(aside, nonsense);
        assert_eq!(kept.file().entries.len(), 1);
    }
    // Transactions of another chain are none.
    let salt = Salt([7; 8]);
    let mut bytes = header(salt).to_vec();
    encode(
        salt,
        &Entry::Transaction(cheap(0, 0).raw().clone()),
        &mut bytes,
    );
    encode(
        salt,
        &Entry::Transaction(Bytes::from_static(b"\x02no")),
        &mut bytes,
    );
    std::fs::write(kept.path(), &bytes).unwrap();
    let found = recover(&kept.path(), ChainId(CHAIN_ID + 1), &kept.limits, 1 << 20);
    assert_eq!((found.transactions.len(), found.damaged), (0, 2));
}

#[test]
fn the_file_stays_within_its_bound() {
    let mut kept = Kept::new();
    kept.options.floor_bytes = 4_096;
    kept.limits.max_count = 20;
    let (pool, _) = kept.open();
    let waiting = [cheap(9, 0), cheap(9, 1)];
    pool.set_waiting(waiting.to_vec());
    let mut largest = 0;
    for i in 0..400u64 {
        let (from, nonce) = ((i % 8) as u8, i / 8);
        let stays = from == 7;
        if stays && nonce >= 10 {
            continue;
        }
        let state = rich(if stays { 0 } else { nonce });
        let tx = cheap(from, nonce);
        pool.add(Arc::clone(&tx), Origin::Local, state, BASE_FEE)
            .unwrap();
        pool.flush().unwrap();
        largest = largest.max(std::fs::metadata(kept.path()).unwrap().len());
        if !stays {
            pool.on_block(&[tx], &|_| rich(nonce + 1), BASE_FEE);
        }
    }
    assert_eq!(pool.len(), 10);
    // 360 records of more than 120 bytes are far above that.
    let most = pool.stats().bytes + 2 * size_of(&waiting[0]) + kept.options.floor_bytes;
    assert!(
        most < 20_000 && largest < (most + 2 * size_of(&waiting[0])) as u64,
        "{largest} {most}"
    );
    let file = kept.file();
    for tx in waiting
        .iter()
        .cloned()
        .chain(lock(&pool_of(&pool)).by_arrival())
    {
        assert!(file.entries.contains(&Entry::Transaction(tx.raw().clone())));
    }
    assert_eq!(pool.counters().journal_failures.get(), 0);
    // As docs/architecture.md says of the default limits.
    let bound = file_bytes_max(&MempoolLimits::default(), &JournalOptions::default());
    assert!(bound < 54 << 20, "{bound}");
}

fn pool_of(mempool: &Mempool) -> Arc<Mutex<Pool>> {
    Arc::clone(&mempool.pool)
}

#[test]
fn more_than_the_pool_can_hold_keeps_the_newest() {
    let mut kept = Kept::new();
    let (pool, _) = kept.open();
    let taken: Vec<Tx> = (0..10).map(|from| cheap(from, 0)).collect();
    for tx in &taken {
        add(&pool, tx, Origin::Local).unwrap();
    }
    pool.flush().unwrap();
    drop(pool);
    kept.limits.max_bytes = 3 * size_of(&taken[0]) + 5;
    let (_, recovered) = kept.open();
    assert_eq!(hashes(&recovered.transactions), hashes(&taken[7..]));
    assert_eq!(recovered.surplus, 7);
}

#[test]
fn a_journal_that_cannot_be_written_refuses_clients_until_it_can() {
    let kept = Kept::new();
    let (pool, recovered) = kept.open_as_it_is();
    assert_eq!(recovered.damaged, 0, "no directory is no damage");
    pool.flush().unwrap_err();
    add(&pool, &cheap(1, 0), Origin::Peer).unwrap();
    let failure = pool.flush().unwrap_err();
    assert!(
        failure.to_string().starts_with("cannot create it: "),
        "{failure}"
    );
    let refused = add(&pool, &cheap(0, 0), Origin::Local).unwrap_err();
    assert!(
        refused
            .to_string()
            .starts_with("transaction not accepted: this node's journal"),
        "{refused}"
    );
    assert!(
        !pool.contains(&cheap(0, 0).hash()),
        "nothing is half accepted"
    );
    assert!(pool.counters().journal_failures.get() > 0);

    kept.make_directory();
    let end = Instant::now() + DEADLINE;
    while let Err(error) = add(&pool, &cheap(0, 0), Origin::Local) {
        assert!(Instant::now() < end, "{error}");
        std::thread::yield_now();
    }
    pool.flush().unwrap();
    let (_, recovered) = kept.open();
    let found: BTreeSet<B256> = hashes(&recovered.transactions).into_iter().collect();
    assert_eq!(
        found,
        hashes(&[cheap(0, 0), cheap(1, 0)]).into_iter().collect()
    );
}

#[test]
fn a_file_that_goes_on_being_written_is_not_the_old_one() {
    let kept = Kept::new();
    let (pool, _) = kept.open();
    add(&pool, &cheap(0, 0), Origin::Local).unwrap();
    pool.flush().unwrap();
    // A rewrite takes the place of the file; what comes later is in the new one.
    pool.set_waiting(Vec::new());
    add(&pool, &cheap(1, 0), Origin::Local).unwrap();
    pool.flush().unwrap();
    add(&pool, &cheap(2, 0), Origin::Local).unwrap();
    pool.flush().unwrap();
    // What was in the pool and not yet pushed when the file was rewritten is in it twice, which does no harm.
    let entries = kept.file().entries;
    for from in 0..3 {
        let entry = Entry::Transaction(cheap(from, 0).raw().clone());
        assert!(entries.contains(&entry), "{from}: {entries:?}");
    }
    assert!(!beside(&kept.path(), "tmp").exists());
}

#[test]
fn a_push_beyond_the_bound_is_in_the_next_rewrite() {
    let mut kept = Kept::new();
    kept.options.pending_bytes_max = 1;
    let (pool, _) = kept.open();
    for from in 0..10 {
        add(&pool, &cheap(from, 0), Origin::Peer).unwrap();
    }
    pool.interrupted(&cheap(3, 0).hash(), REASON);
    pool.flush().unwrap();
    let file = kept.file();
    assert_eq!(file.entries.len(), 11);
}

#[test]
fn a_client_does_not_wait_for_a_disk_that_hangs() {
    let mut kept = Kept::new();
    kept.options.pending_bytes_max = 1;
    kept.options.flush_timeout = Duration::from_millis(50);
    let (pool, _) = kept.open();
    add(&pool, &cheap(0, 0), Origin::Local).unwrap();
    let inner = pool_of(&pool);
    let failure = {
        // The writer needs the pool for a rewrite.
        let held = lock(&inner);
        let journal = pool.journal.as_ref().unwrap();
        journal.push_transaction(&cheap(1, 0));
        let failure = journal.flush();
        drop(held);
        failure
    };
    assert_eq!(
        failure,
        Err(JournalFailure::Slow(kept.options.flush_timeout))
    );
}

#[test]
fn many_clients_at_once_lose_nothing() {
    let mut kept = Kept::new();
    kept.options.floor_bytes = 2_048;
    kept.options.pending_bytes_max = 1_024;
    let (pool, _) = kept.open();
    let threads: Vec<_> = (0..8u8)
        .map(|from| {
            let pool = pool.clone();
            std::thread::spawn(move || {
                for nonce in 0..25 {
                    add(&pool, &cheap(from, nonce), Origin::Local).unwrap();
                    pool.flush().unwrap();
                }
            })
        })
        .collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    let (_, recovered) = kept.open();
    assert_eq!(recovered.transactions.len(), 200);
}
