//! The pieces of the build script, as ordinary functions.

#[allow(dead_code, reason = "the build script uses the rest")]
#[path = "../build/archs.rs"]
mod archs;
#[allow(dead_code, reason = "the build script uses the rest")]
#[path = "../build/cache.rs"]
mod cache;
#[allow(dead_code, reason = "the build script uses the rest")]
#[path = "../build/toolchain.rs"]
mod toolchain;

use proptest::prelude::*;

#[test]
fn portable_kernels_get_more_targets_than_family_kernels() {
    let family = archs::targets("// a kernel\n", None).unwrap();
    assert_eq!(family, ["sm_90a", "sm_100f", "sm_120f"]);
    let portable = archs::targets("// kilotok: portable\n// text\n", None).unwrap();
    assert_eq!(portable, ["sm_90a", "sm_100f", "sm_120f", "sm_80", "compute_90"]);
}

#[test]
fn chosen_targets_are_read_in_every_spelling() {
    let targets = archs::targets("", Some("90a;sm_100f, compute_90")).unwrap();
    assert_eq!(targets, ["sm_90a", "sm_100f", "compute_90"]);
    for wrong in ["", " ; ", "ninety", "sm_", "ptx_90", "90af", "9"] {
        assert!(archs::targets("", Some(wrong)).is_err(), "{wrong:?} was accepted");
    }
}

#[test]
fn flags_ask_for_machine_code_or_ptx() {
    assert_eq!(archs::gencode("sm_90a"), "-gencode=arch=compute_90a,code=sm_90a");
    assert_eq!(archs::gencode("compute_90"), "-gencode=arch=compute_90,code=compute_90");
}

#[test]
fn only_the_13_0_line_of_nvcc_is_supported() {
    let banner = "nvcc: NVIDIA (R) Cuda compiler driver\nCuda compilation tools, release 13.0, V13.0.88\nBuild x";
    assert_eq!(toolchain::parse_version(banner).as_deref(), Some("13.0.88"));
    assert_eq!(toolchain::parse_version("Version unknown"), None);
    assert!(toolchain::is_supported("13.0.88"));
    for other in ["12.9.86", "13.1.0", "130.0", "13"] {
        assert!(!toolchain::is_supported(other), "{other} was accepted");
    }
}

proptest! {
    /// The cache must never take one source for another: no two different lists of parts share a digest.
    #[test]
    fn digests_differ_when_parts_differ(
        a in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..4), 0..4),
        b in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..4), 0..4),
    ) {
        let hash = |parts: &[Vec<u8>]| cache::digest(parts.iter().map(Vec::as_slice));
        prop_assert_eq!(hash(&a) == hash(&b), a == b);
    }
}
