//! The store by itself: what is written once, what survives, what is refused.

use super::*;
use axolotl_common::{
    ChainId, ChainRef, EpochRecord, KeyPair,
    recovery::{Ballot, RegistryStart, StartId},
    registry_api::EventKind,
};

use crate::cluster::recovery::{Intent, Ledger};

fn event(id: u64) -> Event {
    Event {
        id,
        time: String::new(),
        kind: EventKind::Started,
        node: None,
        message: format!("event {id}"),
    }
}

#[test]
fn starts_count_up_and_a_second_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for expected in 1..=3 {
        let mut store = Store::open(dir.path()).unwrap();
        let id = StartId([expected; 16]);
        let start = store.begin_start(id, 5).unwrap();
        assert_eq!(start.counter, u64::from(expected));
        // The clock stands still, or was set back: the time of a start grows all the same.
        assert_eq!(start.at_ms, 4 + u64::from(expected));
        assert!(Store::open(dir.path()).is_err());
    }
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.starts().unwrap().len(), 3);
    assert_eq!(store.store_id().unwrap().len(), 16);
}

#[test]
fn the_authority_is_written_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    let (one, two) = (PublicKey([1; 32]), PublicKey([2; 32]));
    store.set_authority(&one).unwrap();
    assert!(matches!(
        store.set_authority(&two),
        Err(StoreError::WrittenOnce("authority"))
    ));
    assert_eq!(store.authority().unwrap(), Some(one));
}

#[test]
fn the_ring_of_events_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    let total = MAX_EVENTS as u64 + 20;
    for id in 1..=total {
        store.put_event(&event(id)).unwrap();
    }
    let all = store.events_after(0, usize::MAX).unwrap();
    assert_eq!((all.len(), all[0].id), (MAX_EVENTS, 21));
    let tail = store.events_after(total - 2, 10).unwrap();
    assert_eq!(tail.len(), 2);
    assert!(store.events_after(u64::MAX, 10).unwrap().is_empty());
}

#[test]
fn another_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    store.put_meta("format", &99u32).unwrap();
    drop(store);
    assert!(matches!(
        Store::open(dir.path()),
        Err(StoreError::Format { found: 99 })
    ));
}

fn start(counter: u64, id: u8) -> RegistryStart {
    RegistryStart {
        counter,
        id: StartId([id; 16]),
    }
}

fn ledger(ballot: Ballot) -> Ledger {
    Ledger::default().with(Intent {
        ballot,
        epoch: Epoch(0),
        sealing: false,
        asking: false,
        consent: false,
        forced: false,
        take_over: false,
    })
}

#[test]
fn a_recovery_record_is_written_once_and_under_the_newest_ballot_only() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    let chain = ChainRef {
        id: ChainId(7),
        genesis: Hash([7; 32]),
    };
    let record = |number| {
        let record = EpochRecord {
            number: Epoch(number),
            ..EpochRecord::genesis(&chain, Vec::new())
        };
        record.sign(&chain, &KeyPair::from_seed(&[9; 32]))
    };
    let epoch = |number| StoredEpoch {
        in_force: Epoch(0),
        pending: Some(Epoch(number)),
    };
    let (old, new) = (
        Ballot {
            start: start(1, 1),
            attempt: 1,
        },
        Ballot {
            start: start(1, 1),
            attempt: 2,
        },
    );
    store.put_ledger(&ledger(new)).unwrap();
    let refused = store.put_recovery_record(&old, &record(1), &epoch(1));
    assert!(
        matches!(refused, Err(StoreError::OldBallot(_))),
        "{refused:?}"
    );
    assert!(store.records().unwrap().is_empty());
    assert!(store.recovery().unwrap().ledger.intent.is_some());
    store
        .put_recovery_record(&new, &record(1), &epoch(1))
        .unwrap();
    let memory = store.recovery().unwrap();
    assert_eq!(memory.ledger.intent, None, "closed in the same transaction");
    assert_eq!(store.epoch().unwrap().pending, Some(Epoch(1)));
    let again = store.put_recovery_record(&new, &record(1), &epoch(1));
    assert!(
        matches!(again, Err(StoreError::WrittenOnce("records"))),
        "{again:?}"
    );
}

#[test]
fn starts_that_were_taken_over_from_stand_beside_the_own_ones() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    let own = store.begin_start(StartId([1; 16]), 5).unwrap().start();
    // The foreign start has the counter of an own one.
    let added = [start(1, 2), start(2, 3)];
    let next = Ballot {
        start: added[1],
        attempt: 1,
    };
    store.put_starts(&added, &ledger(next), 6).unwrap();
    let memory = store.recovery().unwrap();
    assert_eq!(memory.starts, [own, added[0], added[1]]);
    assert_eq!(memory.ledger.newest(), Some(next));
    assert_eq!(store.begin_start(StartId([4; 16]), 7).unwrap().counter, 3);
}
