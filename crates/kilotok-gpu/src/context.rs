//! The primary context of one device.

use std::ffi::c_int;
use std::sync::Arc;

use crate::driver::{ContextHandle, Device, Driver};
use crate::error::GpuError;
use crate::probe::{DeviceInfo, device_handle, ready};

/// A hold on a device's primary context, the one that other CUDA libraries in the process share.
#[derive(Debug)]
pub struct Context {
    driver: &'static Driver,
    device: Device,
    handle: ContextHandle,
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
        let device = device_handle(driver, index as c_int)?;
        let mut handle = ContextHandle::NULL;
        // SAFETY: `handle` is a valid place for one handle; `device` comes from the driver.
        let status = unsafe { (driver.primary_ctx_retain)(&raw mut handle, device) };
        driver.check("cuDevicePrimaryCtxRetain", status)?;
        Ok(Arc::new(Self { driver, device, handle, info }))
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
        let driver = self.bind()?;
        let (mut free, mut total) = (0usize, 0usize);
        // SAFETY: both are valid places for one size; the context is current on this thread.
        let status = unsafe { (driver.mem_get_info)(&raw mut free, &raw mut total) };
        driver.check("cuMemGetInfo", status)?;
        Ok((free as u64, total as u64))
    }

    /// Makes the context current on this thread and returns the driver to call.
    pub(crate) fn bind(&self) -> Result<&'static Driver, GpuError> {
        // SAFETY: the handle is alive: `self` holds a reference count on the primary context.
        let status = unsafe { (self.driver.ctx_set_current)(self.handle) };
        self.driver.check("cuCtxSetCurrent", status)?;
        Ok(self.driver)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: gives back the one count taken in `new`; everything that uses the context holds an Arc of it.
        let status = unsafe { (self.driver.primary_ctx_release)(self.device) };
        // A driver that is shutting down has released the context already.
        let _ = status;
    }
}
