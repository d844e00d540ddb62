//! One forward or draft pass with its inner values, for parity with other implementations.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kilotok::backend::cpu::{CpuConfig, CpuExecutor, Simd};
use kilotok::backend::gpu::{GpuConfig, GpuExecutor, Mode};
use kilotok::backend::{DraftBlock, Executor, Limits, Page, Row, Slot};
use kilotok::{Model, weights};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::codec::float_bytes;
use crate::errors::{guard, invalid, raised};
use crate::process;

const MAX_ROWS: usize = 64;
const PAGE_SIZE: usize = 16;

/// Where the passes run.
enum Runner {
    Cpu(Box<CpuExecutor>),
    Gpu(Box<GpuExecutor>),
}

impl Runner {
    fn executor(&mut self) -> &mut dyn Executor {
        match self {
            Self::Cpu(executor) => &mut **executor,
            Self::Gpu(executor) => &mut **executor,
        }
    }

    fn taps(&self, row: usize) -> &[f32] {
        match self {
            Self::Cpu(executor) => executor.taps(row),
            Self::Gpu(executor) => executor.taps(row),
        }
    }

    fn draft_logits(&self, index: usize) -> PyResult<Vec<f32>> {
        match self {
            Self::Cpu(executor) => Ok(executor.draft_logits(index).to_vec()),
            Self::Gpu(executor) => executor.draft_logits(index).map_err(raised),
        }
    }
}

/// Options of a pass.
struct Place<'a> {
    threads: Option<usize>,
    simd: Option<&'a str>,
    device: &'a str,
    mode: &'a str,
}

impl Place<'_> {
    fn runner(&self, model: Model, limits: Limits) -> PyResult<Runner> {
        if self.device == "cpu" {
            let simd = self.simd.map(str::parse::<Simd>).transpose().map_err(raised)?;
            let config = CpuConfig { threads: self.threads, simd, limits };
            let executor = CpuExecutor::new(Arc::new(model), config).map_err(raised)?;
            return Ok(Runner::Cpu(Box::new(executor)));
        }
        let mode = match (self.device, self.mode) {
            ("cuda", "graph") => Mode::Graph,
            ("cuda", "persistent") => Mode::Persistent,
            ("cuda", other) => {
                return Err(invalid("mode", &format!("'{other}' is not 'graph' or 'persistent'")));
            }
            (other, _) => {
                return Err(invalid("device", &format!("'{other}' is not 'cpu' or 'cuda'")));
            }
        };
        let config = GpuConfig::new(mode, limits);
        let mut executor = GpuExecutor::new(&Arc::new(model), &config, None).map_err(raised)?;
        executor.keep_taps(true);
        Ok(Runner::Gpu(Box::new(executor)))
    }
}

/// An executor with sequence 0 under test and maybe others that run beside it.
struct Bench {
    runner: Runner,
    vocab: usize,
    sequences: Vec<Vec<u32>>,
}

/// What the passes over sequence 0 gave.
#[derive(Default)]
struct Values {
    logits: Vec<f32>,
    taps: Vec<f32>,
}

impl Bench {
    fn open(model_dir: &Path, sequences: Vec<Vec<u32>>, place: &Place<'_>) -> PyResult<Self> {
        process::check()?;
        let model = weights::load(model_dir, None).map_err(raised)?;
        let vocab = model.spec.vocab;
        if sequences.iter().any(Vec::is_empty) {
            return Err(invalid("token_ids", "is empty"));
        }
        if let Some(token) = sequences.iter().flatten().find(|token| **token as usize >= vocab) {
            return Err(invalid("token_ids", &format!("token id {token} is not below {vocab}")));
        }
        let block = model.spec.drafter.as_ref().map_or(0, |drafter| drafter.block_size);
        let longest = sequences.iter().map(Vec::len).max().unwrap_or(0) + block;
        let pages_each = longest.div_ceil(PAGE_SIZE);
        let limits = Limits {
            max_rows: MAX_ROWS,
            slots: sequences.len(),
            pages: pages_each * sequences.len(),
            page_size: PAGE_SIZE,
            max_positions: longest,
            snapshots: 0,
        };
        let mut runner = place.runner(model, limits)?;
        for slot in 0..sequences.len() {
            // Scattered on purpose: nothing may depend on where a page lies.
            let pages: Vec<Page> =
                (0..pages_each).rev().map(|page| (page * sequences.len() + slot) as Page).collect();
            runner.executor().set_pages(slot as Slot, &pages);
        }
        Ok(Self { runner, vocab, sequences })
    }

    /// Feeds every sequence, `chunk` positions of each per pass, and makes all of it context.
    fn feed(&mut self, chunk: Option<usize>) -> PyResult<Values> {
        let most = MAX_ROWS / self.sequences.len().max(1);
        let chunk = chunk.unwrap_or(most);
        if !(1..=most).contains(&chunk) {
            return Err(invalid("chunk", &format!("{chunk} is not within [1, {most}]")));
        }
        let has_drafter = self.runner.executor().max_drafts() > 0;
        let mut values = Values::default();
        let longest = self.sequences.iter().map(Vec::len).max().unwrap_or(0);
        for start in (0..longest).step_by(chunk) {
            let mut rows = Vec::new();
            // The sequence under test comes last: its rows have company before them.
            for (slot, tokens) in self.sequences.iter().enumerate().rev() {
                let end = tokens.len().min(start + chunk);
                for (position, token) in tokens.iter().enumerate().take(end).skip(start) {
                    let (slot, position) = (slot as Slot, position as u32);
                    rows.push(Row { slot, position, token: *token, needs_logits: true });
                }
            }
            self.runner.executor().verify(&rows);
            self.runner.executor().check().map_err(raised)?;
            for (index, _) in rows.iter().enumerate().filter(|(_, row)| row.slot == 0) {
                values.logits.extend_from_slice(self.runner.executor().logits(index));
                values.taps.extend_from_slice(self.runner.taps(index));
            }
            if has_drafter {
                self.runner.executor().commit(0..rows.len());
            }
        }
        Ok(values)
    }
}

/// Run the target over one sequence and return what it computed.
///
/// Parameters
/// ----------
/// model_dir : path
/// token_ids : list of int
/// chunk : int, optional
///     Positions per pass, at most 64 over all sequences.
/// threads : int, optional
/// simd : str, optional
/// beside : list of list of int, optional
///     Sequences that run in the same passes and must not change a bit.
/// device : str
///     ``"cpu"`` or ``"cuda"``.
/// mode : str
///     On a GPU ``"graph"`` or ``"persistent"``.
///
/// Returns
/// -------
/// dict
///     ``logits``: bytes of f32 ``[n, vocab]``; ``taps``: bytes of f32 ``[n, taps * hidden]``; ``vocab``.
#[pyfunction]
#[pyo3(signature = (
    model_dir, token_ids, chunk = None, threads = None, simd = None, beside = None, device = "cpu", mode = "persistent"
))]
#[allow(clippy::too_many_arguments, reason = "keyword arguments of a Python function")]
pub(crate) fn debug_forward<'py>(
    py: Python<'py>,
    model_dir: PathBuf,
    token_ids: Vec<u32>,
    chunk: Option<usize>,
    threads: Option<usize>,
    simd: Option<&str>,
    beside: Option<Vec<Vec<u32>>>,
    device: &str,
    mode: &str,
) -> PyResult<Bound<'py, PyDict>> {
    guard(|| {
        let (values, vocab) = py.detach(|| {
            let mut sequences = vec![token_ids];
            sequences.extend(beside.unwrap_or_default());
            let place = Place { threads, simd, device, mode };
            let mut bench = Bench::open(&model_dir, sequences, &place)?;
            PyResult::Ok((bench.feed(chunk)?, bench.vocab))
        })?;
        let out = PyDict::new(py);
        out.set_item("logits", float_bytes(py, &values.logits))?;
        out.set_item("taps", float_bytes(py, &values.taps))?;
        out.set_item("vocab", vocab)?;
        Ok(out)
    })
}

/// Draft one block behind a sequence.
///
/// Parameters
/// ----------
/// model_dir : path
/// token_ids : list of int
///     The context, fed to the target and committed.
/// anchor : int
///     The token at position ``len(token_ids)``.
/// drafts : int
///     Masked rows behind the anchor.
/// threads : int, optional
/// simd : str, optional
/// device : str
///     ``"cpu"`` or ``"cuda"``.
/// mode : str
///     On a GPU ``"graph"`` or ``"persistent"``.
///
/// Returns
/// -------
/// dict
///     ``tokens``: the drafted token ids; ``logits``: bytes of f32 ``[drafts, vocab]``; ``vocab``.
#[pyfunction]
#[pyo3(signature = (
    model_dir, token_ids, anchor, drafts, threads = None, simd = None, device = "cpu", mode = "persistent"
))]
#[allow(clippy::too_many_arguments, reason = "keyword arguments of a Python function")]
pub(crate) fn debug_draft<'py>(
    py: Python<'py>,
    model_dir: PathBuf,
    token_ids: Vec<u32>,
    anchor: u32,
    drafts: u32,
    threads: Option<usize>,
    simd: Option<&str>,
    device: &str,
    mode: &str,
) -> PyResult<Bound<'py, PyDict>> {
    guard(|| {
        let (tokens, logits, vocab) = py.detach(|| {
            let start = token_ids.len() as u32;
            let place = Place { threads, simd, device, mode };
            let mut bench = Bench::open(&model_dir, vec![token_ids], &place)?;
            let most = bench.runner.executor().max_drafts();
            if !(1..=most).contains(&(drafts as usize)) {
                return Err(invalid("drafts", &format!("{drafts} is not within [1, {most}]")));
            }
            if anchor as usize >= bench.vocab {
                return Err(invalid("anchor", &format!("{anchor} is not below {}", bench.vocab)));
            }
            bench.feed(None)?;
            let mut tokens = Vec::new();
            let block = DraftBlock { slot: 0, start, anchor, drafts };
            bench.runner.executor().draft(&[block], &mut tokens);
            bench.runner.executor().check().map_err(raised)?;
            let mut logits: Vec<f32> = Vec::new();
            for index in 0..drafts as usize {
                logits.extend(bench.runner.draft_logits(index)?);
            }
            Ok((tokens, logits, bench.vocab))
        })?;
        let out = PyDict::new(py);
        out.set_item("tokens", tokens)?;
        out.set_item("logits", float_bytes(py, &logits))?;
        out.set_item("vocab", vocab)?;
        Ok(out)
    })
}
