//! The drafter's lines, from its numbers.

use kilotok_kernels::abi::program as abi;

use super::super::super::lower::Rows;
use super::{Intent, Told};
use crate::spec::DrafterSpec;

impl Intent<'_> {
    /// Positions of a drafter layer's ring.
    fn ring(&self, i: usize, drafter: &DrafterSpec) -> Told<u32> {
        let keys = self.region(&format!("drafter.layers.{i}.keys"))?;
        let each = self.lowered.limits.slots * drafter.kv_heads * drafter.head_dim * 2;
        Ok((keys.bytes as usize / each) as u32)
    }

    pub(super) fn context(&self, drafter: &DrafterSpec) -> Told<Vec<abi::Op>> {
        let half = drafter.kv_heads * drafter.head_dim;
        let (taps, kv) = (self.rows("taps", abi::ROWS, 2)?, self.output(2 * half)?);
        let to = self.residual("drafter.hidden_norm", true)?;
        let cols = drafter.taps.len() * self.spec.hidden;
        let mut ops = vec![
            self.rope("drafter rope", &drafter.rope)?,
            self.add("drafter.fc", (taps, cols), to, false)?,
        ];
        for i in 0..drafter.layers {
            let name = |part: &str| format!("drafter.layers.{i}.{part}");
            let linear = self.project(&name("kv"), 2 * half, kv, false)?;
            let norm = self.norm(drafter.norm_eps)?;
            ops.push(abi::Op::new(abi::OP_LINEAR, 0, &abi::Linear { norm, ..linear }));
            let context = abi::DraftContext {
                kv: kv.address,
                keys: self.address(&name("keys"))?,
                values: self.address(&name("values"))?,
                k_norm: self.address(&name("k_norm"))?,
                rotations: self.address("drafter rope")?,
                kv_stride: kv.stride,
                kv_heads: drafter.kv_heads as u32,
                dim: drafter.head_dim as u32,
                positions: self.ring(i, drafter)?,
                pairs: (drafter.rope.dims / 2) as u32,
                value_scale: drafter.value_scale,
                eps: drafter.norm_eps,
                reserved: 0,
            };
            ops.push(abi::Op::new(abi::OP_DRAFT_CONTEXT, 0, &context));
        }
        Ok(ops)
    }

    pub(super) fn draft(&self, drafter: &DrafterSpec) -> Told<Vec<abi::Op>> {
        let input_norm = |i: usize| {
            if i < drafter.layers {
                format!("drafter.layers.{i}.input_norm")
            } else {
                "drafter.norm".to_owned()
            }
        };
        let (heads, kv_heads, dim) = (drafter.heads, drafter.kv_heads, drafter.head_dim);
        let mut ops = vec![
            self.embed(&input_norm(0), self.address("drafter.mask_embedding")?)?,
            self.rope("drafter rope", &drafter.rope)?,
        ];
        let width = (heads + 2 * kv_heads) * dim;
        for i in 0..drafter.layers {
            let name = |part: &str| format!("drafter.layers.{i}.{part}");
            let qkv = self.output(width)?;
            let linear = self.project(&name("qkv"), width, qkv, false)?;
            let norm = self.norm(drafter.norm_eps)?;
            ops.push(abi::Op::new(abi::OP_LINEAR, 0, &abi::Linear { norm, ..linear }));
            ops.extend(self.draft_attention(i, drafter, qkv)?);
            let x = (self.input("attention", heads * dim)?, heads * dim);
            let to = self.residual(&name("post_norm"), false)?;
            ops.push(self.add(&name("o_proj"), x, to, false)?);
            let to = self.residual(&input_norm(i + 1), false)?;
            ops.extend(self.dense(&name("mlp"), drafter.inter, drafter.norm_eps, to)?);
        }
        ops.push(abi::Op::new(abi::OP_LINEAR, 0, &self.head(drafter.norm_eps)?));
        ops.push(abi::Op::new(abi::OP_DRAFT_CHOOSE, 0, &self.choose("draft best")?));
        Ok(ops)
    }

    fn draft_attention(&self, i: usize, drafter: &DrafterSpec, qkv: Rows) -> Told<Vec<abi::Op>> {
        let name = |part: &str| format!("drafter.layers.{i}.{part}");
        let (heads, kv_heads, dim) = (drafter.heads, drafter.kv_heads, drafter.head_dim);
        let out = self.input("attention", heads * dim)?;
        let window = drafter.windows.get(i).copied().flatten();
        let (max_chunks, scratch) = self.partial_results((heads, kv_heads, dim), window)?;
        let attention = abi::DraftAttention {
            qkv: qkv.address,
            out: out.address,
            keys: self.address(&name("keys"))?,
            values: self.address(&name("values"))?,
            block: self.address("block")?,
            q_norm: self.address(&name("q_norm"))?,
            k_norm: self.address(&name("k_norm"))?,
            sinks: self.address_if(drafter.sinks, &name("sinks"))?,
            rotations: self.address("drafter rope")?,
            scratch,
            qkv_stride: qkv.stride,
            out_stride: out.stride,
            heads: heads as u32,
            kv_heads: kv_heads as u32,
            dim: dim as u32,
            positions: self.ring(i, drafter)?,
            window: window.unwrap_or(0) as u32,
            causal: u32::from(drafter.causal.get(i).copied().unwrap_or(false)),
            pairs: (drafter.rope.dims / 2) as u32,
            scale: 1.0 / (dim as f32).sqrt(),
            value_scale: drafter.value_scale,
            eps: drafter.norm_eps,
            max_chunks,
            reserved: 0,
        };
        Ok(vec![abi::Op::new(abi::OP_DRAFT_ATTENTION, 0, &attention)])
    }
}
