"""Reads code and prose out of installed packages and splits whole packages off for evaluation."""

from __future__ import annotations

import ast
import hashlib
import inspect
import re
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from training.demo.licences import Package

#: Always held out when installed, so that the evaluation has names people know.
HELD_OUT = ("click", "jinja2", "networkx", "requests", "rich", "tqdm")
#: Too much of the training text to lose.
_NEVER_HELD_OUT = {
    "python",
    "torch",
    "transformers",
    "numpy",
    "scipy",
    "jax",
    "scikit-learn",
    "sympy",
    "pandas",
    "matplotlib",
    "setuptools",
}
_SKIP_PARTS = {"_vendor", "vendor", "vendored", "third_party", "third-party", "extern", "external"}
_SKIP_NAMES = re.compile(r"(licen[cs]e|copying|notice|record|top_level|entry_points|authors)", re.I)
_FOREIGN = re.compile(r"General Public License|\bAGPL|\bGPLv|Mozilla Public|proprietary", re.I)


@dataclass
class PackageText:
    """Documents of one package."""

    name: str
    code: list[str] = field(default_factory=list)
    prose: list[str] = field(default_factory=list)


def is_held_out(name: str) -> bool:
    """Whole packages go to evaluation: the known names, and 6 % of the rest by hash."""
    if name in HELD_OUT:
        return True
    if name in _NEVER_HELD_OUT:
        return False
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 100 < 6


def read_packages(packages: list[Package], workers: int, cap_bytes: int) -> list[PackageText]:
    """Read every package, in parallel, with at most `cap_bytes` of code and of prose each.

    Files are split in fixed slices, so the result does not depend on `workers`.
    """
    jobs = [
        (package.name, package.root_files[start : start + 400])
        for package in packages
        for start in range(0, len(package.root_files), 400)
    ]
    with ProcessPoolExecutor(workers) as pool:
        parts = list(pool.map(_read_files, jobs, chunksize=1))
    seen: set[bytes] = set()
    texts: dict[str, PackageText] = {}
    # Held-out packages claim a document first: a copy of it elsewhere must not be trained on.
    for part in sorted(parts, key=lambda p: not is_held_out(p.name)):
        text = texts.setdefault(part.name, PackageText(part.name))
        for kind in ("code", "prose"):
            for document in getattr(part, kind):
                digest = hashlib.sha256(document.encode()).digest()[:12]
                if digest not in seen:
                    seen.add(digest)
                    getattr(text, kind).append(document)
    for text in texts.values():
        text.code = _cap(text.code, cap_bytes)
        text.prose = _cap(text.prose, cap_bytes // 2)
    return [texts[name] for name in sorted(texts)]


def _cap(documents: list[str], cap_bytes: int) -> list[str]:
    """Keep documents in hash order (a fair sample of the package) up to a size."""
    kept, total = [], 0
    for document in sorted(documents, key=lambda d: hashlib.sha256(d.encode()).digest()):
        if total >= cap_bytes:
            break
        kept.append(document)
        total += len(document)
    return kept


def _read_files(job: tuple[str, tuple[str, ...]]) -> PackageText:
    warnings.simplefilter("ignore")
    name, files = job
    text = PackageText(name)
    for file in files:
        path = Path(file)
        suffix = path.suffix.lower()
        if _SKIP_PARTS & set(path.parts) or suffix not in {
            ".py",
            ".pyi",
            ".rst",
            ".md",
            ".txt",
            "",
        }:
            continue
        metadata = path.name == "METADATA"
        if (suffix == "" and not metadata) or (_SKIP_NAMES.search(path.name) and not metadata):
            continue
        try:
            content = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        content = content.replace("\r\n", "\n")
        if metadata:
            content = content.partition("\n\n")[2]
        if not _usable(content):
            continue
        if suffix in {".py", ".pyi"}:
            text.code.append(content)
            if suffix == ".py":
                text.prose.extend(_docstrings(content))
        else:
            text.prose.append(content)
    return text


def _usable(content: str) -> bool:
    """No licence surprises, no data tables, no generated one-liners."""
    if not 200 <= len(content) <= 400_000 or "\0" in content or _FOREIGN.search(content[:3000]):
        return False
    lines = content.splitlines()
    if len(content) / max(len(lines), 1) > 120 or max(map(len, lines)) > 1000:
        return False
    sample = content[:20_000]
    digits = sum(c.isdigit() for c in sample)
    plain = sum(c.isascii() for c in sample)
    return digits < 0.15 * len(sample) and plain > 0.97 * len(sample)


def _docstrings(source: str) -> list[str]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, kinds):
            doc = ast.get_docstring(node, clean=False)
            if doc and len(doc) >= 300:
                found.append(inspect.cleandoc(doc) + "\n")
    return found
