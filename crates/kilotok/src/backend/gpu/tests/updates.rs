//! Weights that are replaced under a running program.

use std::sync::Arc;

use super::records::{LIMITS, decode, tokens, with_limits};
use crate::backend::{Backend, Executor, Rounds};
use crate::matrix::{Bytes, Matrix};
use crate::model::{MlpWeights, Model};
use crate::sample::SamplingParams;

/// The same bytes with some bits flipped.
fn changed(matrix: &mut Matrix, mask: u8) {
    let bytes = matrix.data.as_slice().iter().map(|byte| byte ^ mask).collect();
    matrix.data = Bytes::from_vec(bytes);
}

/// One expert, one fused projection, and the drafter's input.
fn other(model: &Model) -> Model {
    let mut other = model.clone();
    let experts = other.layers.iter_mut().find_map(|layer| match &mut layer.mlp {
        MlpWeights::Moe { experts, .. } => Some(experts),
        MlpWeights::Dense(_) => None,
    });
    changed(&mut experts.unwrap()[1].down, 0x88);
    changed(&mut other.layers[1].attention.o_proj, 1);
    changed(&mut other.drafter.as_mut().unwrap().fc, 1);
    other
}

#[test]
fn what_follows_an_update_is_what_the_new_weights_say() {
    let model = super::demo();
    let other = other(&model);
    let params = SamplingParams { max_tokens: 10, ignore_eos: true, ..SamplingParams::default() };
    let prompt = tokens(30, 6);
    let ask =
        |backend: &mut Rounds<_>, drafts| decode(backend, (&prompt, &params), (drafts, 2, 24)).0;
    let mut backend = Rounds::new(with_limits(&model, LIMITS));
    let mut fresh = Rounds::new(with_limits(&other, LIMITS));
    let before = ask(&mut backend, 0);
    let after = ask(&mut fresh, 0);
    assert_ne!(before, after);
    backend.update(Arc::new(other), false).unwrap();
    for drafts in [0, 7] {
        assert_eq!(ask(&mut backend, drafts), after);
    }
    backend.update(Arc::new(model), false).unwrap();
    assert_eq!(ask(&mut backend, 7), before);
}

#[test]
fn only_what_changed_is_packed() {
    let model = super::demo();
    let [a, b] = [model.clone(), other(&model)];
    let sizes = |model: &Model| -> Vec<(u64, u64)> {
        let old = super::lowered(&a);
        let new = super::lowered(model);
        let pairs = old.uploads.iter().zip(&new.uploads);
        let changed = pairs.filter(|(old, new)| !old.content.is_shared_with(&new.content));
        changed.map(|(_, new)| (new.address, new.content.bytes())).collect()
    };
    assert_eq!((sizes(&a).len(), sizes(&b).len()), (0, 3));
}

#[test]
fn weights_of_another_shape_are_refused_and_change_nothing() {
    let model = super::demo();
    let mut executor = with_limits(&model, LIMITS);
    let mut spec = model.clone();
    spec.spec.norm_eps *= 2.0;
    let mut format = model.clone();
    format.layers[0].attention.o_proj = format.layers[1].attention.o_proj.clone();
    format.layers[0].attention.o_proj.rows -= 1;
    for wrong in [spec, format] {
        assert!(executor.set_model(Arc::new(wrong)).is_err());
        executor.check().unwrap();
    }
}
