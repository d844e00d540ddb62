//! The CUDA driver: how it is found, checked and started before cudarc may call it, and how its errors are told.
//!
//! cudarc declares the driver's functions and calls them; it opens the library itself, at its first call, and panics when
//! the library or a function is absent. So the library is opened here first, and no cudarc function is called before
//! [`Driver::open`] and [`Driver::start`] have seen that it is new enough, has everything that is called, starts, and is
//! the very library that cudarc opens.
//!
//! Four functions stay declared by hand. `cuDriverGetVersion` and `cuInit` come before all that; the two that describe a
//! status have to take any number, while cudarc's list of codes ends with CUDA 13.0. A newer driver may return a code
//! that is not in the list. cudarc's result is then no value of its enum; the compiler makes use only of values above
//! the largest code (`CUDA_ERROR_UNKNOWN`, 999) for other purposes, and no driver returns one. To stay on that side, a
//! result is nowhere matched or formatted as an enum, only compared with success and turned into its number.

use std::ffi::{CStr, OsStr, c_char, c_int, c_uint, c_void};

use cudarc::driver::{DriverError, sys};
use libloading::Library;

use crate::error::GpuError;
use crate::probe::DriverVersion;

/// Code from nvcc 13.0 needs a driver of at least this CUDA version.
const NEEDED: DriverVersion = DriverVersion { major: 13, minor: 0 };

/// Every driver function that this crate reaches, directly or through cudarc's safe types.
///
/// A function that is called and not listed here would panic on a driver that lacks it; `device_tests.rs` runs everything
/// against a stand-in that has exactly these.
pub(crate) const FUNCTIONS: &[&str] = &[
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDeviceTotalMem_v2",
    "cuDriverGetVersion",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventElapsedTime_v2",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuFuncGetAttribute",
    "cuFuncSetAttribute",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuInit",
    "cuKernelGetFunction",
    "cuLaunchKernelEx",
    "cuLibraryGetKernel",
    "cuLibraryLoadData",
    "cuLibraryUnload",
    "cuMemAlloc_v2",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemHostAlloc",
    "cuMemHostGetDevicePointer_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemsetD8Async",
    "cuOccupancyMaxActiveBlocksPerMultiprocessor",
    "cuStreamBeginCapture_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamEndCapture",
    "cuStreamQuery",
    "cuStreamSynchronize",
];

type Status = c_uint;
type Init = unsafe extern "C" fn(c_uint) -> Status;
type GetVersion = unsafe extern "C" fn(*mut c_int) -> Status;
type GetText = unsafe extern "C" fn(Status, *mut *const c_char) -> Status;

/// `CUDA_ERROR_NO_DEVICE`: `cuInit` says it when no GPU is visible.
const NO_DEVICE: Status = sys::CUresult::CUDA_ERROR_NO_DEVICE as Status;
const OUT_OF_MEMORY: Status = sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY as Status;

/// The opened driver library.
#[derive(Debug)]
pub(crate) struct Driver {
    /// The CUDA version that the driver supports.
    pub(crate) version: DriverVersion,
    init: Init,
    get_error_name: GetText,
    get_error_string: GetText,
    /// Keeps the functions above mapped, and the library open for cudarc.
    library: Library,
}

impl Driver {
    /// Opens the library called `name`, checks its version and that it has every function.
    ///
    /// # Errors
    /// [`GpuError::NoDriver`] when the library or one of its functions is absent, [`GpuError::DriverTooOld`].
    pub(crate) fn open(name: &OsStr) -> Result<Self, GpuError> {
        // SAFETY: loading runs the library's initialisers. `name` is the driver's soname (or a stand-in in tests), whose
        // initialisers may run on any thread.
        let library = unsafe { Library::new(name) }
            .map_err(|error| GpuError::NoDriver { detail: describe(&error) })?;
        // First of all: an old driver lacks some of the functions.
        let version = version_of(&library)?;
        for name in FUNCTIONS {
            address(&library, name)?;
        }
        // SAFETY: the types are the ones that cuda.h declares, with the enum of codes as the integer that it is. The
        // pointers outlive the symbols' borrows because `library` lives in the same struct.
        let (init, get_error_name, get_error_string) = unsafe {
            (
                function::<Init>(&library, "cuInit")?,
                function::<GetText>(&library, "cuGetErrorName")?,
                function::<GetText>(&library, "cuGetErrorString")?,
            )
        };
        Ok(Self { version, init, get_error_name, get_error_string, library })
    }

    /// Starts the driver; from here on cudarc's functions may be called.
    ///
    /// # Errors
    /// [`GpuError::NoDevice`]; [`GpuError::Driver`] when it does not start; [`GpuError::NoDriver`] when cudarc would open
    /// another library.
    pub(crate) fn start(&self) -> Result<(), GpuError> {
        // SAFETY: cuInit takes flags that must be 0.
        match unsafe { (self.init)(0) } {
            0 => self.check_cudarc_library(),
            NO_DEVICE => Err(GpuError::NoDevice),
            status => Err(self.failure("cuInit", status)),
        }
    }

    /// cudarc opens the first file it finds of several names, `libcuda.so` first: it has to be this library.
    fn check_cudarc_library(&self) -> Result<(), GpuError> {
        // SAFETY: only opens and closes libraries of the driver's names, which run on any thread.
        if !unsafe { sys::is_culib_present() } {
            let detail = "the driver library is open and cannot be opened again".into();
            return Err(GpuError::NoDriver { detail });
        }
        // SAFETY: as above. It does not panic: the line above has just opened the same file.
        let theirs = unsafe { sys::culib() };
        for name in FUNCTIONS {
            if address(theirs, name)? != address(&self.library, name)? {
                let detail = "libcuda.so and libcuda.so.1 are different libraries; the first may be a stub of the CUDA \
                              toolkit, whose folder must not be in LD_LIBRARY_PATH"
                    .into();
                return Err(GpuError::NoDriver { detail });
            }
        }
        Ok(())
    }

    /// Names the `call` that a result of cudarc belongs to and adds the driver's own words.
    pub(crate) fn check<T>(
        &self,
        call: &'static str,
        result: Result<T, DriverError>,
    ) -> Result<T, GpuError> {
        result.map_err(|DriverError(code)| self.failure(call, code as Status))
    }

    /// Like [`Self::check`], for calls that reserve `bytes`.
    pub(crate) fn check_allocation<T>(
        &self,
        call: &'static str,
        result: Result<T, DriverError>,
        kind: &'static str,
        bytes: usize,
    ) -> Result<T, GpuError> {
        result.map_err(|DriverError(code)| match code as Status {
            OUT_OF_MEMORY => GpuError::OutOfMemory { kind, bytes },
            status => self.failure(call, status),
        })
    }

    fn failure(&self, call: &'static str, status: Status) -> GpuError {
        let name = text_of(self.get_error_name, status);
        let detail = text_of(self.get_error_string, status);
        GpuError::Driver { call, code: status, name, detail }
    }
}

/// What `cuGetErrorName` or `cuGetErrorString` says about `status`.
fn text_of(get: GetText, status: Status) -> String {
    let mut text = std::ptr::null();
    // SAFETY: `text` is a valid place for one pointer; an unknown status is answered with an error.
    let found = unsafe { get(status, &raw mut text) };
    if found != 0 || text.is_null() {
        return "unknown".into();
    }
    // SAFETY: the driver returns a zero-terminated string with static lifetime, kept mapped by the open library.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

fn version_of(library: &Library) -> Result<DriverVersion, GpuError> {
    // SAFETY: the type is the one that cuda.h declares for this function.
    let get = unsafe { function::<GetVersion>(library, "cuDriverGetVersion")? };
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

/// Where `name` lies, to see that it exists and to compare.
fn address(library: &Library, name: &str) -> Result<*const c_void, GpuError> {
    // SAFETY: any symbol may be seen as an address, which is only compared.
    unsafe { function::<*const c_void>(library, name) }
}

/// # Safety
/// `T` has to be the type of `name` as a pointer, and must not be used after `library` is closed.
unsafe fn function<T: Copy>(library: &Library, name: &str) -> Result<T, GpuError> {
    // SAFETY: the caller's promise.
    unsafe { library.get::<T>(name) }
        .map(|symbol| *symbol)
        .map_err(|error| GpuError::NoDriver { detail: describe(&error) })
}

/// The loader's own sentence; libloading's Display leaves it out.
fn describe(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}
