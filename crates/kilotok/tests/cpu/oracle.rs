//! Logits, taps and drafts against the naive f64 forward.

use kilotok::backend::cpu::Simd;
use kilotok::backend::{DraftBlock, Executor, Row};
use kilotok::testing::Rng;

use super::models::{biased, executor, formats, model};
use super::naive;

/// Largest difference relative to the largest expected magnitude.
fn error(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0f64, |a, v| a.max(v.abs()));
    found.iter().zip(expected).fold(0f64, |a, (f, e)| a.max((f64::from(*f) - e).abs())) / largest
}

#[test]
fn logits_taps_and_drafts_agree_with_f64() {
    // Rounding of f32 sums over three layers; a wrong order of anything is off by 1e-1.
    const TOLERANCE: f64 = 3e-5;
    for (number, formats) in formats().into_iter().enumerate() {
        // Windows shorter and longer than the sequence.
        for (make, windows) in [
            (model as fn(_, _, _) -> _, (5, 4)),
            (model, (200, 200)),
            (biased, (5, 4)),
            (biased, (200, 200)),
        ] {
            let model = make(number as u64, formats, windows);
            let mut rng = Rng(99);
            let tokens: Vec<u32> = (0..37).map(|_| rng.below(101) as u32).collect();
            let expected = naive::forward(&model, &tokens);
            let drafted = naive::draft(&model, &expected.taps, 17, 4);
            for simd in Simd::available() {
                let label = format!("{formats:?} {windows:?} {simd}");
                let mut executor = executor(&model, simd, 2);
                for (chunk, tokens) in tokens.chunks(9).enumerate() {
                    let rows: Vec<Row> = (9 * chunk..)
                        .zip(tokens)
                        .map(|(p, token)| Row {
                            slot: 2,
                            position: p as u32,
                            token: *token,
                            needs_logits: p % 2 == 0,
                        })
                        .collect();
                    executor.verify(&rows);
                    executor.commit(0..rows.len());
                    for (i, row) in rows.iter().enumerate() {
                        let p = row.position as usize;
                        let e = error(executor.taps(i), &expected.taps[p]);
                        assert!(e < TOLERANCE, "{label}: taps of {p} differ by {e}");
                        if row.needs_logits {
                            let e = error(executor.logits(i), &expected.logits[p]);
                            assert!(e < TOLERANCE, "{label}: logits of {p} differ by {e}");
                        }
                    }
                }
                let block = DraftBlock { slot: 2, start: 37, anchor: 17, drafts: 4 };
                let mut out = Vec::new();
                executor.draft(&[block], &mut out);
                assert_eq!(out.len(), 4);
                for (i, expected) in drafted.iter().enumerate() {
                    let e = error(executor.draft_logits(i), expected);
                    assert!(e < TOLERANCE, "{label}: draft {i} differs by {e}");
                }
            }
        }
    }
}
