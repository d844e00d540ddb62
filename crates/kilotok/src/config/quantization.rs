//! `quantization_config`: which stored formats a checkpoint may use.

use serde_json::{Value, json};

use super::json::Fields;
use crate::error::Result;

/// How tensors may be stored, as the configuration announces it. BF16 and F32 need no announcement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Quantization {
    /// e4m3 with a factor per 128 x 128 block.
    pub(crate) fp8: bool,
    /// U8 pairs of e2m1 with an e8m0 byte per 32 columns.
    pub(crate) mxfp4: bool,
    /// How experts lie in tensors that hold all of a layer: gate and up rows alternate, and
    /// matrices other than MXFP4 are transposed. Otherwise gates come first, nothing transposed.
    pub(crate) interleaved: bool,
}

/// Keys that do not change what the bytes mean.
const IGNORED: &[(&str, &str)] = &[
    ("ignored_layers", "every tensor's own header says how it is stored"),
    ("modules_to_not_convert", "every tensor's own header says how it is stored"),
    ("activation_scheme", "checked separately: rounding activations is the engine's choice"),
];

/// Reads `quantization_config` of a model's configuration.
///
/// # Errors
/// [`crate::Error::ModelFormat`] for a method, format or block size other than those above.
pub(super) fn read(fields: &mut Fields<'_>) -> Result<Quantization> {
    let Some(mut quant) = fields.object("quantization_config")? else {
        return Ok(Quantization::default());
    };
    let method = quant.string("quant_method")?.ok_or_else(|| quant.missing("quant_method"))?;
    let store = quant.string("store_dtype")?;
    let announced = match (method, store) {
        ("fp8", None) => Quantization { fp8: true, ..Quantization::default() },
        ("fp8", Some("mxfp4")) => {
            Quantization { fp8: true, mxfp4: true, ..Quantization::default() }
        }
        ("mxfp4", None | Some("mxfp4")) => Quantization { mxfp4: true, ..Quantization::default() },
        ("fp8" | "mxfp4", Some(other)) => {
            return Err(quant.error("store_dtype", format!("expected \"mxfp4\", found {other:?}")));
        }
        (other, _) => {
            return Err(quant.error(
                "quant_method",
                format!("{other:?} is not supported, expected \"fp8\" or \"mxfp4\""),
            ));
        }
    };
    // Static activation scales would be tensors of their own; `dynamic` needs nothing stored.
    quant.only("activation_scheme", &[json!("dynamic")])?;
    quant.only("fmt", &[json!("e4m3")])?;
    quant.only("scale_fmt", &[Value::from("ue8m0")])?;
    if announced.fp8 {
        if !quant.has("weight_block_size") {
            return Err(quant.missing("weight_block_size"));
        }
        quant.only("weight_block_size", &[json!([128, 128])])?;
    }
    quant.only("mxfp4_block_size", &[json!(32)])?;
    quant.finish(IGNORED)?;
    Ok(announced)
}
