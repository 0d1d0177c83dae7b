//! Sans-IO Tendermint driver of Axolotl.
