//! Making mapped weights resident, with progress.

use std::ops::Range;
use std::sync::Arc;

use memmap2::Mmap;
use rayon::prelude::*;

use super::reader;

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
/// Bytes one worker touches at a time.
const PIECE: usize = 4 << 20;
/// Smallest page of any supported platform.
const PAGE: usize = 4096;

/// One mapped file and the ranges of it that the model uses.
pub(super) struct Wanted {
    /// File name.
    pub(super) file: String,
    /// The map; `None` where the bytes are already in memory.
    pub(super) map: Arc<Mmap>,
    /// Byte ranges within the map, checked against its length.
    pub(super) ranges: Vec<Range<usize>>,
}

/// Touches every page of the wanted ranges, in file order, so that the first tokens do not wait
/// for the disk.
pub(super) fn make_resident(wanted: Vec<Wanted>, report: &mut dyn FnMut(Progress)) {
    let total: u64 =
        wanted.iter().flat_map(|file| &file.ranges).map(|range| range.len() as u64).sum();
    let mut done = 0;
    let mut tell = |done: u64, file: &str| {
        report(Progress { bytes_done: done, bytes_total: total, file: file.to_owned() });
    };
    for mut file in wanted {
        tell(done, &file.file);
        file.ranges.sort_unstable_by_key(|range| (range.start, range.end));
        let mut pending: Vec<Range<usize>> = Vec::new();
        let mut pending_bytes = 0;
        for range in file.ranges {
            let mut start = range.start;
            while start < range.end {
                let end = range.end.min(start + PIECE);
                pending_bytes += end - start;
                pending.push(start..end);
                start = end;
                if pending_bytes >= STEP {
                    touch(&file.map, &pending);
                    done += pending_bytes as u64;
                    tell(done, &file.file);
                    pending.clear();
                    pending_bytes = 0;
                }
            }
        }
        touch(&file.map, &pending);
        done += pending_bytes as u64;
        tell(done, &file.file);
    }
}

fn touch(map: &Mmap, pieces: &[Range<usize>]) {
    if let (Some(first), Some(last)) = (pieces.first(), pieces.last()) {
        reader::read_ahead(map, first.start..last.end);
    }
    pieces.par_iter().for_each(|piece| {
        for byte in map[piece.clone()].iter().step_by(PAGE) {
            std::hint::black_box(*byte);
        }
        std::hint::black_box(map[piece.end - 1]);
    });
}
