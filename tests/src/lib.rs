//! What the tests with several processes share.
//!
//! A test starts a [`Cluster`] of real processes from the built binaries, in a directory of its own
//! and on ports of its own, waits for conditions with deadlines ([`wait::until`]), and ends with
//! [`Cluster::finish`]. A cluster that is dropped before that prints the ends of its logs; either
//! way every process is killed. Clusters of processes take turns, also between test programs, and so do
//! those of containers: what they measure would be worth nothing otherwise.

pub mod binaries;
mod calls;
pub mod checks;
pub mod cluster;
pub mod dice;
pub mod docker;
pub mod document;
pub mod engine_proxy;
pub mod events;
pub mod files;
pub mod hands;
pub mod hostile;
pub mod liar;
pub mod load;
pub mod loss;
pub mod machines;
pub mod membership;
pub mod ports;
pub mod processes;
pub mod python;
pub mod setup;
pub mod wait;

pub use cluster::Cluster;
pub use dice::Dice;
pub use docker::DockerCluster;
pub use hands::Hands;
pub use load::{Acknowledged, Load};
pub use setup::{HandNode, Options};

/// How often a scenario is repeated: `full` with `AXOLOTL_SOAK=1` (scripts/soak.sh), else `short`.
pub fn rounds(short: usize, full: usize) -> usize {
    if soak() { full } else { short }
}

/// What a long run must keep to. A short one has one or two samples, on a machine that also builds: it is
/// to find what hangs, not what is slow.
pub fn limit(bound: std::time::Duration) -> std::time::Duration {
    if soak() { bound } else { 3 * bound }
}

/// Whether this is a long run.
pub fn soak() -> bool {
    std::env::var("AXOLOTL_SOAK").is_ok_and(|value| value == "1")
}
