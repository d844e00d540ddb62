//! Bytes in and out of a pool's memory.

use std::sync::Arc;

use cudarc::driver::result;
use cudarc::driver::sys::cuMemcpyHtoDAsync_v2;

use super::MemoryPool;
use crate::context::Context;
use crate::error::GpuError;
use crate::mem::{DeviceCopy, MappedWords, PinnedBuffer};
use crate::stream::{Event, Stream};

impl MemoryPool<Arc<Context>> {
    /// The context that the memory belongs to.
    pub fn context(&self) -> &Arc<Context> {
        &self.card
    }

    fn check(&self, address: u64, bytes: usize) -> Result<(), GpuError> {
        let end = address.checked_add(bytes as u64);
        let last = self.reserved + self.layout.bytes();
        if address >= self.reserved && end.is_some_and(|end| end <= last) {
            return Ok(());
        }
        Err(GpuError::Shape {
            op: "memory pool",
            detail: format!(
                "{bytes} bytes at {address:#x} are outside of {:#x} to {last:#x}",
                self.reserved
            ),
        })
    }

    /// Fills all of it with zeros, in the order of `stream`.
    ///
    /// # Errors
    /// [`GpuError::Driver`].
    pub fn clear(&self, stream: &Stream) -> Result<(), GpuError> {
        self.fill_zero(stream, self.reserved, self.layout.bytes())
    }

    /// Fills a part with zeros, in the order of `stream`.
    ///
    /// # Errors
    /// [`GpuError::Shape`] outside of the pool, [`GpuError::Driver`].
    pub fn fill_zero(&self, stream: &Stream, address: u64, bytes: u64) -> Result<(), GpuError> {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        self.check(address, bytes)?;
        if bytes == 0 {
            return Ok(());
        }
        let driver = self.card.bind()?;
        // SAFETY: the bytes lie in the pool's reservation, as checked.
        let filled = unsafe { result::memset_d8_async(address, 0, bytes, stream.handle()) };
        driver.check("cuMemsetD8Async", filled)
    }

    /// Copies bytes that do not overlap, in the order of `stream`.
    ///
    /// # Errors
    /// [`GpuError::Shape`] outside of the pool, [`GpuError::Driver`].
    pub fn copy(&self, stream: &Stream, from: u64, to: u64, bytes: usize) -> Result<(), GpuError> {
        self.check(from, bytes)?;
        self.check(to, bytes)?;
        if bytes == 0 {
            return Ok(());
        }
        let driver = self.card.bind()?;
        // SAFETY: both lie in the pool's reservation, as checked.
        let copied = unsafe { result::memcpy_dtod_async(to, from, bytes, stream.handle()) };
        driver.check("cuMemcpyDtoDAsync", copied)
    }

    /// Copies `values` to `address` and waits until they are there.
    ///
    /// # Errors
    /// [`GpuError::Shape`] outside of the pool, [`GpuError::Driver`].
    pub fn write<T: DeviceCopy>(
        &self,
        stream: &Stream,
        address: u64,
        values: &[T],
    ) -> Result<(), GpuError> {
        self.check(address, size_of_val(values))?;
        if values.is_empty() {
            return Ok(());
        }
        let driver = self.card.bind()?;
        // SAFETY: the target lies in the pool's reservation, as checked; `values` is borrowed until
        // the synchronize below.
        let copied = unsafe { result::memcpy_htod_async(address, values, stream.handle()) };
        driver.check("cuMemcpyHtoDAsync", copied)?;
        stream.synchronize()
    }

    /// Copies words of shared memory to `address`, in the order of `stream`; whoever owns them keeps
    /// them until the stream has passed.
    pub(crate) fn write_mapped(
        &self,
        stream: &Stream,
        address: u64,
        words: &MappedWords,
        first: usize,
        bytes: usize,
    ) -> Result<(), GpuError> {
        self.check(address, bytes)?;
        let driver = self.card.bind()?;
        let source = words.bytes(first, bytes);
        // SAFETY: the target lies in the pool's reservation, as checked; the source is page-locked and
        // belongs to a machine, which waits for its stream before it is dropped.
        let copied = unsafe { cuMemcpyHtoDAsync_v2(address, source, bytes, stream.handle()) };
        driver.check("cuMemcpyHtoDAsync", copied.result())
    }

    /// Copies from `address` into `values` and waits until they are there.
    ///
    /// # Errors
    /// [`GpuError::Shape`] outside of the pool, [`GpuError::Driver`].
    pub fn read<T: DeviceCopy>(
        &self,
        stream: &Stream,
        address: u64,
        values: &mut [T],
    ) -> Result<(), GpuError> {
        self.check(address, size_of_val(values))?;
        if values.is_empty() {
            return Ok(());
        }
        let driver = self.card.bind()?;
        // SAFETY: the source lies in the pool's reservation, as checked; `values` is borrowed until
        // the synchronize below. Any bytes are valid elements: `T: DeviceCopy`.
        let copied = unsafe { result::memcpy_dtoh_async(values, address, stream.handle()) };
        driver.check("cuMemcpyDtoHAsync", copied)?;
        stream.synchronize()
    }
}

/// Copies much to a pool: one piece is filled while the other one is on its way.
#[derive(Debug)]
pub struct Uploader<'p> {
    pool: &'p MemoryPool<Arc<Context>>,
    stream: &'p Stream,
    pieces: [PinnedBuffer<u8>; 2],
    on_their_way: [Option<Event>; 2],
    next: usize,
}

impl<'p> Uploader<'p> {
    /// An uploader of pieces of at most `bytes` bytes.
    ///
    /// # Errors
    /// [`GpuError::OutOfMemory`], [`GpuError::Driver`].
    pub fn new(
        pool: &'p MemoryPool<Arc<Context>>,
        stream: &'p Stream,
        bytes: usize,
    ) -> Result<Self, GpuError> {
        let piece = || PinnedBuffer::new(pool.context(), bytes);
        Ok(Self { pool, stream, pieces: [piece()?, piece()?], on_their_way: [None, None], next: 0 })
    }

    /// The next piece, to be filled; waits until its last copy is over.
    ///
    /// # Errors
    /// [`GpuError::Driver`].
    pub fn piece(&mut self) -> Result<&mut [u8], GpuError> {
        if let Some(event) = self.on_their_way[self.next].take() {
            event.synchronize()?;
        }
        Ok(self.pieces[self.next].as_mut_slice())
    }

    /// Sends the first `bytes` bytes of the piece to `address`.
    ///
    /// # Errors
    /// [`GpuError::Shape`] outside of the pool or of the piece, [`GpuError::Driver`].
    pub fn send(&mut self, address: u64, bytes: usize) -> Result<(), GpuError> {
        self.pool.check(address, bytes)?;
        let piece = self.pieces[self.next].as_slice();
        let piece = piece.get(..bytes).ok_or_else(|| GpuError::Shape {
            op: "upload",
            detail: format!("{bytes} bytes of a piece of {}", piece.len()),
        })?;
        if piece.is_empty() {
            return Ok(());
        }
        let driver = self.pool.card.bind()?;
        // SAFETY: the target lies in the pool's reservation, as checked. The piece stays as it is
        // until `piece` or `drop` has waited for the event below.
        let copied = unsafe { result::memcpy_htod_async(address, piece, self.stream.handle()) };
        driver.check("cuMemcpyHtoDAsync", copied)?;
        self.on_their_way[self.next] = Some(self.stream.record()?);
        self.next = 1 - self.next;
        Ok(())
    }
}

impl Drop for Uploader<'_> {
    fn drop(&mut self) {
        // Nothing may be freed while it is read; the event of a copy may be missing after an error.
        let _ = self.stream.synchronize();
    }
}
