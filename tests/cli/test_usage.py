"""Help, versions, exit codes."""

import os
import pty
import signal
import subprocess
import sys
import time

import pytest

import kilotok as package

COMMANDS = ["generate", "chat", "inspect", "plan", "doctor", "verify", "bench", "convert"]


def test_help_names_every_command(kilotok):
    text = kilotok("--help").stdout
    for command in [*COMMANDS, "serve"]:
        assert f"\n    {command} " in text or f"\n    {command}\n" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(kilotok, command):
    text = kilotok(command, "--help").stdout
    assert text.startswith(f"usage: kilotok {command}")
    assert len(text.splitlines()) > 5


def test_version(kilotok):
    assert kilotok("--version").stdout == f"kilotok {package.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["generate", "--nonsense"],
        ["generate", "--max-tokens", "many"],
        ["generate", "--speculation", "perhaps"],
        ["generate", "a", "--file", "b"],
    ],
)
def test_wrong_usage_is_2(kilotok, arguments):
    done = kilotok(*arguments, code=2)
    assert done.stdout == ""
    assert "usage: kilotok" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "parameter"),
    [
        (["--top-p", "7"], "top_p"),
        (["--temperature", "nan"], "temperature"),
        (["--max-tokens", "0"], "max_tokens"),
        (["--speculation", "99"], "speculation"),
        (["--simd", "mmx"], "simd"),
        (["--threads", "0"], "threads"),
        (["--seed", "-1"], "seed"),
    ],
)
def test_a_value_out_of_range_is_2_and_named(kilotok, model, arguments, parameter):
    done = kilotok("generate", "x", "-m", model, *arguments, code=2)
    assert done.stdout in ("", "x")
    assert f"`{parameter}`" in done.stderr


def test_a_model_that_is_not_there_is_1(kilotok, tmp_path):
    for command in (["generate", "x", "-m"], ["inspect"], ["bench", "-m"]):
        done = kilotok(*command, tmp_path, code=1)
        assert done.stdout == ""
        assert "config.json" in done.stderr
        assert done.stderr.count("\n") == 1


def test_the_demo_is_the_default(kilotok):
    try:
        package.loading.demo_checkpoint()
    except package.ModelFormatError:
        assert "no demo checkpoint" in kilotok("generate", code=1).stderr
    else:
        assert kilotok("generate", "--max-tokens", "4").stdout


def test_ctrl_c_is_130(model):
    command = [sys.executable, "-m", "kilotok", "generate", "x", "-m", str(model)]
    command += ["--max-tokens", "4000", "--ignore-eos"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout.read(8)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130
    assert error.decode().strip().endswith("kilotok: interrupted")


def test_a_closed_pipe_is_quiet(model):
    command = f"{sys.executable} -m kilotok generate x -m {model} --max-tokens 3000 --ignore-eos"
    done = subprocess.run(["bash", "-c", f"{command} | head -c 4"], capture_output=True, timeout=60)
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


def test_the_bar_is_drawn_on_a_terminal_only(model):
    """On a terminal stderr carries the bar or nothing, and stdout the text alone."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "kilotok", "generate", "x", "-m", str(model)]
    process = subprocess.Popen(
        [*command, "--max-tokens", "4", "--quiet"], stdout=subprocess.PIPE, stderr=theirs
    )
    os.close(theirs)
    out, _ = process.communicate(timeout=60)
    time.sleep(0.05)
    try:
        bar = os.read(ours, 65536)
    except OSError:
        bar = b""
    os.close(ours)
    assert process.returncode == 0
    assert b"loading" not in out
    assert bar == b"" or b"loading" in bar
