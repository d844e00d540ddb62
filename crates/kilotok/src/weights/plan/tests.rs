//! Slices of all ranks, put together, are the whole tensor, bit for bit.

use std::path::PathBuf;

use super::*;
use crate::config::presets;
use crate::config::{self, DrafterChoice, Texts};
use crate::spec::AttentionSpec;
use crate::weights::catalog::{Access, Catalog};
use crate::weights::loader::open_drafter;
use crate::weights::names;
use crate::weights::resolve::{Resolver, Storage};

const RANKS: [usize; 4] = [1, 2, 4, 8];

/// Copies `rows` x `row_bytes` of `whole` into `joined`, counting who wrote each byte.
fn copy(
    whole: &[u8],
    width: usize,
    rows: &[Range<usize>],
    row_bytes: &Range<usize>,
    joined: &mut [u8],
    writers: &mut [usize],
) {
    for row in rows.iter().cloned().flatten() {
        let bytes = row * width + row_bytes.start..row * width + row_bytes.end;
        joined[bytes.clone()].copy_from_slice(&whole[bytes.clone()]);
        for writer in &mut writers[bytes] {
            *writer += 1;
        }
    }
}

/// How many ranks hold each element of a tensor by the rules of the plan.
fn expected_writers(demand: &Demand, spec: &ModelSpec, ranks: usize) -> Range<usize> {
    let kv_heads = match demand.place {
        Place::Layer(layer) => spec.layers[layer].attention.kv_heads,
        _ => spec.drafter.as_ref().map_or(1, |drafter| drafter.kv_heads),
    };
    let replicas = (ranks / kv_heads).max(1);
    match demand.part {
        Part::Norm | Part::RouterBias | Part::Bias => ranks..ranks + 1,
        Part::Key | Part::Value => replicas..replicas + 1,
        // Queries once, keys and values as often as there are replicas.
        Part::Qkv => 1..replicas + 1,
        _ => 1..2,
    }
}

fn reassemble(
    catalog: &Catalog,
    resolver: &mut Resolver<'_>,
    plan: &TensorPlan,
    d: &Demand,
    spec: &ModelSpec,
) {
    let found = resolver.find(d).unwrap();
    let ranks = plan.slices.len();
    let slices: Vec<StoredSlice> =
        plan.slices.iter().map(|slice| plan.stored_as(slice, found.storage).unwrap()).collect();
    let check = |name: &str, parts: Vec<(&[Range<usize>], &Range<usize>)>, rows: usize| {
        let bytes = catalog.dense(name, catalog.get(name).unwrap()).unwrap();
        let whole = bytes.as_slice();
        let width = whole.len() / rows;
        let mut joined: Vec<u8> = whole.iter().map(|byte| !byte).collect();
        let mut writers = vec![0; whole.len()];
        for (rows, row_bytes) in parts {
            copy(whole, width, rows, row_bytes, &mut joined, &mut writers);
        }
        assert_eq!(joined, whole, "{name} over {ranks} ranks");
        writers
    };
    let parts = slices.iter().map(|slice| (slice.rows.as_slice(), &slice.row_bytes)).collect();
    let writers = check(&found.weight.0, parts, plan.rows);
    let expected = expected_writers(d, spec, ranks);
    assert!(writers.iter().all(|writers| expected.contains(writers)), "{} {expected:?}", d.name);
    if let Some((name, entry)) = &found.scale {
        let parts = slices
            .iter()
            .map(|slice| slice.scales.as_ref().unwrap())
            .map(|scales| (scales.rows.as_slice(), &scales.row_bytes))
            .collect();
        check(name, parts, entry.shape[0]);
        assert!(found.storage == Storage::Fp8 || found.storage == Storage::Mxfp4);
    }
}

#[test]
fn tiny_checkpoints_reassemble_bit_for_bit() {
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let mut planned = 0;
    for name in ["flash", "pro", "v25", "gptoss"] {
        let dir = golden.join(name).join("model");
        let drafter = DrafterChoice::Auto.resolve(&dir).unwrap();
        let announced = config::parse(&Texts::read(&dir, Some(&drafter)).unwrap()).unwrap();
        let mut catalog = Catalog::open(&dir, "", Access::Mapped).unwrap();
        names::unify(&mut catalog, &announced).unwrap();
        let (sidecar, _) = open_drafter(&drafter, &announced, Access::Mapped).unwrap();
        for ranks in RANKS {
            // The drafters have fewer heads than 8: the target alone is planned as well.
            for spec in
                [announced.spec.clone(), ModelSpec { drafter: None, ..announced.spec.clone() }]
            {
                let Ok(plan) = WeightPlan::new(&spec, ranks) else { continue };
                planned += 1;
                let mut resolver = Resolver::new(&catalog, announced.quantization);
                for (plan, demand) in plan.target.iter().zip(ModelTable::new(&spec).iter()) {
                    reassemble(&catalog, &mut resolver, plan, demand, &spec);
                }
                if let Some(drafter) = &spec.drafter {
                    let mut resolver = Resolver::new(&sidecar, announced.quantization);
                    for (plan, demand) in plan.drafter.iter().zip(DrafterTable::new(drafter).iter())
                    {
                        reassemble(&sidecar, &mut resolver, plan, demand, &spec);
                    }
                }
            }
        }
    }
    // 1, 2 and 4 ranks with and without drafter, 8 ranks without where there are 8 heads; 1 and 2
    // where there are 6.
    assert_eq!(planned, 3 * 3 * 2 + 2 + 2 * 2);
}

/// A rank can compute its heads from what it holds: keys and values of its query heads, the
/// columns of `o_proj` and the sinks of the same heads.
fn assert_self_sufficient(spec: &AttentionSpec, ranks: usize) {
    let shape = heads::Shape::of(spec);
    let map = spec.head_map();
    let group = spec.heads / spec.kv_heads;
    for rank in 0..ranks {
        let share = HeadShare::new(&shape, rank, ranks).unwrap();
        let rows = share.rows(&shape, Part::Qkv);
        let holds = |at: usize, dim: usize| rows.iter().any(|r| r.start <= at && at + dim <= r.end);
        for q in share.query.clone() {
            assert!(holds(map.q[q], spec.qk_dim));
            assert!(holds(map.k[q / group], spec.qk_dim));
            assert!(holds(map.v[q / group], spec.v_dim));
        }
        let rows: usize = rows.iter().map(Range::len).sum();
        let own = share.query.len() * spec.qk_dim + share.kv.len() * (spec.qk_dim + spec.v_dim);
        assert_eq!(rows, own, "rank {rank} of {ranks} holds rows it does not need");
    }
}

#[test]
fn presets_are_covered_by_every_number_of_ranks() {
    for preset in presets::ALL {
        let spec = preset.spec().unwrap();
        for ranks in RANKS {
            for layer in &spec.layers {
                assert_self_sufficient(&layer.attention, ranks);
            }
            let plan = WeightPlan::new(&spec, ranks).unwrap();
            for tensor in plan.target.iter().chain(&plan.drafter) {
                let covered: usize = tensor
                    .slices
                    .iter()
                    .map(|s| s.rows.iter().map(Range::len).sum::<usize>() * s.cols.len())
                    .sum();
                let whole = tensor.rows * tensor.cols;
                assert!(covered >= whole, "{} over {ranks}", tensor.name);
                // MXFP4 and FP8 blocks are never cut in published models.
                for slice in tensor.slices.iter() {
                    if let Err(error) = tensor.stored_as(slice, Storage::Mxfp4) {
                        assert!(tensor.cols % 32 != 0, "{error}");
                    }
                }
            }
        }
    }
}

#[test]
fn pro_over_eight_ranks_takes_one_chunk_each() {
    let spec = presets::find("mimo-v2.5-pro-fp4-dflash").unwrap().spec().unwrap();
    let plan = WeightPlan::new(&spec, 8).unwrap();
    let find = |name: &str| plan.target.iter().find(|tensor| tensor.name == name).unwrap();
    let qkv = find("model.layers.3.self_attn.qkv_proj");
    for (rank, slice) in qkv.slices.iter().enumerate() {
        assert_eq!(slice.rows, [3392 * rank..3392 * (rank + 1)]);
        let scales = qkv.stored_as(slice, Storage::Fp8).unwrap().scales.unwrap();
        assert_eq!(scales.rows, [27 * rank..27 * (rank + 1)]);
        assert_eq!(scales.row_bytes, 0..48 * 4);
    }
    let output = find("model.layers.3.self_attn.o_proj");
    assert_eq!(output.slices[5].cols, 2048 * 5..2048 * 6);
    assert_eq!(find("model.layers.3.self_attn.attention_sink_bias").slices[5].rows, [80..96]);
    let down = find("model.layers.3.mlp.experts.7.down_proj");
    let stored = down.stored_as(&down.slices[1], Storage::Mxfp4).unwrap();
    // 256 of 2048 columns: 128-byte rows and 8 scale groups (mimo_spec 7.3).
    assert_eq!((stored.row_bytes, stored.scales.unwrap().row_bytes), (128..256, 8..16));
    assert_eq!(find("model.embed_tokens").slices[7].rows, [19072 * 7..19072 * 8]);
}

#[test]
fn v25_over_eight_ranks_splits_queries_inside_a_chunk() {
    let spec = presets::find("mimo-v2.5").unwrap().spec().unwrap();
    let plan = WeightPlan::new(&spec, 8).unwrap();
    let rows = |name: &str, rank: usize| {
        let tensor = plan.target.iter().find(|tensor| tensor.name == name).unwrap();
        tensor.slices[rank].rows.clone()
    };
    // Full attention: 4 chunks of 16 + 1 + 1 heads; ranks 2 and 3 share chunk 1.
    let full = "model.layers.0.self_attn.qkv_proj";
    assert_eq!(rows(full, 2), [3392..3392 + 1536, 3392 + 3072..3392 * 2]);
    assert_eq!(rows(full, 3), [3392 + 1536..3392 * 2]);
    // Sliding: 4 chunks of 16 + 2 + 2 heads; rank 2 takes the first of both.
    let sliding = "model.layers.1.self_attn.qkv_proj";
    let chunk = 3712;
    assert_eq!(
        rows(sliding, 2),
        [chunk..chunk + 1536, chunk + 3072..chunk + 3264, chunk + 3456..chunk + 3584]
    );
}

#[test]
fn gpt_oss_20b_over_eight_ranks() {
    let spec = presets::find("gpt-oss-20b").unwrap().spec().unwrap();
    let plan = WeightPlan::new(&spec, 8).unwrap();
    let find = |name: &str| plan.target.iter().find(|tensor| tensor.name == name).unwrap();
    // One key/value head and its eight query heads each; biases go with their rows.
    for (part, rows) in [("q", 512), ("k", 64), ("v", 64)] {
        for what in ["", ".bias"] {
            let tensor = find(&format!("model.layers.3.self_attn.{part}_proj{what}"));
            assert_eq!(tensor.slices[5].rows, [5 * rows..6 * rows], "{part}{what}");
        }
    }
    assert_eq!(find("model.layers.3.self_attn.o_proj.bias").slices[5].rows, [0..2880]);
    // 90 blocks of 32 columns over 8 ranks; gate, up and their biases are cut alike.
    let widths = |name: &str| -> Vec<Range<usize>> {
        find(name).slices.iter().map(|slice| slice.rows[0].clone()).collect()
    };
    let gate = widths("model.layers.3.mlp.experts.7.gate_proj");
    assert_eq!((gate[0].clone(), gate[7].clone()), (0..352, 2496..2880));
    for name in ["gate_proj.bias", "up_proj", "up_proj.bias"] {
        assert_eq!(widths(&format!("model.layers.3.mlp.experts.7.{name}")), gate);
    }
    let down = find("model.layers.3.mlp.experts.7.down_proj");
    for (slice, own) in down.slices.iter().zip(&gate) {
        assert_eq!(slice.cols, *own);
        down.stored_as(slice, Storage::Mxfp4).unwrap();
    }
    assert_eq!(find("model.layers.3.mlp.experts.7.down_proj.bias").slices[5].rows, [0..2880]);
}

#[test]
fn impossible_rank_counts_are_errors_that_say_why() {
    let spec = presets::find("mimo-v2.5").unwrap().spec().unwrap();
    for (ranks, why) in [(0, "expected"), (3, "query heads"), (65, "expected")] {
        let error = WeightPlan::new(&spec, ranks).unwrap_err().to_string();
        assert!(error.contains(why) && error.contains("ranks"), "{error}");
    }
}
