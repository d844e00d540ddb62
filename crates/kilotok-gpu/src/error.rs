//! What can go wrong between the host and a GPU.

use crate::pool::Shortage;
use crate::probe::DriverVersion;

/// Every error of this crate names what was found and what was expected.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum GpuError {
    /// The driver library is absent, broken, or refuses to start.
    #[error("no usable CUDA driver: {detail}")]
    NoDriver {
        /// What the loader or the driver said.
        detail: String,
    },
    /// The driver is older than the embedded code needs.
    #[error(
        "the CUDA driver supports CUDA {have}, but {need} or later is needed (driver 580 or later)"
    )]
    DriverTooOld {
        /// What the installed driver supports.
        have: DriverVersion,
        /// What this build needs.
        need: DriverVersion,
    },
    /// The driver works and sees no GPU.
    #[error("the CUDA driver works, but there is no GPU (or none is visible to this process)")]
    NoDevice,
    /// A device index outside the range.
    #[error("there is no GPU {index}: the driver sees {count}, counted from 0")]
    DeviceIndex {
        /// The index asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// The build has no image of that kernel family.
    #[error("no embedded kernels of family {family:?}: {build}")]
    NoImage {
        /// The family asked for.
        family: &'static str,
        /// What the build has.
        build: String,
    },
    /// The image has no code for this GPU.
    #[error(
        "the embedded kernels of family {family:?} do not fit compute capability {}.{}: \
         they are compiled for {archs}", capability.0, capability.1
    )]
    UnsupportedDevice {
        /// The family asked for.
        family: &'static str,
        /// The device's compute capability.
        capability: (u32, u32),
        /// The targets inside the image.
        archs: String,
    },
    /// Device or pinned memory is used up.
    #[error("out of {kind} memory: {bytes} bytes were asked for")]
    OutOfMemory {
        /// `device` or `pinned host`.
        kind: &'static str,
        /// The size asked for.
        bytes: usize,
    },
    /// A copy between a slice and a buffer of another length.
    #[error("length mismatch: the buffer holds {buffer} elements, the slice {slice}")]
    Length {
        /// Elements in the buffer.
        buffer: usize,
        /// Elements in the slice.
        slice: usize,
    },
    /// A memory plan that is larger than what a pool may take.
    #[error("the model does not fit into {fraction} of the GPU's {free} free bytes: {shortage}")]
    DoesNotFit {
        /// Free bytes on the card.
        free: u64,
        /// The share of them that may be taken.
        fraction: f64,
        /// Who asked for what.
        shortage: Shortage,
    },
    /// Extents or indices that an op cannot take.
    #[error("{op}: {detail}")]
    Shape {
        /// The op.
        op: &'static str,
        /// What was found and what is possible.
        detail: String,
    },
    /// What was asked for is understood and cannot be done here.
    #[error("{what} is not supported: {reason}")]
    Unsupported {
        /// The operation.
        what: &'static str,
        /// Why, and what can be done instead.
        reason: &'static str,
    },
    /// A kernel name that is no C string.
    #[error("{name:?} cannot be the name of a kernel: it contains a zero byte")]
    KernelName {
        /// The name.
        name: String,
    },
    /// The kernel that runs programs does not answer, or gave up.
    #[error("the GPU gave up command {command}: {reason}; waiting words {waiting:?}")]
    Machine {
        /// The command's number.
        command: u32,
        /// What the host saw.
        reason: String,
        /// Who waited for what: block, op, what it saw, what it wanted; zeros where nobody said.
        waiting: [u32; 8],
    },
    /// A driver call failed.
    #[error("{call} failed with {name} ({code}): {detail}")]
    Driver {
        /// The driver function.
        call: &'static str,
        /// The number.
        code: u32,
        /// The driver's name of the number.
        name: String,
        /// The driver's sentence about it.
        detail: String,
    },
    /// The probe kernel computed something else than the exact result.
    #[error(
        "the probe kernel computed {got} at element {index}, exact is {want}: this GPU or driver is broken"
    )]
    WrongResult {
        /// The first wrong element.
        index: usize,
        /// What came back.
        got: f32,
        /// What is exact.
        want: f32,
    },
}
