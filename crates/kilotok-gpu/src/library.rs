//! Embedded images on the device, and the kernels in them.

use std::ffi::{CString, c_int};
use std::ptr::null_mut;
use std::sync::Arc;

use cudarc::driver::result::{function, occupancy};
use cudarc::driver::sys::{self, CUfunction, CUfunction_attribute, CUlibrary};
use kilotok_kernels::{Coverage, Image};

use crate::context::Context;
use crate::error::GpuError;

/// An image handed to the driver.
#[derive(Debug)]
pub struct Library {
    context: Arc<Context>,
    handle: CUlibrary,
}

// SAFETY: the handle is a name that the driver looks up; the host never follows it, and the driver may be called from any
// thread.
unsafe impl Send for Library {}
// SAFETY: as above; shared access only looks kernels up.
unsafe impl Sync for Library {}

impl Library {
    /// Loads the embedded image of `family`.
    ///
    /// # Errors
    /// [`GpuError::NoImage`] when the build has none, [`GpuError::UnsupportedDevice`] when it does not fit the device,
    /// [`GpuError::Driver`].
    pub fn embedded(context: &Arc<Context>, family: &'static str) -> Result<Arc<Self>, GpuError> {
        let image = kilotok_kernels::image(family).ok_or_else(|| GpuError::NoImage {
            family,
            build: kilotok_kernels::build_info().to_string(),
        })?;
        Self::load(context, image)
    }

    /// Not public: the driver trusts an image's bytes, and an `Image` can be made by anyone.
    pub(crate) fn load(
        context: &Arc<Context>,
        image: &'static Image,
    ) -> Result<Arc<Self>, GpuError> {
        let capability = context.device().capability;
        if image.coverage(capability) == Coverage::None {
            let archs = image.archs.join(" ");
            return Err(GpuError::UnsupportedDevice { family: image.family, capability, archs });
        }
        let driver = context.bind()?;
        let mut handle = null_mut();
        // SAFETY: the bytes are a fatbin (checked by the tests of kilotok-kernels) with static lifetime; no options
        // are passed, so their arrays may be null.
        let status = unsafe {
            sys::cuLibraryLoadData(
                &raw mut handle,
                image.bytes.as_ptr().cast(),
                null_mut(),
                null_mut(),
                0,
                null_mut(),
                null_mut(),
                0,
            )
        };
        driver.check("cuLibraryLoadData", status.result())?;
        Ok(Arc::new(Self { context: Arc::clone(context), handle }))
    }

    /// Finds a kernel by the name of its `extern "C"` entry point.
    ///
    /// # Errors
    /// [`GpuError::KernelName`], [`GpuError::Driver`] when there is none of that name.
    pub fn kernel(self: &Arc<Self>, name: &str) -> Result<Kernel, GpuError> {
        let c_name =
            CString::new(name).map_err(|_| GpuError::KernelName { name: name.to_owned() })?;
        let driver = self.context.bind()?;
        let mut kernel = null_mut();
        // SAFETY: the library is alive; `c_name` is zero-terminated and outlives the call.
        let status =
            unsafe { sys::cuLibraryGetKernel(&raw mut kernel, self.handle, c_name.as_ptr()) };
        driver.check("cuLibraryGetKernel", status.result())?;
        let mut function = null_mut();
        // SAFETY: the kernel belongs to the library above; the context is current.
        let status = unsafe { sys::cuKernelGetFunction(&raw mut function, kernel) };
        driver.check("cuKernelGetFunction", status.result())?;
        Ok(Kernel { library: Arc::clone(self), function })
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: every Kernel holds an Arc of the library, so none is left.
            let _ = unsafe { sys::cuLibraryUnload(self.handle) };
        }
    }
}

/// A kernel in a loaded library, on the library's device.
#[derive(Debug, Clone)]
pub struct Kernel {
    library: Arc<Library>,
    function: CUfunction,
}

// SAFETY: the handle is a name that the driver looks up; the host never follows it, and the driver may be called from any
// thread. The library it belongs to is kept alive beside it.
unsafe impl Send for Kernel {}
// SAFETY: as above.
unsafe impl Sync for Kernel {}

/// What the compiler and the driver say about a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelAttributes {
    /// Most threads a block may have.
    pub max_threads_per_block: u32,
    /// Static shared memory in bytes.
    pub shared_bytes: u32,
    /// Local memory per thread in bytes: not zero means spilled registers or a stack.
    pub local_bytes: u32,
    /// Registers per thread.
    pub num_registers: u32,
    /// The machine code's target, for example 90.
    pub binary_version: u32,
}

impl Kernel {
    /// Reads the attributes.
    ///
    /// # Errors
    /// [`GpuError::Driver`].
    pub fn attributes(&self) -> Result<KernelAttributes, GpuError> {
        let driver = self.context().bind()?;
        let read = |attribute| -> Result<u32, GpuError> {
            // SAFETY: the function is alive while `self` is.
            let value = unsafe { function::get_function_attribute(self.function, attribute) };
            Ok(driver.check("cuFuncGetAttribute", value)?.max(0) as u32)
        };
        Ok(KernelAttributes {
            max_threads_per_block: read(
                CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK,
            )?,
            shared_bytes: read(CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?,
            local_bytes: read(CUfunction_attribute::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES)?,
            num_registers: read(CUfunction_attribute::CU_FUNC_ATTRIBUTE_NUM_REGS)?,
            binary_version: read(CUfunction_attribute::CU_FUNC_ATTRIBUTE_BINARY_VERSION)?,
        })
    }

    /// Allows launches with up to `bytes` of dynamic shared memory (more than 48 KB needs this).
    ///
    /// # Errors
    /// [`GpuError::Driver`] when the device has less.
    pub fn allow_shared_bytes(&self, bytes: u32) -> Result<(), GpuError> {
        let driver = self.context().bind()?;
        let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function is alive while `self` is.
        let result =
            unsafe { function::set_function_attribute(self.function, attribute, bytes as c_int) };
        driver.check("cuFuncSetAttribute", result)
    }

    /// How many blocks of this shape fit on one SM at a time.
    ///
    /// # Errors
    /// [`GpuError::Driver`].
    pub fn blocks_per_sm(&self, threads: u32, shared_bytes: u32) -> Result<u32, GpuError> {
        let driver = self.context().bind()?;
        // SAFETY: the function is alive while `self` is.
        let blocks = unsafe {
            occupancy::max_active_block_per_multiprocessor(
                self.function,
                threads as c_int,
                shared_bytes as usize,
            )
        };
        let blocks = driver.check("cuOccupancyMaxActiveBlocksPerMultiprocessor", blocks)?;
        Ok(blocks.max(0) as u32)
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.library.context
    }

    pub(crate) fn function(&self) -> CUfunction {
        self.function
    }
}
