//! The `axolotl` tool as a program: run as people run it, against a chain in this process.
//!
//! | module | what |
//! |---|---|
//! | [`fake`] | node and registry that answer as the real ones, with faults to choose |
//! | [`tool`] | runs the program in a directory of its own |
//! | `wallet`, `chain`, `doctor`, `files` | the commands |
//! | `docs` | docs/cli.md against the program |

#![allow(
    clippy::unwrap_used,
    reason = "a test program; clippy knows test functions, but not what they call"
)]

mod chain;
mod docs;
mod doctor;
mod fake;
mod files;
mod tool;
mod wallet;
