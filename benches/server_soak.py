"""Memory of a server under mixed load: resident size over time and its slope by least squares.

    python benches/server_soak.py --binary target/release/kilotok

Starts the program with the demo checkpoint and sends it what clients send: chats, streams, scored
prompts, responses, messages, several sequences at once, malformed requests, clients that leave.
Every prompt has words that were not seen before. The warm-up fills what the server reserves at
its start and the system grants when it is touched first: pages and saved states of the prefix
cache, rings of every slot, the tokenizer's cache of words. Then it runs a burst of as many clients
as there are slots, so that every thread and its share of the heap exists, and then the load itself.
Only what grows after that is growth. Prints JSON.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import signal
import string
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

#: Clients and seconds of the burst, which do not pause.
BURST_CLIENTS = 16
BURST_S = 60

#: Words that fill the tokenizer's cache of words, which holds 10,000.
FILLING_WORDS = 12_000

#: Token ids of the prompts that fill caches lie below this.
VOCABULARY = 4000

#: Tokens of a prompt that fill a slot's rings, which hold a window of 128 and a block or two.
RING = 400


class Client:
    """One client that asks for something else each time."""

    def __init__(self, address: tuple[str, int], seed: int) -> None:
        self.address = address
        self.random = random.Random(seed)
        self.done: dict[str, int] = {}
        self.failed: list[str] = []

    def words(self, count: int) -> str:
        """Text of words that nobody has used yet."""
        lengths = (self.random.randint(3, 9) for _ in range(count))
        words = (self.random.choices(string.ascii_lowercase, k=length) for length in lengths)
        return " ".join(map("".join, words))

    def post(self, path: str, body: dict | bytes) -> tuple[int, bytes]:
        """Send one request and read its whole reply."""
        connection = http.client.HTTPConnection(*self.address, timeout=120)
        try:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            connection.request("POST", path, data, {"content-type": "application/json"})
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()

    def leave(self, body: dict) -> None:
        """Begin to read a stream and close the connection."""
        connection = http.client.HTTPConnection(*self.address, timeout=120)
        data = json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        connection.request("POST", "/v1/chat/completions", data, headers)
        connection.getresponse().read(self.random.randint(1, 400))
        connection.close()

    def step(self) -> None:
        """Send one request of a random kind and check its status."""
        chance = self.random
        text = self.words(chance.randint(2, 60))
        chat = {
            "messages": [{"role": "user", "content": text}],
            "max_tokens": chance.randint(1, 60),
            "temperature": chance.choice([0, 0.8]),
            "ignore_eos": True,
        }
        tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
        kinds = {
            "chat": ("/v1/chat/completions", chat),
            "stream": ("/v1/chat/completions", chat | {"stream": True, "n": 2}),
            "logprobs": ("/v1/chat/completions", chat | {"logprobs": True, "top_logprobs": 5}),
            "tools": ("/v1/chat/completions", chat | {"tools": [tool]}),
            "completion": ("/v1/completions", {"prompt": text, "stop": ["e ", "\n\n"]}),
            "score": (
                "/v1/completions",
                {"prompt": text, "max_tokens": 1, "echo": True, "logprobs": 1},
            ),
            "responses": ("/v1/responses", {"input": text, "max_output_tokens": 20}),
            "messages": ("/v1/messages", {"messages": chat["messages"], "max_tokens": 20}),
            "tokenize": ("/tokenize", {"prompt": text}),
            "malformed": (
                "/v1/chat/completions",
                json.dumps(chat).encode()[: -chance.randint(1, 40)],
            ),
            "refused": ("/v1/chat/completions", chat | {"temperature": -1}),
            "leaves": None,
        }
        kind = chance.choice(list(kinds))
        if kinds[kind] is None:
            self.leave(chat | {"stream": True, "max_tokens": 400})
        else:
            status, reply = self.post(*kinds[kind])
            expected = 400 if kind in {"malformed", "refused"} else 200
            if status != expected:
                self.failed.append(f"{kind}: {status} {reply[:200]!r}")
        self.done[kind] = self.done.get(kind, 0) + 1


def memory(pid: int) -> dict[str, float]:
    """Resident MiB in all and without files, and open file descriptors."""
    status = Path(f"/proc/{pid}/status").read_text()
    kib = {name: int(re.search(rf"{name}:\s+(\d+)", status)[1]) for name in ("VmRSS", "RssAnon")}
    return {
        "rss_mib": kib["VmRSS"] / 1024,
        "anonymous_mib": kib["RssAnon"] / 1024,
        "descriptors": len(list(Path(f"/proc/{pid}/fd").iterdir())),
    }


def slope_per_hour(samples: list[dict], name: str) -> float:
    """Least-squares slope of one quantity over the samples' times in seconds."""
    times = [sample["seconds"] for sample in samples]
    values = [sample[name] for sample in samples]
    middle, mean = sum(times) / len(times), sum(values) / len(values)
    above = sum((t - middle) * (v - mean) for t, v in zip(times, values, strict=True))
    return 3600 * above / sum((t - middle) ** 2 for t in times)


def fill(client: Client) -> None:
    """Touch all memory that the server has reserved."""

    def post(path: str, body: dict) -> dict:
        status, reply = client.post(path, body)
        assert status == 200, reply
        return json.loads(reply)

    def ids(count: int) -> list[int]:
        return client.random.choices(range(10, VOCABULARY), k=count)

    for _ in range(FILLING_WORDS // 400):
        post("/tokenize", {"prompt": client.words(400)})
    connection = http.client.HTTPConnection(*client.address)
    connection.request("GET", "/status")
    status = json.loads(connection.getresponse().read())
    connection.request("GET", "/v1/models")
    most = json.loads(connection.getresponse().read())["data"][0]["max_model_len"]
    connection.close()
    pages, slots = status["pages"], status["slots"]["total"]
    # Long prompts save a state every few pages: after twice the pages each state was used in full.
    for _ in range(2 * pages["total"] * pages["positions"] // most + 1):
        post("/v1/completions", {"prompt": ids(most - 1), "max_tokens": 1})
    together = {"prompt": [ids(RING) for _ in range(slots)], "max_tokens": 50, "ignore_eos": True}
    post("/v1/completions", together)


def soak(args: argparse.Namespace, process: subprocess.Popen, address: tuple[str, int]) -> dict:
    """Run the load and sample memory."""
    clients = [Client(address, seed) for seed in range(args.clients)]
    fill(clients[0])
    started = time.monotonic()
    ends = threading.Event()

    def run(client: Client, until: float, rate: float | None) -> None:
        while not ends.is_set() and time.monotonic() < until:
            try:
                client.step()
            except OSError as error:
                client.failed.append(repr(error))
            if rate is not None:
                ends.wait(client.random.expovariate(rate))

    burst = [Client(address, 1000 + seed) for seed in range(BURST_CLIENTS)]
    loads = [(client, started + BURST_S, None) for client in burst]
    loads += [(client, float("inf"), args.rate / args.clients) for client in clients]
    threads = [threading.Thread(target=run, args=load, daemon=True) for load in loads]
    for thread in threads:
        thread.start()
    samples = []
    while (seconds := time.monotonic() - started) < args.minutes * 60:
        if process.poll() is not None:
            raise SystemExit(f"server_soak: the server ended with {process.returncode}")
        samples.append({"seconds": seconds} | memory(process.pid))
        time.sleep(args.sample_s)
    ends.set()
    for thread in threads:
        thread.join(130)
    done: dict[str, int] = {}
    for client in clients + burst:
        for kind, count in client.done.items():
            done[kind] = done.get(kind, 0) + count
    measured = [sample for sample in samples if sample["seconds"] >= args.warm_up_minutes * 60]
    every = max(1, len(samples) // 60)
    return {
        "benchmark": "resident memory of the server under mixed load, demo checkpoint",
        "minutes": args.minutes,
        "warm_up_minutes": args.warm_up_minutes,
        "requests": dict(sorted(done.items())),
        "unexpected": [text for client in clients + burst for text in client.failed][:20],
        "samples_after_warm_up": len(measured),
        "rss_mib_first": measured[0]["rss_mib"],
        "rss_mib_last": measured[-1]["rss_mib"],
        "rss_mib_per_hour": slope_per_hour(measured, "rss_mib"),
        "anonymous_mib_per_hour": slope_per_hour(measured, "anonymous_mib"),
        "descriptors_per_hour": slope_per_hour(measured, "descriptors"),
        "load_average": os.getloadavg()[0],
        "curve": [
            {"minutes": round(s["seconds"] / 60, 2), "rss_mib": round(s["rss_mib"], 3)}
            for s in samples[::every]
        ],
    }


def main() -> None:
    """Start the server, run the load, print the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=40, help="with the warm-up")
    parser.add_argument("--warm-up-minutes", type=float, default=10)
    parser.add_argument("--rate", type=float, default=6, help="requests per second, about")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--sample-s", type=float, default=5)
    args = parser.parse_args()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("KILOTOK_")}
    with tempfile.TemporaryDirectory() as cache:
        process = subprocess.Popen(
            [args.binary, "serve", "--port", "0", "--threads", "1", "--log", "warn"],
            env=environment | {"XDG_CACHE_HOME": cache},
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            address = re.search(r"http://([\d.]+):(\d+)", process.stdout.readline())
            host = (address[1], int(address[2]))
            while Client(host, 0).post("/tokenize", {"prompt": "x"})[0] != 200:
                time.sleep(0.1)
            result = soak(args, process, host)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
    result["exit_status"] = process.returncode
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
