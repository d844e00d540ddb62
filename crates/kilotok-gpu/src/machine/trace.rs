//! What every block did when, from the traced build of the resident kernel.

use std::sync::Arc;

use kilotok_kernels::abi::program as abi;

use super::{Machine, Mode};
use crate::error::GpuError;
use crate::library::{Kernel, Library};
use crate::mem::DeviceBuffer;

/// The family of the traced build.
pub(super) const FAMILY: &str = "engine_traced";

/// Most ops that a trace may keep: some 50 MB for 132 blocks.
pub const MOST_RECORDS: u32 = 4096;

/// Whether and where the resident kernel writes down what it does.
#[derive(Debug, Default)]
pub(super) struct Tracing {
    /// The image with the traced build, where it is not the embedded one.
    pub(super) library: Option<Arc<Library>>,
    kernel: Option<Kernel>,
    /// Records of all blocks, their counters behind them.
    buffer: Option<DeviceBuffer<u32>>,
    /// Of each block.
    records: u32,
}

const RECORD_WORDS: usize = size_of::<abi::TraceRecord>() / 4;

impl Tracing {
    /// Address and records of each block, for the kernel; 0 and 1 where nothing is traced.
    pub(super) fn place(&self) -> (u64, u32) {
        self.buffer.as_ref().map_or((0, 1), |buffer| (buffer.address(), self.records))
    }

    /// Never gives the memory back: a kernel that does not end may still write to it.
    pub(super) fn abandon(&mut self) {
        let _ = std::mem::ManuallyDrop::new(self.buffer.take());
    }
}

impl Machine {
    /// The traced build, where this machine needs it.
    pub(super) fn traced_kernel(&mut self) -> Result<Option<Kernel>, GpuError> {
        if self.tracing.buffer.is_none() && self.args.flags == 0 {
            return Ok(None);
        }
        if self.tracing.kernel.is_none() {
            let library = match &self.tracing.library {
                Some(library) => Arc::clone(library),
                None => Library::embedded(self.pool.context(), FAMILY)?,
            };
            let kernel = library.kernel("kilotok_persistent_traced")?;
            kernel.allow_shared_bytes(abi::SHARED_BYTES)?;
            self.tracing.kernel = Some(kernel);
        }
        Ok(self.tracing.kernel.clone())
    }

    /// From the next command on, every block keeps what it did in its newest `records` ops. The
    /// memory for it, 88 bytes a record, is reserved here and given back by [`Self::end_trace`].
    ///
    /// # Errors
    /// [`GpuError::Unsupported`] in graph mode and while a trace runs already, [`GpuError::Shape`] for a number
    /// of records outside of 1 to [`MOST_RECORDS`], [`GpuError::OutOfMemory`], those of [`Self::park`].
    pub fn start_trace(&mut self, records: u32) -> Result<(), GpuError> {
        let unsupported = |reason| Err(GpuError::Unsupported { what: "trace", reason });
        if self.options.mode == Mode::Graph {
            return unsupported("graph mode launches every op alone; use persistent mode");
        }
        if self.tracing.buffer.is_some() {
            return unsupported("one is running already");
        }
        if !(1..=MOST_RECORDS).contains(&records) {
            let detail = format!("{records} ops, expected 1 to {MOST_RECORDS}");
            return Err(GpuError::Shape { op: "trace", detail });
        }
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        self.park()?;
        let blocks = self.args.num_blocks as usize;
        let words = blocks * (records as usize * RECORD_WORDS + 1);
        self.tracing.buffer = Some(DeviceBuffer::zeroed(&self.copies, words)?);
        self.tracing.records = records;
        let kernel = self.traced_kernel().map(|_| ());
        if kernel.is_err() {
            self.tracing.buffer = None;
        }
        kernel
    }

    /// What every block did in its newest ops, oldest first; all blocks did the same ops.
    ///
    /// # Errors
    /// [`GpuError::Unsupported`] where no trace runs, those of [`Self::park`].
    pub fn end_trace(&mut self) -> Result<Vec<Vec<abi::TraceRecord>>, GpuError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        self.park()?;
        let Some(buffer) = self.tracing.buffer.take() else {
            return Err(GpuError::Unsupported { what: "trace", reason: "none is running" });
        };
        let mut words = vec![0; buffer.len()];
        buffer.download(&self.copies, &mut words)?;
        let per_block = self.tracing.records as usize * RECORD_WORDS;
        let blocks = words.chunks_exact(per_block).take(self.args.num_blocks as usize);
        Ok(blocks.map(block_records).collect())
    }
}

/// The records of one block's ring in the order in which they were written.
fn block_records(words: &[u32]) -> Vec<abi::TraceRecord> {
    use kilotok_kernels::abi::Shared;
    let record = |words: &[u32]| {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        abi::TraceRecord::read(&mut bytes.as_slice()).unwrap_or_default()
    };
    let records = words.chunks_exact(RECORD_WORDS).map(record);
    let mut records: Vec<_> = records.filter(|record| record.number != 0).collect();
    records.sort_unstable_by_key(|record| record.number);
    records
}
