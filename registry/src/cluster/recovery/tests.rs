//! The machine in a small world of fake nodes: every number of survivors, crashes at every durable step,
//! and random histories by seed.

mod histories;
mod steps;
mod take_over;
mod world;
