//! What a bench of a preset should measure, to be printed beside what it did.

use super::card;
use super::predict::{Predictor, Times};
use crate::backend::gpu::outline::{OpWork, outline};
use crate::backend::gpu::synthetic::Synthetic;
use crate::error::{Error, Result};

/// Predictions for [`Synthetic`]: what it times, command by command.
#[derive(Clone, Debug, PartialEq)]
pub struct BenchTimes {
    /// Verify passes, in the order of its rows.
    pub passes: Vec<Times>,
    /// Drafting, verifying and committing `ceil(accept)` rows, in the order of its accepts: three
    /// commands each. Empty without a drafter.
    pub rounds: Vec<Times>,
}

/// Predicts a bench on the card `gpu`. `experts`: distinct experts per layer of each pass, as the
/// bench read them back; `None`: the expected number.
///
/// # Errors
/// As [`Synthetic::model`]; [`Error::InvalidRequest`] for an unknown card, and where `experts` are
/// not as many as passes.
pub fn bench_times(asked: &Synthetic, experts: Option<&[f64]>, gpu: &str) -> Result<BenchTimes> {
    let card = card::find(gpu)?;
    if experts.is_some_and(|experts| experts.len() != asked.rows.len()) {
        let reason = format!("expected one number for each of {} passes", asked.rows.len());
        return Err(Error::invalid("experts", reason));
    }
    let model = asked.model()?;
    let outline = outline(&model, asked.limits(), card.sms)?;
    let predictor = Predictor::of_bench(card, &outline, asked.context);
    let line = |ops: &[OpWork], rows: usize, experts: Option<f64>| {
        predictor.line(ops, (1, rows), experts).times
    };
    let touched = |i: usize| experts.and_then(|experts| experts.get(i).copied());
    let passes = asked.rows.iter().enumerate();
    let passes: Vec<Times> =
        passes.map(|(i, rows)| line(&outline.target, *rows, touched(i))).collect();
    let mut rounds = Vec::new();
    if outline.block_rows > 0 {
        let block = asked.block.min(outline.block_rows);
        // The bench lays the block out itself.
        let laid_out = |op: &&OpWork| !matches!(op, OpWork::Other("lay_out"));
        let draft: Vec<OpWork> = outline.draft.iter().filter(laid_out).copied().collect();
        let same = asked.rows.iter().position(|rows| *rows == block);
        let verify = line(&outline.target, block, same.and_then(touched));
        for accept in &asked.accept {
            let kept = (accept.ceil() as usize).clamp(1, block);
            let commit = line(&outline.commit, kept, None);
            rounds.push(line(&draft, block, None) + verify + commit);
        }
    }
    Ok(BenchTimes { passes, rounds })
}
