"""``kilotok verify`` as its users run it."""

import json
import shutil

import pytest

from kilotok.cli import verify
from kilotok.errors import InvalidRequestError
from kilotok.verify import Prompt, Result
from kilotok.verify.subject import read_prompts


def test_verify_prints_a_certificate(kilotok):
    arguments = ["verify", "--device", "cpu", "--quick", "--tokens", 24]
    report = json.loads(kilotok(*arguments, "--json", code=3).stdout)
    assert report["verdict"] == "INCOMPLETE"
    found = {check["check"]: check["outcome"] for check in report["checks"]}
    assert found["tau of the drafter"] == "PASS"
    assert found["speculation on == off, greedy"] == "PASS"
    assert found["speculation on == off, sampled"] == "PASS"
    assert found["batched == alone"] == "PASS"
    assert found["chunked prefill == one go, bits of logits"] == "PASS"
    assert found["graph == persistent, bits of logits"] == "NOT RUN"
    text = kilotok(*arguments, "--allow-incomplete").stdout
    assert "verdict   INCOMPLETE: 5 passed, 0 failed, 2 not run" in text
    assert report["model"]["sha256_of_headers"] in text


@pytest.mark.parametrize(
    ("outcomes", "verdict", "code"),
    [
        (["PASS", "PASS"], "PASS", 0),
        (["PASS", "NOT RUN"], "INCOMPLETE", 3),
        (["FAIL", "NOT RUN"], "FAIL", 1),
        (["PASS", "FAIL"], "FAIL", 1),
    ],
)
def test_the_verdict_and_the_exit_code_follow_the_outcomes(outcomes, verdict, code):
    results = [Result("a check", outcome, "as found") for outcome in outcomes]
    assert verify._verdict(results) == verdict
    assert verify._EXIT_CODES[verdict] == code


def test_verify_fails_with_1(kilotok, model):
    # Its drafter is random: right tokens, and none of its drafts accepted.
    arguments = ["verify", model, "--device", "cpu", "--quick", "--tokens", 12]
    kilotok(*arguments, "--allow-incomplete", code=1)
    text = kilotok(*arguments, code=1).stdout
    assert "FAIL     tau of the drafter" in text
    assert "1 failed" in text
    assert "--tokens" in kilotok("verify", model, "--tokens", 0, code=2).stderr


def test_verify_reads_prompts(tmp_path):
    file = tmp_path / "prompts"
    file.write_text('in the \n{"prompt": "and of", "category": "prose"}\n\n{"prompt": [5, 6]}\n')
    assert read_prompts(str(file), has_tokenizer=True, vocab=9) == (
        Prompt("in the "),
        Prompt("and of", "prose"),
        Prompt([5, 6]),
    )
    with pytest.raises(InvalidRequestError, match="no tokenizer"):
        read_prompts(str(file), has_tokenizer=False, vocab=9)
    for bad in ('{"text": 5}', '{"prompt": 5}', ""):
        file.write_text(bad)
        with pytest.raises(InvalidRequestError, match="--prompts"):
            read_prompts(str(file), has_tokenizer=True, vocab=9)


def test_the_fingerprint_follows_headers_and_configurations(model, tmp_path):
    copy = shutil.copytree(model, tmp_path / "copy")
    assert verify.fingerprint(copy) == verify.fingerprint(model)
    config = copy / "config.json"
    config.write_text(config.read_text() + "\n")
    assert verify.fingerprint(copy) != verify.fingerprint(model)
