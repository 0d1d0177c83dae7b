//! Deterministic ledger of Axolotl.
