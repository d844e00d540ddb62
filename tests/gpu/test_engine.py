"""The engine on a GPU: the laws hold there, in both modes, and it says what the CPU says."""

import gc
import random
import time

import numpy as np
import pytest
from tolerance import OTHER_EXPERT, check_choices, check_rows

from kilotok import Engine, SamplingParams, _core
from kilotok.errors import OutOfMemoryError
from kilotok.loading import demo_checkpoint
from kilotok.reference import Checkpoint

MODES = ["graph", "persistent"]
PROMPTS = [
    "import argparse\n",
    "class Stack:\n    def __init__(self):\n",
    "def main():\n    parser = argparse.ArgumentParser()\n",
    "for i in range(10):\n",
    "The function returns ",
    "12 + 30 = 42\n7 * 8 = ",
    '{"name": "get_weather", "arguments": {"city": "',
    "try:\n    import numpy as np\nexcept ",
]
TOKENS = 96


@pytest.fixture(scope="module")
def demo(gpu) -> str:
    if not any(device["runs"].get("engine") for device in gpu["devices"]):
        pytest.skip("this build has no engine kernels for this GPU")
    return str(demo_checkpoint())


@pytest.fixture(scope="module")
def engines(demo):
    """One engine per mode, and the CPU's."""
    options = {"progress": False, "max_batch": 8}
    made = {mode: Engine(demo, device="cuda", mode=mode, **options) for mode in MODES}
    made["cpu"] = Engine(demo, device="cpu", **options)
    yield made
    for engine in made.values():
        engine.close()
    gc.collect()


def tokens_of(engine: Engine, text: str) -> list[int]:
    return list(engine.encode(text))


def forward(demo: str, tokens: list[int], **options: object) -> tuple[np.ndarray, np.ndarray]:
    """Logits [T, V] and taps [T, taps * H]."""
    out = _core.debug_forward(demo, tokens, **options)
    logits, taps = (np.frombuffer(out[key], np.float32) for key in ("logits", "taps"))
    return logits.reshape(len(tokens), -1), taps.reshape(len(tokens), -1)


def sampled(seed: int, temperature: float, max_tokens: int = TOKENS) -> SamplingParams:
    return SamplingParams(
        max_tokens=max_tokens, temperature=temperature, seed=seed, ignore_eos=True
    )


def together(engine: Engine, params: list[SamplingParams], speculation: object) -> list[list[int]]:
    """All prompts at once, beside each other."""
    streams = [
        engine._submit(prompt, p, speculation, 0) for prompt, p in zip(PROMPTS, params, strict=True)
    ]
    return [list(stream.wait().token_ids) for stream in streams]


def alone(engine: Engine, params: list[SamplingParams], speculation: object) -> list[list[int]]:
    return [
        list(engine.generate(prompt, p, speculation=speculation).token_ids)
        for prompt, p in zip(PROMPTS, params, strict=True)
    ]


@pytest.mark.parametrize("mode", MODES)
def test_logits_and_taps_are_those_of_the_cpu(demo, engines, mode):
    for prompt in PROMPTS:
        tokens = tokens_of(engines["cpu"], prompt * 6)[:120]
        got, taps = forward(demo, tokens, device="cuda", mode=mode)
        want, expected_taps = forward(demo, tokens)
        check_rows(got, want)
        check_rows(taps, expected_taps)
        check_choices(got, want)


def test_graph_and_persistent_compute_the_same_bits(demo, engines):
    tokens = tokens_of(engines["cpu"], "".join(PROMPTS))[:150]
    results = [forward(demo, tokens, device="cuda", mode=mode) for mode in MODES]
    for graph, persistent in zip(*results, strict=True):
        assert np.array_equal(graph.view(np.uint32), persistent.view(np.uint32))


@pytest.mark.parametrize("mode", MODES)
def test_law_1_rows_do_not_depend_on_chunks_or_company(demo, engines, mode):
    """Bits of logits and taps: any chunk, one row at a time, and beside other sequences."""
    tokens = tokens_of(engines["cpu"], "".join(PROMPTS))[:90]
    options = {"device": "cuda", "mode": mode}
    want = forward(demo, tokens, **options)
    rng = random.Random(3)
    others = [[rng.randrange(4096) for _ in range(n)] for n in (1, 17, 90)]
    for chunk, beside in ((1, None), (5, None), (8, None), (1, others), (13, others)):
        got = forward(demo, tokens, chunk=chunk, beside=beside, **options)
        for a, b in zip(got, want, strict=True):
            assert np.array_equal(a.view(np.uint32), b.view(np.uint32)), (chunk, bool(beside))


@pytest.mark.parametrize("mode", MODES)
def test_drafts_are_those_of_the_cpu(demo, engines, mode):
    same = total = 0
    for prompt in PROMPTS:
        tokens = tokens_of(engines["cpu"], prompt * 3)[:70]
        got, want = (
            _core.debug_draft(demo, tokens, 17, 7, device=device, mode=mode)
            for device in ("cuda", "cpu")
        )
        logits, expected = (
            np.frombuffer(out["logits"], np.float32).reshape(7, -1) for out in (got, want)
        )
        check_rows(logits, expected)
        assert got["tokens"] == logits.argmax(-1).tolist()
        same += sum(a == b for a, b in zip(got["tokens"], want["tokens"], strict=True))
        total += 7
    assert same >= 0.9 * total


@pytest.mark.parametrize("mode", MODES)
def test_greedy_tokens_are_those_of_the_cpu_by_the_margin_rule(demo, engines, mode):
    """Up to the first place where the CPU's own lead is within what roundings do."""
    compared = 0
    for prompt in PROMPTS:
        params = sampled(0, 0.0)
        got, want = (
            list(engines[name].generate(prompt, params, speculation="off").token_ids)
            for name in (mode, "cpu")
        )
        start = tokens_of(engines["cpu"], prompt)
        logits, _ = forward(demo, [*start, *want])
        best = np.sort(logits[len(start) - 1 : -1], axis=-1)
        lead = best[:, -1] - best[:, -2]
        for i, (a, b) in enumerate(zip(got, want, strict=True)):
            if a != b:
                top = np.abs(logits[len(start) - 1 + i]).max()
                assert lead[i] <= OTHER_EXPERT * top, (prompt, i)
                break
            compared += 1
    assert compared > 0.5 * TOKENS * len(PROMPTS)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_law_2_speculation_changes_no_token(engines, mode, temperature):
    engine = engines[mode]
    params = [sampled(seed, temperature) for seed in range(len(PROMPTS))]
    expected = alone(engine, params, "off")
    for speculation in (2, 4, 8, "auto"):
        assert alone(engine, params, speculation) == expected, speculation
        assert together(engine, params, speculation) == expected, speculation
    assert together(engine, params, "off") == expected
    stats = engine.stats()
    assert stats["accepted"] > 100
    assert stats["drafted"] > stats["accepted"]


def test_both_modes_give_the_same_tokens(engines):
    params = [sampled(seed, 0.7 * (seed % 2)) for seed in range(len(PROMPTS))]
    graph, persistent = (alone(engines[mode], params, 8) for mode in MODES)
    assert graph == persistent


@pytest.mark.parametrize("mode", MODES)
def test_rounds_on_the_device_choose_what_the_host_chooses(engines, mode):
    """A request that the device cannot decode alone (it reports log-probabilities) against one
    that it can."""
    for seed, temperature in enumerate((0.0, 0.6, 1.0)):
        plain = sampled(seed, temperature)
        by_host = SamplingParams(
            max_tokens=TOKENS, temperature=temperature, seed=seed, ignore_eos=True, logprobs=1
        )
        for speculation in ("off", 8):
            device, host = (
                engines[mode].generate(PROMPTS[seed], p, speculation=speculation).token_ids
                for p in (plain, by_host)
            )
            assert list(device) == list(host)


RULES = {
    "top_k": {"top_k": 20},
    "top_p": {"top_p": 0.9},
    "min_p": {"min_p": 0.05},
    "penalties": {"repetition_penalty": 1.2, "presence_penalty": 0.3, "frequency_penalty": 0.2},
    "bias": {"logit_bias": {100: 3.0, 32: -2.0}},
    "everything": {
        "top_k": 40,
        "top_p": 0.95,
        "min_p": 0.01,
        "repetition_penalty": 1.1,
        "frequency_penalty": 0.1,
        "logit_bias": {100: 1.5},
    },
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_rules_are_lossless_and_applied_as_on_the_host(engines, mode, rules, temperature):
    """Filters, penalties and bias on the device, with and without drafts, beside others, and chosen
    by the host (which log-probabilities make it do)."""
    common = {"max_tokens": 64, "temperature": temperature, "ignore_eos": True, **rules}
    params = [SamplingParams(seed=seed, **common) for seed in range(len(PROMPTS))]
    by_host = [SamplingParams(seed=seed, logprobs=1, **common) for seed in range(len(PROMPTS))]
    engine = engines[mode]
    want = alone(engine, by_host, "off")
    assert alone(engine, params, "off") == want
    assert alone(engine, params, 8) == want
    assert together(engine, params, "off") == want
    assert together(engine, params, 8) == want
    mixed = [p if seed % 3 else q for seed, (p, q) in enumerate(zip(params, by_host, strict=True))]
    assert together(engine, mixed, "auto") == want


@pytest.mark.parametrize("mode", MODES)
def test_sequences_end_where_they_should(engines, mode):
    engine = engines[mode]
    free = engine.generate(PROMPTS[0], sampled(0, 0.0, 60), speculation="off").token_ids
    for at in (0, 7, 31):
        stop = free[at]
        first = list(free).index(stop)
        params = SamplingParams(max_tokens=60, ignore_eos=True, stop_token_ids=(stop,))
        for speculation in ("off", 8):
            out = engine.generate(PROMPTS[0], params, speculation=speculation)
            assert list(out.token_ids) == list(free[: first + 1])
            assert out.finish_reason == "stop"
    for count in (1, 2, 9):
        out = engine.generate(PROMPTS[0], sampled(0, 0.0, count), speculation=8)
        assert (list(out.token_ids), out.finish_reason) == (list(free[:count]), "length")


@pytest.mark.parametrize("mode", MODES)
def test_acceptance_is_that_of_the_cpu(engines, mode):
    """Where both say the same text: acceptance depends on it, and it may part at a near tie."""
    same, rounds, tokens = 0, {mode: 0, "cpu": 0}, {mode: 0, "cpu": 0}
    for prompt in PROMPTS:
        outputs = {
            name: engines[name].generate(prompt, sampled(0, 0.0), speculation=8)
            for name in (mode, "cpu")
        }
        if list(outputs[mode].token_ids) != list(outputs["cpu"].token_ids):
            continue
        same += 1
        for name, output in outputs.items():
            histogram = output.receipt.accepted_histogram
            rounds[name] += sum(histogram)
            tokens[name] += sum((k + 1) * n for k, n in enumerate(histogram))
    assert same >= len(PROMPTS) // 2
    assert tokens[mode] / rounds[mode] == pytest.approx(tokens["cpu"] / rounds["cpu"], rel=0.03)


def test_the_engine_says_where_it_runs_and_what_that_holds(engines):
    for mode in MODES:
        info, memory = engines[mode].info(), engines[mode].memory()
        assert info["device"] == "cuda"
        assert mode in info["gpu"]
        assert memory["weights"] > 10_000_000
        assert memory["kv_cache"] > 0


def test_a_model_that_does_not_fit_is_an_error_with_numbers(demo):
    with pytest.raises(OutOfMemoryError, match=r"kv pages \d+ of \d+"):
        Engine(demo, progress=False, device="cuda", max_positions=4096, kv_tokens=1 << 34)


def test_a_resident_kernel_that_parked_is_woken(engines):
    params = sampled(1, 0.0, 12)
    want = engines["persistent"].generate(PROMPTS[0], params).token_ids
    for pause in (0.15, 0.25, 0.5):
        time.sleep(pause)
        assert engines["persistent"].generate(PROMPTS[0], params).token_ids == want


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("speculation", ["off", 8])
def test_a_prefix_that_is_found_changes_no_token(demo, mode, speculation):
    """Shared beginnings, a conversation that goes on, another salt, and others in between."""
    options = {"progress": False, "device": "cuda", "mode": mode, "max_batch": 4}
    params = sampled(0, 0.0, 24)
    common = "".join(PROMPTS) * 3
    with (
        Engine(demo, prefix_cache_mib=0, **options) as plain,
        Engine(demo, **options) as cached,
    ):
        start = tokens_of(plain, common)[:200]
        own = [tokens_of(plain, prompt) for prompt in PROMPTS]
        prompts = [start + own[0], start + own[1], start[:100] + own[2], own[3] * 9, start + own[4]]
        hits = []
        for prompt in prompts * 2:
            want = plain.generate(prompt, params, speculation=speculation)
            got = cached.generate(prompt, params, speculation=speculation)
            assert want.receipt.cached_tokens == 0
            assert list(got.token_ids) == list(want.token_ids), hits
            hits.append(got.receipt.cached_tokens)
        assert hits[0] == 0, hits
        assert min(hits[4:7]) >= 192, hits
        turn = cached.generate(prompts[0], params, speculation=speculation)
        again = prompts[0] + list(turn.token_ids) + own[5]
        want, got = (e.generate(again, params, speculation=speculation) for e in (plain, cached))
        assert list(got.token_ids) == list(want.token_ids)
        assert got.receipt.cached_tokens >= len(prompts[0])
        salted = cached.generate(prompts[0], params, speculation=speculation, cache_salt="other")
        assert salted.receipt.cached_tokens == 0
        assert list(salted.token_ids) == list(turn.token_ids)


@pytest.mark.parametrize("mode", MODES)
def test_updated_weights_are_those_of_a_new_engine(demo, mode):
    """Experts, a fused projection and the head, there and back; memory stays as it is."""
    tensors = Checkpoint.open(demo).tensors
    names = [name for name in tensors if "lm_head" in name or "layers.1." in name]
    old = {name: (tensor.dtype, np.array(tensor.data)) for name, tensor in tensors.items()}
    old = {name: old[name] for name in names}
    new = {}
    for name, (dtype, values) in old.items():
        is_code = dtype == "U8" and not name.endswith("scale")
        new[name] = (dtype, values ^ values.dtype.type(0x88)) if is_code else (dtype, values)
    assert any(not np.array_equal(new[name][1], old[name][1]) for name in names)
    options = {"progress": False, "mode": mode, "max_batch": 2}
    params = sampled(0, 0.0, 32)
    prompt = "".join(PROMPTS[:3])
    with Engine(demo, device="cuda", **options) as engine, Engine(demo, device="cpu") as cpu:
        before = list(engine.generate(prompt, params).token_ids)
        memory = engine.memory()
        engine.update_weights(new)
        after = list(engine.generate(prompt, params).token_ids)
        assert list(engine.generate(prompt, params, speculation="off").token_ids) == after
        cpu.update_weights(new)
        expected = list(cpu.generate(prompt, params).token_ids)
        assert after != before
        # Up to a near tie, as everywhere between the two.
        assert after[:2] == expected[:2]
        engine.update_weights(old)
        assert list(engine.generate(prompt, params).token_ids) == before
        assert engine.memory() == memory
