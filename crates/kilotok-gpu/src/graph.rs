//! Recorded launches, submitted as one.

use std::ptr::null_mut;
use std::sync::Arc;

use cudarc::driver::sys::{
    CUgraph, CUgraphExec, CUstreamCaptureMode, cuGraphDestroy, cuGraphExecDestroy,
    cuGraphInstantiateWithFlags, cuGraphLaunch, cuStreamBeginCapture_v2, cuStreamEndCapture,
};

use crate::context::Context;
use crate::error::GpuError;
use crate::stream::Stream;

/// Launches that were recorded from a stream.
#[derive(Debug)]
pub struct Graph {
    context: Arc<Context>,
    exec: CUgraphExec,
}

// SAFETY: the handle is a name that the driver looks up; the driver may be called from any thread.
unsafe impl Send for Graph {}

/// Ends a capture on every path.
struct Capture<'a>(&'a Stream);

impl Capture<'_> {
    fn end(self) -> Result<CUgraph, GpuError> {
        let driver = self.0.context().bind()?;
        let mut graph = null_mut();
        // SAFETY: the stream is alive and captures since `record`; `graph` is a place for a handle.
        let status = unsafe { cuStreamEndCapture(self.0.handle(), &raw mut graph) };
        driver.check("cuStreamEndCapture", status.result())?;
        Ok(graph)
    }
}

impl Graph {
    /// Records what `submit` submits to `stream`, which runs none of it.
    ///
    /// # Errors
    /// Whatever `submit` returns; [`GpuError::Driver`].
    pub fn record(
        stream: &Stream,
        submit: impl FnOnce() -> Result<(), GpuError>,
    ) -> Result<Self, GpuError> {
        let context = stream.context();
        let driver = context.bind()?;
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is alive; the capture ends below, whatever happens in between.
        let status = unsafe { cuStreamBeginCapture_v2(stream.handle(), mode) };
        driver.check("cuStreamBeginCapture", status.result())?;
        let capture = Capture(stream);
        let submitted = submit();
        let ended = capture.end();
        submitted?;
        let graph = ended?;
        let mut exec = null_mut();
        // SAFETY: `graph` was captured above; `exec` is a place for a handle.
        let status = unsafe { cuGraphInstantiateWithFlags(&raw mut exec, graph, 0) };
        // SAFETY: the executable graph is independent of the one that it was made from.
        let destroyed = unsafe { cuGraphDestroy(graph) };
        driver.check("cuGraphInstantiate", status.result())?;
        driver.check("cuGraphDestroy", destroyed.result())?;
        Ok(Self { context: Arc::clone(context), exec })
    }

    /// Submits everything recorded, in its order; returns before it has run.
    ///
    /// # Errors
    /// [`GpuError::Driver`].
    ///
    /// # Safety
    /// What was promised of each recorded launch has to hold again, until the stream has passed it.
    pub unsafe fn launch(&self, stream: &Stream) -> Result<(), GpuError> {
        let driver = self.context.bind()?;
        // SAFETY: graph and stream are alive; the rest is the caller's promise.
        let status = unsafe { cuGraphLaunch(self.exec, stream.handle()) };
        driver.check("cuGraphLaunch", status.result())
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: the handle comes from cuGraphInstantiate and is not used after this.
            let _ = unsafe { cuGraphExecDestroy(self.exec) };
        }
    }
}
