//! Host memory that host and device see at the same time: words to talk by.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use cudarc::driver::result;
use cudarc::driver::sys::{
    CU_MEMHOSTALLOC_DEVICEMAP, CU_MEMHOSTALLOC_PORTABLE, CUdeviceptr, cuMemHostGetDevicePointer_v2,
};

use crate::context::Context;
use crate::error::GpuError;

/// 32-bit words in page-locked host memory, zero at first, freed on drop.
///
/// Both sides read and write while the other one does: every access is an atomic one of a word.
#[derive(Debug)]
pub struct MappedWords {
    context: Arc<Context>,
    words: NonNull<AtomicU32>,
    len: usize,
    address: CUdeviceptr,
}

impl MappedWords {
    /// Reserves `len` words.
    ///
    /// # Errors
    /// [`GpuError::OutOfMemory`], [`GpuError::Driver`].
    pub fn new(context: &Arc<Context>, len: usize) -> Result<Self, GpuError> {
        let driver = context.bind()?;
        let bytes = len.max(1).saturating_mul(4);
        let flags = CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP;
        // SAFETY: the context is current; the memory is filled below, before anyone can read it.
        let raw = unsafe { result::malloc_host(bytes, flags) };
        let raw = driver.check_allocation("cuMemHostAlloc", raw, "pinned host", bytes)?;
        let none = GpuError::OutOfMemory { kind: "pinned host", bytes };
        let words = NonNull::new(raw.cast::<AtomicU32>()).ok_or(none)?;
        let mut this = Self { context: Arc::clone(context), words, len, address: 0 };
        for i in 0..len.max(1) {
            // SAFETY: the allocation has room for these words and is aligned to a page.
            unsafe { words.add(i).write(AtomicU32::new(0)) };
        }
        // SAFETY: `raw` was allocated above as mapped memory; `address` is a place for one pointer.
        let status = unsafe { cuMemHostGetDevicePointer_v2(&raw mut this.address, raw, 0) };
        driver.check("cuMemHostGetDevicePointer", status.result())?;
        Ok(this)
    }

    /// The device address of the first word.
    pub fn address(&self) -> u64 {
        self.address
    }

    fn words(&self) -> &[AtomicU32] {
        // SAFETY: `len` initialised words, owned by `self`, borrowed as long as the slice. The device
        // changes them only as atomic words, which is what the type allows.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), self.len) }
    }

    /// Where `bytes` bytes from word `first` on lie, for the driver to read.
    pub(crate) fn bytes(&self, first: usize, bytes: usize) -> *const c_void {
        self.words()[first..first + bytes / 4].as_ptr().cast()
    }

    /// A word as it is now; what the device wrote before it is visible after this.
    ///
    /// # Panics
    /// Where there is no such word.
    pub fn load(&self, word: usize) -> u32 {
        self.words()[word].load(Ordering::Acquire)
    }

    /// Writes a word; what was written before it is visible to whoever sees it.
    ///
    /// # Panics
    /// Where there is no such word.
    pub fn store(&self, word: usize, value: u32) {
        self.words()[word].store(value, Ordering::Release);
    }

    /// Writes `bytes` (whole words) from word `first` on, in no particular order.
    ///
    /// # Panics
    /// Where they do not fit.
    pub fn write(&self, first: usize, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<4>();
        assert!(rest.is_empty(), "bytes are whole words");
        for (to, from) in self.words()[first..first + words.len()].iter().zip(words) {
            to.store(u32::from_le_bytes(*from), Ordering::Relaxed);
        }
    }

    /// Reads bytes (whole words) from word `first` on, in no particular order.
    ///
    /// # Panics
    /// Where there are not as many.
    pub fn read(&self, first: usize, bytes: &mut [u8]) {
        let (words, rest) = bytes.as_chunks_mut::<4>();
        assert!(rest.is_empty(), "bytes are whole words");
        let from = &self.words()[first..first + words.len()];
        for (to, from) in words.iter_mut().zip(from) {
            *to = from.load(Ordering::Relaxed).to_le_bytes();
        }
    }
}

// SAFETY: the memory is owned by the value and has no thread of its own.
unsafe impl Send for MappedWords {}
// SAFETY: shared access is atomic.
unsafe impl Sync for MappedWords {}

impl Drop for MappedWords {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: the pointer comes from cuMemHostAlloc and is not used after this.
            let _ = unsafe { result::free_host(self.words.as_ptr().cast()) };
        }
    }
}
