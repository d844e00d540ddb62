//! Rotary embeddings: which dimensions turn, how fast, and how long the rotated pairs come out.

/// Rotary embedding on the first `dims` of each head, NeoX pairs `(i, i + dims / 2)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeSpec {
    /// Rotated dimensions, even; the rest passes through.
    pub dims: usize,
    /// Base of the frequencies.
    pub theta: f64,
    /// Frequencies stretched for positions beyond the trained ones.
    pub yarn: Option<YarnSpec>,
}

/// YaRN (arXiv 2309.00071): fast pairs keep their frequency, slow ones are divided by `factor`,
/// and a ramp joins them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct YarnSpec {
    /// Factor on the number of positions.
    pub factor: f64,
    /// Positions the model was first trained on.
    pub original_positions: usize,
    /// Pairs that turn more often than this within the original positions keep their frequency.
    pub beta_fast: f64,
    /// Pairs that turn less often than this are interpolated fully.
    pub beta_slow: f64,
    /// Whether the ends of the ramp are rounded outwards to whole pairs.
    pub truncate: bool,
    /// Factor on cosines and sines, of queries and of keys.
    pub attention_factor: f64,
}

impl RopeSpec {
    /// Plain rotary embedding.
    pub fn plain(dims: usize, theta: f64) -> Self {
        Self { dims, theta, yarn: None }
    }

    /// Angle per position of every pair, `[dims / 2]`.
    pub fn frequencies(&self) -> Vec<f64> {
        let plain = |i: usize| self.theta.powf(-2.0 * i as f64 / self.dims as f64);
        let pairs = self.dims / 2;
        let Some(yarn) = &self.yarn else { return (0..pairs).map(plain).collect() };
        let (low, high) = yarn.ramp(self.dims, self.theta);
        (0..pairs)
            .map(|i| {
                let stretched = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                plain(i) * (1.0 - stretched) + plain(i) / yarn.factor * stretched
            })
            .collect()
    }

    /// Factor on cosines and sines.
    pub fn magnitude(&self) -> f64 {
        self.yarn.map_or(1.0, |yarn| yarn.attention_factor)
    }
}

impl YarnSpec {
    /// The attention factor of the paper, `0.1 ln(factor) + 1`.
    pub fn default_attention_factor(factor: f64) -> f64 {
        if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 }
    }

    /// Pairs at which the ramp starts and ends; the end is beyond the start.
    fn ramp(&self, dims: usize, theta: f64) -> (f64, f64) {
        let pair = |turns: f64| {
            let positions = self.original_positions as f64;
            dims as f64 * (positions / (turns * std::f64::consts::TAU)).ln() / (2.0 * theta.ln())
        };
        let (mut low, mut high) = (pair(self.beta_fast), pair(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, high) = (low.max(0.0), high.min(dims as f64 - 1.0));
        // Implementations agree on this width where both ends fall together.
        (low, if high <= low { low + 0.001 } else { high })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// gpt-oss: 64 dimensions at 150,000, 4096 positions times 32.
    const YARN: YarnSpec = YarnSpec {
        factor: 32.0,
        original_positions: 4096,
        beta_fast: 32.0,
        beta_slow: 1.0,
        truncate: false,
        attention_factor: 1.346_573_590_279_972_7,
    };

    #[test]
    fn fast_pairs_keep_their_frequency_and_slow_ones_are_divided() {
        let plain = RopeSpec::plain(64, 150_000.0);
        let stretched = RopeSpec { yarn: Some(YARN), ..plain };
        let (from, to) = (plain.frequencies(), stretched.frequencies());
        // A pair turns `4096 f / 2 pi` times: more than 32 times below pair 8.09, less than once
        // from pair 17.40 on.
        for i in 0..32 {
            let turns = 4096.0 * from[i] / std::f64::consts::TAU;
            if turns > 32.0 {
                assert_eq!(from[i], to[i], "pair {i}");
            } else if turns < 1.0 {
                assert!((from[i] / 32.0 / to[i] - 1.0).abs() < 1e-12, "pair {i}");
            } else {
                assert!(to[i] < from[i] && to[i] > from[i] / 32.0, "pair {i}");
            }
        }
        assert_eq!(YarnSpec::default_attention_factor(32.0), stretched.magnitude());
        assert_eq!((plain.magnitude(), YarnSpec::default_attention_factor(0.5)), (1.0, 1.0));
    }

    #[test]
    fn rounding_the_ramp_widens_it() {
        let (low, high) = YARN.ramp(64, 150_000.0);
        assert!((low - 8.09).abs() < 0.01 && (high - 17.40).abs() < 0.01, "{low} {high}");
        let rounded = YarnSpec { truncate: true, ..YARN };
        assert_eq!(rounded.ramp(64, 150_000.0), (8.0, 18.0));
    }
}
