//! The target's line, from the model's numbers.

use kilotok_kernels::abi::program as abi;

use super::{Intent, Told, activation};
use crate::spec::{AttentionSpec, MlpSpec, MoeSpec, RopeSpec, RouterKind};

impl Intent<'_> {
    /// The target's rotations, each once, in the order of their first layers.
    fn ropes(&self) -> Vec<RopeSpec> {
        let mut ropes = Vec::new();
        for layer in &self.spec.layers {
            if !ropes.contains(&layer.attention.rope) {
                ropes.push(layer.attention.rope);
            }
        }
        ropes
    }

    fn moe(&self, name: &str, moe: &MoeSpec, to: abi::Residual) -> Told<[abi::Op; 3]> {
        let (x, norm) = (self.x()?, self.norm(self.spec.norm_eps)?);
        let (experts, width) = (moe.experts as u32, self.spec.hidden);
        let logits = self.address(&format!("router logits {experts}"))?;
        let weights = self.region(&format!("{name}.router"))?;
        let size = weights.bytes / (moe.experts * width) as u64;
        let router = abi::Router {
            weights: weights.address,
            x: x.address,
            logits,
            norm,
            x_stride: x.stride,
            experts,
            width: width as u32,
            format: if size == 4 { abi::F32 } else { abi::BF16 },
        };
        let hidden = self.rows(&format!("pairs {}", moe.inter), abi::PAIRS, 2)?;
        let routes = self.address("routes")?;
        let [gate_up, down] = ["gate_up", "down"].map(|part| format!("{name}.experts.{part}"));
        let (kind, router_scale) = match moe.router {
            RouterKind::Sigmoid { normalize: false, scale } => (abi::ROUTER_SIGMOID, scale),
            RouterKind::Sigmoid { normalize: true, scale } => {
                (abi::ROUTER_SIGMOID_NORMALIZED, scale)
            }
            RouterKind::Softmax => (abi::ROUTER_SOFTMAX, 1.0),
        };
        let up = abi::MoeUp {
            weights: self.matrix(&gate_up, moe.inter.div_ceil(16), width, moe.experts)?,
            norm,
            activation: activation(moe.activation),
            x: x.address,
            hidden: hidden.address,
            bias: self.address_if(moe.bias, &format!("{gate_up}.bias"))?,
            logits,
            router_bias: self.address(&format!("{name}.router_bias"))?,
            routes,
            x_stride: x.stride,
            hidden_stride: hidden.stride,
            out_width: moe.inter as u32,
            experts,
            top_k: moe.top_k as u32,
            router: kind,
            router_scale,
            reserved: 0,
        };
        let down = abi::MoeDown {
            weights: self.matrix(&down, width.div_ceil(32), moe.inter, moe.experts)?,
            to,
            hidden: hidden.address,
            bias: self.address_if(moe.bias, &format!("{down}.bias"))?,
            routes,
            hidden_stride: hidden.stride,
            top_k: moe.top_k as u32,
        };
        Ok([
            abi::Op::new(abi::OP_ROUTER, 0, &router),
            abi::Op::new(abi::OP_MOE_UP, 0, &up),
            abi::Op::new(abi::OP_MOE_DOWN, 0, &down),
        ])
    }

    fn attention(&self, i: usize, a: &AttentionSpec) -> Told<Vec<abi::Op>> {
        let name = |part: &str| format!("layers.{i}.{part}");
        let (heads, kv_heads) = (a.heads, a.kv_heads);
        let qkv = self.output(heads * a.qk_dim + kv_heads * (a.qk_dim + a.v_dim))?;
        let out = self.input("attention", heads * a.v_dim)?;
        let (max_chunks, scratch) = self.partial_results((heads, kv_heads, a.v_dim), a.window)?;
        let (keys, is_paged) = (self.region(&name("keys"))?, a.window.is_none());
        let slots = self.lowered.limits.slots;
        let positions = if is_paged {
            self.lowered.limits.page_size
        } else {
            keys.bytes as usize / (slots * kv_heads * a.qk_dim * 2)
        };
        let rope = self.ropes().iter().position(|rope| *rope == a.rope).unwrap_or(0);
        let table = self.region("page table")?;
        let attention = abi::Attention {
            qkv: qkv.address,
            out: out.address,
            keys: keys.address,
            values: self.address(&name("values"))?,
            page_table: if is_paged { table.address } else { 0 },
            sinks: self.address_if(a.sinks, &name("sinks"))?,
            rotations: self.address(&format!("rope {rope}"))?,
            scratch,
            qkv_stride: qkv.stride,
            out_stride: out.stride,
            heads: heads as u32,
            kv_heads: kv_heads as u32,
            qk_dim: a.qk_dim as u32,
            v_dim: a.v_dim as u32,
            positions: positions as u32,
            max_pages: if is_paged { (table.bytes / (slots as u64 * 4)) as u32 } else { 0 },
            window: a.window.unwrap_or(0) as u32,
            pairs: (a.rope.dims / 2) as u32,
            scale: 1.0 / (a.qk_dim as f32).sqrt(),
            value_scale: a.value_scale,
            max_chunks,
            reserved: 0,
        };
        Ok(vec![abi::Op::new(abi::OP_ATTENTION, 0, &attention)])
    }

    pub(super) fn target(&self) -> Told<Vec<abi::Op>> {
        let layers = &self.spec.layers;
        let input_norm = |i: usize| {
            if i < layers.len() { format!("layers.{i}.input_norm") } else { "norm".to_owned() }
        };
        let mut ops = vec![self.embed(&input_norm(0), 0)?];
        for (i, rope) in self.ropes().iter().enumerate() {
            ops.push(self.rope(&format!("rope {i}"), rope)?);
        }
        for (i, layer) in layers.iter().enumerate() {
            let (a, name) = (&layer.attention, |part: &str| format!("layers.{i}.{part}"));
            let width = a.heads * a.qk_dim + a.kv_heads * (a.qk_dim + a.v_dim);
            let qkv = self.project(&name("qkv"), width, self.output(width)?, a.bias)?;
            ops.push(abi::Op::new(abi::OP_LINEAR, 0, &qkv));
            ops.extend(self.attention(i, a)?);
            let width = a.heads * a.v_dim;
            let x = (self.input("attention", width)?, width);
            let to = self.residual(&name("post_norm"), false)?;
            ops.push(self.add(&name("o_proj"), x, to, a.bias)?);
            let mut to = self.residual(&input_norm(i + 1), false)?;
            let taps = self.spec.drafter.as_ref().map_or(&[][..], |drafter| &drafter.taps);
            if let Some(tap) = taps.iter().position(|tap| *tap == i) {
                let rows = self.rows("taps", abi::ROWS, 2)?;
                to.tap = rows.address + (tap * self.spec.hidden * 2) as u64;
                to.tap_stride = rows.stride;
            }
            match &layer.mlp {
                MlpSpec::Dense { inter } => {
                    ops.extend(self.dense(&name("mlp"), *inter, self.spec.norm_eps, to)?);
                }
                MlpSpec::Moe(moe) => ops.extend(self.moe(&name("mlp"), moe, to)?),
            }
        }
        let head = self.head(self.spec.norm_eps)?;
        ops.push(abi::Op::new(abi::OP_LINEAR, abi::FLAG_LOGITS, &head));
        Ok(ops)
    }
}
