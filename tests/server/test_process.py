"""The program as a process: signals, start, refusals, logs."""

import concurrent.futures
import signal
import subprocess
import time

import pytest

httpx = pytest.importorskip("httpx", reason="httpx is not installed")

HEADERS = {"x-api-key": "test-key"}


def stream(server, max_tokens):
    """Read one stream to its end."""
    body = {
        "messages": [{"role": "user", "content": "secret words"}],
        "max_tokens": max_tokens,
        "stream": True,
        "ignore_eos": True,
    }
    url = f"{server.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, headers=HEADERS, timeout=60) as reply:
        assert reply.status_code == 200
        return "".join(reply.iter_text())


def wait_for_streams(server, count):
    needle = f'kilotok:sequences_in_flight{{model_name="demo"}} {count}'
    for _ in range(400):
        if needle in httpx.get(f"{server.url}/metrics", headers=HEADERS).text:
            return
        time.sleep(0.02)
    raise TimeoutError(needle)


@pytest.mark.parametrize(
    ("simulation", "tokens"), [([], 100), (["--simulate", "300"], 900)], ids=["demo", "simulated"]
)
def test_sigterm_finishes_32_open_streams(start, simulation, tokens):
    server = start(*simulation, "--max-batch", "32")
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        streams = [pool.submit(stream, server, tokens) for _ in range(32)]
        wait_for_streams(server, 32)
        server.process.send_signal(signal.SIGTERM)
        assert all("data: [DONE]" in one.result() for one in streams)
    assert server.process.wait(30) == 0


def test_a_second_signal_aborts(start):
    server = start("--simulate", "50")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        one = pool.submit(stream, server, 2000)
        wait_for_streams(server, 1)
        time.sleep(0.2)
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        text = one.result()
    assert "engine_dead" in text
    assert "[DONE]" not in text
    assert server.process.wait(30) == 2
    assert time.monotonic() - started < 5


def test_a_killed_server_serves_again_in_two_seconds(start):
    start().process.kill()
    started = time.monotonic()
    again = start()
    assert len(stream(again, 3)) > 0
    assert time.monotonic() - started < 2
    assert again.stop() == 0


def test_beyond_this_machine_only_with_a_key(binary, start):
    refused = subprocess.run(
        [binary, "serve", "--host", "0.0.0.0", "--port", "0"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert refused.returncode == 1
    assert "refusing to listen" in refused.stderr
    for server in (start("--host", "0.0.0.0"), start("--host", "0.0.0.0", "--insecure", keys="")):
        assert server.stop() == 0


def test_keys_are_asked_for_and_prompts_are_not_logged(start, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("# ours\nfrom-file\n")
    server = start("--api-key-file", str(keys), "--log-format", "json", "--log", "debug")
    assert httpx.get(f"{server.url}/live").status_code == 200
    for path in ("/metrics", "/health", "/ready", "/v1/models", "/openapi.json"):
        assert httpx.get(server.url + path).status_code == 401
        key = {"authorization": "Bearer from-file"}
        assert httpx.get(server.url + path, headers=key).status_code == 200
    assert "[DONE]" in stream(server, 5)
    assert server.stop() == 0
    import json

    lines = [json.loads(line) for line in server.log]
    assert any(line["fields"].get("message") == "sequence finished" for line in lines)
    assert all("secret" not in line for line in server.log)
    assert all("from-file" not in line for line in server.log)
    finished = next(line for line in lines if line["fields"].get("message") == "sequence finished")
    assert finished["span"]["id"].startswith("req-")


def test_the_file_the_environment_and_flags(binary, start, tmp_path):
    config = tmp_path / "kilotok.toml"
    config.write_text('model_name = "from-file"\nalias = ["also"]\n[engine]\nmax_batch = 3\n')
    server = start("--config", str(config))
    models = httpx.get(f"{server.url}/v1/models", headers=HEADERS).json()["data"]
    assert [model["id"] for model in models] == ["from-file", "also"]
    slots = 'kilotok:slots{model_name="from-file"} 3'
    assert slots in httpx.get(f"{server.url}/metrics", headers=HEADERS).text
    server.stop()
    config.write_text("prot = 1\n")
    refused = subprocess.run(
        [binary, "serve", "--config", config],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert refused.returncode == 1
    assert "prot" in refused.stderr


def test_a_model_that_does_not_load_ends_the_program(binary, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    failed = subprocess.run(
        [binary, "serve", "--port", "0", tmp_path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert failed.returncode == 1
    assert "config.json" in failed.stderr


def test_the_other_commands(binary):
    def run(*arguments):
        return subprocess.run(
            [binary, *arguments], capture_output=True, text=True, timeout=120, check=False
        )

    generated = run("generate", "The river was", "--max-tokens", "5", "--threads", "1")
    assert generated.returncode == 0
    assert "5 tokens" in generated.stderr
    assert run("generate", "The river was", "--max-tokens", "5", "--threads", "1").stdout == (
        generated.stdout
    )
    import json

    assert json.loads(run("inspect", "--json").stdout)["tensors"] > 0
    assert json.loads(run("plan", "gpt-oss-20b", "--json").stdout)["fits"] is True
    assert run("plan", "gpt-oss-120b", "--gpu", "h20", "--context", "131072").returncode == 0
    assert run("plan", "mimo-v2.5-pro").returncode == 3
    assert "`gpu`" in run("plan", "gpt-oss-20b", "--gpu", "abacus").stderr
    assert "cpu:" in run("doctor", "--no-probe").stdout


def test_the_example_configuration_is_valid(start):
    from pathlib import Path

    config = Path(__file__).resolve().parents[2] / "deploy" / "kilotok.toml"
    assert start("--config", str(config)).stop() == 0
