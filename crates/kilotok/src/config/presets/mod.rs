//! Published configurations, to plan for a model without having its files.

use super::Texts;
use crate::error::Result;
use crate::spec::ModelSpec;

/// One published checkpoint: its configuration texts and how its tensors are stored.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// Short name, e.g. `mimo-v2.5-pro`.
    pub name: &'static str,
    /// `config.json`, in the hub's spelling.
    pub config: &'static str,
    /// `dflash/config.json` of the drafter published with it.
    pub drafter: Option<&'static str>,
}

/// Every preset, by the values of mimo_spec section 1.
pub const ALL: [Preset; 4] = [
    Preset { name: "mimo-v2.5-pro", config: include_str!("mimo_v2_5_pro.json"), drafter: None },
    Preset {
        name: "mimo-v2.5-pro-fp4-dflash",
        config: include_str!("mimo_v2_5_pro_fp4.json"),
        drafter: Some(include_str!("mimo_v2_5_pro_dflash.json")),
    },
    Preset {
        name: "mimo-v2.5",
        config: include_str!("mimo_v2_5.json"),
        drafter: Some(include_str!("mimo_v2_5_dflash.json")),
    },
    Preset { name: "mimo-v2-flash", config: include_str!("mimo_v2_flash.json"), drafter: None },
];

/// The preset of that name.
pub fn find(name: &str) -> Option<Preset> {
    ALL.into_iter().find(|preset| preset.name == name)
}

impl Preset {
    /// The preset's specification, through the same reader as a checkpoint's.
    ///
    /// # Errors
    /// As [`super::read`]; a preset that fails is a bug, and a test reads them all.
    pub fn spec(&self) -> Result<ModelSpec> {
        Ok(super::parse(&self.texts())?.spec)
    }

    pub(crate) fn texts(&self) -> Texts {
        Texts {
            model: self.config.to_owned(),
            generation: None,
            drafter: self.drafter.map(str::to_owned),
        }
    }
}
