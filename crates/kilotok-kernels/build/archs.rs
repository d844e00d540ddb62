//! Which GPU targets an image is compiled for.

/// Targets of a kernel that uses instructions of one architecture family.
const FAMILY_TARGETS: [&str; 3] = ["sm_90a", "sm_100f", "sm_120f"];
/// Targets that portable kernels get on top: machine code for the 8.x cards, PTX for cards yet to come.
const PORTABLE_TARGETS: [&str; 2] = ["sm_80", "compute_90"];
/// The line in a `.cu` file that marks it as portable.
const PORTABLE_MARK: &str = "// kilotok: portable";
/// The start of a line in a `.cu` file that names the only targets it is compiled for.
const ONLY_MARK: &str = "// kilotok: only ";

/// Targets for a kernel file, from `KILOTOK_CUDA_ARCHS` if given, else by what its text says.
///
/// # Errors
/// A sentence that names the target that could not be understood.
pub(crate) fn targets(source: &str, chosen: Option<&str>) -> Result<Vec<String>, String> {
    if let Some(list) = chosen {
        let targets: Vec<String> = list
            .split([',', ';', ' '])
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(parse)
            .collect::<Result<_, _>>()?;
        if targets.is_empty() {
            return Err("KILOTOK_CUDA_ARCHS is set but names no target; example: 90a;100f".into());
        }
        return Ok(targets);
    }
    if let Some(only) = source.lines().find_map(|line| line.trim_end().strip_prefix(ONLY_MARK)) {
        return Ok(only.split_whitespace().map(str::to_owned).collect());
    }
    let is_portable = source.lines().any(|line| line.trim_end() == PORTABLE_MARK);
    let extra = if is_portable { &PORTABLE_TARGETS[..] } else { &[] };
    Ok(FAMILY_TARGETS.iter().chain(extra).map(|t| (*t).to_owned()).collect())
}

/// `90a`, `sm_90a` and `compute_90` to the full name of the target.
fn parse(text: &str) -> Result<String, String> {
    let (prefix, number) = match text.split_once('_') {
        Some((prefix @ ("sm" | "compute"), number)) => (prefix, number),
        None => ("sm", text),
        Some(_) => return Err(unknown(text)),
    };
    let digits = number.trim_end_matches(['a', 'f']);
    let is_known = digits.len() >= 2
        && digits.bytes().all(|b| b.is_ascii_digit())
        && number.len() - digits.len() <= 1;
    if is_known { Ok(format!("{prefix}_{number}")) } else { Err(unknown(text)) }
}

fn unknown(text: &str) -> String {
    format!("KILOTOK_CUDA_ARCHS: unknown target {text:?}; expected forms: 90a, sm_90a, compute_90")
}

/// The `nvcc` flag for one target: machine code for `sm_*`, PTX for `compute_*`.
pub(crate) fn gencode(target: &str) -> String {
    let number = target.trim_start_matches("sm_").trim_start_matches("compute_");
    format!("-gencode=arch=compute_{number},code={target}")
}
