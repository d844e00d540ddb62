//! Replacing weights of a loaded model, by checkpoint name.

mod restore;

use super::build::row_of;
use super::catalog::Catalog;
use super::names;
use super::resolve::{Found, Resolver};
use super::table::{Demand, LayerTable, MlpTable, ModelTable, Shape, SwiGlu};
use super::tensor::TensorData;
use crate::config::Announced;
use crate::error::{Error, Result};
use crate::matrix::Matrix;
use crate::model::{ExpertWeights, LayerWeights, MlpWeights, Model, QkvWeights, Vector};
use restore::{restored, vector_of};

/// `model` with some of its target's weights replaced; what is not replaced is shared with it.
///
/// Names and layouts are those of a checkpoint of the model's family, tensors that hold all
/// experts of a layer included. A matrix keeps the format it has:
///
/// | it has | given | it gets |
/// |---|---|---|
/// | F32 | F32, BF16 | the same values |
/// | BF16 | BF16, F32 | the same values; nearest, ties to even |
/// | MXFP4 | U8 and `weight_scale` | the same bytes |
/// | MXFP4 | F32, BF16 | rounded: OCP scale, nearest, ties to even |
/// | FP8 | F8_E4M3 and `weight_scale_inv` | the same bytes |
/// | FP8 | F32, BF16 | rounded with the smallest power of two per block that saturates nothing |
///
/// The result owns its bytes: the tensors may be changed afterwards.
///
/// # Errors
/// [`Error::ModelFormat`] naming the tensor that is unknown, has another shape or dtype than the
/// model allows, or holds a value that is not finite.
pub fn updated(
    model: &Model,
    tensors: impl IntoIterator<Item = (String, TensorData)>,
) -> Result<Model> {
    let announced = Announced::for_update(&model.spec);
    let mut catalog = Catalog::from_memory("update", tensors)?;
    names::unify(&mut catalog, &announced)?;
    let mut update = Update { resolver: Resolver::new(&catalog, announced.quantization) };
    let table = ModelTable::new(&model.spec);
    let mut out = model.clone();
    update.matrix(&table.embed, &mut out.embed)?;
    update.vector(&table.norm, &mut out.norm)?;
    match &table.head {
        Some(head) => update.matrix(head, &mut out.lm_head)?,
        None => out.lm_head = out.embed.clone(),
    }
    for (table, layer) in table.layers.iter().zip(&mut out.layers) {
        update.layer(table, layer)?;
    }
    catalog.reject_leftovers(&update.resolver.used, names::SKIPPED)?;
    follow_embedding(model, &mut out);
    Ok(out)
}

/// A mask embedding that is the target's row of the mask token stays that.
fn follow_embedding(model: &Model, out: &mut Model) {
    let (Some(spec), Some(drafter)) = (&model.spec.drafter, &mut out.drafter) else { return };
    let row = spec.mask_token_id as usize;
    if row < model.embed.rows && row_of(&model.embed, row) == drafter.mask_embedding {
        drafter.mask_embedding = row_of(&out.embed, row);
    }
}

/// Looks for the tensors of a table in what was given.
struct Update<'c> {
    resolver: Resolver<'c>,
}

impl Update<'_> {
    /// The tensor of a demand, where it was given.
    fn find(&mut self, demand: &Demand) -> Result<Option<Found<'_>>> {
        let given = match demand.shape {
            Shape::Vector { .. } => self.resolver.catalog.get(&demand.name).is_some(),
            Shape::Matrix { .. } => {
                self.resolver.catalog.get(&format!("{}.weight", demand.name)).is_some()
            }
        };
        if given { self.resolver.find(demand).map(Some) } else { Ok(None) }
    }

    fn matrix(&mut self, demand: &Demand, matrix: &mut Matrix) -> Result<()> {
        let catalog = self.resolver.catalog;
        if let Some(found) = self.find(demand)? {
            *matrix = restored(catalog, &found, matrix)?;
        }
        Ok(())
    }

    fn vector(&mut self, demand: &Demand, vector: &mut Vector) -> Result<()> {
        let catalog = self.resolver.catalog;
        if let Some(found) = self.find(demand)? {
            *vector = vector_of(catalog, &found)?;
        }
        Ok(())
    }

    fn optional(&mut self, demand: Option<&Demand>, vector: Option<&mut Vector>) -> Result<()> {
        match (demand, vector) {
            (Some(demand), Some(vector)) => self.vector(demand, vector),
            _ => Ok(()),
        }
    }

    fn swiglu(
        &mut self,
        [gate, up, down]: &SwiGlu,
        biases: Option<&SwiGlu>,
        weights: &mut ExpertWeights,
    ) -> Result<()> {
        self.matrix(gate, &mut weights.gate)?;
        self.matrix(up, &mut weights.up)?;
        self.matrix(down, &mut weights.down)?;
        if let (Some([gate, up, down]), Some(bias)) = (biases, &mut weights.bias) {
            self.vector(gate, &mut bias.gate)?;
            self.vector(up, &mut bias.up)?;
            self.vector(down, &mut bias.down)?;
        }
        Ok(())
    }

    fn layer(&mut self, table: &LayerTable, layer: &mut LayerWeights) -> Result<()> {
        self.vector(&table.input_norm, &mut layer.input_norm)?;
        self.vector(&table.post_norm, &mut layer.post_norm)?;
        let attention = &mut layer.attention;
        match &mut attention.qkv {
            QkvWeights::Fused(matrix) => {
                for demand in &table.qkv {
                    self.matrix(demand, matrix)?;
                }
            }
            QkvWeights::Split(matrices) => {
                for (demand, matrix) in table.qkv.iter().zip(matrices.iter_mut()) {
                    self.matrix(demand, matrix)?;
                }
            }
        }
        if let Some(bias) = &mut attention.qkv_bias {
            self.joined(&table.qkv_bias, bias)?;
        }
        self.matrix(&table.output, &mut attention.o_proj)?;
        self.optional(table.output_bias.as_ref(), attention.o_bias.as_mut())?;
        self.optional(table.sinks.as_ref(), attention.sinks.as_mut())?;
        match (&table.mlp, &mut layer.mlp) {
            (MlpTable::Dense(table), MlpWeights::Dense(weights)) => {
                self.swiglu(table, None, weights)
            }
            (
                MlpTable::Moe { router, router_bias, experts, expert_biases },
                MlpWeights::Moe { router: router_weight, router_bias: bias, experts: weights },
            ) => {
                self.matrix(router, router_weight)?;
                self.vector(router_bias, bias)?;
                for (at, (table, weights)) in experts.iter().zip(weights).enumerate() {
                    self.swiglu(table, expert_biases.get(at), weights)?;
                }
                Ok(())
            }
            _ => Err(Error::model_format("update", "specification and weights disagree")),
        }
    }

    /// Vectors that lie in one, in order.
    fn joined(&mut self, demands: &[Demand], vector: &mut Vector) -> Result<()> {
        let mut values = vector.to_vec();
        let mut start = 0;
        for demand in demands {
            let Shape::Vector { len } = demand.shape else { continue };
            let mut part: Vector = values[start..start + len].into();
            self.vector(demand, &mut part)?;
            values[start..start + len].copy_from_slice(&part);
            start += len;
        }
        *vector = values.into();
        Ok(())
    }
}
