"""Every check passes with a sound engine, and fails with one that breaks its promise."""

from types import SimpleNamespace

import pytest

np = pytest.importorskip("numpy")

from kilotok.errors import EngineDeadError, OutOfMemoryError  # noqa: E402
from kilotok.verify import Prompt, Subject, run_checks  # noqa: E402

VOCAB = 50
GREEDY, SAMPLED, BATCH, CHUNKS, MODES, DEVICES, TAU = range(7)


class Fake:
    """An engine whose tokens and logits are a rule, and which may break it."""

    has_tokenizer = True

    def __init__(self, **faults):
        self.faults = faults

    def info(self):
        return {"drafter": None if "no_drafter" in self.faults else {"block_size": 8}}

    def encode(self, text):
        return [ord(c) % VOCAB for c in text]

    def generate(self, content, params, *, speculation):
        if "error" in self.faults:
            raise self.faults["error"]
        if isinstance(content, list):
            outputs = [self.generate(c, params, speculation=speculation) for c in content]
            if "batch" in self.faults:
                outputs[-1].token_ids[-1] += 1
            return outputs
        tokens = [(ord(content[0]) + i + params.seed) % VOCAB for i in range(params.max_tokens)]
        if params.temperature == 0 and speculation == self.faults.get("greedy"):
            tokens[5] += 1
        if params.temperature > 0 and speculation == self.faults.get("sampled"):
            tokens.pop()
        histogram = self.faults.get("histogram", (4, 0, 0, 6))
        warning = self.faults.get("warning")
        return SimpleNamespace(
            token_ids=tokens,
            receipt=SimpleNamespace(accepted_histogram=histogram, warning=warning),
        )

    def forward(self, token_ids, *, device, mode, chunk=None, beside=None):
        logits = np.random.default_rng(len(token_ids)).normal(size=(len(token_ids), VOCAB))
        if device == "cuda":
            logits = self.faults.get("gpu", lambda x: x * (1 + 1e-3))(logits.copy())
        logits = logits.astype(np.float32)
        if "mode" in self.faults and mode == "graph":
            logits[3, 7] = np.nextafter(logits[3, 7], np.float32(np.inf))
        if ("chunk" in self.faults and chunk) or ("company" in self.faults and beside):
            logits[3, 7] = np.nextafter(logits[3, 7], np.float32(np.inf))
        return logits.tobytes()


def outcomes(fake, *, gpu=True, min_tau=None, quick=False):
    prompts = tuple(Prompt(f"{c} prompt", c) for c in "abcd")
    subject = Subject(fake, fake.forward, prompts, tokens=20, quick=quick)
    return list(run_checks(subject, gpu=gpu, why_no_gpu="asked for", min_tau=min_tau))


@pytest.mark.parametrize("quick", [False, True])
def test_a_sound_engine_passes_everything(quick):
    results = outcomes(Fake(), quick=quick)
    assert [r.outcome for r in results] == ["PASS"] * 7, results


def shifted(logits):
    return np.roll(logits, 1, axis=-1)


def scaled(logits):
    return logits * 1.1


def not_finite(logits):
    logits[0, 0] = np.nan
    return logits


@pytest.mark.parametrize(
    ("faults", "broken", "said"),
    [
        ({"greedy": 2}, GREEDY, "block 2"),
        ({"greedy": 8}, GREEDY, "token 5"),
        ({"greedy": "auto"}, GREEDY, "block auto"),
        ({"sampled": 4}, SAMPLED, "19 tokens, expected 20"),
        ({"batch": True}, BATCH, "prompt 3, token 19"),
        ({"chunk": True}, CHUNKS, "first at value 157"),
        ({"company": True}, CHUNKS, "beside other sequences"),
        ({"mode": True}, MODES, "first at value 157"),
        ({"gpu": shifted}, DEVICES, "largest error"),
        ({"gpu": scaled}, DEVICES, "100% beyond 3%"),
        ({"gpu": not_finite}, DEVICES, "not finite"),
        ({"histogram": (10,)}, TAU, "not one draft"),
        ({"warning": "mask_embedding"}, TAU, "mask_embedding"),
    ],
)
def test_each_fault_is_caught_by_its_check_alone(faults, broken, said):
    results = outcomes(Fake(**faults))
    assert [i for i, r in enumerate(results) if r.outcome == "FAIL"] == [broken], results
    if said != "largest error":
        assert said in results[broken].detail


def test_what_is_not_compared_is_not_passed():
    results = outcomes(Fake(no_drafter=True), gpu=False)
    for at in (GREEDY, SAMPLED, MODES, DEVICES, TAU):
        assert results[at].outcome == "NOT RUN"
        assert results[at].detail
    assert results[BATCH].outcome == results[CHUNKS].outcome == "PASS"
    assert outcomes(Fake(histogram=(3, 1)))[TAU].outcome == "NOT RUN"


def test_tau_is_held_to_what_was_asked_for():
    # 4 rounds with nothing and 6 with three: 2.8 tokens per round.
    assert outcomes(Fake(), min_tau=2.79)[TAU].outcome == "PASS"
    result = outcomes(Fake(), min_tau=2.81)[TAU]
    assert result.outcome == "FAIL"
    assert "a 2.80, b 2.80" in result.detail


def test_an_engine_that_dies_fails_and_one_without_memory_is_not_run():
    dead = outcomes(Fake(error=EngineDeadError("gone")))
    assert dead[GREEDY].outcome == "FAIL"
    assert "gone" in dead[GREEDY].detail
    assert outcomes(Fake(error=OutOfMemoryError("full")))[GREEDY].outcome == "NOT RUN"
