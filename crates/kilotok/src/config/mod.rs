//! Hugging Face configuration files -> [`ModelSpec`].
//!
//! Every key is either read, or known to be harmless (each such key is listed with its reason),
//! or an error: nothing that can change the arithmetic is guessed.

mod drafter;
mod generation;
mod gpt_oss;
mod json;
mod limits;
mod mimo;
pub mod presets;
mod quantization;
mod spelling;
mod yarn;

use std::path::{Path, PathBuf};

use json::Fields;
pub(crate) use json::parse_object;
pub(crate) use quantization::Quantization;

use crate::error::{Error, Result};
use crate::spec::ModelSpec;

/// Configuration of a model inside its directory.
pub(crate) const FILE: &str = "config.json";
/// Sub-directory of the drafter that belongs to a checkpoint.
const DRAFTER_DIR: &str = "dflash";

/// Which drafter to read with a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DrafterChoice {
    /// The `dflash/` sub-directory, where there is one.
    #[default]
    Auto,
    /// None, even where there is one.
    None,
    /// The drafter in this directory.
    Dir(PathBuf),
}

impl From<&str> for DrafterChoice {
    /// `auto`, `none` or a directory, as users write it.
    fn from(text: &str) -> Self {
        match text {
            "auto" => Self::Auto,
            "none" => Self::None,
            dir => Self::Dir(dir.into()),
        }
    }
}

impl DrafterChoice {
    /// The drafter's directory for a model in `dir`, or `None`.
    pub(crate) fn resolve(&self, dir: &Path) -> Option<PathBuf> {
        match self {
            Self::None => None,
            Self::Auto => {
                let drafter = dir.join(DRAFTER_DIR);
                // A folder without a configuration is an error later, not a silent "no drafter".
                drafter.is_dir().then_some(drafter)
            }
            Self::Dir(drafter) => Some(drafter.clone()),
        }
    }
}

/// Configuration texts of one model.
#[derive(Clone, Debug)]
pub(crate) struct Texts {
    /// `config.json`.
    pub(crate) model: String,
    /// `generation_config.json`.
    pub(crate) generation: Option<String>,
    /// The drafter's `config.json`.
    pub(crate) drafter: Option<String>,
}

impl Texts {
    /// Reads the texts of a checkpoint directory; the drafter's from `drafter`.
    pub(crate) fn read(dir: &Path, drafter: Option<&Path>) -> Result<Self> {
        let generation = dir.join(generation::FILE);
        Ok(Self {
            model: read_text(&dir.join(FILE))?,
            generation: generation.exists().then(|| read_text(&generation)).transpose()?,
            drafter: drafter.map(Self::drafter_of).transpose()?,
        })
    }

    /// The configuration `file`, whatever it is called, with nothing but the drafter's beside it.
    pub(crate) fn of_file(file: &Path, drafter: Option<&Path>) -> Result<Self> {
        let drafter = drafter.map(Self::drafter_of).transpose()?;
        Ok(Self { model: read_text(file)?, generation: None, drafter })
    }

    /// The configuration of the drafter in `dir`.
    pub(crate) fn drafter_of(dir: &Path) -> Result<String> {
        read_text(&dir.join(FILE))
    }
}

/// A specification and the stored formats its configuration announces.
#[derive(Clone, Debug)]
pub(crate) struct Announced {
    pub(crate) spec: ModelSpec,
    pub(crate) quantization: Quantization,
}

impl Announced {
    /// What a loaded model's tensors may be replaced by: every format.
    pub(crate) fn for_update(spec: &ModelSpec) -> Self {
        let interleaved = spec.family == gpt_oss::MODEL_TYPE;
        let quantization = Quantization { fp8: true, mxfp4: true, interleaved };
        Self { spec: spec.clone(), quantization }
    }
}

/// Reads `config.json`, `generation_config.json` and `dflash/config.json` of a checkpoint.
///
/// # Errors
/// [`Error::Io`] where `config.json` cannot be read, [`Error::ModelFormat`] naming file and key
/// where a configuration is not understood.
pub fn read(dir: &Path) -> Result<ModelSpec> {
    let drafter = DrafterChoice::Auto.resolve(dir);
    Ok(parse(&Texts::read(dir, drafter.as_deref())?)?.spec)
}

/// The specification in configuration texts: `config.json`, optionally `generation_config.json`
/// and the drafter's `config.json`.
///
/// # Errors
/// As [`read`], without the files.
pub fn read_texts(
    config: &str,
    generation: Option<&str>,
    drafter: Option<&str>,
) -> Result<ModelSpec> {
    let texts = Texts {
        model: config.to_owned(),
        generation: generation.map(str::to_owned),
        drafter: drafter.map(str::to_owned),
    };
    Ok(parse(&texts)?.spec)
}

/// Parses configuration texts.
pub(crate) fn parse(texts: &Texts) -> Result<Announced> {
    let map = parse_object(FILE, &texts.model)?;
    let mut fields = Fields::new(FILE, &map);
    let (mut spec, quantization) = match fields.string("model_type")? {
        Some(gpt_oss::MODEL_TYPE) => gpt_oss::read(fields)?,
        Some(found) if mimo::MODEL_TYPES.contains(&found) => mimo::read(fields)?,
        Some(found) => {
            let [a, b] = mimo::MODEL_TYPES;
            return Err(fields.error(
                "model_type",
                format!(
                    "{found:?} is not supported, expected one of {:?}",
                    [a, b, gpt_oss::MODEL_TYPE]
                ),
            ));
        }
        None if gpt_oss::is_original(&fields) => gpt_oss::read(fields)?,
        None => return Err(fields.missing("model_type")),
    };
    if let Some(text) = &texts.generation {
        spec.eos_token_ids.extend(generation::eos_token_ids(text)?);
    }
    spec.eos_token_ids.sort_unstable();
    spec.eos_token_ids.dedup();
    if let Some(text) = &texts.drafter {
        let file = format!("{DRAFTER_DIR}/{FILE}");
        let map = parse_object(&file, text)?;
        spec.drafter = Some(drafter::read(Fields::new(&file, &map), &spec)?);
    }
    Ok(Announced { spec, quantization })
}

fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path)
        .map_err(|error| Error::Io { path: path.to_owned(), reason: error.to_string() })
}
