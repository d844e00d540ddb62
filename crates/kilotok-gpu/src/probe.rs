//! Looks for a usable driver and its devices. Never panics; every way to fail is a state.

use std::ffi::{CStr, OsStr, c_int};
use std::fmt;
use std::sync::OnceLock;

use cudarc::driver::result;
use cudarc::driver::sys::{CUdevice_attribute, cuDeviceGetName};

use crate::driver::Driver;
use crate::error::GpuError;

/// The driver library's soname on Linux.
const LIBRARY: &str = "libcuda.so.1";

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
    let probe = list(&driver).unwrap_or_else(|error| failed(&error));
    Found { driver: Some(driver), probe }
}

fn failed(error: &GpuError) -> Probe {
    match error {
        GpuError::NoDriver { detail } => Probe::NoDriver { detail: detail.clone() },
        GpuError::DriverTooOld { have, need } => Probe::DriverTooOld { have: *have, need: *need },
        GpuError::NoDevice => Probe::NoDevice,
        other => Probe::NoDriver { detail: other.to_string() },
    }
}

/// Starts the driver and describes its devices.
fn list(driver: &Driver) -> Result<Probe, GpuError> {
    driver.start()?;
    let count = driver.check("cuDeviceGetCount", result::device::get_count())?;
    let devices: Vec<DeviceInfo> =
        (0..count).map(|index| describe(driver, index)).collect::<Result<_, _>>()?;
    Ok(if devices.is_empty() {
        Probe::NoDevice
    } else {
        Probe::Ready { driver: driver.version, devices }
    })
}

fn describe(driver: &Driver, index: c_int) -> Result<DeviceInfo, GpuError> {
    let device = driver.check("cuDeviceGet", result::device::get(index))?;
    let mut name = [0u8; NAME_BYTES];
    // Not cudarc's get_name, which panics when the driver leaves no zero.
    // SAFETY: the driver writes at most NAME_BYTES bytes, the zero included, into `name`.
    let status = unsafe { cuDeviceGetName(name.as_mut_ptr().cast(), NAME_BYTES as c_int, device) };
    driver.check("cuDeviceGetName", status.result())?;
    let name = CStr::from_bytes_until_nul(&name)
        .map_or_else(|_| "unnamed".into(), |name| name.to_string_lossy().into_owned());

    // SAFETY: the device comes from the driver.
    let memory_bytes = unsafe { result::device::total_mem(device) };
    let memory_bytes = driver.check("cuDeviceTotalMem", memory_bytes)? as u64;

    let attribute = |attribute: CUdevice_attribute| -> Result<u32, GpuError> {
        // SAFETY: the device comes from the driver; an attribute it does not know is an error.
        let value = unsafe { result::device::get_attribute(device, attribute) };
        Ok(driver.check("cuDeviceGetAttribute", value)?.max(0) as u32)
    };
    Ok(DeviceInfo {
        index: index as usize,
        name,
        capability: (
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        num_sms: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        memory_bytes,
        l2_bytes: u64::from(attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?),
        shared_bytes_per_block: attribute(
            CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
        )?,
        has_cooperative_launch: attribute(
            CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH,
        )? != 0,
    })
}

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;
