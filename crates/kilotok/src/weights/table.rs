//! Every tensor a specification demands, by its checkpoint name.
//!
//! The loader, the slicing plan and `inspect` walk this one table, so they cannot disagree.

use crate::spec::{
    AttentionSpec, DrafterSpec, LayerSpec, MlpSpec, ModelSpec, MoeSpec, QkvLayout, RouterKind,
};

/// What a tensor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Part {
    Embed,
    Head,
    Norm,
    Qkv,
    Query,
    Key,
    Value,
    Output,
    Sinks,
    Router,
    RouterBias,
    /// A bias of `o_proj` or `down`: added once, after the ranks are joined.
    Bias,
    Gate,
    Up,
    Down,
    FuseTaps,
}

/// Where in the model a tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Place {
    /// Outside the layers of the target.
    Target,
    /// A layer of the target.
    Layer(usize),
    /// An expert of a layer of the target.
    Expert { layer: usize, expert: usize },
    /// Outside the layers of the drafter.
    Drafter,
    /// A layer of the drafter.
    DraftLayer(usize),
}

/// Shape of a tensor, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// `[len]`, widened to f32 at load.
    Vector { len: usize },
    /// `[rows, cols]`, kept as stored; FP8 scales start anew every `rows_per_chunk` rows.
    Matrix { rows: usize, cols: usize, rows_per_chunk: usize },
}

/// One demanded tensor. `name` is the full name of a vector, and the name without `.weight` of a
/// matrix, whose scales sit beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Demand {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) part: Part,
    pub(crate) shape: Shape,
}

impl Demand {
    fn vector(name: String, place: Place, part: Part, len: usize) -> Self {
        Self { name, place, part, shape: Shape::Vector { len } }
    }

    fn matrix(name: String, place: Place, part: Part, rows: usize, cols: usize) -> Self {
        Self { name, place, part, shape: Shape::Matrix { rows, cols, rows_per_chunk: rows } }
    }
}

impl Demand {
    /// Rows of a matrix, elements of a vector.
    fn rows(&self) -> usize {
        match self.shape {
            Shape::Vector { len } => len,
            Shape::Matrix { rows, .. } => rows,
        }
    }

    /// Elements.
    pub(crate) fn num_elements(&self) -> u64 {
        match self.shape {
            Shape::Vector { len } => len as u64,
            Shape::Matrix { rows, cols, .. } => rows as u64 * cols as u64,
        }
    }
}

/// Tensors of a SwiGLU: gate, up, down.
pub(crate) type SwiGlu = [Demand; 3];

/// Tensors of one target layer.
#[derive(Clone, Debug)]
pub(crate) struct LayerTable {
    pub(crate) input_norm: Demand,
    /// One fused matrix, or query, key and value.
    pub(crate) qkv: Vec<Demand>,
    /// As many as `qkv`, or none.
    pub(crate) qkv_bias: Vec<Demand>,
    pub(crate) output: Demand,
    pub(crate) output_bias: Option<Demand>,
    pub(crate) sinks: Option<Demand>,
    pub(crate) post_norm: Demand,
    pub(crate) mlp: MlpTable,
}

/// Tensors of one feed-forward.
#[derive(Clone, Debug)]
pub(crate) enum MlpTable {
    Dense(SwiGlu),
    Moe {
        router: Demand,
        router_bias: Demand,
        experts: Vec<SwiGlu>,
        /// As many as `experts`, or none.
        expert_biases: Vec<SwiGlu>,
    },
}

/// Tensors of a target.
#[derive(Clone, Debug)]
pub(crate) struct ModelTable {
    pub(crate) embed: Demand,
    pub(crate) layers: Vec<LayerTable>,
    pub(crate) norm: Demand,
    /// `None` where the head is the embedding.
    pub(crate) head: Option<Demand>,
}

/// Tensors of one drafter layer.
#[derive(Clone, Debug)]
pub(crate) struct DraftLayerTable {
    pub(crate) input_norm: Demand,
    pub(crate) qkv: [Demand; 3],
    pub(crate) output: Demand,
    pub(crate) query_norm: Demand,
    pub(crate) key_norm: Demand,
    pub(crate) sinks: Option<Demand>,
    pub(crate) post_norm: Demand,
    pub(crate) mlp: SwiGlu,
}

/// Tensors of a drafter.
#[derive(Clone, Debug)]
pub(crate) struct DrafterTable {
    pub(crate) fuse_taps: Demand,
    pub(crate) hidden_norm: Demand,
    pub(crate) norm: Demand,
    pub(crate) layers: Vec<DraftLayerTable>,
}

fn swiglu(prefix: &str, place: Place, hidden: usize, inter: usize) -> SwiGlu {
    [
        Demand::matrix(format!("{prefix}gate_proj"), place, Part::Gate, inter, hidden),
        Demand::matrix(format!("{prefix}up_proj"), place, Part::Up, inter, hidden),
        Demand::matrix(format!("{prefix}down_proj"), place, Part::Down, hidden, inter),
    ]
}

/// Biases of a SwiGLU's matrices.
fn swiglu_bias(prefix: &str, place: Place, hidden: usize, inter: usize) -> SwiGlu {
    [
        Demand::vector(format!("{prefix}gate_proj.bias"), place, Part::Gate, inter),
        Demand::vector(format!("{prefix}up_proj.bias"), place, Part::Up, inter),
        Demand::vector(format!("{prefix}down_proj.bias"), place, Part::Bias, hidden),
    ]
}

fn moe(index: usize, prefix: &str, hidden: usize, spec: &MoeSpec) -> MlpTable {
    let place = Place::Layer(index);
    let of_experts = |make: fn(&str, Place, usize, usize) -> SwiGlu, count: usize| {
        (0..count)
            .map(|expert| {
                let place = Place::Expert { layer: index, expert };
                make(&format!("{prefix}experts.{expert}."), place, hidden, spec.inter)
            })
            .collect()
    };
    let bias = match spec.router {
        RouterKind::Sigmoid { .. } => "e_score_correction_bias",
        RouterKind::Softmax => "bias",
    };
    let router = format!("{prefix}gate");
    MlpTable::Moe {
        router_bias: Demand::vector(
            format!("{router}.{bias}"),
            place,
            Part::RouterBias,
            spec.experts,
        ),
        router: Demand::matrix(router, place, Part::Router, spec.experts, hidden),
        experts: of_experts(swiglu, spec.experts),
        expert_biases: of_experts(swiglu_bias, if spec.bias { spec.experts } else { 0 }),
    }
}

fn qkv(prefix: &str, place: Place, hidden: usize, a: &AttentionSpec) -> Vec<Demand> {
    let rows = |heads: usize, dim: usize| heads * dim;
    match a.layout {
        QkvLayout::Split => [
            ("q_proj", Part::Query, rows(a.heads, a.qk_dim)),
            ("k_proj", Part::Key, rows(a.kv_heads, a.qk_dim)),
            ("v_proj", Part::Value, rows(a.kv_heads, a.v_dim)),
        ]
        .into_iter()
        .map(|(name, part, rows)| {
            Demand::matrix(format!("{prefix}{name}"), place, part, rows, hidden)
        })
        .collect(),
        QkvLayout::Fused { chunks } => {
            let rows_per_chunk = a.rows_per_chunk();
            vec![Demand {
                name: format!("{prefix}qkv_proj"),
                place,
                part: Part::Qkv,
                shape: Shape::Matrix {
                    rows: rows_per_chunk * chunks,
                    cols: hidden,
                    rows_per_chunk,
                },
            }]
        }
    }
}

fn layer(index: usize, hidden: usize, spec: &LayerSpec) -> LayerTable {
    let place = Place::Layer(index);
    let prefix = format!("model.layers.{index}.");
    let attn = format!("{prefix}self_attn.");
    let norm =
        |name: &str| Demand::vector(format!("{prefix}{name}.weight"), place, Part::Norm, hidden);
    let a = &spec.attention;
    let projections = qkv(&attn, place, hidden, a);
    // A bias has the rows of its matrix and is split like them.
    let of = |matrix: &Demand| Demand {
        name: format!("{}.bias", matrix.name),
        shape: Shape::Vector { len: matrix.rows() },
        ..matrix.clone()
    };
    LayerTable {
        qkv_bias: if a.bias { projections.iter().map(of).collect() } else { Vec::new() },
        output_bias: a
            .bias
            .then(|| Demand::vector(format!("{attn}o_proj.bias"), place, Part::Bias, hidden)),
        input_norm: norm("input_layernorm"),
        qkv: projections,
        output: Demand::matrix(
            format!("{attn}o_proj"),
            place,
            Part::Output,
            hidden,
            a.heads * a.v_dim,
        ),
        sinks: a.sinks.then(|| {
            Demand::vector(format!("{attn}attention_sink_bias"), place, Part::Sinks, a.heads)
        }),
        post_norm: norm("post_attention_layernorm"),
        mlp: match &spec.mlp {
            MlpSpec::Dense { inter } => {
                MlpTable::Dense(swiglu(&format!("{prefix}mlp."), place, hidden, *inter))
            }
            MlpSpec::Moe(spec) => moe(index, &format!("{prefix}mlp."), hidden, spec),
        },
    }
}

impl ModelTable {
    /// Tensors of a target, by the names of the published checkpoints (mimo_spec 3).
    pub(crate) fn new(spec: &ModelSpec) -> Self {
        let place = Place::Target;
        let vocab = |name: &str, part| {
            Demand::matrix(name.to_owned(), place, part, spec.vocab, spec.hidden)
        };
        Self {
            embed: vocab("model.embed_tokens", Part::Embed),
            layers: spec
                .layers
                .iter()
                .enumerate()
                .map(|(index, layer_spec)| layer(index, spec.hidden, layer_spec))
                .collect(),
            norm: Demand::vector("model.norm.weight".to_owned(), place, Part::Norm, spec.hidden),
            head: (!spec.tied_head).then(|| vocab("lm_head", Part::Head)),
        }
    }

    /// Every tensor, in order of use.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Demand> {
        std::iter::once(&self.embed)
            .chain(self.layers.iter().flat_map(LayerTable::iter))
            .chain(std::iter::once(&self.norm))
            .chain(&self.head)
    }
}

impl LayerTable {
    fn iter(&self) -> impl Iterator<Item = &Demand> {
        let (dense, moe): (&[Demand], _) = match &self.mlp {
            MlpTable::Dense(swiglu) => (swiglu, None),
            MlpTable::Moe { router, router_bias, experts, expert_biases } => {
                let experts = experts.iter().chain(expert_biases).flatten();
                (&[], Some([router, router_bias].into_iter().chain(experts)))
            }
        };
        std::iter::once(&self.input_norm)
            .chain(&self.qkv)
            .chain(&self.qkv_bias)
            .chain(&self.sinks)
            .chain([&self.output])
            .chain(&self.output_bias)
            .chain([&self.post_norm])
            .chain(dense)
            .chain(moe.into_iter().flatten())
    }
}

impl DrafterTable {
    /// Tensors of a drafter (dflash_spec 3.2); names carry no `model.` prefix.
    pub(crate) fn new(spec: &DrafterSpec) -> Self {
        let place = Place::Drafter;
        let hidden = spec.hidden;
        let norm = |name: &str| Demand::vector(format!("{name}.weight"), place, Part::Norm, hidden);
        Self {
            fuse_taps: Demand::matrix(
                "fc".to_owned(),
                place,
                Part::FuseTaps,
                hidden,
                spec.taps.len() * hidden,
            ),
            hidden_norm: norm("hidden_norm"),
            norm: norm("norm"),
            layers: (0..spec.layers).map(|index| draft_layer(index, spec)).collect(),
        }
    }

    /// Every tensor, in order of use.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Demand> {
        [&self.fuse_taps, &self.hidden_norm]
            .into_iter()
            .chain(self.layers.iter().flat_map(DraftLayerTable::iter))
            .chain(std::iter::once(&self.norm))
    }
}

fn draft_layer(index: usize, spec: &DrafterSpec) -> DraftLayerTable {
    let place = Place::DraftLayer(index);
    let prefix = format!("layers.{index}.");
    let (hidden, dim) = (spec.hidden, spec.head_dim);
    let vector =
        |name: &str, part, len| Demand::vector(format!("{prefix}{name}"), place, part, len);
    let matrix = |name: &str, part, rows, cols| {
        Demand::matrix(format!("{prefix}self_attn.{name}"), place, part, rows, cols)
    };
    DraftLayerTable {
        input_norm: vector("input_layernorm.weight", Part::Norm, hidden),
        qkv: [
            matrix("q_proj", Part::Query, spec.heads * dim, hidden),
            matrix("k_proj", Part::Key, spec.kv_heads * dim, hidden),
            matrix("v_proj", Part::Value, spec.kv_heads * dim, hidden),
        ],
        output: matrix("o_proj", Part::Output, hidden, spec.heads * dim),
        query_norm: vector("self_attn.q_norm.weight", Part::Norm, dim),
        key_norm: vector("self_attn.k_norm.weight", Part::Norm, dim),
        sinks: spec.sinks.then(|| vector("self_attn.attention_sink_bias", Part::Sinks, spec.heads)),
        post_norm: vector("post_attention_layernorm.weight", Part::Norm, hidden),
        mlp: swiglu(&format!("{prefix}mlp."), place, hidden, spec.inter),
    }
}

impl DraftLayerTable {
    fn iter(&self) -> impl Iterator<Item = &Demand> {
        std::iter::once(&self.input_norm)
            .chain(&self.qkv)
            .chain([&self.query_norm, &self.key_norm])
            .chain(&self.sinks)
            .chain([&self.output, &self.post_norm])
            .chain(&self.mlp)
    }
}
