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

/// Every preset, by the values of mimo_spec section 1 and mxfp4_kernels sections 1, 2 and 7. The
/// drafters of gpt-oss are described by dflash_spec 3.3; their epsilon and base are assumed.
pub const ALL: [Preset; 6] = [
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
    Preset {
        name: "gpt-oss-20b",
        config: include_str!("gpt_oss_20b.json"),
        drafter: Some(include_str!("gpt_oss_20b_dflash.json")),
    },
    Preset {
        name: "gpt-oss-120b",
        config: include_str!("gpt_oss_120b.json"),
        drafter: Some(include_str!("gpt_oss_120b_dflash.json")),
    },
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
