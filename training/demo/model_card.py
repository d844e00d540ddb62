"""MODEL_CARD.md from the records of a run."""
# ruff: noqa: E501 - sentences read better whole

from __future__ import annotations

import datetime
import json
from pathlib import Path

from training.demo.preset import Preset


def write_model_card(preset: Preset, run_dir: Path, out: Path) -> None:
    """Write `out/MODEL_CARD.md` from the JSON records of every stage."""
    names = ("data", "trunk", "bf16", "qat", "generate", "drafter", "eval")
    r = {n: json.loads((run_dir / f"{n}.json").read_text()) for n in names}
    t, d = preset.target, preset.drafter
    bits, bars = r["eval"]["bits_per_byte"], r["eval"]["bars"]
    kinds = [k for k in bits["qat"] if k != "all"]
    lines = [
        "# kilotok demo checkpoint",
        "",
        "A small language model in the exact on-disk format of MiMo-V2.5-Pro-FP4-DFlash: MXFP4 experts "
        "trained with straight-through rounding, and a DFlash block drafter trained on the target's own "
        "text. It exists to exercise an engine end to end; it is not a useful assistant.",
        "",
        f"- Target: {t.layers} layers, hidden {t.hidden}, {t.heads} query / {t.kv_heads} kv heads "
        f"({t.head_dim}/{t.v_head_dim}), window {t.window}, {t.experts} experts top-{t.top_k}, vocabulary "
        f"{t.vocab}; {r['qat']['parameters'] / 1e6:.2f} M parameters.",
        f"- Drafter: {d.layers} layers, block {d.block}, taps {list(d.taps)}; "
        f"{r['drafter']['parameters'] / 1e6:.2f} M parameters.",
        f"- Trained {datetime.date.today().isoformat()} on {r['trunk']['device']}; seed {r['trunk']['seed']}.",
        f"- Target: {r['trunk']['steps']} trunk steps + {r['qat']['steps']} branch steps of "
        f"{preset.train.batch} x {preset.train.seq} tokens ({r['trunk']['seconds'] + r['qat']['seconds']:.0f} s).",
        f"- Drafter data: {r['generate']['new_tokens'] / 1e6:.1f} M tokens written by the target at temperatures "
        f"{r['generate']['temperatures']}; {r['drafter']['steps']} steps, "
        f"{r['drafter']['blocks'] / 1e6:.1f} M blocks ({r['drafter']['seconds']:.0f} s).",
        "",
        "## Bits per byte, held-out data",
        "`bf16`: BF16 everywhere. `ptq_experts`: its experts rounded to MXFP4 after training. `ptq`: all "
        "formats of the checkpoint, rounded after training. `qat`: this checkpoint. Same trunk, batches and "
        "learning rates.",
        "",
        "| | " + " | ".join(kinds) + " | all (training mix) |",
        "|---|" + "---|" * (len(kinds) + 1),
        *(
            f"| {v} | " + " | ".join(f"{bits[v][k]:.4f}" for k in [*kinds, "all"]) + " |"
            for v in ("bf16", "ptq_experts", "ptq", "qat")
        ),
        "",
        f"QAT over BF16: {bars['qat_over_bf16_percent']['all']:+.2f} % on the mix, "
        f"{bars['qat_over_bf16_percent']['code']:+.2f} % on code.",
        "",
        f"## Acceptance length tau, block {d.block}, held-out prompts",
        "Real speculative decoding; the bonus token counts. `pooled` is tokens over rounds, `per request` the "
        f"mean over requests. {preset.train.eval_new_tokens} new tokens per request at most. `repeated` is the "
        "share of 8-grams of a request that occurred earlier in its output: a small model decoded greedily "
        "repeats itself, and repetition is easy to draft, so read tau beside it. `same` is the share of "
        "requests whose tokens equal plain decoding in this BF16 torch code, whose rounding depends on the "
        "shape of a batch; an engine with batch-invariant arithmetic reaches 1.",
        "",
        "| | requests | pooled | per request | repeated | same |",
        "|---|---|---|---|---|---|",
    ]
    for kind, modes in r["eval"]["acceptance"].items():
        for mode, row in modes.items():
            label = "greedy" if mode == "greedy" else "T=1"
            lines.append(
                f"| {kind}, {label} | {row['requests']} | {row['tau_pooled']:.2f} | {row['tau_per_request']:.2f} "
                f"| {row['repeated_8grams']:.2f} | {row['same_as_plain']:.2f} |"
            )
    lines += [
        "",
        "## Data",
        "Python source and documentation of the packages below, as installed on the training machine (the "
        "licence is what the package's metadata states; vendored third-party folders are left out), and "
        "generated arithmetic and tool calls (`training/demo/synthetic.py`). The weights were trained on this "
        "text; no file of it is part of the checkpoint.",
        "",
        "| stream | documents | bytes | tokens |",
        "|---|---|---|---|",
        *(
            f"| {n} | {s['documents']} | {s['bytes']} | {s['tokens']} |"
            for n, s in r["data"]["streams"].items()
        ),
        "",
        "Held out for evaluation, as whole packages: "
        + _packages(r["data"]["heldout_packages"])
        + ".",
        "",
        "Trained on: " + _packages(r["data"]["train_packages"]) + ".",
        "",
        "## Reproduce",
        "`training/demo/README.md` has the commands. Budgets are wall-clock; to repeat this run pass "
        f"`--steps {r['trunk']['steps']}` to `trunk`, `--steps {r['qat']['steps']}` to `bf16` and `qat`, "
        f"`--steps {r['drafter']['steps']}` to `drafter`. The same files, seed and steps give the same batches; "
        "GPU arithmetic differs in the last bits from run to run.",
        "",
    ]
    (out / "MODEL_CARD.md").write_text("\n".join(lines))


def _packages(rows: list[dict[str, str]]) -> str:
    return "; ".join(f"{p['name']} {p['version']} ({p['licence']})" for p in rows)
