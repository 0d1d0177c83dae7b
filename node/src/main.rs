//! The `axolotl` program.

fn main() {}
