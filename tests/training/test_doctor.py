"""Every acceptance incident of MiMo drafters, injected on purpose, is diagnosed by name.

Incidents of files are injected into a copy of the demo drafter. Incidents of engines, which this
engine does not have, are injected as a log of what such an engine drafts.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kilotok import Engine
from kilotok.loading import demo_checkpoint
from kilotok.reference.checkpoint import read_safetensors
from kilotok.training.doctor.check import check, check_texts, examine, read_log
from kilotok.training.doctor.diagnose import Case, Finding, Served, explain
from kilotok.training.doctor.files import check_files
from kilotok.training.doctor.forward import draft_logits
from kilotok.training.doctor.patient import read_parts, read_target, read_texts, write_texts
from kilotok.training.doctor.reading import reading_of
from kilotok.training.record import RECORD, target_digest

PROMPTS = (
    "import argparse\nimport json\n\n\ndef read_lines(path):\n    ",
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(",
    "def main():\n    parser = argparse.ArgumentParser()\n    ",
)
WEIGHTS = "dflash_draft_model.safetensors"
BLOCKS = 36


class Demo:
    """The demo target with its greedy texts; read once, for every drafter."""

    def __init__(self) -> None:
        self.target = demo_checkpoint()
        self.drafter = self.target / "dflash"
        self.target_parts = read_target(self.target)
        self.parts = read_parts(self.target_parts, self.drafter)
        self.parts = replace(self.parts, tappable=frozenset(range(-1, 8)))
        with Engine(self.target, progress=False, threads=1) as engine:
            prompts = [(engine.encode(text), "code") for text in PROMPTS]
            written, _ = write_texts(engine, prompts, 56, 8)
        self.texts = read_texts(self.target, self.parts, written, threads=1)
        self.case = Case.of(self.parts, self.texts, BLOCKS)
        self.reading = reading_of(self.parts.config)


@pytest.fixture(scope="module")
def demo():
    return Demo()


@pytest.fixture
def copy(demo, tmp_path) -> Path:
    return Path(shutil.copytree(demo.drafter, tmp_path / "drafter"))


def configure(drafter: Path, nested: dict | None = None, **top) -> None:
    path = drafter / "config.json"
    config = json.loads(path.read_text())
    config |= top
    config["dflash_config"] |= nested or {}
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def edit(drafter: Path, change) -> None:
    """Rewrite the weights, as BF16 bits by name."""
    bits = {n: np.array(t.data) for n, t in read_safetensors(drafter / WEIGHTS).items()}
    change(bits)
    header, at = {}, 0
    for name, array in bits.items():
        header[name] = {
            "dtype": "BF16",
            "shape": array.shape,
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    text = json.dumps(header).encode()
    blob = b"".join(np.ascontiguousarray(a).tobytes() for a in bits.values())
    (drafter / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + blob)


def diagnose(demo: Demo, drafter: Path, blocks: int = BLOCKS):
    parts = read_parts(demo.target_parts, drafter)
    return check_texts(demo.target, drafter, parts, demo.texts, blocks, threads=1)


def refusal(demo: Demo, drafter: Path) -> str:
    report = check(demo.target, drafter, [([11, 12, 13], "code")], tokens=4, threads=1)
    assert report.faults == ["load"]
    return report.findings[0].message


def served(demo: Demo, **wrong) -> list[Served]:
    """What an engine drafts that reads the demo drafter wrongly."""
    reading, out = replace(demo.reading, **wrong), []
    count = 4 if reading.last_rows else 7
    for number, (text, anchors) in enumerate(zip(demo.texts, demo.case.anchors, strict=True)):
        tokens = draft_logits(demo.parts, reading, text, anchors).argmax(-1)
        taken = tokens[:, -count:] if reading.last_rows else tokens[:, :count]
        out += [Served(number, a, tuple(map(int, t))) for a, t in zip(anchors, taken, strict=True)]
    return out


def explained(demo: Demo, parts=None, **wrong) -> Finding:
    """The finding about an engine that reads the demo drafter wrongly."""
    case = demo.case if parts is None else replace(demo.case, parts=parts)
    agreement, finding = explain(case, demo.reading, served(demo, **wrong))
    assert agreement < 0.97
    assert finding is not None
    return finding


def test_a_healthy_drafter_gets_a_clean_bill(demo):
    report = diagnose(demo, demo.drafter)
    assert report.findings == []
    assert report.agreement > 0.98
    assert report.tau == report.best_tau > 3


def test_01_the_sidecar_of_the_masks_is_missing(demo, copy):
    (copy / "mask_embedding.pt").unlink()
    report = diagnose(demo, copy)
    assert report.faults == ["mask_embedding"]
    assert "mask_embedding.pt" in report.findings[0].message
    assert report.tau < 2.5


@pytest.mark.parametrize(("taps", "blocks"), [([0, 1, 4, 6], BLOCKS), ([0, 2, 5, 6], 3 * BLOCKS)])
def test_02_taps_off_by_one(demo, copy, taps, blocks):
    configure(copy, {"target_layer_ids": taps})
    # One neighbouring layer differs little: that takes more blocks to tell from chance.
    report = diagnose(demo, copy, blocks)
    assert report.faults == ["taps"]
    assert ", 5, 7]" in report.findings[0].message
    assert report.best_tau > report.tau + 0.15


def test_02_an_engine_that_taps_before_the_layer(demo):
    finding = explained(demo, taps=(-1, 1, 4, 6))
    assert finding.name == "taps"
    assert "[-1, 1, 4, 6]" in finding.message


def test_03_the_last_layers_tap_is_missing(demo, copy):
    configure(copy, {"target_layer_ids": [0, 2, 5]})
    assert "fc.weight" in refusal(demo, copy)


def test_03_the_last_layers_tap_is_taken_after_the_final_norm(demo):
    assert explained(demo, final_tap_normed=True).name == "final_tap_norm"


def test_04_the_drafters_vocabulary_is_another(demo, copy):
    configure(copy, vocab_size=4000)
    report = diagnose(demo, copy)
    assert report.faults == []
    assert [f.name for f in report.findings] == ["vocab_size"]
    assert report.agreement > 0.98


def test_04_an_engine_that_gave_the_drafter_an_empty_head(demo):
    assert explained(demo, head="empty").name == "head"


def test_05_keys_and_values_in_another_layout(demo, copy):
    assert explained(demo, mixed_heads=True).name == "kv_layout"

    def mix(bits):
        for name in list(bits):
            if name.endswith(("k_proj.weight", "v_proj.weight")):
                heads = bits[name].reshape(2, 64, -1)
                bits[name] = heads.transpose(1, 0, 2).reshape(128, -1)

    edit(copy, mix)
    assert diagnose(demo, copy).faults == ["kv_layout"]


def test_06_a_sequence_gets_the_wrong_causal_flag(demo, copy):
    assert explained(demo, causal=(True,) * 3).name == "causality"
    configure(copy, is_causal=True)
    assert diagnose(demo, copy).faults == ["causality"]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"partial_rotary_factor": 1.0}, "rotary_fraction"),
        ({"rope_theta": 5_000_000.0}, "theta"),
    ],
)
def test_07_rotary_of_the_whole_head_or_of_another_base(demo, copy, change, name):
    configure(copy, **change)
    report = diagnose(demo, copy)
    assert report.faults == [name]


def test_07_a_value_scale_that_is_ignored_shows_in_the_drafts(demo):
    assert explained(demo, value_scale=1.0).name == "value_scale"


def test_08_context_at_wrong_positions(demo):
    finding = explained(demo, context_shift=1)
    assert finding.name == "context_positions"
    assert "+1" in finding.message


def test_09_keys_beyond_the_sequence(demo):
    assert explained(demo, overhang=64).name == "overhang"


def test_10_sliding_layers_taken_as_causal_or_one_sided(demo, copy):
    configure(copy, {"use_swa": None}, layer_types=["sliding_attention"] * 3)
    config = json.loads((copy / "config.json").read_text())
    del config["dflash_config"]["use_swa"]
    (copy / "config.json").write_text(json.dumps(config))
    assert diagnose(demo, copy).faults == ["causality"]


def test_10_a_window_that_is_too_short(demo, copy):
    configure(copy, {"swa_window_size": 9})
    report = diagnose(demo, copy)
    assert report.faults == ["window"]


def test_11_sinks_that_were_lost(demo, copy):
    def lose(bits):
        for name in bits:
            if name.endswith("attention_sink_bias"):
                bits[name][:] = 0

    edit(copy, lose)
    assert diagnose(demo, copy).faults == ["sinks"]


def test_11_sinks_that_an_engine_does_not_load_or_slice(demo, copy):
    for wrong in ("none", "rolled"):
        assert explained(demo, sinks=wrong).name == "sinks"
    configure(copy, {"attention_sink_bias": False})
    assert "attention_sink_bias" in refusal(demo, copy)


def test_12_keys_and_values_swapped_by_a_fused_projection(demo, copy):
    assert explained(demo, swapped_kv=True).name == "fused_kv"

    def swap(bits):
        for i in range(3):
            k, v = (f"layers.{i}.self_attn.{p}_proj.weight" for p in "kv")
            bits[k], bits[v] = bits[v], bits[k]

    edit(copy, swap)
    assert diagnose(demo, copy).faults == ["fused_kv"]


def test_13_a_cached_prefix_without_taps(demo):
    assert explained(demo, context_lost=32).name == "prefix"


def test_14_the_drafter_shaped_like_the_targets_pages(demo, copy):
    configure(copy, head_dim=48, v_head_dim=48)
    assert "q_proj" in refusal(demo, copy)


def test_15_the_last_rows_of_a_shortened_block(demo):
    assert explained(demo, last_rows=True).name == "last_rows"


def test_16_the_target_was_refreshed(demo, copy, tmp_path):
    """The trainer's record knows the weights; without one, drafts that fit nothing tell."""
    (copy / RECORD).write_text(json.dumps({"target_sha256": target_digest(demo.target)}))
    assert diagnose(demo, copy).faults == []
    refreshed = tmp_path / "target"
    shutil.copytree(demo.target, refreshed)
    shard = refreshed / "model_pp0_ep0_shard0.safetensors"
    data = bytearray(shard.read_bytes())
    data[-4096:] = bytes(b ^ 1 for b in data[-4096:])
    data[len(data) // 2 :] = data[len(data) // 2 :][::-1]
    shard.write_bytes(bytes(data))
    findings = check_files(refreshed, copy, demo.parts)
    assert [f.name for f in findings] == ["pairing"]


def test_16_a_drafter_of_another_target(demo):
    """Texts that this drafter was not trained for: nothing helps, and that is said."""
    rng = np.random.default_rng(3)
    strange = [replace(t, tokens=rng.permutation(t.tokens)) for t in demo.texts]
    case = Case.of(demo.parts, strange, BLOCKS)
    report = examine(case, demo.reading, case, [])
    assert report.faults == ["pairing"]


def test_17_counters_that_do_not_add_up(demo, tmp_path):
    log = tmp_path / "log.jsonl"

    def faults(**row):
        log.write_text(json.dumps(row))
        report = check_texts(
            demo.target, demo.drafter, demo.parts, demo.texts, BLOCKS, read_log(log), threads=1
        )
        return report.faults

    assert faults(tokens=1001, rounds=200, accepted=800, tau=5.0) == []
    # Half of the rounds were not counted.
    assert faults(tokens=1001, rounds=100, accepted=400, tau=5.0) == ["counting"]
    assert faults(tokens=1001, rounds=200, accepted=800, tau=6.1) == ["counting"]


def test_18_a_table_of_angles_that_ends(demo, copy):
    configure(copy, max_position_embeddings=40)
    report = diagnose(demo, copy)
    assert report.faults == []
    assert [f.name for f in report.findings] == ["position_table"]
    parts = replace(demo.parts, max_positions=40)
    assert explained(demo, parts, max_position=40).name == "position_table"


def test_a_log_of_another_engine_is_explained(demo, tmp_path):
    log = tmp_path / "log.jsonl"
    rows = [
        {"token_ids": demo.texts[s.text].tokens.tolist(), "anchor": s.anchor, "drafts": s.drafts}
        for s in served(demo, rotary_dim=64)
    ]
    log.write_text("\n".join(json.dumps(row) for row in rows))
    report = check_texts(
        demo.target, demo.drafter, demo.parts, demo.texts, BLOCKS, read_log(log), threads=1
    )
    assert report.faults == ["rotary_fraction"]
