//! The node's program as its operator meets it: wrong settings, taken ports, data directories that
//! are not its own, registries that are away or of another mind, signals, full disks, too few file
//! descriptors, clients by the thousand.
//!
//! Each test runs the built program in a directory of its own, on ports of its own, mostly as the
//! only validator of a chain ([`chain::Solo`]), and judges exit code, log and HTTP answers.

mod accepted;
mod admission;
mod answers;
mod chain;
mod configuration;
mod directory;
mod disk;
mod framing;
mod harness;
mod load;
mod registry;
mod signals;
mod stand_in;
mod transactions;
