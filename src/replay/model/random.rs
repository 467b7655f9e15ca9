//! Seeded chance: a small generator of its own (xoshiro256++ by Blackman and Vigna, public domain), so that the same seed
//! gives the same messages whatever a library does. It is no source of secrets.

use std::f64::consts::TAU;

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub struct Random {
    state: [u64; 4],
}

impl Random {
    /// The stream that belongs to a seed, a name and a number: independent of every other one.
    pub fn of(seed: u64, name: &str, number: i64) -> Self {
        let mut mixed = seed;
        for byte in name.bytes() {
            mixed = split_mix(mixed ^ u64::from(byte));
        }
        mixed = split_mix(mixed ^ number.cast_unsigned());
        let mut state = [0; 4];
        for word in &mut state {
            mixed = split_mix(mixed);
            *word = mixed;
        }
        Self { state }
    }

    pub fn next_u64(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let drawn = a.wrapping_add(*d).rotate_left(23).wrapping_add(*a);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        drawn
    }

    /// Between 0 and 1, neither of them.
    pub fn unit(&mut self) -> f64 {
        ((self.next_u64() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    pub fn is_hit(&mut self, share: f64) -> bool {
        self.unit() < share
    }

    /// One of `n` things, by index; `n` is not 0.
    pub fn index(&mut self, n: usize) -> usize {
        ((self.unit() * n as f64) as usize).min(n - 1)
    }

    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + self.unit() * (high - low)
    }

    /// The standard normal distribution, by Box and Muller.
    pub fn normal(&mut self) -> f64 {
        (-2.0 * self.unit().ln()).sqrt() * (TAU * self.unit()).cos()
    }

    pub fn exponential(&mut self, mean: f64) -> f64 {
        -mean * self.unit().ln()
    }

    /// Half of the values lie below `median`; `sigma` is the spread of their logarithm.
    pub fn log_normal(&mut self, median: f64, sigma: f64) -> f64 {
        median * (sigma * self.normal()).exp()
    }

    /// The gamma distribution of scale 1, by Marsaglia and Tsang (2000), with their step for shapes below 1.
    pub fn gamma(&mut self, shape: f64) -> f64 {
        if shape < 1.0 {
            return self.gamma(shape + 1.0) * self.unit().powf(1.0 / shape);
        }
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            if v > 0.0 && self.unit().ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                return d * v;
            }
        }
    }

    /// The Weibull distribution of scale 1.
    pub fn weibull(&mut self, shape: f64) -> f64 {
        (-self.unit().ln()).powf(1.0 / shape)
    }

    pub fn bytes(&mut self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.next_u64().to_le_bytes());
        bytes[8..].copy_from_slice(&self.next_u64().to_le_bytes());
        bytes
    }
}

/// One step of SplitMix64 (Steele, Lea, Flood): every bit of the input reaches every bit of the output.
fn split_mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean_and_variance(mut draw: impl FnMut() -> f64) -> (f64, f64) {
        const N: usize = 200_000;
        let values: Vec<f64> = (0..N).map(|_| draw()).collect();
        let mean = values.iter().sum::<f64>() / N as f64;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / N as f64;
        (mean, variance)
    }

    fn assert_near(found: f64, expected: f64, tolerance: f64) {
        assert!(
            (found - expected).abs() <= tolerance * expected.abs().max(1e-9),
            "{found}, not {expected}"
        );
    }

    #[test]
    fn distributions_have_their_moments() {
        let mut random = Random::of(1, "moments", 0);
        for shape in [0.3, 1.0, 4.5] {
            let (mean, variance) = mean_and_variance(|| random.gamma(shape));
            assert_near(mean, shape, 0.03);
            assert_near(variance, shape, 0.06);
        }
        let (mean, variance) = mean_and_variance(|| random.weibull(2.0));
        assert_near(mean, 0.886_227, 0.02);
        assert_near(variance, 0.214_602, 0.03);
        let (mean, variance) = mean_and_variance(|| random.exponential(3.0));
        assert_near(mean, 3.0, 0.02);
        assert_near(variance, 9.0, 0.04);
    }

    #[test]
    fn streams_of_different_names_differ_and_of_the_same_agree() {
        let first = |seed, name, number| Random::of(seed, name, number).next_u64();
        assert_eq!(first(1, "a", 2), first(1, "a", 2));
        for other in [first(2, "a", 2), first(1, "b", 2), first(1, "a", 3)] {
            assert_ne!(first(1, "a", 2), other);
        }
    }
}
