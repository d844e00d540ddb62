"""A running ``kilotok serve`` for the clients of others."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KEY = "test-key"


def find_binary() -> Path | None:
    """Return ``KILOTOK_BIN``, or the newest program in the target directory."""
    if os.environ.get("KILOTOK_BIN"):
        return Path(os.environ["KILOTOK_BIN"])
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    built = [target / profile / "kilotok" for profile in ("ci", "release", "debug")]
    built = [path for path in built if path.is_file()]
    return max(built, key=lambda path: path.stat().st_mtime, default=None)


class Running:
    """A server process and where it listens."""

    def __init__(
        self, program: Sequence[str | Path], cache: Path, *arguments: str, keys: str = KEY
    ) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("KILOTOK_")}
        environment |= {"XDG_CACHE_HOME": str(cache), "KILOTOK_API_KEY": keys}
        self.process = subprocess.Popen(
            [*program, "serve", "--port", "0", "--threads", "1", *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        line = self.process.stdout.readline()
        found = re.search(r"https?://\S+", line)
        if found is None:
            self.process.wait(10)
            self._reader.join(10)
            raise RuntimeError("".join(self.log))
        self.url = found.group()

    def _read_log(self) -> None:
        for line in self.process.stderr:
            self.log.append(line)

    def wait_until_ready(self, verify=True) -> None:
        import httpx

        headers = {"x-api-key": KEY}
        for _ in range(600):
            if httpx.get(f"{self.url}/ready", headers=headers, verify=verify).status_code == 200:
                return
            threading.Event().wait(0.05)
        raise TimeoutError("".join(self.log))

    def stop(self) -> int:
        self.process.terminate()
        code = self.process.wait(60)
        self._reader.join(10)
        return code


@pytest.fixture(scope="session")
def binary():
    path = find_binary()
    if path is None:
        pytest.skip("the program is not built (cargo build -p kilotok-server)")
    return path


@pytest.fixture(scope="session")
def start(binary, tmp_path_factory):
    """Start servers that are stopped at the end: ``start("--max-queue", "3")``."""
    yield from starting([binary], tmp_path_factory)


@pytest.fixture(scope="session")
def start_wheel(tmp_path_factory):
    """`start`, with the command of the installed Python package."""
    yield from starting([sys.executable, "-m", "kilotok"], tmp_path_factory)


def starting(program: Sequence[str | Path], tmp_path_factory):
    pytest.importorskip("httpx", reason="httpx is not installed")
    cache = tmp_path_factory.mktemp("cache")
    running = []

    def run(*arguments: str, keys: str = KEY, verify=True) -> Running:
        server = Running(program, cache, *arguments, keys=keys)
        running.append(server)
        server.wait_until_ready(verify)
        return server

    yield run
    for server in running:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait(10)


@pytest.fixture(scope="session")
def server(start):
    """The demo checkpoint, served once for all tests that only ask."""
    return start()


@pytest.fixture(scope="session")
def client(server):
    """OpenAI's own client."""
    openai = pytest.importorskip("openai", reason="the openai client is not installed")
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)
