//! Random moments and choices, from a seed that is printed.

use std::time::Duration;

/// A small generator (SplitMix64, Steele, Lea and Flood 2014). `AXOLOTL_SEED` chooses the seed.
///
/// A seed gives the same choices again, but processes have their own timing: it makes a failure
/// likely to come back, no more.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// A generator whose seed is printed.
    pub fn new(test: &str) -> Self {
        let given = std::env::var("AXOLOTL_SEED").ok();
        let seed = given
            .and_then(|seed| seed.parse().ok())
            .unwrap_or_else(|| u64::from_le_bytes(axolotl_common::crypto::random_bytes()));
        println!("{test}: AXOLOTL_SEED={seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// A time up to `longest`.
    pub fn moment(&mut self, longest: Duration) -> Duration {
        let micros = u64::try_from(longest.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.below(micros.max(1)))
    }

    /// Puts things in a random order.
    pub fn shuffle<T>(&mut self, things: &mut [T]) {
        for last in (1..things.len()).rev() {
            let other = self.below(last as u64 + 1);
            things.swap(last, usize::try_from(other).unwrap_or(0));
        }
    }
}
