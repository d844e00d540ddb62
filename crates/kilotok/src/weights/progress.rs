//! Making weights resident, with progress, and looking at every byte that could be a NaN.

use std::ops::Range;

use memmap2::Mmap;
use rayon::prelude::*;

use super::catalog::Catalog;
use super::reader;
use crate::error::{Error, Result};
use crate::matrix::Bytes;

/// How far loading has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Weight bytes that are resident.
    pub bytes_done: u64,
    /// Weight bytes in total.
    pub bytes_total: u64,
    /// Name of the file being read.
    pub file: String,
}

/// Bytes between two reports.
const STEP: usize = 64 << 20;
/// Bytes one worker looks at at a time.
const PIECE: usize = 4 << 20;
/// Smallest page of any supported platform.
const PAGE: usize = 4096;

/// Bytes that must not occur.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// Anything may.
    None,
    /// e8m0 scales: 255 is NaN.
    E8m0,
    /// e4m3 elements: 127 and 255 are NaN.
    E4m3,
}

impl Check {
    /// Position of the first byte that must not occur; reads every page in any case.
    fn first_bad(self, bytes: &[u8]) -> Option<usize> {
        let is_bad: fn(u8) -> bool = match self {
            Self::None => {
                for byte in bytes.iter().step_by(PAGE).chain(bytes.last()) {
                    std::hint::black_box(*byte);
                }
                return None;
            }
            Self::E8m0 => |byte| byte == 0xff,
            Self::E4m3 => |byte| byte & 0x7f == 0x7f,
        };
        // Whole blocks first, which compiles to vector code; the position only where one is bad.
        let bad = bytes
            .chunks(PAGE)
            .position(|chunk| chunk.iter().fold(false, |bad, &byte| bad | is_bad(byte)))?;
        let within = bytes[bad * PAGE..].iter().position(|&byte| is_bad(byte))?;
        Some(bad * PAGE + within)
    }

    fn what(self) -> &'static str {
        match self {
            Self::E8m0 => "scale",
            _ => "element",
        }
    }
}

/// Bytes of one tensor that the model keeps.
#[derive(Debug)]
pub(super) struct Kept {
    /// `file: tensor`, for messages.
    pub(super) place: String,
    pub(super) bytes: Bytes,
    pub(super) check: Check,
    /// Source number and first byte within its file, where the bytes are mapped.
    pub(super) at: Option<(usize, usize)>,
}

struct Piece<'k> {
    kept: &'k Kept,
    range: Range<usize>,
}

/// Touches every page of `kept`, in file order, so that the first tokens do not wait for the
/// disk.
///
/// # Errors
/// [`Error::ModelFormat`] naming the tensor that holds a NaN.
pub(super) fn make_resident(
    residents: Vec<(Vec<Kept>, &Catalog)>,
    report: &mut dyn FnMut(Progress),
) -> Result<()> {
    let mut residents = residents;
    for (kept, _) in &mut residents {
        kept.retain(|kept| !kept.bytes.is_empty());
        // Stable: what is not mapped stays in order, in front.
        kept.sort_by_key(|kept| kept.at);
        // Interleaved matrices are views of the same bytes.
        kept.dedup_by(|b, a| a.at.is_some() && a.at == b.at && a.bytes.len() == b.bytes.len());
    }
    let all = residents.iter().flat_map(|(kept, _)| kept);
    let mut done = Done { bytes: 0, total: all.map(|kept| kept.bytes.len() as u64).sum() };
    for (kept, catalog) in residents {
        one_catalog(&kept, catalog, &mut done, report)?;
    }
    Ok(())
}

struct Done {
    bytes: u64,
    total: u64,
}

impl Done {
    fn report(&self, file: &str, report: &mut dyn FnMut(Progress)) {
        let file = file.to_owned();
        report(Progress { bytes_done: self.bytes, bytes_total: self.total, file });
    }
}

fn one_catalog(
    kept: &[Kept],
    catalog: &Catalog,
    done: &mut Done,
    report: &mut dyn FnMut(Progress),
) -> Result<()> {
    for group in kept.chunk_by(|a, b| a.at.map(|at| at.0) == b.at.map(|at| at.0)) {
        let file = group[0].at.and_then(|(source, _)| catalog.source_map(source));
        let (name, map) = file.map_or((String::new(), None), |(name, map)| (name, Some(map)));
        done.report(&name, report);
        let mut pending = Vec::new();
        let mut pending_bytes = 0;
        for kept in group {
            let mut start = 0;
            while start < kept.bytes.len() {
                let end = kept.bytes.len().min(start + PIECE);
                pending.push(Piece { kept, range: start..end });
                pending_bytes += end - start;
                start = end;
                if pending_bytes >= STEP {
                    look_at(&pending, map.as_deref())?;
                    done.bytes += pending_bytes as u64;
                    done.report(&name, report);
                    pending.clear();
                    pending_bytes = 0;
                }
            }
        }
        if pending_bytes > 0 {
            look_at(&pending, map.as_deref())?;
            done.bytes += pending_bytes as u64;
            done.report(&name, report);
        }
    }
    Ok(())
}

fn look_at(pieces: &[Piece<'_>], map: Option<&Mmap>) -> Result<()> {
    let start = |piece: &Piece<'_>| piece.kept.at.map(|(_, at)| at + piece.range.start);
    if let (Some(map), Some(first), Some(last)) = (map, pieces.first(), pieces.last()) {
        if let (Some(from), Some(to)) = (start(first), start(last)) {
            reader::read_ahead(map, from..to + last.range.len());
        }
    }
    let bad = pieces.par_iter().find_map_first(|Piece { kept, range }| {
        let bytes = &kept.bytes.as_slice()[range.clone()];
        let at = range.start + kept.check.first_bad(bytes)?;
        Some(Error::model_format(
            kept.place.clone(),
            format!(
                "{} byte {at} is {}, which is NaN",
                kept.check.what(),
                kept.bytes.as_slice()[at]
            ),
        ))
    });
    bad.map_or(Ok(()), Err)
}
