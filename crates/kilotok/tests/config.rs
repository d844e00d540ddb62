//! Configuration files: what is read, what is ignored, and what is refused by name.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use kilotok::config::{presets, read, read_texts};
use kilotok::{ModelSpec, QkvLayout};
use serde_json::{Value, json};
use support::TempDir;
use support::edit::{with, without};
use support::tiny::{PRO_FP4, Tiny};

fn target() -> Value {
    Tiny::new(1, PRO_FP4).config
}

fn parse(config: &Value) -> Result<ModelSpec, String> {
    read_texts(&config.to_string(), None, None).map_err(|error| error.to_string())
}

/// What `transformers` 5.23 writes for a `mimo_v2_flash` model of three layers.
fn transformers_spelling() -> Value {
    json!({
        "architectures": ["MiMoV2FlashForCausalLM"], "attention_bias": false,
        "attention_dropout": 0.0, "attention_value_scale": 0.707, "bos_token_id": 0,
        "dtype": "float32", "eos_token_id": 1, "head_dim": 24, "hidden_act": "silu",
        "hidden_size": 64, "initializer_range": 0.02, "intermediate_size": 96,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        "max_position_embeddings": 512, "mlp_layer_types": ["dense", "sparse", "sparse"],
        "model_type": "mimo_v2_flash", "moe_intermediate_size": 32, "n_group": 1,
        "n_routed_experts": 4, "norm_topk_prob": true, "num_attention_heads": 4,
        "num_experts_per_tok": 2, "num_hidden_layers": 3, "num_key_value_heads": 2,
        "output_router_logits": false, "pad_token_id": null, "rms_norm_eps": 1e-5,
        "rope_parameters": {
            "full_attention": {
                "partial_rotary_factor": 0.334, "rope_theta": 5e6, "rope_type": "default",
            },
            "sliding_attention": {
                "partial_rotary_factor": 0.334, "rope_theta": 1e4, "rope_type": "default",
            },
        },
        "routed_scaling_factor": 1.0, "sliding_window": 129, "tie_word_embeddings": false,
        "topk_group": 1, "transformers_version": "5.23.0", "use_cache": true, "v_head_dim": 16,
        "vocab_size": 96,
    })
}

#[test]
fn transformers_spelling_is_read_with_its_own_rules() {
    let spec = parse(&transformers_spelling()).unwrap();
    let (full, sliding) = (&spec.layers[0].attention, &spec.layers[2].attention);
    // Its class doubles the key/value heads of sliding layers and gives only those sinks.
    assert_eq!((full.kv_heads, sliding.kv_heads), (2, 4));
    assert_eq!((full.sinks, sliding.sinks), (false, true));
    assert_eq!((full.rope.theta, sliding.rope.theta), (5e6, 1e4));
    // int(24 * 0.334) = 8 rotated dimensions.
    assert_eq!((full.rope.dims, sliding.rope.dims), (8, 8));
    // Its mask shows `key > query - sliding_window`: 129 keys with the query's own.
    assert_eq!((full.window, sliding.window), (None, Some(129)));
    assert_eq!(full.layout, QkvLayout::Split);
    assert_eq!((spec.norm_eps, spec.eos_token_ids), (1e-5, vec![1]));
}

#[test]
fn a_hub_file_saved_again_may_carry_both_spellings() {
    let both = [
        ("hybrid_layer_pattern", json!([0, 1, 1])),
        ("moe_layer_freq", json!([0, 1, 1])),
        ("layernorm_epsilon", json!(1e-5)),
        ("sliding_window_size", json!(128)),
        ("swa_num_key_value_heads", json!(4)),
        ("partial_rotary_factor", json!(0.334)),
        ("swa_rope_theta", json!(10000)),
        ("rope_theta", json!(5_000_000)),
    ];
    let mut config = transformers_spelling();
    for (key, value) in &both {
        config[*key] = value.clone();
    }
    assert_eq!(parse(&config).unwrap(), parse(&transformers_spelling()).unwrap());
    for (key, wrong) in [
        ("hybrid_layer_pattern", json!([0, 1, 0])),
        ("moe_layer_freq", json!([1, 1, 1])),
        ("layernorm_epsilon", json!(1e-6)),
        ("sliding_window_size", json!(127)),
        ("partial_rotary_factor", json!(0.5)),
        ("swa_rope_theta", json!(20000)),
        ("rope_theta", json!(10_000_000)),
    ] {
        let error = parse(&with(config.clone(), key, wrong)).unwrap_err();
        assert!(error.contains("contradicts"), "{key}: {error}");
    }
}

#[test]
fn hub_window_counts_the_query() {
    let window = |config: &Value| parse(config).unwrap().layers[1].attention.window;
    assert_eq!(window(&target()), Some(7));
    let both = with(target(), "sliding_window_size", json!(7));
    assert_eq!(window(&both), Some(7));
    let size_only = with(without(target(), "sliding_window"), "sliding_window_size", json!(6));
    assert_eq!(window(&size_only), Some(6));
}

#[test]
fn values_that_are_not_implemented_are_refused_by_name() {
    for (key, value) in [
        ("hidden_act", json!("gelu")),
        ("attention_bias", json!(true)),
        ("mlp_bias", json!(true)),
        ("use_qk_norm", json!(true)),
        ("n_shared_experts", json!(1)),
        ("scoring_func", json!("softmax")),
        ("topk_method", json!("greedy")),
        ("n_group", json!(8)),
        ("topk_group", json!(4)),
        ("moe_router_dtype", json!("float16")),
        ("swiglu_limit", json!(7.0)),
        ("rope_scaling", json!({"rope_type": "yarn", "factor": 4})),
        ("rope_parameters", json!({"rope_type": "yarn", "rope_theta": 1e7})),
        ("rope_parameters", json!({"rope_type": "default", "factor": 4})),
        ("rope_parameters", json!({"rope_type": "default", "rope_theta": 2e7})),
        ("attention_projection_layout", json!("packed")),
        ("attention_chunk_size", json!(5)),
        ("final_logit_softcapping", json!(30.0)),
        ("quantization_config.quant_method", json!("awq")),
        ("quantization_config.fmt", json!("e5m2")),
        ("quantization_config.activation_scheme", json!("static")),
        ("quantization_config.weight_block_size", json!([64, 128])),
        ("quantization_config.store_dtype", json!("nvfp4")),
        ("quantization_config.mxfp4_block_size", json!(16)),
        ("quantization_config.group_size", json!(32)),
        ("a_key_from_the_future", json!(true)),
        ("model_type", json!("mimo_v3")),
    ] {
        let error = parse(&with(target(), key, value.clone())).unwrap_err();
        let last = key.rsplit('.').next().unwrap();
        assert!(error.contains("config.json") && error.contains(last), "{key} {value}: {error}");
    }
}

#[test]
fn values_out_of_range_are_refused_by_name() {
    for (key, value) in [
        ("num_hidden_layers", json!(0)),
        ("num_hidden_layers", json!(4)),
        ("num_hidden_layers", json!(1e18)),
        ("hidden_size", json!(-1)),
        ("hidden_size", json!(1_u64 << 62)),
        ("vocab_size", json!("40")),
        ("vocab_size", json!(40.5)),
        ("layernorm_epsilon", json!(0)),
        ("layernorm_epsilon", json!(1e-60)),
        ("hybrid_layer_pattern", json!([0, 2, 0])),
        ("hybrid_layer_pattern", json!([0, true, 0])),
        ("num_key_value_heads", json!(3)),
        ("swa_num_key_value_heads", json!(1)),
        ("partial_rotary_factor", json!(0.35)),
        ("partial_rotary_factor", json!(1.5)),
        ("partial_rotary_factor", json!(0.01)),
        ("attention_value_scale", json!(0)),
        ("num_experts_per_tok", json!(4)),
        ("n_routed_experts", json!(u64::MAX)),
        ("routed_scaling_factor", json!(-1.0)),
        ("eos_token_id", json!([1, "x"])),
        ("tie_word_embeddings", json!(1)),
        ("quantization_config", json!("fp8")),
    ] {
        let error = parse(&with(target(), key, value.clone())).unwrap_err();
        assert!(error.contains("config.json: ") && error.contains(key), "{key} {value}: {error}");
    }
}

#[test]
fn keys_without_a_safe_default_are_demanded() {
    for key in [
        "model_type",
        "num_hidden_layers",
        "hidden_size",
        "vocab_size",
        "max_position_embeddings",
        "layernorm_epsilon",
        "hybrid_layer_pattern",
        "moe_layer_freq",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "v_head_dim",
        "swa_num_attention_heads",
        "swa_num_key_value_heads",
        "swa_head_dim",
        "swa_v_head_dim",
        "sliding_window",
        "rope_theta",
        "swa_rope_theta",
        "partial_rotary_factor",
        "attention_value_scale",
        "intermediate_size",
        "moe_intermediate_size",
        "n_routed_experts",
        "num_experts_per_tok",
        "quantization_config.quant_method",
        "quantization_config.weight_block_size",
    ] {
        let error = parse(&without(target(), key)).unwrap_err();
        assert!(error.contains(key) && error.contains("missing"), "{key}: {error}");
    }
}

#[test]
fn harmless_keys_are_ignored() {
    let plain = parse(&target()).unwrap();
    for (key, value) in [
        ("initializer_range", json!(0.5)),
        ("torch_dtype", json!("float16")),
        ("transformers_version", json!("9.9")),
        ("vision_config", json!({"depth": 28})),
        ("num_nextn_predict_layers", json!(3)),
        ("hybrid_block_size", Value::Null),
        ("moe_router_dtype", json!("bfloat16")),
        ("rope_scaling", Value::Null),
        ("attention_chunk_size", json!(7)),
        ("quantization_config.ignored_layers", json!(["model.layers.0.self_attn.o_proj"])),
    ] {
        assert_eq!(parse(&with(target(), key, value)).unwrap(), plain, "{key}");
    }
    // An explicit null is a statement: no factor on values.
    let unscaled = parse(&with(target(), "attention_value_scale", Value::Null)).unwrap();
    assert_eq!(unscaled.layers[0].attention.value_scale, 1.0);
}

#[test]
fn published_files_with_a_trailing_comma_are_read() {
    let preset = presets::find("mimo-v2.5").unwrap();
    let comma = |text: &str| format!("{},\n}}\n", text.trim_end().trim_end_matches('}').trim_end());
    let (config, drafter) = (comma(preset.config), comma(preset.drafter.unwrap()));
    assert!(serde_json::from_str::<Value>(&drafter).is_err());
    let dir = TempDir::new("comma");
    dir.write("config.json", config);
    dir.write("dflash/config.json", drafter);
    assert_eq!(read(dir.path()).unwrap(), preset.spec().unwrap());
}

#[test]
fn a_missing_file_is_named() {
    let dir = TempDir::new("empty");
    let error = read(dir.path()).unwrap_err().to_string();
    assert!(error.contains("config.json"), "{error}");
    dir.write("config.json", "not json");
    let error = read(dir.path()).unwrap_err().to_string();
    assert!(error.contains("config.json: not valid JSON"), "{error}");
}
