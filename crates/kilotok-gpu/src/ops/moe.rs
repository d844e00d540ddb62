//! Ops `moe_up` and `moe_down`: the MXFP4 mixture-of-experts feed-forward of at most 8 rows.

use std::sync::Arc;

use kilotok_kernels::abi::{MoeDownArgs, MoeUpArgs};

use crate::context::Context;
use crate::error::GpuError;
use crate::launch::LaunchConfig;
use crate::library::{Kernel, Library};
use crate::mem::DeviceBuffer;
use crate::stream::Stream;

/// Columns of the matrix product: rows that one expert may have.
const MAX_ROWS: usize = 8;
/// (row, rank) pairs of one launch.
const MAX_PAIRS: usize = 64;
const WARPS: usize = 8;
const THREADS: u32 = 32 * WARPS as u32;
/// Ring slots of a warp in `moe_down`.
const DOWN_SLOTS: usize = 3;
/// Above these, a block's weights do not fit into shared memory.
const MAX_SIZE: usize = 12_288;
const MAX_INTER: usize = 3072;
/// Bytes of 32 rows x 64 of K.
const STEP_BYTES: usize = 1088;

/// Extents of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MoeShape {
    /// Experts.
    pub experts: usize,
    /// Length of a residual row; a multiple of 64.
    pub size: usize,
    /// Length of an expert's inner row; a multiple of 64.
    pub inter: usize,
}

impl MoeShape {
    /// Bytes of one expert's gate and up steps, and of its down steps.
    pub const fn expert_bytes(&self) -> (usize, usize) {
        let matrix = self.size * self.inter / 2048 * STEP_BYTES;
        (2 * matrix, matrix)
    }

    /// Dynamic shared memory of the two kernels: what `moe_up.cuh` and `moe_down.cuh` say.
    const fn shared_bytes(&self, pairs: usize) -> [u32; 2] {
        let each = slice_steps(self.inter);
        let slices = (self.inter / 64).div_ceil(each);
        let ring = WARPS * DOWN_SLOTS * each * STEP_BYTES;
        [(self.size / 64 * STEP_BYTES) as u32, (ring + pairs * slices * 32 * 4) as u32]
    }

    fn check(&self) -> Result<(), GpuError> {
        let Self { experts, size, inter } = *self;
        if size > MAX_SIZE || inter > MAX_INTER {
            return Err(GpuError::Shape {
                op: "moe",
                detail: format!("{size} x {inter} is more than {MAX_SIZE} x {MAX_INTER}"),
            });
        }
        if experts == 0 || size == 0 || inter == 0 || size % 64 != 0 || inter % 64 != 0 {
            return Err(GpuError::Shape {
                op: "moe",
                detail: format!(
                    "{experts} experts of {size} x {inter}: both have to be multiples of 64"
                ),
            });
        }
        Ok(())
    }
}

/// The rows of one step and where they go.
#[derive(Debug, Clone, Copy)]
pub struct MoeBatch<'a> {
    /// 1 to 8.
    pub rows: usize,
    /// `rows * top_k` is at most 64.
    pub top_k: usize,
    /// `[rows, size]` bf16.
    pub x: &'a [u16],
    /// `[rows, top_k]`, all different within a row.
    pub experts: &'a [u32],
    /// `[rows, top_k]`
    pub gates: &'a [f32],
}

/// A layer's experts on the device.
#[derive(Debug)]
pub struct MoeLayer {
    shape: MoeShape,
    stream: Stream,
    up: DeviceBuffer<u8>,
    down: DeviceBuffer<u8>,
    kernels: [Kernel; 2],
}

impl MoeLayer {
    /// Uploads the experts: `up` and `down` hold the steps of one expert after the other.
    ///
    /// # Errors
    /// [`GpuError::Shape`], [`GpuError::OutOfMemory`], [`GpuError::NoImage`], [`GpuError::UnsupportedDevice`],
    /// [`GpuError::Driver`].
    pub fn new(
        context: &Arc<Context>,
        shape: MoeShape,
        up: &[u8],
        down: &[u8],
    ) -> Result<Self, GpuError> {
        shape.check()?;
        let (up_bytes, down_bytes) = shape.expert_bytes();
        for (bytes, each) in [(up, up_bytes), (down, down_bytes)] {
            length("moe", "weights", bytes.len(), each * shape.experts)?;
        }
        let library = Library::embedded(context, "moe")?;
        let kernels = [library.kernel("kilotok_moe_up")?, library.kernel("kilotok_moe_down")?];
        let stream = Stream::new(context)?;
        let up = DeviceBuffer::from_slice(&stream, up)?;
        let down = DeviceBuffer::from_slice(&stream, down)?;
        Ok(Self { shape, stream, up, down, kernels })
    }

    /// Runs both ops and returns `hidden` `[rows, top_k, inter]` bf16; adds to `residual` `[rows, size]`.
    ///
    /// # Errors
    /// [`GpuError::Shape`] for extents and experts out of range, [`GpuError::OutOfMemory`], [`GpuError::Driver`].
    pub fn run(&self, batch: &MoeBatch, residual: &mut [f32]) -> Result<Vec<u16>, GpuError> {
        self.check(batch, residual.len())?;
        let (MoeBatch { rows, top_k, .. }, MoeShape { size, inter, .. }) = (*batch, self.shape);
        let stream = &self.stream;
        let x = DeviceBuffer::from_slice(stream, batch.x)?;
        let experts = DeviceBuffer::from_slice(stream, batch.experts)?;
        let gates = DeviceBuffer::from_slice(stream, batch.gates)?;
        // Anything unwritten shows as NaN.
        let hidden = DeviceBuffer::from_slice(stream, &vec![0xFFFF_u16; rows * top_k * inter])?;
        let sums = DeviceBuffer::from_slice(stream, residual)?;
        let (up_bytes, down_bytes) = self.shape.expert_bytes();
        let up = MoeUpArgs {
            weights: self.up.address(),
            x: x.address(),
            experts: experts.address(),
            hidden: hidden.address(),
            expert_bytes: up_bytes as u64,
            rows: rows as u32,
            top_k: top_k as u32,
            size: size as u32,
            inter: inter as u32,
        };
        let slice_steps = slice_steps(inter);
        let down = MoeDownArgs {
            weights: self.down.address(),
            hidden: hidden.address(),
            experts: experts.address(),
            gates: gates.address(),
            residual: sums.address(),
            expert_bytes: down_bytes as u64,
            rows: rows as u32,
            top_k: top_k as u32,
            size: size as u32,
            inter: inter as u32,
            slice_steps: slice_steps as u32,
            reserved: 0,
        };
        let pairs = rows * top_k;
        let [up_shared, down_shared] = self.shape.shared_bytes(pairs);
        // The second kernel may ask for its weights while the first one still runs.
        let up_config = LaunchConfig {
            grid: [(inter / 16) as u32, pairs as u32, 1],
            shared_bytes: up_shared,
            is_programmatic: true,
            ..LaunchConfig::linear(1, THREADS)
        };
        let down_config = LaunchConfig {
            shared_bytes: down_shared,
            is_programmatic: true,
            ..LaunchConfig::linear((size / 32) as u32, THREADS)
        };
        let [up_kernel, down_kernel] = &self.kernels;
        up_kernel.allow_shared_bytes(up_shared)?;
        down_kernel.allow_shared_bytes(down_shared)?;
        // SAFETY: the argument types are the kernels'; the extents were checked, experts included, so that every address
        // stays inside the buffers above, which live until the downloads below have waited for the stream.
        unsafe {
            up_kernel.launch(stream, &up_config, &up)?;
            down_kernel.launch(stream, &down_config, &down)?;
        }
        sums.download(stream, residual)?;
        hidden.to_vec(stream)
    }

    fn check(&self, batch: &MoeBatch, residual: usize) -> Result<(), GpuError> {
        let MoeBatch { rows, top_k, x, experts, gates } = *batch;
        let pairs = rows.saturating_mul(top_k);
        if rows == 0 || top_k == 0 || rows > MAX_ROWS || pairs > MAX_PAIRS {
            return Err(GpuError::Shape {
                op: "moe",
                detail: format!(
                    "{rows} rows with {top_k} experts: at most {MAX_ROWS} rows and {MAX_PAIRS} pairs are possible"
                ),
            });
        }
        length("moe", "x", x.len(), rows * self.shape.size)?;
        length("moe", "residual", residual, rows * self.shape.size)?;
        length("moe", "experts", experts.len(), pairs)?;
        length("moe", "gates", gates.len(), pairs)?;
        for (row, chosen) in experts.chunks_exact(top_k).enumerate() {
            for (rank, expert) in chosen.iter().enumerate() {
                if *expert as usize >= self.shape.experts || chosen[..rank].contains(expert) {
                    return Err(GpuError::Shape {
                        op: "moe",
                        detail: format!(
                            "row {row} chose expert {expert}: out of {} experts, each once",
                            self.shape.experts
                        ),
                    });
                }
            }
        }
        Ok(())
    }
}

/// Steps that a warp adds up before the slices are added: at most 8 slices, and none shorter than 4 steps. Depends on
/// `inter` alone, so that a row's sum is associated in one way.
const fn slice_steps(inter: usize) -> usize {
    let steps = (inter / 64).div_ceil(8);
    if steps < 4 { 4 } else { steps }
}

fn length(op: &'static str, what: &str, have: usize, need: usize) -> Result<(), GpuError> {
    if have == need {
        return Ok(());
    }
    Err(GpuError::Shape { op, detail: format!("{what} has {have} elements, expected {need}") })
}

#[cfg(test)]
mod tests {
    use super::{MAX_INTER, MAX_PAIRS, MAX_SIZE, MoeShape, slice_steps};

    #[test]
    fn slices_cover_every_step_in_at_most_eight() {
        for inter in (64..=8192).step_by(64) {
            let (steps, each) = (inter / 64, slice_steps(inter));
            assert!(steps.div_ceil(each) <= 8);
            assert!(each >= 4);
        }
    }

    #[test]
    fn the_largest_shapes_fit_into_the_shared_memory_of_a_block() {
        let [up, down] =
            MoeShape { experts: 1, size: MAX_SIZE, inter: MAX_INTER }.shared_bytes(MAX_PAIRS);
        // Of 227 KB, the kernels' own static memory takes less than 10.
        assert!(up <= 217 * 1024, "{up}");
        assert!(down <= 225 * 1024, "{down}");
    }

    #[test]
    fn an_expert_has_four_and_a_quarter_bits_per_weight() {
        let shape = MoeShape { experts: 384, size: 6144, inter: 256 };
        let (up, down) = shape.expert_bytes();
        assert_eq!(up + down, 3 * 6144 * 256 * 17 / 32);
        assert!(MoeShape { size: 96, ..shape }.check().is_err());
        assert!(MoeShape { size: 16_384, ..shape }.check().is_err());
        assert!(MoeShape { inter: 4096, ..shape }.check().is_err());
        assert!(MoeShape { experts: 0, ..shape }.check().is_err());
        assert!(shape.check().is_ok());
    }
}
