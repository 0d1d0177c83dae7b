//! Ports that nobody uses.

use std::net::TcpListener;

use anyhow::Context;

/// Ports kept free after each base, so that nodes numbered from 1 find theirs.
pub const SPAN: u16 = 24;
/// Candidates lie above the well-known services.
const LOWEST: u16 = 12_000;
/// Candidates lie below what Linux gives to outgoing connections by default, so that no connection
/// takes the port of a node that is down.
const HIGHEST: u16 = 32_000;

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
    /// Finds ports by binding them.
    ///
    /// # Errors
    /// When none are free.
    pub fn find() -> anyhow::Result<Self> {
        let mut candidate = start();
        let mut next = || -> anyhow::Result<u16> {
            for _ in 0..(HIGHEST - LOWEST) / SPAN {
                let base = candidate;
                candidate += SPAN;
                if candidate + SPAN > HIGHEST {
                    candidate = LOWEST;
                }
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

/// Where to begin: spread by process id, so that two test programs rarely look at the same ports.
fn start() -> u16 {
    let places = u32::from((HIGHEST - LOWEST) / SPAN - 1);
    let place = std::process::id().wrapping_mul(7) % places;
    LOWEST + u16::try_from(place).unwrap_or(0) * SPAN
}

fn is_free(base: u16) -> bool {
    (base..base + SPAN).all(|port| TcpListener::bind(("0.0.0.0", port)).is_ok())
}
