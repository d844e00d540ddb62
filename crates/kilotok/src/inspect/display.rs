//! The inspection as text for a terminal.

use std::fmt;

use super::{AttentionSummary, Inspection};

/// Bytes with a decimal unit, as bandwidths are quoted.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.0 as f64;
        let text = match self.0 {
            0..1_000 => format!("{} B", self.0),
            1_000..1_000_000 => format!("{:.2} kB", value / 1e3),
            1_000_000..1_000_000_000 => format!("{:.2} MB", value / 1e6),
            _ => format!("{:.2} GB", value / 1e9),
        };
        f.pad(&text)
    }
}

/// A count in millions or billions.
struct Count(u64);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.0 as f64;
        let text = match self.0 {
            0..1_000_000 => format!("{}", self.0),
            1_000_000..1_000_000_000 => format!("{:.2} M", value / 1e6),
            _ => format!("{:.2} B", value / 1e9),
        };
        f.pad(&text)
    }
}

fn attention(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    layers: usize,
    a: &AttentionSummary,
) -> fmt::Result {
    let window = a.window.map_or_else(String::new, |keys| format!(", window {keys}"));
    let yarn = a.yarn_factor.map_or_else(String::new, |factor| format!(" YaRN x {factor}"));
    let sinks = if a.sinks { ", sinks" } else { "" };
    writeln!(
        f,
        "  {name:<19} {layers} layers: {} heads, {} kv, {}+{} dims, rotary {} at {}{yarn}{window}{sinks}, \
         values x {}, qkv {}",
        a.heads, a.kv_heads, a.qk_dim, a.v_dim, a.rotary_dims, a.rope_theta, a.value_scale, a.qkv
    )
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let m = &self.model;
        writeln!(f, "{} ({})", self.directory, m.family)?;
        writeln!(
            f,
            "  {:<19} {} parameters, {} active per token",
            "size",
            Count(m.parameters),
            Count(m.active_parameters)
        )?;
        writeln!(
            f,
            "  {:<19} {} layers, hidden {}, vocabulary {}, up to {} positions, eps {:e}",
            "shape", m.layers, m.hidden, m.vocab, m.max_positions, m.norm_eps
        )?;
        let full = m.full_attention_layers.len();
        if let Some(a) = &m.full_attention {
            attention(f, "full attention", full, a)?;
        }
        if let Some(a) = &m.sliding_attention {
            attention(f, "sliding attention", m.layers - full, a)?;
        }
        if let Some(inter) = m.dense_inter {
            writeln!(f, "  {:<19} {} layers, {inter} wide", "dense", m.dense_layers.len())?;
        }
        if let (Some(experts), Some(top_k), Some(inter)) = (m.experts, m.top_k, m.expert_inter) {
            let layers = m.layers - m.dense_layers.len();
            writeln!(
                f,
                "  {:<19} {layers} layers, {top_k} of {experts} experts, {inter} wide",
                "experts"
            )?;
        }
        if let Some(d) = &self.drafter {
            writeln!(
                f,
                "  {:<19} {} parameters, {} layers, {} heads, {} kv, {} dims, block {}, taps {:?}",
                "drafter",
                Count(d.parameters),
                d.layers,
                d.heads,
                d.kv_heads,
                d.head_dim,
                d.block_size,
                d.taps
            )?;
        }
        writeln!(f, "\n  {:<12} {:<9} {:>9} {:>12}", "component", "dtype", "tensors", "bytes")?;
        for row in &self.census {
            writeln!(
                f,
                "  {:<12} {:<9} {:>9} {:>12}",
                row.component,
                row.dtype,
                row.tensors,
                Size(row.bytes)
            )?;
        }
        writeln!(f, "  {:<22} {:>9} {:>12}", "total", self.tensors, Size(self.bytes))?;
        writeln!(f, "\n  weight bytes read")?;
        writeln!(f, "    one row           {:>12}", Size(self.reads.decode))?;
        writeln!(
            f,
            "    verify of 8 rows  {:>12}  ({:.1} distinct experts a layer if routing is uniform)",
            Size(self.reads.verify8),
            self.reads.verify8_experts
        )?;
        if let Some(draft) = self.reads.draft {
            writeln!(f, "    draft pass        {:>12}", Size(draft))?;
        }
        writeln!(f, "\n  key/value cache (BF16)")?;
        writeln!(
            f,
            "    per token         {:>12}",
            Size(self.kv.per_token + self.kv.drafter_per_token)
        )?;
        writeln!(
            f,
            "    per sequence      {:>12}  (windows)",
            Size(self.kv.sliding_per_sequence + self.kv.drafter_per_sequence)
        )?;
        writeln!(f, "\n  weights per rank")?;
        for rank in &self.memory_per_rank {
            match (rank.bytes, &rank.reason) {
                (Some(bytes), _) => writeln!(f, "    TP {:<2}  {:>12}", rank.ranks, Size(bytes))?,
                (None, reason) => {
                    let reason = reason.as_deref().unwrap_or("no plan");
                    writeln!(f, "    TP {:<2}  {reason}", rank.ranks)?;
                }
            }
        }
        Ok(())
    }
}
