"""Twenty times more requests than a server has room for: what those see that are let in.

    python benches/server_overload.py --binary target/release/kilotok [--demo]

Starts the program with a simulated model or the demo checkpoint, 4 slots and no queue, asks it
alone, finds out how many requests it can serve, and then sends 20 times as many
(``kilotok bench-serve``, open loop). Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

SLOTS = 4
TOKENS = 40
#: Simulated tokens per second of one sequence.
RATE = 200
FACTOR = 20

#: Requests of which the times alone are taken.
ALONE = 200


def bench(binary: Path, url: str, *arguments: object) -> dict:
    """Run one load and return its report."""
    command = [binary, "bench-serve", url, "--json", "--max-tokens", TOKENS, *arguments]
    done = subprocess.run(
        list(map(str, command)), stdout=subprocess.PIPE, text=True, check=False, timeout=600
    )
    if done.returncode != 0:
        raise SystemExit(f"server_overload: bench-serve failed: {done.stdout}")
    return json.loads(done.stdout)


def wait_until_ready(url: str) -> None:
    """Ask until requests are taken."""
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{url}/ready").close()
        except urllib.error.HTTPError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit("server_overload: the server does not become ready")


def memory_mib(pid: int) -> float:
    """Resident MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


def main() -> None:
    """Start the server, send both loads, print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--demo", action="store_true", help="the demo checkpoint, on one thread")
    args = parser.parse_args()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("KILOTOK_")}
    options = ["--threads", 1] if args.demo else ["--simulate", RATE]
    options += ["--max-queue", 0, "--max-batch", SLOTS, "--log", "warn"]
    with tempfile.TemporaryDirectory() as cache:
        process = subprocess.Popen(
            [str(args.binary), "serve", "--port", "0", *map(str, options)],
            env=environment | {"XDG_CACHE_HOME": cache},
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            url = re.search(r"http://\S+", process.stdout.readline())[0]
            wait_until_ready(url)
            alone = bench(args.binary, url, "--requests", ALONE, "--warm-up", 10)
            full = bench(args.binary, url, "--requests", ALONE, "--concurrency", SLOTS)
            capacity = full["requests"]["done"] / full["seconds"]
            before = memory_mib(process.pid)
            rate = FACTOR * capacity
            limits = ["--requests", 10**6, "--duration-s", args.seconds]
            loaded = bench(args.binary, url, "--rate", rate, *limits)
            after = memory_mib(process.pid)
        finally:
            process.terminate()
            process.wait(60)
    result = {
        "benchmark": "20 times more requests than can be served, queue of 0",
        "model": "demo" if args.demo else f"simulated, {RATE} tokens/s",
        "seconds": args.seconds,
        "slots": SLOTS,
        "requests_per_s_served_at_most": capacity,
        "requests_per_s_sent": rate,
        "requests": loaded["requests"],
        "rss_mib_before": before,
        "rss_mib_after": after,
        "ttft_ms_alone": alone["ttft_ms"],
        "ttft_ms_full": full["ttft_ms"],
        "ttft_ms_loaded": loaded["ttft_ms"],
        "p99_over_p99_alone": loaded["ttft_ms"]["p99"] / alone["ttft_ms"]["p99"],
        "p99_over_median_alone": loaded["ttft_ms"]["p99"] / alone["ttft_ms"]["p50"],
        "load_average": os.getloadavg()[0],
    }
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
