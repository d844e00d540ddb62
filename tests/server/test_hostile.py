"""Malformed requests and clients that leave, over sockets, against the program and its model.

The numbers are small here; ``KILOTOK_FUZZ_CASES=100000`` and ``KILOTOK_DISCONNECTS=10000`` ask for
those of docs/serving.md.
"""

import collections
import contextlib
import json
import os
import random
import re
import select
import socket
import struct
import threading
import time

import pytest

httpx = pytest.importorskip("httpx", reason="httpx is not installed")

CASES = int(os.environ.get("KILOTOK_FUZZ_CASES", "1500"))
DISCONNECTS = int(os.environ.get("KILOTOK_DISCONNECTS", "200"))
CLIENTS = 4

#: An answer that takes longer is a hang.
PATIENCE_S = 60

#: Silence after which a client says that nothing more will come: the server waits for the rest of
#: a body that is too short, and for the next request after a reply.
SILENCE_S = 0.15

HEADERS = {"x-api-key": "test-key"}
CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
VALID = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"prompt": "Hi", "max_tokens": 3},
    "/v1/responses": {"input": "Hi", "max_output_tokens": 3},
    "/v1/messages": CHAT,
    "/v1/messages/count_tokens": {"messages": CHAT["messages"]},
    "/tokenize": {"prompt": "Hi"},
    "/detokenize": {"tokens": [500, 600]},
}
OTHER_PATHS = ["/", "/v1/models", "/v1/models/%ff", "/metrics", "/health", "/status", "/no", "*"]
FIELDS = re.findall(
    r"\S+",
    """
    messages prompt input tokens system instructions model max_tokens max_completion_tokens
    max_output_tokens temperature top_p top_k min_p n seed stop stop_token_ids stop_sequences
    logprobs top_logprobs logit_bias presence_penalty frequency_penalty repetition_penalty stream
    stream_options speculation deadline_ms priority echo suffix best_of tools tool_choice
    parallel_tool_calls response_format guided_json guided_regex guided_choice guided_grammar
    structured_outputs chat_template_kwargs reasoning reasoning_effort thinking documents
    continue_final_message add_generation_prompt add_special_tokens ignore_eos
    skip_special_tokens return_token_ids cache_salt user unknown
    """,
)
WORDS = [
    *["user", "assistant", "tool", "system", "text", "auto", "off", "none", "required", "high"],
    *["json_object", "json_schema", "function", "<|im_end|>", "<tool_call>", "\0", "\ud800", "é🙂"],
    *["(", "[", "(a*)*b", "{", "}", "..", "%s", "{{ 7 }}", "' OR 1=1", ""],
]
KEYS = re.findall(
    r"\S+",
    """
    role content type text name function parameters arguments tool_calls tool_call_id json_schema
    schema include_usage properties items enum $ref anyOf 7
    """,
)


class Mutator:
    """Requests that begin valid and are then spoiled."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def value(self, depth=0):
        chance = self.random
        kind = chance.randrange(10 if depth < 4 else 7)
        if kind == 0:
            return chance.choice([None, True, False])
        if kind == 1:
            return chance.choice([-1, 0, 1, 2, 7, 20, 64, 65, 2**31, 2**63, -(2**63), 2**64])
        if kind == 2:
            return chance.choice([-0.0, 0.5, 1.5, -1e9, 1e-320, 1e308, float("inf"), float("nan")])
        if kind in (3, 4):
            return chance.choice(WORDS)
        if kind == 5:
            return "".join(chr(chance.randrange(0xD000)) for _ in range(chance.randrange(20)))
        if kind == 6:
            return chance.choice(WORDS) * chance.choice([1, 1, 10, 2000])
        if kind == 7:
            return [self.value(depth + 1) for _ in range(chance.randrange(4))]
        names = KEYS + FIELDS
        return {chance.choice(names): self.value(depth + 1) for _ in range(chance.randrange(4))}

    def spoil(self, body):
        """Put values into a body somewhere."""
        for _ in range(self.random.randrange(4)):
            at, key = body, self.random.choice(FIELDS)
            while isinstance(at.get(key), (list, dict)) and at[key] and self.random.random() < 0.7:
                inner = at[key]
                inner = inner if isinstance(inner, dict) else inner[0]
                if not isinstance(inner, dict) or not inner:
                    break
                at, key = inner, self.random.choice([*inner, *KEYS])
            at[key] = self.value()
        return body

    def damage(self, data):
        """Change bytes."""
        data = bytearray(data)
        for _ in range(self.random.randrange(1, 5)):
            at = self.random.randrange(len(data) + 1)
            kind = self.random.randrange(4)
            if kind == 0:
                data[at:at] = self.random.randbytes(self.random.choice([1, 1, 2, 50]))
            elif kind == 1:
                del data[at : at + self.random.choice([1, 1, 5, 100])]
            elif kind == 2 and at < len(data):
                data[at] = self.random.randrange(256)
            else:
                data[at:at] = data[at : at + 20] * self.random.choice([1, 3])
        return bytes(data)

    def body(self, path):
        chance = self.random
        kind = chance.randrange(100)
        if kind == 0:
            return b"[" * chance.choice([63, 64, 65, 100_000])
        if kind == 1:
            return b'{"prompt": "' + b"a" * chance.choice([10_000, 1 << 20]) + b'"}'
        if kind == 2 and chance.random() < 0.05:
            return b" " * ((8 << 20) + 1)
        if kind == 3:
            return chance.randbytes(chance.randrange(200))
        if kind == 4:
            return json.dumps(self.value()).encode()
        value = self.spoil(json.loads(json.dumps(VALID.get(path, CHAT))))
        text = json.dumps(value, ensure_ascii=chance.random() < 0.5)
        coding = chance.choice(["utf-8"] * 12 + ["utf-16", "utf-32", "utf-8-sig", "cp1252"])
        data = text.encode(coding, errors="surrogatepass" if coding[:3] == "utf" else "replace")
        return self.damage(data) if chance.random() < 0.25 else data

    def headers(self, length):
        """Head lines of a request, some of them wrong."""
        chance = self.random
        lines = {
            b"host": b"localhost",
            b"x-api-key": b"test-key",
            b"content-type": b"application/json",
            b"content-length": str(length).encode(),
            b"connection": b"close",
        }
        if chance.random() < 0.2:
            name = chance.choice([*lines, *OTHER_HEADERS])
            wrong = [b"", b"-1", b"5", b"99999999999999999999", b"a" * 70_000, b"x\x00y", b"\xff"]
            wrong += [b"text/plain", b"application/json; charset=utf-16", b"gzip", b"chunked", b"*"]
            lines[name] = chance.choice([*wrong, chance.randbytes(chance.randrange(24))])
        if chance.random() < 0.05:
            del lines[chance.choice([b"host", b"content-type", b"content-length"])]
        listed = [name + b": " + value for name, value in lines.items()]
        if chance.random() < 0.02:
            listed += [b"h: x"] * chance.choice([1, 90, 500])
        if chance.random() < 0.02:
            listed.append(b"content-length: 6")
        return listed

    def request(self):
        """Bytes to send."""
        chance = self.random
        if chance.random() < 0.02:
            return chance.randbytes(chance.randrange(1, 300))
        path = chance.choice([*VALID, *VALID, *VALID, *OTHER_PATHS])
        method = chance.choice(["POST"] * 40 + ["GET", "PUT", "DELETE", "OPTIONS", "HEAD", "X"])
        body = self.body(path)
        version = chance.choice(["HTTP/1.1"] * 30 + ["HTTP/1.0", "HTTP/2.0", "HTTP/9.9", "", "h"])
        lines = [f"{method} {path} {version}".encode(), *self.headers(len(body))]
        if chance.random() < 0.03:
            size = chance.choice([b"%x" % len(body), b"ZZ", b"-1", b"ffffffffffffffffff"])
            lines = [line for line in lines if not line.startswith(b"content-length")]
            lines.append(b"transfer-encoding: chunked")
            body = size + b"\r\n" + body + b"\r\n0\r\n\r\n"
        data = b"\r\n".join(lines) + b"\r\n\r\n" + body
        return self.damage(data) if chance.random() < 0.05 else data


OTHER_HEADERS = b"""
    authorization origin accept content-encoding transfer-encoding expect cookie connection
    upgrade x-request-id traceparent te range
""".split()


def connect(address):
    return socket.create_connection(address, timeout=PATIENCE_S)


def exchange(address, data):
    """Send bytes and read to the end; the statuses that came back."""
    received = bytearray()
    with connect(address) as stream:
        # Refused before it was read whole, or closed when all was said.
        with contextlib.suppress(ConnectionError):
            stream.sendall(data)
        silent = False
        with contextlib.suppress(ConnectionError):
            while True:
                if not silent and not select.select([stream], [], [], SILENCE_S)[0]:
                    silent = True
                    stream.shutdown(socket.SHUT_WR)
                chunk = stream.recv(1 << 16)
                if not chunk:
                    break
                received += chunk
    return statuses(bytes(received))


def statuses(received):
    """The status of every reply in what a connection said."""
    found = []
    for line in received.split(b"\r\n"):
        at = line.rfind(b"HTTP/1.")
        if at >= 0 and line[at + 8 : at + 9] == b" " and line[at + 9 : at + 12].isdigit():
            found.append(int(line[at + 9 : at + 12]))
    return found


def in_parallel(count, work):
    """Run ``work(client, cases)`` in threads; the first exception is raised here."""
    failed = []

    def run(client):
        try:
            work(client, range(client, count, CLIENTS))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=[client]) for client in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def gauges(server):
    text = httpx.get(f"{server.url}/metrics", headers=HEADERS, timeout=PATIENCE_S).text
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name.split("{")[0]: float(value) for name, value in lines}


BUSY = [
    "kilotok:sequences_in_flight",
    "kilotok:pages_used",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
]


def assert_idle(server, patience_s):
    """Nothing is left of any request."""
    until = time.monotonic() + patience_s
    while any(left := [gauges(server)[name] for name in BUSY]):
        assert time.monotonic() < until, dict(zip(BUSY, left, strict=True))
        time.sleep(0.02)


def serves(server):
    url = f"{server.url}/v1/chat/completions"
    reply = httpx.post(url, json=CHAT, headers=HEADERS, timeout=PATIENCE_S)
    return reply.status_code == 200 and reply.json()["usage"]["completion_tokens"] > 0


def address_of(server):
    host, port = server.url.removeprefix("http://").split(":")
    return host, int(port)


@pytest.mark.timeout(3600)
def test_malformed_requests_are_refused_and_forgotten(start):
    """No crash, no hang, no reply of 500 or more, and the next valid request is served."""
    # What is valid by chance should not take long.
    server = start("--default-max-tokens", "4", "--log", "warn")
    address = address_of(server)
    counts = [collections.Counter() for _ in range(CLIENTS)]

    def send(client, cases):
        for case in cases:
            data = Mutator(case).request()
            try:
                came = exchange(address, data)
            except TimeoutError:
                raise AssertionError(f"case {case} hangs: {data[:2000]!r}") from None
            assert all(status < 500 for status in came), (case, came, data[:2000])
            counts[client].update(came or ["closed"])
            if case % 500 == 0:
                assert serves(server), case

    in_parallel(CASES, send)
    total = sum(counts, collections.Counter())
    print(dict(total.most_common()))
    assert serves(server)
    assert_idle(server, 10)
    # Both kinds were met: what is wrong, and what is right in spite of all.
    assert total[400] > CASES / 4
    assert total[200] > CASES / 20
    assert server.stop() == 0
    assert not any("panicked" in line for line in server.log), server.log


def leave(address, chance):
    """Begin a request and close the socket at a random moment."""
    kind = chance.randrange(5)
    long = {"max_tokens": 400, "ignore_eos": True}
    path, body = [
        ("/v1/chat/completions", CHAT | long | {"stream": True}),
        ("/v1/chat/completions", CHAT | long | {"n": chance.randint(1, 3)}),
        ("/v1/completions", {"prompt": ["Hi", "Ho"], "stream": chance.random() < 0.5} | long),
        ("/v1/responses", {"input": "Hi", "max_output_tokens": 400, "stream": True}),
        ("/v1/messages", CHAT | long | {"stream": True}),
    ][kind]
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\nx-api-key: test-key\r\n"
        f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    with connect(address) as stream:
        data = head.encode() + data
        if chance.random() < 0.1:
            stream.sendall(data[: chance.randrange(len(data))])
        else:
            stream.sendall(data)
            patience = chance.random() ** 2 * 0.05
            if chance.random() < 0.3 and select.select([stream], [], [], patience)[0]:
                stream.recv(chance.randint(1, 4000))
            time.sleep(patience)
        if chance.random() < 0.5:
            # Closed with a reset instead of an end.
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.timeout(3600)
def test_clients_that_leave_leave_nothing_behind(start):
    server = start("--log", "warn", "--max-queue", "512")
    address = address_of(server)

    def run(_, cases):
        for case in cases:
            leave(address, random.Random(case))

    before = gauges(server)
    in_parallel(DISCONNECTS, run)
    # Far less time than the requests would have taken.
    assert_idle(server, 5)
    after = gauges(server)
    cancelled = after["kilotok:cancelled_total"] - before["kilotok:cancelled_total"]
    print(f"{cancelled:.0f} sequences cancelled")
    assert cancelled > DISCONNECTS / 4
    assert after["kilotok:pages_used"] == before["kilotok:pages_used"] == 0
    # Every slot is usable: as many streams as there are slots run at once.
    slots = int(after["kilotok:slots"])
    long = {"prompt": "Hi", "n": slots, "max_tokens": 400, "ignore_eos": True, "stream": True}
    url = f"{server.url}/v1/completions"
    with httpx.stream("POST", url, json=long, headers=HEADERS, timeout=PATIENCE_S) as reply:
        assert reply.status_code == 200
        chunks = reply.iter_raw()
        next(chunks)
        until = time.monotonic() + 10
        while gauges(server)["vllm:num_requests_running"] < slots:
            assert time.monotonic() < until
    assert_idle(server, 5)
    assert serves(server)
    assert server.stop() == 0
    assert not any("panicked" in line for line in server.log), server.log
