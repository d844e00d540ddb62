"""The trainer's drafter against the numpy reference, and the laws of its loss."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the training code needs PyTorch")

import numpy as np  # noqa: E402
import tiny  # noqa: E402

from kilotok.errors import InvalidRequestError, ModelFormatError  # noqa: E402
from kilotok.reference import Drafter, Mimo  # noqa: E402
from kilotok.training.dflash.anchors import draw_anchors  # noqa: E402
from kilotok.training.dflash.files import read_drafter, write_drafter  # noqa: E402
from kilotok.training.dflash.loss import (  # noqa: E402
    Batch,
    Weighting,
    block_loss,
    default_gamma,
    slot_weights,
)
from kilotok.training.dflash.model import (  # noqa: E402
    block_hidden,
    context,
    init_weights,
    rotary_table,
)
from kilotok.training.dflash.shape import DrafterShape, default_taps  # noqa: E402

LENGTH, ANCHORS = 40, 5
#: Residuals and softmax are float32 whatever the weights are.
FLOAT32 = {"rtol": 1e-3, "atol": 2e-5}
SHAPES = {
    "one window, both directions": tiny.DraftShape(),
    "causal": tiny.DraftShape(is_causal=True),
    "no sinks": tiny.DraftShape(sinks=False),
    "full and sliding layers": tiny.DraftShape(
        layer_types=("full_attention", "sliding_attention"), is_causal=False
    ),
    "z-lab": tiny.DraftShape(
        sinks=False,
        value_scale=1.0,
        partial_rotary_factor=1.0,
        layer_types=("full_attention",) * 2,
        mask="none",
    ),
}


def open_pair(path, draft):
    """The target in float64, its drafter in numpy, and the same for the trainer."""
    preset = tiny.PRESETS["pro"].but(draft=draft)
    tiny.write(path, preset, seed=4)
    target = Mimo(path)
    shape, weights = read_drafter(
        path / "dflash", target.config.vocab_size, len(target.config.layers)
    )
    return target, Drafter(path / "dflash", target), shape, weights


@pytest.mark.parametrize("name", SHAPES)
def test_blocks_equal_the_references(name, tmp_path):
    target, drafter, shape, weights = open_pair(tmp_path, SHAPES[name])
    tokens = np.random.default_rng(5).integers(1, target.config.vocab_size, LENGTH)
    taps = target.forward(tokens).taps(shape.taps)
    pos = [1, 7, 8, 23, 30]
    w = {n: t.double() for n, t in weights.items()}
    table = rotary_table(64, shape.rotary_dim, shape.theta).double()
    ctx = context(shape, w, torch.from_numpy(taps)[None], table[:, :LENGTH])
    anchor = torch.from_numpy(tokens[pos])[None]
    embed = torch.from_numpy(target.embedding)
    got = block_hidden(shape, w, ctx, anchor, torch.tensor([pos]), embed, table)[0]
    for i, start in enumerate(pos):
        before = drafter.extend(drafter.empty(), taps[:start])
        rows = drafter.hidden(before, int(tokens[start]), shape.block)
        want = rows / np.sqrt((rows**2).mean(-1, keepdims=True) + shape.eps) * drafter.norm
        np.testing.assert_allclose(got[i].numpy(), want, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", ["one window, both directions", "causal", "z-lab"])
def test_a_written_drafter_reads_back_as_it_was(name, tmp_path):
    _, drafter, shape, weights = open_pair(tmp_path / "model", SHAPES[name])
    write_drafter(tmp_path / "copy", shape, weights, {"tau": {}})
    again, back = read_drafter(tmp_path / "copy", shape.vocab, shape.target_layers)
    assert again == shape
    assert {n: t.bfloat16().tolist() for n, t in weights.items()} == {
        n: t.bfloat16().tolist() for n, t in back.items()
    }
    assert Drafter(tmp_path / "copy", drafter.target).config == drafter.config


def test_a_tensor_too_many_or_too_few_is_named(tmp_path):
    _, _, shape, weights = open_pair(tmp_path / "model", tiny.DraftShape())
    write_drafter(tmp_path / "copy", shape, {**weights, "extra": torch.zeros(2)})
    with pytest.raises(ModelFormatError, match="extra"):
        read_drafter(tmp_path / "copy", shape.vocab, shape.target_layers)
    del weights["norm.weight"]
    write_drafter(tmp_path / "copy", shape, weights)
    with pytest.raises(ModelFormatError, match=r"norm\.weight"):
        read_drafter(tmp_path / "copy", shape.vocab, shape.target_layers)


@pytest.mark.parametrize(
    ("layers", "count", "taps"),
    # Published drafters, from their config.json.
    [
        (36, 5, (1, 9, 17, 25, 33)),
        (64, 5, (1, 16, 31, 46, 61)),
        (24, 5, (1, 6, 11, 16, 21)),
        (61, 6, (1, 12, 24, 35, 47, 58)),
        (60, 6, (1, 12, 23, 35, 46, 57)),
        (52, 5, (1, 13, 25, 37, 49)),
    ],
)
def test_default_taps_are_those_of_published_drafters(layers, count, taps):
    assert default_taps(layers, count) == taps


def test_shapes_that_cannot_be_are_refused():
    config = SHAPE.config() | {"dflash_config": {**SHAPE.config()["dflash_config"]}}
    config["dflash_config"]["mask_token_id"] = 10**6
    with pytest.raises(InvalidRequestError, match="mask token"):
        DrafterShape.read(config, SHAPE.vocab, SHAPE.target_layers)
    with pytest.raises(InvalidRequestError, match="do not fit"):
        default_taps(4, 5)


SHAPE = DrafterShape(
    hidden=32,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=8,
    inter=48,
    rotary_dim=4,
    theta=1e4,
    windows=(12, 12),
    causal=(False, False),
    value_scale=0.612,
    sinks=True,
    block=6,
    mask_token_id=3,
    taps=(0, 2),
    eps=1e-5,
    vocab=97,
    target_layers=4,
)


@pytest.fixture(scope="module")
def setup():
    gen = torch.Generator().manual_seed(2)
    w = {n: t.double().requires_grad_() for n, t in init_weights(SHAPE, 1).items()}
    length = torch.tensor([LENGTH, LENGTH - 9])
    pos, valid = draw_anchors(torch.tensor([5, 8]), length, ANCHORS, gen)
    batch = Batch(
        torch.randint(0, SHAPE.vocab, (2, LENGTH), generator=gen),
        torch.randn(2, LENGTH, 64, generator=gen, dtype=torch.float64),
        length,
        pos,
        valid,
    )
    embed, head = (torch.randn(97, 32, generator=gen, dtype=torch.float64) for _ in range(2))
    return w, batch, embed, head, rotary_table(LENGTH + 6, 4, 1e4).double()


def gradients(setup, weighting=None, chunk=0, batch=None):
    weighting = weighting or Weighting()
    w, whole, embed, head, table = setup
    loss, total, right = block_loss(SHAPE, w, batch or whole, embed, head, table, weighting, chunk)
    return loss, total, right, torch.autograd.grad(loss, list(w.values()))


@pytest.mark.parametrize("kind", ["decay", "dpace"])
def test_chunks_of_anchors_change_nothing(setup, kind):
    whole = gradients(setup, Weighting(kind))
    parts = gradients(setup, Weighting(kind), chunk=2)
    torch.testing.assert_close(parts[:2], whole[:2], rtol=1e-5, atol=1e-5)
    assert torch.equal(parts[2].nan_to_num(-1), whole[2].nan_to_num(-1))
    torch.testing.assert_close(parts[3], whole[3], **FLOAT32)


def test_a_block_never_sees_its_anchors_own_feature_or_later_ones(setup):
    w, batch, embed, head, table = setup
    for n in range(ANCHORS):
        pos, valid = batch.pos[:, n : n + 1], batch.valid[:, n : n + 1]
        taps = batch.taps.clone()
        for row in range(2):
            taps[row, pos[row, 0] :] = torch.nan
        one = Batch(batch.tokens, batch.taps, batch.length, pos, valid)
        poisoned = Batch(batch.tokens, taps.nan_to_num(7.0), batch.length, pos, valid)
        args = (embed, head, table, Weighting())
        assert torch.equal(
            block_loss(SHAPE, w, one, *args)[0], block_loss(SHAPE, w, poisoned, *args)[0]
        )
        taps = batch.taps.clone()
        taps[0, pos[0, 0] - 1] += 3
        seen = Batch(batch.tokens, taps, batch.length, pos, valid)
        assert block_loss(SHAPE, w, seen, *args)[0] != block_loss(SHAPE, w, one, *args)[0]


def test_losses_of_parts_add_up_to_the_loss_of_the_whole(setup):
    """The denominator is global: any split over ranks and accumulation gives one gradient."""
    _, batch, *_ = setup
    whole = gradients(setup)
    rows = [
        Batch(
            *(
                t[i : i + 1]
                for t in (batch.tokens, batch.taps, batch.length, batch.pos, batch.valid)
            )
        )
        for i in range(2)
    ]
    first, second = (gradients(setup, batch=row) for row in rows)
    torch.testing.assert_close(first[0] + second[0], whole[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(first[1] + second[1], whole[1])
    summed = [a + b for a, b in zip(first[3], second[3], strict=True)]
    torch.testing.assert_close(summed, list(whole[3]), **FLOAT32)


def test_slots_behind_the_text_have_no_label(setup):
    _, batch, *_ = setup
    right = gradients(setup)[2]
    at = batch.pos[..., None] + torch.arange(1, SHAPE.block)
    inside = batch.valid[..., None] & (at < batch.length[:, None, None])
    assert torch.equal(right.isnan(), ~inside)
    assert not inside.all()


def test_decay_weights_are_the_papers():
    losses, there = torch.rand(3, 7), torch.ones(3, 7, dtype=torch.bool)
    weight, total = slot_weights(Weighting("decay", gamma=4.0), losses, there)
    torch.testing.assert_close(weight[0], torch.exp(-torch.arange(7) / 4.0))
    assert total == weight.sum()
    assert [default_gamma(b) for b in (8, 16)] == [4, 7]
    assert abs(default_gamma(10) - 5) < 0.3


def test_dpace_counts_later_slots_where_every_draft_survives():
    there = torch.ones(2, 5, dtype=torch.bool)
    there[1, 3:] = False
    counts = torch.tensor([[5.0, 4, 3, 2, 1], [3, 2, 1, 0, 0]])
    losses = torch.rand(2, 5, requires_grad=True)
    certain, _ = slot_weights(Weighting("dpace"), torch.zeros(2, 5), there)
    flat, total = slot_weights(Weighting("dpace", alpha=1.0), losses, there)
    torch.testing.assert_close(certain, counts)
    torch.testing.assert_close(flat, counts)
    assert total == 8
    assert not slot_weights(Weighting("dpace"), losses, there)[0].requires_grad


def test_dpace_weighs_a_slot_by_the_rounds_that_reach_it():
    losses = -torch.log(torch.tensor([[0.5, 1.0, 0.25]]))
    weight, _ = slot_weights(Weighting("dpace", alpha=0.0), losses, torch.ones(1, 3).bool())
    torch.testing.assert_close(weight, torch.tensor([[0.5 + 0.5 + 0.125, 0.5 + 0.125, 0.125]]))


def test_anchors_are_distinct_and_in_the_answer():
    length = torch.tensor([40, 30])
    pos, valid = draw_anchors(torch.tensor([5, 26]), length, 10, torch.Generator().manual_seed(1))
    assert valid[0].all()
    assert int(valid[1].sum()) == 30 - 1 - 26
    for row, low in ((0, 5), (1, 26)):
        used = pos[row][valid[row]].tolist()
        assert len({*used}) == len(used)
        assert min(used) >= low
        assert max(used) <= length[row] - 2
