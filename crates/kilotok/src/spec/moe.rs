//! Feed-forwards: dense, or routed to experts.

/// Feed-forward of one layer.
#[derive(Clone, Debug, PartialEq)]
pub enum MlpSpec {
    /// SwiGLU with [`Activation::Silu`].
    Dense {
        /// Intermediate width.
        inter: usize,
    },
    /// Routed experts.
    Moe(MoeSpec),
}

/// Routing and shape of a mixture of experts.
#[derive(Clone, Debug, PartialEq)]
pub struct MoeSpec {
    /// Number of routed experts.
    pub experts: usize,
    /// Experts per token.
    pub top_k: usize,
    /// Intermediate width of each.
    pub inter: usize,
    /// How experts are selected and weighed.
    pub router: RouterKind,
    /// What joins gate and up.
    pub activation: Activation,
    /// Whether gate, up and down of every expert have a bias.
    pub bias: bool,
}

/// How the router's logits become experts and weights; ties go to the lower expert.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RouterKind {
    /// Scores are sigmoids of the logits; score + bias selects, the score alone weighs.
    Sigmoid {
        /// Whether the selected weights are divided by their sum (+ 1e-20).
        normalize: bool,
        /// Factor on the weights.
        scale: f32,
    },
    /// Logits + bias select; their softmax over the selected experts weighs.
    Softmax,
}

/// What joins the two up-projections of a feed-forward.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// `silu(gate) * up`
    Silu,
    /// `g * sigmoid(alpha * g) * (u + 1)` with `g = min(gate, limit)` and
    /// `u = clamp(up, -limit, limit)`.
    ClampedSwiGlu {
        /// Gain of the sigmoid.
        alpha: f32,
        /// Bound of the gate from above and of the up-projection on both sides.
        limit: f32,
    },
}
