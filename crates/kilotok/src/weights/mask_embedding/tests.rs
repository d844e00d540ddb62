//! Archives written by torch (`tests/data`), and pickles that no torch would write.

use super::pickle;
use super::*;

const MASK: u32 = 151_669;

macro_rules! archive {
    ($name:literal) => {
        include_bytes!(concat!("../../../tests/data/", $name)).as_slice()
    };
}

fn expected() -> Vec<f32> {
    (0..8_u8).map(|at| f32::from(at) / 4.0 - 1.0).collect()
}

fn error_of(bytes: &[u8]) -> String {
    parse_pt(bytes, MASK).unwrap_err().to_string()
}

#[test]
fn torch_archives_are_read() {
    for archive in [
        archive!("mask_bare.pt"),
        archive!("mask_dict.pt"),
        archive!("mask_parameter.pt"),
        archive!("mask_view.pt"),
    ] {
        assert_eq!(parse_pt(archive, MASK).unwrap().to_vec(), expected());
    }
}

#[test]
fn the_mask_token_must_be_the_configured_one() {
    let error = parse_pt(archive!("mask_dict.pt"), 151_675).unwrap_err().to_string();
    assert!(error.contains("151669") && error.contains("151675"), "{error}");
    assert!(parse_pt(archive!("mask_bare.pt"), 151_675).is_ok());
}

#[test]
fn anything_but_one_dense_vector_is_refused() {
    for (archive, why) in [
        (archive!("mask_strided.pt"), "strides"),
        (archive!("mask_list.pt"), "opcode 0x5d"),
        (archive!("mask_half.pt"), "torch.HalfStorage"),
        (archive!("mask_evil.pt"), "global posix.system is not allowed"),
        (archive!("mask_deflated.pt"), "compressed"),
        (b"\x80\x02N.", "not a zip archive"),
        (b"", "not a zip archive"),
    ] {
        let error = error_of(archive);
        assert!(error.contains("mask_embedding.pt") && error.contains(why), "{why}: {error}");
    }
}

#[test]
fn every_other_opcode_is_an_error_that_names_it() {
    let allowed = b"\x80(cqrhjXKMJ\x88\x89)\x85\x86\x87t}suQR.";
    for opcode in 0..=u8::MAX {
        if !allowed.contains(&opcode) {
            let error = pickle::read(&[0x80, 2, opcode]).unwrap_err();
            assert!(error.contains(&format!("opcode 0x{opcode:02x} is not allowed")), "{error}");
        }
    }
}

#[test]
fn every_other_global_is_an_error_that_names_it() {
    for (module, name) in [
        ("os", "system"),
        ("builtins", "eval"),
        ("torch", "load"),
        ("torch", "HalfStorage"),
        ("torch._utils", "_rebuild_tensor"),
        ("collections", "defaultdict"),
    ] {
        let program = format!("\u{2}c{module}\n{name}\n.");
        let mut bytes = vec![0x80];
        bytes.extend(program.bytes());
        let error = pickle::read(&bytes).unwrap_err();
        assert!(error.contains(&format!("{module}.{name}")), "{error}");
    }
}

#[test]
fn hostile_programs_end_in_errors() {
    // Nesting that would overflow a stack when dropped, and dictionaries that would grow without
    // bound while every version of them is remembered.
    let deep = [vec![b')'], vec![0x85; 60_000], vec![b'.']].concat();
    assert!(pickle::read(&deep).unwrap_err().contains("deep"));
    let mut wide = vec![b'}'];
    for slot in 0..2000_u32 {
        wide.extend(b"X\x01\0\0\0aK\x01sr");
        wide.extend(slot.to_le_bytes());
    }
    assert!(pickle::read(&wide).unwrap_err().contains("too many entries"));
    let long = vec![b'('; 1 << 20];
    assert!(pickle::read(&long).unwrap_err().contains("too many"));
    for program in
        [&b"R."[..], b"t.", b"u.", b"s.", b"q\x00.", b"h\x00.", b"Q.", b"(.", b"X\xff\xff\xff\xff."]
    {
        assert!(pickle::read(program).is_err(), "{program:?}");
    }
}

#[test]
fn damaged_archives_never_panic() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |limit: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as usize % limit
    };
    let mut refused = 0;
    for round in 0..4000 {
        let archive = [archive!("mask_bare.pt"), archive!("mask_dict.pt")][round % 2];
        let mut bytes = archive.to_vec();
        match below(4) {
            0 => bytes.truncate(below(archive.len())),
            1 => {
                // Sizes and offsets of the directory.
                let at = archive.len() - 1 - below(700);
                bytes[at] = [0, 1, 0x7f, 0xff][below(4)];
            }
            2 => {
                // The program and its storage.
                let at = 64 + below(200);
                bytes[at] = below(256) as u8;
            }
            _ => {
                let at = below(archive.len());
                bytes[at] ^= 1 << below(8);
            }
        }
        match parse_pt(&bytes, MASK) {
            Ok(values) => assert!(values.iter().all(|value| value.is_finite())),
            Err(error) => {
                assert!(error.to_string().starts_with(PT));
                refused += 1;
            }
        }
    }
    assert!(refused > 1000, "{refused}");
}
