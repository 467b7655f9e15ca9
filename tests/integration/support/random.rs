//! A seeded source of choices (SplitMix64), so that a failing run is repeated by its seed.

/// Takes the seed from the environment's `SEED`, else from the clock, and says which it was.
pub fn seed(test: &str) -> u64 {
    #[allow(
        clippy::disallowed_methods,
        reason = "a test's seed is no configuration of the product"
    )]
    let given = std::env::var("SEED").ok();
    let seed = match given {
        Some(text) => text.parse().expect("SEED is a number"),
        None => modelmeter::clock::now_us().unsigned_abs(),
    };
    println!("{test}: SEED={seed} repeats this run");
    seed
}

/// The environment's `ROUNDS`, else as many as the test wants.
pub fn rounds(wanted: usize) -> usize {
    number("ROUNDS", wanted)
}

/// A number of the environment, else the one that the test has.
pub fn number(name: &str, wanted: usize) -> usize {
    #[allow(
        clippy::disallowed_methods,
        reason = "a test's length is no configuration of the product"
    )]
    let given = std::env::var(name).ok();
    given.map_or(wanted, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a number"))
    })
}

#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// In `[low, high)`.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        assert!(low < high, "an empty range");
        low + (self.next() % (high - low).unsigned_abs()) as i64
    }

    /// In `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.between(0, items.len() as i64) as usize]
    }

    /// A normal deviate, by Box and Muller.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Microseconds as latencies fall: log-normal around `median`.
    pub fn log_normal(&mut self, median: f64, sigma: f64) -> i64 {
        (median * (sigma * self.normal()).exp()).round() as i64
    }

    pub fn maybe<T>(&mut self, probability: f64, value: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.chance(probability) {
            Some(value(self))
        } else {
            None
        }
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.between(0, last as i64 + 1) as usize);
        }
    }

    pub fn boot_id(&mut self) -> [u8; 16] {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.next().to_le_bytes());
        id[8..].copy_from_slice(&self.next().to_le_bytes());
        id
    }
}
