//! The `axolotl-registry` program.

fn main() {}
