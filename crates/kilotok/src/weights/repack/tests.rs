//! The packed bytes hold every element once, where the GPU looks for it.

use proptest::prelude::*;

use super::mxfp4_step::{BITS, spread};
use super::unpack::{code_of, device_decode, unpack};
use super::*;
use crate::matrix::Bytes;
use crate::numeric::{bf16, mxfp4};
use crate::testing::{Rng, Stored};

/// Row `row` of a stored matrix, decoded as the CPU does.
fn decode(matrix: &Matrix, row: usize) -> Vec<f32> {
    let (data, cols, at) = (matrix.data.as_slice(), matrix.cols, row * matrix.row_step);
    let mut out = vec![0.0; cols];
    match &matrix.format {
        Format::F32 => unreachable!("no step format"),
        Format::Bf16 => bf16::decode_row(&data[at * cols * 2..], &mut out),
        Format::Fp8 { scales, rows_per_chunk } => {
            for (col, value) in out.iter_mut().enumerate() {
                let scale = scales[fp8::scale_index(row, col, cols, *rows_per_chunk)];
                *value = fp8::decode(data[at * cols + col]) * scale;
            }
        }
        Format::Mxfp4 { scales } => {
            let scales = &scales.as_slice()[at * (cols / 32)..];
            mxfp4::decode_row(&data[at * (cols / 2)..], scales, &mut out);
        }
    }
    out
}

fn packed(packing: &Packing, threads: usize) -> Vec<u8> {
    let mut out = vec![0xEE; packing.shape().bytes()];
    packing.pack(0..packing.shape().tiles, &mut out, threads).unwrap();
    out
}

/// Every packed row is the row that `expected` says, followed by zeros.
fn check(parts: &[&Matrix], order: RowOrder, expected: impl Fn(usize) -> Option<(usize, usize)>) {
    let packing = Packing::new("test", parts.to_vec(), order).unwrap();
    let bytes = packed(&packing, 1);
    assert_eq!(packed(&packing, 3), bytes, "threads change nothing");
    for (row, values) in unpack(&packing.shape(), &bytes).into_iter().enumerate() {
        let want = expected(row).map(|(part, at)| decode(parts[part], at)).unwrap_or_default();
        let (found, padding) = values.split_at(want.len());
        assert_eq!(found, want, "row {row}");
        assert!(padding.iter().all(|value| *value == 0.0), "row {row}");
    }
}

const FORMATS: [Stored; 3] = [Stored::Bf16, Stored::Fp8, Stored::Mxfp4];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_shape_in_any_format_unpacks_to_itself(
        rows in 1..100usize, blocks in 1..13usize, chunks in 1..4usize, seed in any::<u64>()
    ) {
        for stored in FORMATS {
            let matrix = Rng(seed).matrix(rows * chunks, blocks * 32, stored, chunks);
            let all = rows * chunks;
            check(&[&matrix], RowOrder::Stored, |row| (row < all).then_some((0, row)));
        }
    }

    #[test]
    fn gate_and_up_alternate_in_sixteens(
        inter in 1..90usize, blocks in 1..5usize, seed in any::<u64>()
    ) {
        for stored in FORMATS {
            let mut rng = Rng(seed);
            let [gate, up] = [0; 2].map(|_| rng.matrix(inter, blocks * 32, stored, 1));
            check(&[&gate, &up], RowOrder::GateUp, |row| {
                let at = row / 32 * 16 + row % 16;
                (at < inter).then_some((row % 32 / 16, at))
            });
        }
    }
}

#[test]
fn odd_numbers_of_columns_are_filled_up() {
    for (stored, cols) in [(Stored::Bf16, 85), (Stored::Fp8, 72), (Stored::Mxfp4, 160)] {
        let matrix = Rng(3).matrix(33, cols, stored, 1);
        check(&[&matrix], RowOrder::Stored, |row| (row < 33).then_some((0, row)));
    }
}

#[test]
fn every_other_row_of_a_buffer_is_a_matrix() {
    for stored in [Stored::Bf16, Stored::Mxfp4] {
        let both = Rng(5).matrix(2 * 37, 96, stored, 1);
        let half = |first: usize| {
            let tail = |bytes: &Bytes, row: usize| bytes.slice(first * row..bytes.len()).unwrap();
            let (data, format) = match &both.format {
                Format::Mxfp4 { scales } => {
                    (tail(&both.data, 48), Format::Mxfp4 { scales: tail(scales, 3) })
                }
                format => (tail(&both.data, 192), format.clone()),
            };
            Matrix { rows: 37, cols: 96, data, format, row_step: 2 }
        };
        let (gate, up) = (half(0), half(1));
        assert_eq!(decode(&gate, 36), decode(&both, 72));
        check(&[&gate, &up], RowOrder::GateUp, |row| {
            let at = row / 32 * 16 + row % 16;
            (at < 37).then_some((row % 32 / 16, at))
        });
    }
}

#[test]
fn a_map_reorders_rows_over_several_matrices() {
    let mut rng = Rng(7);
    let parts = [40, 8, 8].map(|rows| rng.matrix(rows, 64, Stored::Fp8, 1));
    let parts: Vec<&Matrix> = parts.iter().collect();
    let map: Vec<u32> = (0..56).rev().collect();
    check(&parts, RowOrder::Map(map.into()), |row| {
        let at = 55usize.checked_sub(row)?;
        Some(match at {
            0..40 => (0, at),
            40..48 => (1, at - 40),
            _ => (2, at - 48),
        })
    });
}

#[test]
fn biases_stand_where_their_rows_stand() {
    let mut rng = Rng(9);
    let [gate, up] = [0; 2].map(|_| rng.matrix(20, 32, Stored::Bf16, 1));
    let packing = Packing::new("test", vec![&gate, &up], RowOrder::GateUp).unwrap();
    let values: [Vec<f32>; 2] = [0, 100].map(|base| (base..base + 20).map(|i| i as f32).collect());
    let ordered = packing.order_vector(&[&values[0], &values[1]]).unwrap();
    assert_eq!((ordered[3], ordered[16], ordered[32], ordered[51]), (3.0, 100.0, 16.0, 119.0));
    assert_eq!((ordered.len(), ordered[36], ordered[63]), (64, 0.0, 0.0));
    assert!(packing.order_vector(&[&values[0]]).is_err());
}

#[test]
fn every_code_decodes_to_itself_in_every_place() {
    let used = BITS.iter().flatten().fold(0u32, |seen, place| {
        assert_eq!(seen >> place & 1, 0);
        seen | 1 << place
    });
    assert_eq!(used, u32::MAX);
    for (i, places) in BITS.iter().enumerate() {
        for code in 0..16 {
            let decoded = device_decode(spread(code, places));
            assert_eq!(u32::from(code_of(decoded[i])), code);
        }
    }
}

#[test]
fn chunks_are_at_most_twenty_four_and_depend_on_columns_alone() {
    for cols in 1..=40_000usize {
        let cols_each = chunk_cols(cols);
        assert!(cols.div_ceil(cols_each) <= 24, "{cols}");
        for format in [StepFormat::Bf16, StepFormat::Fp8, StepFormat::Mxfp4] {
            assert_eq!(StepShape::new(format, 1, cols).chunk_steps * format.cols(), cols_each);
        }
    }
}

#[test]
fn what_cannot_be_packed_is_refused_with_name_and_reason() {
    let reason = |parts: Vec<&Matrix>, order| {
        let packing = Packing::new("layers.3.thing", parts, order);
        let packed = packing.and_then(|packing| {
            let mut out = vec![0; packing.shape().bytes()];
            packing.pack(0..packing.shape().tiles, &mut out, 1)
        });
        let text = packed.unwrap_err().to_string();
        assert!(text.contains("layers.3.thing"), "{text}");
        text
    };
    let mut rng = Rng(1);
    let float = rng.matrix(32, 64, Stored::F32, 1);
    assert!(reason(vec![&float], RowOrder::Stored).contains("bfloat16"));
    let (half, mx) = (rng.matrix(32, 64, Stored::Bf16, 1), rng.matrix(32, 64, Stored::Mxfp4, 1));
    assert!(reason(vec![&half, &mx], RowOrder::Stored).contains("differ"));
    let narrow = rng.matrix(16, 64, Stored::Bf16, 1);
    assert!(reason(vec![&half, &narrow], RowOrder::GateUp).contains("equally many"));
    assert!(reason(vec![&half], RowOrder::Map([40].into())).contains("row 40"));
    assert!(reason(vec![], RowOrder::Stored).contains("nothing"));

    let mut nan = rng.matrix(40, 128, Stored::Fp8, 1);
    let mut data = nan.data.as_slice().to_vec();
    data[33 * 128 + 5] = 0xff;
    nan.data = Bytes::from_vec(data);
    assert!(reason(vec![&nan], RowOrder::Stored).contains("row 33 of part 0 holds a NaN"));
    let mut scales = vec![120; 32 * 2];
    scales[2 * 9] = 255;
    let nan = Matrix { format: Format::Mxfp4 { scales: Bytes::from_vec(scales) }, ..mx };
    assert!(reason(vec![&nan], RowOrder::Stored).contains("row 9 of part 0 holds a NaN"));
    let short = Matrix { rows: 33, ..half };
    assert!(reason(vec![&short], RowOrder::Stored).contains("beyond the stored bytes"));
}
