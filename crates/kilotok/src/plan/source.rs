//! From what the user names to a specification and stored formats.

use std::path::Path;

use super::PlanRequest;
use crate::config::{self, Announced, DrafterChoice, Texts, presets};
use crate::error::{Error, Result};
use crate::spec::ModelSpec;
use crate::testing::{Formats, Stored};

/// A model that is not there: its specification, and how its weights are taken to be stored.
#[derive(Debug)]
pub(super) struct Source {
    /// As shown.
    pub(super) name: String,
    pub(super) spec: ModelSpec,
    pub(super) formats: Formats,
    /// Where the formats come from.
    pub(super) note: String,
}

impl Source {
    /// Reads a file, a directory or a preset; a path that exists wins over a preset's name.
    pub(super) fn read(request: &PlanRequest) -> Result<Self> {
        let path = Path::new(&request.config);
        let texts = if path.is_dir() {
            Texts::read(path, request.drafter.resolve(path).as_deref())?
        } else if path.is_file() {
            // A file beside which a drafter lies means that drafter.
            let dir = path.parent().unwrap_or(Path::new("."));
            let drafter = request.drafter.resolve(dir);
            Texts::of_file(path, drafter.as_deref())?
        } else {
            preset_texts(request)?
        };
        let Announced { spec, quantization } = config::parse(&texts)?;
        let experts = match &request.experts {
            Some(name) => stored(name)?,
            None if quantization.mxfp4 => Stored::Mxfp4,
            None if quantization.fp8 => Stored::Fp8,
            None => Stored::Bf16,
        };
        let mut formats = Formats { experts, ..Formats::all(Stored::Bf16) };
        if !quantization.interleaved {
            formats.router = Stored::F32;
        }
        if quantization.fp8 {
            (formats.qkv, formats.dense) = (Stored::Fp8, Stored::Fp8);
        }
        let note = "formats: experts as the configuration announces them, or as told; the rest as \
                    the family's published checkpoints have it; `kilotok inspect` reads them from \
                    a checkpoint's headers";
        Ok(Self { name: request.config.clone(), spec, formats, note: note.to_owned() })
    }

    /// The formats, by kind of weight.
    pub(super) fn format_names(&self) -> Vec<(&'static str, &'static str)> {
        let f = &self.formats;
        let mut names = vec![
            ("experts", f.experts),
            ("qkv", f.qkv),
            ("o_proj", f.o_proj),
            ("dense_mlp", f.dense),
            ("router", f.router),
            ("embedding", f.embed),
        ];
        if self.spec.drafter.is_some() {
            names.push(("drafter", f.drafter));
        }
        names.into_iter().map(|(kind, stored)| (kind, name(stored))).collect()
    }
}

/// The texts of the preset that `request` names, an owner before a slash left out.
fn preset_texts(request: &PlanRequest) -> Result<Texts> {
    let wanted = request.config.rsplit('/').next().unwrap_or_default().to_lowercase();
    let Some(preset) = presets::find(&wanted) else {
        let names: Vec<&str> = presets::ALL.iter().map(|preset| preset.name).collect();
        let reason = format!("{:?} is no file, no directory and none of {names:?}", request.config);
        return Err(Error::invalid("config", reason));
    };
    let mut texts = preset.texts();
    match &request.drafter {
        DrafterChoice::Auto => {}
        DrafterChoice::None => texts.drafter = None,
        DrafterChoice::Dir(dir) => texts.drafter = Some(Texts::drafter_of(dir)?),
    }
    Ok(texts)
}

fn stored(name: &str) -> Result<Stored> {
    match name {
        "mxfp4" => Ok(Stored::Mxfp4),
        "fp8" => Ok(Stored::Fp8),
        "bf16" => Ok(Stored::Bf16),
        other => Err(Error::invalid("experts", format!("{other:?}, expected mxfp4, fp8 or bf16"))),
    }
}

fn name(stored: Stored) -> &'static str {
    match stored {
        Stored::F32 => "f32",
        Stored::Bf16 => "bf16",
        Stored::Fp8 => "fp8",
        Stored::Mxfp4 => "mxfp4",
    }
}
