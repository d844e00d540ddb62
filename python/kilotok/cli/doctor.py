"""``kilotok doctor``: what this machine has, what would run, and why not."""

import argparse
import importlib.util
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from kilotok import __version__, _core
from kilotok.cli.arguments import add_json
from kilotok.cli.table import binary_size
from kilotok.errors import Error
from kilotok.loading import demo_checkpoint

_OPTIONAL = {
    "numpy": "Engine.from_tensors with numpy arrays",
    "torch": "Engine.from_tensors with torch tensors",
    "huggingface_hub": "models by hub id",
}


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "doctor",
        help="describe this machine and what would run on it",
        description="Describe processor, memory, driver, GPUs and embedded kernels; run the probe "
        "kernel on every GPU; say what would run and why not. Fails only if a probe fails.",
    )
    parser.add_argument("--no-probe", action="store_true", help="launch nothing on GPUs")
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    report = examine(launch=not arguments.no_probe)
    print(json.dumps(report, indent=2) if arguments.json else _render(report))
    return 1 if any("error" in probe for probe in report["probes"]) else 0


def examine(*, launch: bool) -> dict[str, Any]:
    """Everything there is to say, as plain values."""
    cpu = _core.cpu_info()
    gpu = _core.gpu_report()
    has_kernels = gpu["kernels"]["compiler"] is not None
    probes = [_probe(d["index"]) for d in gpu["devices"]] if launch and has_kernels else []
    return {
        "kilotok": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": {"model": cpu_model(), **cpu},
        "memory": _memory(),
        "gpu": gpu,
        "probes": probes,
        "packages": {name: importlib.util.find_spec(name) is not None for name in _OPTIONAL},
        "demo_checkpoint": _demo(),
        "would_run": _would_run(cpu, gpu),
    }


def _would_run(cpu: dict[str, Any], gpu: dict[str, Any]) -> dict[str, Any]:
    """Which device an engine would take, and why each other one would not do."""
    on_cpu = {"simd": cpu["best"], "threads": cpu["cores"]}
    if gpu["state"] != "ready":
        reason = gpu["detail"]
    elif gpu["kernels"]["compiler"] is None:
        reason = "this build has no GPU kernels (KILOTOK_CUDA=0)"
    elif gpu["devices"][0]["runs"].get("engine") is None:
        reason = "this build has no engine kernels for GPU 0"
    else:
        # What mode="auto" means, and why a model may still run on the CPU.
        why = "wherever the model does not fit on the GPU"
        return {"device": "cuda", "mode": "persistent", **on_cpu, "not_run": {"cpu": why}}
    return {"device": "cpu", **on_cpu, "not_run": {"cuda": reason}}


def _probe(index: int) -> dict[str, Any]:
    try:
        memory = _core.gpu_memory(index)
        return {"index": index, "memory": memory, **_core.run_gpu_probe(index)}
    except Error as error:
        return {"index": index, "error": str(error)}


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory() -> dict[str, int]:
    """Bytes of main memory; `available` where the system tells."""
    found = {"total": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")}
    try:
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                found["available"] = int(line.split()[1]) * 1024
    except OSError:
        pass
    return found


def _demo() -> str | None:
    try:
        return str(demo_checkpoint())
    except Error:
        return None


def _render(report: dict[str, Any]) -> str:
    cpu, memory, runs = report["cpu"], report["memory"], report["would_run"]
    features = " ".join(name for name, present in cpu["features"].items() if present)
    available = f", {binary_size(memory['available'])} available" if "available" in memory else ""
    lines = [
        f"kilotok {report['kilotok']}, Python {report['python']} at {sys.executable}",
        f"platform: {report['platform']}",
        f"cpu: {cpu['model']}, {cpu['cores']} usable cores",
        f"  features: {features or 'none of interest'}",
        f"  SIMD paths: {', '.join(cpu['simd'])}; best: {cpu['best']}",
        f"memory: {binary_size(memory['total'])}{available}",
        *report["gpu"]["text"].splitlines(),
        *map(_render_probe, report["probes"]),
        f"demo checkpoint: {report['demo_checkpoint'] or 'not in this installation'}",
    ]
    lines += [
        f"{name}: {'installed' if present else 'not installed'} ({_OPTIONAL[name]})"
        for name, present in report["packages"].items()
    ]
    on_cpu = f"{runs['simd']}, {runs['threads']} threads"
    how = f"{runs['mode']} mode" if runs["device"] == "cuda" else on_cpu
    lines.append(f"would run on: {runs['device']}, {how}")
    lines += [f"would not run on: {name}: {why}" for name, why in runs["not_run"].items()]
    return "\n".join(lines)


def _render_probe(probe: dict[str, Any]) -> str:
    if "error" in probe:
        return f"probe kernel on GPU {probe['index']}: FAILED: {probe['error']}"
    memory = probe["memory"]
    return (
        f"probe kernel on GPU {probe['index']}: ok, {probe['num_elements']} elements exact, "
        f"{probe['kernel_us']:.1f} us, {probe['gbytes_per_s']:.0f} GB/s\n"
        f"  memory: {binary_size(memory['free'])} of {binary_size(memory['total'])} free, "
        f"an engine may take {binary_size(memory['budget'])}"
    )
