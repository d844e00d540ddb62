//! Files of an uncompressed zip archive, as torch writes it.

use std::collections::BTreeMap;

const END: &[u8] = b"PK\x05\x06";
const END_LEN: usize = 22;
const CENTRAL: &[u8] = b"PK\x01\x02";
const CENTRAL_LEN: usize = 46;
const LOCAL: &[u8] = b"PK\x03\x04";
const LOCAL_LEN: usize = 30;

fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    let pair = bytes.get(at..at.checked_add(2)?)?;
    Some(usize::from(u16::from_le_bytes([pair[0], pair[1]])))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    let b = bytes.get(at..at.checked_add(4)?)?;
    usize::try_from(u32::from_le_bytes([b[0], b[1], b[2], b[3]])).ok()
}

/// Name -> contents of every file, all of which must be stored as they are. Sizes of 4 GiB and
/// more (zip64) are not read: they do not occur in archives of one vector.
pub(super) fn stored_files(bytes: &[u8]) -> Result<BTreeMap<&str, &[u8]>, String> {
    let cut = || "zip archive is cut".to_owned();
    let last = bytes.len().checked_sub(END_LEN).ok_or_else(|| "not a zip archive".to_owned())?;
    // The end record is last, after it only a comment of at most 64 KiB.
    let end = (last.saturating_sub(0xffff)..=last)
        .rev()
        .find(|&at| bytes[at..].starts_with(END))
        .ok_or_else(|| "not a zip archive".to_owned())?;
    let count = u16_at(bytes, end + 10).ok_or_else(cut)?;
    let mut at = u32_at(bytes, end + 16).ok_or_else(cut)?;
    let mut files = BTreeMap::new();
    for _ in 0..count {
        let record = at.checked_add(CENTRAL_LEN).and_then(|to| bytes.get(at..to));
        let record = record.filter(|record| record.starts_with(CENTRAL)).ok_or_else(cut)?;
        let field = |offset: usize| u16_at(record, offset).ok_or_else(cut);
        let (method, name_len) = (field(10)?, field(28)?);
        let size = u32_at(record, 24).ok_or_else(cut)?;
        let packed = u32_at(record, 20).ok_or_else(cut)?;
        let local = u32_at(record, 42).ok_or_else(cut)?;
        let name = bytes.get(at + CENTRAL_LEN..at + CENTRAL_LEN + name_len).ok_or_else(cut)?;
        let name = std::str::from_utf8(name).map_err(|_| "file name is not UTF-8".to_owned())?;
        if method != 0 || packed != size {
            return Err(format!("{name} is compressed, expected stored files only"));
        }
        let data = contents(bytes, local, size).ok_or_else(|| format!("{name} is cut"))?;
        if files.insert(name, data).is_some() {
            return Err(format!("{name} is there twice"));
        }
        at += CENTRAL_LEN + name_len + field(30)? + field(32)?;
    }
    Ok(files)
}

fn contents(bytes: &[u8], local: usize, size: usize) -> Option<&[u8]> {
    let header = bytes.get(local..local.checked_add(LOCAL_LEN)?)?;
    if !header.starts_with(LOCAL) {
        return None;
    }
    let start = local
        .checked_add(LOCAL_LEN)?
        .checked_add(u16_at(header, 26)?)?
        .checked_add(u16_at(header, 28)?)?;
    bytes.get(start..start.checked_add(size)?)
}
