//! A small safe layer over the CUDA driver: probe, context, stream, library, launch, memory.
//!
//! The driver (`libcuda.so.1`) is opened at run time, when first asked for; nothing is linked. On a machine without a
//! GPU every entry point returns a typed error. Nothing here panics.
//!
//! ```
//! // What is there and what would run, fit for a terminal.
//! println!("{}", kilotok_gpu::report());
//! ```
//!
//! The driver is called through cudarc, after `driver.rs` has seen that nothing it calls is missing. Every object keeps
//! alive what it needs: a buffer its context, a kernel its library, so that safe code cannot use anything after it is
//! gone.
#![allow(unsafe_code, reason = "this crate is the safe layer over a C interface")]

mod context;
mod copy_rate;
#[cfg(test)]
mod device_tests;
mod driver;
mod error;
mod graph;
mod launch;
mod library;
pub mod machine;
pub mod mem;
pub mod ops;
pub mod pool;
mod probe;
mod report;
mod selfcheck;
#[cfg(test)]
mod stand_in;
mod stream;

pub use context::Context;
pub use copy_rate::copy_rate;
pub use error::GpuError;
pub use graph::Graph;
pub use launch::LaunchConfig;
pub use library::{Kernel, KernelAttributes, Library};
pub use probe::{DeviceInfo, DriverVersion, Probe, probe};
pub use report::{DeviceReport, GpuReport, ImageFit, report};
pub use selfcheck::{ProbeReport, run_probe};
pub use stream::{Event, Stream};
