"""The demo model's forward passes against plain definitions, and its export."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the training code needs PyTorch")
pytest.importorskip("tokenizers", reason="the training code needs tokenizers")
pytest.importorskip("safetensors", reason="the training code needs safetensors")

from training.demo.attention import windowed  # noqa: E402
from training.demo.cached import CachedTarget  # noqa: E402
from training.demo.drafter import init_drafter  # noqa: E402
from training.demo.export import read_checkpoint, write_checkpoint  # noqa: E402
from training.demo.optimizer import Optimizer  # noqa: E402
from training.demo.preset import TOY  # noqa: E402
from training.demo.rounding import working_weight, working_weights  # noqa: E402
from training.demo.target import Target, init_target  # noqa: E402

CPU = torch.device("cpu")
MASK = 9


def random_target() -> dict[str, torch.Tensor]:
    """Initial weights with sinks and router biases that matter."""
    masters = init_target(TOY.target, 11, MASK)
    gen = torch.Generator().manual_seed(12)
    for name, t in masters.items():
        if name.endswith(("sink", "bias")):
            t.copy_(torch.randn(t.shape, generator=gen))
    return masters


def tokens(rows: int, length: int) -> torch.Tensor:
    return torch.randint(
        10, TOY.target.vocab, (rows, length), generator=torch.Generator().manual_seed(13)
    )


@pytest.mark.parametrize("length", [1, 5, 16, 37, 64])
def test_windowed_attention_equals_its_definition(length):
    gen = torch.Generator().manual_seed(length)
    t, g, d, dv, window = 2, 2, 8, 6, 16
    q = torch.randn(2, length, t, g, d, generator=gen)
    k, v = torch.randn(2, length, t, d, generator=gen), torch.randn(2, length, t, dv, generator=gen)
    sink = torch.randn(t * g, generator=gen)
    got = windowed(q, k, v, sink, window)
    for h in range(t * g):
        for i in range(length):
            low = max(0, i - window + 1)
            score = (
                torch.einsum("bd,bjd->bj", q[:, i, h // g, h % g], k[:, low : i + 1, h // g])
                * d**-0.5
            )
            extra = sink[h].expand(2, 1)
            p = torch.softmax(torch.cat([score, extra], 1), 1)[:, :-1]
            want = torch.einsum("bj,bjd->bd", p, v[:, low : i + 1, h // g])
            torch.testing.assert_close(got[:, i, h // g, h % g], want, rtol=1e-4, atol=1e-5)


def test_cached_forward_equals_whole_sequences():
    """Prefill, then steps of other sizes, with float32 weights so that only order can differ."""
    w = {n: t.float() for n, t in working_weights(TOY.target, random_target(), True).items()}
    text = tokens(3, 50)
    whole = Target(TOY.target, CPU).logits(w, text)
    cached = CachedTarget(TOY.target, w, 3, 64)
    at, parts = 0, []
    for size in (20, 1, 8, 1, 20):
        pos = torch.arange(at, at + size).expand(3, -1)
        x, _ = cached.forward(text[:, at : at + size], pos, at + size, lowest=at)
        parts.append(cached.head(x))
        at += size
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-3, atol=1e-3)


def test_straight_through_gradient_moves_masters_by_the_gradient_at_rounded_weights():
    cfg = TOY.target
    masters = random_target()
    before = {n: t.clone() for n, t in masters.items()}
    optimizer = Optimizer(
        masters,
        lambda n, m: working_weight(cfg, n, m, True),
        lambda _: False,
        frozen=lambda n: n.endswith(".bias"),
    )
    name = "1.experts_gate"
    assert not torch.equal(optimizer.weights[name].float(), before[name])
    losses, _ = Target(cfg, CPU).token_losses(optimizer.weights, tokens(2, 33))
    losses.mean().backward()
    grad = optimizer.weights[name].grad.float().clone()
    optimizer.step(0.0, 1e-3)
    moved = masters[name] - before[name]
    # The first Adam step is -lr * sign(grad), wherever the gradient is not negligible.
    strong = grad.abs() > 1e-6
    assert strong.float().mean() > 0.2
    torch.testing.assert_close(moved[strong], -1e-3 * grad[strong].sign(), rtol=1e-2, atol=1e-6)
    assert torch.equal(optimizer.weights[name], working_weight(cfg, name, masters[name], True))


def test_export_reads_back_to_the_same_logits(tmp_path):
    masters = random_target()
    drafter = init_drafter(TOY.drafter, TOY.target.hidden, 14)
    write_checkpoint(TOY, masters, drafter, tmp_path / "checkpoint")
    back, back_drafter = read_checkpoint(TOY, tmp_path / "checkpoint")
    model, text = Target(TOY.target, CPU), tokens(2, 40)
    want = model.logits(working_weights(TOY.target, masters, True), text)
    assert torch.equal(model.logits(back, text), want)
    assert set(back_drafter) == set(drafter)
    assert all(torch.equal(back_drafter[n], drafter[n].bfloat16()) for n in drafter)
    files = {p.name for p in (tmp_path / "checkpoint").iterdir()}
    assert {"model_pp0_ep0_shard0.safetensors", "model_pp0_ep0_shard1.safetensors"} <= files
    sidecar = (tmp_path / "checkpoint/dflash/mask_embedding.pt").read_bytes()
    assert drafter["mask_embedding"].bfloat16().view(torch.uint8).numpy().tobytes() in sidecar


def test_rows_of_a_token_do_not_depend_on_later_tokens():
    w = working_weights(TOY.target, random_target(), True)
    model, text = Target(TOY.target, CPU), tokens(1, 40)
    other = text.clone()
    other[:, 25:] = tokens(1, 65)[:, 50:]
    a, b = model.logits(w, text), model.logits(w, other)
    assert torch.equal(a[:, :25], b[:, :25])
    assert not torch.equal(a[:, 25:], b[:, 25:])
