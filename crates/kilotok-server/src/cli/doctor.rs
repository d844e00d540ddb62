//! `kilotok doctor`.

use std::fmt::Write as _;

use clap::Args;
use kilotok::backend::cpu::Simd;
use kilotok::backend::gpu;
use kilotok_gpu::{GpuReport, Probe};

use super::{DONE, FAILED, logging};

/// The command.
#[derive(Args)]
pub(crate) struct Doctor {
    /// Launch nothing on GPUs
    #[arg(long)]
    no_probe: bool,
}

impl Doctor {
    /// Prints what this machine has; fails only if a GPU does not do what it says.
    pub(crate) fn run(&self) -> u8 {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let simd: Vec<String> = Simd::available().iter().map(Simd::to_string).collect();
        let GpuReport { build, probe, .. } = kilotok_gpu::report();
        let mut text = format!(
            "kilotok {}\ncpu: {cores} cores, {} (uses {})\ngpu: {probe}\n",
            env!("CARGO_PKG_VERSION"),
            simd.join(", "),
            Simd::detect(),
        );
        let mut outcome = DONE;
        let devices = match &probe {
            Probe::Ready { devices, .. } if build.toolchain.is_some() && !self.no_probe => {
                devices.len()
            }
            _ => 0,
        };
        for device in 0..devices {
            // Writing to a string cannot fail.
            let _ = match kilotok_gpu::run_probe(device) {
                Ok(report) => {
                    let rate = report.gbytes_per_s;
                    writeln!(text, "gpu {device}: probe kernel correct, {rate:.0} GB/s")
                }
                Err(error) => {
                    outcome = FAILED;
                    writeln!(text, "gpu {device}: probe kernel failed: {error}")
                }
            };
        }
        let _ = match gpu::probe(0) {
            Ok(name) => {
                writeln!(text, "runs models on: cuda, {name}; on the cpu what does not fit")
            }
            Err(error) => writeln!(text, "runs models on: cpu ({error})"),
        };
        logging::say(&text);
        outcome
    }
}
