//! Embedded images on the device, and the kernels in them.

use std::ffi::{CString, c_int, c_uint};
use std::ptr::null_mut;
use std::sync::Arc;

use kilotok_kernels::{Coverage, Image};

use crate::context::Context;
use crate::driver::{FunctionHandle, KernelHandle, LibraryHandle};
use crate::error::GpuError;

/// An image handed to the driver.
#[derive(Debug)]
pub struct Library {
    context: Arc<Context>,
    handle: LibraryHandle,
}

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
    fn load(context: &Arc<Context>, image: &'static Image) -> Result<Arc<Self>, GpuError> {
        let capability = context.device().capability;
        if image.coverage(capability) == Coverage::None {
            let archs = image.archs.join(" ");
            return Err(GpuError::UnsupportedDevice { family: image.family, capability, archs });
        }
        let driver = context.bind()?;
        let mut handle = LibraryHandle::NULL;
        // SAFETY: the bytes are a fatbin (checked by the tests of kilotok-kernels) with static lifetime; no options
        // are passed, so their arrays may be null.
        let status = unsafe {
            (driver.library_load_data)(
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
        driver.check("cuLibraryLoadData", status)?;
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
        let mut kernel = KernelHandle::NULL;
        // SAFETY: the library is alive; `c_name` is zero-terminated and outlives the call.
        let status =
            unsafe { (driver.library_get_kernel)(&raw mut kernel, self.handle, c_name.as_ptr()) };
        driver.check("cuLibraryGetKernel", status)?;
        let mut function = FunctionHandle::NULL;
        // SAFETY: the kernel belongs to the library above; the context is current.
        let status = unsafe { (driver.kernel_get_function)(&raw mut function, kernel) };
        driver.check("cuKernelGetFunction", status)?;
        Ok(Kernel { library: Arc::clone(self), function })
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        if let Ok(driver) = self.context.bind() {
            // SAFETY: every Kernel holds an Arc of the library, so none is left.
            let _ = unsafe { (driver.library_unload)(self.handle) };
        }
    }
}

/// A kernel in a loaded library, on the library's device.
#[derive(Debug, Clone)]
pub struct Kernel {
    library: Arc<Library>,
    function: FunctionHandle,
}

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
        let read = |attribute: Attribute| -> Result<u32, GpuError> {
            let mut value: c_int = 0;
            // SAFETY: the function is alive while `self` is; `value` is a valid place for one integer.
            let status = unsafe {
                (driver.func_get_attribute)(&raw mut value, attribute as c_uint, self.function)
            };
            driver.check("cuFuncGetAttribute", status)?;
            Ok(value.max(0) as u32)
        };
        Ok(KernelAttributes {
            max_threads_per_block: read(Attribute::MaxThreadsPerBlock)?,
            shared_bytes: read(Attribute::SharedBytes)?,
            local_bytes: read(Attribute::LocalBytes)?,
            num_registers: read(Attribute::NumRegisters)?,
            binary_version: read(Attribute::BinaryVersion)?,
        })
    }

    /// Allows launches with up to `bytes` of dynamic shared memory (more than 48 KB needs this).
    ///
    /// # Errors
    /// [`GpuError::Driver`] when the device has less.
    pub fn allow_shared_bytes(&self, bytes: u32) -> Result<(), GpuError> {
        let driver = self.context().bind()?;
        // SAFETY: the function is alive while `self` is.
        let status = unsafe {
            (driver.func_set_attribute)(
                self.function,
                Attribute::MaxDynamicSharedBytes as c_uint,
                bytes as c_int,
            )
        };
        driver.check("cuFuncSetAttribute", status)
    }

    /// How many blocks of this shape fit on one SM at a time.
    ///
    /// # Errors
    /// [`GpuError::Driver`].
    pub fn blocks_per_sm(&self, threads: u32, shared_bytes: u32) -> Result<u32, GpuError> {
        let driver = self.context().bind()?;
        let mut blocks: c_int = 0;
        // SAFETY: the function is alive while `self` is; `blocks` is a valid place for one integer.
        let status = unsafe {
            (driver.occupancy)(
                &raw mut blocks,
                self.function,
                threads as c_int,
                shared_bytes as usize,
            )
        };
        driver.check("cuOccupancyMaxActiveBlocksPerMultiprocessor", status)?;
        Ok(blocks.max(0) as u32)
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.library.context
    }

    pub(crate) fn function(&self) -> FunctionHandle {
        self.function
    }
}

/// `CUfunction_attribute`, as far as used.
#[derive(Clone, Copy)]
enum Attribute {
    MaxThreadsPerBlock = 0,
    SharedBytes = 1,
    LocalBytes = 3,
    NumRegisters = 4,
    BinaryVersion = 6,
    MaxDynamicSharedBytes = 8,
}
