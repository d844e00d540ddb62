//! A pickle reader for one tensor: it builds values, looks no name up and calls nothing.
//!
//! Understood are the opcodes with which torch writes a tensor or a dictionary with one tensor
//! and numbers; any other opcode, and any global but the five below, is an error that names it.

use std::collections::HashMap;
use std::rc::Rc;

use crate::weights::tensor::Dtype;

/// Programs of real sidecars take some 200 bytes.
const MAX_PROGRAM: usize = 64 << 10;
/// Nesting of real sidecars is 3.
const MAX_DEPTH: usize = 8;
/// A dictionary of a real sidecar has 2 entries.
const MAX_ITEMS: usize = 16;

/// What a sidecar holds.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) tensor: Tensor,
    pub(super) mask_token_id: Option<i64>,
}

/// A tensor as a view of a storage file.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    pub(super) dtype: Dtype,
    /// Name of the file below `data/`.
    pub(super) key: String,
    /// First element within the storage.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Global {
    RebuildTensor,
    RebuildParameter,
    OrderedDict,
    Storage(Float),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Float {
    F32,
    Bf16,
}

impl Global {
    fn named(module: &str, name: &str) -> Result<Self, String> {
        match (module, name) {
            ("torch._utils", "_rebuild_tensor_v2") => Ok(Self::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Ok(Self::RebuildParameter),
            ("collections", "OrderedDict") => Ok(Self::OrderedDict),
            ("torch", "FloatStorage") => Ok(Self::Storage(Float::F32)),
            ("torch", "BFloat16Storage") => Ok(Self::Storage(Float::Bf16)),
            _ => Err(format!("global {module}.{name} is not allowed")),
        }
    }
}

#[derive(Clone, Debug)]
enum Value {
    Mark,
    Bool,
    Int(i64),
    Text(Rc<str>),
    Global(Global),
    Tuple(Rc<[Value]>, usize),
    EmptyOrderedDict,
    Storage(Rc<(Float, String)>),
    Tensor(Rc<Tensor>),
    Dict(Rc<[(Rc<str>, Value)]>, usize),
}

impl Value {
    fn depth(&self) -> usize {
        match self {
            Self::Tuple(_, depth) | Self::Dict(_, depth) => *depth,
            _ => 0,
        }
    }
}

/// One more than the deepest of `items`, bounded so that no value nests deep enough to matter.
fn depth_over<'a>(items: impl Iterator<Item = &'a Value>) -> Result<usize, String> {
    let depth = 1 + items.map(Value::depth).max().unwrap_or(0);
    if depth > MAX_DEPTH { Err("values nest too deep".to_owned()) } else { Ok(depth) }
}

struct Machine<'p> {
    program: &'p [u8],
    at: usize,
    stack: Vec<Value>,
    memo: HashMap<u32, Value>,
}

/// Reads a pickle that holds one tensor.
pub(super) fn read(program: &[u8]) -> Result<Contents, String> {
    if program.len() > MAX_PROGRAM {
        return Err(format!("{} bytes are too many for one tensor", program.len()));
    }
    let mut machine = Machine { program, at: 0, stack: Vec::new(), memo: HashMap::new() };
    match machine.run()? {
        Value::Tensor(tensor) => {
            Ok(Contents { tensor: tensor.as_ref().clone(), mask_token_id: None })
        }
        Value::Dict(items, _) => from_dict(&items),
        _ => Err("expected a tensor or a dictionary with one".to_owned()),
    }
}

fn from_dict(items: &[(Rc<str>, Value)]) -> Result<Contents, String> {
    let (mut tensor, mut mask_token_id) = (None, None);
    for (key, value) in items {
        match (key.as_ref(), value) {
            ("embedding", Value::Tensor(found)) => tensor = Some(found.as_ref().clone()),
            ("mask_token_id", Value::Int(id)) => mask_token_id = Some(*id),
            (key, _) => return Err(format!("unexpected entry {key:?} of this type")),
        }
    }
    let tensor = tensor.ok_or_else(|| "no entry \"embedding\"".to_owned())?;
    Ok(Contents { tensor, mask_token_id })
}

impl<'p> Machine<'p> {
    fn run(&mut self) -> Result<Value, String> {
        loop {
            let opcode = self.take(1)?[0];
            match opcode {
                // PROTO: the opcodes below are those of protocol 2.
                0x80 => {
                    let version = self.take(1)?[0];
                    if version != 2 {
                        return Err(format!("protocol {version}, expected 2"));
                    }
                }
                b'(' => self.stack.push(Value::Mark),
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.stack.push(Value::Global(Global::named(module, name)?));
                }
                b'q' => {
                    let slot = u32::from(self.take(1)?[0]);
                    self.remember(slot)?;
                }
                b'r' => {
                    let slot = self.number()?;
                    self.remember(slot)?;
                }
                b'h' => {
                    let slot = u32::from(self.take(1)?[0]);
                    self.recall(slot)?;
                }
                b'j' => {
                    let slot = self.number()?;
                    self.recall(slot)?;
                }
                b'X' => {
                    let len = self.number()? as usize;
                    let text = std::str::from_utf8(self.take(len)?)
                        .map_err(|_| "text is not UTF-8".to_owned())?;
                    self.stack.push(Value::Text(text.into()));
                }
                b'K' => {
                    let value = i64::from(self.take(1)?[0]);
                    self.stack.push(Value::Int(value));
                }
                b'M' => {
                    let pair = self.take(2)?;
                    let value = i64::from(u16::from_le_bytes([pair[0], pair[1]]));
                    self.stack.push(Value::Int(value));
                }
                b'J' => {
                    let value = i64::from(self.number()? as i32);
                    self.stack.push(Value::Int(value));
                }
                0x88 | 0x89 => self.stack.push(Value::Bool),
                b')' => self.tuple(0)?,
                0x85 => self.tuple(1)?,
                0x86 => self.tuple(2)?,
                0x87 => self.tuple(3)?,
                b't' => {
                    let count = self.above_mark()?;
                    self.tuple(count)?;
                    self.drop_mark()?;
                }
                b'}' => self.stack.push(Value::Dict(Rc::new([]), 1)),
                b's' => self.set_items(1)?,
                b'u' => {
                    let count = self.above_mark()?;
                    if count % 2 != 0 {
                        return Err("dictionary items are not pairs".to_owned());
                    }
                    // The mark lies between the dictionary and its items.
                    let at = self.stack.len() - count - 1;
                    self.stack.remove(at);
                    self.set_items(count / 2)?;
                }
                b'Q' => self.persistent()?,
                b'R' => self.reduce()?,
                b'.' => return self.pop(),
                other => return Err(format!("opcode 0x{other:02x} is not allowed")),
            }
        }
    }

    fn take(&mut self, len: usize) -> Result<&'p [u8], String> {
        let end = self.at.checked_add(len).filter(|&end| end <= self.program.len());
        let end = end.ok_or_else(|| "program is cut".to_owned())?;
        let bytes = &self.program[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    fn number(&mut self) -> Result<u32, String> {
        let b = self.take(4)?;
        Ok(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    fn line(&mut self) -> Result<&'p str, String> {
        let rest = &self.program[self.at..];
        let len = rest.iter().position(|&byte| byte == b'\n');
        let len = len.ok_or_else(|| "program is cut".to_owned())?;
        self.at += len + 1;
        std::str::from_utf8(&rest[..len]).map_err(|_| "name is not UTF-8".to_owned())
    }

    fn pop(&mut self) -> Result<Value, String> {
        self.stack.pop().ok_or_else(|| "stack is empty".to_owned())
    }

    fn remember(&mut self, slot: u32) -> Result<(), String> {
        let top = self.stack.last().ok_or_else(|| "stack is empty".to_owned())?;
        self.memo.insert(slot, top.clone());
        Ok(())
    }

    fn recall(&mut self, slot: u32) -> Result<(), String> {
        let value = self.memo.get(&slot).ok_or_else(|| format!("nothing in memo slot {slot}"))?;
        self.stack.push(value.clone());
        Ok(())
    }

    fn above_mark(&self) -> Result<usize, String> {
        let above = self.stack.iter().rev().position(|value| matches!(value, Value::Mark));
        above.ok_or_else(|| "no mark on the stack".to_owned())
    }

    /// Removes the mark below the value on top.
    fn drop_mark(&mut self) -> Result<(), String> {
        let top = self.pop()?;
        self.pop()?;
        self.stack.push(top);
        Ok(())
    }

    fn tuple(&mut self, count: usize) -> Result<(), String> {
        let from = self.stack.len().checked_sub(count);
        let from = from.ok_or_else(|| "stack is empty".to_owned())?;
        let items: Rc<[Value]> = self.stack.drain(from..).collect();
        let depth = depth_over(items.iter())?;
        self.stack.push(Value::Tuple(items, depth));
        Ok(())
    }

    fn set_items(&mut self, pairs: usize) -> Result<(), String> {
        let from = self.stack.len().checked_sub(2 * pairs);
        let from = from.ok_or_else(|| "stack is empty".to_owned())?;
        let added: Vec<Value> = self.stack.drain(from..).collect();
        let Value::Dict(before, _) = self.pop()? else {
            return Err("items are set on something that is no dictionary".to_owned());
        };
        let mut items = before.to_vec();
        for pair in added.chunks_exact(2) {
            let Value::Text(key) = &pair[0] else {
                return Err("a dictionary key is not text".to_owned());
            };
            items.push((Rc::clone(key), pair[1].clone()));
        }
        if items.len() > MAX_ITEMS {
            return Err("a dictionary has too many entries".to_owned());
        }
        let depth = depth_over(items.iter().map(|(_, value)| value))?;
        self.stack.push(Value::Dict(items.into(), depth));
        Ok(())
    }

    /// `("storage", class, key, device, elements)` names a storage file.
    fn persistent(&mut self) -> Result<(), String> {
        let Value::Tuple(items, _) = self.pop()? else {
            return Err("a persistent id is not a tuple".to_owned());
        };
        match items.as_ref() {
            [
                Value::Text(kind),
                Value::Global(Global::Storage(float)),
                Value::Text(key),
                Value::Text(_),
                Value::Int(_),
            ] if kind.as_ref() == "storage" => {
                self.stack.push(Value::Storage(Rc::new((*float, key.to_string()))));
                Ok(())
            }
            _ => Err("a persistent id is not a storage of F32 or BF16".to_owned()),
        }
    }

    fn reduce(&mut self) -> Result<(), String> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let Value::Tuple(arguments, _) = arguments else {
            return Err("arguments are not a tuple".to_owned());
        };
        let value = match (function, arguments.as_ref()) {
            (Value::Global(Global::OrderedDict), []) => Value::EmptyOrderedDict,
            (
                Value::Global(Global::RebuildTensor),
                [
                    Value::Storage(storage),
                    Value::Int(offset),
                    Value::Tuple(shape, _),
                    Value::Tuple(stride, _),
                    Value::Bool,
                    Value::EmptyOrderedDict,
                ],
            ) => Value::Tensor(Rc::new(tensor(storage, *offset, shape, stride)?)),
            (
                Value::Global(Global::RebuildParameter),
                [Value::Tensor(tensor), Value::Bool, Value::EmptyOrderedDict],
            ) => Value::Tensor(Rc::clone(tensor)),
            _ => return Err("a call other than those that rebuild a tensor".to_owned()),
        };
        self.stack.push(value);
        Ok(())
    }
}

fn sizes(values: &[Value]) -> Option<Vec<usize>> {
    values
        .iter()
        .map(|value| match value {
            Value::Int(size) => usize::try_from(*size).ok(),
            _ => None,
        })
        .collect()
}

fn tensor(
    storage: &(Float, String),
    offset: i64,
    shape: &[Value],
    stride: &[Value],
) -> Result<Tensor, String> {
    let bad = || "sizes of a tensor are not whole numbers".to_owned();
    let shape = sizes(shape).ok_or_else(bad)?;
    let stride = sizes(stride).ok_or_else(bad)?;
    let offset = usize::try_from(offset).map_err(|_| bad())?;
    // Row-major and dense: the elements are one run of the storage.
    let mut step = 1_usize;
    let mut dense = shape.len() == stride.len();
    for (&dim, &stride) in shape.iter().zip(&stride).rev() {
        dense &= dim == 1 || stride == step;
        step = step.checked_mul(dim).ok_or_else(bad)?;
    }
    if !dense {
        return Err(format!("tensor of shape {shape:?} has strides {stride:?}, expected dense"));
    }
    let dtype = match storage.0 {
        Float::F32 => Dtype::F32,
        Float::Bf16 => Dtype::Bf16,
    };
    Ok(Tensor { dtype, key: storage.1.clone(), offset, shape })
}
