//! Ports that nobody uses.

use std::{net::TcpListener, ops::Range};

use anyhow::Context;

/// Ports kept free after each base, so that nodes numbered from 1 find theirs.
pub const SPAN: u16 = 24;
/// Where clusters of processes look. Above the well-known services, and below what Linux gives to outgoing
/// connections by default, so that no connection takes the port of a node that is down.
pub const OF_PROCESSES: Range<u16> = 12_000..22_000;
/// Where clusters of containers look, which run beside those of processes.
pub const OF_CONTAINERS: Range<u16> = 22_000..32_000;

/// The ports of one cluster.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// The registry's.
    pub registry: u16,
    /// Node 1's libp2p port; node k has the k-1st after it, here and below.
    pub p2p: u16,
    /// Node 1's HTTP port.
    pub http: u16,
    /// Node 1's JSON-RPC port.
    pub rpc: u16,
}

impl Ports {
    /// Finds ports in a range by binding them.
    ///
    /// # Errors
    /// When none are free.
    pub fn find(range: Range<u16>) -> anyhow::Result<Self> {
        let places = (range.end - range.start) / SPAN;
        // Spread by process id, so that two test programs rarely look at the same ports.
        let mut place = std::process::id().wrapping_mul(7) % u32::from(places);
        let mut next = || -> anyhow::Result<u16> {
            for _ in 0..places {
                let base = range.start + u16::try_from(place)? * SPAN;
                place = (place + 1) % u32::from(places);
                if is_free(base) {
                    return Ok(base);
                }
            }
            None.context("no range of free ports was found")
        };
        Ok(Self {
            registry: next()?,
            p2p: next()?,
            http: next()?,
            rpc: next()?,
        })
    }
}

/// One free port, from the system.
///
/// # Errors
/// When it has none.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn is_free(base: u16) -> bool {
    (base..base + SPAN).all(|port| TcpListener::bind(("0.0.0.0", port)).is_ok())
}
