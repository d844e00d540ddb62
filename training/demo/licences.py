"""Which installed packages may be used as training text, read from their metadata."""

from __future__ import annotations

import re
import sysconfig
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

_ACCEPTED = {
    "mit",
    "mit-0",
    "bsd",
    "bsd-2-clause",
    "bsd-3-clause",
    "apache-2.0",
    "psf-2.0",
    "python-2.0",
    "0bsd",
    "isc",
    "zlib",
    "cc0-1.0",
    "unlicense",
    "bsl-1.0",
    "hpnd",
}
_CORE = {"mit", "bsd", "bsd-2-clause", "bsd-3-clause", "apache-2.0", "psf-2.0", "python-2.0"}
_FREE_TEXT = (
    (re.compile(r"^(the )?mit( licen[cs]e)?$"), "mit"),
    (re.compile(r"^(new |modified |simplified )?bsd([ -][23]?[ -]?clause)?( licen[cs]e)?$"), "bsd"),
    (re.compile(r"^(3|2)-clause bsd( licen[cs]e)?$"), "bsd"),
    (
        re.compile(
            r"^apache([ -]software)?([ -]licen[cs]e)?(,? *(version|v)? *-?2(\.0)?)?"
            r"( licen[cs]e)?$"
        ),
        "apache-2.0",
    ),
    (re.compile(r"^(psf|python software foundation)( licen[cs]e)?$"), "psf-2.0"),
)


@dataclass(frozen=True)
class Package:
    """A source of training text. `licence` is what its metadata states."""

    name: str
    version: str
    licence: str
    root_files: tuple[str, ...]

    def describe(self) -> dict[str, str]:
        """Name, version and licence."""
        row = asdict(self)
        del row["root_files"]
        return row


def accepted_licence(expression: str) -> bool:
    """True if every AND-ed part of a licence expression is permissive and one is MIT/BSD/Apache."""
    text = expression.strip().lower()
    for pattern, name in _FREE_TEXT:
        if pattern.match(text):
            text = name
    parts = re.split(r"\s+and\s+", text.replace("(", " ").replace(")", " "))
    found_core = False
    for part in parts:
        choices = [c.split(" with ")[0].strip() for c in re.split(r"\s+or\s+|\s*/\s*", part)]
        good = [c for c in choices if c in _ACCEPTED]
        if not good:
            return False
        found_core |= any(c in _CORE for c in good)
    return found_core


def stated_licence(dist: metadata.Distribution) -> str:
    """The licence a distribution states: expression, short free text, or trove classifiers."""
    meta = dist.metadata
    for key in ("License-Expression", "License"):
        value = (meta.get(key) or "").strip()
        if value and "\n" not in value and len(value) < 120 and value.upper() != "UNKNOWN":
            return value
    tails = [
        c.split("::")[-1].strip()
        for c in meta.get_all("Classifier") or []
        if c.startswith("License ::") and not c.endswith("OSI Approved")
    ]
    return " AND ".join(sorted(set(tails)))


def permitted_packages() -> tuple[list[Package], list[dict[str, str]]]:
    """All installed permissive packages (sorted by name), and the ones left out with the reason.

    The Python standard library comes first, as package `python`.
    """
    chosen, refused, seen = [_standard_library()], [], set()
    dists = [d for d in metadata.distributions() if d.metadata and d.metadata.get("Name")]
    for dist in sorted(dists, key=lambda d: d.metadata["Name"].lower()):
        name = dist.metadata["Name"].lower().replace("_", "-")
        if name in seen or name == "kilotok":
            continue
        seen.add(name)
        licence = stated_licence(dist)
        row = {"name": name, "version": dist.version, "licence": licence}
        if not accepted_licence(licence):
            refused.append(row)
            continue
        try:
            files = [str(f.locate()) for f in dist.files or [] if ".." not in f.parts]
        except (OSError, ValueError):
            files = []
        if files:
            chosen.append(Package(name, dist.version, licence, tuple(sorted(files))))
        else:
            refused.append(row | {"reason": "no file list"})
    return chosen, refused


def _standard_library() -> Package:
    import platform

    root = Path(sysconfig.get_paths()["stdlib"])
    skip = {"site-packages", "dist-packages", "test", "tests", "idlelib", "ensurepip", "lib2to3"}
    files = [
        str(p)
        for p in root.rglob("*.py")
        if not skip & set(p.relative_to(root).parts) and p.is_file()
    ]
    return Package("python", platform.python_version(), "PSF-2.0", tuple(sorted(files)))
