//! How fast this card copies within its own memory: what other rates on it are compared with.

use std::sync::Arc;

use cudarc::driver::result;

use crate::context::Context;
use crate::error::GpuError;
use crate::mem::DeviceBuffer;
use crate::stream::Stream;

/// Bytes of a copy; far more than any cache holds.
const BYTES: usize = 1 << 30;
const REPEATS: usize = 7;

/// Bytes per second, read and written together, of the fastest of a few copies of 1 GiB within the
/// device's memory. A kernel that only reads may be faster.
///
/// # Errors
/// [`GpuError::OutOfMemory`] without 2 GiB of free memory, [`GpuError::Driver`].
pub fn copy_rate(context: &Arc<Context>) -> Result<f64, GpuError> {
    let stream = Stream::new(context)?;
    let from = DeviceBuffer::<u8>::zeroed(&stream, BYTES)?;
    let to = DeviceBuffer::<u8>::zeroed(&stream, BYTES)?;
    let mut best = f64::INFINITY;
    for _ in 0..REPEATS {
        let driver = context.bind()?;
        let before = stream.record()?;
        // SAFETY: both buffers have `BYTES` bytes, do not overlap, and outlive the wait below.
        let copied = unsafe {
            result::memcpy_dtod_async(to.address(), from.address(), BYTES, stream.handle())
        };
        driver.check("cuMemcpyDtoDAsync", copied)?;
        best = best.min(stream.record()?.microseconds_since(&before)?);
    }
    stream.synchronize()?;
    Ok(2.0 * BYTES as f64 / (best * 1e-6))
}
