"""Conversion: formats in, MXFP4 out, bit for bit, whatever happens on the way."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from tiny.files import write_json, write_safetensors
from tiny.weights import Stored

from kilotok import Engine, Error, InvalidRequestError, ModelFormatError
from kilotok.reference import Checkpoint, formats, open_target
from kilotok.training.convert import convert
from kilotok.training.convert import job as job_module
from kilotok.training.quantize import dequantize_mxfp4, quantize_mxfp4

MIMO = {
    "bf16": tiny.PRESETS["v26"].but(experts_dtype="BF16", shards=2),
    "f32": tiny.PRESETS["flash-f32"].but(hidden=64, moe_intermediate=32),
    "fp8": tiny.PRESETS["v26"].but(experts_dtype="F8_E4M3", shards=3),
    "mxfp4": tiny.PRESETS["v26"],
}
GPT_OSS = {
    "bf16": tiny.PRESETS["gptoss-bf16"].but(hidden=64, intermediate=32),
    "f32": tiny.PRESETS["gptoss"].but(experts_dtype="F32"),
    "mxfp4": tiny.PRESETS["gptoss"],
}


def digests(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def expert_names(checkpoint: Checkpoint) -> list[str]:
    return [name for name in checkpoint.tensors if ".experts." in name and name.endswith(".weight")]


def logits(directory: Path, ids: list[int]) -> np.ndarray:
    from kilotok import _core

    out = _core.debug_forward(str(directory), ids)
    return np.frombuffer(out["logits"], np.float32).reshape(len(ids), -1)


class TestFormats:
    """What is written, against the reference's own reading and rounding."""

    @pytest.mark.parametrize("kind", MIMO)
    def test_mimo_experts_are_rounded_by_the_ocp_rule(self, tmp_path, kind):
        tiny.write(tmp_path / "in", MIMO[kind], seed=1)
        convert(tmp_path / "in", tmp_path / "out", progress=False)
        before, after = Checkpoint.open(tmp_path / "in"), Checkpoint.open(tmp_path / "out")
        names = expert_names(after)
        assert len(names) >= 18
        for name in names:
            nibbles, scales = formats.encode_mxfp4(before.array(name))
            np.testing.assert_array_equal(after.tensors[name].data, nibbles, err_msg=name)
            np.testing.assert_array_equal(after.tensors[f"{name}_scale"].data, scales)
        # Nothing else is touched, and nothing of the old experts is left.
        for name, stored in before.tensors.items():
            if ".experts." not in name:
                assert after.tensors[name].dtype == stored.dtype
                np.testing.assert_array_equal(after.tensors[name].data, stored.data)
        assert len(after.tensors) == 2 * len(names) + sum(
            ".experts." not in name for name in before.tensors
        )
        assert after.config["quantization_config"]["store_dtype"] == "mxfp4"

    @pytest.mark.parametrize("kind", GPT_OSS)
    def test_gpt_oss_layouts_become_one_matrix_per_tensor(self, tmp_path, kind):
        tiny.write(tmp_path / "in", GPT_OSS[kind], seed=2)
        convert(tmp_path / "in", tmp_path / "out", progress=False)
        before, after = Checkpoint.open(tmp_path / "in"), Checkpoint.open(tmp_path / "out")
        experts = GPT_OSS[kind].experts
        for prefix in {n.split(".experts.")[0] + ".experts" for n in expert_names(after)}:
            for stacked, parts in (
                ("gate_up_proj", ("gate_proj", "up_proj")),
                ("down_proj", ("down_proj",)),
            ):
                bias = before.tensors[f"{prefix}.{stacked}_bias"].data
                for expert in range(experts):
                    for at, part in enumerate(parts):
                        name = f"{prefix}.{expert}.{part}"
                        got = [after.tensors[f"{name}.weight{s}"].data for s in ("", "_scale")]
                        if kind == "mxfp4":
                            rows = slice(at, None, len(parts))
                            blocks = before.tensors[f"{prefix}.{stacked}_blocks"].data[expert][rows]
                            want = [
                                blocks.reshape(len(blocks), -1),
                                before.tensors[f"{prefix}.{stacked}_scales"].data[expert][rows],
                            ]
                        else:
                            stored = before.tensors[f"{prefix}.{stacked}"]
                            values = stored.data[expert][:, at :: len(parts)].T
                            if kind == "bf16":
                                values = formats.decode_bf16(values)
                            want = formats.encode_mxfp4(values)
                        np.testing.assert_array_equal(got[0], want[0], err_msg=name)
                        np.testing.assert_array_equal(got[1], want[1], err_msg=name)
                        np.testing.assert_array_equal(
                            after.tensors[f"{name}.bias"].data, bias[expert][at :: len(parts)]
                        )

    def test_stacked_experts_of_transformers(self, tmp_path):
        made = tiny.write(tmp_path / "one", MIMO["bf16"].but(shards=1), seed=3)
        convert(tmp_path / "one", tmp_path / "want", progress=False)
        tensors = dict(made.tensors)
        for prefix in {n.split(".experts.")[0] + ".experts" for n in tensors if ".experts." in n}:
            each = [
                [
                    tensors.pop(f"{prefix}.{e}.{part}_proj.weight").data
                    for part in ("gate", "up", "down")
                ]
                for e in range(made.preset.experts)
            ]
            both = np.stack([np.concatenate([gate, up]) for gate, up, _ in each])
            tensors[f"{prefix}.gate_up_proj"] = Stored("BF16", both)
            tensors[f"{prefix}.down_proj"] = Stored("BF16", np.stack([down for *_, down in each]))
        (tmp_path / "stacked").mkdir()
        write_json(tmp_path / "stacked/config.json", made.config)
        write_safetensors(tmp_path / "stacked/model.safetensors", tensors)
        convert(tmp_path / "stacked", tmp_path / "out", progress=False)
        want, got = (Checkpoint.open(tmp_path / name).tensors for name in ("want", "out"))
        assert set(want) == set(got)
        for name, stored in want.items():
            np.testing.assert_array_equal(got[name].data, stored.data, err_msg=name)

    @pytest.mark.parametrize("preset", [*MIMO.values(), *GPT_OSS.values()])
    def test_the_engine_computes_what_the_rounded_weights_say(self, tmp_path, preset):
        tiny.write(tmp_path / "in", preset, seed=4)
        convert(tmp_path / "in", tmp_path / "out", progress=False)
        ids = list(range(3, 40))
        got = logits(tmp_path / "out", ids)
        want = (
            open_target(tmp_path / "out").forward(ids).logits
            if preset.model_type != "gpt_oss"
            else None
        )
        if want is None:
            # The reference reads gpt-oss's own layout: round that in place.
            made = tiny.write(tmp_path / "in", preset, seed=4)
            for name, stored in list(made.tensors.items()):
                if ".experts." in name and name.endswith("_proj"):
                    values = (
                        stored.data if stored.dtype == "F32" else formats.decode_bf16(stored.data)
                    )
                    flat = np.swapaxes(values, 1, 2).reshape(-1, values.shape[1])
                    rounded = formats.decode_mxfp4(*formats.encode_mxfp4(flat))
                    rounded = np.swapaxes(rounded.reshape(len(values), -1, values.shape[1]), 1, 2)
                    made.tensors[name] = Stored("F32", np.ascontiguousarray(rounded, np.float32))
            (tmp_path / "rounded").mkdir()
            write_json(tmp_path / "rounded/config.json", made.config)
            write_safetensors(tmp_path / "rounded/model.safetensors", made.tensors)
            want = open_target(tmp_path / "rounded").forward(ids).logits
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-4 * np.abs(want).max())

    def test_bf16_and_back_gives_the_same_bits(self, tmp_path):
        tiny.write(tmp_path / "in", MIMO["mxfp4"], seed=5)
        convert(tmp_path / "in", tmp_path / "wide", experts="bf16", progress=False)
        convert(tmp_path / "wide", tmp_path / "out", progress=False)
        before, after = (Checkpoint.open(tmp_path / name) for name in ("in", "out"))
        wide = Checkpoint.open(tmp_path / "wide")
        for name in expert_names(before):
            np.testing.assert_array_equal(wide.array(name), before.array(name))
            np.testing.assert_array_equal(after.array(name), before.array(name))


class TestScales:
    """The search for the scale of the smallest error."""

    def brute_force(self, block: np.ndarray, weights: np.ndarray) -> float:
        """Least weighted squared error over every scale, by the reference's codec."""
        costs = []
        for scale in range(255):
            step = 2.0 ** (scale - 127)
            values = formats.E2M1[formats.encode_e2m1(block / step)] * step
            if np.abs(values).max() <= np.finfo(np.float32).max:
                costs.append(float((weights * (block - values) ** 2).sum()))
        return min(costs)

    @pytest.mark.parametrize("weighted", [False, True])
    def test_no_scale_is_better(self, weighted):
        rng = np.random.default_rng(6)
        weight = rng.standard_t(3, (40, 64)) * np.exp2(rng.integers(-20, 20, (40, 1)))
        weight = weight.astype(np.float32)
        importance = rng.random(64).astype("f4") ** 4 if weighted else None
        nibbles, scales, _ = quantize_mxfp4(weight, scale="mse", importance=importance)
        back = dequantize_mxfp4(nibbles, scales).astype(np.float64)
        weights = np.ones(64) if importance is None else importance.astype(np.float64)
        for row in range(40):
            for at in (0, 32):
                block = weight[row, at : at + 32].astype(np.float64)
                found = (weights[at : at + 32] * (block - back[row, at : at + 32]) ** 2).sum()
                best = self.brute_force(block, weights[at : at + 32])
                assert found <= best * (1 + 1e-9)

    def test_distortion_is_measured_on_what_is_written(self):
        weight = np.random.default_rng(7).normal(size=(30, 96)).astype(np.float32)
        nibbles, scales, distortion = quantize_mxfp4(weight)
        error = weight.astype(np.float64) - dequantize_mxfp4(nibbles, scales)
        assert distortion.squared_error == pytest.approx((error**2).sum(), rel=1e-12)
        assert distortion.largest_error == pytest.approx(np.abs(error).max(), rel=1e-12)
        assert distortion.elements == weight.size
        step = np.exp2(scales.astype(np.float64) - 127).repeat(32, -1)
        assert distortion.saturated == (np.abs(weight) > 6 * step).sum()

    def test_mse_is_better_on_average_and_calibration_on_what_matters(self, tmp_path):
        from safetensors.numpy import save_file

        tiny.write(tmp_path / "in", MIMO["bf16"], seed=8)
        before = Checkpoint.open(tmp_path / "in")
        rng = np.random.default_rng(9)
        moments = {}
        for name in expert_names(before):
            cols = before.array(name).shape[1]
            moments[name.removesuffix(".weight")] = rng.random(cols).astype("f4") ** 6
        save_file(moments, tmp_path / "moments.safetensors")
        errors = {}
        for kind, options in {
            "max": {"scale": "max"},
            "mse": {"scale": "mse"},
            "calibrated": {"calibrate": tmp_path / "moments.safetensors"},
        }.items():
            report = convert(tmp_path / "in", tmp_path / kind, progress=False, **options)
            after = Checkpoint.open(tmp_path / kind)
            squares = weighted = 0.0
            for name in expert_names(before):
                error = (before.array(name).astype(np.float64) - after.array(name)) ** 2
                squares += error.sum()
                weighted += (error * moments[name.removesuffix(".weight")]).sum()
            errors[kind] = squares, weighted
            value = sum(
                (before.array(n).astype(np.float64) ** 2).sum() for n in expert_names(before)
            )
            assert report.total.relative_error == pytest.approx((squares / value) ** 0.5, rel=1e-6)
        assert errors["mse"][0] < errors["max"][0]
        assert errors["calibrated"][1] < errors["mse"][1]
        assert errors["calibrated"][0] > errors["mse"][0]

    def test_importance_of_a_layer_stands_for_its_experts(self, tmp_path):
        from safetensors.numpy import save_file

        tiny.write(tmp_path / "in", MIMO["bf16"], seed=10)
        weights = np.random.default_rng(11).random(160).astype("f4")
        save_file({"model.layers.1.mlp.experts.gate_up_proj": weights}, tmp_path / "a.safetensors")
        report = convert(
            tmp_path / "in", tmp_path / "out", calibrate=tmp_path / "a.safetensors", progress=False
        )
        assert report.options["calibrated_matrices"] == 2 * MIMO["bf16"].experts
        before, after = (Checkpoint.open(tmp_path / name) for name in ("in", "out"))
        name = "model.layers.1.mlp.experts.2.up_proj.weight"
        want, _, _ = quantize_mxfp4(before.array(name), scale="mse", importance=weights)
        np.testing.assert_array_equal(after.tensors[name].data, want)


@pytest.fixture
def source(tmp_path):
    tiny.write(tmp_path / "in", MIMO["bf16"].but(shards=4), seed=12)
    return tmp_path / "in"


class TestFiles:
    """Interruption, refusal, and what lies in the destination."""

    def test_everything_of_the_source_is_there_and_checked(self, source, tmp_path):
        (source / ".cache").mkdir()
        (source / ".cache/junk").write_text("junk")
        convert(source, tmp_path / "out", progress=False)
        out = tmp_path / "out"
        listed = dict(
            reversed(line.split("  ")) for line in (out / "SHA256SUMS").read_text().splitlines()
        )
        found = digests(out)
        del found["SHA256SUMS"]
        assert listed == found
        assert {"tokenizer.json", "conversion.json", "dflash/config.json"} <= set(found)
        assert ".cache/junk" not in found
        report = json.loads((out / "conversion.json").read_text())
        layers = [entry["layer"] for entry in report["layers"]]
        assert layers == sorted(layers, key=int)
        assert 0 < report["total"]["relative_error"] < 0.2
        with Engine(out, progress=False, threads=1) as engine:
            assert engine.generate("a").text

    @pytest.mark.parametrize("nth", [1, 2, 3])
    def test_killed_and_resumed_gives_the_same_bytes(self, source, tmp_path, nth):
        """SIGKILL while the nth file is being written."""
        convert(source, tmp_path / "want", progress=False)
        script = (
            "import os, signal, sys\n"
            "from kilotok.training import convert as c\n"
            "from kilotok.training.convert.plan import Item\n"
            "files, produce = set(), Item.produce\n"
            "def counted(self):\n"
            "    source = self._source\n"
            "    files.add(getattr(source, 'tensor', source).file)\n"
            f"    if len(files) == {nth} and self.matrix:\n"
            "        yield next(produce(self))\n"
            "        os.kill(os.getpid(), signal.SIGKILL)\n"
            "    yield from produce(self)\n"
            "Item.produce = counted\n"
            "c.convert(sys.argv[1], sys.argv[2], progress=False)\n"
        )
        out = tmp_path / "out"
        killed = subprocess.run([sys.executable, "-c", script, source, out], capture_output=True)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert not out.exists()
        left = tmp_path / "out.converting"
        done = sorted(left.glob("checkpoint/*.safetensors"))
        assert len(done) == nth - 1
        stamps = {path.name: path.stat().st_mtime_ns for path in done}
        convert(source, out, progress=False)
        assert digests(out) == digests(tmp_path / "want")
        for name, stamp in stamps.items():
            assert (out / name).stat().st_mtime_ns == stamp, f"{name} was written again"
        assert not left.exists()

    def test_what_belongs_to_another_conversion_is_refused(self, source, tmp_path, monkeypatch):
        def fail(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(job_module.Job, "finish", fail)
            with pytest.raises(KeyboardInterrupt):
                convert(source, tmp_path / "out", progress=False)
        with pytest.raises(Error, match="--restart"):
            convert(source, tmp_path / "out", scale="mse", progress=False)
        convert(source, tmp_path / "out", scale="mse", restart=True, progress=False)
        convert(source, tmp_path / "want", scale="mse", progress=False)
        assert digests(tmp_path / "out") == digests(tmp_path / "want")

    def test_two_at_once_are_refused(self, source, tmp_path, monkeypatch):
        write = job_module.Job.write_json

        def nested(self, name, contents):
            with pytest.raises(Error, match="is running"):
                convert(source, tmp_path / "out", progress=False)
            write(self, name, contents)

        monkeypatch.setattr(job_module.Job, "write_json", nested)
        convert(source, tmp_path / "out", progress=False)

    def test_an_existing_destination_and_a_full_disk_are_refused(
        self, source, tmp_path, monkeypatch
    ):
        (tmp_path / "there").mkdir()
        with pytest.raises(Error, match="exists already"):
            convert(source, tmp_path / "there", progress=False)
        usage = job_module.shutil.disk_usage(tmp_path)._replace(free=1000)
        monkeypatch.setattr(job_module.shutil, "disk_usage", lambda _: usage)
        with pytest.raises(Error, match="only 1,000 are free"):
            convert(source, tmp_path / "out", progress=False)
        assert not list(tmp_path.glob("out.converting/checkpoint/*"))

    def test_progress_ends_at_the_total(self, source, tmp_path):
        seen = []
        convert(source, tmp_path / "out", progress=lambda *told: seen.append(told))
        done = [at for at, _ in seen]
        assert done == sorted(done)
        assert seen[-1][0] == seen[-1][1] > 0

    @pytest.mark.parametrize("wrong", [np.nan, np.inf])
    def test_values_that_are_not_finite_are_named(self, tmp_path, wrong):
        made = tiny.write(tmp_path / "in", MIMO["bf16"].but(shards=1), seed=13)
        name = "model.layers.1.mlp.experts.3.up_proj.weight"
        made.tensors[name].data[1, 2] = formats.encode_bf16(np.array([1.0], "f4"))[0]
        bits = {"nan": 0x7FC0, "inf": 0x7F80}[str(wrong)]
        made.tensors[name].data[1, 2] = bits
        write_safetensors(tmp_path / "in/model.safetensors", made.tensors)
        with pytest.raises(ModelFormatError, match=name.replace(".", r"\.")):
            convert(tmp_path / "in", tmp_path / "out", progress=False)
        assert not (tmp_path / "out").exists()

    def test_what_cannot_be_converted_is_named(self, tmp_path):
        tiny.write(tmp_path / "odd", tiny.PRESETS["v25"].but(experts_dtype="BF16"), seed=14)
        with pytest.raises(ModelFormatError, match="24 columns"):
            convert(tmp_path / "odd", tmp_path / "out", progress=False)
        made = tiny.write(tmp_path / "in", MIMO["fp8"].but(shards=1), seed=15)
        del made.tensors["model.layers.1.mlp.experts.0.up_proj.weight_scale_inv"]
        write_safetensors(tmp_path / "in/model.safetensors", made.tensors)
        with pytest.raises(ModelFormatError, match=r"up_proj\.weight_scale_inv is missing"):
            convert(tmp_path / "in", tmp_path / "out", progress=False)
        (tmp_path / "in/model.safetensors").write_bytes(b"\xff" * 100)
        with pytest.raises(ModelFormatError, match="header"):
            convert(tmp_path / "in", tmp_path / "out", progress=False)
        with pytest.raises(InvalidRequestError, match="scale"):
            convert(tmp_path / "in", tmp_path / "out", scale="best", progress=False)
        assert not (tmp_path / "out.converting").exists()


def test_memory_stays_at_about_one_matrix(tmp_path):
    """12 MiB of a fused BF16 tensor per expert, 240 MiB in all, under 120 MiB beyond the start."""
    experts, rows, cols = 20, 1024, 2048
    shape = (experts, 2 * rows, cols)
    piece = np.random.default_rng(16).integers(0x3C00, 0x3E00, (2 * rows, cols)).astype("<u2")
    (tmp_path / "in").mkdir()
    write_json(tmp_path / "in/config.json", {"model_type": "qwen3_moe"})
    header = {
        "model.layers.0.mlp.experts.gate_up_proj": {
            "dtype": "BF16",
            "shape": list(shape),
            "data_offsets": [0, experts * piece.nbytes],
        }
    }
    text = json.dumps(header).encode()
    with (tmp_path / "in/model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _ in range(experts):
            file.write(piece.tobytes())
    script = (
        "import resource, sys\n"
        "from kilotok.training.convert import convert\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "convert(sys.argv[1], sys.argv[2], progress=False)\n"
        "print(peak() - before)\n"
    )
    command = [sys.executable, "-c", script, tmp_path / "in", tmp_path / "out"]
    grown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert int(grown) < 120 << 10, f"{int(grown) >> 10} MiB"
    assert experts * piece.nbytes > 150 << 20


class TestCommand:
    """`kilotok convert` as a user runs it."""

    def run(self, *arguments, code=0):
        command = [sys.executable, "-m", "kilotok", "convert", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    def test_reports_errors_by_layer(self, source, tmp_path):
        text = self.run(source, tmp_path / "out").stdout
        assert "relative error" in text
        assert "down_proj" in text
        again = self.run(source, tmp_path / "out", code=1)
        assert "exists already" in again.stderr
        report = json.loads(self.run(source, tmp_path / "b", "--scale", "mse", "--json").stdout)
        assert report["options"]["scale"] == "mse"

    def test_interrupted_it_says_so_and_goes_on(self, source, tmp_path):
        script = (
            "import sys, time\n"
            "from kilotok.training.convert.job import Job\n"
            "copy = Job.copy\n"
            "def slow(self, *a):\n"
            "    print('copying', flush=True); time.sleep(30)\n"
            "Job.copy = slow\n"
            "from kilotok.cli import main\n"
            "sys.exit(main(['convert', *sys.argv[1:]]))\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", script, source, tmp_path / "out"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout.readline() == "copying\n"
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=20)
        assert process.returncode == 130
        assert error.strip().endswith("kilotok: interrupted")
        self.run(source, tmp_path / "out")
        assert (tmp_path / "out/config.json").is_file()

    def test_the_demo_survives_a_round_trip(self, tmp_path):
        self.run("demo", tmp_path / "wide", "--experts", "bf16")
        self.run(tmp_path / "wide", tmp_path / "out")
        from kilotok.loading import demo_checkpoint

        before, after = digests(demo_checkpoint()), digests(tmp_path / "out")
        shards = [name for name in before if name.endswith(".safetensors")]
        want, got = Checkpoint.open(demo_checkpoint()), Checkpoint.open(tmp_path / "out")
        assert set(want.tensors) == set(got.tensors)
        for name, stored in want.tensors.items():
            np.testing.assert_array_equal(got.tensors[name].data, stored.data, err_msg=name)
        assert all(name in after for name in shards)
