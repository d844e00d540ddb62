"""Stage `data`: corpus -> tokenizer -> token streams on disk."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from training.demo.corpus import is_held_out, read_packages
from training.demo.licences import permitted_packages
from training.demo.preset import Preset
from training.demo.synthetic import math_document, tool_document
from training.demo.vocabulary import END_OF_TEXT, SPECIAL, train_tokenizer, write_tokenizer

CATEGORIES = ("code", "prose", "math", "tool")
Maker = Callable[[random.Random], tuple[str, str]]
_MAKERS = {"math": math_document, "tool": tool_document}


def run(preset: Preset, run_dir: Path, seed: int) -> None:
    """Write `{train,heldout}_{category}.npy` (uint16), the tokenizer, prompts and data.json."""
    began = time.monotonic()
    train = preset.train
    workers = os.cpu_count() or 1
    packages, refused = permitted_packages()
    if train.data_megabytes < 10:
        packages = [
            p for p in packages if p.name in {"python", "click", "jinja2", "rich", "packaging"}
        ]
    texts = read_packages(packages, workers, cap_bytes=train.data_megabytes * 1_000_000 // 8)
    documents: dict[str, dict[str, list[str]]] = {
        split: {c: [] for c in CATEGORIES} for split in ("train", "heldout")
    }
    for text in texts:
        split = "heldout" if is_held_out(text.name) else "train"
        documents[split]["code"] += text.code
        documents[split]["prose"] += text.prose
    prompts = {}
    for kind, maker in _MAKERS.items():
        total = train.synthetic_documents
        documents["train"][kind], _ = _synthetic(maker, f"{seed}-train-{kind}", total)
        known = set(documents["train"][kind])
        fresh, pairs = _synthetic(maker, f"{seed}-heldout-{kind}", max(total // 20, 64))
        keep = [i for i, document in enumerate(fresh) if document not in known]
        documents["heldout"][kind] = [fresh[i] for i in keep]
        prompts[kind] = [pairs[i][0] for i in keep]
    for split in documents.values():
        for kind, docs in split.items():
            random.Random(f"{seed}-{kind}").shuffle(docs)
    _cap(documents["train"], train.data_megabytes * 1_000_000)
    print(
        f"data: read {sum(map(len, documents['train']['code'])) / 1e6:.1f} MB code, "
        f"{sum(map(len, documents['train']['prose'])) / 1e6:.1f} MB prose "
        f"in {time.monotonic() - began:.1f} s",
        flush=True,
    )

    sample = [
        d
        for kind, share in (("code", 30), ("prose", 8), ("math", 1), ("tool", 1))
        for d in _first_bytes(documents["train"][kind], share * 1_000_000)
    ]
    tokenizer = train_tokenizer(sample, preset.target.vocab)
    run_dir.mkdir(parents=True, exist_ok=True)
    write_tokenizer(tokenizer, run_dir, preset.target.max_position)
    print(
        f"data: tokenizer of {tokenizer.get_vocab_size()} entries "
        f"at {time.monotonic() - began:.1f} s",
        flush=True,
    )
    tokens = {}
    for split, kinds in documents.items():
        for kind, docs in kinds.items():
            stream = encode_stream(tokenizer, docs)
            np.save(run_dir / f"{split}_{kind}.npy", stream)
            tokens[f"{split}_{kind}"] = {
                "documents": len(docs),
                "bytes": sum(len(d.encode()) for d in docs),
                "tokens": len(stream),
            }
    (run_dir / "prompts.json").write_text(json.dumps(prompts))
    used = {t.name for t in texts if t.code or t.prose}
    record = {
        "seed": seed,
        "seconds": round(time.monotonic() - began, 1),
        "streams": tokens,
        "special_tokens": list(SPECIAL),
        "train_packages": [
            p.describe() for p in packages if p.name in used and not is_held_out(p.name)
        ],
        "heldout_packages": [
            p.describe() for p in packages if p.name in used and is_held_out(p.name)
        ],
        "refused_packages": refused,
    }
    (run_dir / "data.json").write_text(json.dumps(record, indent=1))
    for name, row in tokens.items():
        print(f"data: {name}: {row}", flush=True)
    print(f"data: done in {record['seconds']} s", flush=True)


def load_stream(run_dir: Path, split: str, kind: str) -> np.ndarray:
    """Token ids of one split and category, uint16."""
    path = run_dir / f"{split}_{kind}.npy"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run stage `data` first")
    return np.load(path)


def encode_stream(tokenizer: Tokenizer, documents: list[str]) -> np.ndarray:
    """All documents, each followed by <|endoftext|>. uint16 [tokens]."""
    parts = []
    for start in range(0, len(documents), 2000):
        encodings = tokenizer.encode_batch_fast(documents[start : start + 2000])
        parts += [np.array([*e.ids, END_OF_TEXT], np.uint16) for e in encodings]
    return np.concatenate(parts) if parts else np.zeros(0, np.uint16)


def _synthetic(maker: Maker, seed: str, total: int) -> tuple[list[str], list[tuple[str, str]]]:
    size = 5000
    jobs = [(maker, f"{seed}-{i}", min(size, total - i)) for i in range(0, total, size)]
    with ProcessPoolExecutor() as pool:
        pairs = [pair for part in pool.map(_make, jobs) for pair in part]
    return ["".join(pair) for pair in pairs], pairs


def _make(job: tuple[Maker, str, int]) -> list[tuple[str, str]]:
    maker, seed, count = job
    rng = random.Random(seed)
    return [maker(rng) for _ in range(count)]


def _first_bytes(documents: list[str], limit: int) -> list[str]:
    kept, total = [], 0
    for document in documents:
        if total >= limit:
            break
        kept.append(document)
        total += len(document)
    return kept


def _cap(kinds: dict[str, list[str]], limit: int) -> None:
    kinds["code"] = _first_bytes(kinds["code"], limit)
    kinds["prose"] = _first_bytes(kinds["prose"], limit // 3)
