//! Open connections: a bounded table in which an idle one makes room for a new one.
//!
//! A client that opens thousands of connections and says nothing thereby pushes out its own idle
//! ones, never a call that is being answered, and a newcomer is always let in. A client that leaves its
//! answers unread loses its connections when their bytes are needed.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::stall::Unread;

/// One open connection.
#[derive(Debug)]
pub(super) struct Slot {
    busy: AtomicBool,
    /// When it last began or ended a call, milliseconds since the table was made.
    active_at_ms: AtomicU64,
    /// What the client leaves unread.
    pub(super) unread: Arc<Unread>,
    /// Cancelled when the connection must make room.
    pub(super) cut: CancellationToken,
}

/// The table.
#[derive(Debug)]
pub(super) struct Connections {
    started: Instant,
    max: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    slots: BTreeMap<u64, Arc<Slot>>,
}

/// A connection's place in the table, given back on drop.
#[derive(Debug)]
pub(super) struct Place {
    table: Arc<Connections>,
    number: u64,
    pub(super) slot: Arc<Slot>,
}

/// Marks a connection busy while a call is being answered.
#[derive(Debug)]
pub(super) struct Busy<'a> {
    table: &'a Connections,
    slot: &'a Slot,
}

impl Connections {
    /// An empty table for at most `max` connections.
    pub(super) fn new(max: usize) -> Self {
        Self {
            started: Instant::now(),
            max,
            open: Mutex::default(),
        }
    }

    /// A place for a new connection. When the table is full the connection that has been idle
    /// longest is cut; `None` when all are busy.
    pub(super) fn admit(self: &Arc<Self>) -> Option<Place> {
        let mut open = self.lock();
        if open.slots.len() >= self.max && !Self::cut_idle(&mut open) {
            return None;
        }
        let number = open.next;
        open.next += 1;
        let slot = Arc::new(Slot {
            busy: AtomicBool::new(false),
            active_at_ms: AtomicU64::new(self.now_ms()),
            unread: Arc::new(Unread::new()),
            cut: CancellationToken::new(),
        });
        open.slots.insert(number, Arc::clone(&slot));
        Some(Place {
            table: Arc::clone(self),
            number,
            slot,
        })
    }

    /// Cuts the connection that has been idle longest; tells whether there was one.
    pub(super) fn make_room(&self) -> bool {
        Self::cut_idle(&mut self.lock())
    }

    /// Ends the connection whose client has left its answer unread longest, and for at least `min`;
    /// tells whether there was one.
    pub(super) fn end_stalled(&self, min: Duration) -> bool {
        let mut open = self.lock();
        let longest = open
            .slots
            .iter()
            .filter_map(|(number, slot)| Some((slot.unread.waiting()?, *number)))
            .max()
            .filter(|(waiting, _)| *waiting >= min);
        match longest.and_then(|(_, number)| open.slots.remove(&number)) {
            Some(slot) => {
                slot.cut.cancel();
                true
            }
            None => false,
        }
    }

    /// Number of open connections.
    pub(super) fn len(&self) -> usize {
        self.lock().slots.len()
    }

    /// Marks `slot` busy until the answer is dropped.
    pub(super) fn begin<'a>(&'a self, slot: &'a Slot) -> Busy<'a> {
        slot.busy.store(true, Ordering::Relaxed);
        Busy { table: self, slot }
    }

    fn cut_idle(open: &mut Open) -> bool {
        let oldest = open
            .slots
            .iter()
            .filter(|(_, slot)| !slot.busy.load(Ordering::Relaxed))
            .min_by_key(|(_, slot)| slot.active_at_ms.load(Ordering::Relaxed))
            .map(|(number, _)| *number);
        match oldest.and_then(|number| open.slots.remove(&number)) {
            Some(slot) => {
                slot.cut.cancel();
                true
            }
            None => false,
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.table.lock().slots.remove(&self.number);
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.slot
            .active_at_ms
            .store(self.table.now_ms(), Ordering::Relaxed);
        self.slot.busy.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_connections_make_room_and_busy_ones_stay() {
        let table = Arc::new(Connections::new(2));
        let first = table.admit().unwrap();
        let second = table.admit().unwrap();
        let busy = table.begin(&first.slot);
        let third = table.admit().expect("the idle one makes room");
        assert!(second.slot.cut.is_cancelled());
        assert!(!first.slot.cut.is_cancelled());
        let busy_too = table.begin(&third.slot);
        assert!(table.admit().is_none(), "all are busy");
        drop(busy_too);
        assert!(table.admit().is_some());
        drop(busy);
        drop(first);
        drop(second);
        drop(third);
        assert_eq!(table.len(), 0);
    }
}
