//! gpt-oss: published numbers, configurations in three spellings, and what a checkpoint becomes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::path::PathBuf;

use kilotok::config::{presets, read_texts};
use kilotok::inspect::{Inspection, inspect};
use kilotok::weights::{DrafterChoice, Dtype, LoadOptions, TensorData, from_tensors, load_with};
use kilotok::{
    Activation, Bytes, ExpertWeights, Format, MlpSpec, MlpWeights, Model, ModelSpec, QkvLayout,
    RouterKind,
};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use support::edit::{with, without};
use support::{Described, TempDir, header};

const H: usize = 2880;

/// Tensors of a release, written down from mxfp4_kernels section 2.
fn release(layers: usize, experts: usize) -> Vec<Described> {
    let mut out: Vec<Described> = vec![
        ("model.embed_tokens.weight".to_owned(), "BF16", vec![201_088, H]),
        ("lm_head.weight".to_owned(), "BF16", vec![201_088, H]),
        ("model.norm.weight".to_owned(), "BF16", vec![H]),
    ];
    for layer in 0..layers {
        let mut add = |name: &str, dtype, shape: &[usize]| {
            out.push((format!("model.layers.{layer}.{name}"), dtype, shape.to_vec()));
        };
        add("input_layernorm.weight", "BF16", &[H]);
        add("post_attention_layernorm.weight", "BF16", &[H]);
        for (name, rows, cols) in
            [("q_proj", 4096, H), ("k_proj", 512, H), ("v_proj", 512, H), ("o_proj", H, 4096)]
        {
            add(&format!("self_attn.{name}.weight"), "BF16", &[rows, cols]);
            add(&format!("self_attn.{name}.bias"), "BF16", &[rows]);
        }
        add("self_attn.sinks", "BF16", &[64]);
        add("mlp.router.weight", "BF16", &[experts, H]);
        add("mlp.router.bias", "BF16", &[experts]);
        for (name, rows) in [("gate_up_proj", 2 * H), ("down_proj", H)] {
            add(&format!("mlp.experts.{name}_blocks"), "U8", &[experts, rows, H / 32, 16]);
            add(&format!("mlp.experts.{name}_scales"), "U8", &[experts, rows, H / 32]);
            add(&format!("mlp.experts.{name}_bias"), "BF16", &[experts, rows]);
        }
    }
    out
}

/// Tensors of the drafters, dflash_spec 3.2 and 3.3.
fn drafter() -> Vec<Described> {
    let mut out: Vec<Described> = vec![
        ("fc.weight".to_owned(), "BF16", vec![H, 5 * H]),
        ("hidden_norm.weight".to_owned(), "BF16", vec![H]),
        ("norm.weight".to_owned(), "BF16", vec![H]),
    ];
    for layer in 0..8 {
        for (name, shape) in [
            ("input_layernorm", vec![H]),
            ("post_attention_layernorm", vec![H]),
            ("self_attn.q_proj", vec![4096, H]),
            ("self_attn.k_proj", vec![512, H]),
            ("self_attn.v_proj", vec![512, H]),
            ("self_attn.o_proj", vec![H, 4096]),
            ("self_attn.q_norm", vec![64]),
            ("self_attn.k_norm", vec![64]),
            ("mlp.gate_proj", vec![7680, H]),
            ("mlp.up_proj", vec![7680, H]),
            ("mlp.down_proj", vec![H, 7680]),
        ] {
            out.push((format!("layers.{layer}.{name}.weight"), "BF16", shape));
        }
    }
    out
}

fn inspected(name: &str, layers: usize, experts: usize) -> Inspection {
    let preset = presets::find(name).unwrap();
    let dir = TempDir::new("gpt-oss");
    dir.write("config.json", preset.config);
    dir.write("model.safetensors", header(&release(layers, experts)));
    dir.write("dflash/config.json", preset.drafter.unwrap());
    dir.write("dflash/model.safetensors", header(&drafter()));
    inspect(dir.path()).unwrap()
}

#[test]
fn published_numbers_of_both_sizes() {
    // `total_size` of the published indices, and parameters of the model card (20.9 B and 3.6 B
    // active, 116.8 B and 5.1 B active).
    for (name, layers, experts, bytes, parameters, active, gigabytes) in [
        ("gpt-oss-20b", 24, 32, 13_761_264_768, 20_914_757_184, 3.61, 3.71),
        ("gpt-oss-120b", 36, 128, 65_248_815_744, 116_829_156_672, 5.13, 5.00),
    ] {
        let found = inspected(name, layers, experts);
        let target = found.census.iter().filter(|row| row.component != "drafter");
        assert_eq!(target.map(|row| row.bytes).sum::<u64>(), bytes, "{name}");
        assert_eq!(found.tensors as usize, 3 + 19 * layers + 3 + 11 * 8);
        assert_eq!(found.model.parameters, parameters, "{name}");
        let found_active = found.model.active_parameters as f64 / 1e9;
        assert!((found_active - active).abs() < 0.005, "{name}: {found_active}");
        // mxfp4_kernels section 7: 13.219 MB an expert, biases on top; bytes per token.
        assert_eq!(found.reads.expert, 13_219_200 + 2 * 3 * 2880);
        let decode = found.reads.decode as f64 / 1e9;
        assert!((decode - gigabytes).abs() < 0.005, "{name}: {decode} GB a token");
        assert_eq!(found.kv.per_token as usize, layers / 2 * 8 * 128 * 2);
        assert_eq!(found.kv.sliding_per_sequence as usize, layers / 2 * 8 * 128 * 2 * 128);
        // dflash_spec 3.3: 0.785 B, 1.46 GiB, 16,384 bytes a token.
        assert_eq!(found.drafter.as_ref().unwrap().parameters, 784_703_104);
        assert_eq!(found.kv.drafter_per_token, 16_384);
        assert!(found.memory_per_rank.iter().all(|rank| rank.bytes.is_some()));
        let shown = found.to_string();
        assert!(shown.contains("gpt_oss") && shown.contains("YaRN x 32"), "{shown}");
    }
    // Verifying 8 rows: 5.3 times the expert bytes of one (mxfp4_kernels section 7).
    let found = inspected("gpt-oss-20b", 24, 32);
    assert!((found.reads.verify8_experts / 4.0 - 5.3).abs() < 0.06);
}

fn preset(name: &str) -> ModelSpec {
    presets::find(name).unwrap().spec().unwrap()
}

#[test]
fn the_specification_of_gpt_oss_20b() {
    let spec = preset("gpt-oss-20b");
    assert_eq!((spec.hidden, spec.vocab, spec.layers.len()), (2880, 201_088, 24));
    assert_eq!((spec.max_positions, spec.norm_eps, spec.tied_head), (131_072, 1e-5, false));
    assert_eq!(spec.eos_token_ids, [200_002]);
    for (at, layer) in spec.layers.iter().enumerate() {
        let a = &layer.attention;
        assert_eq!((a.heads, a.kv_heads, a.qk_dim, a.v_dim), (64, 8, 64, 64));
        assert_eq!(a.window, if at % 2 == 0 { Some(128) } else { None });
        assert_eq!((a.sinks, a.bias, a.value_scale), (true, true, 1.0));
        assert_eq!((a.layout, a.rope.dims, a.rope.theta), (QkvLayout::Split, 64, 150_000.0));
        let yarn = a.rope.yarn.unwrap();
        assert_eq!((yarn.factor, yarn.original_positions), (32.0, 4096));
        assert_eq!((yarn.beta_fast, yarn.beta_slow, yarn.truncate), (32.0, 1.0, false));
        assert!((yarn.attention_factor - 1.346_573_590_279_972_7).abs() < 1e-12);
        let MlpSpec::Moe(moe) = &layer.mlp else { panic!("dense") };
        assert_eq!((moe.experts, moe.top_k, moe.inter, moe.bias), (32, 4, 2880, true));
        assert_eq!(moe.router, RouterKind::Softmax);
        assert_eq!(moe.activation, Activation::ClampedSwiGlu { alpha: 1.702, limit: 7.0 });
    }
    let drafter = spec.drafter.unwrap();
    assert_eq!((drafter.block_size, drafter.mask_token_id, drafter.layers), (8, 200_000, 8));
    assert_eq!(drafter.taps, [1, 6, 11, 16, 21]);
    assert_eq!((drafter.windows, drafter.causal), (vec![None; 8], vec![false; 8]));
    assert_eq!((drafter.sinks, drafter.value_scale), (false, 1.0));
    assert_eq!(drafter.rope, spec.layers[0].attention.rope);
}

fn config() -> Value {
    serde_json::from_str(presets::find("gpt-oss-20b").unwrap().config).unwrap()
}

fn read(config: &Value) -> Result<ModelSpec, String> {
    read_texts(&config.to_string(), None, None).map_err(|error| error.to_string())
}

#[test]
fn three_spellings_say_the_same() {
    let hub = read(&config()).unwrap();
    // As transformers writes it: rotary numbers in one object, its own name for nothing else.
    let mut saved = without(without(config(), "rope_scaling"), "rope_theta");
    saved["rope_parameters"] = config()["rope_scaling"].clone();
    saved["rope_parameters"]["rope_theta"] = json!(150_000.0);
    for key in ["experts_per_token", "initial_context_length"] {
        saved = without(saved, key);
    }
    saved["swiglu_alpha"] = json!(1.702);
    assert_eq!(read(&saved).unwrap(), hub);
    // As released.
    let original = json!({
        "num_hidden_layers": 24, "num_experts": 32, "experts_per_token": 4, "vocab_size": 201_088,
        "hidden_size": 2880, "intermediate_size": 2880, "swiglu_limit": 7.0, "head_dim": 64,
        "num_attention_heads": 64, "num_key_value_heads": 8, "sliding_window": 128,
        "initial_context_length": 4096, "rope_theta": 150_000, "rope_scaling_factor": 32.0,
        "rope_ntk_alpha": 1, "rope_ntk_beta": 32,
    });
    let found = read(&original).unwrap();
    assert_eq!(ModelSpec { eos_token_ids: vec![200_002], ..found }, hub);
}

#[test]
fn what_is_not_understood_is_an_error_that_names_the_key() {
    let cases = [
        ("hidden_act", json!("gelu")),
        ("num_key_value_heads", json!(7)),
        ("head_dim", json!(63)),
        ("experts_per_token", json!(5)),
        ("num_experts_per_tok", json!(33)),
        ("initial_context_length", json!(8192)),
        ("layer_types", json!(["full_attention"])),
        ("swiglu_limit", json!(-1.0)),
        ("sliding_window", json!(null)),
        ("rope_theta", json!(1.0)),
        ("rope_scaling.rope_type", json!("llama3")),
        ("rope_scaling.factor", json!(null)),
        ("rope_scaling.beta_fast", json!(0.5)),
        ("rope_scaling.mscale", json!(1.0)),
        ("rope_scaling.surprise", json!(1)),
        ("quantization_config.quant_method", json!("awq")),
        ("surprise", json!(true)),
    ];
    for (key, value) in cases {
        let error = read(&with(config(), key, value)).unwrap_err();
        let named = key.rsplit('.').next().unwrap();
        assert!(error.contains(named), "{key}: {error}");
    }
    for key in ["rope_scaling", "rope_theta", "num_local_experts", "rms_norm_eps", "model_type"] {
        let error = read(&without(config(), key)).unwrap_err();
        assert!(error.contains(key), "{key}: {error}");
    }
}

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/gptoss/model")
}

type Tensors = Vec<(String, TensorData)>;

/// Configuration and tensors of the golden checkpoint.
fn stored() -> (Value, Tensors) {
    let config = std::fs::read_to_string(golden().join("config.json")).unwrap();
    let file = std::fs::read(golden().join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let tensor = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        let dtype = Dtype::from_name(&format!("{:?}", view.dtype()));
        let (shape, bytes) = (view.shape().to_vec(), Bytes::from_vec(view.data().to_vec()));
        (name, TensorData { dtype, shape, bytes })
    };
    (serde_json::from_str(&config).unwrap(), tensors.tensors().into_iter().map(tensor).collect())
}

fn experts(model: &Model, layer: usize) -> &[ExpertWeights] {
    match &model.layers[layer].mlp {
        MlpWeights::Moe { experts, .. } => experts,
        MlpWeights::Dense(_) => panic!("dense"),
    }
}

#[test]
fn gate_and_up_are_views_of_the_same_bytes() {
    let options = LoadOptions { drafter: DrafterChoice::None };
    let mut total = 0;
    let mut progress = |at: kilotok::weights::Progress| total = at.bytes_total;
    let model = load_with(&golden(), &options, Some(&mut progress)).unwrap();
    let (_, tensors) = stored();
    let find = |name: &str| {
        let name = format!("model.layers.1.mlp.experts.{name}");
        &tensors.iter().find(|(found, _)| *found == name).unwrap().1
    };
    let (blocks, scales) = (find("gate_up_proj_blocks"), find("gate_up_proj_scales"));
    let (bias, [rows, groups]) = (find("gate_up_proj_bias"), [scales.shape[1], scales.shape[2]]);
    for (e, expert) in experts(&model, 1).iter().enumerate() {
        let b = expert.bias.as_ref().unwrap();
        for (parity, matrix, bias_of) in [(0, &expert.gate, &b.gate), (1, &expert.up, &b.up)] {
            assert_eq!((matrix.rows, matrix.cols, matrix.row_step), (rows / 2, groups * 32, 2));
            let Format::Mxfp4 { scales: own } = &matrix.format else { panic!("not MXFP4") };
            for r in 0..matrix.rows {
                let stored = e * rows + 2 * r + parity;
                let row = |bytes: &Bytes, at: usize, len: usize| -> Vec<u8> {
                    bytes.as_slice()[at * len..(at + 1) * len].to_vec()
                };
                let width = groups * 16;
                assert_eq!(row(&matrix.data, 2 * r, width), row(&blocks.bytes, stored, width));
                assert_eq!(row(own, 2 * r, groups), row(&scales.bytes, stored, groups));
                let at = 2 * stored;
                let bits = &bias.bytes.as_slice()[at..at + 2];
                let value = f32::from_bits(u32::from(bits[1]) << 24 | u32::from(bits[0]) << 16);
                assert_eq!(bias_of[r], value);
            }
        }
        let at = |bytes: &Bytes| bytes.as_slice().as_ptr() as usize;
        assert_eq!(at(&expert.up.data) - at(&expert.gate.data), groups * 16);
    }
    // Every stored byte is made resident once, but for the vectors that are copied out.
    let bytes: usize = tensors.iter().map(|(_, tensor)| tensor.bytes.len()).sum();
    let copied: usize = tensors
        .iter()
        .filter(|(name, _)| name.ends_with("gate_up_proj_bias"))
        .map(|(_, tensor)| tensor.bytes.len())
        .sum();
    assert_eq!(total as usize, bytes - copied);
}

fn built(config: &Value, tensors: Tensors) -> Result<Model, String> {
    from_tensors(&config.to_string(), tensors, None).map_err(|error| error.to_string())
}

fn changed(edit: impl Fn(&str, &mut TensorData)) -> Result<Model, String> {
    let (config, mut tensors) = stored();
    for (name, tensor) in &mut tensors {
        edit(name, tensor);
    }
    built(&config, tensors)
}

#[test]
fn stacked_tensors_that_do_not_fit_are_errors_that_name_them() {
    assert!(changed(|_, _| {}).is_ok());
    let name = "model.layers.2.mlp.experts.gate_up_proj_scales";
    // A NaN in the last, odd row: the one that only the up-projection has.
    let error = changed(|found, tensor| {
        if found == name {
            let mut bytes = tensor.bytes.as_slice().to_vec();
            *bytes.last_mut().unwrap() = 255;
            tensor.bytes = Bytes::from_vec(bytes);
        }
    });
    let error = error.unwrap_err();
    assert!(error.contains(name) && error.contains("NaN"), "{error}");
    // One expert, row, group or byte too few.
    for at in 0..3 {
        let error = changed(|found, tensor| {
            if found == name {
                let whole = tensor.bytes.len();
                let kept = whole / tensor.shape[at] * (tensor.shape[at] - 1);
                tensor.shape[at] -= 1;
                tensor.bytes = tensor.bytes.slice(0..kept).unwrap();
            }
        });
        let error = error.unwrap_err();
        assert!(error.contains("model.layers.2.mlp.experts."), "{at}: {error}");
    }
    for missing in ["mlp.router.bias", "self_attn.k_proj.bias", "self_attn.sinks"] {
        let (config, mut tensors) = stored();
        tensors.retain(|(name, _)| name != &format!("model.layers.0.{missing}"));
        let error = built(&config, tensors).unwrap_err();
        assert!(error.contains("model.layers.0.") && error.contains("missing"), "{error}");
    }
    // Without the announcement, bytes are not taken for MXFP4.
    let (config, tensors) = stored();
    let error = built(&without(config, "quantization_config"), tensors).unwrap_err();
    assert!(error.contains("announce"), "{error}");
}
