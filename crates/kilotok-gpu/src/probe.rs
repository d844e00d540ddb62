//! Looks for a usable driver and its devices. Never panics; every way to fail is a state.

use std::ffi::{CStr, OsStr, c_int, c_uint};
use std::fmt;
use std::sync::OnceLock;

use crate::driver::{Device, Driver};
use crate::error::GpuError;

/// The driver library's soname on Linux.
const LIBRARY: &str = "libcuda.so.1";

/// `CUDA_ERROR_NO_DEVICE`: `cuInit` says it when no GPU is visible.
const NO_DEVICE: c_uint = 100;
/// Room for a device name.
const NAME_BYTES: usize = 256;

/// The CUDA version that a driver supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DriverVersion {
    /// For example 13.
    pub major: u32,
    /// For example 0.
    pub minor: u32,
}

impl fmt::Display for DriverVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// One GPU as the driver describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The driver's index, from 0.
    pub index: usize,
    /// For example `NVIDIA H200`.
    pub name: String,
    /// Compute capability `(major, minor)`.
    pub capability: (u32, u32),
    /// Streaming multiprocessors.
    pub num_sms: u32,
    /// Device memory in bytes.
    pub memory_bytes: u64,
    /// L2 cache in bytes.
    pub l2_bytes: u64,
    /// Most shared memory a block may ask for, in bytes.
    pub shared_bytes_per_block: u32,
    /// Whether all blocks of a grid may wait for each other.
    pub has_cooperative_launch: bool,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// No driver library, or one that does not start.
    NoDriver {
        /// What the loader or the driver said.
        detail: String,
    },
    /// The driver is older than this build needs.
    DriverTooOld {
        /// What it supports.
        have: DriverVersion,
        /// What is needed.
        need: DriverVersion,
    },
    /// The driver works and sees no GPU.
    NoDevice,
    /// At least one GPU.
    Ready {
        /// What the driver supports.
        driver: DriverVersion,
        /// All GPUs, in the driver's order.
        devices: Vec<DeviceInfo>,
    },
}

impl Probe {
    /// The error that belongs to every state but `Ready`.
    ///
    /// # Errors
    /// [`GpuError::NoDriver`], [`GpuError::DriverTooOld`], [`GpuError::NoDevice`].
    pub fn devices(&self) -> Result<&[DeviceInfo], GpuError> {
        match self {
            Self::Ready { devices, .. } => Ok(devices),
            Self::NoDriver { detail } => Err(GpuError::NoDriver { detail: detail.clone() }),
            Self::DriverTooOld { have, need } => {
                Err(GpuError::DriverTooOld { have: *have, need: *need })
            }
            Self::NoDevice => Err(GpuError::NoDevice),
        }
    }
}

/// The process-wide driver: opened and probed at the first call, kept until the process ends, because unloading a
/// started driver is not supported.
struct Found {
    driver: Option<Driver>,
    probe: Probe,
}

fn found() -> &'static Found {
    static FOUND: OnceLock<Found> = OnceLock::new();
    FOUND.get_or_init(|| look(OsStr::new(LIBRARY)))
}

/// Looks for the driver and its devices; the first call opens the driver, later calls return the same answer.
pub fn probe() -> &'static Probe {
    &found().probe
}

/// The opened driver together with the devices.
pub(crate) fn ready() -> Result<(&'static Driver, &'static [DeviceInfo]), GpuError> {
    let Found { driver, probe } = found();
    let devices = probe.devices()?;
    match driver {
        Some(driver) => Ok((driver, devices)),
        None => Err(GpuError::NoDevice),
    }
}

fn look(library: &OsStr) -> Found {
    let driver = match Driver::open(library) {
        Ok(driver) => driver,
        Err(error) => return Found { driver: None, probe: failed(&error) },
    };
    let probe = start(&driver).unwrap_or_else(|error| failed(&error));
    Found { driver: Some(driver), probe }
}

fn failed(error: &GpuError) -> Probe {
    match error {
        GpuError::NoDriver { detail } => Probe::NoDriver { detail: detail.clone() },
        GpuError::DriverTooOld { have, need } => Probe::DriverTooOld { have: *have, need: *need },
        other => Probe::NoDriver { detail: other.to_string() },
    }
}

fn start(driver: &Driver) -> Result<Probe, GpuError> {
    // SAFETY: cuInit takes flags that must be 0.
    let status = unsafe { (driver.init)(0) };
    if status == NO_DEVICE {
        return Ok(Probe::NoDevice);
    }
    driver.check("cuInit", status)?;

    let mut count: c_int = 0;
    // SAFETY: `count` is a valid place for one integer.
    driver.check("cuDeviceGetCount", unsafe { (driver.device_get_count)(&raw mut count) })?;
    let devices: Vec<DeviceInfo> =
        (0..count).map(|index| describe(driver, index)).collect::<Result<_, _>>()?;
    Ok(if devices.is_empty() {
        Probe::NoDevice
    } else {
        Probe::Ready { driver: driver.version, devices }
    })
}

/// The driver's handle of device `index`.
pub(crate) fn device_handle(driver: &Driver, index: c_int) -> Result<Device, GpuError> {
    let mut device: Device = 0;
    // SAFETY: `device` is a valid place for one handle; a wrong index is an error status.
    driver.check("cuDeviceGet", unsafe { (driver.device_get)(&raw mut device, index) })?;
    Ok(device)
}

fn describe(driver: &Driver, index: c_int) -> Result<DeviceInfo, GpuError> {
    let device = device_handle(driver, index)?;
    let mut name = [0u8; NAME_BYTES];
    // SAFETY: the driver writes at most NAME_BYTES bytes, the zero included, into `name`.
    let status =
        unsafe { (driver.device_get_name)(name.as_mut_ptr().cast(), NAME_BYTES as c_int, device) };
    driver.check("cuDeviceGetName", status)?;
    let name = CStr::from_bytes_until_nul(&name)
        .map_or_else(|_| "unnamed".into(), |name| name.to_string_lossy().into_owned());

    let mut memory_bytes = 0usize;
    // SAFETY: `memory_bytes` is a valid place for one size.
    let status = unsafe { (driver.device_total_mem)(&raw mut memory_bytes, device) };
    driver.check("cuDeviceTotalMem", status)?;

    let attribute = |attribute: Attribute| -> Result<u32, GpuError> {
        let mut value: c_int = 0;
        // SAFETY: `value` is a valid place for one integer; an unknown attribute is an error status.
        let status =
            unsafe { (driver.device_get_attribute)(&raw mut value, attribute as c_uint, device) };
        driver.check("cuDeviceGetAttribute", status)?;
        Ok(value.max(0) as u32)
    };
    Ok(DeviceInfo {
        index: index as usize,
        name,
        capability: (attribute(Attribute::Major)?, attribute(Attribute::Minor)?),
        num_sms: attribute(Attribute::MultiprocessorCount)?,
        memory_bytes: memory_bytes as u64,
        l2_bytes: u64::from(attribute(Attribute::L2CacheSize)?),
        shared_bytes_per_block: attribute(Attribute::MaxSharedPerBlockOptin)?,
        has_cooperative_launch: attribute(Attribute::CooperativeLaunch)? != 0,
    })
}

/// `CUdevice_attribute`, as far as used.
#[derive(Clone, Copy)]
enum Attribute {
    MultiprocessorCount = 16,
    L2CacheSize = 38,
    Major = 75,
    Minor = 76,
    CooperativeLaunch = 95,
    MaxSharedPerBlockOptin = 97,
}

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;
