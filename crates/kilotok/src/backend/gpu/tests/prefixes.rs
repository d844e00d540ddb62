//! Prefixes that sequences share, over records: pages, saved rings and drafter context.

use super::records::{LIMITS, tokens, with_limits};
use crate::backend::{Limits, Rounds};
use crate::engine::{Engine, EngineConfig, ModelInfo, Receipt, Request, Speculation};
use crate::model::Model;
use crate::sample::SamplingParams;

fn engine(model: &Model, snapshots: usize) -> Engine {
    let executor = with_limits(model, Limits { snapshots, ..LIMITS });
    let info = ModelInfo { vocab: model.spec.vocab, eos_token_ids: vec![], max_drafts: 7 };
    Engine::start(Box::new(Rounds::new(executor)), info, EngineConfig::default()).unwrap()
}

fn run(engine: &Engine, prompt: &[u32], how: (Speculation, Option<&str>)) -> (Vec<u32>, Receipt) {
    let params = SamplingParams { max_tokens: 6, ignore_eos: true, ..SamplingParams::default() };
    let mut request = Request::new(prompt.to_vec());
    request.params = params;
    request.speculation = Some(how.0);
    request.cache_salt = how.1.map(Into::into);
    let (tokens, end) = engine.submit(request).unwrap().wait().unwrap();
    (tokens.iter().map(|token| token.id).collect(), end.receipt)
}

/// Law 2 through the cache: what is found changes no token, whoever used the slots in between.
#[test]
fn a_prefix_that_is_found_changes_no_token() {
    let model = super::demo();
    let (plain, cached) = (engine(&model, 0), engine(&model, 6));
    let common = tokens(52, 4);
    let of = |kept: usize, own: u32| [&common[..kept], &tokens(9, own)].concat();
    let prompts = [of(52, 1), of(52, 2), of(35, 3), tokens(40, 9), of(52, 4), of(52, 1)];
    let mut hits = Vec::new();
    for speculation in [Speculation::Off, Speculation::Block(8)] {
        for prompt in &prompts {
            let (want, receipt) = run(&plain, prompt, (speculation, None));
            assert_eq!(receipt.cached_tokens, 0);
            let (got, receipt) = run(&cached, prompt, (speculation, None));
            assert_eq!(got, want, "{hits:?}");
            hits.push(receipt.cached_tokens);
        }
    }
    // Context makes another origin: nothing is found without it.
    for hits in hits.chunks(prompts.len()) {
        assert_eq!((hits[0], hits[3]), (0, 0), "{hits:?}");
        assert!(hits[4] >= 48 && hits[5] >= 48, "{hits:?}");
    }
    // A conversation goes on.
    let (reply, _) = run(&cached, &prompts[0], (Speculation::Off, None));
    let next = [&prompts[0][..], &reply, &tokens(3, 8)].concat();
    let (got, receipt) = run(&cached, &next, (Speculation::Off, None));
    assert_eq!(got, run(&plain, &next, (Speculation::Off, None)).0);
    assert_eq!(receipt.cached_tokens, 64);
    let salted = run(&cached, &prompts[0], (Speculation::Off, Some("other")));
    assert_eq!((salted.0, salted.1.cached_tokens), (reply, 0));
}
