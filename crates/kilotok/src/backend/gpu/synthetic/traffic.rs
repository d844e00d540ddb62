//! Bytes that a line of ops has to read, from its records.

use kilotok_kernels::abi::program as abi;

/// What a pass is, as far as its bytes depend on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load<'a> {
    pub(super) rows: u64,
    /// Positions in the cache before the first row.
    pub(super) context: u64,
    /// Distinct experts of every routed layer, in order.
    pub(super) experts: &'a [u64],
}

/// Bytes that `ops` have to read at least once: whole matrices, the experts that rows were routed to,
/// rows of the embedding, visible keys and values. Activations are left out: they stay in the cache.
pub(super) fn bytes_needed(ops: &[abi::Op], load: Load<'_>) -> u64 {
    let Load { rows, context, experts } = load;
    let (mut ups, mut downs) = (experts.iter(), experts.iter());
    let visible = |window: u32| match u64::from(window) {
        0 => context + rows,
        window => (context + rows).min(window + rows - 1),
    };
    let biases = |address: u64, matrix: &abi::Matrix| {
        if address == 0 { 0 } else { u64::from(matrix.tiles) * 32 * 4 }
    };
    let of = |op: &abi::Op| match op.kind {
        abi::OP_EMBED => rows * u64::from(op.payload::<abi::Embed>().width) * 2,
        abi::OP_LINEAR => {
            let linear: abi::Linear = op.payload();
            linear.weights.expert_bytes + biases(linear.bias, &linear.weights)
        }
        abi::OP_ROUTER => {
            let router: abi::Router = op.payload();
            let each = if router.format == abi::F32 { 4 } else { 2 };
            u64::from(router.experts) * u64::from(router.width) * each
        }
        abi::OP_MOE_UP => {
            let up: abi::MoeUp = op.payload();
            let each = up.weights.expert_bytes + biases(up.bias, &up.weights);
            ups.next().copied().unwrap_or(0) * each
        }
        abi::OP_MOE_DOWN => {
            let down: abi::MoeDown = op.payload();
            let each = down.weights.expert_bytes + biases(down.bias, &down.weights);
            downs.next().copied().unwrap_or(0) * each
        }
        abi::OP_ATTENTION => {
            let a: abi::Attention = op.payload();
            visible(a.window) * u64::from(a.kv_heads) * u64::from(a.qk_dim + a.v_dim) * 2
        }
        abi::OP_DRAFT_ATTENTION => {
            let a: abi::DraftAttention = op.payload();
            visible(a.window) * u64::from(a.kv_heads) * u64::from(2 * a.dim) * 2
        }
        _ => 0,
    };
    ops.iter().map(of).sum()
}
