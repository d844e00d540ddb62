"""Gates of the drafter trainer: it learns, what it writes is served, it can be interrupted."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the training code needs PyTorch")

import numpy as np  # noqa: E402
import tiny  # noqa: E402
from training.demo.synthetic import math_document  # noqa: E402

from kilotok import Engine, SamplingParams  # noqa: E402
from kilotok.errors import InvalidRequestError  # noqa: E402
from kilotok.loading import demo_checkpoint  # noqa: E402
from kilotok.training.dflash import trainer as training  # noqa: E402
from kilotok.training.dflash.answers import load_answers, regenerate  # noqa: E402
from kilotok.training.dflash.evaluate import serve, teacher_forced, walk  # noqa: E402
from kilotok.training.dflash.files import read_drafter  # noqa: E402
from kilotok.training.dflash.fresh import fresh_shape  # noqa: E402
from kilotok.training.dflash.optimizer import Rates, cosine, orthogonalize  # noqa: E402
from kilotok.training.dflash.prompts import Prompt, read_prompts, split_held_out  # noqa: E402
from kilotok.training.dflash.run import Job, train_drafter  # noqa: E402
from kilotok.training.dflash.taps import Taps, build_resident, build_store  # noqa: E402
from kilotok.training.dflash.teacher import (  # noqa: E402
    EngineTeacher,
    frozen_parts,
    target_sizes,
)
from kilotok.training.dflash.torch_target import TorchTarget, TorchWriter  # noqa: E402
from kilotok.training.dflash.trainer import Plan  # noqa: E402

PLAN = Plan(steps=12, batch=6, anchors=8, dtype=torch.float32, log_every=1, checkpoint_every=5)


@pytest.fixture(scope="module")
def target(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("target") / "model"
    tiny.write(path, "pro", seed=3)
    return path


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    rng = np.random.default_rng(8)
    with path.open("w") as file:
        for i in range(12):
            tokens = rng.integers(1, 190, int(rng.integers(4, 12))).tolist()
            file.write(json.dumps({"token_ids": tokens, "category": "ab"[i % 2]}) + "\n")
    return path


def job(target: Path, prompts: Path, out: Path, plan: Plan = PLAN, **fields) -> Job:
    shape = fresh_shape(target, layers=2)
    base = Job(
        target=target,
        data=(prompts,),
        out=out,
        plan=plan,
        shape=shape,
        answer_tokens=24,
        text_tokens=64,
        ignore_eos=True,
        device="cpu",
        threads=1,
        eval_prompts=2,
        eval_tokens=24,
    )
    return replace(base, **fields)


def state(folder: Path) -> dict:
    return torch.load(folder / "state.pt", weights_only=True)["optimizer"]


def history(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module", params=["mimo", "z-lab"])
def overfitted(request, target, prompts, tmp_path_factory):
    """A drafter that has seen a few answers often enough to know them."""
    out = tmp_path_factory.mktemp("overfit")
    plan = replace(PLAN, steps=160, batch=8, anchors=23, log_every=20, rates=Rates(0.02, 5e-3, 0.0))
    shape = fresh_shape(target, style=request.param, mask_token_id=5, taps=(0, 2, 3), block=8)
    shape = replace(shape, layers=2, windows=shape.windows[:2], causal=shape.causal[:2])
    # Evaluation on the very prompts that were trained on: answers are greedy, so they are the same.
    run = job(target, prompts, out, plan, shape=shape, held_out=(prompts,), eval_prompts=6)
    return out, train_drafter(run)


def test_overfitting_is_served_as_whole_blocks(overfitted):
    """Export -> engine: what the trainer knows by heart, the engine's drafter proposes."""
    out, evaluation = overfitted
    assert history(out)[-1]["tau"] > 7.0
    assert evaluation["all"]["served"]["tau"] > 6.0


def test_teacher_forced_and_served_tau_agree(overfitted):
    _, evaluation = overfitted
    for row in [evaluation["all"], *evaluation["categories"].values()]:
        assert abs(row["difference_percent"]) < 2
        assert row["served"]["rounds"] > 0


def test_a_run_leaves_its_plots_and_its_report(overfitted):
    out, evaluation = overfitted
    assert json.loads((out / "evaluation.json").read_text()) == evaluation
    assert set(evaluation["categories"]) == {"a", "b"}
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    for name in ("loss.png", "tau.png", "acceptance.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


def test_a_resumed_run_equals_one_that_was_never_stopped(target, prompts, tmp_path):
    train_drafter(job(target, prompts, tmp_path / "whole"))
    stopped = job(target, prompts, tmp_path / "stopped")
    with pytest.MonkeyPatch.context() as patch:
        from kilotok.training.dflash.trainer import Trainer

        one_step = Trainer._one_step

        def fail_at_seven(self, progress):
            if self.step == 7:
                raise KeyboardInterrupt
            return one_step(self, progress)

        patch.setattr(Trainer, "_one_step", fail_at_seven)
        with pytest.raises(KeyboardInterrupt):
            train_drafter(stopped)
    assert state(tmp_path / "stopped")["steps"] == 5
    with pytest.raises(InvalidRequestError, match="--resume"):
        train_drafter(stopped)
    train_drafter(replace(stopped, resume=True))
    a, b = state(tmp_path / "whole"), state(tmp_path / "stopped")
    assert a["steps"] == b["steps"] == 12
    for part in ("masters", "momentum", "first", "second"):
        assert all(torch.equal(a[part][n], b[part][n]) for n in a[part])
    strip = [{**row, "seconds": 0} for row in history(tmp_path / "whole")]
    assert strip == [{**row, "seconds": 0} for row in history(tmp_path / "stopped")]
    other = replace(stopped, resume=True, plan=replace(PLAN, steps=99))
    with pytest.raises(InvalidRequestError, match="schedule"):
        train_drafter(other)


def test_two_ranks_and_accumulation_train_as_one(target, prompts, tmp_path):
    train_drafter(job(target, prompts, tmp_path / "one"))
    parts = replace(PLAN, accumulate=3)
    train_drafter(job(target, prompts, tmp_path / "parts", parts))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "kilotok", "train-drafter", target]
    options = "--layers 2 --steps 12 --batch 6 --anchors 8 --dtype float32 --log-every 1 "
    options += "--answer-tokens 24 --text-tokens 64 --ignore-eos --device cpu --threads 1 "
    options += "--eval-prompts 2 --eval-tokens 24 --temperatures 0:1 --weighting decay"
    command += ["--data", prompts, "--out", tmp_path / "two", *options.split()]
    done = subprocess.run(
        list(map(str, command)),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one = history(tmp_path / "one")
    for other in ("parts", "two"):
        rows = history(tmp_path / other)
        assert [r["step"] for r in rows] == [r["step"] for r in one]
        np.testing.assert_allclose(
            [r["loss"] for r in rows], [r["loss"] for r in one], rtol=2e-4, atol=2e-4
        )


def test_torch_reads_and_writes_as_the_engine_does(target):
    taps = (0, 1, 3)
    torch_target = TorchTarget(target, taps, torch.device("cpu"), torch.float32)
    rng = np.random.default_rng(1)
    texts = [rng.integers(1, 190, n).tolist() for n in (5, 30, 17)]
    engine_taps = EngineTeacher(target, taps, 64, threads=1).taps(texts)
    for got, want in zip(torch_target.taps(texts), engine_taps, strict=True):
        # The engine's taps are rounded to BF16 on their way to the trainer.
        torch.testing.assert_close(got, want.float(), rtol=1e-2, atol=1e-3)
    written = TorchWriter(torch_target, 16, ()).write(texts, [0.0] * 3, 1)
    with Engine(target, progress=False, threads=1) as engine:
        params = SamplingParams(max_tokens=16, ignore_eos=True)
        assert written == [o.token_ids for o in engine.generate(texts, params)]
    warm = TorchWriter(torch_target, 16, (written[0][3],)).write(texts, [0.0, 1.0, 1.0], 1)
    assert warm[0] == written[0][: written[0].index(written[0][3]) + 1]


def test_answers_that_ended_by_the_clock_are_the_same_when_a_run_goes_on(tmp_path):
    class Echo:
        batch = 2

        def write(self, prompts, *_):
            return [[1, 2, 3] for _ in prompts]

    asked = [Prompt((n,), "a") for n in range(6)]
    first = regenerate(asked, Echo(), tmp_path, [(0.0, 1.0)], 1, seconds=0.0)
    assert len(first) == 2
    again = regenerate(asked, Echo(), tmp_path, [(0.0, 1.0)], 1, seconds=60.0)
    assert again.digest() == first.digest() == load_answers(tmp_path).digest()


def test_taps_on_the_device_are_those_of_the_file(target, prompts, tmp_path):
    train_drafter(job(target, prompts, tmp_path, replace(PLAN, steps=1)))
    answers, layers = load_answers(tmp_path / "answers"), (0, 1, 3)
    teacher = EngineTeacher(target, layers, 64, threads=1)
    width = teacher.taps([[1, 2]])[0].shape[1]
    kept = Taps(answers, teacher, build_resident(answers, teacher, width, torch.device("cpu")), 0)
    file = Taps(answers, teacher, build_store(answers, teacher, tmp_path / "t", width), width)
    chosen, size = [3, 0], 48
    length = torch.from_numpy(answers.lengths()[chosen])
    starts = torch.from_numpy(answers.offsets[chosen])
    rows = (starts[:, None] + torch.arange(size)).clamp_max(len(answers.tokens) - 1)
    tokens = torch.zeros(2, size, dtype=torch.long)
    got, want = kept.padded(chosen, tokens, rows), file.padded(chosen, tokens, rows)
    assert got.shape == want.shape == (2, size, width)
    for row, n in enumerate(length.tolist()):
        assert torch.equal(got[row, :n], want[row, :n])


def test_held_out_prompts_may_be_longer_than_what_was_trained_on(target, prompts, tmp_path):
    held_out = tmp_path / "held.jsonl"
    held_out.write_text(json.dumps({"token_ids": list(range(1, 61)), "category": "long"}) + "\n")
    run = job(target, prompts, tmp_path / "run", replace(PLAN, steps=1), held_out=(held_out,))
    assert train_drafter(run)["categories"]["long"]["served"]["rounds"] > 0


def test_a_step_whose_backward_pass_does_not_compile_runs_eagerly(
    target, prompts, tmp_path, monkeypatch, capsys
):
    def half_broken(function, dynamic):
        assert not dynamic

        def call(*arguments):
            loss, *rest = function(*arguments)
            loss.register_hook(lambda gradient: 1 / 0)
            return loss, *rest

        return call

    train_drafter(job(target, prompts, tmp_path / "plain"))
    monkeypatch.setattr(training.torch, "compile", half_broken)
    train_drafter(job(target, prompts, tmp_path / "fallen", replace(PLAN, compile=True)))
    assert "stays eager" in capsys.readouterr().err
    losses = [[r["loss"] for r in history(tmp_path / n)] for n in ("plain", "fallen")]
    assert losses[0] == losses[1]


def test_walking_drafts_counts_the_engines_rounds():
    # Four answer tokens behind the first: all drafts right, in blocks of three rows.
    assert walk([4, 3, 2, 1], 3, 5) == ([0, 0, 1], 3)
    assert walk([0, 0, 0, 0, 0], 3, 6) == ([4, 0, 0], 4)
    assert walk([2, 0, 0, 1, 0], 3, 6) == ([0, 1, 1], 5)


def test_walking_drafts_beyond_the_token_that_ends_an_answer():
    # The fourth and last token ends the answer, of which the engine had room for twenty.
    assert walk([3, 2, 1], 4, 20) == ([0, 0, 0, 1], 3)
    assert walk([3, 2, 1], 8, 20) == ([0, 0, 0, 1, 0, 0, 0, 0], 3)
    assert walk([2, 0, 1], 4, 20) == ([0, 0, 1, 0], 3)
    assert walk([0, 2, 1], 2, 20) == ([1, 1], 3)
    assert walk([1, 1, 1], 2, 20) == ([0, 2], 3)


def test_answers_that_end_themselves_are_forced_as_they_are_served():
    """The demo's sums end with a token of their own, which is a draft or a bonus token."""
    directory = demo_checkpoint()
    _, layers, vocab = target_sizes(directory)
    shape, w = read_drafter(directory / "dflash", vocab, layers)
    frozen = frozen_parts(directory, torch.float32, torch.device("cpu"))
    rng = random.Random(4)
    with Engine(progress=False, threads=1, max_batch=2) as engine:
        asked = [Prompt(tuple(engine.encode(math_document(rng)[0])), "math") for _ in range(12)]
        answers, served = serve(engine, asked, shape.block, 128)
    assert all(len(answer) < 128 for answer in answers)
    teacher = EngineTeacher(directory, shape.taps, 512, threads=1)
    forced = teacher_forced(shape, w, frozen, teacher, asked, answers, 128)
    assert forced.tokens == [len(answer) - 1 for answer in answers]
    # A round without drafts, by which the engine times a plain step, counts in neither.
    assert all(a - b in (0, 1) for a, b in zip(forced.tokens, served.tokens, strict=True))
    assert forced.tau == pytest.approx(served.tau, rel=0.02)


def test_the_rate_warms_up_and_falls_to_nothing():
    assert cosine(0.0) == 0
    assert cosine(0.02) == pytest.approx(0.5)
    assert cosine(0.04) == pytest.approx(1.0)
    assert cosine(0.52) == pytest.approx(0.5)
    assert cosine(0.9999) < 1e-6


def test_orthogonalised_updates_have_singular_values_near_one():
    g = torch.randn(2, 24, 40, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalize(g))
    assert values.min() > 0.5
    assert values.max() < 1.5


def test_prompt_lines_that_cannot_be_read_are_named(tmp_path):
    def read(text: str):
        path = tmp_path / "p.jsonl"
        path.write_text(text)
        return read_prompts([path], lambda t: [len(t)], lambda m, t: [1], 8)

    assert read('{"prompt": "ab"}\n{"token_ids": [1, 2]}')[1].token_ids == (1, 2)
    for line, reason in [
        ("{", "line 1"),
        ("[]", "object"),
        ('{"text": 1}', "one of prompt"),
        ('{"token_ids": [-1]}', "token ids"),
        ("", "no prompts"),
    ]:
        with pytest.raises(InvalidRequestError, match=reason):
            read(line)


def test_held_out_prompts_are_not_trained_on(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(json.dumps({"token_ids": [i % 30]}) for i in range(45)))
    train, held = split_held_out(read_prompts([path], list, list, 9), 3, 1)
    assert len(held) == 3
    assert not {p.token_ids for p in held} & {p.token_ids for p in train}
