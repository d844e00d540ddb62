//! Rounding whole matrices to MXFP4, with a choice of how a block gets its scale.

use rayon::prelude::*;

use super::mxfp4::{BLOCK, E2M1, e8m0, encode_block, encode_scale};

/// How the scale of a block is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleRule {
    /// `2^(floor(log2(amax)) - 2)`: the OCP rule, which training uses as well.
    Max,
    /// The scale with the smallest (weighted) sum of squared errors; the OCP scale among equals.
    Mse,
}

/// Sums over elements, in f64.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Distortion {
    /// Squared errors.
    pub squared_error: f64,
    /// Squares of the values themselves.
    pub squared_value: f64,
    /// Largest absolute error.
    pub largest_error: f64,
    /// Elements beyond the largest magnitude of their block, 6 scales.
    pub saturated: u64,
}

impl Distortion {
    fn plus(self, other: Self) -> Self {
        Self {
            squared_error: self.squared_error + other.squared_error,
            squared_value: self.squared_value + other.squared_value,
            largest_error: self.largest_error.max(other.largest_error),
            saturated: self.saturated + other.saturated,
        }
    }
}

/// A rounded matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded {
    /// `[rows, cols / 2]`, low nibble first.
    pub nibbles: Vec<u8>,
    /// `[rows, cols / 32]`, e8m0.
    pub scales: Vec<u8>,
    /// What rounding changed, unweighted.
    pub distortion: Distortion,
}

/// Rows that one worker encodes at a time; sums are taken in this order on any number of threads.
const ROWS: usize = 8;

/// Rounds a matrix `[rows, cols]`; `cols` is a multiple of 32.
///
/// `importance` weighs the squared errors of the columns for [`ScaleRule::Mse`], `[cols]`, not
/// negative: the mean square of what each column is multiplied by makes it the expected error of
/// the product. A block with a NaN gets scale 255.
///
/// # Panics
/// Where `values` or `importance` do not fit `cols`.
pub fn encode_matrix(
    values: &[f32],
    cols: usize,
    rule: ScaleRule,
    importance: Option<&[f32]>,
) -> Encoded {
    assert!(cols > 0 && cols % BLOCK == 0 && values.len() % cols == 0, "shape");
    assert!(importance.is_none_or(|weights| weights.len() == cols), "importance");
    let mut nibbles = vec![0; values.len() / 2];
    let mut scales = vec![0; values.len() / BLOCK];
    let parts: Vec<Distortion> = values
        .par_chunks(ROWS * cols)
        .zip(nibbles.par_chunks_mut(ROWS * cols / 2))
        .zip(scales.par_chunks_mut(ROWS * cols / BLOCK))
        .map(|((values, nibbles), scales)| {
            let mut sum = Distortion::default();
            let blocks = values.chunks_exact(BLOCK).zip(nibbles.chunks_exact_mut(BLOCK / 2));
            for (at, ((block, bytes), scale)) in blocks.zip(scales).enumerate() {
                let column = at * BLOCK % cols;
                let weights = importance.map(|weights| &weights[column..column + BLOCK]);
                *scale = match rule {
                    ScaleRule::Max => encode_scale(block),
                    ScaleRule::Mse => best_scale(block, weights),
                };
                let codes = encode_block(block, *scale);
                for (byte, pair) in bytes.iter_mut().zip(codes.chunks_exact(2)) {
                    *byte = pair[0] | (pair[1] << 4);
                }
                sum = sum.plus(distortion(block, &codes, *scale));
            }
            sum
        })
        .collect();
    let distortion = parts.into_iter().fold(Distortion::default(), Distortion::plus);
    Encoded { nibbles, scales, distortion }
}

fn distortion(block: &[f32], codes: &[u8; BLOCK], scale: u8) -> Distortion {
    let step = f64::from(e8m0(scale));
    let mut sum = Distortion::default();
    for (value, code) in block.iter().zip(codes) {
        let value = f64::from(*value);
        let error = (value - f64::from(E2M1[usize::from(*code)]) * step).abs();
        sum.squared_error += error * error;
        sum.squared_value += value * value;
        sum.largest_error = sum.largest_error.max(error);
        sum.saturated += u64::from(value.abs() > 6.0 * step);
    }
    sum
}

/// The scale of the smallest weighted squared error among all 255.
///
/// Above the OCP scale only the next one can win: from two above, the points within reach are
/// among those of one above. Below it the search ends where saturation alone costs more than the
/// best so far, since that cost only grows on the way down.
fn best_scale(block: &[f32], weights: Option<&[f32]>) -> u8 {
    let ocp = encode_scale(block);
    if ocp == 255 {
        return ocp;
    }
    let (mut best, mut least) = (ocp, cost(block, weights, ocp).unwrap_or(f64::INFINITY));
    let mut try_scale = |scale: u8, best: &mut u8| {
        if let Some(cost) = cost(block, weights, scale)
            && cost < least
        {
            (*best, least) = (scale, cost);
        }
        least
    };
    if ocp < 254 {
        try_scale(ocp + 1, &mut best);
    }
    for scale in (0..ocp).rev() {
        if saturation(block, weights, scale) >= try_scale(scale, &mut best) {
            break;
        }
    }
    best
}

fn weight(weights: Option<&[f32]>, at: usize) -> f64 {
    weights.map_or(1.0, |weights| f64::from(weights[at]))
}

/// Weighted squared error at a scale; `None` where a decoded value would not be an f32.
fn cost(block: &[f32], weights: Option<&[f32]>, scale: u8) -> Option<f64> {
    let step = f64::from(e8m0(scale));
    let mut sum = 0.0;
    for (at, (value, code)) in block.iter().zip(encode_block(block, scale)).enumerate() {
        let decoded = f64::from(E2M1[usize::from(code)]) * step;
        if decoded.abs() > f64::from(f32::MAX) {
            return None;
        }
        let error = f64::from(*value) - decoded;
        sum += weight(weights, at) * error * error;
    }
    Some(sum)
}

/// What the elements beyond 6 scales cost at a scale.
fn saturation(block: &[f32], weights: Option<&[f32]>, scale: u8) -> f64 {
    let largest = 6.0 * f64::from(e8m0(scale));
    let beyond = |value: f32| (f64::from(value).abs() - largest).max(0.0);
    block.iter().enumerate().map(|(at, v)| weight(weights, at) * beyond(*v) * beyond(*v)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::mxfp4;
    use proptest::prelude::*;

    fn block() -> impl Strategy<Value = Vec<f32>> {
        let plain = prop::collection::vec(-1.0f32..1.0, BLOCK);
        let bits = prop::collection::vec(any::<u32>().prop_map(f32::from_bits), BLOCK)
            .prop_filter("finite", |block| block.iter().all(|v| v.is_finite()));
        let ties = prop::collection::vec((-28i32..=28).prop_map(|v| v as f32 / 4.0), BLOCK);
        prop_oneof![
            (plain, -140i32..126).prop_map(|(b, e)| b.iter().map(|v| v * 2f32.powi(e)).collect()),
            bits,
            ties
        ]
    }

    proptest! {
        #[test]
        fn the_max_rule_is_the_codec(values in block()) {
            let encoded = encode_matrix(&values, BLOCK, ScaleRule::Max, None);
            let (nibbles, scales) = mxfp4::encode_row(&values);
            prop_assert_eq!(encoded.nibbles, nibbles);
            prop_assert_eq!(encoded.scales, scales);
        }

        #[test]
        fn no_scale_has_a_smaller_error(
            values in block(),
            weights in prop::option::of(prop::collection::vec(prop_oneof![Just(0.0), 0.0f32..4.0], BLOCK)),
        ) {
            let weights = weights.as_deref();
            let found = encode_matrix(&values, BLOCK, ScaleRule::Mse, weights).scales[0];
            let found = cost(&values, weights, found).unwrap();
            for scale in 0..=254 {
                if let Some(cost) = cost(&values, weights, scale) {
                    prop_assert!(found <= cost, "{} at {}", cost, scale);
                }
            }
        }
    }

    #[test]
    fn distortion_is_that_of_what_is_decoded() {
        let values: Vec<f32> = (0..96).map(|i| (i as f32 * 0.37).sin() * 3.0).collect();
        let encoded = encode_matrix(&values, 32, ScaleRule::Mse, None);
        let mut decoded = vec![0.0; values.len()];
        mxfp4::decode_row(&encoded.nibbles, &encoded.scales, &mut decoded);
        let errors = || values.iter().zip(&decoded).map(|(a, b)| f64::from(*a) - f64::from(*b));
        let squared: f64 = errors().map(|e| e * e).sum();
        assert!((encoded.distortion.squared_error - squared).abs() <= 1e-12 * squared);
        let largest = errors().fold(0.0, |a: f64, e| a.max(e.abs()));
        assert!((encoded.distortion.largest_error - largest).abs() <= 1e-12);
    }
}
