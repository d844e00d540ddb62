"""Engines from tensors in memory equal engines from the directory they came from."""

import dataclasses
import json

import numpy as np
import pytest
import tiny

from kilotok import Engine, InvalidRequestError, ModelFormatError, SamplingParams

PARAMS = SamplingParams(max_tokens=32, temperature=0.8, seed=9, ignore_eos=True)


def read(path, torch=None):
    """Config and tensors of a directory, as numpy arrays or, given torch, as torch tensors."""
    tensors = {}
    for file in sorted(path.glob("*.safetensors")):
        blob = file.read_bytes()
        size = int.from_bytes(blob[:8], "little")
        for name, entry in json.loads(blob[8 : 8 + size]).items():
            if name == "__metadata__":
                continue
            start, end = (8 + size + offset for offset in entry["data_offsets"])
            tensors[name] = tensor(entry["dtype"], entry["shape"], blob[start:end], torch)
    return json.loads((path / "config.json").read_text()), tensors


def tensor(dtype, shape, data, torch):
    if torch is not None:
        types = {
            "F32": torch.float32,
            "BF16": torch.bfloat16,
            "F8_E4M3": torch.float8_e4m3fn,
            "U8": torch.uint8,
        }
        return torch.frombuffer(bytearray(data), dtype=types[dtype]).reshape(shape)
    # What numpy has no type for goes as a pair with the type's name.
    kind = {"F32": np.float32, "BF16": np.uint16, "F8_E4M3": np.uint8, "U8": np.uint8}[dtype]
    array = np.frombuffer(data, dtype=kind).reshape(shape)
    return array if dtype in ("F32", "U8") else (dtype, array)


def same(path, config, tensors, drafter):
    with Engine(path, progress=False) as engine:
        # A fixed block: what "auto" tries depends on measured time.
        expected = engine.generate([3, 1, 4, 1, 5], PARAMS, speculation=8)
    with Engine.from_tensors(config, tensors, drafter=drafter, progress=False) as engine:
        got = engine.generate([3, 1, 4, 1, 5], PARAMS, speculation=8)
        assert engine.info()["drafter"] is not None
    assert got.token_ids == expected.token_ids
    assert got.receipt.accepted_histogram == expected.receipt.accepted_histogram


@pytest.mark.parametrize("preset", ["flash-f32", "flash", "v25", "pro"])
def test_numpy_arrays(checkpoint, preset):
    draft = dataclasses.replace(tiny.PRESETS[preset].draft, mask="safetensors")
    path = checkpoint(preset, draft=draft)
    config, tensors = read(path)
    same(path, config, tensors, read(path / "dflash"))


def test_widened_values_are_the_same_values(checkpoint):
    """A bf16 matrix may be handed over as f32."""
    path = checkpoint("flash")
    config, tensors = read(path)
    wide = {}
    for name, tensor in tensors.items():
        bits = tensor[1] if isinstance(tensor, tuple) else None
        wide[name] = tensor if bits is None else (bits.astype(np.uint32) << 16).view(np.float32)
    same_without_drafter(path, config, wide)


@pytest.mark.torch
@pytest.mark.parametrize("preset", ["flash", "v25", "pro"])
def test_torch_tensors(checkpoint, preset):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    path = checkpoint(preset)
    config, tensors = read(path, torch)
    same_without_drafter(path, config, tensors)


def same_without_drafter(path, config, tensors):
    with Engine(path, progress=False, drafter=None) as engine:
        expected = engine.generate([3, 1, 4, 1, 5], PARAMS)
    with Engine.from_tensors(config, tensors, progress=False) as engine:
        assert engine.info()["drafter"] is None
        got = engine.generate([3, 1, 4, 1, 5], PARAMS)
    assert got.token_ids == expected.token_ids


def test_text_with_a_tokenizer_directory(checkpoint):
    path = checkpoint("v26")
    config, tensors = read(path)
    with Engine.from_tensors(config, tensors, tokenizer=path, progress=False) as engine:
        assert isinstance(engine.generate("the", PARAMS).text, str)


def test_what_is_not_a_tensor(checkpoint):
    config, tensors = read(checkpoint("flash-f32"))
    name = next(iter(tensors))
    for value in (None, [1.0], "x", np.zeros(3, dtype=np.complex64), ("F32", None)):
        with pytest.raises(InvalidRequestError, match=name) as caught:
            Engine.from_tensors(config, tensors | {name: value}, progress=False)
        assert caught.value.parameter == "tensors"


def test_what_does_not_fit_the_config(checkpoint):
    config, tensors = read(checkpoint("flash-f32"))
    name = "model.norm.weight"
    with pytest.raises(ModelFormatError, match=name):
        Engine.from_tensors(config, tensors | {name: np.zeros(3, np.float32)}, progress=False)
    with pytest.raises(ModelFormatError, match=name):
        Engine.from_tensors(config, {n: t for n, t in tensors.items() if n != name}, progress=False)
    with pytest.raises(ModelFormatError):
        Engine.from_tensors({"model_type": "gpt2"}, tensors, progress=False)
    with pytest.raises(TypeError):
        Engine.from_tensors(config, tensors, max_bach=3)


def test_arrays_that_are_not_contiguous_are_copied(checkpoint):
    path = checkpoint("flash-f32")
    config, tensors = read(path)
    scattered = {n: np.asfortranarray(t) if t.ndim == 2 else t for n, t in tensors.items()}
    same_without_drafter(path, config, scattered)


def test_the_tensors_may_go_away(checkpoint):
    path = checkpoint("flash-f32")
    config, tensors = read(path)
    with Engine(path, progress=False, drafter=None) as engine:
        expected = engine.generate([1, 2], PARAMS).token_ids
    engine = Engine.from_tensors(config, tensors, progress=False)
    del tensors
    assert engine.generate([1, 2], PARAMS).token_ids == expected
    engine.close()
