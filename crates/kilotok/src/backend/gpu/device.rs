//! What runs op records: a machine on a GPU, or a stand-in.

use kilotok_gpu::GpuError;
use kilotok_gpu::machine::Machine;
use kilotok_gpu::mem::PinnedBuffer;
use kilotok_kernels::abi::program as abi;

use super::errors::running;
use super::load::upload;
use super::lower::Upload;

/// Weights to be packed and written over others.
#[derive(Debug)]
pub struct NewWeights<'a>(pub(super) &'a [Upload<'a>]);

/// A copy from one place on the device to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Address of the source.
    pub from: u64,
    /// Address of the target; they do not overlap.
    pub to: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// Runs commands on memory that the host reads and writes in between.
pub trait Device: Send {
    /// Host memory for logits.
    type Rows: AsRef<[f32]> + AsMut<[f32]> + Send + std::fmt::Debug;

    /// Host memory for `len` values.
    ///
    /// # Errors
    /// [`GpuError::OutOfMemory`], [`GpuError::Driver`].
    fn rows(&self, len: usize) -> Result<Self::Rows, GpuError>;

    /// Runs one command until it is finished.
    ///
    /// # Errors
    /// Whatever failed, now or before.
    fn run(&mut self, command: &abi::Command) -> Result<(), GpuError>;

    /// Takes a resident kernel off the device: the next command finds no caches of an earlier one.
    ///
    /// # Errors
    /// As [`Device::run`].
    fn park(&mut self) -> Result<(), GpuError>;

    /// What the runs of the newest command did, round by round, is handed to `told`.
    fn rounds(&self, told: &mut dyn FnMut(abi::Round));

    /// Writes words; no command runs.
    ///
    /// # Errors
    /// [`GpuError::Shape`] outside of the memory, [`GpuError::Driver`].
    fn write(&mut self, address: u64, words: &[u32]) -> Result<(), GpuError>;

    /// Copies memory to memory; no command runs.
    ///
    /// # Errors
    /// As [`Device::write`].
    fn copy(&mut self, copies: &mut dyn Iterator<Item = Transfer>) -> Result<(), GpuError>;

    /// Replaces weights; no command runs. After an error some may be replaced and others not.
    ///
    /// # Errors
    /// As of loading a model.
    fn load(&mut self, weights: NewWeights<'_>) -> crate::Result<()>;

    /// Reads floats; no command runs.
    ///
    /// # Errors
    /// As [`Device::write`].
    fn read(&self, address: u64, values: &mut [f32]) -> Result<(), GpuError>;

    /// Reads bfloat16 bits; no command runs.
    ///
    /// # Errors
    /// As [`Device::write`].
    fn read_bf16(&self, address: u64, bits: &mut [u16]) -> Result<(), GpuError>;

    /// Reads choices; no command runs.
    ///
    /// # Errors
    /// As [`Device::write`].
    fn read_choices(&self, address: u64, choices: &mut [abi::Choice]) -> Result<(), GpuError>;

    /// From the next command on, keeps what every block did in its newest `ops` ops.
    ///
    /// # Errors
    /// [`GpuError::Unsupported`] where that is not known, or is being kept already;
    /// [`GpuError::Shape`] for too many ops; whatever failed.
    fn start_trace(&mut self, ops: u32) -> Result<(), GpuError> {
        let _ = ops;
        Err(NO_TRACE)
    }

    /// What was kept, of each block, oldest first; nothing more is kept from now on.
    ///
    /// # Errors
    /// [`GpuError::Unsupported`] where no trace was started; whatever failed.
    fn end_trace(&mut self) -> Result<Vec<Vec<abi::TraceRecord>>, GpuError> {
        Err(NO_TRACE)
    }
}

const NO_TRACE: GpuError =
    GpuError::Unsupported { what: "trace", reason: "a stand-in for a GPU has no blocks" };

impl Device for Machine {
    type Rows = PinnedBuffer<f32>;

    fn rows(&self, len: usize) -> Result<Self::Rows, GpuError> {
        PinnedBuffer::new(self.pool().context(), len)
    }

    fn run(&mut self, command: &abi::Command) -> Result<(), GpuError> {
        Self::run(self, command)
    }

    fn park(&mut self) -> Result<(), GpuError> {
        Self::park(self)
    }

    fn rounds(&self, told: &mut dyn FnMut(abi::Round)) {
        Self::rounds(self).for_each(told);
    }

    fn write(&mut self, address: u64, words: &[u32]) -> Result<(), GpuError> {
        self.pool().write(self.copies(), address, words)
    }

    /// A resident kernel fills the device, so that copies might wait for it: it is parked.
    fn copy(&mut self, copies: &mut dyn Iterator<Item = Transfer>) -> Result<(), GpuError> {
        Self::park(self)?;
        for Transfer { from, to, bytes } in copies {
            self.pool().copy(self.copies(), from, to, bytes as usize)?;
        }
        self.copies().synchronize()
    }

    fn load(&mut self, NewWeights(uploads): NewWeights<'_>) -> crate::Result<()> {
        Self::park(self).map_err(|error| running(&error))?;
        upload(uploads, self.pool(), self.copies(), None)?;
        self.copies().synchronize().map_err(|error| running(&error))
    }

    fn read(&self, address: u64, values: &mut [f32]) -> Result<(), GpuError> {
        self.pool().read(self.copies(), address, values)
    }

    fn read_bf16(&self, address: u64, bits: &mut [u16]) -> Result<(), GpuError> {
        self.pool().read(self.copies(), address, bits)
    }

    fn read_choices(&self, address: u64, choices: &mut [abi::Choice]) -> Result<(), GpuError> {
        self.pool().read(self.copies(), address, choices)
    }

    fn start_trace(&mut self, ops: u32) -> Result<(), GpuError> {
        Self::start_trace(self, ops)
    }

    fn end_trace(&mut self) -> Result<Vec<Vec<abi::TraceRecord>>, GpuError> {
        Self::end_trace(self)
    }
}
