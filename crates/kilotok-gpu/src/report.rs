//! Everything `kilotok doctor` wants to know about GPUs, as plain data.

use std::fmt;

use kilotok_kernels::{BuildInfo, Coverage, build_info, images};

use crate::probe::{DeviceInfo, Probe, probe};

/// How one embedded image fits one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFit {
    /// Kernel family.
    pub family: &'static str,
    /// Which target would run, if any.
    pub coverage: Coverage,
}

/// One device and the images for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceReport {
    /// The device as probed.
    pub device: DeviceInfo,
    /// Every embedded image.
    pub images: Vec<ImageFit>,
}

/// Driver, devices and embedded kernels. `Display` gives lines fit for a terminal.
#[derive(Debug, Clone)]
pub struct GpuReport {
    /// The embedded kernels.
    pub build: BuildInfo,
    /// The driver.
    pub probe: &'static Probe,
    /// One entry per device; empty unless the probe is `Ready`.
    pub devices: Vec<DeviceReport>,
}

/// Probes the driver (once per process) and matches devices with embedded kernels. Launches nothing.
pub fn report() -> GpuReport {
    let probe = probe();
    let devices = match probe {
        Probe::Ready { devices, .. } => devices.iter().map(fit).collect(),
        _ => Vec::new(),
    };
    GpuReport { build: build_info(), probe, devices }
}

fn fit(device: &DeviceInfo) -> DeviceReport {
    let images = images()
        .iter()
        .map(|image| ImageFit { family: image.family, coverage: image.coverage(device.capability) })
        .collect();
    DeviceReport { device: device.clone(), images }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, self.devices()) {
            (Self::Ready { driver, devices }, _) => {
                write!(f, "CUDA {driver}, {} GPU(s)", devices.len())
            }
            (_, Err(error)) => error.fmt(f),
            (_, Ok(_)) => Ok(()),
        }
    }
}

impl fmt::Display for DeviceInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "GPU {}: {}, compute capability {}.{}, {} SMs, {:.1} GiB, L2 {:.0} MiB",
            self.index,
            self.name,
            self.capability.0,
            self.capability.1,
            self.num_sms,
            self.memory_bytes as f64 / f64::from(1u32 << 30),
            self.l2_bytes as f64 / f64::from(1u32 << 20),
        )
    }
}

impl fmt::Display for GpuReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "driver: {}\nkernels: {}", self.probe, self.build)?;
        for DeviceReport { device, images } in &self.devices {
            write!(f, "\n{device}")?;
            for ImageFit { family, coverage } in images {
                match coverage {
                    Coverage::Native(target) => write!(f, "\n  {family}: runs as {target}")?,
                    Coverage::Translated(target) => {
                        write!(f, "\n  {family}: translated by the driver from {target}")?;
                    }
                    Coverage::None => write!(f, "\n  {family}: not compiled for this GPU")?,
                }
            }
        }
        Ok(())
    }
}
