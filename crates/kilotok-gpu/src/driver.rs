//! The CUDA driver's C interface: the functions used here, their signatures, and how they are found.
//!
//! Written by hand against the interface of CUDA 13.0 (`cuda.h`): about thirty signatures. A general binding would bring
//! its own way to find the library and panics where a symbol is absent. Result codes stay plain integers, because a
//! newer driver may return codes that no list knows.

use std::ffi::{CStr, OsStr, c_char, c_int, c_uint, c_void};

use crate::error::GpuError;
use crate::probe::DriverVersion;

/// Code from nvcc 13.0 needs a driver of at least this CUDA version.
const NEEDED: DriverVersion = DriverVersion { major: 13, minor: 0 };

pub(crate) type Status = c_uint;
pub(crate) type Device = c_int;
pub(crate) type DevicePtr = u64;

macro_rules! handles {
    ($($(#[$doc:meta])* $name:ident)*) => {
        $(
            $(#[$doc])*
            #[repr(transparent)]
            #[derive(Debug, Clone, Copy, PartialEq, Eq)]
            pub(crate) struct $name(pub(crate) *mut c_void);

            impl $name {
                pub(crate) const NULL: Self = Self(std::ptr::null_mut());
            }

            // SAFETY: a handle is an opaque name that the driver looks up; the driver API may be called from any
            // thread. The objects that own handles (Context, Stream, ...) order destruction after use.
            unsafe impl Send for $name {}
            // SAFETY: as above; the pointer is never dereferenced on the host.
            unsafe impl Sync for $name {}
        )*
    };
}

handles! {
    /// `CUcontext`
    ContextHandle
    /// `CUstream`
    StreamHandle
    /// `CUevent`
    EventHandle
    /// `CUlibrary`
    LibraryHandle
    /// `CUkernel`
    KernelHandle
    /// `CUfunction`
    FunctionHandle
}

/// `CUlaunchAttribute`: an id and a union of 64 bytes, of which only leading integers are used here.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct LaunchAttribute {
    pub(crate) id: c_uint,
    pub(crate) pad: [u8; 4],
    pub(crate) value: LaunchValue,
}

/// `CUlaunchAttributeValue`, seen as integers.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(crate) struct LaunchValue(pub(crate) [c_int; 16]);

/// `CUlaunchConfig`
#[repr(C)]
pub(crate) struct RawLaunchConfig {
    pub(crate) grid: [c_uint; 3],
    pub(crate) block: [c_uint; 3],
    pub(crate) shared_bytes: c_uint,
    pub(crate) stream: StreamHandle,
    pub(crate) attributes: *mut LaunchAttribute,
    pub(crate) num_attributes: c_uint,
}

const _: () = assert!(size_of::<LaunchAttribute>() == 72, "CUlaunchAttribute has 72 bytes");
const _: () = assert!(size_of::<RawLaunchConfig>() == 56, "CUlaunchConfig has 56 bytes");

macro_rules! driver {
    ($($field:ident = $symbol:literal ($($arg:ty),*);)*) => {
        /// The opened driver library with the functions found in it.
        #[derive(Debug)]
        pub(crate) struct Driver {
            $(pub(crate) $field: unsafe extern "C" fn($($arg),*) -> Status,)*
            /// The CUDA version that the driver supports.
            pub(crate) version: DriverVersion,
            /// Keeps the functions above mapped.
            _library: libloading::Library,
        }

        impl Driver {
            /// Opens the library called `name`, checks its version and finds every function.
            ///
            /// # Errors
            /// [`GpuError::NoDriver`] when the library or one of its functions is absent,
            /// [`GpuError::DriverTooOld`].
            pub(crate) fn open(name: &OsStr) -> Result<Self, GpuError> {
                // SAFETY: loading runs the library's initialisers. `name` is the driver's soname (or a stand-in in
                // tests), whose initialisers may run on any thread.
                let library = unsafe { libloading::Library::new(name) }
                    .map_err(|error| GpuError::NoDriver { detail: describe(&error) })?;
                // First of all: an old driver lacks some of the functions below.
                let version = version_of(&library)?;
                $(
                    // SAFETY: the type is the one that cuda.h declares for this symbol. The pointer outlives the
                    // symbol borrow because `_library` lives in the same struct.
                    let $field = unsafe {
                        library.get::<unsafe extern "C" fn($($arg),*) -> Status>($symbol)
                    }
                    .map(|symbol| *symbol)
                    .map_err(|error| GpuError::NoDriver { detail: describe(&error) })?;
                )*
                Ok(Self { $($field,)* version, _library: library })
            }
        }
    };
}

driver! {
    init = b"cuInit\0" (c_uint);
    device_get_count = b"cuDeviceGetCount\0" (*mut c_int);
    device_get = b"cuDeviceGet\0" (*mut Device, c_int);
    device_get_name = b"cuDeviceGetName\0" (*mut c_char, c_int, Device);
    device_total_mem = b"cuDeviceTotalMem_v2\0" (*mut usize, Device);
    device_get_attribute = b"cuDeviceGetAttribute\0" (*mut c_int, c_uint, Device);
    get_error_name = b"cuGetErrorName\0" (Status, *mut *const c_char);
    get_error_string = b"cuGetErrorString\0" (Status, *mut *const c_char);
    primary_ctx_retain = b"cuDevicePrimaryCtxRetain\0" (*mut ContextHandle, Device);
    primary_ctx_release = b"cuDevicePrimaryCtxRelease_v2\0" (Device);
    ctx_set_current = b"cuCtxSetCurrent\0" (ContextHandle);
    mem_get_info = b"cuMemGetInfo_v2\0" (*mut usize, *mut usize);
    stream_create = b"cuStreamCreate\0" (*mut StreamHandle, c_uint);
    stream_destroy = b"cuStreamDestroy_v2\0" (StreamHandle);
    stream_synchronize = b"cuStreamSynchronize\0" (StreamHandle);
    event_create = b"cuEventCreate\0" (*mut EventHandle, c_uint);
    event_destroy = b"cuEventDestroy_v2\0" (EventHandle);
    event_record = b"cuEventRecord\0" (EventHandle, StreamHandle);
    event_synchronize = b"cuEventSynchronize\0" (EventHandle);
    event_elapsed_time = b"cuEventElapsedTime_v2\0" (*mut f32, EventHandle, EventHandle);
    library_load_data = b"cuLibraryLoadData\0" (
        *mut LibraryHandle, *const c_void, *mut c_void, *mut c_void, c_uint, *mut c_void, *mut c_void, c_uint
    );
    library_unload = b"cuLibraryUnload\0" (LibraryHandle);
    library_get_kernel = b"cuLibraryGetKernel\0" (*mut KernelHandle, LibraryHandle, *const c_char);
    kernel_get_function = b"cuKernelGetFunction\0" (*mut FunctionHandle, KernelHandle);
    func_get_attribute = b"cuFuncGetAttribute\0" (*mut c_int, c_uint, FunctionHandle);
    func_set_attribute = b"cuFuncSetAttribute\0" (FunctionHandle, c_uint, c_int);
    occupancy = b"cuOccupancyMaxActiveBlocksPerMultiprocessor\0" (*mut c_int, FunctionHandle, c_int, usize);
    launch_kernel_ex = b"cuLaunchKernelEx\0" (
        *const RawLaunchConfig, FunctionHandle, *mut *mut c_void, *mut *mut c_void
    );
    mem_alloc = b"cuMemAlloc_v2\0" (*mut DevicePtr, usize);
    mem_free = b"cuMemFree_v2\0" (DevicePtr);
    memcpy_htod_async = b"cuMemcpyHtoDAsync_v2\0" (DevicePtr, *const c_void, usize, StreamHandle);
    memcpy_dtoh_async = b"cuMemcpyDtoHAsync_v2\0" (*mut c_void, DevicePtr, usize, StreamHandle);
    memset_d8_async = b"cuMemsetD8Async\0" (DevicePtr, u8, usize, StreamHandle);
    mem_host_alloc = b"cuMemHostAlloc\0" (*mut *mut c_void, usize, c_uint);
    mem_free_host = b"cuMemFreeHost\0" (*mut c_void);
}

/// `CUDA_ERROR_OUT_OF_MEMORY`
const OUT_OF_MEMORY: Status = 2;

impl Driver {
    /// Turns the status of `call` into an error with the driver's own words.
    pub(crate) fn check(&self, call: &'static str, status: Status) -> Result<(), GpuError> {
        if status == 0 {
            return Ok(());
        }
        let name = Self::text_of(self.get_error_name, status);
        let detail = Self::text_of(self.get_error_string, status);
        Err(GpuError::Driver { call, code: status, name, detail })
    }

    /// Like [`Self::check`], for calls that reserve `bytes`.
    pub(crate) fn check_allocation(
        &self,
        call: &'static str,
        status: Status,
        kind: &'static str,
        bytes: usize,
    ) -> Result<(), GpuError> {
        if status == OUT_OF_MEMORY {
            return Err(GpuError::OutOfMemory { kind, bytes });
        }
        self.check(call, status)
    }

    /// What `cuGetErrorName` or `cuGetErrorString` says about `status`.
    fn text_of(
        get: unsafe extern "C" fn(Status, *mut *const c_char) -> Status,
        status: Status,
    ) -> String {
        let mut text = std::ptr::null();
        // SAFETY: `text` is a valid place for one pointer.
        let found = unsafe { get(status, &raw mut text) };
        if found != 0 || text.is_null() {
            return "unknown".into();
        }
        // SAFETY: the driver returns a zero-terminated string with static lifetime, kept mapped by `_library`.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }
}

fn version_of(library: &libloading::Library) -> Result<DriverVersion, GpuError> {
    // SAFETY: the type is the one that cuda.h declares for this symbol.
    let get = unsafe {
        library.get::<unsafe extern "C" fn(*mut c_int) -> Status>(b"cuDriverGetVersion\0")
    }
    .map_err(|error| GpuError::NoDriver { detail: describe(&error) })?;
    let mut number: c_int = 0;
    // SAFETY: `number` is a valid place for one integer; this function may be called before cuInit.
    let status = unsafe { get(&raw mut number) };
    if status != 0 {
        let detail = format!("cuDriverGetVersion failed with code {status}");
        return Err(GpuError::NoDriver { detail });
    }
    let number = number.max(0) as u32;
    let have = DriverVersion { major: number / 1000, minor: number % 1000 / 10 };
    if have < NEEDED {
        return Err(GpuError::DriverTooOld { have, need: NEEDED });
    }
    Ok(have)
}

/// The loader's own sentence; libloading's Display leaves it out.
fn describe(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}
