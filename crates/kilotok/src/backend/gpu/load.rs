//! Brings a lowered model to the device.
#![allow(unsafe_code, reason = "running records on device memory is a promise about both")]

use std::sync::Arc;
use std::time::Duration;

use kilotok_gpu::machine::{Debug, Machine, MachineOptions, Places};
use kilotok_gpu::pool::{Component, MemoryPlan, MemoryPool, Uploader};
use kilotok_gpu::{Context, Stream};

use super::arena::{ALIGN, IMAGINED};
use super::errors::loading;
use super::executor::GpuConfig;
use super::lower::{Content, Lowered, Upload, lower};
use super::validate::validate;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::weights::Progress;

/// What each component is held for, in the order of [`Component::ALL`].
pub(super) const PURPOSES: [&str; 5] =
    ["weights", "kv cache", "sliding and drafter caches", "activations", "program"];

/// Bytes that are packed and sent at once.
const PIECE: usize = 32 << 20;

/// Told how far loading is.
type Report<'a> = Option<&'a mut dyn FnMut(Progress)>;

/// Reserves memory, copies every weight, and starts the machine.
pub(super) fn load<'m>(
    model: &'m Model,
    config: &GpuConfig,
    progress: Report<'_>,
) -> Result<(Lowered<'m>, Machine)> {
    load_with(model, config, |uploads, pool, stream| upload(uploads, pool, stream, progress))
}

/// Reserves memory, has it filled, and starts the machine.
pub(super) fn load_with<'m>(
    model: &'m Model,
    config: &GpuConfig,
    fill: impl FnOnce(&[Upload<'m>], &MemoryPool<Arc<Context>>, &Stream) -> Result<()>,
) -> Result<(Lowered<'m>, Machine)> {
    let context = Context::new(config.device).map_err(loading)?;
    let blocks = Machine::num_blocks(&context);
    let imagined = lower(model, config.limits, blocks, IMAGINED)?;
    let mut plan = MemoryPlan::default();
    let mut ids = Vec::new();
    for (component, bytes) in Component::ALL.into_iter().zip(imagined.sizes) {
        ids.push(plan.region(component, bytes, ALIGN).map_err(loading)?);
    }
    drop(imagined);
    let pool =
        MemoryPool::new(Arc::clone(&context), &plan, config.memory_fraction).map_err(loading)?;
    let mut bases = [0; 5];
    for (base, id) in bases.iter_mut().zip(ids) {
        *base = pool.region(id).map_err(loading)?.address;
    }
    let lowered = lower(model, config.limits, blocks, bases)?;
    validate(&lowered).map_err(|flaw| {
        Error::model_format("spec", format!("no sound program was made of it: {flaw}"))
    })?;
    let stream = Stream::new(&context).map_err(loading)?;
    pool.clear(&stream).map_err(loading)?;
    fill(&lowered.uploads, &pool, &stream)?;
    stream.synchronize().map_err(loading)?;
    let places = Places {
        ops: lowered.buffers.ops,
        command: lowered.buffers.command,
        barrier: lowered.buffers.barrier,
    };
    let mut options = MachineOptions::new(config.mode);
    if let Some(patience) = patience()? {
        options.patience = patience;
    }
    options.debug = debug()?;
    // SAFETY: `validate` has just proved that every record stays inside the regions of `lowered`,
    // which lie in this pool, and reads only what is uploaded or written before.
    let machine = unsafe { Machine::new(pool, &lowered.ops, places, options) }.map_err(loading)?;
    Ok((lowered, machine))
}

/// What the environment says about how long the device may show no sign of life: tools that watch
/// every access of a kernel slow it down a thousandfold.
fn patience() -> Result<Option<Duration>> {
    const NAME: &str = "KILOTOK_GPU_PATIENCE_MS";
    let Ok(text) = std::env::var(NAME) else { return Ok(None) };
    match text.parse() {
        Ok(ms) if ms > 0 => Ok(Some(Duration::from_millis(ms))),
        _ => Err(Error::invalid(NAME, format!("`{text}` is not a number of milliseconds"))),
    }
}

/// What the environment asks for beside the work: `barriers`, `delays=SEED` or both, with a comma.
fn debug() -> Result<Debug> {
    const NAME: &str = "KILOTOK_GPU_DEBUG";
    let mut debug = Debug::NONE;
    let text = std::env::var(NAME).unwrap_or_default();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        match (part, part.strip_prefix("delays=").map(str::parse)) {
            ("barriers", _) => debug.has_barriers = true,
            (_, Some(Ok(seed))) => debug.delay_seed = Some(seed),
            _ => {
                let reason = format!("`{part}` is not `barriers` or `delays=SEED`");
                return Err(Error::invalid(NAME, reason));
            }
        }
    }
    Ok(debug)
}

pub(super) fn upload(
    uploads: &[Upload<'_>],
    pool: &MemoryPool<Arc<Context>>,
    stream: &Stream,
    mut progress: Report<'_>,
) -> Result<()> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let most = uploads.iter().map(|upload| smallest_piece(&upload.content)).max().unwrap_or(0);
    let mut uploader = Uploader::new(pool, stream, PIECE.max(most)).map_err(loading)?;
    let bytes_total: u64 = uploads.iter().map(|upload| upload.content.bytes()).sum();
    let mut bytes_done = 0;
    for Upload { address, content } in uploads {
        let mut sent = 0u64;
        let total = content.bytes();
        while sent < total {
            let piece = uploader.piece().map_err(loading)?;
            let bytes = fill(content, sent as usize, piece, threads)?;
            uploader.send(address + sent, bytes).map_err(loading)?;
            sent += bytes as u64;
            if let Some(report) = &mut progress {
                let file = content.name().unwrap_or("vectors").to_owned();
                report(Progress { bytes_done: bytes_done + sent, bytes_total, file });
            }
        }
        bytes_done += total;
    }
    Ok(())
}

/// Bytes that cannot be sent apart.
fn smallest_piece(content: &Content<'_>) -> usize {
    match content {
        Content::Steps(packing) => packing.shape().tile_bytes(),
        _ => 0,
    }
}

/// Writes what follows byte `start` of some content into `piece`; how many bytes.
pub(super) fn fill(
    content: &Content<'_>,
    start: usize,
    piece: &mut [u8],
    threads: usize,
) -> Result<usize> {
    /// Copies the rest of `bytes`, as far as it fits.
    fn rest(mut bytes: impl ExactSizeIterator<Item = [u8; 4]>, piece: &mut [u8]) -> usize {
        let mut written = 0;
        for to in piece.chunks_exact_mut(4) {
            let Some(from) = bytes.next() else { break };
            to.copy_from_slice(&from);
            written += 4;
        }
        written
    }
    Ok(match content {
        Content::Steps(packing) => {
            let (tile, shape) = (packing.shape().tile_bytes(), packing.shape());
            let first = start / tile;
            let tiles = (piece.len() / tile).min(shape.tiles - first);
            packing.pack(first..first + tiles, &mut piece[..tiles * tile], threads)?;
            tiles * tile
        }
        Content::Bias(packing, vectors) => {
            let values = packing.order_vector(vectors)?;
            rest(values[start / 4..].iter().map(|value| value.to_le_bytes()), piece)
        }
        Content::Floats(values) => {
            rest(values[start / 4..].iter().map(|value| value.to_le_bytes()), piece)
        }
        Content::Doubles(values) => {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let bytes = &bytes[start..];
            let len = bytes.len().min(piece.len());
            piece[..len].copy_from_slice(&bytes[..len]);
            len
        }
        Content::Rows(name, matrix) => {
            let bytes = matrix.data.as_slice().get(start..content.bytes() as usize);
            let bytes = bytes.ok_or_else(|| {
                let reason = format!("{} bytes, expected {}", matrix.data.len(), content.bytes());
                Error::model_format(name, reason)
            })?;
            let len = bytes.len().min(piece.len());
            piece[..len].copy_from_slice(&bytes[..len]);
            len
        }
    })
}
