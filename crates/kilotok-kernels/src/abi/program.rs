//! Mirrors of the structs in `cuda/include/kilotok/program.h`: ops, passes, and what host and device tell each other.

use super::{Shared, shared};

macro_rules! constants {
    ($($(#[$doc:meta])* $c_name:ident as $name:ident: $ty:ty = $value:literal,)*) => {
        $($(#[$doc])* pub const $name: $ty = $value;)*

        /// Every constant by its name in the header, to compare.
        pub const CONSTANTS: &[(&str, u64)] = &[$((stringify!($c_name), $name as u64)),*];
    };
}

constants! {
    /// Rows of a pass at most.
    KILOTOK_ROWS as ROWS: usize = 8,
    /// (row, expert) pairs of a pass at most.
    KILOTOK_PAIRS as PAIRS: usize = 64,
    /// [`Row::token`] of a drafter row that holds the mask embedding.
    KILOTOK_MASK_TOKEN as MASK_TOKEN: u32 = 0xFFFF_FFFF,
    /// Entries of [`Mailbox::rounds`].
    KILOTOK_ROUND_RING as ROUND_RING: usize = 1_024,
    /// Threads of a block.
    KILOTOK_BLOCK_THREADS as BLOCK_THREADS: u32 = 512,
    /// Dynamic shared memory of a block.
    KILOTOK_SHARED_BYTES as SHARED_BYTES: u32 = 214_016,
    /// Bytes of an [`Op`].
    KILOTOK_OP_BYTES as OP_BYTES: usize = 256,
    /// [`Op::kind`].
    KILOTOK_OP_EMBED as OP_EMBED: u32 = 1,
    /// [`Op::kind`].
    KILOTOK_OP_ROPE as OP_ROPE: u32 = 2,
    /// [`Op::kind`].
    KILOTOK_OP_LINEAR as OP_LINEAR: u32 = 3,
    /// [`Op::kind`].
    KILOTOK_OP_ATTENTION as OP_ATTENTION: u32 = 4,
    /// [`Op::kind`].
    KILOTOK_OP_ROUTER as OP_ROUTER: u32 = 5,
    /// [`Op::kind`].
    KILOTOK_OP_MOE_UP as OP_MOE_UP: u32 = 6,
    /// [`Op::kind`].
    KILOTOK_OP_MOE_DOWN as OP_MOE_DOWN: u32 = 7,
    /// [`Op::kind`].
    KILOTOK_OP_DRAFT_ATTENTION as OP_DRAFT_ATTENTION: u32 = 8,
    /// [`Op::kind`].
    KILOTOK_OP_DRAFT_CONTEXT as OP_DRAFT_CONTEXT: u32 = 9,
    /// [`Op::kind`].
    KILOTOK_OP_CHOOSE as OP_CHOOSE: u32 = 10,
    /// [`Op::kind`].
    KILOTOK_OP_LAY_OUT as OP_LAY_OUT: u32 = 11,
    /// [`Op::kind`].
    KILOTOK_OP_ACCEPT as OP_ACCEPT: u32 = 12,
    /// [`Op::kind`].
    KILOTOK_OP_DRAFT_CHOOSE as OP_DRAFT_CHOOSE: u32 = 13,
    /// [`Op::kind`].
    KILOTOK_OP_ADJUST as OP_ADJUST: u32 = 14,
    /// [`Op::kind`].
    KILOTOK_OP_FILTER as OP_FILTER: u32 = 15,
    /// [`Attention::max_chunks`] at most.
    KILOTOK_MAX_CHUNKS as MAX_CHUNKS: u32 = 128,
    /// u32 at the beginning of the partial results of attention.
    KILOTOK_COUNTERS as COUNTERS: u32 = 32_768,
    /// [`Op::flags`]: only where logits are wanted.
    KILOTOK_FLAG_LOGITS as FLAG_LOGITS: u32 = 1,
    /// [`Op::flags`]: only where there are drafts.
    KILOTOK_FLAG_DRAFT as FLAG_DRAFT: u32 = 2,
    /// [`Op::flags`]: may end the run.
    KILOTOK_FLAG_DECIDES as FLAG_DECIDES: u32 = 4,
    /// [`Op::flags`]: changes the rows of the pass.
    KILOTOK_FLAG_NEW_PASS as FLAG_NEW_PASS: u32 = 8,
    /// [`Op::flags`]: only where a run has rules.
    KILOTOK_FLAG_RULES as FLAG_RULES: u32 = 16,
    /// [`Run::rules`]: the slot's biases.
    KILOTOK_RULE_BIAS as RULE_BIAS: u32 = 1,
    /// [`Run::rules`]: repetition, presence, frequency, by the slot's counts.
    KILOTOK_RULE_PENALTIES as RULE_PENALTIES: u32 = 2,
    /// [`Run::rules`]: top-k, top-p, min-p; never of a greedy run.
    KILOTOK_RULE_FILTERS as RULE_FILTERS: u32 = 4,
    /// In counts of tokens: the prompt has it.
    KILOTOK_IN_PROMPT as IN_PROMPT: u32 = 0x8000_0000,
    /// [`Matrix::format`].
    KILOTOK_BF16 as BF16: u32 = 0,
    /// [`Matrix::format`].
    KILOTOK_FP8 as FP8: u32 = 1,
    /// [`Matrix::format`].
    KILOTOK_MXFP4 as MXFP4: u32 = 2,
    /// [`Matrix::format`].
    KILOTOK_F32 as F32: u32 = 3,
    /// [`Linear::store`].
    KILOTOK_STORE_F32 as STORE_F32: u32 = 0,
    /// [`Linear::store`].
    KILOTOK_STORE_RESIDUAL as STORE_RESIDUAL: u32 = 1,
    /// [`Linear::store`].
    KILOTOK_STORE_SWIGLU as STORE_SWIGLU: u32 = 2,
    /// [`Activation::kind`].
    KILOTOK_SILU as SILU: u32 = 0,
    /// [`Activation::kind`].
    KILOTOK_CLAMPED_SWIGLU as CLAMPED_SWIGLU: u32 = 1,
    /// [`MoeUp::router`].
    KILOTOK_ROUTER_SIGMOID as ROUTER_SIGMOID: u32 = 0,
    /// [`MoeUp::router`].
    KILOTOK_ROUTER_SIGMOID_NORMALIZED as ROUTER_SIGMOID_NORMALIZED: u32 = 1,
    /// [`MoeUp::router`].
    KILOTOK_ROUTER_SOFTMAX as ROUTER_SOFTMAX: u32 = 2,
    /// [`Mailbox::error`].
    KILOTOK_ERROR_NONE as ERROR_NONE: u32 = 0,
    /// [`Mailbox::error`].
    KILOTOK_ERROR_TIMEOUT as ERROR_TIMEOUT: u32 = 1,
    /// [`Mailbox::error`].
    KILOTOK_ERROR_OP as ERROR_OP: u32 = 2,
    /// [`Machine::flags`]: one more barrier after every op.
    KILOTOK_MACHINE_BARRIERS as MACHINE_BARRIERS: u32 = 1,
    /// [`Machine::flags`]: random delays of blocks and warps.
    KILOTOK_MACHINE_DELAYS as MACHINE_DELAYS: u32 = 2,
}

shared! {
    /// A matrix in steps; for experts, `expert_bytes` from one expert's steps to the next one's.
    KilotokMatrix as Matrix, 32 bytes {
        /// Device address of the steps.
        steps: u64,
        /// From one expert to the next one.
        expert_bytes: u64,
        /// Format of the weights.
        format: u32,
        /// Of 32 rows; the last one is filled up with zeros.
        tiles: u32,
        /// K / 64, FP8: K / 128, rounded up.
        steps_per_tile: u32,
        /// Steps whose sum is made first.
        chunk_steps: u32,
    }

    /// RMSNorm of an input whose rows are x * weight, not yet divided by their root mean square: that factor is 1 /
    /// sqrt(sum of `parts` partial sums / width + eps) and is applied to the outputs.
    KilotokNorm as Norm, 24 bytes {
        /// `[parts][ROWS]` f32; 0: no norm.
        squares: u64,
        /// Partial sums per row.
        parts: u32,
        /// Elements that count.
        width: f32,
        /// Added to the mean square.
        eps: f32,
        /// Keeps the layout explicit.
        reserved: u32,
    }

    /// A residual row and what the next norm needs of it.
    KilotokResidual as Residual, 56 bytes {
        /// `[ROWS][stride]` f32, read (unless fresh) and written.
        residual: u64,
        /// `[stride]` f32 of the next norm, zeros past its end.
        norm_weight: u64,
        /// `[ROWS][x_stride]` bf16: residual * norm_weight.
        x: u64,
        /// `[tiles][ROWS]` f32: sums of squares of 32 elements each.
        squares: u64,
        /// `[ROWS][tap_stride]` bf16 copy of the residual; 0: none.
        tap: u64,
        /// Elements from one row to the next one.
        stride: u32,
        /// Elements from one row of the input to the next one.
        x_stride: u32,
        /// Elements from one row of the taps to the next one.
        tap_stride: u32,
        /// 1: the old residual counts as zero.
        fresh: u32,
    }

    /// What joins gate and up.
    KilotokActivation as Activation, 16 bytes {
        /// Which one.
        kind: u32,
        /// Gain of the sigmoid.
        alpha: f32,
        /// Bound of both inputs.
        limit: f32,
        /// Keeps the layout explicit.
        reserved: u32,
    }

    /// Residual = row of the embedding.
    KilotokEmbed as Embed, 80 bytes {
        /// `[vocab][width]` bf16.
        embedding: u64,
        /// `[width]` f32, for rows with MASK_TOKEN.
        mask: u64,
        /// The residual that is written.
        to: Residual,
        /// Elements that count.
        width: u32,
        /// Tiles of 32.
        tiles: u32,
    }

    /// Cosines and sines of the rows' positions, computed in f64.
    KilotokRope as Rope, 24 bytes {
        /// `[pairs]` f64.
        frequencies: u64,
        /// `[ROWS][pairs]` float2 (cos, sin).
        rotations: u64,
        /// Rotated pairs.
        pairs: u32,
        /// Factor on cosines and sines.
        magnitude: f32,
    }

    /// `y = W x`; what becomes of it is said by `store`.
    KilotokLinear as Linear, 168 bytes {
        /// The matrix.
        weights: Matrix,
        /// Norm of the input.
        norm: Norm,
        /// RESIDUAL.
        to: Residual,
        /// What joins gate and up.
        activation: Activation,
        /// `[ROWS][x_stride]` bf16, zeros from K on.
        x: u64,
        /// F32: `[ROWS][out_stride]` f32; SWIGLU: bf16.
        out: u64,
        /// `[tiles * 32]` f32 in the order of the tiles' rows; 0: none.
        bias: u64,
        /// Elements from one row of the input to the next one.
        x_stride: u32,
        /// Elements from one row of the output to the next one.
        out_stride: u32,
        /// Outputs past it are not written.
        out_width: u32,
        /// What becomes of the outputs.
        store: u32,
    }

    /// Scores of all experts, before bias and selection.
    KilotokRouter as Router, 64 bytes {
        /// `[experts][width]`, row-major, bf16 or f32.
        weights: u64,
        /// `[ROWS][x_stride]` bf16.
        x: u64,
        /// `[ROWS][experts]` f32.
        logits: u64,
        /// Norm of the input.
        norm: Norm,
        /// Elements from one row of the input to the next one.
        x_stride: u32,
        /// Routed experts.
        experts: u32,
        /// A multiple of 4.
        width: u32,
        /// Format of the weights.
        format: u32,
    }

    /// The experts of the rows of a pass: pair p = row * top_k + rank, best first.
    KilotokRoutes as Routes, 512 bytes {
        /// Chosen experts.
        expert: [u32; PAIRS],
        /// Their weights.
        gate: [f32; PAIRS],
    }

    /// Selects experts, then hidden`[pair]` = activation(gate x, up x).
    KilotokMoeUp as MoeUp, 152 bytes {
        /// Tiles of 16 gate rows above 16 up rows.
        weights: Matrix,
        /// Norm of the input.
        norm: Norm,
        /// What joins gate and up.
        activation: Activation,
        /// `[ROWS][x_stride]` bf16.
        x: u64,
        /// `[PAIRS][hidden_stride]` bf16.
        hidden: u64,
        /// `[experts][tiles * 32]` f32; 0: none.
        bias: u64,
        /// `[ROWS][experts]` f32.
        logits: u64,
        /// `[experts]` f32.
        router_bias: u64,
        /// One KilotokRoutes, written.
        routes: u64,
        /// Elements from one row of the input to the next one.
        x_stride: u32,
        /// Elements from one row of `hidden` to the next one.
        hidden_stride: u32,
        /// Outputs past it are not written.
        out_width: u32,
        /// Routed experts.
        experts: u32,
        /// Rows * top_k <= PAIRS.
        top_k: u32,
        /// How experts are weighed.
        router: u32,
        /// Factor on the weights.
        router_scale: f32,
        /// Keeps the layout explicit.
        reserved: u32,
    }

    /// Residual += sum over ranks of gate * (down hidden + bias).
    KilotokMoeDown as MoeDown, 120 bytes {
        /// The matrix.
        weights: Matrix,
        /// The residual that is written.
        to: Residual,
        /// `[PAIRS][hidden_stride]` bf16.
        hidden: u64,
        /// `[experts][tiles * 32]` f32; 0: none.
        bias: u64,
        /// One [`Routes`].
        routes: u64,
        /// Elements from one row of `hidden` to the next one.
        hidden_stride: u32,
        /// Experts per row.
        top_k: u32,
    }

    /// Rotates queries and keys, scales values, writes keys and values into the cache at the rows' positions, and
    /// attends causally.
    KilotokAttention as Attention, 120 bytes {
        /// `[ROWS][qkv_stride]` f32: all queries, all keys, all values.
        qkv: u64,
        /// `[ROWS][out_stride]` bf16: heads * v_dim; what follows is not written.
        out: u64,
        /// Pages: `[pages][kv_heads][positions][qk_dim]` bf16; ring: slots, not pages.
        keys: u64,
        /// The same with v_dim.
        values: u64,
        /// `[slots][max_pages]` u32; 0: a ring, position p at p % positions.
        page_table: u64,
        /// `[heads]` f32; 0: none.
        sinks: u64,
        /// `[ROWS][pairs]` float2.
        rotations: u64,
        /// Partial results: [`attention_scratch_bytes`].
        scratch: u64,
        /// Elements from one row of `qkv` to the next one.
        qkv_stride: u32,
        /// Elements from one row of the output to the next one.
        out_stride: u32,
        /// Query heads.
        heads: u32,
        /// Key/value heads.
        kv_heads: u32,
        /// Dimension of queries and keys.
        qk_dim: u32,
        /// Dimension of values.
        v_dim: u32,
        /// Of a page or of a ring.
        positions: u32,
        /// Pages of one slot.
        max_pages: u32,
        /// Visible keys, the query's own included; 0: all.
        window: u32,
        /// Rotated pairs (i, i + pairs).
        pairs: u32,
        /// Of the scores.
        scale: f32,
        /// Factor on values.
        value_scale: f32,
        /// Partial results of a row at most, 1 to MAX_CHUNKS.
        max_chunks: u32,
        /// Keeps the layout explicit.
        reserved: u32,
    }

    /// Attention of a drafter block: rows see the slot's context (positions before the anchor, at a distance <
    /// window) and each other.
    KilotokDraftAttention as DraftAttention, 136 bytes {
        /// `[ROWS][qkv_stride]` f32.
        qkv: u64,
        /// `[ROWS][out_stride]` bf16.
        out: u64,
        /// Context rings, `[slots][kv_heads][positions][dim]` bf16.
        keys: u64,
        /// The same for values.
        values: u64,
        /// `[2][kv_heads][ROWS][dim]` bf16: the block's own keys, then values.
        block: u64,
        /// `[dim]` f32.
        q_norm: u64,
        /// `[dim]` f32.
        k_norm: u64,
        /// `[heads]` f32; 0: none.
        sinks: u64,
        /// `[ROWS][pairs]` float2.
        rotations: u64,
        /// Partial results: [`attention_scratch_bytes`] with dim.
        scratch: u64,
        /// Elements from one row of `qkv` to the next one.
        qkv_stride: u32,
        /// Elements from one row of the output to the next one.
        out_stride: u32,
        /// Query heads.
        heads: u32,
        /// Key/value heads.
        kv_heads: u32,
        /// Dimension of queries, keys and values.
        dim: u32,
        /// Positions of a ring.
        positions: u32,
        /// 0: all.
        window: u32,
        /// 1: rows see earlier rows of the block only.
        causal: u32,
        /// Rotated pairs.
        pairs: u32,
        /// Factor on the scores.
        scale: f32,
        /// Factor on values.
        value_scale: f32,
        /// Added to the mean square.
        eps: f32,
        /// As in [`Attention`].
        max_chunks: u32,
        /// Keeps the layout explicit.
        reserved: u32,
    }

    /// Keys and values of committed rows into the context rings of one drafter layer.
    KilotokDraftContext as DraftContext, 72 bytes {
        /// `[ROWS][kv_stride]` f32: all keys, all values.
        kv: u64,
        /// Context rings of the keys.
        keys: u64,
        /// The same for values.
        values: u64,
        /// ``[dim]`` f32.
        k_norm: u64,
        /// ``[ROWS][pairs]`` pairs of cosine and sine.
        rotations: u64,
        /// Elements from one row of `kv` to the next one.
        kv_stride: u32,
        /// Key/value heads.
        kv_heads: u32,
        /// Dimension of queries, keys and values.
        dim: u32,
        /// Positions of a ring.
        positions: u32,
        /// Rotated pairs.
        pairs: u32,
        /// Factor on values.
        value_scale: f32,
        /// Added to the mean square.
        eps: f32,
        /// Keeps the layout explicit.
        reserved: u32,
    }

    /// A candidate for a row's token.
    KilotokChoice as Choice, 8 bytes {
        /// The larger one wins, on ties the lower token.
        score: f32,
        /// `u32::MAX`: none.
        token: u32,
    }

    /// Logits of the rows whose runs have rules, in place: biases, penalties, temperature.
    KilotokAdjust as Adjust, 40 bytes {
        /// `[ROWS][stride]` f32.
        logits: u64,
        /// `[slots][stride]` u32.
        counts: u64,
        /// `[slots][stride]` f32.
        biases: u64,
        /// `[blocks][ROWS]` f32: the largest of each block's share.
        peaks: u64,
        /// Elements from one row to the next one.
        stride: u32,
        /// Logits of a row that count.
        vocab: u32,
    }

    /// The tokens that the filters of a row's run keep: down to the value and the token in `kept`.
    KilotokFilter as Filter, 40 bytes {
        /// `[ROWS][stride]` f32 of ADJUST.
        scaled: u64,
        /// `[blocks][ROWS]` f32.
        peaks: u64,
        /// `[ROWS]` [`Choice`], written.
        kept: u64,
        /// Elements from one row to the next one.
        stride: u32,
        /// Logits of a row that count.
        vocab: u32,
        /// Of the grid.
        blocks: u32,
        /// Keeps the layout explicit.
        reserved: u32,
    }

    /// Choices: the best of each row among a block's share of the vocabulary; ACCEPT and LAY_OUT make one of them.
    KilotokChoose as Choose, 32 bytes {
        /// `[ROWS][stride]` f32.
        logits: u64,
        /// `[blocks][ROWS]` [`Choice`], written.
        best: u64,
        /// `[ROWS]` [`Choice`] of FILTER.
        kept: u64,
        /// Elements from one row to the next one.
        stride: u32,
        /// Logits of a row that count.
        vocab: u32,
    }

    /// The rows of a round, from its runs: the drafter's (the anchor and `rows - 1` masks) or the target's (every
    /// run's anchor and its drafts).
    KilotokLayOut as LayOut, 16 bytes {
        /// Of DRAFT_CHOOSE.
        best: u64,
        /// 1: the drafter's rows.
        is_draft: u32,
        /// Of a whole drafter block.
        rows: u32,
    }

    /// Compares the choices of CHOOSE with the drafts, advances the runs, tells the host, and leaves in the pass the
    /// rows that were committed.
    KilotokAccept as Accept, 24 bytes {
        /// Of CHOOSE.
        best: u64,
        /// Of ADJUST.
        counts: u64,
        /// From one slot's counts to the next one's.
        stride: u32,
        /// Keeps the layout explicit.
        reserved: u32,
    }

    /// KilotokRow.
    KilotokRow as Row, 16 bytes {
        /// The sequence's place.
        slot: u32,
        /// Its position.
        position: u32,
        /// Its token.
        token: u32,
        /// Index of its run, in a round.
        run: u32,
    }

    /// The rows that the ops work on.
    KilotokPass as Pass, 144 bytes {
        /// Rows of the pass.
        rows: u32,
        /// Keeps the layout explicit.
        reserved: [u32; 3],
        /// The rows.
        row: [Row; ROWS],
    }

    /// A sequence that decodes on the device, round after round.
    KilotokRun as Run, 128 bytes {
        /// Key of the noise.
        seed: u64,
        /// 0: greedy.
        temperature: f32,
        /// The sequence's place.
        slot: u32,
        /// Of the anchor: positions in the cache.
        position: u32,
        /// Newest token, not yet in the cache.
        anchor: u32,
        /// Verified per round at most.
        drafts: u32,
        /// Tokens that may still be emitted.
        remaining: u32,
        /// Entries of `stops` that count.
        num_stops: u32,
        /// 1: stop token, 2: length.
        ended: u32,
        /// Tokens that end the run.
        stops: [u32; 14],
        /// Bits of `RULE_*`.
        rules: u32,
        /// 0: all.
        top_k: u32,
        /// 1: all.
        top_p: f32,
        /// 0: all.
        min_p: f32,
        /// 1: none.
        repetition: f32,
        /// 0: none.
        presence: f32,
        /// 0: none.
        frequency: f32,
        /// Keeps the layout explicit.
        reserved: u32,
    }

    /// What the host asks for.
    KilotokCommand as Command, 1200 bytes {
        /// Where the ops begin.
        first_op: u32,
        /// How many there are.
        num_ops: u32,
        /// How often the ops are run; 0: park.
        rounds: u32,
        /// Flags of ops to pass over.
        skip: u32,
        /// 0: the host gives `pass`; drafts need exactly one run.
        num_runs: u32,
        /// Device: the run ends with this round.
        over: u32,
        /// Device: entries written to [`Mailbox::rounds`]; the host writes 0.
        written: u32,
        /// Keeps the layout explicit.
        reserved: u32,
        /// The rows, where the host gives them.
        pass: Pass,
        /// The sequences that decode.
        run: [Run; ROWS],
    }

    /// What one run did in one round, for the host.
    KilotokRound as Round, 64 bytes {
        /// The sequences that decode.
        run: u32,
        /// Drafts that were verified.
        drafted: u32,
        /// Tokens that were emitted.
        emitted: u32,
        /// 0, or why the run ended.
        ended: u32,
        /// The tokens.
        tokens: [u32; ROWS],
        /// Drafted tokens among those emitted.
        accepted: u32,
        /// Keeps the layout explicit.
        reserved: [u32; 3],
    }

    /// Words between host and device, in host memory that the device sees.
    KilotokMailbox as Mailbox, 66800 bytes {
        /// Host: number of the newest command.
        doorbell: u32,
        /// Device: number of the newest command that is done.
        finished: u32,
        /// Device: grows while it lives.
        heartbeat: u32,
        /// Device: 0, or what went wrong (ERROR_*).
        error: u32,
        /// Device: who waited for what when it gave up.
        waiting: [u32; 8],
        /// Device: entries written to `rounds` for this command.
        num_rounds: u32,
        /// Host: end the run at the next round.
        stop: u32,
        /// Device: the kernel has ended; a doorbell it has not answered is the next one's.
        parked: u32,
        /// Keeps the command at a multiple of 16.
        reserved: u32,
        /// The newest command.
        command: Command,
        /// What happened, round by round.
        rounds: [Round; ROUND_RING],
    }

    /// One op of a program.
    KilotokOp as Op, 256 bytes {
        /// Which one.
        kind: u32,
        /// Bits of `FLAG_*`.
        flags: u32,
        /// The struct of the kind.
        payload: [u64; 31],
    }

    /// Argument of both kernels that run programs.
    KilotokMachine as Machine, 64 bytes {
        /// `[n]` KilotokOp.
        ops: u64,
        /// KilotokCommand in device memory: the current one, as it changes.
        command: u64,
        /// KilotokMailbox, device address of host memory.
        mailbox: u64,
        /// `[32]` u32, zeroed before the first launch.
        barrier: u64,
        /// Graph mode: which op.
        op: u32,
        /// Blocks of the grid.
        num_blocks: u32,
        /// Bits of `MACHINE_*`, for the traced build.
        flags: u32,
        /// Persistent mode: parks after so long without a command.
        idle_ms: u32,
        /// Traced build: `[num_blocks][trace_records]` [`TraceRecord`], then `[num_blocks]` u32 for the device; 0:
        /// none are wanted.
        trace: u64,
        /// Of each block, the newest ones; at least 1.
        trace_records: u32,
        /// Of [`MACHINE_DELAYS`].
        delay_seed: u32,
    }

    /// What one block did in one op, by the traced build. Times are cycles of the SM.
    KilotokTraceRecord as TraceRecord, 88 bytes {
        /// Of the block's records, from 1 on; 0: nothing was written.
        number: u32,
        /// Index of the op's record.
        op: u32,
        /// Of the pass.
        rows: u32,
        /// With rows in it.
        sequences: u32,
        /// Positions before their first rows, all sequences together.
        context: u32,
        /// Touched by the newest `moe_up`.
        experts: u32,
        /// Number of the command.
        command: u32,
        /// Number of the command before the kernel's first one.
        launch: u32,
        /// That the block runs on.
        sm: u32,
        /// Keeps what follows aligned.
        reserved: u32,
        /// The global timer at `passed`.
        nanoseconds: u64,
        /// The op began.
        entered: u64,
        /// Experts were known; 0 where the op has none.
        routed: u64,
        /// The first weights were there; 0 where the op has none.
        weights: u64,
        /// At the barrier.
        arrived: u64,
        /// The barrier.
        passed: u64,
    }
}

/// Bytes of the partial results of an attention op.
pub const fn attention_scratch_bytes(heads: usize, v_dim: usize, max_chunks: usize) -> usize {
    if max_chunks == 1 {
        return 0;
    }
    let each = v_dim + 2 * v_dim.div_ceil(64);
    4 * (COUNTERS as usize + ROWS * heads * (max_chunks + 1) * each)
}

impl Op {
    /// An op record; `payload` is the struct of `kind`.
    pub fn new<T: Shared>(kind: u32, flags: u32, payload: &T) -> Self {
        const { assert!(size_of::<T>() <= size_of::<[u64; 31]>()) };
        let mut bytes = Vec::with_capacity(OP_BYTES);
        payload.write(&mut bytes);
        bytes.resize(size_of::<[u64; 31]>(), 0);
        let payload = <[u64; 31]>::read(&mut bytes.as_slice()).unwrap_or([0; 31]);
        Self { kind, flags, payload }
    }

    /// The payload as the struct of `kind`, which is the caller's to know.
    pub fn payload<T: Shared>(&self) -> T {
        let mut bytes = Vec::with_capacity(OP_BYTES);
        self.payload.write(&mut bytes);
        T::read(&mut bytes.as_slice()).unwrap_or(T::ZERO)
    }
}
