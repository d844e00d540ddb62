//! Every buffer of a round, allocated once (law 4).

use super::super::Limits;
use super::attend::AttendScratch;
use super::draft_attention::BlockCache;
use super::draft_qkv::Layout;
use super::linear::{Packed, Packs};
use super::rope::RopeTable;
use super::router::Routes;
use super::simd::Kernels;
use super::swiglu::UpScratch;
use crate::spec::{MlpSpec, ModelSpec, RopeSpec};

/// Largest extents over all layers, in floats per row unless said otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Extents {
    /// Rows of a pass, target or drafter.
    pub(super) rows: usize,
    hidden: usize,
    vocab: usize,
    qkv: usize,
    attention: usize,
    /// SwiGLU activations, all selected experts together.
    activations: usize,
    /// Expert outputs, all selected experts together.
    expert_outputs: usize,
    experts: usize,
    top_k: usize,
    taps: usize,
    packed: usize,
    /// Drafts of a round, all slots together.
    drafts: usize,
    v_dim: usize,
}

impl Extents {
    pub(super) fn of(spec: &ModelSpec, limits: Limits) -> Self {
        let mut e = Self { hidden: spec.hidden, vocab: spec.vocab, ..Self::default() };
        e.rows = limits.max_rows;
        e.packed = Packed::padded(spec.hidden);
        for layer in &spec.layers {
            let a = &layer.attention;
            e.qkv = e.qkv.max(a.head_map().width);
            e.attention = e.attention.max(a.heads * a.v_dim);
            e.v_dim = e.v_dim.max(a.v_dim);
            match &layer.mlp {
                MlpSpec::Dense { inter } => {
                    e.activations = e.activations.max(*inter);
                    e.packed = e.packed.max(Packed::padded(*inter));
                }
                MlpSpec::Moe(moe) => {
                    e.activations = e.activations.max(moe.top_k * moe.inter);
                    e.expert_outputs = e.expert_outputs.max(moe.top_k * spec.hidden);
                    let widest = Packed::padded(moe.inter).max(Packed::padded(spec.hidden));
                    e.packed = e.packed.max(moe.top_k * widest);
                    e.experts = e.experts.max(moe.experts);
                    e.top_k = e.top_k.max(moe.top_k);
                }
            }
        }
        if let Some(d) = &spec.drafter {
            e.rows = e.rows.max(d.block_size);
            e.qkv = e.qkv.max(Layout::of(d).width);
            e.attention = e.attention.max(d.heads * d.head_dim);
            e.activations = e.activations.max(d.inter);
            e.taps = spec.tap_width();
            e.packed = e.packed.max(Packed::padded(d.inter)).max(Packed::padded(e.taps));
            e.v_dim = e.v_dim.max(d.head_dim);
            e.drafts = limits.slots * (d.block_size - 1);
        }
        e.packed = e.packed.max(Packed::padded(e.attention));
        e
    }

    /// Bytes the buffers will take, nearly (`None` where the number overflows).
    pub(super) fn num_bytes(&self) -> Option<usize> {
        let per_row = 5 * self.hidden
            + self.qkv
            + self.attention
            + self.activations
            + self.expert_outputs
            + self.taps
            + 2 * self.vocab
            + 7 * self.packed;
        self.rows.checked_mul(per_row)?.checked_mul(4)
    }
}

/// Buffers by name of [`crate::Buf`], `[rows, _]`, and what ops need beside them.
#[derive(Debug)]
pub(super) struct Scratch {
    pub(super) residual: Vec<f32>,
    pub(super) normed: Vec<f32>,
    pub(super) qkv: Vec<f32>,
    pub(super) attention: Vec<f32>,
    pub(super) activations: Vec<f32>,
    pub(super) expert_outputs: Vec<f32>,
    pub(super) routes: Routes,
    pub(super) taps: Vec<f32>,
    pub(super) fused: Vec<f32>,
    pub(super) context: Vec<f32>,
    /// Logits of the rows in `logit_rows`.
    pub(super) logits: Vec<f32>,
    pub(super) logit_rows: Vec<u32>,
    /// Logits of the rows in `draft_rows`.
    pub(super) draft_logits: Vec<f32>,
    pub(super) draft_rows: Vec<u32>,
    /// One per drafted token of the last draft, of all its pieces.
    pub(super) draft_margins: Vec<f32>,
    pub(super) packs: Packs,
    pub(super) up: UpScratch,
    /// `0, 1, 2, ...`
    pub(super) identity: Vec<u32>,
    /// Tables of the target's layers; `layer_rope` says which is whose.
    pub(super) ropes: Vec<RopeTable>,
    pub(super) layer_rope: Vec<usize>,
    pub(super) draft_rope: Option<RopeTable>,
    pub(super) block: Option<BlockCache>,
    /// Block and row inside it of every drafted row.
    pub(super) places: Vec<(u32, u32)>,
    pub(super) attend: Vec<AttendScratch>,
}

impl Scratch {
    pub(super) fn new(
        spec: &ModelSpec,
        extents: Extents,
        threads: usize,
        kernels: &Kernels,
    ) -> Self {
        let e = extents;
        let floats = |per_row: usize| vec![0f32; e.rows * per_row];
        let mut specs: Vec<RopeSpec> = Vec::new();
        let layer_rope = spec
            .layers
            .iter()
            .map(|layer| {
                let rope = layer.attention.rope;
                specs.iter().position(|s| *s == rope).unwrap_or_else(|| {
                    specs.push(rope);
                    specs.len() - 1
                })
            })
            .collect();
        let drafter = spec.drafter.as_ref();
        Self {
            residual: floats(e.hidden),
            normed: floats(e.hidden),
            qkv: floats(e.qkv),
            attention: floats(e.attention),
            activations: floats(e.activations),
            expert_outputs: floats(e.expert_outputs),
            routes: Routes::new(e.rows, e.experts, e.top_k),
            taps: floats(e.taps),
            fused: floats(e.hidden),
            context: floats(e.hidden),
            logits: floats(e.vocab),
            logit_rows: Vec::with_capacity(e.rows),
            draft_logits: if drafter.is_some() { floats(e.vocab) } else { Vec::new() },
            draft_rows: Vec::with_capacity(e.rows),
            draft_margins: Vec::with_capacity(e.drafts),
            packs: Packs::new(e.rows, e.packed, threads, kernels),
            up: UpScratch::new(e.rows, threads),
            identity: (0..e.rows as u32).collect(),
            ropes: specs.into_iter().map(|s| RopeTable::new(s, e.rows)).collect(),
            layer_rope,
            draft_rope: drafter.map(|d| RopeTable::new(d.rope, e.rows)),
            block: drafter.map(|d| BlockCache::new(d, e.rows)),
            places: Vec::with_capacity(e.rows),
            attend: (0..threads).map(|_| AttendScratch::new(e.v_dim)).collect(),
        }
    }

    /// Bytes held.
    pub(super) fn num_bytes(&self) -> usize {
        let floats = [
            &self.residual,
            &self.normed,
            &self.qkv,
            &self.attention,
            &self.activations,
            &self.expert_outputs,
            &self.taps,
            &self.fused,
            &self.context,
            &self.logits,
            &self.draft_logits,
        ];
        floats.iter().map(|b| b.len() * 4).sum::<usize>()
            + self.packs.num_bytes()
            + self.up.num_bytes()
            + self.routes.num_bytes()
            + self.block.as_ref().map_or(0, BlockCache::num_bytes)
            + self.attend.iter().map(AttendScratch::num_bytes).sum::<usize>()
    }
}
