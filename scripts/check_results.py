"""Say which committed GPU results are older than the kernels, by the hash of the kernel sources.

A result carries the hash that the build script of kilotok-kernels made of everything that went into
the kernels. The same hash is made here of the sources as they are, for the targets and the compiler
of the result. Where it is another one, ``STALE.md`` beside the results has to name the file and say
why it is still there; where it is the same one, ``STALE.md`` must not.

Exit code 0: ``STALE.md`` is right.
"""

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def digest(parts: Iterable[bytes]) -> str:
    """Hash parts in order, each preceded by its length (``build/cache.rs``)."""
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(len(part).to_bytes(8, "little"))
        hasher.update(part)
    return hasher.hexdigest()


def source_hash(root: Path, compiler: str, archs: dict[str, list[str]]) -> str:
    """Hash of the kernels below ``root`` for targets by family (``build/main.rs``).

    Raises
    ------
    KeyError
        There is a kernel family that ``archs`` does not name.
    """
    script = (root / "crates/kilotok-kernels/build/main.rs").read_text()
    flags = re.search(r"const FLAGS: \[&str; \d+\] = \[(.*?)\];", script, re.S)
    if flags is None:
        raise ValueError("build/main.rs has no FLAGS")
    options = re.findall(r'"([^"]+)"', flags[1])
    include = root / "cuda/include"
    headers = sorted(path for path in include.rglob("*") if path.is_file())
    hashes = []
    for source in sorted((root / "cuda/kernels").glob("*.cu")):
        numbers = [re.sub("^(sm|compute)_", "", target) for target in archs[source.stem]]
        targets = [
            f"-gencode=arch=compute_{number},code={target}"
            for number, target in zip(numbers, archs[source.stem], strict=True)
        ]
        parts = [compiler.encode(), source.stem.encode(), source.read_bytes()]
        parts += [option.encode() for option in [*options, *targets]]
        for header in headers:
            parts += [str(header.relative_to(include)).encode(), header.read_bytes()]
        hashes.append(digest(parts))
    return digest(text.encode() for text in hashes)


def is_stale(result: Path, root: Path) -> bool:
    """Whether the kernels are others than those that were measured; CPU results have none."""
    kernels = json.loads(result.read_text()).get("kernels")
    if kernels is None:
        return False
    archs = {image["family"]: image["archs"] for image in kernels["images"]}
    compiler = str(kernels["compiler"]).removeprefix("nvcc ")
    try:
        return source_hash(root, compiler, archs) != kernels["source_hash"]
    except KeyError:
        return True


def admitted(folder: Path) -> dict[str, str]:
    """What ``STALE.md`` says: reasons by file name, from lines "- `name.json`: reason"."""
    file = folder / "STALE.md"
    text = file.read_text() if file.is_file() else ""
    found = re.findall(r"^- `([^`]+)`: (\S.*?)(?=^- |\Z)", text, re.M | re.S)
    return {name: " ".join(reason.split()) for name, reason in found}


def complaints(root: Path) -> list[str]:
    """What is wrong with the ``STALE.md`` files below ``root``."""
    found = []
    for folder in sorted(path for path in (root / "benches/results").iterdir() if path.is_dir()):
        said = admitted(folder)
        where = (folder / "STALE.md").relative_to(root)
        results = {path.name: path for path in sorted(folder.glob("*.json"))}
        for name, path in results.items():
            stale = is_stale(path, root)
            if stale and name not in said:
                found.append(
                    f"{path.relative_to(root)} is older than the kernels: measure again "
                    f"(make gpu-test), or add to {where}: - `{name}`: why it is still there"
                )
            elif not stale and name in said:
                found.append(f"{where} names {name}, which is of the kernels as they are")
        found += [f"{where} names {name}, which is not there" for name in said.keys() - results]
    return found


def main() -> int:
    """Print complaints and what is known to be stale."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=ROOT)
    root = parser.parse_args().root
    for folder in sorted((root / "benches/results").glob("*/STALE.md")):
        for name, reason in admitted(folder.parent).items():
            print(f"stale: {folder.parent.relative_to(root)}/{name}: {reason}")
    found = complaints(root)
    for complaint in found:
        print(f"check_results: {complaint}", file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
