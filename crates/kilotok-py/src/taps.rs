//! Residuals of whole texts for drafter training, and drafts behind any of their positions.

use std::path::PathBuf;
use std::sync::Arc;

use kilotok::backend::cpu::{CpuConfig, CpuExecutor, Simd};
use kilotok::backend::{DraftBlock, Executor, Limits, Page, Row, Slot};
use kilotok::weights::{self, DrafterChoice, LoadOptions};
use kilotok::{Bytes, DrafterSpec, DrafterWeights, Format, Matrix, Model, RopeSpec};
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use crate::codec::float_bytes;
use crate::errors::{guard, invalid, raised};
use crate::process;

const PAGE_SIZE: usize = 16;

/// A loaded target that reads texts instead of writing them; `open_taps` makes one.
#[pyclass(module = "kilotok._core", frozen)]
pub(crate) struct TapReader {
    executor: Mutex<CpuExecutor>,
    vocab: usize,
    hidden: usize,
    layers: Vec<usize>,
    has_drafter: bool,
}

/// Load a target to read the residuals of texts.
///
/// Parameters
/// ----------
/// model_dir : path
/// layers : list of int, optional
///     0-based target layers whose output residual is tapped, ascending; by default the drafter's.
/// drafter : path, optional
///     Its directory; ``dflash`` inside the model by default. Not read where `layers` is given.
/// max_positions : int
///     Longest text.
/// max_rows : int
///     Positions per pass.
/// threads : int, optional
/// simd : str, optional
#[pyfunction]
#[pyo3(signature = (model_dir, layers = None, drafter = None, max_positions = 4096, max_rows = 256, threads = None, simd = None))]
#[allow(clippy::too_many_arguments, reason = "keyword arguments of one constructor")]
pub(crate) fn open_taps(
    py: Python<'_>,
    model_dir: PathBuf,
    layers: Option<Vec<usize>>,
    drafter: Option<PathBuf>,
    max_positions: usize,
    max_rows: usize,
    threads: Option<usize>,
    simd: Option<&str>,
) -> PyResult<TapReader> {
    process::check()?;
    guard(|| {
        py.detach(|| {
            let has_drafter = layers.is_none();
            let choice = match (&layers, drafter) {
                (Some(_), _) => DrafterChoice::None,
                (None, Some(dir)) => DrafterChoice::Dir(dir),
                (None, None) => DrafterChoice::Auto,
            };
            let options = LoadOptions { drafter: choice };
            let mut model = weights::load_with(&model_dir, &options, None).map_err(raised)?;
            if let Some(layers) = layers {
                tap_only(&mut model, layers)?;
            }
            let Some(spec) = &model.spec.drafter else {
                return Err(invalid("layers", "the model has no drafter to say which to tap"));
            };
            let layers = spec.taps.clone();
            let (vocab, hidden) = (model.spec.vocab, model.spec.hidden);
            // As many texts side by side as fill a pass, so that short ones do not run alone.
            let slots = (max_rows / 32).clamp(1, 16);
            let limits = Limits {
                max_rows,
                slots,
                pages: slots * max_positions.div_ceil(PAGE_SIZE),
                page_size: PAGE_SIZE,
                max_positions,
                snapshots: 0,
            };
            let simd = simd.map(str::parse::<Simd>).transpose().map_err(raised)?;
            let config = CpuConfig { threads, simd, limits };
            let executor = CpuExecutor::new(Arc::new(model), config).map_err(raised)?;
            Ok(TapReader { executor: Mutex::new(executor), vocab, hidden, layers, has_drafter })
        })
    })
}

#[pymethods]
impl TapReader {
    /// Target layers that are tapped, in the order of the columns.
    #[getter]
    fn layers(&self) -> Vec<usize> {
        self.layers.clone()
    }

    /// Width of the residual stream.
    #[getter]
    fn hidden(&self) -> usize {
        self.hidden
    }

    /// Taps of whole texts: per text bytes of f32 ``[n, layers * hidden]``.
    fn read<'py>(&self, py: Python<'py>, texts: Vec<Vec<u32>>) -> PyResult<Bound<'py, PyList>> {
        guard(|| {
            let taps = py.detach(|| {
                texts.iter().try_for_each(|text| self.check(text))?;
                PyResult::Ok(read(&mut self.executor.lock(), &texts))
            })?;
            let taps: Vec<Bound<'py, PyBytes>> =
                taps.iter().map(|taps| float_bytes(py, taps)).collect();
            PyList::new(py, taps)
        })
    }

    /// The tokens drafted behind anchors at positions ``starts`` (ascending, from 1) of a text:
    /// per start a list of ``drafts`` token ids, for positions ``start + 1`` and on.
    fn draft(
        &self,
        py: Python<'_>,
        text: Vec<u32>,
        starts: Vec<u32>,
        drafts: u32,
    ) -> PyResult<Vec<Vec<u32>>> {
        guard(|| {
            py.detach(|| {
                self.check(&text)?;
                let mut executor = self.executor.lock();
                if !self.has_drafter {
                    return Err(invalid("layers", "given, so that no drafter was loaded"));
                }
                let most = executor.max_drafts();
                if !(1..=most).contains(&(drafts as usize)) {
                    return Err(invalid("drafts", &format!("{drafts} is not within [1, {most}]")));
                }
                let ascends = starts.windows(2).all(|pair| pair[0] < pair[1]);
                let inside = starts.iter().all(|&s| s >= 1 && (s as usize) < text.len());
                if !ascends || !inside {
                    let reason = format!("expected ascending positions in [1, {})", text.len());
                    return Err(invalid("starts", &reason));
                }
                Ok(draft(&mut executor, &text, &starts, drafts))
            })
        })
    }
}

impl TapReader {
    fn check(&self, text: &[u32]) -> PyResult<()> {
        let most = self.executor.lock().limits().max_positions;
        if text.is_empty() || text.len() > most {
            let found = text.len();
            return Err(invalid("text", &format!("{found} tokens, expected 1 to {most}")));
        }
        match text.iter().find(|token| **token as usize >= self.vocab) {
            Some(token) => {
                Err(invalid("text", &format!("token {token} is not below {}", self.vocab)))
            }
            None => Ok(()),
        }
    }
}

/// Gives a model without a drafter the smallest one, for the taps that come with it; it drafts nothing.
fn tap_only(model: &mut Model, layers: Vec<usize>) -> PyResult<()> {
    let count = model.spec.layers.len();
    let ascends = layers.windows(2).all(|pair| pair[0] < pair[1]);
    if layers.is_empty() || !ascends || layers.iter().any(|layer| *layer >= count) {
        let reason = format!("expected ascending layer numbers below {count}, found {layers:?}");
        return Err(invalid("layers", &reason));
    }
    let hidden = model.spec.hidden;
    let zeros = || Arc::from(vec![0.0; hidden]);
    model.drafter = Some(DrafterWeights {
        fc: Matrix {
            rows: hidden,
            cols: layers.len() * hidden,
            data: Bytes::from_vec(vec![0; layers.len() * hidden * hidden * 2]),
            format: Format::Bf16,
            row_step: 1,
        },
        hidden_norm: zeros(),
        norm: zeros(),
        mask_embedding: zeros(),
        layers: Vec::new(),
    });
    model.spec.drafter = Some(DrafterSpec {
        block_size: 2,
        mask_token_id: 0,
        taps: layers,
        layers: 0,
        hidden,
        heads: 1,
        kv_heads: 1,
        head_dim: 2,
        inter: 1,
        rope: RopeSpec { dims: 2, theta: 1e4, yarn: None },
        windows: Vec::new(),
        causal: Vec::new(),
        sinks: false,
        value_scale: 1.0,
        norm_eps: 1e-6,
    });
    Ok(())
}

/// Hands a slot the pages that belong to it.
fn open_slot(executor: &mut CpuExecutor, slot: usize) {
    let limits = executor.limits();
    let each = limits.pages / limits.slots;
    let pages: Vec<Page> = (slot * each..(slot + 1) * each).map(|page| page as Page).collect();
    executor.set_pages(slot as Slot, &pages);
}

fn row(slot: usize, position: usize, token: u32) -> Row {
    Row { slot: slot as Slot, position: position as u32, token, needs_logits: false }
}

fn read(executor: &mut CpuExecutor, texts: &[Vec<u32>]) -> Vec<Vec<f32>> {
    let limits = executor.limits();
    let mut taps: Vec<Vec<f32>> = vec![Vec::new(); texts.len()];
    for (group, members) in texts.chunks(limits.slots).enumerate() {
        let mut rows = Vec::new();
        for (slot, text) in members.iter().enumerate() {
            open_slot(executor, slot);
            rows.extend(text.iter().enumerate().map(|(at, token)| row(slot, at, *token)));
        }
        for pass in rows.chunks(limits.max_rows) {
            executor.verify(pass);
            for (index, row) in pass.iter().enumerate() {
                let text = group * limits.slots + row.slot as usize;
                taps[text].extend_from_slice(executor.taps(index));
            }
        }
    }
    taps
}

fn draft(executor: &mut CpuExecutor, text: &[u32], starts: &[u32], drafts: u32) -> Vec<Vec<u32>> {
    let max_rows = executor.limits().max_rows;
    open_slot(executor, 0);
    let mut out = Vec::new();
    let mut fed = 0;
    let mut starts = starts;
    while let Some(&last) = starts.last() {
        // The context is a ring: blocks must be drafted before it has moved on.
        let end = (last as usize).min(fed + max_rows);
        let rows: Vec<Row> = (fed..end).map(|at| row(0, at, text[at])).collect();
        executor.verify(&rows);
        executor.commit(0..rows.len());
        fed = end;
        let here = starts.partition_point(|&start| start as usize <= end);
        let blocks: Vec<DraftBlock> = starts[..here]
            .iter()
            .map(|&start| DraftBlock { slot: 0, start, anchor: text[start as usize], drafts })
            .collect();
        executor.draft(&blocks, &mut out);
        starts = &starts[here..];
    }
    out.chunks(drafts as usize).map(<[u32]>::to_vec).collect()
}
