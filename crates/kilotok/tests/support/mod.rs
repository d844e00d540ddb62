//! Checkpoint directories for tests, written byte by byte so that they can also be wrong.

#![allow(dead_code, reason = "every test binary uses its own part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

pub(crate) mod edit;
pub(crate) mod tiny;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory that disappears with the test.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique = NEXT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("kilotok-{name}-{}-{unique}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A tensor of a checkpoint: name, dtype, shape.
pub(crate) type Described = (String, &'static str, Vec<usize>);

fn size(dtype: &str) -> usize {
    match dtype {
        "F32" | "I32" => 4,
        "BF16" | "F16" => 2,
        "F8_E4M3" | "U8" => 1,
        other => panic!("{other}"),
    }
}

/// Bytes of a described tensor.
pub(crate) fn num_bytes((_, dtype, shape): &Described) -> usize {
    shape.iter().product::<usize>() * size(dtype)
}

/// The length prefix and header of a safetensors file, without any data.
pub(crate) fn header(tensors: &[Described]) -> Vec<u8> {
    let mut text = String::from("{\"__metadata__\":{\"format\":\"pt\"}");
    let mut at = 0;
    for tensor in tensors {
        let end = at + num_bytes(tensor);
        let (name, dtype, shape) = tensor;
        write!(
            text,
            ",\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},\"data_offsets\":[{at},{end}]}}"
        )
        .unwrap();
        at = end;
    }
    text.push('}');
    let mut file = (text.len() as u64).to_le_bytes().to_vec();
    file.extend(text.into_bytes());
    file
}
