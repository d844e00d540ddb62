//! The program: a model as an ordered list of named ops.
//!
//! Op names are the map of the code: op `moe_up` is `backend/cpu/moe_up.rs`,
//! `python/kilotok/reference/` `moe_up` and `tests/parity/test_moe_up.py`.

use crate::spec::{MlpSpec, ModelSpec};

/// Row buffers that ops read and write; one row per token in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Buf {
    /// Token ids.
    Tokens,
    /// Residual stream, `[rows, hidden]`.
    Residual,
    /// Normed residual, `[rows, hidden]`.
    Normed,
    /// Output of the qkv projection, `[rows, HeadMap::width]`.
    Qkv,
    /// Keys and values of every committed position, per layer.
    KvCache,
    /// Attention output before `o_proj`, `[rows, heads * v_dim]`.
    Attention,
    /// SwiGLU activations, `[rows, inter]` or `[rows, top_k, inter]`.
    Hidden,
    /// Selected experts and their weights, `[rows, top_k]`.
    Routes,
    /// Tapped residuals, `[rows, taps, hidden]`.
    Taps,
    /// Fused and normed taps, `[rows, hidden]`.
    Context,
    /// Keys and values of the drafter's context, per drafter layer.
    DraftCache,
    /// Logits, `[rows, vocab]`.
    Logits,
    /// Chosen or drafted tokens.
    Choices,
}

/// What an op computes. Shapes and weights follow from the model at `Op::layer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OpKind {
    /// Residual = embedding row of the token.
    Embed,
    /// Normed = RMSNorm(Residual) before attention.
    AttentionNorm,
    /// Qkv = W_qkv Normed, plus bias.
    Qkv,
    /// Rotates queries and keys in place, with YaRN's factor.
    Rope,
    /// Multiplies values in place.
    ValueScale,
    /// Writes keys and values into the cache at the row's position.
    KvAppend,
    /// Causal attention over all cached positions, with sinks.
    AttentionFull,
    /// Causal attention inside the sliding window, with sinks.
    AttentionSwa,
    /// Residual += W_o Attention, plus bias.
    OProj,
    /// Normed = RMSNorm(Residual) before the feed-forward.
    MlpNorm,
    /// Hidden = silu(W_gate Normed) * (W_up Normed).
    DenseUp,
    /// Residual += W_down Hidden.
    DenseDown,
    /// Routes = top-k of the biased scores and their weights.
    Router,
    /// Hidden of each selected expert.
    MoeUp,
    /// Residual += sum of weighted expert outputs, biases included.
    MoeDown,
    /// Keeps the residual as tap number `index`.
    Tap {
        /// Position in the concatenation.
        index: usize,
    },
    /// Normed = final RMSNorm(Residual).
    FinalNorm,
    /// Logits = W_head Normed, rows that need them only.
    LmHead,
    /// The target's own token for every row: greedy or Gumbel-max.
    Choose,
    /// Longest drafted prefix equal to the choices, plus the bonus token.
    Accept,
    /// Context = RMSNorm(W_fc Taps).
    DraftFc,
    /// Keys and values of context rows, for every drafter layer.
    DraftContext,
    /// Residual = anchor embedding and mask embeddings.
    DraftEmbed,
    /// Normed = RMSNorm(Residual) before drafter attention.
    DraftAttentionNorm,
    /// Qkv of block rows, q and k normed per head.
    DraftQkv,
    /// Rotates queries and keys of block rows in place.
    DraftRope,
    /// Block attention over the context and the block itself, with sinks.
    DraftAttention,
    /// Residual += W_o Attention.
    DraftOProj,
    /// Normed = RMSNorm(Residual) before the drafter's feed-forward.
    DraftMlpNorm,
    /// Hidden = SwiGLU activations of the drafter.
    DraftUp,
    /// Residual += W_down Hidden.
    DraftDown,
    /// Normed = final RMSNorm of the drafter.
    DraftFinalNorm,
    /// Logits of the masked rows through the target's head.
    DraftHead,
    /// The drafted token of every masked row: argmax.
    DraftChoose,
}

/// One step of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Op {
    /// What it computes.
    pub kind: OpKind,
    /// Target or drafter layer it belongs to; 0 where it belongs to none.
    pub layer: usize,
    /// Buffers it reads.
    pub reads: &'static [Buf],
    /// Buffers it writes (in-place ops name the buffer on both sides).
    pub writes: &'static [Buf],
}

/// A model lowered to ops: three straight lines that make up a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Verify, choose and accept: target forward over the rows in flight.
    pub target: Vec<Op>,
    /// Commit: taps of committed rows become drafter context.
    pub context: Vec<Op>,
    /// Draft: one block per sequence.
    pub draft: Vec<Op>,
}

impl OpKind {
    /// Buffers read and written.
    const fn dataflow(self) -> (&'static [Buf], &'static [Buf]) {
        use Buf::{
            Attention, Choices, Context, DraftCache, Hidden, KvCache, Logits, Normed, Qkv,
            Residual, Routes, Taps, Tokens,
        };
        match self {
            Self::Embed | Self::DraftEmbed => (&[Tokens], &[Residual]),
            Self::AttentionNorm
            | Self::MlpNorm
            | Self::FinalNorm
            | Self::DraftAttentionNorm
            | Self::DraftMlpNorm
            | Self::DraftFinalNorm => (&[Residual], &[Normed]),
            Self::Qkv | Self::DraftQkv => (&[Normed], &[Qkv]),
            Self::Rope | Self::ValueScale | Self::DraftRope => (&[Qkv], &[Qkv]),
            Self::KvAppend => (&[Qkv], &[KvCache]),
            Self::AttentionFull | Self::AttentionSwa => (&[Qkv, KvCache], &[Attention]),
            Self::OProj | Self::DraftOProj => (&[Attention, Residual], &[Residual]),
            Self::DenseUp | Self::DraftUp => (&[Normed], &[Hidden]),
            Self::DenseDown | Self::DraftDown => (&[Hidden, Residual], &[Residual]),
            Self::Router => (&[Normed], &[Routes]),
            Self::MoeUp => (&[Normed, Routes], &[Hidden]),
            Self::MoeDown => (&[Hidden, Routes, Residual], &[Residual]),
            Self::Tap { .. } => (&[Residual], &[Taps]),
            Self::LmHead | Self::DraftHead => (&[Normed], &[Logits]),
            Self::Choose | Self::DraftChoose => (&[Logits], &[Choices]),
            Self::Accept => (&[Choices, Tokens], &[Tokens]),
            Self::DraftFc => (&[Taps], &[Context]),
            Self::DraftContext => (&[Context], &[DraftCache]),
            Self::DraftAttention => (&[Qkv, DraftCache], &[Attention]),
        }
    }

    fn at(self, layer: usize) -> Op {
        let (reads, writes) = self.dataflow();
        Op { kind: self, layer, reads, writes }
    }
}

impl Program {
    /// Lowers a spec. The result depends on the spec alone, so it can be inspected without weights.
    pub fn lower(spec: &ModelSpec) -> Self {
        let mut target = vec![OpKind::Embed.at(0)];
        for (layer, l) in spec.layers.iter().enumerate() {
            let mut push = |kind: OpKind| target.push(kind.at(layer));
            push(OpKind::AttentionNorm);
            push(OpKind::Qkv);
            push(OpKind::Rope);
            push(OpKind::ValueScale);
            push(OpKind::KvAppend);
            push(match l.attention.window {
                None => OpKind::AttentionFull,
                Some(_) => OpKind::AttentionSwa,
            });
            push(OpKind::OProj);
            push(OpKind::MlpNorm);
            match l.mlp {
                MlpSpec::Dense { .. } => {
                    push(OpKind::DenseUp);
                    push(OpKind::DenseDown);
                }
                MlpSpec::Moe(_) => {
                    push(OpKind::Router);
                    push(OpKind::MoeUp);
                    push(OpKind::MoeDown);
                }
            }
            if let Some(drafter) = &spec.drafter {
                for (index, _) in drafter.taps.iter().enumerate().filter(|(_, t)| **t == layer) {
                    push(OpKind::Tap { index });
                }
            }
        }
        for kind in [OpKind::FinalNorm, OpKind::LmHead, OpKind::Choose, OpKind::Accept] {
            target.push(kind.at(0));
        }
        let (mut context, mut draft) = (Vec::new(), Vec::new());
        if let Some(drafter) = &spec.drafter {
            context.extend([OpKind::DraftFc.at(0), OpKind::DraftContext.at(0)]);
            draft.push(OpKind::DraftEmbed.at(0));
            for layer in 0..drafter.layers {
                draft.extend(
                    [
                        OpKind::DraftAttentionNorm,
                        OpKind::DraftQkv,
                        OpKind::DraftRope,
                        OpKind::DraftAttention,
                        OpKind::DraftOProj,
                        OpKind::DraftMlpNorm,
                        OpKind::DraftUp,
                        OpKind::DraftDown,
                    ]
                    .map(|kind| kind.at(layer)),
                );
            }
            draft.extend(
                [OpKind::DraftFinalNorm, OpKind::DraftHead, OpKind::DraftChoose]
                    .map(|kind| kind.at(0)),
            );
        }
        Self { target, context, draft }
    }
}
