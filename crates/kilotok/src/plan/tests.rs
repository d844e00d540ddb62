//! Plans against numbers made by hand.

use std::path::PathBuf;

use super::*;
use crate::backend::gpu::Mode;
use crate::backend::gpu::outline::{AttentionShape, Experts, OpWork, PassShape};
use crate::backend::gpu::synthetic::Synthetic;
use crate::config::DrafterChoice;

const PRO: &str = "mimo-v2.5-pro-fp4-dflash";

fn pro() -> PlanRequest {
    PlanRequest { tp: 8, context: Some(1024), ..PlanRequest::new(PRO) }
}

fn outline_of(request: &PlanRequest) -> Outline {
    let source = Source::read(request).unwrap();
    let model = hollow_model(share(source.spec, request.tp).unwrap(), source.formats);
    lowered(&model, request, card::find("h200").unwrap(), 1).unwrap()
}

/// A folder that is gone when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("kilotok-plan-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn near(a: f64, b: f64) -> bool {
    (a / b - 1.0).abs() < 1e-9
}

#[test]
fn the_bytes_of_a_layer_are_those_made_by_hand() {
    let outline = outline_of(&pro());
    // A rank has 16 query heads and 1 kv head of 192 / 128: 16 * 192 + 192 + 128 = 3392 rows, 106
    // tiles of 48 steps of FP8 (32 * 128 codes and 32 factors).
    let qkv = 106 * 48 * (32 * 128 + 32 * 4);
    // 6144 rows, 192 tiles, 16 * 128 columns in bfloat16.
    let o_proj = 6144 * 2048 * 2;
    // MXFP4: 32 rows of 64 columns are 1024 bytes of codes and 64 scales. Gate and up: 2 * 256 rows.
    let up = 16 * (6144 / 64) * 1088;
    let down = 192 * (256 / 64) * 1088;
    let experts = |each| Experts { each, count: 384, top_k: 8 };
    let attention = AttentionShape {
        heads: 16,
        kv_heads: 1,
        qk_dim: 192,
        v_dim: 128,
        window: 128,
        max_chunks: 1,
    };
    let layer = [
        OpWork::Linear { bytes: qkv, is_summed: false },
        OpWork::Attention(attention),
        OpWork::Linear { bytes: o_proj, is_summed: true },
        OpWork::Router { bytes: 384 * 6144 * 4 },
        OpWork::MoeUp(experts(up)),
        OpWork::MoeDown(experts(down)),
    ];
    let at = outline.target.iter().position(|op| *op == layer[4]).unwrap();
    assert_eq!(outline.target[at - 4..=at + 1], layer);
    // 8 rows 1000 positions in: the first sees 128 keys, the last as many, seven further on.
    assert_eq!(attention.bytes(PassShape::of_one(8, 1000)), 135 * 320 * 2);
    assert_eq!(AttentionShape { window: 0, ..attention }.bytes(PassShape::of_one(1, 9)), 10 * 640);
    let many = PassShape { sequences: 3, rows_each: 1, context: 9 };
    assert_eq!(AttentionShape { window: 0, ..attention }.bytes(many), 3 * 10 * 640);
}

#[test]
fn a_step_has_the_ops_of_the_lowering() {
    let plan = plan(&pro()).unwrap();
    let ops = |kind: &str| plan.plain.by_kind.iter().find(|of| of.kind == kind).map(|of| of.ops);
    // 70 layers of which one is dense; one head.
    assert_eq!(ops("linear"), Some(70 * 2 + 2 + 1));
    assert_eq!(ops("attention"), Some(70));
    assert_eq!((ops("router"), ops("moe_up"), ops("moe_down")), (Some(69), Some(69), Some(69)));
    assert_eq!((ops("lay_out"), ops("choose"), ops("accept")), (Some(1), Some(1), Some(1)));
    assert_eq!(ops("draft_attention"), None);
    let round = plan.round.unwrap();
    let drafts = |kind: &str| round.draft.by_kind.iter().find(|of| of.kind == kind).unwrap().ops;
    // Five layers of four matrices, and the head.
    assert_eq!((drafts("linear"), drafts("draft_attention")), (21, 5));
    let bytes: f64 = plan.plain.by_kind.iter().map(|of| of.bytes).sum();
    assert!(near(bytes, plan.plain.bytes));
}

#[test]
fn memory_is_that_made_by_hand() {
    let plan = plan(&pro()).unwrap();
    let of = |name: &str| plan.memory.components.iter().find(|c| c.name == name).unwrap().bytes;
    assert_eq!(of("experts"), 69 * 384 * (16 * 96 + 192 * 4) * 1088);
    assert_eq!(of("embedding"), of("head"));
    // Ten full layers, 320 dimensions of bfloat16, 1024 + 16 positions; and a table of 65 pages.
    assert_eq!(of("kv_cache"), 10 * 1040 * 640 + 512);
    let sum: u64 = plan.memory.components.iter().map(|c| c.bytes).sum();
    assert_eq!(sum, plan.memory.needed);
    assert_eq!(plan.memory.left, Some(plan.memory.available - sum));
    let caches = of("kv_cache") + of("window_cache") + of("drafter_cache");
    // Counts and biases of the tokens of a rank's share.
    let tables = 2 * 4 * 19_072;
    assert!(plan.memory.per_sequence.abs_diff(caches + tables) < 1024, "{:?}", plan.memory);
}

#[test]
fn a_longer_context_needs_memory_and_time_and_no_weights() {
    let short = plan(&pro()).unwrap();
    let long = plan(&PlanRequest { context: Some(131_072), ..pro() }).unwrap();
    let of = |plan: &Plan, name: &str| {
        plan.memory.components.iter().find(|c| c.name == name).unwrap().bytes
    };
    assert_eq!(of(&short, "experts"), of(&long, "experts"));
    assert!(of(&long, "kv_cache") > 120 * of(&short, "kv_cache"));
    assert!(long.plain.times.floor_ms > short.plain.times.floor_ms);
    assert!(long.plain.times.persistent_ms > short.plain.times.persistent_ms);
    assert!(long.memory.sequences < short.memory.sequences);
}

#[test]
fn experts_that_rows_touch() {
    assert!(near(distinct_experts(384.0, 8.0, 1.0), 8.0));
    // 1 - (1 - 1/2)^2
    assert!(near(distinct_experts(4.0, 2.0, 2.0), 3.0));
    assert!((distinct_experts(384.0, 8.0, 8.0) - 59.5).abs() < 0.05);
    assert!((distinct_experts(32.0, 4.0, 1e4) - 32.0).abs() < 1e-6);
}

#[test]
fn the_floor_is_bytes_and_hops() {
    let plan = plan(&pro()).unwrap();
    let bytes: f64 = plan.plain.by_kind.iter().map(|of| of.bytes).sum();
    // Everything but the two rotations waits for the op before.
    let ops: usize = plan.plain.by_kind.iter().map(|of| of.ops).sum();
    let expected = bytes / 4.633e12 * 1e3 + (ops - 2) as f64 * 0.91e-3;
    assert!(near(plan.plain.times.floor_ms, expected), "{expected} {:?}", plan.plain.times);
    assert!(plan.plain.times.persistent_ms.unwrap() > expected);
    let summed = PlanRequest { allreduce_us: Some(5.0), ..pro() };
    let summed = super::plan(&summed).unwrap();
    // Two sums a layer.
    let more = summed.plain.times.floor_ms - plan.plain.times.floor_ms;
    assert!((more - 140.0 * 5e-3).abs() < 1e-9, "{more}");
}

#[test]
fn break_even_and_cost_are_ratios_of_times() {
    let request = PlanRequest { tau: Some(6.3), price: Some(3.6), ..pro() };
    let plan = plan(&request).unwrap();
    let round = plan.round.as_ref().unwrap();
    assert!(near(round.break_even.floor, round.times.floor_ms / plan.plain.times.floor_ms));
    let find = |mode: &str, model: &str| {
        let mut choices = plan.economy.choices.iter();
        choices.find(|c| c.mode == mode && c.model == model).unwrap().clone()
    };
    let drafts = find("drafts", "persistent");
    let ms = round.times.persistent_ms.unwrap();
    assert!(near(drafts.tokens_per_s, 6.3e3 / ms));
    // Eight GPUs for 1e6 / 6.3 rounds.
    assert!(near(drafts.gpu_seconds, 8.0 * 1e6 / 6.3 * ms / 1e3));
    // A GPU-second at 3.6 dollars an hour is a tenth of a cent.
    assert!(near(drafts.dollars.unwrap(), drafts.gpu_seconds * 1e-3));
    let many = find("throughput", "persistent");
    assert_eq!(many.sequences, 8);
    let against = plan.economy.comparisons.iter().find(|c| c.model == "persistent").unwrap();
    assert!(near(against.speed, drafts.tokens_per_s / many.tokens_per_s));
    assert!(near(against.cost, drafts.gpu_seconds / many.gpu_seconds));
    // At the break-even tau, drafts are as fast as plain steps.
    let even = PlanRequest { tau: round.break_even.graph, ..pro() };
    let even = super::plan(&even).unwrap();
    let mut of = even.economy.choices.iter().filter(|c| c.model == "graph");
    let (plain, drafts) = (of.next().unwrap(), of.next().unwrap());
    assert!(near(plain.tokens_per_s, drafts.tokens_per_s));
}

#[test]
fn without_a_price_there_are_no_dollars_and_without_tau_no_comparison_of_drafts() {
    let plan = plan(&pro()).unwrap();
    assert!(plan.economy.choices.iter().all(|choice| choice.dollars.is_none()));
    assert!(plan.economy.comparisons.iter().all(|c| c.latency == "plain"));
    assert!(plan.economy.choices.iter().any(|choice| choice.tau == Some(4.0)));
}

#[test]
fn a_batch_of_the_floor_is_bound_by_memory() {
    let plan = plan(&PlanRequest { context: Some(131_072), ..pro() }).unwrap();
    let batch = &plan.economy.floor_batch;
    assert!(batch.sequences.is_power_of_two() && batch.sequences <= plan.memory.sequences);
    assert_eq!(plan.economy.today_batch.sequences, 8);
}

#[test]
fn what_does_not_fit_says_from_how_many_gpus_on_it_does() {
    let plan = plan(&PlanRequest { tp: 1, ..pro() }).unwrap();
    assert!(!plan.fits && plan.memory.left.is_none() && plan.memory.sequences == 0);
    assert_eq!(plan.fits_from_tp, Some(8));
    assert!(plan.economy.choices.iter().all(|choice| choice.mode != "throughput"));
    assert!(plan.to_string().contains("DOES NOT FIT; it does from --tp 8 on"));
    assert!(super::plan(&pro()).unwrap().fits_from_tp.is_none());
}

#[test]
fn cards_without_measurements_or_kernels_say_so() {
    let of = |gpu: &str| plan(&PlanRequest { gpu: gpu.into(), ..pro() }).unwrap();
    let (h200, h100, b200) = (of("h200"), of("H100"), of("b200"));
    assert!(h200.gpu.is_measured && !h100.gpu.is_measured && !b200.gpu.is_measured);
    assert!(near(h200.gpu.read_rate(), 4.633e12));
    assert!(near(h100.gpu.read_rate(), 4.633e12 / 4.8 * 3.35));
    assert!(h100.plain.times.persistent_ms > h200.plain.times.persistent_ms);
    assert!(h100.to_string().contains("H100 (not measured)"));
    assert_eq!((b200.plain.times.persistent_ms, b200.plain.times.graph_ms), (None, None));
    assert!(b200.plain.times.floor_ms < h200.plain.times.floor_ms);
    assert!(
        !b200.to_string().contains("this engine today") && !b200.to_string().contains("; today")
    );
    assert!(h200.to_string().contains("this engine today") && h200.to_string().contains("; today"));
    assert!(b200.notes.iter().any(|note| note.contains("sm_90a")));
    assert!(h200.notes.iter().all(|note| !note.contains("not measured;")));
}

#[test]
fn what_was_not_measured_is_noted() {
    let notes = |request: PlanRequest| plan(&request).unwrap().notes.join("\n");
    let fp8 = PlanRequest { experts: Some("fp8".into()), ..pro() };
    assert!(notes(fp8).contains("MXFP4 alone"));
    assert!(!notes(pro()).contains("MXFP4 alone"));
    assert!(notes(pro()).contains("sums over 8 GPUs take no time here"));
    let told = PlanRequest { allreduce_us: Some(4.5), ..pro() };
    assert!(notes(told).contains("4.5 us as told"));
    let text = plan(&pro()).unwrap().to_string();
    assert!(text.contains("16 constants that belong to no model, 6 measured and 10 fitted"));
}

#[test]
fn what_is_out_of_range_is_named() {
    let refusal = |request: PlanRequest| plan(&request).unwrap_err().to_string();
    let names = |request: PlanRequest, parameter: &str| {
        let text = refusal(request);
        assert!(text.contains(&format!("`{parameter}`")), "{text}");
    };
    names(PlanRequest::new("no-such-model"), "config");
    names(PlanRequest { gpu: "h300".into(), ..pro() }, "gpu");
    names(PlanRequest { experts: Some("int4".into()), ..pro() }, "experts");
    for tp in [0, 3, 16] {
        names(PlanRequest { tp, ..pro() }, "tp");
    }
    for context in [0, 1 << 40] {
        names(PlanRequest { context: Some(context), ..pro() }, "context");
    }
    for block in [0, 1, 9] {
        names(PlanRequest { block: Some(block), ..pro() }, "block");
    }
    for tau in [0.9, 8.1, f64::NAN] {
        names(PlanRequest { tau: Some(tau), ..pro() }, "tau");
    }
    for bad in [0.0, -1.0, f64::INFINITY, f64::NAN] {
        names(PlanRequest { price: Some(bad), ..pro() }, "price");
        names(PlanRequest { allreduce_us: Some(bad), ..pro() }, "allreduce_us");
    }
    let bare = PlanRequest { drafter: DrafterChoice::None, ..pro() };
    names(PlanRequest { tau: Some(4.0), ..bare.clone() }, "tau");
    names(PlanRequest { block: Some(8), ..bare }, "block");
}

#[test]
fn a_configuration_that_is_not_understood_names_file_and_key() {
    let dir = Folder::new("not-understood");
    let file = dir.0.join("config.json");
    let request = || PlanRequest::new(file.display().to_string());
    std::fs::write(&file, "{").unwrap();
    assert!(plan(&request()).unwrap_err().to_string().contains("config.json"));
    let preset = crate::config::presets::find("gpt-oss-20b").unwrap();
    let broken = preset.config.replace("\"head_dim\": 64", "\"head_dim\": -64");
    assert_ne!(broken, preset.config);
    std::fs::write(&file, broken).unwrap();
    let error = plan(&request()).unwrap_err().to_string();
    assert!(error.contains("config.json") && error.contains("head_dim"), "{error}");
}

#[test]
fn a_file_its_directory_and_the_preset_are_one_model() {
    let dir = Folder::new("one-model");
    let preset = crate::config::presets::find("gpt-oss-20b").unwrap();
    let file = dir.0.join("config.json");
    std::fs::write(&file, preset.config).unwrap();
    std::fs::create_dir(dir.0.join("dflash")).unwrap();
    std::fs::write(dir.0.join("dflash/config.json"), preset.drafter.unwrap()).unwrap();
    let paths = [file.display().to_string(), dir.0.display().to_string()];
    let named = ["gpt-oss-20b".to_owned(), "openai/GPT-OSS-20b".to_owned()];
    let plans: Vec<Plan> = paths
        .into_iter()
        .chain(named)
        .map(|config| plan(&PlanRequest::new(config)).unwrap())
        .collect();
    for other in &plans[1..] {
        assert_eq!((&plans[0].memory, &plans[0].plain), (&other.memory, &other.plain));
        assert_eq!(plans[0].round, other.round);
    }
}

#[test]
fn formats_follow_the_configuration_or_what_is_told() {
    let of = |config: &str, experts: Option<&str>| {
        let request =
            PlanRequest { experts: experts.map(str::to_owned), ..PlanRequest::new(config) };
        let formats = Source::read(&request).unwrap().format_names();
        let find = |kind: &str| formats.iter().find(|(name, _)| *name == kind).unwrap().1;
        (find("experts"), find("qkv"), find("o_proj"), find("router"))
    };
    assert_eq!(of(PRO, None), ("mxfp4", "fp8", "bf16", "f32"));
    assert_eq!(of("mimo-v2.5-pro", None), ("fp8", "fp8", "bf16", "f32"));
    assert_eq!(of("mimo-v2.5-pro", Some("mxfp4")), ("mxfp4", "fp8", "bf16", "f32"));
    assert_eq!(of("gpt-oss-20b", None), ("mxfp4", "bf16", "bf16", "bf16"));
}

#[test]
fn without_a_context_it_is_one_that_the_model_takes() {
    let of = |config: &str| plan(&PlanRequest::new(config)).unwrap().context;
    assert_eq!(of("gpt-oss-20b"), 8192);
    let dir = Folder::new("short");
    let preset = crate::config::presets::find("mimo-v2-flash").unwrap();
    let mut config: serde_json::Value = serde_json::from_str(preset.config).unwrap();
    config["max_position_embeddings"] = 300.into();
    std::fs::write(dir.0.join("config.json"), config.to_string()).unwrap();
    assert_eq!(of(&dir.0.display().to_string()), 300);
}

#[test]
fn every_preset_has_a_plan() {
    for preset in crate::config::presets::ALL {
        let plan =
            plan(&PlanRequest { context: Some(1024), ..PlanRequest::new(preset.name) }).unwrap();
        assert!(plan.plain.times.persistent_ms.unwrap() > plan.plain.times.floor_ms);
        assert_eq!(plan.round.is_some(), preset.drafter.is_some(), "{}", preset.name);
        assert!(plan.to_string().contains(preset.name));
    }
}

#[test]
fn a_bench_is_predicted_command_by_command() {
    let asked = Synthetic {
        preset: PRO.into(),
        rank_of: 8,
        mode: Mode::Graph,
        rows: vec![1, 8],
        context: 1024,
        block: 8,
        accept: vec![6.3, 4.3],
        device: 0,
        is_traced: false,
    };
    let expected = bench_times(&asked, None, "h200").unwrap();
    let fewer = bench_times(&asked, Some(&[8.0, 51.0]), "h200").unwrap();
    assert_eq!((expected.passes.len(), expected.rounds.len()), (2, 2));
    assert!(near(expected.passes[0].floor_ms, fewer.passes[0].floor_ms));
    assert!(fewer.passes[1].graph_ms < expected.passes[1].graph_ms);
    assert!(fewer.rounds[0].graph_ms < expected.rounds[0].graph_ms);
    assert!(fewer.rounds[0].graph_ms > fewer.passes[1].graph_ms);
    let error = bench_times(&asked, Some(&[8.0]), "h200").unwrap_err().to_string();
    assert!(error.contains("`experts`"), "{error}");
}
