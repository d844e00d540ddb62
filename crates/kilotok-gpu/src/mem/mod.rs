//! Memory on the device and page-locked memory on the host.

mod device;
mod mapped;
mod pinned;

pub use device::DeviceBuffer;
pub use mapped::MappedWords;
pub use pinned::PinnedBuffer;

use kilotok_kernels::abi;

/// Plain data that may be copied to and from a device byte by byte.
///
/// # Safety
/// Every bit pattern has to be a valid value, and there must be no padding.
pub unsafe trait DeviceCopy: Copy + Default + 'static {}

macro_rules! device_copy {
    ($($ty:ty),*) => {
        $(
            // SAFETY: an integer, a float, or a struct of such without padding (asserted in abi.rs).
            unsafe impl DeviceCopy for $ty {}
        )*
    };
}

device_copy!(u8, u16, u32, u64, i8, i16, i32, i64, f32, f64);
device_copy!(abi::ProbeArgs, abi::ProbeResult);
device_copy!(abi::program::Op, abi::program::Command, abi::program::Machine);
device_copy!(abi::program::Choice, abi::program::TraceRecord);
