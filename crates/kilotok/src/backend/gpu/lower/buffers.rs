//! Activations, caches and tables: everything on the device that is no weight.

use kilotok_gpu::pool::Component;
use kilotok_kernels::abi::program as abi;

use super::super::arena::{Arena, Region};
use super::draft::ContextRing;
use super::place::Placer;
use crate::backend::Limits;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::spec::RopeSpec;
use crate::weights::repack::{TILE_ROWS, chunk_cols};

/// A buffer with one row per row of a pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::backend::gpu) struct Rows {
    pub(in crate::backend::gpu) address: u64,
    /// Elements from one row to the next one.
    pub(in crate::backend::gpu) stride: u32,
}

/// Cosines and sines of one rotary embedding.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rotation {
    pub(super) spec: RopeSpec,
    pub(super) op: abi::Rope,
}

/// A ring, and where it is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend::gpu) struct SavedRing {
    /// `[slots][bytes]`
    pub(in crate::backend::gpu) ring: u64,
    /// `[snapshots][bytes]`
    pub(in crate::backend::gpu) saved: u64,
    /// Of one slot.
    pub(in crate::backend::gpu) bytes: u64,
}

/// Addresses that several ops share.
#[derive(Clone, Debug, Default)]
pub(in crate::backend::gpu) struct Buffers {
    /// f32, the residual stream.
    pub(super) residual: Rows,
    /// bf16, the residual times the next norm's weight.
    pub(super) x: Rows,
    /// Sums of squares of 32 elements of the residual each.
    pub(super) squares: u64,
    /// bf16, all taps of a row.
    pub(in crate::backend::gpu) taps: Rows,
    /// f32.
    pub(in crate::backend::gpu) logits: Rows,
    /// Best choices of every block.
    pub(super) best: u64,
    /// Of every block, the largest values that runs with rules choose from.
    pub(super) peaks: u64,
    /// The last token that a row's filters keep.
    pub(super) kept: u64,
    /// `[slots]` rows of u32 and of f32, as wide as logits.
    pub(in crate::backend::gpu) counts: u64,
    pub(in crate::backend::gpu) biases: u64,
    pub(in crate::backend::gpu) draft_best: u64,
    /// `[slots][max_pages]` u32.
    pub(in crate::backend::gpu) page_table: u64,
    pub(in crate::backend::gpu) max_pages: u32,
    /// One [`abi::Command`].
    pub(in crate::backend::gpu) command: u64,
    pub(in crate::backend::gpu) barrier: u64,
    pub(in crate::backend::gpu) ops: u64,
    pub(super) rotations: Vec<Rotation>,
    pub(super) draft_rotation: Option<abi::Rope>,
    /// `[vocab][hidden]` bf16.
    pub(super) embedding: u64,
    pub(super) head: abi::Matrix,
    pub(super) context_rings: Vec<ContextRing>,
    /// Empty where nothing is ever saved.
    pub(in crate::backend::gpu) saved: Vec<SavedRing>,
    /// One [`abi::Routes`]; 0 until a layer needs it.
    routes: u64,
    block: u64,
    /// By size.
    router_logits: Vec<(usize, u64)>,
    partial_results: Vec<(usize, u64)>,
    /// Inputs of matrices by what they are and how wide, so that what lies behind the columns of one
    /// is never the columns of another: those zeros are multiplied.
    inputs: Vec<(&'static str, usize, Rows)>,
    outputs: Vec<(usize, Rows)>,
}

/// Elements of an input row: whole chunks, whatever the format of the matrix.
pub(super) fn input_stride(cols: usize) -> usize {
    cols.next_multiple_of(chunk_cols(cols))
}

impl Buffers {
    pub(super) fn new(
        place: &mut Placer,
        model: &Model,
        limits: Limits,
        blocks: u32,
    ) -> Result<Self> {
        let spec = &model.spec;
        let hidden = spec.hidden;
        let mut this = Self::default();
        let rows = abi::ROWS;
        let mut exchange = |name: &str, bytes: usize| {
            place.arena.take(Component::Exchange, name, bytes as u64, false)
        };
        let stride = hidden.next_multiple_of(TILE_ROWS);
        let at = |address: u64, stride: usize| Rows { address, stride: stride as u32 };
        this.residual = at(exchange("residual", rows * stride * 4), stride);
        let input = input_stride(hidden);
        this.x = at(exchange("x", rows * input * 2), input);
        this.squares = exchange("squares", stride / TILE_ROWS * rows * 4);
        let logits = spec.vocab.next_multiple_of(TILE_ROWS);
        this.logits = at(exchange("logits", rows * logits * 4), logits);
        this.best = exchange("best", blocks as usize * rows * 8);
        this.peaks = exchange("peaks", blocks as usize * rows * 4);
        this.kept = exchange("kept", rows * 8);
        if let Some(drafter) = &spec.drafter {
            check_taps(&drafter.taps, hidden)?;
            let taps = input_stride(drafter.taps.len() * hidden);
            this.taps = at(exchange("taps", rows * taps * 2), taps);
            this.draft_best = exchange("draft best", blocks as usize * rows * 8);
        }
        this.max_pages = limits.max_positions.div_ceil(limits.page_size) as u32;
        let table = limits.slots as u64 * u64::from(this.max_pages) * 4;
        this.page_table = place.arena.take(Component::Kv, "page table", table, true);
        let mut words = |name: &str, bytes: usize| {
            place.arena.take(Component::Mailboxes, name, bytes as u64, true)
        };
        this.command = words("command", size_of::<abi::Command>());
        this.barrier = words("barrier", 128);
        this.counts = words("token counts", limits.slots * logits * 4);
        this.biases = words("token biases", limits.slots * logits * 4);
        for layer in &spec.layers {
            let rope = layer.attention.rope;
            if this.rotations.iter().all(|rotation| rotation.spec != rope) {
                let name = format!("rope {}", this.rotations.len());
                let op = rotation(place, &name, &rope);
                this.rotations.push(Rotation { spec: rope, op });
            }
        }
        if let Some(drafter) = &spec.drafter {
            this.draft_rotation = Some(rotation(place, "drafter rope", &drafter.rope));
        }
        Ok(this)
    }

    /// The bf16 input `name` of a matrix of `cols` columns.
    pub(super) fn input(&mut self, place: &mut Placer, name: &'static str, cols: usize) -> Rows {
        self.rows_of(place, name, cols, abi::ROWS)
    }

    /// The bf16 input of the experts' down projections, one row per pair of row and expert.
    pub(super) fn pairs(&mut self, place: &mut Placer, cols: usize) -> Rows {
        self.rows_of(place, "pairs", cols, abi::PAIRS)
    }

    fn rows_of(
        &mut self,
        place: &mut Placer,
        name: &'static str,
        cols: usize,
        rows: usize,
    ) -> Rows {
        if let Some((.., found)) =
            self.inputs.iter().find(|(other, width, _)| (*other, *width) == (name, cols))
        {
            return *found;
        }
        let stride = input_stride(cols);
        let bytes = (rows * stride * 2) as u64;
        // Ops write the columns only: the zeros behind them are there from the start.
        let name_of_one = format!("{name} {cols}");
        let address = place.arena.take(Component::Exchange, name_of_one, bytes, false);
        let input = Rows { address, stride: stride as u32 };
        self.inputs.push((name, cols, input));
        input
    }

    /// An f32 output of `width` elements per row that the next op reads.
    pub(super) fn output(&mut self, place: &mut Placer, width: usize) -> Rows {
        if let Some((_, found)) = self.outputs.iter().find(|(other, _)| *other == width) {
            return *found;
        }
        let stride = width.next_multiple_of(TILE_ROWS);
        let bytes = (abi::ROWS * stride * 4) as u64;
        let address =
            place.arena.take(Component::Exchange, format!("output {width}"), bytes, false);
        let output = Rows { address, stride: stride as u32 };
        self.outputs.push((width, output));
        output
    }

    /// The routes of the pass's rows.
    pub(super) fn routes(&mut self, place: &mut Placer) -> u64 {
        if self.routes == 0 {
            let bytes = size_of::<abi::Routes>() as u64;
            self.routes = place.arena.take(Component::Exchange, "routes", bytes, false);
        }
        self.routes
    }

    /// Logits of all experts, `[ROWS][experts]` f32.
    pub(super) fn router_logits(&mut self, place: &mut Placer, experts: usize) -> u64 {
        if let Some((_, found)) = self.router_logits.iter().find(|(n, _)| *n == experts) {
            return *found;
        }
        let bytes = (abi::ROWS * experts * 4) as u64;
        let name = format!("router logits {experts}");
        let address = place.arena.take(Component::Exchange, name, bytes, false);
        self.router_logits.push((experts, address));
        address
    }

    /// Keys and values of a drafter block, `bytes` bytes of them in every layer.
    pub(super) fn block(&mut self, place: &mut Placer, bytes: usize) -> u64 {
        if self.block == 0 {
            self.block = place.arena.take(Component::Exchange, "block", bytes as u64, false);
        }
        self.block
    }

    /// Where attention leaves partial results of `bytes` bytes; 0 where there are none.
    pub(super) fn partial_results(&mut self, place: &mut Placer, bytes: usize) -> u64 {
        if bytes == 0 {
            return 0;
        }
        if let Some((_, found)) = self.partial_results.iter().find(|(n, _)| *n == bytes) {
            return *found;
        }
        let name = format!("partial results {bytes}");
        let address = place.arena.take(Component::Exchange, name, bytes as u64, false);
        self.partial_results.push((bytes, address));
        address
    }

    /// Room for saved rings of all layers, once all rings are there.
    pub(super) fn save_rings(&mut self, arena: &mut Arena, limits: Limits) {
        if limits.snapshots == 0 {
            return;
        }
        for Region { name, address, bytes, .. } in arena.rings() {
            let bytes = bytes / limits.slots as u64;
            let all = bytes * limits.snapshots as u64;
            let saved = arena.take(Component::Rings, format!("saved {name}"), all, true);
            self.saved.push(SavedRing { ring: address, saved, bytes });
        }
    }

    /// The rotations of a target layer.
    pub(super) fn rotation(&self, rope: &RopeSpec) -> abi::Rope {
        let found = self.rotations.iter().find(|rotation| rotation.spec == *rope);
        found.map_or(abi::Rope::default(), |rotation| rotation.op)
    }
}

fn rotation(place: &mut Placer, name: &str, rope: &RopeSpec) -> abi::Rope {
    let pairs = rope.dims / 2;
    let bytes = (abi::ROWS * pairs * 8) as u64;
    abi::Rope {
        frequencies: place.frequencies(&format!("{name} frequencies"), rope),
        rotations: place.arena.take(Component::Exchange, name, bytes, false),
        pairs: pairs as u32,
        magnitude: rope.magnitude() as f32,
    }
}

/// A residual is copied to one tap at most, as whole tiles: where the last one is not full, its end
/// lies under the beginning of the next tap, which has to be written later.
fn check_taps(taps: &[usize], hidden: usize) -> Result<()> {
    let twice = taps.iter().enumerate().find(|(i, tap)| taps[..*i].contains(tap));
    if let Some((_, tap)) = twice {
        return Err(Error::model_format(
            "drafter",
            format!("layer {tap} is tapped more than once"),
        ));
    }
    if hidden % TILE_ROWS != 0 && !taps.is_sorted() {
        let reason = format!("taps {taps:?} of {hidden} elements are in no order for the GPU");
        return Err(Error::model_format("drafter", reason));
    }
    Ok(())
}
