//! What a pool asks of a card.

use std::sync::Arc;

use cudarc::driver::result;

use crate::context::Context;
use crate::error::GpuError;

/// Memory that can be reserved in one piece.
pub trait Card {
    /// Free and total bytes, now.
    ///
    /// # Errors
    /// [`GpuError::Driver`].
    fn memory(&self) -> Result<(u64, u64), GpuError>;

    /// Reserves `bytes` and returns their address; nothing is written.
    ///
    /// # Errors
    /// [`GpuError::OutOfMemory`], [`GpuError::Driver`].
    fn reserve(&self, bytes: u64) -> Result<u64, GpuError>;

    /// Gives back what [`Self::reserve`] returned.
    fn release(&self, address: u64);
}

impl Card for Arc<Context> {
    fn memory(&self) -> Result<(u64, u64), GpuError> {
        Context::memory(self)
    }

    fn reserve(&self, bytes: u64) -> Result<u64, GpuError> {
        if bytes == 0 {
            return Ok(0);
        }
        let driver = self.bind()?;
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        // SAFETY: the context is current. What lies in the memory is up to those who are given the addresses, and
        // launching a kernel on them is unsafe.
        let reserved = unsafe { result::malloc_sync(bytes) };
        driver.check_allocation("cuMemAlloc", reserved, "device", bytes)
    }

    fn release(&self, address: u64) {
        if address != 0 && self.bind().is_ok() {
            // SAFETY: the address comes from `reserve` and is given back once, by the pool's drop. cuMemFree waits for
            // queued work.
            let _ = unsafe { result::free_sync(address) };
        }
    }
}
