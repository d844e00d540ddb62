//! Drafters: their tensors, and where the embedding of masked rows comes from.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use kilotok::weights::{DrafterTensors, Dtype, TensorData, from_tensors, load};
use kilotok::{Bytes, Model, Result};
use support::tiny::{BF16, HIDDEN, PRO_FP4, Stored, Tiny, drafter_config, drafter_tensors};
use support::{Described, TempDir, header};

const MASK_ROW: usize = 39;

fn in_memory(tensors: &[Stored]) -> Vec<(String, TensorData)> {
    tensors
        .iter()
        .map(|Stored { described: (name, dtype, shape), bytes }| {
            let bytes = Bytes::from_vec(bytes.clone());
            let dtype = Dtype::from_name(dtype);
            (name.clone(), TensorData { dtype, shape: shape.clone(), bytes })
        })
        .collect()
}

fn build(tensors: &[Stored], mask_embedding: Option<TensorData>) -> Result<Model> {
    let target = Tiny::new(1, PRO_FP4);
    let drafter = DrafterTensors {
        config_json: drafter_config().to_string(),
        tensors: in_memory(tensors),
        mask_embedding,
    };
    from_tensors(&target.config.to_string(), in_memory(&target.tensors), Some(drafter))
}

fn vector(len: usize) -> TensorData {
    let bytes: Vec<u8> = (0..len).flat_map(|at| (at as f32).to_le_bytes()).collect();
    TensorData { dtype: Dtype::F32, shape: vec![len], bytes: Bytes::from_vec(bytes) }
}

fn count_up() -> Vec<f32> {
    (0..HIDDEN).map(|at| at as f32).collect()
}

#[test]
fn without_a_sidecar_masks_take_the_targets_row() {
    let model = build(&drafter_tensors(2), None).unwrap();
    let width = HIDDEN * 2;
    let row = &model.embed.data.as_slice()[MASK_ROW * width..(MASK_ROW + 1) * width];
    let drafter = model.drafter.unwrap();
    assert_eq!(drafter.layers.len(), 2);
    for (value, pair) in drafter.mask_embedding.iter().zip(row.chunks_exact(2)) {
        assert_eq!(value.to_bits(), u32::from(u16::from_le_bytes([pair[0], pair[1]])) << 16);
    }
}

#[test]
fn a_sidecar_replaces_the_row() {
    let model = build(&drafter_tensors(2), Some(vector(HIDDEN))).unwrap();
    assert_eq!(model.drafter.unwrap().mask_embedding.to_vec(), count_up());
    for wrong in [vector(HIDDEN - 1), vector(0)] {
        let error = build(&drafter_tensors(2), Some(wrong)).unwrap_err().to_string();
        assert!(error.contains("mask_embedding"), "{error}");
    }
}

#[test]
fn the_embedding_may_be_among_the_tensors_but_only_once() {
    let mut tensors = drafter_tensors(3);
    let bytes = vector(HIDDEN).bytes.as_slice().to_vec();
    let described = ("mask_embedding".to_owned(), "F32", vec![HIDDEN]);
    tensors.push(Stored { described, bytes });
    let model = build(&tensors, None).unwrap();
    assert_eq!(model.drafter.unwrap().mask_embedding.to_vec(), count_up());
    let error = build(&tensors, Some(vector(HIDDEN))).unwrap_err().to_string();
    assert!(error.contains("as well"), "{error}");
}

#[test]
fn a_model_prefix_is_stripped() {
    let mut tensors = drafter_tensors(4);
    let plain = build(&tensors, None).unwrap();
    for tensor in &mut tensors {
        tensor.described.0 = format!("model.{}", tensor.described.0);
    }
    let prefixed = build(&tensors, None).unwrap();
    let fc = |model: &Model| model.drafter.as_ref().unwrap().fc.data.as_slice().to_vec();
    assert_eq!(fc(&plain), fc(&prefixed));
}

#[test]
fn missing_and_unexpected_drafter_tensors_are_named() {
    let whole = drafter_tensors(5);
    for at in 0..whole.len() {
        let mut tensors = whole.clone();
        let name = tensors.remove(at).described.0;
        let error = build(&tensors, None).unwrap_err().to_string();
        assert!(error.contains(&name) && error.contains("missing"), "{name}: {error}");
    }
    let mut tensors = whole;
    let mut extra = tensors[1].clone();
    extra.described.0 = "lm_head.weight".to_owned();
    tensors.push(extra);
    let error = build(&tensors, None).unwrap_err().to_string();
    assert!(error.contains("lm_head.weight: unexpected"), "{error}");
}

#[test]
fn a_dflash_folder_is_read_with_its_sidecar() {
    let file = |tensors: &[Stored]| {
        let described: Vec<Described> = tensors.iter().map(|t| t.described.clone()).collect();
        let mut file = header(&described);
        file.extend(tensors.iter().flat_map(|t| t.bytes.clone()));
        file
    };
    let write = || -> TempDir {
        let dir = Tiny::new(6, BF16).write();
        dir.write("dflash/config.json", drafter_config().to_string());
        dir.write("dflash/dflash_draft_model.safetensors", file(&drafter_tensors(6)));
        dir
    };
    let dir = write();
    assert!(load(dir.path(), None).unwrap().drafter.is_some());
    let bytes = vector(HIDDEN).bytes.as_slice().to_vec();
    let described = ("embedding".to_owned(), "F32", vec![HIDDEN]);
    let sidecar = file(&[Stored { described, bytes }]);
    dir.write("dflash/mask_embedding.safetensors", &sidecar);
    let model = load(dir.path(), None).unwrap();
    assert_eq!(model.drafter.unwrap().mask_embedding.to_vec(), count_up());

    dir.write("dflash/mask_embedding.pt", b"PK");
    let error = load(dir.path(), None).unwrap_err().to_string();
    assert!(error.contains("as well"), "{error}");

    // A folder that is there but incomplete is no silent "no drafter".
    let dir = write();
    std::fs::remove_file(dir.path().join("dflash/config.json")).unwrap();
    let error = load(dir.path(), None).unwrap_err().to_string();
    assert!(error.contains("dflash") && error.contains("config.json"), "{error}");
}
