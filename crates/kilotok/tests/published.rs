//! The published models by the numbers of mimo_spec: configurations, tensor census, bytes.
//!
//! Checkpoints are written as headers without data, from the tensor table of mimo_spec 3.1, so
//! that reader and numbers are checked against each other.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use kilotok::config::{presets, read_texts};
use kilotok::inspect::{Inspection, inspect};
use kilotok::{MlpSpec, ModelSpec, QkvLayout, RouterKind};
use support::{Described, TempDir, header};

fn preset(name: &str) -> ModelSpec {
    presets::find(name).unwrap().spec().unwrap()
}

/// How a release stores its tensors.
struct Release {
    experts_mxfp4: bool,
    router: &'static str,
    mtp: bool,
}

const PRO: Release = Release { experts_mxfp4: false, router: "F32", mtp: true };
const PRO_FP4: Release = Release { experts_mxfp4: true, router: "F32", mtp: true };
const V26_PRO: Release = Release { experts_mxfp4: true, router: "BF16", mtp: true };

fn fp8(out: &mut Vec<Described>, name: &str, rows: usize, cols: usize, scale_rows: usize) {
    out.push((format!("{name}.weight"), "F8_E4M3", vec![rows, cols]));
    out.push((format!("{name}.weight_scale_inv"), "F32", vec![scale_rows, cols / 128]));
}

fn expert(out: &mut Vec<Described>, release: &Release, name: &str, rows: usize, cols: usize) {
    if release.experts_mxfp4 {
        out.push((format!("{name}.weight"), "U8", vec![rows, cols / 2]));
        out.push((format!("{name}.weight_scale"), "U8", vec![rows, cols / 32]));
    } else {
        fp8(out, name, rows, cols, rows / 128);
    }
}

/// Tensors of MiMo-V2.5-Pro as in mimo_spec 3.1 and 3.3, written down from the tables there.
fn pro_tensors(release: &Release) -> Vec<Described> {
    const H: usize = 6144;
    const FULL: [usize; 10] = [0, 7, 15, 23, 31, 39, 47, 55, 62, 69];
    let mut out: Vec<Described> = Vec::new();
    for name in ["model.embed_tokens", "lm_head"] {
        out.push((format!("{name}.weight"), "BF16", vec![152_576, H]));
    }
    out.push(("model.norm.weight".to_owned(), "BF16", vec![H]));
    for layer in 0..70 {
        let p = format!("model.layers.{layer}");
        for norm in ["input", "post_attention"] {
            out.push((format!("{p}.{norm}_layernorm.weight"), "BF16", vec![H]));
        }
        fp8(&mut out, &format!("{p}.self_attn.qkv_proj"), 27_136, H, 216);
        out.push((format!("{p}.self_attn.o_proj.weight"), "BF16", vec![H, 16_384]));
        if !FULL.contains(&layer) {
            out.push((format!("{p}.self_attn.attention_sink_bias"), "BF16", vec![128]));
        }
        if layer == 0 {
            fp8(&mut out, &format!("{p}.mlp.gate_proj"), 16_384, H, 128);
            fp8(&mut out, &format!("{p}.mlp.up_proj"), 16_384, H, 128);
            fp8(&mut out, &format!("{p}.mlp.down_proj"), H, 16_384, 48);
            continue;
        }
        out.push((format!("{p}.mlp.gate.weight"), release.router, vec![384, H]));
        out.push((format!("{p}.mlp.gate.e_score_correction_bias"), "F32", vec![384]));
        for e in 0..384 {
            let p = format!("{p}.mlp.experts.{e}");
            expert(&mut out, release, &format!("{p}.gate_proj"), 2048, H);
            expert(&mut out, release, &format!("{p}.up_proj"), 2048, H);
            expert(&mut out, release, &format!("{p}.down_proj"), H, 2048);
        }
    }
    for layer in 0..if release.mtp { 3 } else { 0 } {
        let p = format!("model.mtp.layers.{layer}");
        for norm in ["enorm", "hnorm", "input_layernorm", "pre_mlp_layernorm", "final_layernorm"] {
            out.push((format!("{p}.{norm}.weight"), "BF16", vec![H]));
        }
        out.push((format!("{p}.eh_proj.weight"), "BF16", vec![H, 2 * H]));
        fp8(&mut out, &format!("{p}.self_attn.qkv_proj"), 27_136, H, 216);
        out.push((format!("{p}.self_attn.o_proj.weight"), "BF16", vec![H, 16_384]));
        out.push((format!("{p}.self_attn.attention_sink_bias"), "BF16", vec![128]));
        fp8(&mut out, &format!("{p}.mlp.gate_proj"), 16_384, H, 128);
        fp8(&mut out, &format!("{p}.mlp.up_proj"), 16_384, H, 128);
        fp8(&mut out, &format!("{p}.mlp.down_proj"), H, 16_384, 48);
    }
    out
}

/// Tensors of a MiMo drafter, mimo_spec 4.2.
fn drafter_tensors(hidden: usize, heads: usize) -> Vec<Described> {
    let mut out: Vec<Described> = vec![
        ("fc.weight".to_owned(), "BF16", vec![hidden, 5 * hidden]),
        ("hidden_norm.weight".to_owned(), "BF16", vec![hidden]),
        ("norm.weight".to_owned(), "BF16", vec![hidden]),
    ];
    for layer in 0..5 {
        let mut add = |name: &str, shape: Vec<usize>| {
            out.push((format!("layers.{layer}.{name}"), "BF16", shape));
        };
        add("input_layernorm.weight", vec![hidden]);
        add("post_attention_layernorm.weight", vec![hidden]);
        add("self_attn.q_proj.weight", vec![heads * 128, hidden]);
        add("self_attn.k_proj.weight", vec![1024, hidden]);
        add("self_attn.v_proj.weight", vec![1024, hidden]);
        add("self_attn.o_proj.weight", vec![hidden, heads * 128]);
        add("self_attn.q_norm.weight", vec![128]);
        add("self_attn.k_norm.weight", vec![128]);
        add("self_attn.attention_sink_bias", vec![heads]);
        add("mlp.gate_proj.weight", vec![16_384, hidden]);
        add("mlp.up_proj.weight", vec![16_384, hidden]);
        add("mlp.down_proj.weight", vec![hidden, 16_384]);
    }
    out
}

fn inspected(name: &str, tensors: &[Described], drafter: Option<&[Described]>) -> Inspection {
    let preset = presets::find(name).unwrap();
    let dir = TempDir::new("published");
    dir.write("config.json", preset.config);
    dir.write("model.safetensors", header(tensors));
    if let Some(drafter) = drafter {
        dir.write("dflash/config.json", preset.drafter.unwrap());
        dir.write("dflash/dflash_draft_model.safetensors", header(drafter));
    }
    inspect(dir.path()).unwrap()
}

fn bytes_of(found: &Inspection, component: &str) -> u64 {
    found.census.iter().filter(|row| row.component == component).map(|row| row.bytes).sum()
}

fn dtype_total(found: &Inspection, dtype: &str) -> (u64, u64) {
    let rows = found.census.iter().filter(|row| row.dtype == dtype);
    rows.fold((0, 0), |(elements, bytes), row| (elements + row.elements, bytes + row.bytes))
}

/// `found` is `expected` to the last digit that `expected` is written with.
fn assert_rounds_to(found: u64, expected: f64, digits: i32) {
    let unit = 10_f64.powi(-digits);
    let found = found as f64 / 1e9;
    assert!((found - expected).abs() <= unit * 0.5001, "{found} GB, expected {expected}");
}

#[test]
fn pro_configuration() {
    let spec = preset("mimo-v2.5-pro");
    assert_eq!((spec.layers.len(), spec.hidden, spec.vocab), (70, 6144, 152_576));
    assert_eq!((spec.norm_eps, spec.max_positions, spec.tied_head), (1e-5, 1_048_576, false));
    let full: Vec<usize> = (0..70).filter(|&l| spec.layers[l].attention.window.is_none()).collect();
    assert_eq!(full, [0, 7, 15, 23, 31, 39, 47, 55, 62, 69]);
    for (at, layer) in spec.layers.iter().enumerate() {
        let a = &layer.attention;
        let full = full.contains(&at);
        assert_eq!((a.heads, a.kv_heads, a.qk_dim, a.v_dim), (128, 8, 192, 128));
        assert_eq!(a.rope.dims, 64);
        assert_eq!(a.rope.theta, if full { 1e7 } else { 1e4 });
        assert_eq!(a.window, if full { None } else { Some(128) });
        assert_eq!((a.sinks, a.value_scale), (!full, 0.612));
        assert_eq!(a.layout, QkvLayout::Fused { chunks: 8 });
        assert_eq!(a.rows_per_chunk(), 3392);
        match &layer.mlp {
            MlpSpec::Dense { inter } => assert_eq!((at, *inter), (0, 16_384)),
            MlpSpec::Moe(moe) => {
                assert!(at > 0);
                assert_eq!((moe.experts, moe.top_k, moe.inter), (384, 8, 2048));
                assert_eq!(moe.router, RouterKind::Sigmoid { normalize: true, scale: 1.0 });
            }
        }
    }
}

#[test]
fn v25_and_flash_configurations() {
    let v25 = preset("mimo-v2.5");
    let flash = preset("mimo-v2-flash");
    for spec in [&v25, &flash] {
        assert_eq!((spec.layers.len(), spec.hidden, spec.vocab), (48, 4096, 152_576));
        let full: Vec<usize> =
            (0..48).filter(|&l| spec.layers[l].attention.window.is_none()).collect();
        assert_eq!(full, [0, 5, 11, 17, 23, 29, 35, 41, 47]);
        let (ga, swa) = (&spec.layers[0].attention, &spec.layers[1].attention);
        assert_eq!((ga.heads, ga.kv_heads, swa.heads, swa.kv_heads), (64, 4, 64, 8));
        assert_eq!((ga.value_scale, ga.rope.dims, swa.rope.theta), (0.707, 64, 1e4));
        let MlpSpec::Moe(moe) = &spec.layers[1].mlp else { panic!("dense") };
        assert_eq!((moe.experts, moe.top_k, moe.inter), (256, 8, 2048));
    }
    assert_eq!((v25.norm_eps, flash.norm_eps), (1e-6, 1e-5));
    assert_eq!((v25.max_positions, flash.max_positions), (1_048_576, 262_144));
    let theta = |spec: &ModelSpec| spec.layers[0].attention.rope.theta;
    assert_eq!((theta(&v25), theta(&flash)), (1e7, 5e6));
    // Chunks count the key/value heads of the full layers, in sliding layers too: dividing rows
    // would also allow one chunk there (mimo_spec 3.2).
    let rows = |spec: &ModelSpec, l: usize| spec.layers[l].attention.rows_per_chunk();
    assert_eq!(v25.layers[1].attention.layout, QkvLayout::Fused { chunks: 4 });
    assert_eq!((rows(&v25, 0), rows(&v25, 1)), (3392, 3712));
    assert_eq!(flash.layers[1].attention.layout, QkvLayout::Split);
    assert_eq!((rows(&flash, 0), rows(&flash, 1)), (13_568, 14_848));
}

#[test]
fn drafter_configurations() {
    for (name, hidden, heads, taps, mask, eps) in [
        ("mimo-v2.5-pro-fp4-dflash", 6144, 128, [0, 15, 31, 47, 69], 151_669, 1e-5),
        ("mimo-v2.5", 4096, 64, [0, 11, 23, 35, 47], 151_675, 1e-6),
    ] {
        let spec = preset(name);
        let d = spec.drafter.unwrap();
        assert_eq!((d.hidden, d.heads, d.kv_heads, d.head_dim), (hidden, heads, 8, 128));
        assert_eq!((d.block_size, d.mask_token_id, d.layers, d.inter), (8, mask, 5, 16_384));
        assert_eq!(d.taps, taps);
        // All taps are full-attention layers of the target (mimo_spec 4.1).
        assert!(d.taps.iter().all(|&tap| spec.layers[tap].attention.window.is_none()));
        assert_eq!((d.rope.dims, d.rope.theta), (64, 1e4));
        assert_eq!((d.windows, d.causal), (vec![Some(1024); 5], vec![false; 5]));
        assert_eq!((d.sinks, d.value_scale, d.norm_eps), (true, 0.612, eps));
    }
}

#[test]
fn pro_fp8_census_is_the_dumped_one() {
    let found = inspected("mimo-v2.5-pro", &pro_tensors(&PRO), None);
    assert_eq!(found.tensors, 159_581);
    assert_eq!(found.stored_elements, 1_023_244_718_976);
    assert_eq!(bytes_of(&found, "experts"), 69 * 384 * 3 * (2048 * 6144 + 16 * 48 * 4));
    // 1021.2 B without MTP, 40.96 B active (mimo_spec 7.1).
    assert_rounds_to(found.model.parameters, 1021.2, 1);
    assert_rounds_to(found.model.active_parameters, 40.96, 1);
    let mtp: u64 = found.census.iter().filter(|r| r.component == "mtp").map(|r| r.elements).sum();
    assert_rounds_to(mtp, 1.935, 2);
}

#[test]
fn v26_pro_byte_identities_hold() {
    let found = inspected("mimo-v2.5-pro-fp4-dflash", &pro_tensors(&V26_PRO), None);
    assert_eq!(dtype_total(&found, "U8").1, 531_351_207_936);
    assert_eq!(dtype_total(&found, "F8_E4M3").1, 13_378_781_184);
    assert_eq!(dtype_total(&found, "F32").0, 857_088);
    // 10,647,286,656 BF16 elements less about 1.03e9 of encoders.
    assert_rounds_to(dtype_total(&found, "BF16").0, 9.61, 1);
}

#[test]
fn pro_fp4_with_drafter_costs_what_the_budget_says() {
    let drafter = drafter_tensors(6144, 128);
    assert_eq!(drafter.len(), 63);
    let found = inspected("mimo-v2.5-pro-fp4-dflash", &pro_tensors(&PRO_FP4), Some(&drafter));
    // mimo_spec 3.4, 4.2: 569.8 GB with MTP and drafter.
    assert_rounds_to(found.bytes, 569.8, 1);
    // mimo_spec counts matrices; norms and sinks come on top.
    let vectors = 2 * 6144 + 5 * (2 * 6144 + 2 * 128 + 128);
    assert_eq!(found.drafter.as_ref().unwrap().parameters, 2_768_240_640 + vectors);
    assert_rounds_to(bytes_of(&found, "drafter"), 5.536, 2);

    // mimo_spec 7.2; the table leaves scales and norms (5 MB) out.
    assert_eq!(found.reads.expert, 20_054_016);
    assert_rounds_to(found.reads.fixed, 28.59, 1);
    assert_rounds_to(found.reads.decode, 39.66, 1);
    assert_rounds_to(found.reads.verify8, 111.0, 1);
    assert!((found.reads.verify8_experts - 59.5).abs() < 0.05);
    assert_rounds_to(found.reads.draft.unwrap(), 7.41, 2);

    // mimo_spec 4.5, 7.4.
    assert_eq!(found.kv.per_token, 51_200);
    assert_eq!(found.kv.sliding_per_sequence, 60 * 8 * 320 * 2 * 128);
    assert_eq!(found.kv.drafter_per_sequence, 20_480 * 1024);
    assert_eq!(found.kv.drafter_per_token, 0);

    // mimo_spec 7.4 with router and fc split over the ranks instead of replicated:
    // 66.42 + 1.50 + 1.76 + 0.47 + 0.65 / 8 + 0.645 + 0.05 = 70.9.
    let over_8 = found.memory_per_rank.iter().find(|rank| rank.ranks == 8).unwrap();
    let parts = 66.42 + 1.50 + 1.76 + 0.47 + 0.651 / 8.0 + 0.645 + 0.047;
    assert_rounds_to(over_8.bytes.unwrap(), (parts * 10.0_f64).round() / 10.0, 1);
    // 4 ranks need more than the 141 GB of an H200; the reason it does not fit.
    let over_4 = found.memory_per_rank.iter().find(|rank| rank.ranks == 4).unwrap();
    assert!(over_4.bytes.unwrap() > 141_000_000_000);
    let shown = found.to_string();
    for part in ["mimo_v2", "experts", "TP 8", "verify of 8 rows"] {
        assert!(shown.contains(part), "{shown}");
    }
    assert!(serde_json::to_string(&found).unwrap().contains("\"memory_per_rank\""));
}

/// Parameters of a preset from its specification alone.
fn parameters(spec: &ModelSpec) -> [u64; 4] {
    let h = spec.hidden as u64;
    let (mut experts, mut qkv, mut output, mut router) = (0, 0, 0, 0);
    for layer in &spec.layers {
        let a = &layer.attention;
        qkv += a.head_map().width as u64 * h;
        output += (a.heads * a.v_dim) as u64 * h;
        if let MlpSpec::Moe(moe) = &layer.mlp {
            experts += (moe.experts * 3 * moe.inter) as u64 * h;
            router += moe.experts as u64 * h;
        }
    }
    [experts, qkv, output, router]
}

#[test]
fn parameters_are_those_of_the_budget() {
    let [experts, qkv, output, router] = parameters(&preset("mimo-v2.5-pro"));
    assert_eq!((experts, qkv), (69 * 384 * 3 * 6144 * 2048, 70 * 27_136 * 6144));
    assert_eq!((output, router), (70 * 6144 * 16_384, 69 * 384 * 6144));
    for name in ["mimo-v2.5", "mimo-v2-flash"] {
        let [experts, qkv, output, router] = parameters(&preset(name));
        assert_eq!(experts, 47 * 256 * 3 * 4096 * 2048);
        assert_eq!(qkv, 9 * 13_568 * 4096 + 39 * 14_848 * 4096);
        assert_eq!((output, router), (48 * 4096 * 8192, 47 * 256 * 4096));
    }
    let matrices = drafter_tensors(4096, 64).into_iter().filter(|tensor| tensor.2.len() == 2);
    let drafter: usize = matrices.map(|tensor| tensor.2.iter().product::<usize>()).sum();
    assert_eq!(drafter, 1_468_006_400);
}

#[test]
fn eos_tokens_come_from_both_files() {
    let preset = presets::find("mimo-v2-flash").unwrap();
    let config = preset.config.replacen('{', "{\"eos_token_id\": 151645,", 1);
    let generation = r#"{"eos_token_id": [151643, 151645], "temperature": 1.0}"#;
    let spec = read_texts(&config, Some(generation), None).unwrap();
    assert_eq!(spec.eos_token_ids, [151_643, 151_645]);
}
