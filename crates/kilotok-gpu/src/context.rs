//! The primary context of one device.

use std::sync::Arc;

use cudarc::driver::{CudaContext, result};

use crate::driver::Driver;
use crate::error::GpuError;
use crate::probe::{DeviceInfo, ready};

/// A hold on a device's primary context, the one that other CUDA libraries in the process share.
#[derive(Debug)]
pub struct Context {
    driver: &'static Driver,
    cuda: Arc<CudaContext>,
    info: DeviceInfo,
}

impl Context {
    /// Opens device `index` (the driver's order, from 0).
    ///
    /// # Errors
    /// [`GpuError::NoDriver`], [`GpuError::DriverTooOld`], [`GpuError::NoDevice`] as probed;
    /// [`GpuError::DeviceIndex`]; [`GpuError::Driver`].
    pub fn new(index: usize) -> Result<Arc<Self>, GpuError> {
        let (driver, devices) = ready()?;
        let info = devices
            .get(index)
            .ok_or(GpuError::DeviceIndex { index, count: devices.len() })?
            .clone();
        let cuda = driver.check("cuDevicePrimaryCtxRetain", CudaContext::new(index))?;
        // SAFETY: tracking orders the uses of cudarc's own buffers, and this crate makes none. With it, the first stream
        // would wait for everything that other libraries have queued on the device.
        unsafe { cuda.disable_event_tracking() };
        Ok(Arc::new(Self { driver, cuda, info }))
    }

    /// The device as probed.
    pub fn device(&self) -> &DeviceInfo {
        &self.info
    }

    /// Free and total device memory in bytes, now.
    ///
    /// # Errors
    /// [`GpuError::Driver`].
    pub fn memory(&self) -> Result<(u64, u64), GpuError> {
        let (free, total) = self.bind()?.check("cuMemGetInfo", result::mem_get_info())?;
        Ok((free as u64, total as u64))
    }

    /// Makes the context current on this thread and returns the driver, which tells what goes wrong.
    pub(crate) fn bind(&self) -> Result<&'static Driver, GpuError> {
        // cudarc keeps an error of giving something back for the next call, which has nothing to do with it.
        let _ = self.cuda.check_err();
        self.driver.check("cuCtxSetCurrent", self.cuda.bind_to_thread())?;
        Ok(self.driver)
    }

    pub(crate) fn cuda(&self) -> &Arc<CudaContext> {
        &self.cuda
    }
}
