"""Every example of a client runs against the program and shows what it says it shows."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "server"


def run(server, *command):
    done = subprocess.run(
        command,
        env=os.environ | {"KILOTOK_URL": server.url, "KILOTOK_API_KEY": "test-key"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_curl(server):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    shown = run(server, "bash", EXAMPLES / "chat.sh")
    assert '"tau"' in shown
    assert shown.rstrip().endswith("data: [DONE]")


def test_openai(server):
    pytest.importorskip("openai", reason="the openai client is not installed")
    shown = run(server, sys.executable, EXAMPLES / "openai_client.py")
    without, with_drafts = shown.split("# speculation off:")
    assert "# speculation auto:" in with_drafts
    # The same seed gives the same text, with drafts and without.
    assert without.strip() == with_drafts.split("\n", 1)[1].split("# speculation auto:")[0].strip()


def test_langchain(server):
    pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")
    shown = run(server, sys.executable, EXAMPLES / "langchain_client.py")
    assert "# tokens: " in shown


def test_every_example_is_run():
    ours = {"chat.sh", "openai_client.py", "langchain_client.py", "README.md"}
    assert {path.name for path in EXAMPLES.iterdir()} == ours
