//! What an op has to read, from its record.

use kilotok_kernels::abi::program as abi;

/// The rows of a pass, as far as bytes and time depend on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassShape {
    /// Sequences with rows in the pass.
    pub sequences: u64,
    /// Rows of each of them.
    pub rows_each: u64,
    /// Positions in each one's cache before its first row.
    pub context: u64,
}

/// Heads of an attention op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: u64,
    /// Key/value heads.
    pub kv_heads: u64,
    /// Dimension of queries and keys.
    pub qk_dim: u64,
    /// Dimension of values.
    pub v_dim: u64,
    /// Visible keys; 0: all.
    pub window: u64,
    /// Partial results of a row at most.
    pub max_chunks: u64,
}

/// One op: its kind, and the bytes that it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpWork {
    /// Rows of the embedding, of so many bytes.
    Embed {
        /// Bytes of a row.
        row: u64,
    },
    /// A matrix.
    Linear {
        /// Bytes as packed, bias included.
        bytes: u64,
        /// Whether its output is added to the residual: a sum over ranks where several share.
        is_summed: bool,
    },
    /// Scores of all experts.
    Router {
        /// Bytes of the matrix.
        bytes: u64,
    },
    /// Gate and up of the experts touched.
    MoeUp(Experts),
    /// Down of the experts touched.
    MoeDown(Experts),
    /// Attention of the target.
    Attention(AttentionShape),
    /// Attention of a drafter block.
    DraftAttention(AttentionShape),
    /// Anything that reads no weights and no cache worth counting; its name.
    Other(&'static str),
}

/// Experts of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Experts {
    /// Bytes of one expert's matrix as packed, bias included.
    pub each: u64,
    /// Experts to choose from.
    pub count: u64,
    /// Chosen per row.
    pub top_k: u64,
}

impl PassShape {
    /// Rows of one sequence.
    pub fn of_one(rows: u64, context: u64) -> Self {
        Self { sequences: 1, rows_each: rows, context }
    }

    /// Rows in all.
    pub fn rows(&self) -> u64 {
        self.sequences * self.rows_each
    }
}

impl AttentionShape {
    /// Bytes of visible keys and values of all sequences, bfloat16.
    pub fn bytes(&self, pass: PassShape) -> u64 {
        let end = pass.context + pass.rows_each;
        let visible = match self.window {
            0 => end,
            window => end.min(window + pass.rows_each - 1),
        };
        pass.sequences * visible * self.kv_heads * (self.qk_dim + self.v_dim) * 2
    }
}

impl OpWork {
    /// The name of its kind.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Embed { .. } => "embed",
            Self::Linear { .. } => "linear",
            Self::Router { .. } => "router",
            Self::MoeUp(_) => "moe_up",
            Self::MoeDown(_) => "moe_down",
            Self::Attention(_) => "attention",
            Self::DraftAttention(_) => "draft_attention",
            Self::Other(name) => name,
        }
    }

    /// Bytes that it has to read at least once: whole matrices, `experts(of)` experts, rows of the
    /// embedding, visible keys and values. Activations stay in the cache.
    pub fn bytes(&self, pass: PassShape, experts: impl FnOnce(&Experts) -> f64) -> f64 {
        match self {
            Self::Embed { row } => (pass.rows() * row) as f64,
            Self::Linear { bytes, .. } | Self::Router { bytes } => *bytes as f64,
            Self::MoeUp(of) | Self::MoeDown(of) => of.each as f64 * experts(of),
            Self::Attention(shape) | Self::DraftAttention(shape) => shape.bytes(pass) as f64,
            Self::Other(_) => 0.0,
        }
    }
}

fn with_bias(matrix: &abi::Matrix, bias: u64) -> u64 {
    matrix.expert_bytes + if bias == 0 { 0 } else { u64::from(matrix.tiles) * 32 * 4 }
}

/// The work of a line of records; `moe_down` takes the number of experts from the `moe_up` before.
pub(in crate::backend::gpu) fn of_line(ops: &[abi::Op]) -> Vec<OpWork> {
    let mut experts = 0;
    let of = |op: &abi::Op| match op.kind {
        abi::OP_EMBED => OpWork::Embed { row: u64::from(op.payload::<abi::Embed>().width) * 2 },
        abi::OP_LINEAR => {
            let linear: abi::Linear = op.payload();
            OpWork::Linear {
                bytes: with_bias(&linear.weights, linear.bias),
                is_summed: linear.store == abi::STORE_RESIDUAL,
            }
        }
        abi::OP_ROUTER => {
            let router: abi::Router = op.payload();
            let each = if router.format == abi::F32 { 4 } else { 2 };
            OpWork::Router { bytes: u64::from(router.experts) * u64::from(router.width) * each }
        }
        abi::OP_MOE_UP => {
            let up: abi::MoeUp = op.payload();
            experts = u64::from(up.experts);
            let each = with_bias(&up.weights, up.bias);
            OpWork::MoeUp(Experts { each, count: experts, top_k: u64::from(up.top_k) })
        }
        abi::OP_MOE_DOWN => {
            let down: abi::MoeDown = op.payload();
            let each = with_bias(&down.weights, down.bias);
            OpWork::MoeDown(Experts { each, count: experts, top_k: u64::from(down.top_k) })
        }
        abi::OP_ATTENTION => {
            let a: abi::Attention = op.payload();
            OpWork::Attention(AttentionShape {
                heads: a.heads.into(),
                kv_heads: a.kv_heads.into(),
                qk_dim: a.qk_dim.into(),
                v_dim: a.v_dim.into(),
                window: a.window.into(),
                max_chunks: a.max_chunks.into(),
            })
        }
        abi::OP_DRAFT_ATTENTION => {
            let a: abi::DraftAttention = op.payload();
            OpWork::DraftAttention(AttentionShape {
                heads: a.heads.into(),
                kv_heads: a.kv_heads.into(),
                qk_dim: a.dim.into(),
                v_dim: a.dim.into(),
                window: a.window.into(),
                max_chunks: a.max_chunks.into(),
            })
        }
        abi::OP_ROPE => OpWork::Other("rope"),
        abi::OP_DRAFT_CONTEXT => OpWork::Other("draft_context"),
        abi::OP_ADJUST => OpWork::Other("adjust"),
        abi::OP_FILTER => OpWork::Other("filter"),
        abi::OP_CHOOSE => OpWork::Other("choose"),
        abi::OP_DRAFT_CHOOSE => OpWork::Other("draft_choose"),
        abi::OP_LAY_OUT => OpWork::Other("lay_out"),
        abi::OP_ACCEPT => OpWork::Other("accept"),
        _ => OpWork::Other("unknown"),
    };
    ops.iter().map(of).collect()
}
