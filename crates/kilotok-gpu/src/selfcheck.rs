//! Runs the probe kernel and checks its result bit for bit.

use kilotok_kernels::abi::{ProbeArgs, ProbeResult};

use crate::context::Context;
use crate::error::GpuError;
use crate::launch::LaunchConfig;
use crate::library::{Kernel, KernelAttributes, Library};
use crate::mem::{DeviceBuffer, PinnedBuffer};
use crate::probe::DeviceInfo;
use crate::stream::Stream;

/// Elements: 64 MiB per vector, and not a multiple of any block size.
const N: usize = (1 << 24) - 13;
const THREADS: u32 = 256;
const A: f32 = 3.0;
/// Ordinary launches; the fastest one is reported.
const NUM_TIMED: usize = 5;

/// What running the probe kernel showed.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeReport {
    /// The device.
    pub device: DeviceInfo,
    /// The kernel as loaded.
    pub kernel: KernelAttributes,
    /// `__CUDA_ARCH__` of the code that ran, for example 900.
    pub arch: u32,
    /// `__CUDA_ARCH_FAMILY_SPECIFIC__` of that code; 0 for portable code.
    pub arch_family: u32,
    /// PTX `%nsmid` as the kernel saw it.
    pub num_sms_seen: u32,
    /// SM clock in MHz during the kernel: cycles over nanoseconds.
    pub clock_mhz: f64,
    /// Elements computed and compared.
    pub num_elements: usize,
    /// Launches that were checked: ordinary ones and, where supported, one cooperative.
    pub num_launches: usize,
    /// Whether the cooperative launch ran.
    pub is_cooperative_checked: bool,
    /// Fastest ordinary launch in microseconds, by events.
    pub kernel_us: f64,
    /// Bytes read and written per launch.
    pub bytes_moved: u64,
    /// `bytes_moved` over `kernel_us`, in 10^9 bytes per second.
    pub gbytes_per_s: f64,
}

/// Loads the embedded probe kernel on device `device_index` (from 0), launches it and compares every element.
///
/// # Errors
/// Every [`GpuError`]; on a machine without a GPU [`GpuError::NoDriver`] or [`GpuError::NoDevice`].
pub fn run_probe(device_index: usize) -> Result<ProbeReport, GpuError> {
    let context = Context::new(device_index)?;
    let kernel = Library::embedded(&context, "probe")?.kernel("kilotok_probe")?;
    let attributes = kernel.attributes()?;
    let stream = Stream::new(&context)?;

    let x: Vec<f32> = (0..N).map(x_at).collect();
    let y: Vec<f32> = (0..N).map(y_at).collect();
    let x = DeviceBuffer::from_slice(&stream, &x)?;
    let y = DeviceBuffer::from_slice(&stream, &y)?;
    let result = DeviceBuffer::<ProbeResult>::zeroed(&stream, 1)?;
    let buffers = Buffers { x, y, result };

    let device = context.device().clone();
    let blocks_per_sm = kernel.blocks_per_sm(THREADS, 0)?.max(1);
    let mut config = LaunchConfig::linear(device.num_sms.max(1) * blocks_per_sm, THREADS);
    let mut kernel_us = f64::INFINITY;
    for _ in 0..NUM_TIMED {
        kernel_us = kernel_us.min(buffers.launch(&kernel, &stream, &config)?);
    }
    let seen = buffers.result.to_vec(&stream)?.first().copied().unwrap_or_default();
    let mut num_launches = NUM_TIMED;
    if device.has_cooperative_launch {
        config.is_cooperative = true;
        buffers.launch(&kernel, &stream, &config)?;
        num_launches += 1;
    }
    buffers.check(&context, &stream, num_launches)?;

    let bytes_moved = 3 * (N * size_of::<f32>()) as u64;
    Ok(ProbeReport {
        kernel: attributes,
        arch: seen.arch,
        arch_family: seen.arch_family,
        num_sms_seen: seen.num_sms,
        clock_mhz: seen.clock_cycles as f64 * 1e3 / seen.elapsed_ns.max(1) as f64,
        num_elements: N,
        num_launches,
        is_cooperative_checked: device.has_cooperative_launch,
        kernel_us,
        bytes_moved,
        gbytes_per_s: bytes_moved as f64 / (kernel_us * 1e3),
        device,
    })
}

/// Small integers: `y + launches * a * x` stays below 2^24 and is exact in f32.
fn x_at(i: usize) -> f32 {
    (i % 1021) as f32
}

fn y_at(i: usize) -> f32 {
    (i % 4093) as f32
}

struct Buffers {
    x: DeviceBuffer<f32>,
    y: DeviceBuffer<f32>,
    result: DeviceBuffer<ProbeResult>,
}

impl Buffers {
    /// One launch, waited for; its time in microseconds.
    fn launch(
        &self,
        kernel: &Kernel,
        stream: &Stream,
        config: &LaunchConfig,
    ) -> Result<f64, GpuError> {
        let args = ProbeArgs {
            x: self.x.address(),
            y: self.y.address(),
            result: self.result.address(),
            n: self.x.len() as u64,
            a: A,
            reserved: 0,
        };
        let start = stream.record()?;
        // SAFETY: kilotok_probe takes a KilotokProbeArgs. x and y have n elements, result has one; all belong to the
        // kernel's device and are borrowed from `self` until the time below has been read, that is, past the launch.
        unsafe { kernel.launch(stream, config, &args)? };
        stream.record()?.microseconds_since(&start)
    }

    /// Compares every element with the exact value.
    fn check(
        &self,
        context: &std::sync::Arc<Context>,
        stream: &Stream,
        num_launches: usize,
    ) -> Result<(), GpuError> {
        let mut host = PinnedBuffer::<f32>::new(context, self.y.len())?;
        self.y.download(stream, host.as_mut_slice())?;
        for (index, &got) in host.as_slice().iter().enumerate() {
            let want = y_at(index) + num_launches as f32 * A * x_at(index);
            if got.to_bits() != want.to_bits() {
                return Err(GpuError::WrongResult { index, got, want });
            }
        }
        Ok(())
    }
}
