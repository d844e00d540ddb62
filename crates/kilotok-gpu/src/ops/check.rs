//! One op of a program by itself, over buffers that the caller lays out: what parity tests run.

use std::sync::Arc;

use kilotok_kernels::abi::Shared;
use kilotok_kernels::abi::program::{Command, Machine, Mailbox, OP_BYTES, Op};

use crate::context::Context;
use crate::error::GpuError;
use crate::launch::LaunchConfig;
use crate::library::Library;
use crate::mem::DeviceBuffer;
use crate::stream::Stream;

const THREADS: u32 = 384;
/// SCRATCH_BYTES of persistent/block.cuh.
const SHARED_BYTES: u32 = 104_448;
/// Bytes of an op's `kind` and `flags`, before its payload.
const HEAD_BYTES: usize = 8;

/// An op and what it works on; everything is read and written in place.
#[derive(Debug)]
pub struct OpCheck<'a> {
    /// [`Op::kind`].
    pub kind: u32,
    /// The struct of the kind; addresses are filled in.
    pub payload: &'a [u8],
    /// (offset in the payload, index of the buffer) of every address that is not 0.
    pub places: &'a [(usize, usize)],
    /// What the addresses point to.
    pub buffers: &'a mut [Vec<u8>],
    /// A [`Command`]; its pass has the rows.
    pub command: &'a mut Vec<u8>,
    /// A [`Mailbox`].
    pub mailbox: &'a mut Vec<u8>,
    /// Blocks of the grid.
    pub blocks: u32,
    /// Launches, at least one, queued one after the other; each sees what the one before wrote.
    pub repeats: u32,
}

impl OpCheck<'_> {
    /// Launches the op; returns the time of a launch in microseconds, on average over all.
    ///
    /// # Errors
    /// [`GpuError::Shape`] for a payload, a command or a mailbox of another size than the device's and for places
    /// outside; [`GpuError::OutOfMemory`], [`GpuError::NoImage`], [`GpuError::Driver`].
    ///
    /// # Safety
    /// The extents in the payload have to fit the buffers: nothing else knows what the op reads and writes.
    pub unsafe fn run(&mut self, context: &Arc<Context>) -> Result<f64, GpuError> {
        self.check()?;
        let stream = Stream::new(context)?;
        let kernel = Library::embedded(context, "ops_check")?.kernel("kilotok_ops_check")?;
        kernel.allow_shared_bytes(SHARED_BYTES)?;
        let buffers = self
            .buffers
            .iter()
            .map(|bytes| DeviceBuffer::from_slice(&stream, bytes))
            .collect::<Result<Vec<_>, _>>()?;
        let mut op = Vec::with_capacity(OP_BYTES);
        op.extend_from_slice(&self.kind.to_le_bytes());
        op.extend_from_slice(&0u32.to_le_bytes());
        op.extend_from_slice(self.payload);
        op.resize(OP_BYTES, 0);
        for &(offset, index) in self.places {
            let address = buffers[index].address().to_le_bytes();
            op[HEAD_BYTES + offset..HEAD_BYTES + offset + 8].copy_from_slice(&address);
        }
        let op = DeviceBuffer::from_slice(&stream, &op)?;
        let command = DeviceBuffer::from_slice(&stream, self.command)?;
        let mailbox = DeviceBuffer::from_slice(&stream, self.mailbox)?;
        let args = Machine {
            ops: op.address(),
            command: command.address(),
            mailbox: mailbox.address(),
            num_blocks: self.blocks,
            ..Machine::ZERO
        };
        let config = LaunchConfig {
            shared_bytes: SHARED_BYTES,
            ..LaunchConfig::linear(self.blocks, THREADS)
        };
        let repeats = self.repeats.max(1);
        let start = stream.record()?;
        for _ in 0..repeats {
            // SAFETY: the kernel takes a KilotokMachine. Op, command and mailbox have the device's sizes; that the
            // payload fits the buffers is the caller's promise. All of them live until the downloads below.
            unsafe { kernel.launch(&stream, &config, &args)? };
        }
        let microseconds = stream.record()?.microseconds_since(&start)? / f64::from(repeats);
        for (buffer, bytes) in buffers.iter().zip(self.buffers.iter_mut()) {
            buffer.download(&stream, bytes)?;
        }
        command.download(&stream, self.command)?;
        mailbox.download(&stream, self.mailbox)?;
        Ok(microseconds)
    }

    fn check(&self) -> Result<(), GpuError> {
        let wrong = |detail: String| Err(GpuError::Shape { op: "check", detail });
        for (what, have, need) in [
            ("command", self.command.len(), size_of::<Command>()),
            ("mailbox", self.mailbox.len(), size_of::<Mailbox>()),
        ] {
            if have != need {
                return wrong(format!("the {what} has {have} bytes, expected {need}"));
            }
        }
        if self.payload.len() > size_of::<Op>() - HEAD_BYTES {
            return wrong(format!("a payload of {} bytes is too long", self.payload.len()));
        }
        for &(offset, index) in self.places {
            if offset + 8 > self.payload.len() || index >= self.buffers.len() {
                return wrong(format!("no place for buffer {index} at offset {offset}"));
            }
        }
        Ok(())
    }
}
