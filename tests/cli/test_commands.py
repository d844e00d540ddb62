"""What each command prints."""

import json

import pytest

from kilotok import Engine, SamplingParams

PROMPT = "in the "


@pytest.fixture(scope="module")
def expected(model):
    with Engine(model, progress=False) as engine:
        return engine.generate(PROMPT, SamplingParams(max_tokens=24, temperature=0.7, seed=4))


SAMPLED = ["--max-tokens", 24, "--temperature", 0.7, "--seed", 4]


def test_generate_streams_the_text_and_ends_with_the_receipt(kilotok, model, expected):
    done = kilotok("generate", PROMPT, "-m", model, *SAMPLED)
    assert done.stdout == (PROMPT + expected.text + "\n").replace("\r\n", "\n").replace("\r", "\n")
    lines = done.stderr.strip().splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["prompt", "output", "speculation"]
    assert f"{len(expected.token_ids)} tokens" in lines[1]


def test_generate_quietly(kilotok, model, expected):
    done = kilotok("generate", PROMPT, "-m", model, "--quiet", *SAMPLED)
    assert done.stderr == ""
    assert done.stdout == (expected.text + "\n").replace("\r\n", "\n").replace("\r", "\n")


def test_generate_json(kilotok, model, expected):
    for source in ([PROMPT], ["-"]):
        done = kilotok("generate", *source, "-m", model, "--json", *SAMPLED, input=PROMPT)
        (completion,) = json.loads(done.stdout)["completions"]
        assert completion["token_ids"] == expected.token_ids
        assert completion["finish_reason"] == expected.finish_reason
        receipt = completion["receipt"]
        assert receipt["tokens"] == len(expected.token_ids)
        assert {
            "prompt_tokens",
            "prefill_ms",
            "ttft_ms",
            "tokens",
            "rounds",
            "tau",
            "accepted_histogram",
            "tokens_per_s",
            "plain_step_ms",
            "speedup",
        } <= set(receipt)


def test_generate_from_a_file_or_token_ids(kilotok, model, ids_model, expected, tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_text(PROMPT)
    done = kilotok("generate", "-f", file, "-m", model, "--json", *SAMPLED)
    assert json.loads(done.stdout)["completions"][0]["token_ids"] == expected.token_ids
    ids = ",".join(map(str, expected.prompt_token_ids))
    done = kilotok("generate", "--token-ids", ids, "-m", model, "--json", *SAMPLED)
    assert json.loads(done.stdout)["completions"][0]["token_ids"] == expected.token_ids
    done = kilotok("generate", "--token-ids", "5,6", "-m", ids_model, "--max-tokens", 3)
    assert all(word.isdigit() for word in done.stdout.split())
    assert "tokenizer" in kilotok("generate", "x", "-m", ids_model, code=2).stderr
    kilotok("generate", "--token-ids", "5,x", "-m", ids_model, code=2)
    kilotok("generate", "-f", tmp_path / "absent", "-m", model, code=2)
    kilotok("generate", "-m", model, code=2)


def test_generate_stops(kilotok, model, expected):
    stop = expected.text[4]
    done = kilotok("generate", PROMPT, "-m", model, "--quiet", *SAMPLED, "--stop", stop, "--json")
    (completion,) = json.loads(done.stdout)["completions"]
    assert completion["text"] == expected.text[: expected.text.index(stop)]
    assert completion["stop_reason"] == stop


def test_chat_answers_every_line(kilotok, model):
    arguments = ["-m", model, "--max-tokens", 8, "--system", "be"]
    first = kilotok("chat", *arguments, input="hi there\n")
    assert "tokens" in first.stderr
    both = kilotok("chat", *arguments, input="hi there\n\n/reset\nhi there\n/exit\nnever\n")
    assert both.stdout == first.stdout * 2
    assert kilotok("chat", *arguments, input="").stdout == ""


def test_chat_without_a_template(kilotok, ids_model):
    assert "tokenizer" in kilotok("chat", "-m", ids_model, code=2, input="hi\n").stderr


def _has_engine_kernels(gpu):
    return any(device["runs"].get("engine") for device in gpu["devices"][:1])


def test_doctor(kilotok):
    report = json.loads(kilotok("doctor", "--json").stdout)
    assert report["cpu"]["best"] in report["cpu"]["simd"]
    assert "scalar" in report["cpu"]["simd"]
    assert report["cpu"]["cores"] >= 1
    assert report["memory"]["total"] > 1 << 20
    device = report["would_run"]["device"]
    assert device == ("cuda" if _has_engine_kernels(report["gpu"]) else "cpu")
    assert set(report["would_run"]["not_run"]) == {"cpu", "cuda"} - {device}
    assert {"driver", "kernels"} <= {
        line.split(":")[0] for line in report["gpu"]["text"].split("\n")
    }
    text = kilotok("doctor").stdout
    for word in ("cpu:", "SIMD paths:", "memory:", "driver:", f"would run on: {device}"):
        assert word in text


def test_bench_compares_off_and_on(kilotok, model):
    arguments = ["-m", model, "--max-tokens", 16, "--prefill-tokens", 40, "--repeats", 1]
    result = json.loads(kilotok("bench", *arguments, "--speculation", 8, "--json").stdout)
    assert [entry["speculation"] for entry in result["decode"]] == ["off", 8]
    assert all(entry["tokens"] == 16 for entry in result["decode"])
    assert all(entry["tokens_per_s"] > 0 for entry in result["decode"])
    assert result["decode"][0]["tau"] == 1.0
    assert result["prefill"]["tokens"] == 40
    assert result["same_tokens"] is True
    text = kilotok("bench", *arguments).stdout
    assert "prefill" in text
    assert "speculation off" in text
    assert "the same tokens" in text


def test_bench_without_a_drafter(kilotok, model):
    arguments = ["-m", model, "--drafter", "none", "--max-tokens", 4, "--repeats", 1, "--json"]
    result = json.loads(kilotok("bench", *arguments).stdout)
    assert [entry["speculation"] for entry in result["decode"]] == ["off"]


def test_inspect(kilotok, model):
    report = json.loads(kilotok("inspect", model, "--json").stdout)
    assert report["model"]["vocab"] == 288
    text = kilotok("inspect", model).stdout
    assert "mimo_v2" in text
