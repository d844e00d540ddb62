//! Embedding, rotations, matrices.

use kilotok_kernels::abi::program as abi;

use super::{Vm, dot};
use crate::numeric::bf16;

pub(super) fn activate(activation: &abi::Activation, gate: f32, up: f32) -> f32 {
    let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
    if activation.kind == abi::SILU {
        return gate * sigmoid(gate) * up;
    }
    let gate = gate.min(activation.limit);
    let up = up.clamp(-activation.limit, activation.limit);
    gate * sigmoid(activation.alpha * gate) * (up + 1.0)
}

impl Vm {
    /// The factor that a row's norm puts on outputs.
    pub(super) fn inverse_rms(&self, norm: &abi::Norm, row: usize) -> f32 {
        if norm.squares == 0 {
            return 1.0;
        }
        let squares = self.floats(norm.squares, norm.parts as usize * abi::ROWS);
        let sum: f32 = squares.iter().skip(row).step_by(abi::ROWS).sum();
        1.0 / (sum / norm.width + norm.eps).sqrt()
    }

    /// residual (+)= `values`, and what comes with it.
    pub(super) fn add_to_residual(&mut self, to: &abi::Residual, row: usize, values: &[f32]) {
        let at = to.residual + (row * to.stride as usize * 4) as u64;
        let mut residual = values.to_vec();
        if to.fresh == 0 {
            let old = self.floats(at, values.len());
            residual.iter_mut().zip(old).for_each(|(new, old)| *new += old);
        }
        self.put(at, &residual);
        let weight = self.floats(to.norm_weight, values.len());
        let x: Vec<f32> = residual.iter().zip(weight).map(|(r, w)| r * w).collect();
        self.put_bf16(to.x, row, to.x_stride, &x);
        if to.tap != 0 {
            self.put_bf16(to.tap, row, to.tap_stride, &residual);
        }
        for (tile, values) in residual.chunks(32).enumerate() {
            let sum: f32 = values.iter().map(|value| value * value).sum();
            self.put(to.squares + ((tile * abi::ROWS + row) * 4) as u64, &[sum]);
        }
    }

    pub(super) fn embed(&mut self, embed: &abi::Embed) {
        let width = embed.width as usize;
        for row in 0..self.rows() {
            let token = self.command.pass.row[row].token;
            let mut values = vec![0.0; embed.tiles as usize * 32];
            if token == abi::MASK_TOKEN {
                values[..width].copy_from_slice(&self.floats(embed.mask, width));
            } else {
                let at = embed.embedding + u64::from(token) * width as u64 * 2;
                bf16::decode_row(self.bytes(at, width * 2), &mut values[..width]);
            }
            self.add_to_residual(&embed.to, row, &values);
        }
    }

    pub(super) fn rope(&mut self, rope: &abi::Rope) {
        let pairs = rope.pairs as usize;
        let frequencies: Vec<f64> =
            self.values::<u64>(rope.frequencies, pairs).into_iter().map(f64::from_bits).collect();
        for row in 0..self.rows() {
            let position = f64::from(self.command.pass.row[row].position);
            let magnitude = f64::from(rope.magnitude);
            let rotations: Vec<f32> = frequencies
                .iter()
                .flat_map(|frequency| {
                    let (sin, cos) = (position * frequency).sin_cos();
                    [(cos * magnitude) as f32, (sin * magnitude) as f32]
                })
                .collect();
            self.put(rope.rotations + (row * pairs * 8) as u64, &rotations);
        }
    }

    /// All outputs of a matrix for one input.
    pub(super) fn multiply(
        &self,
        m: &abi::Matrix,
        expert: usize,
        x: u64,
        row: usize,
        stride: u32,
    ) -> Vec<f32> {
        let matrix = self.matrix(m, expert);
        let x = self.bf16_row(x, row, stride, matrix[0].len());
        matrix.iter().map(|weights| dot(weights, &x)).collect()
    }

    pub(super) fn linear(&mut self, linear: &abi::Linear) {
        let tiles = linear.weights.tiles as usize;
        for row in 0..self.rows() {
            let mut y = self.multiply(&linear.weights, 0, linear.x, row, linear.x_stride);
            let rms = self.inverse_rms(&linear.norm, row);
            for y in &mut y {
                *y *= rms;
            }
            if linear.bias != 0 {
                let bias = self.floats(linear.bias, tiles * 32);
                y.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
            }
            let width = linear.out_width as usize;
            match linear.store {
                abi::STORE_RESIDUAL => self.add_to_residual(&linear.to, row, &y),
                abi::STORE_F32 => {
                    let at = linear.out + (row * linear.out_stride as usize * 4) as u64;
                    self.put(at, &y[..width]);
                }
                _ => {
                    let hidden = join(&linear.activation, &y, width);
                    self.put_bf16(linear.out, row, linear.out_stride, &hidden);
                }
            }
        }
    }
}

/// Tiles of 16 gates above 16 ups to `width` activations.
pub(super) fn join(activation: &abi::Activation, y: &[f32], width: usize) -> Vec<f32> {
    (0..width)
        .map(|i| {
            let at = i / 16 * 32 + i % 16;
            activate(activation, y[at], y[at + 16])
        })
        .collect()
}
