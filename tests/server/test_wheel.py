"""``kilotok serve`` of the installed package: the same server as the program without Python."""

import concurrent.futures
import re
import signal
import subprocess
import sys
import time

import pytest

httpx = pytest.importorskip("httpx", reason="httpx is not installed")

HEADERS = {"x-api-key": "test-key"}
BODY = {
    "messages": [{"role": "user", "content": "Tell me about the river."}],
    "max_tokens": 20,
    "seed": 1,
    "ignore_eos": True,
}


def ask(server, **options):
    url = f"{server.url}/v1/chat/completions"
    reply = httpx.post(url, json=BODY | options, headers=HEADERS, timeout=60)
    assert reply.status_code == 200, reply.text
    return reply


def test_a_reply_is_that_of_the_program_without_python(start_wheel, server):
    wheel = ask(start_wheel()).json()
    assert wheel["model"] == "demo"
    assert wheel["usage"]["receipts"][0]["tokens"] == 20
    assert wheel["choices"] == ask(server).json()["choices"]


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_open_streams_finish(start_wheel, end):
    server = start_wheel("--simulate", "200")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        replies = [pool.submit(ask, server, stream=True, max_tokens=150) for _ in range(4)]
        needle = 'vllm:num_requests_running{model_name="demo"} 4'
        while needle not in httpx.get(f"{server.url}/metrics", headers=HEADERS).text:
            assert not any(reply.done() for reply in replies)
            time.sleep(0.01)
        server.process.send_signal(end)
        assert all("data: [DONE]" in reply.result().text for reply in replies)
    assert server.process.wait(30) == 0
    assert not any("Traceback" in line for line in server.log)


def test_flags_and_refusals_are_the_same(binary):
    for arguments in (["--help"], ["--prot", "1"], ["--host", "0.0.0.0", "--port", "0"]):
        done = [
            subprocess.run(
                [*program, "serve", *arguments],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            for program in ([binary], [sys.executable, "-m", "kilotok"])
        ]
        # Ports differ, and lines of the log carry the time.
        told = [
            (one.returncode, one.stdout, re.sub(r":\d+", "", one.stderr).splitlines()[-1:])
            for one in done
        ]
        assert told[0] == told[1]
