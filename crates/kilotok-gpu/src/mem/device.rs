//! A typed allocation on the device.

use std::marker::PhantomData;
use std::sync::Arc;

use cudarc::driver::result;
use cudarc::driver::sys::CUdeviceptr;

use super::DeviceCopy;
use crate::context::Context;
use crate::error::GpuError;
use crate::stream::Stream;

/// `len` elements of `T` in device memory, freed on drop.
///
/// Freeing waits for the work that is queued on the device, so a buffer may be dropped after a launch that uses it.
#[derive(Debug)]
pub struct DeviceBuffer<T: DeviceCopy> {
    context: Arc<Context>,
    address: CUdeviceptr,
    len: usize,
    element: PhantomData<T>,
}

impl<T: DeviceCopy> DeviceBuffer<T> {
    /// Reserves `len` elements and fills them with zero bytes.
    ///
    /// # Errors
    /// [`GpuError::OutOfMemory`], [`GpuError::Driver`].
    pub fn zeroed(stream: &Stream, len: usize) -> Result<Self, GpuError> {
        let context = stream.context();
        let driver = context.bind()?;
        let too_much = GpuError::OutOfMemory { kind: "device", bytes: usize::MAX };
        let bytes = len.checked_mul(size_of::<T>()).ok_or(too_much)?;
        let mut address: CUdeviceptr = 0;
        if bytes > 0 {
            // SAFETY: the context is current; the memory is filled below, before anyone can read it.
            let reserved = unsafe { result::malloc_sync(bytes) };
            address = driver.check_allocation("cuMemAlloc", reserved, "device", bytes)?;
        }
        let buffer = Self { context: Arc::clone(context), address, len, element: PhantomData };
        if bytes > 0 {
            // SAFETY: the allocation above has `bytes` bytes and is freed by `buffer` alone.
            let filled = unsafe { result::memset_d8_async(address, 0, bytes, stream.handle()) };
            driver.check("cuMemsetD8Async", filled)?;
            stream.synchronize()?;
        }
        Ok(buffer)
    }

    /// Reserves memory for `values` and copies them.
    ///
    /// # Errors
    /// [`GpuError::OutOfMemory`], [`GpuError::Driver`].
    pub fn from_slice(stream: &Stream, values: &[T]) -> Result<Self, GpuError> {
        let mut buffer = Self::zeroed(stream, values.len())?;
        buffer.upload(stream, values)?;
        Ok(buffer)
    }

    /// Copies `values` to the device and waits until they are there.
    ///
    /// # Errors
    /// [`GpuError::Length`] when `values` is not exactly as long as the buffer; [`GpuError::Driver`].
    pub fn upload(&mut self, stream: &Stream, values: &[T]) -> Result<(), GpuError> {
        let bytes = self.checked_bytes(values.len())?;
        if bytes == 0 {
            return Ok(());
        }
        let driver = self.context.bind()?;
        // SAFETY: `values` has `bytes` bytes and is borrowed until the synchronize below; so has the allocation.
        let copied = unsafe { result::memcpy_htod_async(self.address, values, stream.handle()) };
        driver.check("cuMemcpyHtoDAsync", copied)?;
        stream.synchronize()
    }

    /// Copies the buffer into `values` and waits until it is there.
    ///
    /// # Errors
    /// [`GpuError::Length`] when `values` is not exactly as long as the buffer; [`GpuError::Driver`].
    pub fn download(&self, stream: &Stream, values: &mut [T]) -> Result<(), GpuError> {
        let bytes = self.checked_bytes(values.len())?;
        if bytes == 0 {
            return Ok(());
        }
        let driver = self.context.bind()?;
        // SAFETY: `values` has `bytes` bytes and is borrowed until the synchronize below. Any bytes are valid
        // elements: `T: DeviceCopy`.
        let copied = unsafe { result::memcpy_dtoh_async(values, self.address, stream.handle()) };
        driver.check("cuMemcpyDtoHAsync", copied)?;
        stream.synchronize()
    }

    /// Copies the whole buffer into a new vector.
    ///
    /// # Errors
    /// [`GpuError::Driver`].
    pub fn to_vec(&self, stream: &Stream) -> Result<Vec<T>, GpuError> {
        let mut values = vec![T::default(); self.len];
        self.download(stream, &mut values)?;
        Ok(values)
    }

    /// The device address, for kernel arguments; 0 for an empty buffer.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn checked_bytes(&self, slice: usize) -> Result<usize, GpuError> {
        if slice == self.len {
            Ok(slice * size_of::<T>())
        } else {
            Err(GpuError::Length { buffer: self.len, slice })
        }
    }
}

impl<T: DeviceCopy> Drop for DeviceBuffer<T> {
    fn drop(&mut self) {
        if self.address == 0 {
            return;
        }
        if self.context.bind().is_ok() {
            // SAFETY: the address comes from cuMemAlloc and is not used after this. cuMemFree waits for queued work.
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}
