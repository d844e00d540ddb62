"""Prompts that begin alike: what is found is counted, and no token changes."""

import pytest

from kilotok import Engine, InvalidRequestError, SamplingParams

PROMPT = "import argparse\nimport collections\nimport json\n" * 12


@pytest.mark.parametrize("speculation", ["off", "auto", 8])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_same_tokens_with_and_without_a_hit(speculation, temperature):
    params = SamplingParams(max_tokens=40, temperature=temperature, seed=3, ignore_eos=True)
    ends = ["def main():\n", "class Parser:\n", "def main():\n"]
    with (
        Engine(progress=False, prefix_cache_mib=0) as without,
        Engine(progress=False, speculation=speculation) as engine,
    ):
        found = []
        for end in ends:
            expected = without.generate(PROMPT + end, params)
            output = engine.generate(PROMPT + end, params)
            assert output.token_ids == expected.token_ids
            assert expected.receipt.cached_tokens == 0
            found.append(output.receipt.cached_tokens)
        # The whole of the third prompt but its last tokens was fed before.
        assert found[0] == 0
        assert 0 < found[2] < output.receipt.prompt_tokens <= found[2] + 16
        # The next turn begins behind prompt and answer.
        turn = [*output.prompt_token_ids, *output.token_ids, 5, 6, 7]
        again = engine.generate(turn, params)
        assert again.token_ids == without.generate(turn, params).token_ids
        assert again.receipt.cached_tokens > output.receipt.prompt_tokens
        stats = engine.stats()
        assert stats["prefix_hits"] == sum(found) + again.receipt.cached_tokens
        assert stats["pages_used"] == 0 < stats["pages_cached"] <= stats["pages_total"]
        assert engine.memory()["prefix_snapshots"] > 0
        assert without.memory()["prefix_snapshots"] == 0


def test_the_option_is_checked():
    with pytest.raises(InvalidRequestError, match="prefix_cache_mib"):
        Engine(progress=False, prefix_cache_mib=-1)


def test_a_salt_keeps_prefixes_apart():
    params = SamplingParams(max_tokens=2, ignore_eos=True)
    with Engine(progress=False) as engine:

        def found(salt):
            return engine.generate(PROMPT, params, cache_salt=salt).receipt.cached_tokens

        assert [found("a"), found("b"), found(None)] == [0, 0, 0]
        assert min(found("a"), found("b"), found(None)) > 0
        for wrong in ("", 5):
            with pytest.raises(InvalidRequestError) as caught:
                engine.generate(PROMPT, params, cache_salt=wrong)
            assert caught.value.parameter == "cache_salt"
