//! Tests of Axolotl that need several processes.
