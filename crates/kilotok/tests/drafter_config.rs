//! Drafter configurations: order of precedence, visibility, and what is refused by name.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use kilotok::config::read_texts;
use serde_json::{Value, json};
use support::edit::{with, without};
use support::tiny::{PRO_FP4, Tiny, drafter_config as drafter};

fn parse_drafter(config: &Value) -> Result<kilotok::DrafterSpec, String> {
    read_texts(&Tiny::new(1, PRO_FP4).config.to_string(), None, Some(&config.to_string()))
        .map(|spec| spec.drafter.unwrap())
        .map_err(|error| error.to_string())
}

#[test]
fn drafter_keys_follow_the_order_of_precedence() {
    let plain = parse_drafter(&drafter()).unwrap();
    assert_eq!((plain.block_size, plain.taps.as_slice()), (8, [0, 2].as_slice()));
    // `use_swa` without layer_types: every layer slides and none is causal.
    assert_eq!(
        (plain.windows.as_slice(), plain.causal.as_slice()),
        ([Some(9); 2].as_slice(), [false; 2].as_slice())
    );
    assert_eq!((plain.rope.dims, plain.rope.theta, plain.value_scale), (8, 1e4, 0.612));

    // dflash_config beats the top level; either place alone will do.
    let nested = with(drafter(), "dflash_config.block_size", json!(6));
    assert_eq!(parse_drafter(&nested).unwrap().block_size, 6);
    let only_nested = without(nested, "block_size");
    assert_eq!(parse_drafter(&only_nested).unwrap().block_size, 6);
    let neither = without(drafter(), "block_size");
    assert_eq!(parse_drafter(&neither).unwrap().block_size, 16);
    let flat = {
        let mut flat = drafter();
        let nested = flat["dflash_config"].take();
        flat.as_object_mut().unwrap().remove("dflash_config");
        for (key, value) in nested.as_object().unwrap() {
            if key != "backbone_rotary_base" {
                flat[key] = value.clone();
            }
        }
        flat
    };
    assert_eq!(parse_drafter(&flat).unwrap(), plain);

    // The window: swa_window_size, else sliding_window.
    let wide = without(drafter(), "dflash_config.swa_window_size");
    assert_eq!(parse_drafter(&wide).unwrap().windows, [Some(11); 2]);

    // rope_theta may have moved into rope_parameters.
    let moved = with(
        without(drafter(), "rope_theta"),
        "rope_parameters",
        json!({"rope_theta": 10000, "rope_type": "default", "partial_rotary_factor": 0.5}),
    );
    assert_eq!(parse_drafter(&moved).unwrap(), plain);
    let whole = without(drafter(), "partial_rotary_factor");
    assert_eq!(parse_drafter(&whole).unwrap().rope.dims, 16);
}

#[test]
fn drafter_causality_is_resolved_in_order() {
    let full_and_sliding = json!(["full_attention", "sliding_attention"]);
    let listed = with(drafter(), "layer_types", full_and_sliding);
    let listed = without(listed, "dflash_config.use_swa");
    // The old rule: listed as sliding means causal.
    let old = parse_drafter(&listed).unwrap();
    assert_eq!((old.windows, old.causal), (vec![None, Some(9)], vec![false, true]));
    // `dflash_config.causal` beats it, `is_causal` beats both.
    let nested = with(listed.clone(), "dflash_config.causal", json!(false));
    assert_eq!(parse_drafter(&nested).unwrap().causal, [false, false]);
    let both = with(nested, "is_causal", json!(true));
    assert_eq!(parse_drafter(&both).unwrap().causal, [true, true]);
    // MiMo-V2.6-Flash: all sliding and explicitly not causal.
    let v26 = with(
        with(drafter(), "layer_types", json!(["sliding_attention", "sliding_attention"])),
        "is_causal",
        json!(false),
    );
    let v26 = parse_drafter(&v26).unwrap();
    assert_eq!((v26.windows, v26.causal), (vec![Some(9); 2], vec![false; 2]));
    // `use_swa` with an all-full list slides as well.
    let forced = with(drafter(), "layer_types", json!(["full_attention", "full_attention"]));
    let forced = parse_drafter(&forced).unwrap();
    assert_eq!((forced.windows, forced.causal), (vec![Some(9); 2], vec![false; 2]));
    // No sliding anywhere.
    let full = without(without(drafter(), "dflash_config.use_swa"), "sliding_window");
    let full = parse_drafter(&full).unwrap();
    assert_eq!((full.windows, full.causal), (vec![None; 2], vec![false; 2]));
}

#[test]
fn drafters_that_are_not_implemented_are_refused_by_name() {
    for (key, value) in [
        ("architectures", json!(["DFlash2DraftModel"])),
        ("hidden_size", json!(32)),
        ("num_target_layers", json!(4)),
        ("v_head_dim", json!(8)),
        ("hidden_act", json!("gelu")),
        ("rope_scaling", json!({"rope_type": "yarn"})),
        ("rope_interleaved", json!(true)),
        ("draft_vocab_size", json!(100)),
        ("logit_scale", json!(2.0)),
        ("surprise", json!(1)),
        ("use_sliding_window", json!("yes")),
        ("dflash_config.surprise", json!(1)),
        ("dflash_config.mask_token_id", json!(40)),
        ("dflash_config.target_layer_ids", json!([0, 3])),
        ("dflash_config.target_layer_ids", json!([2, 0])),
        ("dflash_config.target_layer_ids", json!([])),
        ("dflash_config.target_layer_ids", json!([-1, 2])),
        ("dflash_config.block_size", json!(1)),
        ("dflash_config.sample_from_anchor", json!(true)),
        ("dflash_config.input_embedding_scale", json!(64.0)),
        ("dflash_config.output_multiplier", json!(0.5)),
        ("dflash_config.final_logit_softcapping", json!(30.0)),
        ("dflash_config.conv_kernel_size", json!(2)),
        ("dflash_config.selector_rank", json!(256)),
        ("dflash_config.projector_type", json!("domino")),
        ("dflash_config.num_target_layers", json!(5)),
    ] {
        let error = parse_drafter(&with(drafter(), key, value.clone())).unwrap_err();
        let last = key.rsplit('.').next().unwrap();
        assert!(
            error.contains("dflash/config.json") && error.contains(last),
            "{key} {value}: {error}"
        );
    }
    for key in ["dflash_config.target_layer_ids", "dflash_config.mask_token_id", "rope_theta"] {
        let error = parse_drafter(&without(drafter(), key)).unwrap_err();
        assert!(error.contains("missing"), "{key}: {error}");
    }
}
