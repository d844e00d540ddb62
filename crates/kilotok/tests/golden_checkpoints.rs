//! The golden checkpoints, written by Python, load here.

use std::path::PathBuf;

use kilotok::weights::{DrafterChoice, LoadOptions, Progress, load, load_with};
use kilotok::{Format, MlpWeights, QkvLayout, QkvWeights};

fn checkpoint(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name).join("model")
}

#[test]
fn flash_is_split_and_bf16() {
    let model = load(&checkpoint("flash"), None).unwrap();
    assert_eq!(model.spec.family, "mimo_v2_flash");
    assert_eq!(model.spec.layers[0].attention.layout, QkvLayout::Split);
    assert!(matches!(model.layers[0].attention.qkv, QkvWeights::Split(_)));
    assert!(matches!(model.embed.format, Format::Bf16));
    assert!(model.drafter.is_some());
}

#[test]
fn pro_has_fp8_chunks_and_mxfp4_experts() {
    let mut reports: Vec<Progress> = Vec::new();
    let mut report = |progress| reports.push(progress);
    let model = load(&checkpoint("pro"), Some(&mut report)).unwrap();
    let last = reports.last().unwrap();
    assert_eq!(last.bytes_done, last.bytes_total);
    assert!(reports.windows(2).all(|pair| pair[0].bytes_done <= pair[1].bytes_done));
    let QkvWeights::Fused(qkv) = &model.layers[0].attention.qkv else { panic!("not fused") };
    let Format::Fp8 { rows_per_chunk, scales } = &qkv.format else { panic!("not FP8") };
    assert_eq!((qkv.rows, *rows_per_chunk), (4 * 136, 136));
    assert_eq!(scales.len(), 4 * 2 * qkv.cols.div_ceil(128));
    let moe = model.layers.iter().find_map(|layer| match &layer.mlp {
        MlpWeights::Moe { experts, .. } => Some(experts),
        MlpWeights::Dense(_) => None,
    });
    assert!(matches!(moe.unwrap()[0].gate.format, Format::Mxfp4 { .. }));
    let drafter = model.drafter.unwrap();
    // The sidecar is no copy of the target's row.
    assert!(drafter.mask_embedding.iter().any(|&value| value != 0.0));
}

#[test]
fn v25_is_sharded_with_fp8_experts() {
    let model = load(&checkpoint("v25"), None).unwrap();
    let chunks: Vec<_> = model
        .layers
        .iter()
        .map(|layer| match &layer.attention.qkv {
            QkvWeights::Fused(qkv) => match &qkv.format {
                Format::Fp8 { rows_per_chunk, .. } => *rows_per_chunk,
                other => panic!("{other:?}"),
            },
            QkvWeights::Split(_) => panic!("split"),
        })
        .collect();
    assert!(chunks.contains(&136) && chunks.contains(&200), "{chunks:?}");
}

#[test]
fn the_demo_checkpoint_loads_and_is_inspected() {
    let dir =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../python/kilotok/demo/checkpoint");
    let model = load(&dir, None).unwrap();
    assert!(model.drafter.is_some());
    let found = kilotok::inspect::inspect(&dir).unwrap();
    assert_eq!(found.model.layers, model.layers.len());
    let one = found.memory_per_rank[0].bytes.unwrap();
    assert_eq!(found.bytes, one, "one rank holds every tensor of a checkpoint without extras");
}

#[test]
fn the_drafter_is_a_choice() {
    let dir = checkpoint("pro");
    let none = LoadOptions { drafter: DrafterChoice::None };
    let model = load_with(&dir, &none, None).unwrap();
    assert!(model.drafter.is_none() && model.spec.drafter.is_none());
    let other = LoadOptions { drafter: DrafterChoice::Dir(dir.join("dflash")) };
    assert!(load_with(&dir, &other, None).unwrap().drafter.is_some());
}
