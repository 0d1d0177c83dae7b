//! Open connections: a bounded table in which one that does nothing makes room for a new one.
//!
//! Three kinds are told apart. A connection on which a known key has made a valid call is *known*. One
//! on which a whole request is being answered or a stream is open is *busy*. All others wait for the
//! end of a request, or for its beginning, and are strangers': they may have part of the table only,
//! and one address a part of that. So a client that opens thousands of connections pushes out its own,
//! a newcomer is always let in, and those of nodes stay.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axolotl_common::PublicKey;
use rustix::process::{Resource, getrlimit};
use tokio_util::sync::CancellationToken;

use super::stall::Unread;

/// Most connections: 128 nodes with a control stream, heartbeats and an answer under way need 384.
const MAX_CONNECTIONS: usize = 1_024;
/// Fewest, however few files the process may open.
const MIN_CONNECTIONS: usize = 16;

/// One open connection.
#[derive(Debug)]
pub(super) struct Slot {
    address: IpAddr,
    /// Whole requests being answered, and streams.
    busy: AtomicU32,
    known: AtomicBool,
    /// Who signed the request that is being answered.
    signer: Mutex<Option<PublicKey>>,
    /// When it was opened or last ceased to be busy, milliseconds since the table was made.
    active_at_ms: AtomicU64,
    /// Since when a body is read that takes bytes of the budget, as above and one; 0 when none is.
    body_since_ms: AtomicU64,
    /// What the client leaves unread.
    pub(super) unread: Arc<Unread>,
    /// Cancelled when the connection must make room.
    pub(super) cut: CancellationToken,
}

impl Slot {
    /// Notes who signed the request that is being answered. The signature was verified.
    pub(super) fn set_signer(&self, key: PublicKey) {
        *self.signer.lock().unwrap_or_else(PoisonError::into_inner) = Some(key);
    }

    /// Who signed the request that was answered.
    pub(super) fn take_signer(&self) -> Option<PublicKey> {
        let mut signer = self.signer.lock().unwrap_or_else(PoisonError::into_inner);
        signer.take()
    }

    /// Notes that a known key has made a valid call here.
    pub(super) fn set_known(&self) {
        self.known.store(true, Ordering::Relaxed);
    }

    fn is_idle(&self) -> bool {
        self.busy.load(Ordering::Relaxed) == 0
    }

    fn is_stranger(&self) -> bool {
        self.is_idle() && !self.known.load(Ordering::Relaxed)
    }
}

/// How many connections there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConnectionLimits {
    /// In all.
    pub(super) all: usize,
    /// Of strangers.
    pub(super) strangers: usize,
    /// Of strangers at one address. Not refused beyond it: the oldest one of the address is cut.
    pub(super) per_address: usize,
}

impl ConnectionLimits {
    /// At most half the files that this process may open: store and logs need theirs. A quarter of the
    /// connections is kept for known keys; an address, which the nodes of one machine share, may have
    /// a quarter with strangers on it.
    pub(super) fn of_process() -> Self {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let all = usize::try_from(files / 2).unwrap_or(MAX_CONNECTIONS);
        Self::of(all.clamp(MIN_CONNECTIONS, MAX_CONNECTIONS))
    }

    fn of(all: usize) -> Self {
        Self {
            all,
            strangers: all - all / 4,
            per_address: all / 4,
        }
    }
}

/// The table.
#[derive(Debug)]
pub(super) struct Connections {
    started: Instant,
    limits: ConnectionLimits,
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
    number: u64,
    pub(super) handle: Handle,
}

/// A connection, for those who answer its requests.
#[derive(Clone, Debug)]
pub(super) struct Handle {
    table: Arc<Connections>,
    pub(super) slot: Arc<Slot>,
}

/// Marks a connection busy until it is dropped.
#[derive(Debug)]
pub(super) struct Busy(Handle);

/// Marks a connection as one whose body takes bytes of the budget, until it is dropped.
#[derive(Debug)]
pub(super) struct ReadingBody(Arc<Slot>);

impl Connections {
    /// An empty table.
    pub(super) fn new(limits: ConnectionLimits) -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            limits,
            open: Mutex::default(),
        })
    }

    /// A place for a new connection from `address`; `None` when all are busy.
    pub(super) fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let mut open = self.lock();
        let strangers = |of: &dyn Fn(&Slot) -> bool, open: &Open| {
            let slots = open.slots.values();
            slots.filter(|slot| slot.is_stranger() && of(slot)).count()
        };
        let here = |slot: &Slot| slot.address == address;
        if strangers(&here, &open) >= self.limits.per_address {
            Self::cut_oldest(&mut open, |slot| slot.is_stranger() && here(slot));
        }
        if strangers(&|_| true, &open) >= self.limits.strangers {
            Self::cut_oldest(&mut open, Slot::is_stranger);
        }
        if open.slots.len() >= self.limits.all
            && !Self::cut_oldest(&mut open, Slot::is_stranger)
            && !Self::cut_oldest(&mut open, Slot::is_idle)
        {
            return None;
        }
        let number = open.next;
        open.next += 1;
        let slot = Arc::new(Slot {
            address,
            busy: AtomicU32::new(0),
            known: AtomicBool::new(false),
            signer: Mutex::default(),
            active_at_ms: AtomicU64::new(self.now_ms()),
            body_since_ms: AtomicU64::new(0),
            unread: Arc::new(Unread::new()),
            cut: CancellationToken::new(),
        });
        open.slots.insert(number, Arc::clone(&slot));
        let table = Arc::clone(self);
        Some(Place {
            number,
            handle: Handle { table, slot },
        })
    }

    /// Cuts the stranger's connection that has been idle longest; tells whether there was one.
    pub(super) fn make_room(&self) -> bool {
        Self::cut_oldest(&mut self.lock(), Slot::is_stranger)
    }

    /// Number of open connections.
    pub(super) fn len(&self) -> usize {
        self.lock().slots.len()
    }

    /// Ends the connection whose client has left its answer unread longest, and for at least `min`;
    /// tells whether there was one.
    pub(super) fn end_stalled(&self, min: Duration) -> bool {
        let mut open = self.lock();
        let waiting = |slot: &Slot| slot.unread.waiting().filter(|waiting| *waiting >= min);
        Self::cut_longest(&mut open, waiting)
    }

    fn cut_oldest(open: &mut Open, which: impl Fn(&Slot) -> bool) -> bool {
        let age = |slot: &Slot| {
            let active = slot.active_at_ms.load(Ordering::Relaxed);
            which(slot).then_some(std::cmp::Reverse(active))
        };
        Self::cut_longest(open, age)
    }

    /// Cuts the connection for which `rank` is highest; the oldest of equals.
    fn cut_longest<R: Ord>(open: &mut Open, rank: impl Fn(&Slot) -> Option<R>) -> bool {
        let ranked = open.slots.iter().rev();
        let highest = ranked
            .filter_map(|(number, slot)| Some((rank(slot)?, *number)))
            .max_by(|one, other| one.0.cmp(&other.0));
        match highest.and_then(|(_, number)| open.slots.remove(&number)) {
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

impl Handle {
    /// Marks the connection busy.
    pub(super) fn busy(&self) -> Busy {
        self.slot.busy.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }

    /// Notes that the body being read takes bytes of the budget.
    pub(super) fn reading_body(&self) -> ReadingBody {
        let now = self.table.now_ms().saturating_add(1);
        self.slot.body_since_ms.store(now, Ordering::Relaxed);
        ReadingBody(Arc::clone(&self.slot))
    }

    /// Ends another connection: the one whose body has been arriving longest.
    pub(super) fn end_slowest_body(&self) -> bool {
        let since = |slot: &Slot| {
            let since = slot.body_since_ms.load(Ordering::Relaxed);
            let other = !std::ptr::eq(slot, &*self.slot);
            (since > 0 && other).then_some(std::cmp::Reverse(since))
        };
        Connections::cut_longest(&mut self.table.lock(), since)
    }

    /// Ends the connection whose answer has been unread longest; see [`Connections::end_stalled`].
    pub(super) fn end_stalled(&self, min: Duration) -> bool {
        self.table.end_stalled(min)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.handle.table.lock().slots.remove(&self.number);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let Handle { table, slot } = &self.0;
        slot.active_at_ms.store(table.now_ms(), Ordering::Relaxed);
        slot.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for ReadingBody {
    fn drop(&mut self) {
        self.0.body_since_ms.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

    fn table(all: usize) -> Arc<Connections> {
        Connections::new(ConnectionLimits::of(all))
    }

    fn is_cut(place: &Place) -> bool {
        place.handle.slot.cut.is_cancelled()
    }

    #[test]
    fn strangers_push_out_their_own_and_known_ones_stay() {
        let table = table(16);
        let known: Vec<Place> = (0..3).filter_map(|_| table.admit(HERE)).collect();
        known.iter().for_each(|place| place.handle.slot.set_known());
        let busy = table.admit(HERE).unwrap();
        let stream = busy.handle.busy();
        let mut crowd: Vec<Place> = (0..100).filter_map(|_| table.admit(HERE)).collect();
        assert_eq!(crowd.len(), 100, "each newcomer is let in");
        let left = crowd.iter().filter(|place| !is_cut(place)).count();
        assert_eq!(left, 4, "one address has a quarter");
        assert!(!is_cut(&crowd[99]), "the newest stays");
        assert!(known.iter().chain([&busy]).all(|place| !is_cut(place)));

        // From many addresses they have three quarters.
        for i in 0..100 {
            crowd.extend(table.admit([10, 0, 0, i].into()));
        }
        let left = crowd.iter().filter(|place| !is_cut(place)).count();
        assert_eq!(left, 12);
        assert!(known.iter().chain([&busy]).all(|place| !is_cut(place)));
        assert_eq!(table.len(), 16);
        drop(stream);
        assert!(table.admit(THERE).is_some());
    }

    #[test]
    fn known_ones_make_room_at_last_and_busy_ones_never() {
        let table = table(4);
        let places: Vec<Place> = (0..4).filter_map(|_| table.admit(HERE)).collect();
        assert_eq!(places.iter().filter(|place| is_cut(place)).count(), 3);
        drop(places);
        let mut places = Vec::new();
        for _ in 0..4 {
            let place = table.admit(HERE).unwrap();
            place.handle.slot.set_known();
            places.push(place);
        }
        let busy: Vec<Busy> = places[1..]
            .iter()
            .map(|place| place.handle.busy())
            .collect();
        let newcomer = table.admit(THERE).unwrap();
        assert!(is_cut(&places[0]));
        let _busy_too = newcomer.handle.busy();
        assert!(table.admit(THERE).is_none(), "all are busy");
        drop(busy);
        assert!(table.admit(THERE).is_some());
    }

    #[test]
    fn the_body_that_arrives_longest_makes_room() {
        let table = table(16);
        let places: Vec<Place> = (0..3).filter_map(|_| table.admit(THERE)).collect();
        let bodies: Vec<ReadingBody> = places.iter().map(|p| p.handle.reading_body()).collect();
        let own = &places[0].handle;
        assert!(own.end_slowest_body());
        assert!(is_cut(&places[1]) && !is_cut(&places[0]) && !is_cut(&places[2]));
        drop(bodies);
        assert!(!own.end_slowest_body());
    }
}
