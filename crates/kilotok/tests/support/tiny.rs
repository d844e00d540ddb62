//! Tiny random checkpoints in every stored format.

use serde_json::{Value, json};

use super::{Described, TempDir, header, num_bytes};

/// A small generator, so that failures repeat.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 16) as usize % limit
    }
}

/// One tensor with its bytes.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) described: Described,
    pub(crate) bytes: Vec<u8>,
}

/// A checkpoint that can be edited before it is written.
#[derive(Clone, Debug)]
pub(crate) struct Tiny {
    pub(crate) config: Value,
    pub(crate) tensors: Vec<Stored>,
}

/// How matrices of each kind are stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Formats {
    pub(crate) fused: bool,
    pub(crate) attention: &'static str,
    pub(crate) dense: &'static str,
    pub(crate) experts: &'static str,
    pub(crate) plain: &'static str,
}

/// The mixture of MiMo-V2.5-Pro-FP4.
pub(crate) const PRO_FP4: Formats =
    Formats { fused: true, attention: "F8_E4M3", dense: "F8_E4M3", experts: "U8", plain: "BF16" };

/// Everything in BF16, split projections.
pub(crate) const BF16: Formats =
    Formats { fused: false, attention: "BF16", dense: "BF16", experts: "BF16", plain: "BF16" };

pub(crate) const HIDDEN: usize = 64;
pub(crate) const VOCAB: usize = 40;
pub(crate) const LAYERS: usize = 3;
pub(crate) const EXPERTS: usize = 3;
pub(crate) const INTER: usize = 32;
const DENSE: usize = 136;
const HEADS: usize = 4;
const QK: usize = 16;
const V: usize = 8;

fn fill(random: &mut Random, described: &Described, scale: bool) -> Vec<u8> {
    let count = num_bytes(described);
    match described.1 {
        // Between 1 and 2 in magnitude, either sign.
        "BF16" => (0..count / 2)
            .flat_map(|_| (0x3f80_u16 | (random.next() as u16 & 0x807f)).to_le_bytes())
            .collect(),
        "F32" => (0..count / 4)
            .flat_map(|_| (1.0 + random.below(1000) as f32 / 1000.0).to_le_bytes())
            .collect(),
        "U8" if scale => (0..count).map(|_| 118 + random.below(12) as u8).collect(),
        "F8_E4M3" => (0..count).map(|_| (random.next() as u8) & 0xf7).collect(),
        _ => (0..count).map(|_| random.next() as u8).collect(),
    }
}

struct Writer {
    random: Random,
    tensors: Vec<Stored>,
}

impl Writer {
    fn add(&mut self, name: String, dtype: &'static str, shape: Vec<usize>) {
        let scale = name.ends_with("weight_scale");
        let described = (name, dtype, shape);
        let bytes = fill(&mut self.random, &described, scale);
        self.tensors.push(Stored { described, bytes });
    }

    fn matrix(&mut self, name: &str, dtype: &'static str, rows: usize, cols: usize, chunks: usize) {
        let weight = format!("{name}.weight");
        match dtype {
            "U8" => {
                self.add(weight, dtype, vec![rows, cols / 2]);
                self.add(format!("{name}.weight_scale"), "U8", vec![rows, cols / 32]);
            }
            "F8_E4M3" => {
                let scale_rows = chunks * (rows / chunks).div_ceil(128);
                self.add(weight, dtype, vec![rows, cols]);
                self.add(
                    format!("{name}.weight_scale_inv"),
                    "F32",
                    vec![scale_rows, cols.div_ceil(128)],
                );
            }
            _ => self.add(weight, dtype, vec![rows, cols]),
        }
    }

    fn swiglu(&mut self, prefix: &str, dtype: &'static str, inter: usize) {
        self.matrix(&format!("{prefix}.gate_proj"), dtype, inter, HIDDEN, 1);
        self.matrix(&format!("{prefix}.up_proj"), dtype, inter, HIDDEN, 1);
        self.matrix(&format!("{prefix}.down_proj"), dtype, HIDDEN, inter, 1);
    }
}

impl Tiny {
    /// A checkpoint of three layers: full and dense, sliding and sparse, full and sparse.
    pub(crate) fn new(seed: u64, formats: Formats) -> Self {
        let mut w = Writer { random: Random::new(seed), tensors: Vec::new() };
        let Formats { fused, attention, dense, experts, plain } = formats;
        w.matrix("model.embed_tokens", plain, VOCAB, HIDDEN, 1);
        w.matrix("lm_head", plain, VOCAB, HIDDEN, 1);
        w.add("model.norm.weight".to_owned(), plain, vec![HIDDEN]);
        for layer in 0..LAYERS {
            let p = format!("model.layers.{layer}");
            let kv = if layer == 1 { 4 } else { 2 };
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                w.add(format!("{p}.{norm}.weight"), plain, vec![HIDDEN]);
            }
            let a = format!("{p}.self_attn");
            if fused {
                let rows = HEADS * QK + kv * (QK + V);
                w.matrix(&format!("{a}.qkv_proj"), attention, rows, HIDDEN, 2);
            } else {
                w.matrix(&format!("{a}.q_proj"), attention, HEADS * QK, HIDDEN, 1);
                w.matrix(&format!("{a}.k_proj"), attention, kv * QK, HIDDEN, 1);
                w.matrix(&format!("{a}.v_proj"), attention, kv * V, HIDDEN, 1);
            }
            w.matrix(&format!("{a}.o_proj"), plain, HIDDEN, HEADS * V, 1);
            if layer == 1 {
                w.add(format!("{a}.attention_sink_bias"), plain, vec![HEADS]);
            }
            if layer == 0 {
                w.swiglu(&format!("{p}.mlp"), dense, DENSE);
                continue;
            }
            w.matrix(&format!("{p}.mlp.gate"), "F32", EXPERTS, HIDDEN, 1);
            w.add(format!("{p}.mlp.gate.e_score_correction_bias"), "F32", vec![EXPERTS]);
            for expert in 0..EXPERTS {
                w.swiglu(&format!("{p}.mlp.experts.{expert}"), experts, INTER);
            }
        }
        Self { config: config(formats), tensors: w.tensors }
    }

    /// The described tensor of that name.
    pub(crate) fn tensor(&mut self, name: &str) -> &mut Stored {
        self.tensors.iter_mut().find(|tensor| tensor.described.0 == name).unwrap()
    }

    /// The bytes of one safetensors file.
    pub(crate) fn file(&self) -> Vec<u8> {
        let described: Vec<Described> =
            self.tensors.iter().map(|tensor| tensor.described.clone()).collect();
        let mut file = header(&described);
        file.extend(self.tensors.iter().flat_map(|tensor| tensor.bytes.iter().copied()));
        file
    }

    /// Writes the checkpoint into a fresh directory.
    pub(crate) fn write(&self) -> TempDir {
        let dir = TempDir::new("tiny");
        dir.write("config.json", self.config.to_string());
        dir.write("model.safetensors", self.file());
        dir
    }
}

fn config(formats: Formats) -> Value {
    let mut config = json!({
        "architectures": ["MiMoV2ForCausalLM"], "model_type": "mimo_v2",
        "num_hidden_layers": LAYERS, "hidden_size": HIDDEN, "vocab_size": VOCAB,
        "max_position_embeddings": 4096, "layernorm_epsilon": 1e-5,
        "hybrid_layer_pattern": [0, 1, 0], "moe_layer_freq": [0, 1, 1],
        "num_attention_heads": HEADS, "num_key_value_heads": 2, "head_dim": QK, "v_head_dim": V,
        "swa_num_attention_heads": HEADS, "swa_num_key_value_heads": 4,
        "swa_head_dim": QK, "swa_v_head_dim": V,
        "sliding_window": 7, "rope_theta": 1e7, "swa_rope_theta": 1e4,
        "partial_rotary_factor": 0.5, "attention_value_scale": 0.612,
        "add_swa_attention_sink_bias": true, "add_full_attention_sink_bias": false,
        "intermediate_size": DENSE, "moe_intermediate_size": INTER,
        "n_routed_experts": EXPERTS, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
        "norm_topk_prob": true, "routed_scaling_factor": null, "n_shared_experts": null,
        "scoring_func": "sigmoid", "topk_method": "noaux_tc", "hidden_act": "silu",
        "attention_bias": false, "tie_word_embeddings": false, "eos_token_id": 3,
    });
    if formats.fused {
        config["attention_projection_layout"] = json!("fused_qkv");
    }
    let stored = [formats.attention, formats.dense, formats.experts];
    if stored.contains(&"F8_E4M3") || stored.contains(&"U8") {
        config["quantization_config"] = json!({
            "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
            "weight_block_size": [128, 128],
        });
    }
    if stored.contains(&"U8") {
        config["quantization_config"]["store_dtype"] = json!("mxfp4");
        config["quantization_config"]["mxfp4_block_size"] = json!(32);
    }
    config
}

/// A drafter for [`Tiny`], in the spelling of MiMo-V2.5-Pro-FP4-DFlash.
pub(crate) fn drafter_config() -> Value {
    json!({
        "architectures": ["DFlashDraftModel"], "model_type": "qwen3", "hidden_size": 64,
        "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "v_head_dim": 16, "partial_rotary_factor": 0.5,
        "block_size": 8, "num_target_layers": 3, "vocab_size": 32, "rope_theta": 10000,
        "max_position_embeddings": 4096, "sliding_window": 11, "rms_norm_eps": 1e-6,
        "hidden_act": "silu", "attention_bias": false, "tie_word_embeddings": false,
        "dflash_config": {
            "target_layer_ids": [0, 2], "mask_token_id": 39, "use_swa": true,
            "swa_window_size": 9, "backbone_rotary_base": 5_000_000,
            "attention_value_scale": 0.612, "attention_sink_bias": true,
        },
    })
}

/// Random tensors for [`drafter_config`], in BF16.
pub(crate) fn drafter_tensors(seed: u64) -> Vec<Stored> {
    let mut w = Writer { random: Random::new(seed), tensors: Vec::new() };
    let mut add = |name: String, shape: &[usize]| w.add(name, "BF16", shape.to_vec());
    add("fc.weight".to_owned(), &[HIDDEN, 2 * HIDDEN]);
    add("hidden_norm.weight".to_owned(), &[HIDDEN]);
    add("norm.weight".to_owned(), &[HIDDEN]);
    for layer in 0..2 {
        let tensors: [(&str, &[usize]); 12] = [
            ("input_layernorm.weight", &[HIDDEN]),
            ("post_attention_layernorm.weight", &[HIDDEN]),
            ("self_attn.q_proj.weight", &[64, HIDDEN]),
            ("self_attn.k_proj.weight", &[32, HIDDEN]),
            ("self_attn.v_proj.weight", &[32, HIDDEN]),
            ("self_attn.o_proj.weight", &[HIDDEN, 64]),
            ("self_attn.q_norm.weight", &[16]),
            ("self_attn.k_norm.weight", &[16]),
            ("self_attn.attention_sink_bias", &[4]),
            ("mlp.gate_proj.weight", &[40, HIDDEN]),
            ("mlp.up_proj.weight", &[40, HIDDEN]),
            ("mlp.down_proj.weight", &[HIDDEN, 40]),
        ];
        for (name, shape) in tensors {
            add(format!("layers.{layer}.{name}"), shape);
        }
    }
    w.tensors
}
