"""Run a benchmark that prints JSON, and keep it together with the machine it ran on.

The document goes to ``<results>/<device>/<name>.json`` with the GPU's driver, clocks and power
limit, or (``--cpu``) the processor's cores and instruction sets, and with date and command: a
number without these cannot be compared with anything.
"""

import argparse
import datetime
import json
import platform
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from kilotok import __version__, _core

SMI_FIELDS = (
    "driver_version",
    "clocks.sm",
    "clocks.mem",
    "clocks.max.sm",
    "power.limit",
    "temperature.gpu",
)


def smi() -> dict[str, str]:
    """Read driver, clocks and power of GPU 0 from nvidia-smi; empty where there is none."""
    if shutil.which("nvidia-smi") is None:
        return {}
    query = ["nvidia-smi", f"--query-gpu={','.join(SMI_FIELDS)}", "--format=csv,noheader", "--id=0"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    values = [value.strip() for value in done.stdout.strip().split(",")]
    return dict(zip(SMI_FIELDS, values, strict=False)) if done.returncode == 0 else {}


def processor() -> dict:
    """Model, usable cores, instruction sets and memory of this machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory = next(
        int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if line
    )
    return {
        "model": models[0] if models else platform.machine(),
        "memory_gib": round(memory / 2**20, 1),
        "system": platform.platform(),
        **_core.cpu_info(),
    }


def main() -> int:
    """Run the command and write its document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--cpu", action="store_true", help="a benchmark of the processor")
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()

    if args.cpu:
        cpu = processor()
        machine = {"cpu": cpu}
        device = f"{cpu['model']} {cpu['cores']} cores"
    else:
        report = _core.gpu_report()
        machine = {"kernels": report["kernels"], "devices": report["devices"]}
        device = report["devices"][0]["name"] if report["devices"] else "no gpu"
    done = subprocess.run(args.command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        return done.returncode
    document = {
        "name": args.name,
        "command": shlex.join([Path(args.command[0]).name, *args.command[1:]]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "kilotok": __version__,
        **machine,
        **({} if args.cpu else {"after_run": smi()}),
        "result": json.loads(done.stdout),
    }
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    path = args.results / slug / f"{args.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
