//! The shared structs lie the same way in C++ and in Rust.

#![allow(clippy::unwrap_used, reason = "a test that cannot write its program has failed")]

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use kilotok_kernels::abi::{Layout, layouts, program};

/// A C++ program that prints what [`listing`] prints.
fn source(layouts: &[Layout]) -> String {
    let mut text = String::from(
        "#include <cstddef>\n#include <cstdio>\n#include \"kilotok/program.h\"\nint main() {\n",
    );
    for (name, _) in program::CONSTANTS {
        writeln!(text, "  std::printf(\"{name} %llu\\n\", (unsigned long long){name});").unwrap();
    }
    for Layout { c_name, fields, .. } in layouts {
        writeln!(text, "  std::printf(\"{c_name} %zu\\n\", sizeof({c_name}));").unwrap();
        for field in fields {
            let name = field.name;
            writeln!(
                text,
                "  std::printf(\"{c_name}.{name} %zu %zu\\n\", offsetof({c_name}, {name}), \
                 sizeof((({c_name}*)nullptr)->{name}));"
            )
            .unwrap();
        }
    }
    text + "}\n"
}

fn listing(layouts: &[Layout]) -> String {
    let mut text = String::new();
    for (name, value) in program::CONSTANTS {
        writeln!(text, "{name} {value}").unwrap();
    }
    for Layout { c_name, size, fields } in layouts {
        writeln!(text, "{c_name} {size}").unwrap();
        for field in fields {
            writeln!(text, "{c_name}.{} {} {}", field.name, field.offset, field.size).unwrap();
        }
    }
    text
}

#[test]
fn header_and_mirror_agree_on_every_size_and_offset() {
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../cuda/include");
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (file, binary) = (dir.join("abi.cpp"), dir.join("abi"));
    let layouts: Vec<Layout> = layouts().into_iter().chain(program::layouts()).collect();
    std::fs::write(&file, source(&layouts)).unwrap();

    let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".into());
    let build = Command::new(&compiler)
        .args(["-std=c++17", "-Wall", "-Werror", "-Wno-unused", "-I"])
        .arg(&include)
        .arg("-o")
        .args([&binary, &file])
        .output()
        .unwrap_or_else(|error| panic!("{compiler} is needed for this test: {error}"));
    assert!(build.status.success(), "{}", String::from_utf8_lossy(&build.stderr));

    let run = Command::new(&binary).output().unwrap();
    assert_eq!(String::from_utf8(run.stdout).unwrap(), listing(&layouts));
}

#[test]
fn every_struct_and_constant_of_the_headers_has_a_mirror() {
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../cuda/include/kilotok");
    let names = |layouts: Vec<Layout>| layouts.into_iter().map(|layout| layout.c_name).collect();
    let sides: [(_, Vec<&str>); 2] =
        [("abi.h", names(layouts())), ("program.h", names(program::layouts()))];
    for (header, mirrored) in sides {
        let text = std::fs::read_to_string(include.join(header)).unwrap();
        let in_header: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("typedef struct ")?.split_whitespace().next())
            .collect();
        assert_eq!(in_header, mirrored, "{header}");
    }
    let text = std::fs::read_to_string(include.join("program.h")).unwrap();
    for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
        if word.starts_with("KILOTOK_") && !word.ends_with('_') {
            assert!(program::CONSTANTS.iter().any(|(name, _)| *name == word), "{word}");
        }
    }
}

#[test]
fn an_op_gives_its_payload_back() {
    let embed = program::Embed {
        embedding: 0x0123_4567_89ab_cdef,
        width: 384,
        tiles: 12,
        to: program::Residual { residual: 7, fresh: 1, ..Default::default() },
        ..Default::default()
    };
    let op = program::Op::new(program::OP_EMBED, program::FLAG_DRAFT, &embed);
    assert_eq!((op.kind, op.flags), (program::OP_EMBED, program::FLAG_DRAFT));
    assert_eq!(op.payload[0], embed.embedding);
    assert_eq!(op.payload::<program::Embed>(), embed);
}
