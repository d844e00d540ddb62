"""Op draft_choose: argmax of every masked row, the lowest index on ties."""

from dataclasses import replace

from tiny._reference import reference


def test_draft_choose(probe, prompt, simd):
    tokens = prompt(12)
    p = probe("flash", tokens=tokens)
    logits, drafts = p.engine_draft(tokens, 5, 8, simd=simd)
    assert drafts == reference.ops.draft_choose(logits)


def test_ties_go_to_the_lowest_index(probe, prompt, simd):
    """Every row of the head is there three times over, so every largest logit is tied."""

    def tie(tensors, _rng):
        head = tensors["lm_head.weight"]
        tensors["lm_head.weight"] = replace(head, data=head.data[[i % 51 for i in range(163)]])

    tokens = prompt(12)
    p = probe("flash", tie, tokens=tokens)
    logits, drafts = p.engine_draft(tokens, 5, 8, simd=simd)
    assert (logits[:, :51] == logits[:, 51:102]).all()
    assert max(drafts) < 51
    assert drafts == reference.ops.draft_choose(logits)
