"""The demo checkpoint through the engine: against transformers' tokens, its own copy, its card."""

import json
from pathlib import Path

import pytest

from kilotok import Engine, SamplingParams
from kilotok.loading import demo_checkpoint
from kilotok.reference.flash_copy import write_flash_copy

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/demo.json").read_text())["cases"]
GREEDY = SamplingParams(max_tokens=64, ignore_eos=True)


@pytest.fixture(scope="module")
def demo():
    with Engine(progress=False) as engine:
        yield engine


@pytest.mark.parametrize("case", GOLDEN, ids=range(len(GOLDEN)))
@pytest.mark.parametrize("speculation", ["off", 8])
def test_greedy_tokens_are_those_of_transformers(demo, case, speculation):
    # The gap of the two best logits is far above the engine's error at every step of these cases.
    assert case["smallest_gap"] > 1e-3
    assert (
        demo.generate(case["prompt"], GREEDY, speculation=speculation).token_ids == case["tokens"]
    )


def test_the_split_float32_copy_gives_the_same_tokens(tmp_path):
    """Fused FP8 qkv, MXFP4 experts and half the kv heads, or none of it: one function."""
    write_flash_copy(demo_checkpoint(), tmp_path)
    with Engine(tmp_path, progress=False) as copy:
        for case in GOLDEN:
            assert copy.generate(case["prompt"], GREEDY).token_ids == case["tokens"]


def test_acceptance_on_code_is_what_the_card_promises(demo):
    """The bar of the checkpoint, tau >= 3 on code it was not trained on: this repository's own."""
    sources = sorted((Path(__file__).parents[2] / "python/kilotok/reference").glob("*.py"))
    tokens = rounds = 0
    for source in sources[:8]:
        prompt = source.read_text()[:600]
        params = SamplingParams(max_tokens=96, ignore_eos=True)
        histogram = demo.generate(prompt, params, speculation=8).receipt.accepted_histogram
        rounds += sum(histogram)
        tokens += sum(n * (accepted + 1) for accepted, n in enumerate(histogram))
    assert tokens / rounds >= 3.0
