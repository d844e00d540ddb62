//! Random valid weights on the card, from one small pattern per format.

use std::ops::Range;
use std::sync::Arc;

use kilotok_gpu::pool::{MemoryPool, Uploader};
use kilotok_gpu::{Context, Stream};

use super::super::errors::loading;
use super::super::load;
use super::super::lower::{Content, Upload};
use crate::error::Result;
use crate::matrix::{Bytes, Format, Matrix};
use crate::numeric::bf16;
use crate::testing::Rng;
use crate::weights::repack::{Packing, RowOrder, StepFormat, TILE_ROWS};

/// Tiles of one step each in a pattern of steps. Prime: what repeats it, rows of experts or of the
/// embedding, does not fall in step with it.
const PATTERN_TILES: usize = 4_093;
/// Values of a pattern of rows.
const PATTERN_VALUES: usize = 4_194_301;
/// Largest magnitude of bfloat16 and 32-bit weights.
const LARGEST: f32 = 0.035;
/// e8m0 of MXFP4: 2^-7.
const SCALE: u8 = 120;
/// Of FP8.
const FACTOR: f32 = 5e-4;

/// What kind of bytes something is filled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    Steps(StepFormat),
    Bf16Rows,
    F32Rows,
}

impl Pattern {
    pub(super) const ALL: [Self; 5] = [
        Self::Steps(StepFormat::Bf16),
        Self::Steps(StepFormat::Fp8),
        Self::Steps(StepFormat::Mxfp4),
        Self::Bf16Rows,
        Self::F32Rows,
    ];

    /// The pattern of a matrix; vectors have none.
    pub(super) fn of(content: &Content<'_>) -> Option<Self> {
        match content {
            Content::Steps(packing) => Some(Self::Steps(packing.shape().format)),
            Content::Rows(_, matrix) if matches!(matrix.format, Format::F32) => Some(Self::F32Rows),
            Content::Rows(..) => Some(Self::Bf16Rows),
            Content::Bias(..) | Content::Floats(_) | Content::Doubles(_) => None,
        }
    }

    /// Its bytes: every finite code of MXFP4 and FP8, bfloat16 and floats evenly spread around zero.
    ///
    /// # Errors
    /// None for the matrices made here; those of packing.
    pub(super) fn bytes(self) -> Result<Vec<u8>> {
        let mut rng = Rng(7);
        let value = |rng: &mut Rng| {
            let unit = (rng.bits() >> 40) as f32 / (1u64 << 24) as f32;
            LARGEST * (2.0 * unit - 1.0)
        };
        let format = match self {
            Self::Steps(format) => format,
            Self::Bf16Rows => {
                let values = (0..PATTERN_VALUES).map(|_| bf16::encode(value(&mut rng)));
                return Ok(values.flat_map(u16::to_le_bytes).collect());
            }
            Self::F32Rows => {
                let values = (0..PATTERN_VALUES).map(|_| value(&mut rng));
                return Ok(values.flat_map(f32::to_le_bytes).collect());
            }
        };
        let (rows, cols) = (PATTERN_TILES * TILE_ROWS, format.cols());
        let mut bytes = |len: usize| -> Vec<u8> {
            (0..len.div_ceil(8)).flat_map(|_| rng.bits().to_le_bytes()).take(len).collect()
        };
        let (data, format) = match format {
            StepFormat::Bf16 => {
                let mut rng = Rng(11);
                let values = (0..rows * cols).map(|_| bf16::encode(value(&mut rng)));
                (values.flat_map(u16::to_le_bytes).collect(), Format::Bf16)
            }
            StepFormat::Fp8 => {
                let mut data = bytes(rows * cols);
                data.iter_mut().filter(|code| **code & 0x7f == 0x7f).for_each(|code| *code -= 1);
                let scales = vec![FACTOR; rows.div_ceil(128)].into();
                (data, Format::Fp8 { scales, rows_per_chunk: rows })
            }
            StepFormat::Mxfp4 => {
                let scales = Bytes::from_vec(vec![SCALE; rows * cols / 32]);
                (bytes(rows * cols / 2), Format::Mxfp4 { scales })
            }
        };
        let matrix = Matrix { rows, cols, data: Bytes::from_vec(data), format, row_step: 1 };
        let packing = Packing::new("pattern", vec![&matrix], RowOrder::Stored)?;
        let mut packed = vec![0; packing.shape().bytes()];
        packing.pack(0..packing.shape().tiles, &mut packed, 1)?;
        Ok(packed)
    }
}

/// How a pattern of `pattern` bytes is repeated over `bytes` bytes: each piece is its beginning.
pub(super) fn pieces(bytes: u64, pattern: usize) -> impl Iterator<Item = Range<u64>> {
    let pattern = pattern as u64;
    (0..bytes).step_by(pattern as usize).map(move |at| at..(at + pattern).min(bytes))
}

/// Fills everything that `uploads` names in a pool full of zeros: matrices with patterns, vectors as
/// the model has them, biases not at all.
pub(super) fn fill(
    uploads: &[Upload<'_>],
    pool: &MemoryPool<Arc<Context>>,
    stream: &Stream,
) -> Result<()> {
    for pattern in Pattern::ALL {
        let mut of_it =
            uploads.iter().filter(|u| Pattern::of(&u.content) == Some(pattern)).peekable();
        if of_it.peek().is_none() {
            continue;
        }
        let bytes = pattern.bytes()?;
        let mut uploader = Uploader::new(pool, stream, bytes.len()).map_err(loading)?;
        // Both pieces hold the pattern, and are sent again and again as they are.
        let mut unfilled = 2;
        for Upload { address, content } in of_it {
            for range in pieces(content.bytes(), bytes.len()) {
                let piece = uploader.piece().map_err(loading)?;
                if unfilled > 0 {
                    piece.copy_from_slice(&bytes);
                    unfilled -= 1;
                }
                let len = (range.end - range.start) as usize;
                uploader.send(address + range.start, len).map_err(loading)?;
            }
        }
        stream.synchronize().map_err(loading)?;
    }
    for Upload { address, content } in uploads {
        if matches!(content, Content::Floats(_) | Content::Doubles(_)) {
            let mut values = vec![0; content.bytes() as usize];
            load::fill(content, 0, &mut values, 1)?;
            pool.write(stream, *address, &values).map_err(loading)?;
        }
    }
    Ok(())
}
