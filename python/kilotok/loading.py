"""From what a user calls a model to a directory on this machine."""

import os
import re
from importlib import resources
from pathlib import Path
from typing import Any

from kilotok.errors import InvalidRequestError, ModelFormatError

__all__ = ["demo_checkpoint", "resolve"]

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")

# Everything the engine reads, and nothing that could execute.
_HUB_FILES = [
    "*.json",
    "*.jinja",
    "*.safetensors",
    "tokenizer*",
    "dflash/*.json",
    "dflash/*.safetensors",
    "dflash/mask_embedding.pt",
    "mask_embedding.pt",
]


def resolve(model: str | os.PathLike[str] | None, *, revision: str | None = None) -> Path:
    """Turn a model argument into a checkpoint directory.

    Parameters
    ----------
    model : str, path or None
        A directory, a Hugging Face hub id such as ``"org/name"``, or ``None`` for the demo
        checkpoint inside the wheel.
    revision : str, optional
        Branch, tag or commit of a hub id.

    Raises
    ------
    ModelFormatError
        The directory does not exist, has no `config.json`, or cannot be downloaded.
    InvalidRequestError
        A hub id was given and `huggingface_hub` is not installed.
    """
    if model is None:
        return demo_checkpoint()
    path = Path(model)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelFormatError(f"{path}: no config.json, expected a checkpoint directory")
        return path
    if path.exists():
        raise ModelFormatError(f"{path}: is a file, expected a checkpoint directory")
    if isinstance(model, str) and _HUB_ID.fullmatch(model):
        return _download(model, revision)
    raise ModelFormatError(f"{path}: no such directory, and not a hub id such as 'org/name'")


def demo_checkpoint() -> Path:
    """The directory of the checkpoint that ships inside the wheel.

    Raises
    ------
    ModelFormatError
        This installation was built without it.
    """
    path = Path(str(resources.files("kilotok"))) / "demo" / "checkpoint"
    if not (path / "config.json").is_file():
        raise ModelFormatError(
            "this installation has no demo checkpoint; give a model directory or a hub id"
        )
    return path


def _download(repo_id: str, revision: str | None) -> Path:
    try:
        import huggingface_hub
    except ImportError:
        raise InvalidRequestError(
            "model",
            f"{repo_id!r} is not a directory here, and downloading it from the hub needs "
            'huggingface_hub: pip install "kilotok[hub]"',
        ) from None
    download: Any = huggingface_hub.snapshot_download
    try:
        return Path(download(repo_id, revision=revision, allow_patterns=_HUB_FILES))
    except Exception as error:
        # The hub client raises many unrelated classes: HTTP, validation and file errors.
        raise ModelFormatError(f"cannot download {repo_id!r} from the hub: {error}") from error
