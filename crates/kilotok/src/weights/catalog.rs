//! All tensors of a checkpoint by name, whether mapped, in memory or only described.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use super::tensor::{Dtype, TensorData, num_bytes};
use super::{header, index, layout, reader};
use crate::error::{Error, Result};
use crate::matrix::Bytes;

/// Whether the files' data is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Headers only: data may be missing.
    Headers,
    /// Data is mapped; a file shorter than its header says is an error.
    Mapped,
}

/// One file of a catalog.
#[derive(Debug)]
struct Source {
    label: String,
    map: Option<Arc<Mmap>>,
}

#[derive(Clone, Debug)]
enum Data {
    Memory(Bytes),
    File(Range<usize>),
}

/// How a tensor lies in its stored bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Row after row, nothing in between.
    Dense,
    /// Row `r` is stored row `first + step * r`; the rows of a vector are its elements.
    EveryRow { first: usize, step: usize },
    /// Element `[r, c]` is element `first + step * r` of stored row `c`, which has `width`.
    Transposed { first: usize, step: usize, width: usize },
}

/// One tensor of a catalog.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) layout: Layout,
    /// Name of the stored tensor, where this is a part of it or another name for it.
    pub(crate) stored: Option<Arc<str>>,
    source: usize,
    data: Data,
}

impl Entry {
    /// Stored bytes of its elements.
    pub(crate) fn num_bytes(&self) -> usize {
        match (self.layout, &self.data) {
            (Layout::Dense, Data::Memory(bytes)) => bytes.len(),
            (Layout::Dense, Data::File(range)) => range.len(),
            _ => num_bytes(&self.dtype, &self.shape).unwrap_or(usize::MAX),
        }
    }

    /// Stored elements.
    pub(crate) fn num_elements(&self) -> usize {
        self.shape.iter().fold(1_usize, |product, &dim| product.saturating_mul(dim))
    }

    /// Where a mapped tensor lies: source number and bytes within its file.
    pub(super) fn mapped(&self) -> Option<(usize, Range<usize>)> {
        match &self.data {
            Data::Memory(_) => None,
            Data::File(range) => Some((self.source, range.clone())),
        }
    }

    /// Rows `range` of the outermost dimension as a tensor of shape `shape`.
    pub(super) fn part(&self, range: Range<usize>, shape: Vec<usize>) -> Option<Self> {
        let outer = *self.shape.first()?;
        let row = self.num_bytes().checked_div(outer)?;
        let (start, end) = (range.start.checked_mul(row)?, range.end.checked_mul(row)?);
        let data = match &self.data {
            Data::Memory(bytes) => Data::Memory(bytes.slice(start..end)?),
            Data::File(file) => Data::File(file.start + start..file.start.checked_add(end)?),
        };
        (end <= self.num_bytes()).then(|| Self { shape, data, ..self.clone() })
    }

    /// The same bytes read as a tensor of shape `shape` that lies in them as `layout` says.
    pub(super) fn view(&self, shape: Vec<usize>, layout: Layout) -> Self {
        Self { shape, layout, ..self.clone() }
    }
}

/// Tensors by name.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    sources: Vec<Source>,
    entries: BTreeMap<String, Entry>,
    /// Index file and the ranks that it says fused projections were stored for.
    pub(super) stored_for: Option<(String, u64)>,
}

impl Catalog {
    /// Opens the weight files of `dir`; `prefix` goes before file names in messages.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::ModelFormat`] naming the file, and the tensor where one is to
    /// blame.
    pub(crate) fn open(dir: &Path, prefix: &str, access: Access) -> Result<Self> {
        let shards = index::find(dir)?;
        let mut out = Self::default();
        for path in &shards.files {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            out.add_file(path, format!("{prefix}{name}"), access)?;
        }
        if let Some(index) = shards.index {
            out.stored_for = index.tp_size.map(|ranks| (format!("{prefix}{}", index.name), ranks));
            for (tensor, file) in &index.weight_map {
                let label = format!("{prefix}{file}");
                let there = out.entries.get(tensor);
                if there.is_none_or(|entry| out.sources[entry.source].label != label) {
                    return Err(Error::model_format(
                        format!("{prefix}{}: {tensor}", index.name),
                        format!("{file} does not hold this tensor"),
                    ));
                }
            }
        }
        Ok(out)
    }

    /// Adds one safetensors file.
    pub(crate) fn add_file(&mut self, path: &Path, label: String, access: Access) -> Result<()> {
        let header = header::read(path, &label)?;
        let map = match access {
            Access::Headers => None,
            Access::Mapped => Some(reader::map(path)?),
        };
        if let (Some(map), Some(last)) = (&map, header.last()) {
            if map.len() < last.range.end {
                return Err(Error::model_format(
                    format!("{label}: {}", last.name),
                    format!("data ends at byte {} of {}: file is cut", last.range.end, map.len()),
                ));
            }
        }
        let source = self.sources.len();
        self.sources.push(Source { label, map });
        for tensor in header {
            let entry = Entry {
                dtype: tensor.dtype,
                shape: tensor.shape,
                layout: Layout::Dense,
                stored: None,
                source,
                data: Data::File(tensor.range),
            };
            self.add(tensor.name, entry)?;
        }
        Ok(())
    }

    /// Collects tensors handed over in memory; `label` stands for the file in messages.
    ///
    /// # Errors
    /// [`Error::ModelFormat`] naming a tensor that comes twice or whose bytes do not fit its
    /// shape.
    pub(crate) fn from_memory(
        label: &str,
        tensors: impl IntoIterator<Item = (String, TensorData)>,
    ) -> Result<Self> {
        let mut out = Self::default();
        out.sources.push(Source { label: label.to_owned(), map: None });
        for (name, tensor) in tensors {
            let TensorData { dtype, shape, bytes } = tensor;
            if dtype.size().is_some() && num_bytes(&dtype, &shape) != Some(bytes.len()) {
                return Err(Error::model_format(
                    format!("{label}: {name}"),
                    format!("{} bytes for {dtype} {shape:?}", bytes.len()),
                ));
            }
            let (layout, data) = (Layout::Dense, Data::Memory(bytes));
            out.add(name, Entry { dtype, shape, layout, stored: None, source: 0, data })?;
        }
        Ok(out)
    }

    fn add(&mut self, name: String, entry: Entry) -> Result<()> {
        let label = &self.sources[entry.source].label;
        if let Some(before) = self.entries.get(&name) {
            return Err(Error::model_format(
                format!("{label}: {name}"),
                format!("also in {}", self.sources[before.source].label),
            ));
        }
        self.entries.insert(name, entry);
        Ok(())
    }

    /// The tensor of that name.
    pub(crate) fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// All tensors, in name order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &Entry)> {
        self.entries.iter()
    }

    /// Renames or replaces tensors: `rewrite` returns what stands for a tensor, or `None` to keep
    /// it.
    pub(super) fn rewrite(
        &mut self,
        rewrite: impl Fn(&str, &Entry) -> Option<Vec<(String, Entry)>>,
    ) -> Result<()> {
        for (name, entry) in std::mem::take(&mut self.entries) {
            match rewrite(&name, &entry) {
                None => self.add(name, entry)?,
                Some(parts) => {
                    let stored: Arc<str> = entry.stored.unwrap_or_else(|| name.as_str().into());
                    for (name, entry) in parts {
                        let stored = Some(Arc::clone(&stored));
                        self.add(name, Entry { stored, ..entry })?;
                    }
                }
            }
        }
        Ok(())
    }

    /// `file: tensor` for messages about an entry.
    pub(crate) fn place(&self, name: &str, entry: &Entry) -> String {
        let label = &self.sources[entry.source].label;
        match &entry.stored {
            Some(stored) => format!("{label}: {stored} (as {name})"),
            None => format!("{label}: {name}"),
        }
    }

    /// Where a missing tensor was looked for.
    pub(crate) fn searched(&self) -> String {
        match self.sources.as_slice() {
            [] => "checkpoint".to_owned(),
            [only] => only.label.clone(),
            [first, ..] => format!("{} and {} more files", first.label, self.sources.len() - 1),
        }
    }

    /// The stored bytes that a tensor lies in.
    ///
    /// # Errors
    /// [`Error::ModelFormat`] where only headers were read.
    pub(crate) fn bytes(&self, name: &str, entry: &Entry) -> Result<Bytes> {
        match &entry.data {
            Data::Memory(bytes) => Ok(bytes.clone()),
            Data::File(range) => self.sources[entry.source]
                .map
                .as_ref()
                .and_then(|map| Bytes::new(map.clone()).slice(range.clone()))
                .ok_or_else(|| {
                    Error::model_format(self.place(name, entry), "tensor data is not there")
                }),
        }
    }

    /// The bytes of a tensor, row after row: a copy where it is not stored so.
    ///
    /// # Errors
    /// As [`Catalog::bytes`], or where the bytes are fewer than the shape needs.
    pub(crate) fn dense(&self, name: &str, entry: &Entry) -> Result<Bytes> {
        let stored = self.bytes(name, entry)?;
        if entry.layout == Layout::Dense {
            return Ok(stored);
        }
        layout::gather(stored.as_slice(), entry).map(Bytes::from_vec).ok_or_else(|| {
            Error::model_format(
                self.place(name, entry),
                format!("{} bytes are too few for {:?}", stored.len(), entry.shape),
            )
        })
    }

    /// Label and map of a source.
    pub(super) fn source_map(&self, source: usize) -> Option<(String, Arc<Mmap>)> {
        let source = self.sources.get(source)?;
        Some((source.label.clone(), source.map.clone()?))
    }

    /// Names that are neither in `used` nor start with one of `known` prefixes.
    ///
    /// # Errors
    /// [`Error::ModelFormat`] naming the first such tensor: what it would do is unknown.
    pub(crate) fn reject_leftovers(&self, used: &BTreeSet<String>, known: &[&str]) -> Result<()> {
        for (name, entry) in &self.entries {
            if !used.contains(name) && !known.iter().any(|prefix| name.starts_with(prefix)) {
                return Err(Error::model_format(
                    self.place(name, entry),
                    format!(
                        "unexpected tensor {} {:?}: the configuration does not account for it",
                        entry.dtype, entry.shape
                    ),
                ));
            }
        }
        Ok(())
    }
}
