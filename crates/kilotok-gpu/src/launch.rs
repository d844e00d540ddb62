//! Launching a kernel.
//!
//! Every kernel of kilotok takes one argument: a struct of `abi.h` by value.

use std::ffi::{c_int, c_uint, c_void};
use std::ptr::null_mut;

use cudarc::driver::sys::{
    CUlaunchAttribute, CUlaunchAttributeID, CUlaunchAttributeValue, CUlaunchConfig,
    cuLaunchKernelEx,
};

use crate::error::GpuError;
use crate::library::Kernel;
use crate::mem::DeviceCopy;
use crate::stream::Stream;

/// The shape of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaunchConfig {
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads per block in x, y, z.
    pub block: [u32; 3],
    /// Dynamic shared memory per block in bytes.
    pub shared_bytes: u32,
    /// All blocks are resident at once, so that they may wait for each other; an error when they do not fit.
    pub is_cooperative: bool,
    /// The kernel may start before its predecessor in the stream has ended (it then has to wait itself).
    pub is_programmatic: bool,
}

impl LaunchConfig {
    /// A one-dimensional launch without extras.
    pub const fn linear(blocks: u32, threads: u32) -> Self {
        Self {
            grid: [blocks, 1, 1],
            block: [threads, 1, 1],
            shared_bytes: 0,
            is_cooperative: false,
            is_programmatic: false,
        }
    }
}

impl Kernel {
    /// Submits the kernel to `stream`; returns before it has run.
    ///
    /// # Errors
    /// [`GpuError::Driver`] for a shape that the device refuses.
    ///
    /// # Safety
    /// `A` has to be the type of the kernel's one parameter. Every device address in `args` has to point into buffers
    /// that hold what the kernel reads, are large enough for what it writes, belong to this kernel's device and stay
    /// alive until the stream has passed the launch.
    pub unsafe fn launch<A: DeviceCopy>(
        &self,
        stream: &Stream,
        config: &LaunchConfig,
        args: &A,
    ) -> Result<(), GpuError> {
        let driver = self.context().bind()?;
        let mut attributes = Vec::with_capacity(2);
        if config.is_cooperative {
            attributes.push(switch_on(CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_COOPERATIVE));
        }
        if config.is_programmatic {
            attributes.push(switch_on(
                CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            ));
        }
        let raw = CUlaunchConfig {
            gridDimX: config.grid[0],
            gridDimY: config.grid[1],
            gridDimZ: config.grid[2],
            blockDimX: config.block[0],
            blockDimY: config.block[1],
            blockDimZ: config.block[2],
            sharedMemBytes: config.shared_bytes,
            hStream: stream.handle(),
            attrs: attributes.as_mut_ptr(),
            numAttrs: attributes.len() as c_uint,
        };
        let mut params: [*mut c_void; 1] = [std::ptr::from_ref(args).cast_mut().cast()];
        // SAFETY: the driver copies `raw`, the attributes and the argument before it returns; function and stream are
        // alive while `self` and `stream` are. The rest is the caller's promise.
        let status = unsafe {
            cuLaunchKernelEx(&raw const raw, self.function(), params.as_mut_ptr(), null_mut())
        };
        driver.check("cuLaunchKernelEx", status.result())
    }
}

/// The attribute `id`, which is a flag, with the value 1.
fn switch_on(id: CUlaunchAttributeID) -> CUlaunchAttribute {
    let mut value = CUlaunchAttributeValue { pad: [0; 64] };
    // Every flag is an integer at the start of the union.
    value.cooperative = 1 as c_int;
    CUlaunchAttribute { id, pad: [0; 4], value }
}
