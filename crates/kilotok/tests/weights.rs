//! Weight files: every stored format loads as it is, and every mistake is named.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use kilotok::weights::{Dtype, TensorData, from_tensors, load};
use kilotok::{Bytes, ExpertWeights, Format, Matrix, MlpWeights, Model, QkvWeights};
use serde_json::json;
use support::TempDir;
use support::tiny::{BF16, EXPERTS, Formats, HIDDEN, INTER, PRO_FP4, Stored, Tiny};

fn error_of(tiny: &Tiny) -> String {
    load(tiny.write().path(), None).unwrap_err().to_string()
}

fn experts(model: &Model, layer: usize) -> &[ExpertWeights] {
    match &model.layers[layer].mlp {
        MlpWeights::Moe { experts, .. } => experts,
        MlpWeights::Dense(_) => panic!("layer {layer} is dense"),
    }
}

/// The bytes of a tensor of `tiny`.
fn stored<'t>(tiny: &'t Tiny, name: &str) -> &'t [u8] {
    &tiny.tensors.iter().find(|tensor| tensor.described.0 == name).unwrap().bytes
}

#[test]
fn every_format_is_kept_as_stored() {
    for (seed, format) in ["BF16", "F32", "F8_E4M3", "U8"].into_iter().enumerate() {
        let formats = Formats { experts: format, ..PRO_FP4 };
        let tiny = Tiny::new(seed as u64, formats);
        let model = load(tiny.write().path(), None).unwrap();
        let down = &experts(&model, 2)[1].down;
        let name = "model.layers.2.mlp.experts.1.down_proj";
        assert_eq!((down.rows, down.cols), (HIDDEN, INTER));
        assert_eq!(down.data.as_slice(), stored(&tiny, &format!("{name}.weight")));
        match (&down.format, format) {
            (Format::Bf16, "BF16") | (Format::F32, "F32") => {}
            (Format::Fp8 { scales, rows_per_chunk }, "F8_E4M3") => {
                assert_eq!(*rows_per_chunk, HIDDEN);
                let bytes: Vec<u8> = scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
                assert_eq!(bytes, stored(&tiny, &format!("{name}.weight_scale_inv")));
            }
            (Format::Mxfp4 { scales }, "U8") => {
                assert_eq!(scales.as_slice(), stored(&tiny, &format!("{name}.weight_scale")));
            }
            (found, wanted) => panic!("{found:?} for {wanted}"),
        }
    }
}

#[test]
fn projections_are_split_or_fused() {
    let fused = load(Tiny::new(1, PRO_FP4).write().path(), None).unwrap();
    let QkvWeights::Fused(qkv) = &fused.layers[1].attention.qkv else { panic!("split") };
    // 4 query heads of 16, 4 key and value heads of 16 and 8, in 2 chunks of 80 rows.
    assert_eq!((qkv.rows, qkv.cols), (160, HIDDEN));
    assert!(matches!(qkv.format, Format::Fp8 { rows_per_chunk: 80, .. }));
    assert!(fused.layers[0].attention.sinks.is_none());
    assert_eq!(fused.layers[1].attention.sinks.as_ref().unwrap().len(), 4);

    let split = load(Tiny::new(1, BF16).write().path(), None).unwrap();
    let QkvWeights::Split(qkv) = &split.layers[1].attention.qkv else { panic!("fused") };
    assert_eq!([qkv[0].rows, qkv[1].rows, qkv[2].rows], [64, 64, 32]);
}

/// The same tensors under the configuration that `transformers` would write.
#[test]
fn the_spelling_of_transformers_loads_the_same_tensors() {
    let mut tiny = Tiny::new(19, BF16);
    let hub = load(tiny.write().path(), None).unwrap();
    let config = tiny.config.as_object_mut().unwrap();
    config.retain(|key, _| {
        !key.starts_with("swa_") && !key.starts_with("add_") && !key.contains("rot")
    });
    for key in ["hybrid_layer_pattern", "moe_layer_freq", "layernorm_epsilon", "rope_theta"] {
        config.remove(key);
    }
    let rope = |theta: f64| json!({"rope_theta": theta, "partial_rotary_factor": 0.5});
    for (key, value) in [
        ("model_type", json!("mimo_v2_flash")),
        ("rms_norm_eps", json!(1e-5)),
        ("layer_types", json!(["full_attention", "sliding_attention", "full_attention"])),
        ("mlp_layer_types", json!(["dense", "sparse", "sparse"])),
        ("rope_parameters", json!({"full_attention": rope(1e7), "sliding_attention": rope(1e4)})),
    ] {
        config.insert(key.to_owned(), value);
    }
    let model = load(tiny.write().path(), None).unwrap();
    assert_eq!(model.spec.layers, hub.spec.layers);
    assert_eq!(format!("{:?}", model.layers), format!("{:?}", hub.layers));
}

#[test]
fn vectors_are_widened_exactly() {
    let tiny = Tiny::new(5, PRO_FP4);
    let model = load(tiny.write().path(), None).unwrap();
    let bytes = stored(&tiny, "model.norm.weight");
    for (value, pair) in model.norm.iter().zip(bytes.chunks_exact(2)) {
        let bits = u32::from(u16::from_le_bytes([pair[0], pair[1]])) << 16;
        assert_eq!(value.to_bits(), bits);
    }
}

#[test]
fn a_tied_head_is_the_embedding() {
    let mut tiny = Tiny::new(2, BF16);
    tiny.config["tie_word_embeddings"] = json!(true);
    let error = error_of(&tiny);
    assert!(error.contains("lm_head.weight: unexpected"), "{error}");
    tiny.tensors.retain(|tensor| tensor.described.0 != "lm_head.weight");
    let model = load(tiny.write().path(), None).unwrap();
    assert_eq!(model.lm_head.data.as_slice(), model.embed.data.as_slice());
}

#[test]
fn files_written_by_the_safetensors_crate_are_read_alike() {
    let tiny = Tiny::new(3, PRO_FP4);
    let views: Vec<(String, safetensors::tensor::TensorView<'_>)> = tiny
        .tensors
        .iter()
        .map(|Stored { described: (name, dtype, shape), bytes }| {
            let dtype = match *dtype {
                "BF16" => safetensors::Dtype::BF16,
                "F32" => safetensors::Dtype::F32,
                "F8_E4M3" => safetensors::Dtype::F8_E4M3,
                _ => safetensors::Dtype::U8,
            };
            let view = safetensors::tensor::TensorView::new(dtype, shape.clone(), bytes);
            (name.clone(), view.unwrap())
        })
        .collect();
    let dir = TempDir::new("foreign");
    dir.write("config.json", tiny.config.to_string());
    dir.write("model.safetensors", safetensors::serialize(views, None).unwrap());
    let (foreign, own) =
        (load(dir.path(), None).unwrap(), load(tiny.write().path(), None).unwrap());
    assert_eq!(format!("{foreign:?}"), format!("{own:?}"));
    assert_eq!(experts(&foreign, 1)[2].up.data.as_slice(), experts(&own, 1)[2].up.data.as_slice());
}

fn in_memory(tiny: &Tiny) -> Vec<(String, TensorData)> {
    tiny.tensors
        .iter()
        .map(|Stored { described: (name, dtype, shape), bytes }| {
            let bytes = Bytes::from_vec(bytes.clone());
            let dtype = Dtype::from_name(dtype);
            (name.clone(), TensorData { dtype, shape: shape.clone(), bytes })
        })
        .collect()
}

#[test]
fn tensors_in_memory_make_the_same_model() {
    let tiny = Tiny::new(4, PRO_FP4);
    let config = tiny.config.to_string();
    let model = from_tensors(&config, in_memory(&tiny), None).unwrap();
    let loaded = load(tiny.write().path(), None).unwrap();
    assert_eq!(format!("{model:?}"), format!("{loaded:?}"));
    assert_eq!(model.lm_head.data.as_slice(), loaded.lm_head.data.as_slice());

    let mut twice = in_memory(&tiny);
    twice.push(twice[0].clone());
    let error = from_tensors(&config, twice, None).unwrap_err().to_string();
    assert!(error.contains("model.embed_tokens.weight"), "{error}");

    let mut short = in_memory(&tiny);
    short[0].1.bytes = Bytes::from_vec(vec![0; 3]);
    let error = from_tensors(&config, short, None).unwrap_err().to_string();
    assert!(error.contains("model.embed_tokens.weight: 3 bytes"), "{error}");
}

#[test]
fn experts_stacked_as_in_transformers_are_taken_apart() {
    let tiny = Tiny::new(6, BF16);
    let config = tiny.config.to_string();
    let mut tensors = in_memory(&tiny);
    tensors.retain(|(name, _)| !name.contains(".experts.") && !name.ends_with("sink_bias"));
    let bf16 = |shape: Vec<usize>, parts: Vec<&[u8]>| TensorData {
        dtype: Dtype::Bf16,
        shape,
        bytes: Bytes::from_vec(parts.concat()),
    };
    for layer in [1, 2] {
        let prefix = format!("model.layers.{layer}.mlp.experts");
        let parts = |names: &[&str]| -> Vec<&[u8]> {
            (0..EXPERTS)
                .flat_map(|e| names.iter().map(move |n| (e, *n)))
                .map(|(e, name)| stored(&tiny, &format!("{prefix}.{e}.{name}.weight")))
                .collect()
        };
        let gate_up = bf16(vec![EXPERTS, 2 * INTER, HIDDEN], parts(&["gate_proj", "up_proj"]));
        let down = bf16(vec![EXPERTS, HIDDEN, INTER], parts(&["down_proj"]));
        tensors.push((format!("{prefix}.gate_up_proj"), gate_up));
        tensors.push((format!("{prefix}.down_proj"), down));
    }
    let sinks = stored(&tiny, "model.layers.1.self_attn.attention_sink_bias");
    tensors.push(("model.layers.1.self_attn.sinks".to_owned(), bf16(vec![4], vec![sinks])));
    let stacked = from_tensors(&config, tensors, None).unwrap();
    let plain = from_tensors(&config, in_memory(&tiny), None).unwrap();
    for layer in [1, 2] {
        for (a, b) in experts(&stacked, layer).iter().zip(experts(&plain, layer)) {
            for (a, b) in [(&a.gate, &b.gate), (&a.up, &b.up), (&a.down, &b.down)] {
                assert_eq!(a.data.as_slice(), b.data.as_slice());
            }
        }
    }
    assert_eq!(stacked.layers[1].attention.sinks, plain.layers[1].attention.sinks);
}

#[test]
fn missing_and_unexpected_tensors_are_named() {
    let whole = Tiny::new(7, PRO_FP4);
    for at in 0..whole.tensors.len() {
        let mut tiny = whole.clone();
        let name = tiny.tensors.remove(at).described.0;
        let error = error_of(&tiny);
        assert!(error.contains(&name) && error.contains("missing"), "{name}: {error}");
    }
    for name in ["model.layers.3.input_layernorm.weight", "model.layers.0.self_attn.q_proj.bias"] {
        let mut tiny = whole.clone();
        let mut extra = tiny.tensors[2].clone();
        extra.described.0 = name.to_owned();
        tiny.tensors.push(extra);
        let error = error_of(&tiny);
        assert!(error.contains(name) && error.contains("unexpected"), "{error}");
    }
    // Known parts that a text forward pass does not use.
    let mut tiny = whole;
    for name in ["model.mtp.layers.0.enorm.weight", "visual.blocks.0.norm1.weight"] {
        let mut extra = tiny.tensors[2].clone();
        extra.described.0 = name.to_owned();
        tiny.tensors.push(extra);
    }
    load(tiny.write().path(), None).unwrap();
}

#[test]
fn a_number_cannot_ask_for_a_table_of_millions() {
    let mut tiny = Tiny::new(18, PRO_FP4);
    let layers = 4096;
    tiny.config["num_hidden_layers"] = json!(layers);
    tiny.config["hybrid_layer_pattern"] = json!(vec![1; layers]);
    tiny.config["moe_layer_freq"] = json!(vec![1; layers]);
    tiny.config["n_routed_experts"] = json!(1 << 14);
    let error = error_of(&tiny);
    assert!(error.contains("number of experts") && error.contains("only"), "{error}");
}

#[test]
fn wrong_shapes_and_dtypes_are_named_with_what_was_expected() {
    let whole = Tiny::new(8, PRO_FP4);
    for at in 0..whole.tensors.len() {
        let mut tiny = whole.clone();
        let Stored { described: (name, _, shape), .. } = &mut tiny.tensors[at];
        shape.push(1);
        let name = name.clone();
        let error = error_of(&tiny);
        assert!(error.contains(&name) && error.contains("expected"), "{name}: {error}");

        // Same bytes under a type that no weight may have.
        let mut tiny = whole.clone();
        let Stored { described: (_, dtype, shape), bytes } = &mut tiny.tensors[at];
        (*dtype, *shape) = ("F16", vec![bytes.len() / 2]);
        if bytes.len() % 2 == 0 {
            let error = error_of(&tiny);
            assert!(error.contains(&name) && error.contains("F16"), "{name}: {error}");
        }
    }
}

#[test]
fn formats_that_the_configuration_does_not_announce_are_refused() {
    let mut tiny = Tiny::new(9, PRO_FP4);
    let quantization = tiny.config["quantization_config"].as_object_mut().unwrap();
    quantization.remove("store_dtype");
    let error = error_of(&tiny);
    assert!(error.contains("experts.0.gate_proj.weight") && error.contains("mxfp4"), "{error}");
    tiny.config.as_object_mut().unwrap().remove("quantization_config");
    let error = error_of(&tiny);
    assert!(error.contains("qkv_proj.weight") && error.contains("fp8"), "{error}");
    // The embedding and the router are looked up or decided in F32: never quantised.
    let mut tiny = Tiny::new(9, Formats { plain: "F8_E4M3", ..PRO_FP4 });
    tiny.tensors.retain(|tensor| tensor.described.2.len() == 2);
    let error = error_of(&tiny);
    assert!(error.contains("model.embed_tokens.weight: dtype F8_E4M3, expected"), "{error}");
}

#[test]
fn scales_that_are_not_numbers_are_named() {
    let name = "model.layers.2.mlp.experts.2.up_proj.weight_scale";
    let mut tiny = Tiny::new(10, PRO_FP4);
    tiny.tensor(name).bytes[5] = 255;
    let error = error_of(&tiny);
    assert!(error.contains(name) && error.contains("scale byte 5 is 255"), "{error}");
    let error = from_tensors(&tiny.config.to_string(), in_memory(&tiny), None).unwrap_err();
    assert!(error.to_string().contains(name), "{error}");

    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let name = "model.layers.1.self_attn.qkv_proj.weight_scale_inv";
        let mut tiny = Tiny::new(11, PRO_FP4);
        tiny.tensor(name).bytes[4..8].copy_from_slice(&bad.to_le_bytes());
        let error = error_of(&tiny);
        assert!(error.contains(name), "{error}");
    }
    for bad in [0x7f, 0xff] {
        let name = "model.layers.1.self_attn.qkv_proj.weight";
        let mut tiny = Tiny::new(20, PRO_FP4);
        tiny.tensor(name).bytes[4099] = bad;
        let error = error_of(&tiny);
        assert!(error.contains(name) && error.contains("element byte 4099"), "{error}");
    }

    let name = "model.layers.0.input_layernorm.weight";
    let mut tiny = Tiny::new(12, PRO_FP4);
    tiny.tensor(name).bytes[2..4].copy_from_slice(&[0xc0, 0x7f]);
    let error = error_of(&tiny);
    assert!(error.contains(name) && error.contains("element 1 is NaN"), "{error}");
}

#[test]
fn an_index_must_match_its_files() {
    let tiny = Tiny::new(13, BF16);
    let names: Vec<String> = tiny.tensors.iter().map(|t| t.described.0.clone()).collect();
    let (first, second) = (names.len() / 2, names.len());
    let part = |range: std::ops::Range<usize>| {
        Tiny { config: json!(null), tensors: tiny.tensors[range].to_vec() }.file()
    };
    let file = |at: usize| if at < first { "a.safetensors" } else { "b.safetensors" };
    let map: serde_json::Map<_, _> =
        names.iter().enumerate().map(|(at, name)| (name.clone(), json!(file(at)))).collect();
    let write = |map: &serde_json::Map<String, serde_json::Value>| {
        let dir = TempDir::new("sharded");
        dir.write("config.json", tiny.config.to_string());
        dir.write("a.safetensors", part(0..first));
        dir.write("b.safetensors", part(first..second));
        // A file that the index does not name is not read.
        dir.write("c.safetensors", b"not read");
        let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
        dir.write("model.safetensors.index.json", index.to_string());
        dir
    };
    load(write(&map).path(), None).unwrap();
    let with = |name: &str, file: &str| {
        let mut map = map.clone();
        map.insert(name.to_owned(), json!(file));
        load(write(&map).path(), None).unwrap_err().to_string()
    };
    let error = with(&names[0], "b.safetensors");
    assert!(error.contains(&names[0]) && error.contains("does not hold"), "{error}");
    let error = with("extra", "a.safetensors");
    assert!(error.contains("extra"), "{error}");
    let error = with(&names[0], "missing.safetensors");
    assert!(error.contains("missing.safetensors"), "{error}");
    for outside in ["../a.safetensors", "/etc/passwd", "sub/a.safetensors", ".safetensors"] {
        let error = with(&names[0], outside);
        assert!(error.contains("index.json") && error.contains("same directory"), "{error}");
    }
}

#[test]
fn an_index_written_for_other_chunks_is_refused() {
    let tiny = Tiny::new(21, PRO_FP4);
    let write = |tp_size: serde_json::Value| {
        let dir = tiny.write();
        let names = tiny.tensors.iter().map(|tensor| tensor.described.0.clone());
        let map: serde_json::Map<_, _> =
            names.map(|name| (name, json!("model.safetensors"))).collect();
        let index = json!({"metadata": {"tp_size": tp_size}, "weight_map": map});
        dir.write("model.safetensors.index.json", index.to_string());
        dir
    };
    // Two key/value heads in the full layers make two chunks.
    load(write(json!(2)).path(), None).unwrap();
    for wrong in [json!(1), json!(4), json!("two")] {
        let error = load(write(wrong).path(), None).unwrap_err().to_string();
        assert!(error.contains("index.json: metadata.tp_size"), "{error}");
    }
}

#[test]
fn one_tensor_in_two_files_is_refused() {
    let tiny = Tiny::new(14, BF16);
    let dir = tiny.write();
    dir.write("more.safetensors", tiny.file());
    let error = load(dir.path(), None).unwrap_err().to_string();
    assert!(error.contains("also in model.safetensors"), "{error}");
}

#[test]
fn cut_files_are_named() {
    let tiny = Tiny::new(15, PRO_FP4);
    let file = tiny.file();
    for len in [0, 4, 8, 100, file.len() - 1] {
        let dir = TempDir::new("cut");
        dir.write("config.json", tiny.config.to_string());
        dir.write("model.safetensors", &file[..len]);
        let error = load(dir.path(), None).unwrap_err().to_string();
        assert!(error.contains("model.safetensors"), "{len}: {error}");
    }
    let dir = TempDir::new("none");
    dir.write("config.json", tiny.config.to_string());
    let error = load(dir.path(), None).unwrap_err().to_string();
    assert!(error.contains("no file ends in .safetensors"), "{error}");
}

#[test]
fn loaded_bytes_are_the_reported_ones() {
    let tiny = Tiny::new(16, PRO_FP4);
    let mut reports = Vec::new();
    let mut report = |progress| reports.push(progress);
    load(tiny.write().path(), Some(&mut report)).unwrap();
    let bytes: usize = tiny.tensors.iter().map(|tensor| tensor.bytes.len()).sum();
    let last = reports.last().unwrap();
    assert_eq!((last.bytes_done, last.bytes_total), (bytes as u64, bytes as u64));
    assert_eq!(last.file, "model.safetensors");
}

#[test]
fn a_matrix_knows_its_bytes() {
    let model = load(Tiny::new(17, PRO_FP4).write().path(), None).unwrap();
    let up: &Matrix = &experts(&model, 1)[0].up;
    assert_eq!(up.num_bytes(), INTER * HIDDEN / 2 + INTER * HIDDEN / 32);
}
