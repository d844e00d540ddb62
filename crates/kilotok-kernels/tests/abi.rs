//! The shared structs lie the same way in C++ and in Rust.

#![allow(clippy::unwrap_used, reason = "a test that cannot write its program has failed")]

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use kilotok_kernels::abi::{Layout, layouts};

/// A C++ program that prints what [`listing`] prints.
fn program(layouts: &[Layout]) -> String {
    let mut text = String::from(
        "#include <cstddef>\n#include <cstdio>\n#include \"kilotok/abi.h\"\nint main() {\n",
    );
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
    let (source, binary) = (dir.join("abi.cpp"), dir.join("abi"));
    let layouts = layouts();
    std::fs::write(&source, program(&layouts)).unwrap();

    let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".into());
    let build = Command::new(&compiler)
        .args(["-std=c++17", "-Wall", "-Werror", "-Wno-unused", "-I"])
        .arg(&include)
        .arg("-o")
        .args([&binary, &source])
        .output()
        .unwrap_or_else(|error| panic!("{compiler} is needed for this test: {error}"));
    assert!(build.status.success(), "{}", String::from_utf8_lossy(&build.stderr));

    let run = Command::new(&binary).output().unwrap();
    assert_eq!(String::from_utf8(run.stdout).unwrap(), listing(&layouts));
}

#[test]
fn every_struct_of_the_header_has_a_mirror() {
    let header = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../cuda/include/kilotok/abi.h");
    let text = std::fs::read_to_string(header).unwrap();
    let in_header: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("typedef struct ")?.split_whitespace().next())
        .collect();
    let mirrored: Vec<&str> = layouts().iter().map(|layout| layout.c_name).collect();
    assert_eq!(in_header, mirrored);
}
