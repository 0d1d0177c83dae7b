//! The `eth` methods, by what they read.

pub(super) mod accounts;
pub(super) mod blocks;
pub(super) mod calls;
pub(super) mod fees;
pub(super) mod logs;
pub(super) mod polling;
pub(super) mod send;
