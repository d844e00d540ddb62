"""DFlash training masks and the speculative loop."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the training code needs PyTorch")
pytest.importorskip("tokenizers", reason="the training code needs tokenizers")

from training.demo.drafter import block_hidden, block_loss, context, init_drafter, rotary  # noqa: E402
from training.demo.preset import TOY  # noqa: E402
from training.demo.rounding import working_weights  # noqa: E402
from training.demo.speculate import Speculator  # noqa: E402
from training.demo.target import Target, init_target  # noqa: E402
from training.demo.train_drafter import draw_anchors  # noqa: E402

CFG = TOY.drafter
LENGTH, ANCHORS = 40, 5


@pytest.fixture
def setup():
    gen = torch.Generator().manual_seed(21)
    w = init_drafter(CFG, TOY.target.hidden, 22)
    return {
        "w": w,
        "taps": torch.randn(2, LENGTH, len(CFG.taps) * TOY.target.hidden, generator=gen),
        "tokens": torch.randint(10, TOY.target.vocab, (2, LENGTH), generator=gen),
        "pos": torch.tensor([[3, 10, 17, 22, 35], [1, 2, 20, 30, 38]]),
        "embed": torch.randn(TOY.target.vocab, CFG.hidden, generator=gen) * 0.3,
        "head": torch.randn(TOY.target.vocab, CFG.hidden, generator=gen),
        "table": rotary(CFG, LENGTH + 8, torch.device("cpu")),
    }


def hidden(
    s: dict, taps: torch.Tensor, tokens: torch.Tensor | None = None, pos: torch.Tensor | None = None
) -> torch.Tensor:
    tokens = s["tokens"] if tokens is None else tokens
    pos = s["pos"] if pos is None else pos
    ctx = context(CFG, s["w"], taps, s["table"][:, :LENGTH])
    return block_hidden(CFG, s["w"], ctx, tokens.gather(1, pos), pos, s["embed"], s["table"])


def test_a_block_never_sees_its_anchors_own_feature_or_later_ones(setup):
    base = hidden(setup, setup["taps"])
    for n in range(ANCHORS):
        changed = setup["taps"].clone()
        for row in range(2):
            changed[row, setup["pos"][row, n] :] += 5.0
        assert torch.equal(hidden(setup, changed)[:, n], base[:, n])
        changed = setup["taps"].clone()
        for row in range(2):
            changed[row, setup["pos"][row, n] - 1] += 5.0
        assert not torch.equal(hidden(setup, changed)[:, n], base[:, n])


def test_the_context_is_bounded_by_the_window():
    from dataclasses import replace

    cfg = replace(CFG, window=10)
    w = init_drafter(cfg, TOY.target.hidden, 23)
    taps = torch.randn(1, LENGTH, len(cfg.taps) * TOY.target.hidden)
    embed, table = torch.randn(TOY.target.vocab, cfg.hidden), rotary(cfg, 64, torch.device("cpu"))
    anchor, pos = torch.tensor([[50]]), torch.tensor([[30]])

    def run(t: torch.Tensor) -> torch.Tensor:
        return block_hidden(
            cfg, w, context(cfg, w, t, table[:, :LENGTH]), anchor, pos, embed, table
        )

    base = run(taps)
    far, near = taps.clone(), taps.clone()
    far[:, 20] += 5.0
    near[:, 21] += 5.0
    assert torch.equal(run(far), base)
    # Slot 0 at 30 sees 21 and on; with one layer the others reach it only through slot 0 itself.
    assert not torch.equal(run(near)[:, :, 0], base[:, :, 0])


def test_blocks_do_not_see_each_other(setup):
    base = hidden(setup, setup["taps"])
    pos = setup["pos"].clone()
    pos[:, 0] = 6
    moved = hidden(setup, setup["taps"], pos=pos)
    assert torch.equal(moved[:, 1:], base[:, 1:])
    assert not torch.equal(moved[:, 0], base[:, 0])


def test_the_block_is_bidirectional(setup):
    s = dict(setup, w=setup["w"] | {"mask_embedding": setup["w"]["mask_embedding"] + 1})
    assert not torch.equal(hidden(s, s["taps"])[:, :, 0], hidden(setup, setup["taps"])[:, :, 0])


def test_slot_k_is_scored_against_the_token_at_anchor_plus_k(setup):
    """Rig the head so that every slot predicts one token, and look where it counts as right."""
    s = setup
    valid = torch.ones_like(s["pos"], dtype=torch.bool)
    head = torch.zeros_like(s["head"])
    tokens = s["tokens"].clone()
    tokens[:] = torch.arange(LENGTH) + 10
    h = hidden(s, s["taps"], tokens)
    head[10 + int(s["pos"][0, 0]) + 2] = h[0, 0, 2]
    _, right = block_loss(
        CFG, s["w"], s["taps"], tokens, s["pos"], valid, s["embed"], head, s["table"]
    )
    assert right[0, 0, 1] == 1
    assert right[0, 0, 0] == 0
    # The last anchor of row 1 is at 38: only slot 1 (39) has a label.
    assert right[1, 4].isnan().tolist() == [False] + [True] * (CFG.block - 2)


def test_anchors_are_distinct_and_in_the_generated_part():
    pos, valid = draw_anchors(torch.tensor([5, 36]), LENGTH, 10, torch.Generator().manual_seed(1))
    assert valid[0].all()
    assert int(valid[1].sum()) == LENGTH - 1 - 36
    for row, low in ((0, 5), (1, 36)):
        used = pos[row][valid[row]].tolist()
        assert len(set(used)) == len(used)
        assert min(used) >= low
        assert max(used) <= LENGTH - 2


def test_unused_anchors_give_finite_gradients(setup):
    w = {n: t.clone().requires_grad_() for n, t in setup["w"].items()}
    pos, valid = torch.zeros_like(setup["pos"]), torch.zeros_like(setup["pos"], dtype=torch.bool)
    pos[:, 0], valid[:, 0] = 12, True
    loss, _ = block_loss(
        CFG,
        w,
        setup["taps"],
        setup["tokens"],
        pos,
        valid,
        setup["embed"],
        setup["head"],
        setup["table"],
    )
    loss.backward()
    assert all(t.grad.isfinite().all() for t in w.values())


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_speculation_emits_what_plain_decoding_emits(temperature):
    """Float32 weights: near-ties aside the two must agree, and rounds must add up."""
    w = {
        n: t.float()
        for n, t in working_weights(TOY.target, init_target(TOY.target, 31, 9), True).items()
    }
    w["head"] *= 30
    gen = torch.Generator().manual_seed(32)
    prompts = [torch.randint(10, 512, (n,), generator=gen).tolist() for n in (3, 17, 30)]
    drafter = init_drafter(CFG, TOY.target.hidden, 33)
    speculator = Speculator(TOY.target, w, CFG, drafter, prompts, 40, (0,), temperature, 34)
    drafted = speculator.decode(CFG.block)
    plain = speculator.decode(1)
    for a, b in zip(drafted, plain, strict=True):
        assert a.tokens == b.tokens
        assert 1 + sum(a.emitted) == len(a.tokens)
        assert all(e <= n + 1 for e, n in zip(a.emitted, a.accepted, strict=True))
    text = Target(TOY.target, torch.device("cpu")).logits(
        w, torch.tensor([prompts[1] + plain[1].tokens])
    )
    if temperature == 0:
        assert text[0, 16:-1].argmax(-1).tolist() == plain[1].tokens
