//! Attention over caches, in one piece.

use kilotok_kernels::abi::program as abi;

use super::{Vm, dot};
use crate::numeric::bf16;

fn rounded(values: &[f32]) -> Vec<f32> {
    values.iter().map(|value| bf16::decode(bf16::encode(*value))).collect()
}

/// Rotates pairs `(i, i + pairs)` of a head.
fn rotate(head: &mut [f32], rotations: &[f32]) {
    let pairs = rotations.len() / 2;
    for i in 0..pairs {
        let (cos, sin) = (rotations[2 * i], rotations[2 * i + 1]);
        let (a, b) = (head[i], head[i + pairs]);
        (head[i], head[i + pairs]) = (a * cos - b * sin, b * cos + a * sin);
    }
}

fn normed(head: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let mean = head.iter().map(|v| v * v).sum::<f32>() / head.len() as f32;
    head.iter().zip(weight).map(|(v, w)| v / (mean + eps).sqrt() * w).collect()
}

/// Softmax over keys, with a sink's logit among them.
fn attend(query: &[f32], keys: &[(Vec<f32>, Vec<f32>)], scale: f32, sink: Option<f32>) -> Vec<f32> {
    let scores: Vec<f32> = keys.iter().map(|(key, _)| dot(query, key) * scale).collect();
    let top = scores.iter().copied().chain(sink).fold(f32::NEG_INFINITY, f32::max);
    let mut sum = sink.map_or(0.0, |sink| (sink - top).exp());
    let mut out = vec![0.0; keys[0].1.len()];
    for ((_, value), score) in keys.iter().zip(scores) {
        let p = (score - top).exp();
        sum += p;
        out.iter_mut().zip(value).for_each(|(out, value)| *out += p * value);
    }
    out.iter().map(|out| out / sum).collect()
}

/// A cache of keys or values: `[blocks][kv_heads][positions][dim]` bf16.
#[derive(Clone, Copy)]
struct Cache {
    base: u64,
    kv_heads: usize,
    positions: usize,
    dim: usize,
}

impl Vm {
    fn cache_at(&self, cache: Cache, block: usize, head: usize, position: usize) -> Vec<f32> {
        let row = (block * cache.kv_heads + head) * cache.positions + position;
        self.bf16_row(cache.base, row, cache.dim as u32, cache.dim)
    }

    fn cache_put(
        &mut self,
        cache: Cache,
        (block, head, position): (usize, usize, usize),
        v: &[f32],
    ) {
        let row = (block * cache.kv_heads + head) * cache.positions + position;
        self.put_bf16(cache.base, row, cache.dim as u32, v);
    }

    fn sink(&self, sinks: u64, head: usize) -> Option<f32> {
        (sinks != 0).then(|| self.floats(sinks + head as u64 * 4, 1)[0])
    }

    pub(super) fn attention(&mut self, a: &abi::Attention) {
        let (heads, kv_heads) = (a.heads as usize, a.kv_heads as usize);
        let (qk, v) = (a.qk_dim as usize, a.v_dim as usize);
        let positions = a.positions as usize;
        let keys = Cache { base: a.keys, kv_heads, positions, dim: qk };
        let values = Cache { base: a.values, dim: v, ..keys };
        let place = |vm: &Self, slot: u32, position: usize| {
            if a.page_table == 0 {
                return (slot as usize, position % positions);
            }
            let at = slot as usize * a.max_pages as usize + position / positions;
            let page: u32 = vm.values(a.page_table + at as u64 * 4, 1)[0];
            (page as usize, position % positions)
        };
        let width = heads * qk + kv_heads * (qk + v);
        let mut queries = Vec::new();
        for row in 0..self.rows() {
            let abi::Row { slot, position, .. } = self.command.pass.row[row];
            let mut qkv = self.floats(a.qkv + (row * a.qkv_stride as usize * 4) as u64, width);
            let pairs = a.pairs as usize;
            let rotations = self.floats(a.rotations + (row * pairs * 8) as u64, pairs * 2);
            let (rotated, scaled) = qkv.split_at_mut((heads + kv_heads) * qk);
            rotated.chunks_exact_mut(qk).for_each(|head| rotate(head, &rotations));
            for value in &mut *scaled {
                *value *= a.value_scale;
            }
            let (block, at) = place(self, slot, position as usize);
            for head in 0..kv_heads {
                let key = &rotated[(heads + head) * qk..][..qk];
                self.cache_put(keys, (block, head, at), key);
                self.cache_put(values, (block, head, at), &scaled[head * v..][..v]);
            }
            queries.push(rotated[..heads * qk].to_vec());
        }
        for (row, query) in queries.iter().enumerate() {
            let abi::Row { slot, position, .. } = self.command.pass.row[row];
            let end = position as usize + 1;
            let start = if a.window == 0 { 0 } else { end.saturating_sub(a.window as usize) };
            let mut out = Vec::new();
            for head in 0..heads {
                let kv = head / (heads / kv_heads);
                let seen: Vec<_> = (start..end)
                    .map(|position| {
                        let (block, at) = place(self, slot, position);
                        let key = self.cache_at(keys, block, kv, at);
                        (key, self.cache_at(values, block, kv, at))
                    })
                    .collect();
                let query = rounded(&query[head * qk..][..qk]);
                out.extend(attend(&query, &seen, a.scale, self.sink(a.sinks, head)));
            }
            self.put_bf16(a.out, row, a.out_stride, &out);
        }
    }

    pub(super) fn draft_context(&mut self, c: &abi::DraftContext) {
        let (kv_heads, dim) = (c.kv_heads as usize, c.dim as usize);
        let keys = Cache { base: c.keys, kv_heads, positions: c.positions as usize, dim };
        let values = Cache { base: c.values, ..keys };
        let norm = self.floats(c.k_norm, dim);
        for row in 0..self.rows() {
            let abi::Row { slot, position, .. } = self.command.pass.row[row];
            let kv =
                self.floats(c.kv + (row * c.kv_stride as usize * 4) as u64, 2 * kv_heads * dim);
            let pairs = c.pairs as usize;
            let rotations = self.floats(c.rotations + (row * pairs * 8) as u64, pairs * 2);
            for head in 0..kv_heads {
                let mut key = normed(&kv[head * dim..][..dim], &norm, c.eps);
                rotate(&mut key, &rotations);
                let value: Vec<f32> = kv[(kv_heads + head) * dim..][..dim]
                    .iter()
                    .map(|v| v * c.value_scale)
                    .collect();
                let at = (slot as usize, head, position as usize % keys.positions);
                self.cache_put(keys, at, &key);
                self.cache_put(values, at, &value);
            }
        }
    }

    pub(super) fn draft_attention(&mut self, a: &abi::DraftAttention) {
        let (heads, kv_heads, dim) = (a.heads as usize, a.kv_heads as usize, a.dim as usize);
        let keys = Cache { base: a.keys, kv_heads, positions: a.positions as usize, dim };
        let values = Cache { base: a.values, ..keys };
        let [q_norm, k_norm] = [a.q_norm, a.k_norm].map(|norm| self.floats(norm, dim));
        let rows = self.rows();
        let anchor = self.command.pass.row[0];
        let mut queries = Vec::new();
        // The block's own, by head and row.
        let mut own: Vec<Vec<(Vec<f32>, Vec<f32>)>> = vec![Vec::new(); kv_heads];
        for row in 0..rows {
            let width = (heads + 2 * kv_heads) * dim;
            let qkv = self.floats(a.qkv + (row * a.qkv_stride as usize * 4) as u64, width);
            let pairs = a.pairs as usize;
            let rotations = self.floats(a.rotations + (row * pairs * 8) as u64, pairs * 2);
            let head_of = |at: usize, norm: &[f32]| {
                let mut head = normed(&qkv[at * dim..][..dim], norm, a.eps);
                rotate(&mut head, &rotations);
                rounded(&head)
            };
            queries.push((0..heads).map(|head| head_of(head, &q_norm)).collect::<Vec<_>>());
            for (head, own) in own.iter_mut().enumerate() {
                let value: Vec<f32> = qkv[(heads + kv_heads + head) * dim..][..dim]
                    .iter()
                    .map(|v| v * a.value_scale)
                    .collect();
                own.push((head_of(heads + head, &k_norm), rounded(&value)));
            }
        }
        let start = anchor.position as usize;
        for (row, queries) in queries.iter().enumerate() {
            let window = if a.window == 0 { usize::MAX } else { a.window as usize };
            let position = start + row;
            let mut out = Vec::new();
            for (head, query) in queries.iter().enumerate() {
                let kv = head / (heads / kv_heads);
                let near = |other: &usize| position.abs_diff(*other) < window;
                let context = (0..start).filter(near).map(|other| {
                    let at = other % keys.positions;
                    let key = self.cache_at(keys, anchor.slot as usize, kv, at);
                    (key, self.cache_at(values, anchor.slot as usize, kv, at))
                });
                let block = (0..rows)
                    .filter(|other| near(&(start + other)) && (a.causal == 0 || *other <= row))
                    .map(|other| own[kv][other].clone());
                let seen: Vec<_> = context.chain(block).collect();
                out.extend(attend(query, &seen, a.scale, self.sink(a.sinks, head)));
            }
            self.put_bf16(a.out, row, a.out_stride, &out);
        }
    }
}
