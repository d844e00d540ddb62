"""HTTPS: a certificate, its key, and what is refused."""

import json
import os
import shutil
import socket
import ssl
import subprocess

import pytest

httpx = pytest.importorskip("httpx", reason="httpx is not installed")

HEADERS = {"x-api-key": "test-key"}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Paths of a certificate for 127.0.0.1 that vouches for itself, and of its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    folder = tmp_path_factory.mktemp("tls")
    paths = folder / "cert.pem", folder / "key.pem"
    options = "-x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test"
    files = ["-out", paths[0], "-keyout", paths[1]]
    # What is an authority cannot be a server's certificate, some clients hold.
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE"]
    subprocess.run(
        ["openssl", "req", *options.split(), *names, *files], check=True, capture_output=True
    )
    return paths


def serve(binary, *arguments):
    return subprocess.run(
        [binary, "serve", "--port", "0", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_replies_and_streams_come_encrypted(start, certificate, version):
    cert, key = certificate
    context = ssl.create_default_context(cafile=str(cert))
    context.minimum_version = context.maximum_version = version
    server = start("--tls-cert", str(cert), "--tls-key", str(key), verify=context)
    assert server.url.startswith("https://")
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 5, "stream": True}
    url = f"{server.url}/v1/chat/completions"
    reply = httpx.post(url, json=body, headers=HEADERS, verify=context, timeout=60)
    assert "data: [DONE]" in reply.text
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/live")
    # What is no TLS is closed, and does not disturb anyone.
    host, port = server.url.removeprefix("https://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as plain:
        plain.sendall(b"GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert b"200" not in plain.recv(1000)
    assert httpx.get(f"{server.url}/live", verify=context).status_code == 200
    assert server.stop() == 0


def test_load_is_sent_encrypted_to_servers_that_are_trusted(binary, start, certificate):
    cert, key = certificate
    context = ssl.create_default_context(cafile=str(cert))
    server = start(
        "--simulate", "500", "--tls-cert", str(cert), "--tls-key", str(key), verify=context
    )

    def bench(url, *arguments):
        return subprocess.run(
            [binary, "bench-serve", url, "--json", "--requests", "3", *arguments],
            env=os.environ | {"KILOTOK_API_KEY": "test-key"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    done = bench(server.url, "--ca-cert", str(cert))
    assert json.loads(done.stdout)["requests"] == {"done": 3, "refused": 0, "failed": 0}
    stranger = bench(server.url)
    assert stranger.returncode == 1
    assert "UnknownIssuer" in stranger.stderr
    another = bench(server.url.replace("127.0.0.1", "localhost"), "--ca-cert", str(cert))
    assert another.returncode == 1
    assert "not valid for name" in another.stderr
    assert "no certificate" in bench(server.url, "--ca-cert", str(key)).stderr


def test_certificates_that_cannot_be_used_are_refused(binary, certificate, tmp_path):
    cert, key = certificate
    assert "go together" in serve(binary, "--tls-cert", cert).stderr
    (tmp_path / "empty").write_text("")
    refused = serve(binary, "--tls-cert", tmp_path / "empty", "--tls-key", key)
    assert refused.returncode == 1
    assert "empty: no certificate" in refused.stderr
    refused = serve(binary, "--tls-cert", cert, "--tls-key", tmp_path / "missing")
    assert "missing" in refused.stderr
    other = tmp_path / "other.pem"
    options = "-algorithm ec -pkeyopt ec_paramgen_curve:P-256"
    subprocess.run(
        ["openssl", "genpkey", *options.split(), "-out", other], check=True, capture_output=True
    )
    refused = serve(binary, "--tls-cert", cert, "--tls-key", other)
    assert refused.returncode == 1
    assert "other.pem" in refused.stderr
