//! Streams (queues of device work) and events (points in them).

use std::sync::Arc;

use crate::context::Context;
use crate::driver::{EventHandle, StreamHandle};
use crate::error::GpuError;

/// `CU_STREAM_NON_BLOCKING`: no implicit waiting for the legacy default stream, which other libraries may use.
const NON_BLOCKING: u32 = 1;

/// A queue of work on one device.
#[derive(Debug)]
pub struct Stream {
    context: Arc<Context>,
    handle: StreamHandle,
}

impl Stream {
    /// Makes a stream that runs beside all others.
    ///
    /// # Errors
    /// [`GpuError::Driver`].
    pub fn new(context: &Arc<Context>) -> Result<Self, GpuError> {
        let driver = context.bind()?;
        let mut handle = StreamHandle::NULL;
        // SAFETY: `handle` is a valid place for one handle; the context is current.
        let status = unsafe { (driver.stream_create)(&raw mut handle, NON_BLOCKING) };
        driver.check("cuStreamCreate", status)?;
        Ok(Self { context: Arc::clone(context), handle })
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
        let driver = self.context.bind()?;
        // SAFETY: the handle is alive while `self` is.
        driver.check("cuStreamSynchronize", unsafe { (driver.stream_synchronize)(self.handle) })
    }

    /// Marks this point of the stream.
    ///
    /// # Errors
    /// [`GpuError::Driver`].
    pub fn record(&self) -> Result<Event, GpuError> {
        let driver = self.context.bind()?;
        let mut handle = EventHandle::NULL;
        // SAFETY: `handle` is a valid place for one handle; the context is current.
        driver.check("cuEventCreate", unsafe { (driver.event_create)(&raw mut handle, 0) })?;
        let event = Event { context: Arc::clone(&self.context), handle };
        // SAFETY: both handles are alive and belong to the same context.
        driver.check("cuEventRecord", unsafe { (driver.event_record)(handle, self.handle) })?;
        Ok(event)
    }

    pub(crate) fn handle(&self) -> StreamHandle {
        self.handle
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Ok(driver) = self.context.bind() {
            // SAFETY: the handle is alive and not used after this; the driver finishes queued work first.
            let _ = unsafe { (driver.stream_destroy)(self.handle) };
        }
    }
}

/// A point in a stream, with a time stamp.
#[derive(Debug)]
pub struct Event {
    context: Arc<Context>,
    handle: EventHandle,
}

impl Event {
    /// Microseconds on the device between `earlier` and this event; waits until both have passed.
    ///
    /// # Errors
    /// [`GpuError::Driver`].
    pub fn microseconds_since(&self, earlier: &Self) -> Result<f64, GpuError> {
        let driver = self.context.bind()?;
        let mut milliseconds = 0f32;
        // SAFETY: both handles are alive; `milliseconds` is a valid place for one float.
        unsafe {
            driver.check("cuEventSynchronize", (driver.event_synchronize)(self.handle))?;
            let status =
                (driver.event_elapsed_time)(&raw mut milliseconds, earlier.handle, self.handle);
            driver.check("cuEventElapsedTime", status)?;
        }
        Ok(f64::from(milliseconds) * 1e3)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if let Ok(driver) = self.context.bind() {
            // SAFETY: the handle is alive and not used after this.
            let _ = unsafe { (driver.event_destroy)(self.handle) };
        }
    }
}
