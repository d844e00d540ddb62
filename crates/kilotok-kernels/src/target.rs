//! Which GPU can run which compiled target.

use crate::Image;

/// Compute capability as `(major, minor)`, for example `(9, 0)`.
type Capability = (u32, u32);

/// How an image can run on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coverage {
    /// The target's machine code runs as it is.
    Native(&'static str),
    /// The driver translates the target's PTX at load.
    Translated(&'static str),
    /// Nothing in the image fits.
    None,
}

impl Image {
    /// The best way to run this image on a device of compute capability `(major, minor)`.
    pub fn coverage(&self, capability: (u32, u32)) -> Coverage {
        let best = |is_ptx: bool| {
            let fitting =
                self.archs.iter().copied().filter_map(|name| Some((Target::parse(name)?, name)));
            fitting
                .filter(|(target, _)| target.is_ptx == is_ptx && target.runs_on(capability))
                .max_by_key(|(target, _)| target.rank())
                .map(|(_, name)| name)
        };
        match (best(false), best(true)) {
            (Some(name), _) => Coverage::Native(name),
            (None, Some(name)) => Coverage::Translated(name),
            (None, None) => Coverage::None,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// `sm_90a`: this capability only.
    Exact,
    /// `sm_100f`: this capability and later ones of the same family (same major).
    Family,
    /// `sm_80`: this capability and later ones of the same major; PTX: every later one.
    Portable,
}

#[derive(Clone, Copy)]
struct Target {
    is_ptx: bool,
    capability: Capability,
    scope: Scope,
}

impl Target {
    fn parse(name: &str) -> Option<Self> {
        let (prefix, number) = name.split_once('_')?;
        let is_ptx = match prefix {
            "sm" => false,
            "compute" => true,
            _ => return None,
        };
        let (digits, scope) = match number.strip_suffix('a') {
            Some(digits) => (digits, Scope::Exact),
            None => match number.strip_suffix('f') {
                Some(digits) => (digits, Scope::Family),
                None => (number, Scope::Portable),
            },
        };
        let value: u32 = digits.parse().ok()?;
        Some(Self { is_ptx, capability: (value / 10, value % 10), scope })
    }

    fn runs_on(self, device: Capability) -> bool {
        let is_same_major = self.capability.0 == device.0 && self.capability.1 <= device.1;
        match self.scope {
            Scope::Exact => self.capability == device,
            Scope::Portable if self.is_ptx => self.capability <= device,
            Scope::Family | Scope::Portable => is_same_major,
        }
    }

    /// Order of preference among targets that fit: the most specific, then the newest.
    fn rank(self) -> (u8, Capability) {
        let specificity = match self.scope {
            Scope::Exact => 2,
            Scope::Family => 1,
            Scope::Portable => 0,
        };
        (specificity, self.capability)
    }
}

#[cfg(test)]
mod tests {
    use super::{Coverage, Image};

    const fn image(archs: &'static [&'static str]) -> Image {
        Image { family: "test", archs, bytes: &[] }
    }

    #[test]
    fn native_code_is_chosen_by_the_compatibility_rules_of_the_driver() {
        let image = image(&["sm_80", "sm_90a", "sm_100f", "sm_120f"]);
        assert_eq!(image.coverage((8, 0)), Coverage::Native("sm_80"));
        assert_eq!(image.coverage((8, 9)), Coverage::Native("sm_80"));
        assert_eq!(image.coverage((9, 0)), Coverage::Native("sm_90a"));
        assert_eq!(image.coverage((10, 3)), Coverage::Native("sm_100f"));
        assert_eq!(image.coverage((12, 1)), Coverage::Native("sm_120f"));
        for uncovered in [(7, 5), (11, 0), (13, 0)] {
            assert_eq!(image.coverage(uncovered), Coverage::None, "{uncovered:?}");
        }
    }

    #[test]
    fn an_exact_target_does_not_run_on_its_neighbours() {
        let image = image(&["sm_100a"]);
        assert_eq!(image.coverage((10, 0)), Coverage::Native("sm_100a"));
        assert_eq!(image.coverage((10, 3)), Coverage::None);
    }

    #[test]
    fn ptx_serves_what_no_machine_code_fits() {
        let image = image(&["sm_90a", "compute_90"]);
        assert_eq!(image.coverage((9, 0)), Coverage::Native("sm_90a"));
        assert_eq!(image.coverage((11, 0)), Coverage::Translated("compute_90"));
        assert_eq!(image.coverage((8, 9)), Coverage::None);
    }

    #[test]
    fn unknown_targets_cover_nothing() {
        assert_eq!(image(&["90a", "gfx_942", "sm_", "sm_x"]).coverage((9, 0)), Coverage::None);
    }
}
