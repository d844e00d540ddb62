"""Spans for an OpenTelemetry collector, which this test plays."""

import http.server
import json
import subprocess
import threading

import pytest

httpx = pytest.importorskip("httpx", reason="httpx is not installed")

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


@pytest.fixture
def collector():
    """An address and the spans that came to it."""
    spans = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            for resource in body["resourceSpans"]:
                for scope in resource["scopeSpans"]:
                    spans.extend(scope["spans"])
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1/traces", spans
    server.shutdown()


def values(attributes):
    return {one["key"]: next(iter(one["value"].values())) for one in attributes}


def test_a_span_per_request_without_prompts(binary, start, collector):
    endpoint, spans = collector
    without = subprocess.run(
        [binary, "serve", "--port", "0", "--otlp-endpoint", endpoint, "--drafter", "/nowhere"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert without.returncode == 1
    if "--features otel" in without.stderr:
        pytest.skip("this build sends no spans (cargo build -p kilotok-server --features otel)")
    server = start("--otlp-endpoint", endpoint, "--log", "warn")
    body = {
        "messages": [{"role": "user", "content": "secret words"}],
        "max_tokens": 20,
        "stream": True,
        "ignore_eos": True,
    }
    headers = {
        "x-api-key": "test-key",
        "x-request-id": "mine-1",
        "traceparent": f"00-{TRACE}-{PARENT}-01",
    }
    url = f"{server.url}/v1/chat/completions"
    httpx.post(url, json=body, headers=headers, timeout=60).raise_for_status()
    httpx.post(url, json={}, headers=headers | {"x-request-id": "mine-2"})
    assert server.stop() == 0

    ours = {values(span["attributes"]).get("id"): span for span in spans}
    span = ours["mine-1"]
    assert span["name"] == "request"
    assert (span["traceId"], span["parentSpanId"]) == (TRACE, PARENT)
    attributes = values(span["attributes"])
    assert (attributes["method"], attributes["route"]) == ("POST", "/v1/chat/completions")
    assert int(attributes["status"]) == 200
    finished = next(event for event in span["events"] if event["name"] == "sequence finished")
    numbers = values(finished["attributes"])
    assert int(numbers["tokens"]) == 20
    # The span ends with the stream and not with its head.
    seconds = (int(span["endTimeUnixNano"]) - int(span["startTimeUnixNano"])) / 1e9
    assert seconds * 1000 >= float(numbers["ttft_ms"])
    assert int(values(ours["mine-2"]["attributes"])["status"]) == 400
    assert "secret" not in json.dumps(spans)
    assert "test-key" not in json.dumps(spans)
