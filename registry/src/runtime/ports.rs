//! Ports of local nodes: the first free one from the node's place on, kept in the node's
//! directory and tried first at the next start.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, TcpListener},
    path::Path,
};

use serde::{Deserialize, Serialize};

/// How far the search for a free port goes.
const MAX_TRIES: u16 = 1_000;

/// Ports of the node with number 1; node k tries `base + k - 1` first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortBases {
    /// libp2p.
    pub p2p: u16,
    /// Read-only HTTP.
    pub http: u16,
    /// JSON-RPC.
    pub rpc: u16,
}

/// Ports of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ports {
    pub(super) p2p: u16,
    pub(super) http: u16,
    pub(super) rpc: u16,
}

impl Ports {
    pub(super) fn all(self) -> [u16; 3] {
        [self.p2p, self.http, self.rpc]
    }

    /// The ports that were kept in `file`, if it can be read.
    pub(super) fn read(file: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(file).ok()?).ok()
    }

    /// Chooses ports for node `number`; none of `taken`.
    ///
    /// # Errors
    /// When no port is free.
    pub(super) fn choose(
        kept: Option<Self>,
        bases: PortBases,
        number: u64,
        host: IpAddr,
        taken: &BTreeSet<u16>,
    ) -> io::Result<Self> {
        let mut taken = taken.clone();
        let mut first_free = |kept: Option<u16>, base: u16| {
            let offset = u16::try_from(number.saturating_sub(1)).unwrap_or(u16::MAX);
            let from = base.saturating_add(offset);
            let candidates = from..=from.saturating_add(MAX_TRIES);
            let port = kept
                .into_iter()
                .chain(candidates)
                .find(|port| !taken.contains(port) && TcpListener::bind((host, *port)).is_ok());
            let port = port.ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::AddrInUse,
                    format!("no free port from {from} on"),
                )
            })?;
            taken.insert(port);
            Ok::<_, io::Error>(port)
        };
        Ok(Self {
            p2p: first_free(kept.map(|kept| kept.p2p), bases.p2p)?,
            http: first_free(kept.map(|kept| kept.http), bases.http)?,
            rpc: first_free(kept.map(|kept| kept.rpc), bases.rpc)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_ports_come_first_and_occupied_ones_are_passed_over() {
        let host: IpAddr = [127, 0, 0, 1].into();
        let occupied = TcpListener::bind((host, 0)).unwrap();
        let port = occupied.local_addr().unwrap().port();
        let base = port.saturating_sub(4);
        let bases = PortBases {
            p2p: base,
            http: base,
            rpc: base,
        };
        let chosen = Ports::choose(None, bases, 5, host, &BTreeSet::new()).unwrap();
        assert!(chosen.p2p > port, "{chosen:?} with {port} occupied");
        assert!(
            chosen.p2p < chosen.http && chosen.http < chosen.rpc,
            "{chosen:?}"
        );
        let again = Ports::choose(Some(chosen), bases, 1, host, &BTreeSet::new()).unwrap();
        assert_eq!(again, chosen);
        let taken = BTreeSet::from(chosen.all());
        let other = Ports::choose(Some(chosen), bases, 5, host, &taken).unwrap();
        assert!(
            other.all().iter().all(|port| !taken.contains(port)),
            "{other:?}"
        );
    }
}
