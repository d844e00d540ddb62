"""Laws of the drafter and the speculative loop (dflash_spec 7)."""

import numpy as np
import pytest
from tiny._reference import reference

ops = reference.ops
PROMPT = [7, 99, 3, 120, 55, 55, 18, 2, 77, 101, 64, 30, 9, 88, 14, 5, 71]


@pytest.fixture(scope="module", params=["flash", "pro", "v25", "gptoss"])
def pair(request, tiny_model):
    path = tiny_model(request.param, 4, [PROMPT]).path
    target = reference.open_target(path)
    return target, reference.Drafter(path / "dflash", target)


def context_of(pair, tokens):
    target, drafter = pair
    taps = target.forward(tokens).taps(drafter.config.target_layer_ids)
    return drafter.extend(drafter.empty(), taps)


def test_context_grows_as_from_scratch(pair):
    target, drafter = pair
    taps = target.forward(PROMPT).taps(drafter.config.target_layer_ids)
    whole = drafter.extend(drafter.empty(), taps)
    for cuts in ([1] * 17, [5, 1, 7, 4], [16, 1]):
        parts, at = drafter.empty(), 0
        for n in cuts:
            parts = drafter.extend(parts, taps[at : at + n])
            at += n
        for a, b in zip(whole.keys + whole.values, parts.keys + parts.values, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


def test_context_ignores_later_tokens(pair):
    one, other = context_of(pair, [*PROMPT, 1]), context_of(pair, [*PROMPT, 2])
    for a, b in zip(one.keys + one.values, other.keys + other.values, strict=True):
        np.testing.assert_allclose(a[:-1], b[:-1], rtol=0, atol=1e-12)
        assert np.abs(a[-1] - b[-1]).max() > 1e-3


def test_block_is_bidirectional_and_anchored(pair):
    _, drafter = pair
    context = context_of(pair, PROMPT)
    base = drafter.block(context, 3)
    assert base.shape == (7, drafter.target.config.vocab_size)
    assert np.abs(drafter.block(context, 4) - base).max() > 1e-2, "the anchor matters"
    # A shorter block has fewer keys to look at, so even its first draft row changes.
    assert np.abs(drafter.block(context, 3, 2)[0] - base[0]).max() > 1e-4


def test_wrong_taps_change_the_drafts(pair):
    """One layer early is the classic bug; the drafter must not be blind to it."""
    target, drafter = pair
    ids = drafter.config.target_layer_ids
    forward = target.forward(PROMPT)
    early = ops.tap([target.embedding[PROMPT], *forward.residuals], list(ids))
    right, wrong = (drafter.extend(drafter.empty(), t) for t in (forward.taps(ids), early))
    assert np.abs(drafter.block(right, 3) - drafter.block(wrong, 3)).max() > 1e-2


@pytest.mark.parametrize("window", [None, 1, 3, 5, 100])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("start", "size"), [(0, 4), (2, 8), (20, 8), (20, 1)])
def test_mask_table(window, causal, start, size):
    q_pos, k_pos = start + np.arange(size), np.arange(start + size)
    got = ops.draft_visible(q_pos, k_pos, start, window, causal)
    for i in range(size):
        for p in range(start + size):
            distance = start + i - p
            near = window is None or abs(distance) < window
            want = near if p < start else near and (not causal or p - start <= i)
            assert got[i, p] == want, (i, p)
    assert got[np.arange(size), start + np.arange(size)].all(), "a row always sees itself"


@pytest.mark.parametrize(
    ("drafts", "choices", "accepted"),
    [
        ([], [5], 0),
        ([5], [5, 6], 1),
        ([5], [6, 5], 0),
        ([1, 2, 3], [1, 2, 3, 4], 3),
        ([1, 2, 3], [1, 9, 3, 4], 1),
        ([1, 2, 3], [9, 2, 3, 4], 0),
    ],
)
def test_accept_known_answers(drafts, choices, accepted):
    assert ops.accept(drafts, choices) == accepted


def test_accept_needs_one_choice_more_than_drafts():
    with pytest.raises(ValueError, match="2 drafts need 3 choices"):
        ops.accept([1, 2], [1, 2])


class Puppet:
    """A drafter whose blocks are dictated, to force every acceptance length."""

    def __init__(self, drafter, truth, wrong_at):
        self.drafter, self.truth, self.wrong_at = drafter, truth, wrong_at
        self.config = drafter.config
        self.empty, self.extend = drafter.empty, drafter.extend
        self.rounds = 0

    def block(self, context, _anchor):
        at = context.length - len(PROMPT) + 1
        drafts = [*self.truth[at : at + 7], *[0] * 7][:7]
        wrong = self.wrong_at(self.rounds)
        self.rounds += 1
        if wrong < len(drafts):
            drafts[wrong] = (drafts[wrong] + 1) % self.drafter.target.config.vocab_size
        return np.eye(self.drafter.target.config.vocab_size)[drafts]


@pytest.mark.parametrize(
    ("wrong_at", "tau"), [(lambda _: 99, 8), (lambda _: 0, 1), (lambda n: n % 8, None)]
)
def test_forced_acceptance(pair, wrong_at, tau):
    target, drafter = pair
    truth = target.generate(PROMPT, 49)
    run = reference.speculate(target, Puppet(drafter, truth, wrong_at), PROMPT, 49)
    assert run.tokens == truth
    for n, r in enumerate(run.rounds):
        assert r.accepted == min(wrong_at(n), len(r.drafts))
    if tau is not None:
        assert run.tau == tau


@pytest.mark.parametrize("block", [1, 2, 4, 8])
@pytest.mark.parametrize(
    "params",
    [
        ops.Sampling(),
        ops.Sampling(temperature=0.8, seed=5),
        ops.Sampling(temperature=1.0, top_k=30, top_p=0.9, repetition_penalty=1.3, seed=6),
        ops.Sampling(frequency_penalty=0.8, presence_penalty=0.5, logit_bias={4: 3.0}),
    ],
    ids=["greedy", "t08", "filters", "penalties"],
)
def test_speculation_does_not_change_the_output(pair, block, params):
    target, drafter = pair
    plain = target.generate(PROMPT, 20, params)
    run = reference.speculate(target, drafter, PROMPT, 20, params, block)
    assert run.tokens == plain
    assert 1 + sum(r.accepted + 1 for r in run.rounds) == len(plain)
    assert all(len(r.drafts) <= block - 1 for r in run.rounds)


def test_a_taught_drafter_is_accepted(pair):
    target, drafter = pair
    assert reference.speculate(target, drafter, PROMPT, 64).tau > 1.15
