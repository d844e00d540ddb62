//! What an op reads and writes, from its record alone: the rules of `program.h`.

use std::ops::Range;

use kilotok_kernels::abi::program as abi;

/// What an op does with some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Read,
    /// Reads what a line without drafting before it does not look at.
    ReadIfDrafted,
    /// Reads what a line that skips [`abi::FLAG_RULES`] does not look at.
    ReadIfRules,
    Write,
    /// Reads and writes each element in the same thread.
    Update,
}

#[derive(Clone, Debug)]
pub(super) struct Access {
    pub(super) field: &'static str,
    pub(super) range: Range<u64>,
    pub(super) mode: Mode,
}

impl Access {
    pub(super) fn writes(&self) -> bool {
        matches!(self.mode, Mode::Write | Mode::Update)
    }
}

const ROWS: u64 = abi::ROWS as u64;
const PAIRS: u64 = abi::PAIRS as u64;

/// What is not in an op's record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Around {
    /// Of the grid.
    pub(super) blocks: u64,
    pub(super) slots: u64,
    pub(super) pages: u64,
    pub(super) vocab: u64,
    /// Experts of the `moe_up` right before; 0 where there is none.
    pub(super) experts: u64,
}

/// Collects accesses of one op; the first impossible extent wins.
struct List {
    around: Around,
    all: Vec<Access>,
    error: Option<String>,
}

impl List {
    fn add(&mut self, field: &'static str, address: u64, bytes: u64, mode: Mode) {
        self.all.push(Access { field, range: address..address.saturating_add(bytes), mode });
    }

    fn read(&mut self, field: &'static str, address: u64, bytes: u64) {
        self.add(field, address, bytes, Mode::Read);
    }

    fn maybe_read(&mut self, field: &'static str, address: u64, bytes: u64) {
        if address != 0 {
            self.read(field, address, bytes);
        }
    }

    fn require(&mut self, holds: bool, reason: impl FnOnce() -> String) {
        if !holds && self.error.is_none() {
            self.error = Some(reason());
        }
    }

    /// `rows` rows of `width` elements of `size` bytes, `stride` elements apart.
    fn rows(
        &mut self,
        (field, mode): (&'static str, Mode),
        address: u64,
        (rows, width, stride): (u64, u64, u64),
        size: u64,
    ) {
        self.require(width <= stride, || format!("`{field}`: {width} elements, {stride} apart"));
        for row in 0..rows {
            self.add(field, address + row * stride * size, width * size, mode);
        }
    }

    /// Steps of one matrix (or of all experts), and the columns that they multiply.
    fn matrix(&mut self, m: &abi::Matrix, experts: u64) -> u64 {
        let (cols, bytes) = match m.format {
            abi::BF16 => (64, 4096),
            abi::FP8 => (128, 4224),
            abi::MXFP4 => (64, 1088),
            other => {
                self.require(false, || format!("`weights`: format {other} has no steps"));
                (64, 0)
            }
        };
        let steps = u64::from(m.steps_per_tile);
        let each = u64::from(m.tiles) * steps * bytes;
        self.require(experts <= 1 || m.expert_bytes == each, || {
            format!("`weights`: {} bytes per expert, expected {each}", m.expert_bytes)
        });
        self.require(steps > 0 && m.chunk_steps > 0, || "`weights`: no steps".into());
        let chunks = steps.div_ceil(u64::from(m.chunk_steps.max(1)));
        // Streaming warps and math warps walk a chunk at paces that meet every 256 columns.
        let is_whole = u64::from(m.chunk_steps) * cols % 256 == 0;
        self.require(is_whole, || format!("`weights`: chunks of {} steps", m.chunk_steps));
        self.require(chunks <= 24, || format!("`weights`: {chunks} chunks, at most 24"));
        self.read("weights", m.steps, each * experts.max(1));
        steps * cols
    }

    fn norm(&mut self, norm: &abi::Norm) {
        if norm.squares != 0 {
            self.read("norm.squares", norm.squares, u64::from(norm.parts) * ROWS * 4);
            let suits = (norm.width / 32.0).ceil() as u32 == norm.parts && norm.eps >= 0.0;
            self.require(suits, || format!("`norm`: {} parts of {}", norm.parts, norm.width));
        }
    }

    fn residual(&mut self, to: &abi::Residual, tiles: u32) {
        let (width, stride) = (u64::from(tiles) * 32, u64::from(to.stride));
        let mode = if to.fresh == 0 { Mode::Update } else { Mode::Write };
        self.rows(("to.residual", mode), to.residual, (ROWS, width, stride), 4);
        self.read("to.norm_weight", to.norm_weight, width * 4);
        let x = (ROWS, width, u64::from(to.x_stride));
        self.rows(("to.x", Mode::Write), to.x, x, 2);
        self.add("to.squares", to.squares, u64::from(tiles) * ROWS * 4, Mode::Write);
        if to.tap != 0 {
            let tap = (ROWS, width, u64::from(to.tap_stride));
            self.rows(("to.tap", Mode::Write), to.tap, tap, 2);
        }
    }

    fn input(&mut self, field: &'static str, x: u64, rows: u64, cols: u64, stride: u32) {
        self.rows((field, Mode::Read), x, (rows, cols, u64::from(stride)), 2);
        self.require(stride % 8 == 0, || format!("`{field}`: rows {stride} elements apart"));
    }
}

/// Everything that `op` touches, or why its record makes no sense.
pub(super) fn accesses(op: &abi::Op, around: Around) -> Result<Vec<Access>, String> {
    let mut list = List { around, all: Vec::new(), error: None };
    let blocks = around.blocks;
    match op.kind {
        abi::OP_EMBED => embed(&mut list, &op.payload()),
        abi::OP_ROPE => {
            let rope: abi::Rope = op.payload();
            let pairs = u64::from(rope.pairs);
            list.read("frequencies", rope.frequencies, pairs * 8);
            list.add("rotations", rope.rotations, ROWS * pairs * 8, Mode::Write);
        }
        abi::OP_LINEAR => linear(&mut list, &op.payload()),
        abi::OP_ATTENTION => attention(&mut list, &op.payload()),
        abi::OP_ROUTER => router(&mut list, &op.payload()),
        abi::OP_MOE_UP => moe_up(&mut list, &op.payload()),
        abi::OP_MOE_DOWN => moe_down(&mut list, &op.payload()),
        abi::OP_DRAFT_ATTENTION => draft_attention(&mut list, &op.payload()),
        abi::OP_DRAFT_CONTEXT => draft_context(&mut list, &op.payload()),
        abi::OP_CHOOSE | abi::OP_DRAFT_CHOOSE => {
            let choose: abi::Choose = op.payload();
            let (vocab, stride) = (u64::from(choose.vocab), u64::from(choose.stride));
            list.rows(("logits", Mode::Read), choose.logits, (ROWS, vocab, stride), 4);
            list.add("best", choose.best, blocks * ROWS * 8, Mode::Write);
            if op.kind == abi::OP_CHOOSE {
                list.add("kept", choose.kept, ROWS * 8, Mode::ReadIfRules);
            }
        }
        abi::OP_ADJUST => {
            let adjust: abi::Adjust = op.payload();
            let (vocab, stride) = (u64::from(adjust.vocab), u64::from(adjust.stride));
            list.rows(("logits", Mode::Update), adjust.logits, (ROWS, vocab, stride), 4);
            list.read("counts", adjust.counts, around.slots * stride * 4);
            list.read("biases", adjust.biases, around.slots * stride * 4);
            list.add("peaks", adjust.peaks, blocks * ROWS * 4, Mode::Write);
        }
        abi::OP_FILTER => {
            let filter: abi::Filter = op.payload();
            let (vocab, stride) = (u64::from(filter.vocab), u64::from(filter.stride));
            list.rows(("scaled", Mode::Read), filter.scaled, (ROWS, vocab, stride), 4);
            list.read("peaks", filter.peaks, u64::from(filter.blocks) * ROWS * 4);
            list.add("kept", filter.kept, ROWS * 8, Mode::Write);
            list.require(u64::from(filter.blocks) == blocks, || {
                format!("`blocks`: {} of {blocks}", filter.blocks)
            });
        }
        abi::OP_LAY_OUT => {
            let lay_out: abi::LayOut = op.payload();
            list.require(u64::from(lay_out.rows) <= ROWS, || format!("{} rows", lay_out.rows));
            // Drafted tokens are looked at where there are some.
            if lay_out.is_draft == 0 && lay_out.rows > 0 && lay_out.best != 0 {
                list.add("best", lay_out.best, blocks * ROWS * 8, Mode::ReadIfDrafted);
            }
        }
        abi::OP_ACCEPT => {
            let accept: abi::Accept = op.payload();
            list.read("best", accept.best, blocks * ROWS * 8);
            let counts = around.slots * u64::from(accept.stride) * 4;
            list.add("counts", accept.counts, counts, Mode::Update);
        }
        other => return Err(format!("kind {other} is unknown")),
    }
    match list.error {
        Some(reason) => Err(reason),
        None => Ok(list.all),
    }
}

fn embed(list: &mut List, embed: &abi::Embed) {
    let width = u64::from(embed.width);
    list.require(width <= u64::from(embed.tiles) * 32, || "`width`: more than its tiles".into());
    list.read("embedding", embed.embedding, list.around.vocab * width * 2);
    list.maybe_read("mask", embed.mask, width * 4);
    list.residual(&abi::Residual { fresh: 1, ..embed.to }, embed.tiles);
    list.require(embed.to.fresh == 1, || "`to.fresh`: an embedding is added to nothing".into());
}

fn linear(list: &mut List, linear: &abi::Linear) {
    let cols = list.matrix(&linear.weights, 1);
    list.norm(&linear.norm);
    list.input("x", linear.x, ROWS, cols, linear.x_stride);
    let tiles = u64::from(linear.weights.tiles);
    list.maybe_read("bias", linear.bias, tiles * 32 * 4);
    let width = u64::from(linear.out_width);
    let out = (ROWS, width, u64::from(linear.out_stride));
    match linear.store {
        abi::STORE_RESIDUAL => list.residual(&linear.to, linear.weights.tiles),
        abi::STORE_F32 => {
            list.require(width <= tiles * 32, || format!("`out_width`: {width} of {tiles} tiles"));
            list.rows(("out", Mode::Write), linear.out, out, 4);
        }
        abi::STORE_SWIGLU => {
            list.require(width <= tiles * 16, || format!("`out_width`: {width} of {tiles} tiles"));
            list.rows(("out", Mode::Write), linear.out, out, 2);
        }
        other => list.require(false, || format!("`store`: {other} is unknown")),
    }
}

fn attention(list: &mut List, a: &abi::Attention) {
    let (heads, kv_heads) = (u64::from(a.heads), u64::from(a.kv_heads));
    let (qk_dim, v_dim) = (u64::from(a.qk_dim), u64::from(a.v_dim));
    list.require(kv_heads > 0 && heads % kv_heads == 0, || "`heads` of `kv_heads`".into());
    list.require(a.qkv_stride % 4 == 0 && a.pairs % 4 == 0, || "strides of 4".into());
    list.require(u64::from(a.pairs) * 2 <= qk_dim, || format!("`pairs`: {}", a.pairs));
    let width = heads * qk_dim + kv_heads * (qk_dim + v_dim);
    list.rows(("qkv", Mode::Read), a.qkv, (ROWS, width, u64::from(a.qkv_stride)), 4);
    list.rows(("out", Mode::Write), a.out, (ROWS, heads * v_dim, u64::from(a.out_stride)), 2);
    list.maybe_read("sinks", a.sinks, heads * 4);
    list.read("rotations", a.rotations, ROWS * u64::from(a.pairs) * 8);
    let blocks = if a.page_table == 0 { list.around.slots } else { list.around.pages };
    let block = blocks * u64::from(a.positions) * kv_heads;
    list.add("keys", a.keys, block * qk_dim * 2, Mode::Update);
    list.add("values", a.values, block * v_dim * 2, Mode::Update);
    if a.page_table == 0 {
        ring(list, a.positions, a.window);
        list.require(a.window > 0, || "`positions`: a ring without a window".into());
    } else {
        let table = list.around.slots * u64::from(a.max_pages) * 4;
        list.read("page_table", a.page_table, table);
    }
    chunks(list, a.max_chunks);
    let bytes =
        abi::attention_scratch_bytes(a.heads as usize, a.v_dim as usize, a.max_chunks as usize);
    if bytes > 0 {
        list.add("scratch", a.scratch, bytes as u64, Mode::Write);
    }
}

/// A ring holds the visible keys of the first row of a pass and all rows behind it, rejected ones
/// included, in whole tiles of attention.
fn ring(list: &mut List, positions: u32, window: u32) {
    const TILE: u32 = 64;
    let enough = positions as usize + 1 >= window as usize + abi::ROWS && positions % TILE == 0;
    list.require(enough, || format!("`positions`: a ring of {positions} for a window of {window}"));
}

fn chunks(list: &mut List, max_chunks: u32) {
    let within = (1..=abi::MAX_CHUNKS).contains(&max_chunks);
    list.require(within, || format!("`max_chunks`: {max_chunks}"));
}

fn router(list: &mut List, r: &abi::Router) {
    let (experts, width) = (u64::from(r.experts), u64::from(r.width));
    let size = match r.format {
        abi::F32 => 4,
        abi::BF16 => 2,
        other => {
            list.require(false, || format!("`format`: {other} is no router's"));
            2
        }
    };
    list.require(width % 4 == 0, || format!("`width`: {width} is no multiple of 4"));
    list.read("weights", r.weights, experts * width * size);
    list.norm(&r.norm);
    list.input("x", r.x, ROWS, width, r.x_stride);
    list.add("logits", r.logits, ROWS * experts * 4, Mode::Write);
}

fn moe_up(list: &mut List, up: &abi::MoeUp) {
    let experts = u64::from(up.experts);
    let cols = list.matrix(&up.weights, experts);
    list.norm(&up.norm);
    list.input("x", up.x, ROWS, cols, up.x_stride);
    let (width, tiles) = (u64::from(up.out_width), u64::from(up.weights.tiles));
    list.require(width <= tiles * 16, || format!("`out_width`: {width} of {tiles} tiles"));
    list.require((1..=experts).contains(&u64::from(up.top_k)), || format!("`top_k`: {}", up.top_k));
    let hidden = (PAIRS, width, u64::from(up.hidden_stride));
    list.rows(("hidden", Mode::Write), up.hidden, hidden, 2);
    list.maybe_read("bias", up.bias, experts * tiles * 32 * 4);
    list.read("logits", up.logits, ROWS * experts * 4);
    list.read("router_bias", up.router_bias, experts * 4);
    list.add("routes", up.routes, size_of::<abi::Routes>() as u64, Mode::Write);
    list.require(up.router <= abi::ROUTER_SOFTMAX, || format!("`router`: {}", up.router));
}

fn moe_down(list: &mut List, down: &abi::MoeDown) {
    let experts = list.around.experts;
    let cols = list.matrix(&down.weights, experts);
    list.input("hidden", down.hidden, PAIRS, cols, down.hidden_stride);
    list.maybe_read("bias", down.bias, experts.max(1) * u64::from(down.weights.tiles) * 32 * 4);
    list.read("routes", down.routes, size_of::<abi::Routes>() as u64);
    list.residual(&down.to, down.weights.tiles);
}

fn draft_attention(list: &mut List, a: &abi::DraftAttention) {
    let (heads, kv_heads, dim) = (u64::from(a.heads), u64::from(a.kv_heads), u64::from(a.dim));
    list.require(kv_heads > 0 && heads % kv_heads == 0, || "`heads` of `kv_heads`".into());
    let width = (heads + 2 * kv_heads) * dim;
    list.rows(("qkv", Mode::Read), a.qkv, (ROWS, width, u64::from(a.qkv_stride)), 4);
    list.rows(("out", Mode::Write), a.out, (ROWS, heads * dim, u64::from(a.out_stride)), 2);
    let cache = list.around.slots * u64::from(a.positions) * kv_heads * dim * 2;
    list.read("keys", a.keys, cache);
    list.read("values", a.values, cache);
    list.add("block", a.block, 2 * kv_heads * ROWS * dim * 2, Mode::Write);
    list.read("q_norm", a.q_norm, dim * 4);
    list.read("k_norm", a.k_norm, dim * 4);
    list.maybe_read("sinks", a.sinks, heads * 4);
    list.read("rotations", a.rotations, ROWS * u64::from(a.pairs) * 8);
    ring(list, a.positions, a.window);
    chunks(list, a.max_chunks);
    let bytes =
        abi::attention_scratch_bytes(a.heads as usize, a.dim as usize, a.max_chunks as usize);
    if bytes > 0 {
        list.add("scratch", a.scratch, bytes as u64, Mode::Write);
    }
}

fn draft_context(list: &mut List, c: &abi::DraftContext) {
    let (kv_heads, dim) = (u64::from(c.kv_heads), u64::from(c.dim));
    let width = 2 * kv_heads * dim;
    list.rows(("kv", Mode::Read), c.kv, (ROWS, width, u64::from(c.kv_stride)), 4);
    let cache = list.around.slots * u64::from(c.positions) * kv_heads * dim * 2;
    list.add("keys", c.keys, cache, Mode::Update);
    list.add("values", c.values, cache, Mode::Update);
    list.read("k_norm", c.k_norm, dim * 4);
    list.read("rotations", c.rotations, ROWS * u64::from(c.pairs) * 8);
}
