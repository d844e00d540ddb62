//! Page-locked host memory, for copies at full speed.

use std::ptr::NonNull;
use std::sync::Arc;

use cudarc::driver::result;
use cudarc::driver::sys::CU_MEMHOSTALLOC_PORTABLE;

use super::DeviceCopy;
use crate::context::Context;
use crate::error::GpuError;

/// `len` elements of `T` in page-locked host memory, freed on drop.
#[derive(Debug)]
pub struct PinnedBuffer<T: DeviceCopy> {
    context: Arc<Context>,
    data: NonNull<T>,
    len: usize,
}

impl<T: DeviceCopy> PinnedBuffer<T> {
    /// Reserves `len` elements, each `T::default()`.
    ///
    /// # Errors
    /// [`GpuError::OutOfMemory`], [`GpuError::Driver`].
    pub fn new(context: &Arc<Context>, len: usize) -> Result<Self, GpuError> {
        let driver = context.bind()?;
        let too_much = GpuError::OutOfMemory { kind: "pinned host", bytes: usize::MAX };
        let bytes = len.checked_mul(size_of::<T>()).ok_or(too_much)?;
        let mut data = NonNull::dangling();
        if bytes > 0 {
            // Portable is all: the host reads it back, which write-combined memory makes slow.
            // SAFETY: the context is current; the memory is filled below, before anyone can read it.
            let raw = unsafe { result::malloc_host(bytes, CU_MEMHOSTALLOC_PORTABLE) };
            let raw = driver.check_allocation("cuMemHostAlloc", raw, "pinned host", bytes)?;
            let none = GpuError::OutOfMemory { kind: "pinned host", bytes };
            data = NonNull::new(raw.cast::<T>()).ok_or(none)?;
            for i in 0..len {
                // SAFETY: the allocation has room for `len` elements and is aligned to a page.
                unsafe { data.add(i).write(T::default()) };
            }
        }
        Ok(Self { context: Arc::clone(context), data, len })
    }

    /// The elements.
    pub fn as_slice(&self) -> &[T] {
        // SAFETY: `len` initialised elements, owned by `self`, borrowed as long as the slice.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.len) }
    }

    /// The elements, to write.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr(), self.len) }
    }
}

impl<T: DeviceCopy> AsRef<[T]> for PinnedBuffer<T> {
    fn as_ref(&self) -> &[T] {
        self.as_slice()
    }
}

impl<T: DeviceCopy> AsMut<[T]> for PinnedBuffer<T> {
    fn as_mut(&mut self) -> &mut [T] {
        self.as_mut_slice()
    }
}

// SAFETY: the memory is owned by the buffer and has no thread of its own.
unsafe impl<T: DeviceCopy + Send> Send for PinnedBuffer<T> {}
// SAFETY: shared access only reads.
unsafe impl<T: DeviceCopy + Sync> Sync for PinnedBuffer<T> {}

impl<T: DeviceCopy> Drop for PinnedBuffer<T> {
    fn drop(&mut self) {
        if self.len * size_of::<T>() == 0 {
            return;
        }
        if self.context.bind().is_ok() {
            // SAFETY: the pointer comes from cuMemHostAlloc and is not used after this.
            let _ = unsafe { result::free_host(self.data.as_ptr().cast()) };
        }
    }
}
