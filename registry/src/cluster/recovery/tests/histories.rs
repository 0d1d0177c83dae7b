//! Random histories: losses, returns and crashes of the registry. The world asserts what must never
//! happen; in the end all is lifted, and the chain must live.

use axolotl_common::Epoch;

use super::world::World;

/// A small generator: the same seed makes the same history.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

fn history(seed: u64) -> (Epoch, usize) {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let n = 2 + u8::try_from(dice.below(5)).unwrap();
    let mut world = World::new(n);
    for seed in n + 1..=2 * n {
        world.turn(seed, true);
    }
    for _ in 0..24 {
        world.tick();
    }
    for _ in 0..120 {
        let node = 1 + u8::try_from(dice.below(2 * u64::from(n))).unwrap();
        match dice.below(12) {
            0 | 1 => world.turn(node, false),
            2 => world.turn(node, true),
            3 if dice.below(4) == 0 => {
                let id = 100 + u8::try_from(dice.below(100)).unwrap();
                world.restart(id);
            }
            _ => {}
        }
        world.tick();
    }
    for node in 1..=2 * n {
        world.turn(node, true);
    }
    let whole = |world: &World| {
        world.memory.ledger.intent.is_none()
            && world.signed.is_none()
            && world.unsealed() >= world.set().quorum()
    };
    assert!(
        world.until(400, whole),
        "seed {seed}: {:?} {:?}",
        world.memory.ledger,
        world.registry.shown()
    );
    (world.in_force, world.records.len())
}

#[test]
fn random_histories_converge() {
    let mut recovered = 0;
    for seed in 1..=300 {
        let outcome = std::panic::catch_unwind(|| history(seed));
        let (_, records) = outcome.unwrap_or_else(|_| panic!("the history of seed {seed} failed"));
        recovered += records;
    }
    assert!(
        recovered > 50,
        "too few recoveries to mean anything: {recovered}"
    );
}
