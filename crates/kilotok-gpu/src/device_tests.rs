//! Every object of this crate on a stand-in device: that calls arrive as meant, and nothing is left behind.
//!
//! The stand-in exports exactly the functions of `driver.rs`'s list: a call to any other would panic here.

use std::collections::BTreeSet;
use std::sync::Arc;

use kilotok_kernels::Image;
use kilotok_kernels::abi::{ProbeArgs, ProbeResult};

use crate::driver::FUNCTIONS;
use crate::mem::{DeviceBuffer, PinnedBuffer};
use crate::pool::{Component, MemoryPlan, MemoryPool};
use crate::stand_in::{WORKING, source, with_driver};
use crate::{Context, GpuError, Kernel, KernelAttributes, LaunchConfig, Library, Stream};

const DEVICE: &str = include_str!("stand_in_device.c");
static IMAGE: Image = Image { family: "stand-in", archs: &["sm_90"], bytes: b"image" };

fn device() -> String {
    source(&format!("{WORKING}{DEVICE}"), &[])
}

/// What the stand-in says: (things alive, holds of its first context).
fn counts(context: &Context) -> (u64, u64) {
    context.memory().unwrap()
}

fn kernel(context: &Arc<Context>) -> Kernel {
    Library::load(context, &IMAGE).unwrap().kernel("kilotok_probe").unwrap()
}

#[test]
fn the_list_of_functions_is_what_the_stand_in_has() {
    let device = format!("{WORKING}{DEVICE}");
    let has: BTreeSet<&str> = device
        .lines()
        .filter_map(|line| line.strip_prefix("int ")?.split_once('(').map(|(name, _)| name))
        .collect();
    assert_eq!(has, FUNCTIONS.iter().copied().collect());
}

#[test]
fn a_launch_gets_its_shape_its_flags_and_its_arguments() {
    with_driver(&device(), || {
        let context = Context::new(0).unwrap();
        let kernel = kernel(&context);
        let stream = Stream::new(&context).unwrap();
        let x = DeviceBuffer::from_slice(&stream, &[1f32, 2.0, 3.0]).unwrap();
        let y = DeviceBuffer::from_slice(&stream, &[10f32, 20.0, 30.0]).unwrap();
        let result = DeviceBuffer::<ProbeResult>::zeroed(&stream, 1).unwrap();
        assert_eq!(result.to_vec(&stream).unwrap(), [ProbeResult::default()]);
        let args = ProbeArgs {
            x: x.address(),
            y: y.address(),
            result: result.address(),
            n: 3,
            a: 2.0,
            reserved: 0,
        };
        kernel.allow_shared_bytes(65_536).unwrap();
        let mut config = LaunchConfig {
            grid: [7, 1, 1],
            block: [256, 2, 1],
            shared_bytes: 65_536,
            is_cooperative: false,
            is_programmatic: false,
        };
        // SAFETY: the stand-in runs this kernel with these arguments, whose buffers outlive the launches.
        let launch = |config: &LaunchConfig| unsafe { kernel.launch(&stream, config, &args) };
        launch(&config).unwrap();
        config.is_cooperative = true;
        config.grid[1] = 2;
        launch(&config).unwrap();
        config.is_programmatic = true;
        config.grid[1] = 3;
        launch(&config).unwrap();
        stream.synchronize().unwrap();

        assert_eq!(y.to_vec(&stream).unwrap(), [16.0, 32.0, 48.0]);
        assert_eq!(result.to_vec(&stream).unwrap()[0].num_blocks, 3);
        config.shared_bytes += 1;
        let refused = launch(&config).unwrap_err();
        let GpuError::Driver { call, code, .. } = refused else { panic!("{refused:?}") };
        assert_eq!((call, code), ("cuLaunchKernelEx", 1));
    });
}

#[test]
fn a_kernel_tells_its_attributes_and_a_name_that_is_not_there_is_told() {
    with_driver(&device(), || {
        let context = Context::new(1).unwrap();
        let library = Library::load(&context, &IMAGE).unwrap();
        let kernel = library.kernel("kilotok_probe").unwrap();
        let attributes = KernelAttributes {
            max_threads_per_block: 1024,
            shared_bytes: 16,
            local_bytes: 8,
            num_registers: 40,
            binary_version: 90,
        };
        assert_eq!(kernel.attributes().unwrap(), attributes);
        assert_eq!(kernel.blocks_per_sm(256, 131_072).unwrap(), 6);
        assert!(kernel.allow_shared_bytes(1 << 20).is_err());
        let error = library.kernel("nothing").unwrap_err();
        let text =
            "cuLibraryGetKernel failed with CUDA_ERROR_NOT_FOUND (500): named symbol not found";
        assert_eq!(error.to_string(), text);
    });
}

#[test]
fn everything_is_given_back_whatever_goes_first() {
    with_driver(&device(), || {
        let watch = Context::new(0).unwrap();
        assert_eq!(counts(&watch), (0, 1));
        let context = Context::new(0).unwrap();
        let stream = Stream::new(&context).unwrap();
        let buffer = DeviceBuffer::from_slice(&stream, &[1u8, 2, 3]).unwrap();
        let empty = DeviceBuffer::<f32>::zeroed(&stream, 0).unwrap();
        let pinned = PinnedBuffer::<u64>::new(&context, 5).unwrap();
        let kernel = kernel(&context);
        let event = stream.record().unwrap();
        assert_eq!(counts(&watch), (5, 2));
        assert_eq!(pinned.as_slice(), [0; 5]);
        drop(context);
        drop(stream);
        // On another thread no context is current yet.
        std::thread::spawn(move || drop((empty, event, kernel, pinned))).join().unwrap();
        assert_eq!(counts(&watch), (1, 2));
        drop(buffer);
        assert_eq!(counts(&watch), (0, 1));
    });
}

#[test]
fn time_between_events_is_in_microseconds() {
    with_driver(&device(), || {
        let context = Context::new(0).unwrap();
        let stream = Stream::new(&context).unwrap();
        let (start, end) = (stream.record().unwrap(), stream.record().unwrap());
        assert_eq!(end.microseconds_since(&start).unwrap(), 250.0);
    });
}

#[test]
fn a_pool_takes_one_allocation_and_gives_it_back() {
    with_driver(&device(), || {
        // The stand-in counts things alive as free bytes: one here, so that one byte may be asked for.
        let context = Context::new(0).unwrap();
        let stream = Stream::new(&context).unwrap();
        assert_eq!(counts(&context).0, 1);
        let mut plan = MemoryPlan::default();
        let region = plan.region(Component::Mailboxes, 1, 1).unwrap();
        let pool = MemoryPool::new(Arc::clone(&context), &plan, 1.0).unwrap();
        assert_eq!(counts(&context).0, 2);
        assert_ne!(pool.region(region).unwrap().address, 0);
        drop(pool);
        assert_eq!(counts(&context).0, 1);
        drop(stream);
        let error = MemoryPool::new(Arc::clone(&context), &plan, 1.0).unwrap_err();
        assert!(matches!(error, GpuError::DoesNotFit { free: 0, .. }), "{error}");
    });
}

#[test]
fn too_large_an_allocation_says_which_memory_and_how_much() {
    with_driver(&device(), || {
        let context = Context::new(0).unwrap();
        let stream = Stream::new(&context).unwrap();
        let bytes = 1usize << 31;
        let error = DeviceBuffer::<u8>::zeroed(&stream, bytes).unwrap_err();
        assert_eq!(error, GpuError::OutOfMemory { kind: "device", bytes });
        let error = PinnedBuffer::<u8>::new(&context, bytes).unwrap_err();
        assert_eq!(error, GpuError::OutOfMemory { kind: "pinned host", bytes });
    });
}

#[test]
fn a_code_newer_than_the_binding_is_told_as_the_number_it_is() {
    with_driver(&device(), || {
        let context = Context::new(0).unwrap();
        let kernel = kernel(&context);
        let stream = Stream::new(&context).unwrap();
        let config = LaunchConfig { block: [256, 2, 1], ..LaunchConfig::linear(0, 256) };
        // SAFETY: without blocks nothing runs; the stand-in keeps an error for later.
        unsafe { kernel.launch(&stream, &config, &ProbeArgs::default()) }.unwrap();
        // The stand-in refuses to take the event back, which is nobody's error.
        drop(stream.record().unwrap());
        let error = stream.synchronize().unwrap_err();
        let name = "unknown".to_owned();
        let detail = name.clone();
        assert_eq!(
            error,
            GpuError::Driver { call: "cuStreamSynchronize", code: 917, name, detail }
        );
        stream.synchronize().unwrap();
    });
}
