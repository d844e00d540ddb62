//! Launching a kernel.
//!
//! Every kernel of kilotok takes one argument: a struct of `abi.h` by value.

use std::ffi::{c_int, c_uint, c_void};
use std::ptr::null_mut;

use crate::driver::{LaunchAttribute, LaunchValue, RawLaunchConfig};
use crate::error::GpuError;
use crate::library::Kernel;
use crate::mem::DeviceCopy;
use crate::stream::Stream;

/// `CU_LAUNCH_ATTRIBUTE_COOPERATIVE`
const COOPERATIVE: c_uint = 2;
/// `CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION`
const PROGRAMMATIC_SERIALIZATION: c_uint = 6;

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
        let switches = [
            (COOPERATIVE, config.is_cooperative),
            (PROGRAMMATIC_SERIALIZATION, config.is_programmatic),
        ];
        let mut attributes: Vec<LaunchAttribute> = switches
            .into_iter()
            .filter(|&(_, is_on)| is_on)
            .map(|(id, _)| {
                let mut value = [0 as c_int; 16];
                value[0] = 1;
                LaunchAttribute { id, pad: [0; 4], value: LaunchValue(value) }
            })
            .collect();
        let raw = RawLaunchConfig {
            grid: config.grid,
            block: config.block,
            shared_bytes: config.shared_bytes,
            stream: stream.handle(),
            attributes: attributes.as_mut_ptr(),
            num_attributes: attributes.len() as c_uint,
        };
        let mut params: [*mut c_void; 1] = [std::ptr::from_ref(args).cast_mut().cast()];
        // SAFETY: the driver copies `raw`, the attributes and the argument before it returns; function and stream are
        // alive while `self` and `stream` are. The rest is the caller's promise.
        let status = unsafe {
            (driver.launch_kernel_ex)(
                &raw const raw,
                self.function(),
                params.as_mut_ptr(),
                null_mut(),
            )
        };
        driver.check("cuLaunchKernelEx", status)
    }
}
