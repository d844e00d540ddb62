//! The embedded table is what it says it is.

use kilotok_kernels::{Coverage, build_info, image, images};

/// First bytes of every fatbin (little-endian 0xBA55ED50).
const FATBIN_MAGIC: [u8; 4] = [0x50, 0xED, 0x55, 0xBA];

#[test]
fn every_image_is_an_aligned_fatbin_for_known_targets() {
    for image in images() {
        assert_eq!(image.bytes.as_ptr() as usize % 64, 0, "{}", image.family);
        assert_eq!(image.bytes[..4], FATBIN_MAGIC, "{}", image.family);
        assert!(!image.archs.is_empty(), "{}", image.family);
    }
}

#[test]
fn a_build_with_kernels_has_the_probe_and_one_without_says_so() {
    let info = build_info();
    if info.toolchain.is_none() {
        assert!(images().is_empty());
        assert!(info.to_string().contains("KILOTOK_CUDA=0"), "{info}");
        return;
    }
    let probe = image("probe").expect("probe is always compiled");
    assert!(info.to_string().contains("probe"), "{info}");
    if option_env!("KILOTOK_CUDA_ARCHS").is_none() {
        assert_eq!(probe.coverage((9, 0)), Coverage::Native("sm_90a"));
        assert_eq!(probe.coverage((8, 6)), Coverage::Native("sm_80"));
    }
}

#[test]
fn unknown_families_are_none() {
    assert!(image("no_such_kernel").is_none());
}
