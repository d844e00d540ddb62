//! Router and experts.

use kilotok_kernels::abi::program as abi;

use super::dense::join;
use super::{Vm, dot};
use crate::numeric::bf16;

impl Vm {
    pub(super) fn router(&mut self, router: &abi::Router) {
        let (experts, width) = (router.experts as usize, router.width as usize);
        for row in 0..self.rows() {
            let x = self.bf16_row(router.x, row, router.x_stride, width);
            let rms = self.inverse_rms(&router.norm, row);
            let logits: Vec<f32> = (0..experts)
                .map(|expert| {
                    let mut weights = vec![0.0; width];
                    if router.format == abi::F32 {
                        let at = router.weights + (expert * width * 4) as u64;
                        weights = self.floats(at, width);
                    } else {
                        let at = router.weights + (expert * width * 2) as u64;
                        bf16::decode_row(self.bytes(at, width * 2), &mut weights);
                    }
                    dot(&weights, &x) * rms
                })
                .collect();
            self.put(router.logits + (row * experts * 4) as u64, &logits);
        }
    }

    /// Experts and weights of a row, best first.
    fn select(&self, up: &abi::MoeUp, row: usize) -> Vec<(u32, f32)> {
        let experts = up.experts as usize;
        let logits = self.floats(up.logits + (row * experts * 4) as u64, experts);
        let bias = self.floats(up.router_bias, experts);
        let is_softmax = up.router == abi::ROUTER_SOFTMAX;
        let score = |logit: f32| if is_softmax { logit } else { 1.0 / (1.0 + (-logit).exp()) };
        let scores: Vec<f32> = logits.into_iter().map(score).collect();
        let mut order: Vec<usize> = (0..experts).collect();
        order.sort_by(|a, b| (scores[*b] + bias[*b]).total_cmp(&(scores[*a] + bias[*a])));
        order.truncate(up.top_k as usize);
        let mut gates: Vec<f32> = order.iter().map(|expert| scores[*expert]).collect();
        if is_softmax {
            let biased = |i: usize| gates[i] + bias[order[i]];
            let all: Vec<f32> = (0..gates.len()).map(|i| (biased(i) - biased(0)).exp()).collect();
            let sum: f32 = all.iter().sum();
            gates = all.into_iter().map(|gate| gate / sum).collect();
        } else {
            let sum: f32 = gates.iter().sum();
            let divisor =
                if up.router == abi::ROUTER_SIGMOID_NORMALIZED { sum + 1e-20 } else { 1.0 };
            for gate in &mut gates {
                *gate = *gate / divisor * up.router_scale;
            }
        }
        order.into_iter().map(|expert| expert as u32).zip(gates).collect()
    }

    pub(super) fn moe_up(&mut self, up: &abi::MoeUp) {
        let mut routes = abi::Routes::default();
        let (rows, top_k) = (self.rows(), up.top_k as usize);
        for row in 0..rows {
            let rms = self.inverse_rms(&up.norm, row);
            for (rank, (expert, gate)) in self.select(up, row).into_iter().enumerate() {
                let pair = row * top_k + rank;
                (routes.expert[pair], routes.gate[pair]) = (expert, gate);
                let mut y = self.multiply(&up.weights, expert as usize, up.x, row, up.x_stride);
                for y in &mut y {
                    *y *= rms;
                }
                self.add_bias(up.bias, expert, &mut y);
                let mut hidden = join(&up.activation, &y, up.out_width as usize);
                for hidden in &mut hidden {
                    *hidden *= gate;
                }
                self.put_bf16(up.hidden, pair, up.hidden_stride, &hidden);
            }
        }
        self.put(up.routes, &[routes]);
    }

    fn add_bias(&self, bias: u64, expert: u32, y: &mut [f32]) {
        if bias != 0 {
            let at = bias + u64::from(expert) * y.len() as u64 * 4;
            let bias = self.floats(at, y.len());
            y.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
        }
    }

    pub(super) fn moe_down(&mut self, down: &abi::MoeDown) {
        let routes: abi::Routes = self.values(down.routes, 1)[0];
        let top_k = down.top_k as usize;
        for row in 0..self.rows() {
            let mut sum = vec![0.0; down.weights.tiles as usize * 32];
            for pair in row * top_k..(row + 1) * top_k {
                let (expert, gate) = (routes.expert[pair], routes.gate[pair]);
                let stride = down.hidden_stride;
                let y = self.multiply(&down.weights, expert as usize, down.hidden, pair, stride);
                let mut bias = vec![0.0; y.len()];
                self.add_bias(down.bias, expert, &mut bias);
                let terms = y.iter().zip(&bias).map(|(y, bias)| y + gate * bias);
                sum.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
            }
            self.add_to_residual(&down.to, row, &sum);
        }
    }
}
