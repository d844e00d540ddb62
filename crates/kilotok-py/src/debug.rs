//! One forward or draft pass with its inner values, for parity with other implementations.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kilotok::backend::cpu::{CpuConfig, CpuExecutor, Simd};
use kilotok::backend::{DraftBlock, Executor, Limits, Page, Row, Slot};
use kilotok::weights;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::codec::float_bytes;
use crate::errors::{guard, invalid, raised};
use crate::process;

const MAX_ROWS: usize = 64;
const PAGE_SIZE: usize = 16;

/// An executor with sequence 0 under test and maybe others that run beside it.
struct Bench {
    executor: CpuExecutor,
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
    fn open(
        model_dir: &Path,
        sequences: Vec<Vec<u32>>,
        threads: Option<usize>,
        simd: Option<&str>,
    ) -> PyResult<Self> {
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
        };
        let simd = simd.map(str::parse::<Simd>).transpose().map_err(raised)?;
        let config = CpuConfig { threads, simd, limits };
        let mut executor = CpuExecutor::new(Arc::new(model), config).map_err(raised)?;
        for slot in 0..sequences.len() {
            // Scattered on purpose: nothing may depend on where a page lies.
            let pages: Vec<Page> =
                (0..pages_each).rev().map(|page| (page * sequences.len() + slot) as Page).collect();
            executor.set_pages(slot as Slot, &pages);
        }
        Ok(Self { executor, vocab, sequences })
    }

    /// Feeds every sequence, `chunk` positions of each per pass, and makes all of it context.
    fn feed(&mut self, chunk: Option<usize>) -> PyResult<Values> {
        let most = MAX_ROWS / self.sequences.len().max(1);
        let chunk = chunk.unwrap_or(most);
        if !(1..=most).contains(&chunk) {
            return Err(invalid("chunk", &format!("{chunk} is not within [1, {most}]")));
        }
        let has_drafter = self.executor.max_drafts() > 0;
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
            self.executor.verify(&rows);
            for (index, _) in rows.iter().enumerate().filter(|(_, row)| row.slot == 0) {
                values.logits.extend_from_slice(self.executor.logits(index));
                values.taps.extend_from_slice(self.executor.taps(index));
            }
            if has_drafter {
                self.executor.commit(0..rows.len());
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
///
/// Returns
/// -------
/// dict
///     ``logits``: bytes of f32 ``[n, vocab]``; ``taps``: bytes of f32 ``[n, taps * hidden]``; ``vocab``.
#[pyfunction]
#[pyo3(signature = (model_dir, token_ids, chunk = None, threads = None, simd = None, beside = None))]
pub(crate) fn debug_forward<'py>(
    py: Python<'py>,
    model_dir: PathBuf,
    token_ids: Vec<u32>,
    chunk: Option<usize>,
    threads: Option<usize>,
    simd: Option<&str>,
    beside: Option<Vec<Vec<u32>>>,
) -> PyResult<Bound<'py, PyDict>> {
    guard(|| {
        let (values, vocab) = py.detach(|| {
            let mut sequences = vec![token_ids];
            sequences.extend(beside.unwrap_or_default());
            let mut bench = Bench::open(&model_dir, sequences, threads, simd)?;
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
///
/// Returns
/// -------
/// dict
///     ``tokens``: the drafted token ids; ``logits``: bytes of f32 ``[drafts, vocab]``; ``vocab``.
#[pyfunction]
#[pyo3(signature = (model_dir, token_ids, anchor, drafts, threads = None, simd = None))]
pub(crate) fn debug_draft<'py>(
    py: Python<'py>,
    model_dir: PathBuf,
    token_ids: Vec<u32>,
    anchor: u32,
    drafts: u32,
    threads: Option<usize>,
    simd: Option<&str>,
) -> PyResult<Bound<'py, PyDict>> {
    guard(|| {
        let (tokens, logits, vocab) = py.detach(|| {
            let start = token_ids.len() as u32;
            let mut bench = Bench::open(&model_dir, vec![token_ids], threads, simd)?;
            let most = bench.executor.max_drafts();
            if !(1..=most).contains(&(drafts as usize)) {
                return Err(invalid("drafts", &format!("{drafts} is not within [1, {most}]")));
            }
            if anchor as usize >= bench.vocab {
                return Err(invalid("anchor", &format!("{anchor} is not below {}", bench.vocab)));
            }
            bench.feed(None)?;
            let mut tokens = Vec::new();
            bench.executor.draft(&[DraftBlock { slot: 0, start, anchor, drafts }], &mut tokens);
            let logits: Vec<f32> = (0..drafts as usize)
                .flat_map(|index| bench.executor.draft_logits(index).to_vec())
                .collect();
            Ok((tokens, logits, bench.vocab))
        })?;
        let out = PyDict::new(py);
        out.set_item("tokens", tokens)?;
        out.set_item("logits", float_bytes(py, &logits))?;
        out.set_item("vocab", vocab)?;
        Ok(out)
    })
}
