//! Streams (queues of device work) and events (points in them).

use std::sync::Arc;

use cudarc::driver::sys::{CUevent_flags, CUresult, CUstream, cuStreamQuery};
use cudarc::driver::{CudaEvent, CudaStream, DriverError};

use crate::context::Context;
use crate::error::GpuError;

/// What a query of a stream says that has work left.
const NOT_READY: u32 = CUresult::CUDA_ERROR_NOT_READY as u32;

/// A queue of work on one device.
#[derive(Debug)]
pub struct Stream {
    cuda: Arc<CudaStream>,
    context: Arc<Context>,
}

impl Stream {
    /// Makes a stream that runs beside all others, the legacy default stream of other libraries included.
    ///
    /// # Errors
    /// [`GpuError::Driver`].
    pub fn new(context: &Arc<Context>) -> Result<Self, GpuError> {
        let driver = context.bind()?;
        let cuda = driver.check("cuStreamCreate", context.cuda().new_stream())?;
        Ok(Self { cuda, context: Arc::clone(context) })
    }

    /// The context that the stream belongs to.
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Waits until everything submitted so far is done, and reports what went wrong in it.
    ///
    /// # Errors
    /// [`GpuError::Driver`], also for failures of earlier work.
    pub fn synchronize(&self) -> Result<(), GpuError> {
        self.context.bind()?.check("cuStreamSynchronize", self.cuda.synchronize())
    }

    /// Whether everything submitted so far is done; does not wait.
    ///
    /// # Errors
    /// [`GpuError::Driver`], also for failures of earlier work.
    pub fn is_idle(&self) -> Result<bool, GpuError> {
        let driver = self.context.bind()?;
        // SAFETY: the stream is alive while `self` is.
        let status = unsafe { cuStreamQuery(self.cuda.cu_stream()) };
        match status.result() {
            Err(DriverError(code)) if code as u32 == NOT_READY => Ok(false),
            result => driver.check("cuStreamQuery", result).map(|()| true),
        }
    }

    /// Marks this point of the stream.
    ///
    /// # Errors
    /// [`GpuError::Driver`].
    pub fn record(&self) -> Result<Event, GpuError> {
        let driver = self.context.bind()?;
        let with_time = Some(CUevent_flags::CU_EVENT_DEFAULT);
        let cuda = driver.check("cuEventCreate", self.context.cuda().new_event(with_time))?;
        driver.check("cuEventRecord", cuda.record(&self.cuda))?;
        Ok(Event { cuda, context: Arc::clone(&self.context) })
    }

    /// For calls that cudarc's streams do not have; alive while `self` is.
    pub(crate) fn handle(&self) -> CUstream {
        self.cuda.cu_stream()
    }
}

/// A point in a stream, with a time stamp.
#[derive(Debug)]
pub struct Event {
    cuda: CudaEvent,
    context: Arc<Context>,
}

impl Event {
    /// Waits until the device has passed this point.
    ///
    /// # Errors
    /// [`GpuError::Driver`], also for failures of earlier work.
    pub fn synchronize(&self) -> Result<(), GpuError> {
        self.context.bind()?.check("cuEventSynchronize", self.cuda.synchronize())
    }

    /// Microseconds on the device between `earlier` and this event; waits until both have passed.
    ///
    /// # Errors
    /// [`GpuError::Driver`].
    pub fn microseconds_since(&self, earlier: &Self) -> Result<f64, GpuError> {
        let driver = self.context.bind()?;
        driver.check("cuEventSynchronize", self.cuda.synchronize())?;
        let milliseconds =
            driver.check("cuEventElapsedTime", earlier.cuda.elapsed_ms(&self.cuda))?;
        Ok(f64::from(milliseconds) * 1e3)
    }
}
