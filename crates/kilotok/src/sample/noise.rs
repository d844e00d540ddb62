//! Gumbel noise keyed by (seed, position, token): the same token is drawn whatever ran before,
//! so sampled output is identical with speculation on and off (law 2; dflash_spec 2.2, method A).

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// splitmix64's finaliser.
const fn mix(mut z: u64) -> u64 {
    z ^= z >> 30;
    z = z.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z ^= z >> 27;
    z = z.wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The noise of one position; [`Noise::gumbel`] gives each token its share.
#[derive(Clone, Copy, Debug)]
pub struct Noise(u64);

impl Noise {
    /// Noise for the token that will stand at absolute `position`.
    pub fn new(seed: u64, position: u64) -> Self {
        Self(mix(seed.wrapping_add(GOLDEN.wrapping_mul(position.wrapping_add(1)))))
    }

    /// Standard Gumbel noise of `token`: `-ln(-ln u)`, `u` uniform on 24-bit midpoints of (0, 1).
    pub fn gumbel(self, token: u32) -> f32 {
        let bits = mix(self.0.wrapping_add(GOLDEN.wrapping_mul(u64::from(token) + 1))) >> 40;
        let uniform = (bits as f64 + 0.5) * (-24f64).exp2();
        (-(-uniform.ln()).ln()) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::Noise;

    /// The published first outputs of splitmix64 with seed 0 are `mix(k * GOLDEN)`.
    #[test]
    fn mixes_like_splitmix64() {
        let first = [0xE220_A839_7B1D_CDAF, 0x6E78_9E6A_A1B9_65F4, 0x06C4_5D18_8009_454F];
        for (k, expected) in first.into_iter().enumerate() {
            assert_eq!(super::mix(super::GOLDEN.wrapping_mul(k as u64 + 1)), expected);
        }
    }

    /// Mean and variance of the standard Gumbel law: 0.5772 and pi^2 / 6.
    #[test]
    fn has_gumbel_moments() {
        let n = 200_000;
        let draws: Vec<f64> =
            (0..n).map(|i| f64::from(Noise::new(7, i / 100).gumbel((i % 100) as u32))).collect();
        let mean = draws.iter().sum::<f64>() / n as f64;
        let var = draws.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / n as f64;
        assert!((mean - 0.5772).abs() < 0.01, "{mean}");
        assert!((var - 1.6449).abs() < 0.03, "{var}");
        assert!(draws.iter().all(|d| d.is_finite()));
    }
}
