"""``kilotok bench-serve`` against servers whose speed is known."""

import json
import os
import subprocess

import pytest

TOKENS = 40


@pytest.fixture(scope="module")
def bench(binary):
    def run(server, *arguments, code=0, key="test-key"):
        done = subprocess.run(
            [binary, "bench-serve", server.url, "--json", *map(str, arguments)],
            env=os.environ | {"KILOTOK_API_KEY": key},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, done.stderr + done.stdout
        return json.loads(done.stdout) if done.stdout else done.stderr

    return run


@pytest.fixture(scope="module")
def simulated(start):
    return start("--simulate", "200")


def test_a_closed_loop_counts_every_token(bench, simulated):
    found = bench(simulated, "--concurrency", 4, "--requests", 12, "--max-tokens", TOKENS)
    assert found["requests"] == {"done": 12, "refused": 0, "failed": 0}
    assert found["output_tokens"] == 12 * TOKENS
    # Every token after the first is one observation; the simulated model takes 5 ms for each.
    assert found["itl_ms"]["count"] == 12 * (TOKENS - 1)
    assert found["itl_counted_per_token"]
    assert found["itl_ms"]["mean"] > 4.9
    # First token and gaps add up to the reply, up to its last event.
    sums = found["ttft_ms"]["mean"] + (TOKENS - 1) * found["itl_ms"]["mean"]
    assert 0.9 * found["e2e_ms"]["mean"] < sums <= found["e2e_ms"]["mean"] * 1.001
    # Four at once share rounds: more tokens than one alone could get.
    assert found["output_tokens_per_s"] > 1.5 / (found["itl_ms"]["mean"] / 1000)


def test_an_open_loop_sends_at_its_rate(bench, simulated):
    options = ("--rate", 20, "--requests", 20, "--max-tokens", 4, "--seed", 3)
    first, again = (bench(simulated, *options) for _ in range(2))
    assert first["requests"]["done"] == 20
    assert 0.5 < first["seconds"] < 4
    assert abs(first["seconds"] - again["seconds"]) < 0.5, "the moments are the seed's"
    limited = bench(simulated, "--rate", 20, "--requests", 10_000, "--duration-s", 0.5)
    assert limited["requests"]["done"] < 60


def test_refusals_are_counted(bench, start):
    server = start("--simulate", "200", "--max-queue", "0", "--max-batch", "1")
    found = bench(server, "--rate", 200, "--requests", 40, "--max-tokens", 20)
    assert found["requests"]["refused"] > 20
    assert found["requests"]["done"] + found["requests"]["refused"] == 40
    assert found["requests"]["failed"] == 0


def test_tau_comes_from_the_receipts(bench, server):
    options = ("--requests", 3, "--max-tokens", TOKENS, "--speculation")
    drafting = bench(server, *options, 8)
    assert drafting["rounds_with_drafts"] > 0
    assert 1 <= drafting["tau"] <= 8
    assert bench(server, *options, "off")["tau"] is None


def test_prompts_of_a_file(bench, simulated, tmp_path):
    prompts = tmp_path / "prompts"
    prompts.write_text(
        'plain\n\n{"prompt": [1, 2, 3]}\n{"messages": [{"role": "user", "content": "x"}]}\n'
    )
    options = ("--requests", 6, "--max-tokens", 3, "--prompts", prompts)
    assert bench(simulated, *options)["requests"]["done"] == 6
    prompts.write_text('{"text": "x"}\n')
    assert "line 1" in bench(simulated, *options, code=1)


def test_failures_are_told(bench, simulated):
    assert "401" in bench(simulated, code=1, key="wrong")
    found = bench(simulated, "--max-tokens", 10**6, "--requests", 2, code=1)
    assert found["requests"]["failed"] == 2
    assert "positions" in next(iter(found["errors"]))


def test_the_table(binary, simulated):
    done = subprocess.run(
        [binary, "bench-serve", simulated.url, "--requests", "2", "--max-tokens", "3"],
        env=os.environ | {"KILOTOK_API_KEY": "test-key"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "requests  2 done, 0 refused (429), 0 failed" in done.stdout
    assert "between tokens  " in done.stdout
