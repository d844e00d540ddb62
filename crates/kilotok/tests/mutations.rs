//! Damaged checkpoints: whatever was flipped, cut or rewritten, the answer is a model whose
//! parts fit together or a typed error. Never a panic, and never an allocation that a number in
//! a file asks for.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use kilotok::inspect::inspect;
use kilotok::weights::load;
use kilotok::{Format, Matrix, MlpWeights, Model, QkvWeights, Result};
use support::TempDir;
use support::tiny::{Formats, PRO_FP4, Random, Tiny};

/// Numbers that have broken readers before.
const NUMBERS: [&str; 16] = [
    "0",
    "1",
    "-1",
    "7",
    "128",
    "255",
    "65536",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "1e308",
    "0.5",
    "null",
    "[]",
];

fn check_matrix(matrix: &Matrix) {
    let elements = matrix.rows * matrix.cols;
    let bytes = match &matrix.format {
        Format::F32 => elements * 4,
        Format::Bf16 => elements * 2,
        Format::Fp8 { scales, rows_per_chunk } => {
            let chunks = matrix.rows / rows_per_chunk;
            let rows = chunks * rows_per_chunk.div_ceil(128);
            assert_eq!(scales.len(), rows * matrix.cols.div_ceil(128));
            assert!(scales.iter().all(|scale| scale.is_finite()));
            assert!(!matrix.data.as_slice().iter().any(|byte| byte & 0x7f == 0x7f));
            elements
        }
        Format::Mxfp4 { scales } => {
            assert_eq!(scales.len(), elements / 32);
            assert!(!scales.as_slice().contains(&255));
            elements / 2
        }
    };
    assert_eq!(matrix.data.len(), bytes);
}

/// Everything that loads must fit together.
fn check(model: &Model) {
    let spec = &model.spec;
    assert_eq!(model.layers.len(), spec.layers.len());
    assert_eq!(model.norm.len(), spec.hidden);
    check_matrix(&model.embed);
    check_matrix(&model.lm_head);
    for (layer, weights) in spec.layers.iter().zip(&model.layers) {
        let width = match &weights.attention.qkv {
            QkvWeights::Fused(qkv) => {
                check_matrix(qkv);
                qkv.rows
            }
            QkvWeights::Split(parts) => {
                parts.iter().for_each(check_matrix);
                parts.iter().map(|part| part.rows).sum()
            }
        };
        assert_eq!(width, layer.attention.head_map().width);
        assert_eq!(weights.attention.sinks.is_some(), layer.attention.sinks);
        check_matrix(&weights.attention.o_proj);
        let experts = match &weights.mlp {
            MlpWeights::Dense(swiglu) => std::slice::from_ref(swiglu),
            MlpWeights::Moe { router, router_bias, experts } => {
                check_matrix(router);
                assert_eq!((router.rows, router_bias.len()), (experts.len(), experts.len()));
                experts.as_slice()
            }
        };
        for expert in experts {
            [&expert.gate, &expert.up, &expert.down].into_iter().for_each(check_matrix);
        }
    }
    if let (Some(spec), Some(drafter)) = (&spec.drafter, &model.drafter) {
        assert_eq!(drafter.layers.len(), spec.layers);
        assert_eq!(drafter.mask_embedding.len(), spec.hidden);
        check_matrix(&drafter.fc);
    }
}

/// Replaces the number (or word) at a random place of a text.
fn rewrite_number(random: &mut Random, bytes: &[u8], limit: usize) -> Vec<u8> {
    let is_number = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'e');
    let starts: Vec<usize> =
        (1..limit).filter(|&at| bytes[at].is_ascii_digit() && !is_number(bytes[at - 1])).collect();
    if starts.is_empty() {
        return bytes.to_vec();
    }
    let start = starts[random.below(starts.len())];
    let len = bytes[start..limit].iter().take_while(|&&byte| is_number(byte)).count();
    let number = NUMBERS[random.below(NUMBERS.len())];
    [&bytes[..start], number.as_bytes(), &bytes[start + len..]].concat()
}

fn flip(random: &mut Random, bytes: &mut [u8], limit: usize) {
    for _ in 0..=random.below(3) {
        let at = random.below(limit);
        bytes[at] ^= 1 << random.below(8);
    }
}

/// Damages any text.
fn damage_text(random: &mut Random, text: &[u8]) -> Vec<u8> {
    let mut out = text.to_vec();
    match random.below(5) {
        0 => flip(random, &mut out, text.len()),
        1 => out.truncate(random.below(text.len())),
        2 => {
            let start = random.below(text.len());
            out.drain(start..(start + 1 + random.below(40)).min(text.len()));
        }
        3 => {
            let (from, to) = (random.below(text.len()), random.below(text.len()));
            let piece = text[from..(from + 1 + random.below(60)).min(text.len())].to_vec();
            out.splice(to..to, piece);
        }
        _ => out = rewrite_number(random, text, text.len()),
    }
    out
}

/// Damages a safetensors file, mostly its header.
fn damage_weights(random: &mut Random, file: &[u8]) -> Vec<u8> {
    let header = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let mut out = file.to_vec();
    match random.below(7) {
        0 => flip(random, &mut out, header),
        1 => flip(random, &mut out, file.len()),
        2 => out.truncate(random.below(file.len())),
        3 => {
            let length = match random.below(3) {
                0 => random.next(),
                1 => random.below(2 * header) as u64,
                _ => (header - 8 + random.below(16)) as u64,
            };
            out[..8].copy_from_slice(&length.to_le_bytes());
        }
        4 => {
            out = rewrite_number(random, file, header);
            let grown = out.len() as i64 - file.len() as i64;
            let length = (header as i64 - 8 + grown) as u64;
            out[..8].copy_from_slice(&length.to_le_bytes());
        }
        5 => {
            let dtypes = ["F32", "BF16", "F8_E4M3", "U8", "F16", "I64", "BOOL", "F4"];
            let text = String::from_utf8_lossy(&file[8..header]).into_owned();
            let at: Vec<_> = text.match_indices("\"dtype\":\"").map(|(at, _)| at + 9).collect();
            let at = at[random.below(at.len())];
            let end = at + text[at..].find('"').unwrap();
            let dtype = dtypes[random.below(dtypes.len())];
            let text = format!("{}{dtype}{}", &text[..at], &text[end..]);
            out = (text.len() as u64).to_le_bytes().to_vec();
            out.extend(text.into_bytes());
            out.extend_from_slice(&file[header..]);
        }
        _ => {
            let start = 8 + random.below(header - 8);
            let len = 1 + random.below(30);
            let end = (start + len).min(header);
            out.drain(start..end);
            out[..8].copy_from_slice(&((header - 8 - (end - start)) as u64).to_le_bytes());
        }
    }
    out
}

struct Tally {
    loaded: usize,
    refused: usize,
    panicked: Vec<String>,
}

/// Damages `file` of `dir` `count` times, each time from its original bytes.
fn run(
    dir: &Path,
    file: &str,
    count: usize,
    damage: impl Fn(&mut Random, &[u8]) -> Vec<u8>,
) -> Tally {
    let path = dir.join(file);
    let original = std::fs::read(&path).unwrap();
    let mut tally = Tally { loaded: 0, refused: 0, panicked: Vec::new() };
    for seed in 0..count {
        let mut random = Random::new(seed as u64 + 1);
        std::fs::write(&path, damage(&mut random, &original)).unwrap();
        let outcome = catch_unwind(AssertUnwindSafe(|| -> Result<()> {
            // Headers alone first: inspect must survive what load refuses.
            let inspected = inspect(dir).map(|found| found.to_string());
            let model = load(dir, None)?;
            check(&model);
            inspected.map(drop)
        }));
        match outcome {
            Ok(Ok(())) => tally.loaded += 1,
            Ok(Err(error)) => {
                assert!(!error.to_string().is_empty());
                tally.refused += 1;
            }
            Err(_) => tally.panicked.push(format!("{file}: seed {seed}")),
        }
    }
    std::fs::write(&path, &original).unwrap();
    load(dir, None).unwrap();
    assert!(tally.panicked.is_empty(), "panics: {:?}", tally.panicked);
    assert_eq!(tally.loaded + tally.refused, count);
    tally
}

fn copy_of_golden(name: &str) -> TempDir {
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for item in std::fs::read_dir(from).unwrap() {
            let item = item.unwrap().path();
            let target = to.join(item.file_name().unwrap());
            if item.is_dir() {
                copy(&item, &target);
            } else {
                std::fs::copy(&item, &target).unwrap();
            }
        }
    }
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let dir = TempDir::new("mutations");
    copy(&golden.join(name).join("model"), dir.path());
    dir
}

#[test]
fn damaged_weights_never_panic() {
    for (seed, formats, count) in [
        (1, PRO_FP4, 4000),
        (2, Formats { fused: false, experts: "F8_E4M3", plain: "F32", ..PRO_FP4 }, 2000),
    ] {
        let dir = Tiny::new(seed, formats).write();
        let tally = run(dir.path(), "model.safetensors", count, damage_weights);
        // Flips in tensor data load; damaged headers do not.
        assert!(tally.loaded > count / 20, "{} of {count} loaded", tally.loaded);
        assert!(tally.refused > count / 2, "{} of {count} refused", tally.refused);
    }
}

#[test]
fn damaged_configurations_never_panic() {
    let dir = Tiny::new(3, PRO_FP4).write();
    let tally = run(dir.path(), "config.json", 2500, damage_text);
    assert!(tally.refused > 1500, "{} refused", tally.refused);
}

#[test]
fn damaged_drafters_indices_and_sidecars_never_panic() {
    let dir = copy_of_golden("v25");
    for (file, count) in [
        ("dflash/config.json", 700),
        ("dflash/mask_embedding.pt", 700),
        ("model.safetensors.index.json", 300),
        ("dflash/dflash_draft_model.safetensors.index.json", 200),
    ] {
        let tally = run(dir.path(), file, count, damage_text);
        assert!(tally.refused > count / 3, "{file}: {} refused", tally.refused);
    }
}
