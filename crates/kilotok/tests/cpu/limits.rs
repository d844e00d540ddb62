//! What an executor refuses.

use std::sync::Arc;

use kilotok::backend::Limits;
use kilotok::backend::cpu::{CpuConfig, CpuExecutor, Simd};
use kilotok::{Bytes, Error, Model};

use super::models::{LIMITS, formats, model};

fn refused(model: &Arc<Model>, limits: Limits) -> Error {
    let config = CpuConfig { threads: Some(1), simd: None, limits };
    CpuExecutor::new(Arc::clone(model), config).unwrap_err()
}

#[test]
fn too_much_memory_is_an_error_and_no_abort() {
    let model = model(1, formats()[0], (4, 4));
    for limits in [
        Limits { pages: 1 << 40, ..LIMITS },
        Limits { pages: usize::MAX / 2, ..LIMITS },
        Limits { max_rows: 1 << 38, ..LIMITS },
        Limits { slots: 1 << 40, ..LIMITS },
        Limits { max_positions: 1 << 45, ..LIMITS },
    ] {
        assert!(matches!(refused(&model, limits), Error::OutOfMemory { .. }), "{limits:?}");
    }
    let zero = Limits { page_size: 0, ..LIMITS };
    assert!(
        matches!(refused(&model, zero), Error::InvalidRequest { parameter, .. } if parameter == "page_size")
    );
}

#[test]
fn a_tensor_of_the_wrong_shape_is_named() {
    let good = model(1, formats()[4], (4, 4));
    let mut bad = (*good).clone();
    bad.lm_head.rows += 1;
    let error = refused(&Arc::new(bad), LIMITS).to_string();
    assert!(error.contains("lm_head") && error.contains("expected"), "{error}");
    let mut bad = (*good).clone();
    bad.layers[1].attention.o_proj.data = Bytes::from_vec(vec![0; 5]);
    let error = refused(&Arc::new(bad), LIMITS).to_string();
    assert!(error.contains("layers.1.o_proj"), "{error}");
    let mut bad = (*good).clone();
    bad.drafter = None;
    assert!(refused(&Arc::new(bad), LIMITS).to_string().contains("drafter"));
}

#[test]
fn simd_paths_have_names() {
    for simd in [Simd::Scalar, Simd::Avx2, Simd::Avx512, Simd::Neon] {
        assert_eq!(simd.to_string().parse::<Simd>().unwrap(), simd);
    }
    assert!("sse9".parse::<Simd>().is_err());
    assert!(Simd::available().contains(&Simd::detect()));
}
