"""Files of tiny checkpoints as other libraries see them."""

import json

import numpy as np
import pytest
import tiny
from tiny._reference import reference


def files(path):
    return {f.relative_to(path): f.read_bytes() for f in path.rglob("*") if f.is_file()}


@pytest.mark.parametrize("preset", sorted(tiny.PRESETS))
def test_writing_is_reproducible_and_readable(tmp_path, preset):
    for name in "ab":
        tiny.write(tmp_path / name, preset, 9)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    tiny.write(tmp_path / "c", preset, 10)
    assert files(tmp_path / "a") != files(tmp_path / "c")
    target = reference.open_target(tmp_path / "a")
    logits = target.forward([1, 2, 3]).logits
    assert 1 < logits.std() < 10
    if tiny.PRESETS[preset].draft:
        drafter = reference.Drafter(tmp_path / "a" / "dflash", target)
        taps = target.forward([1, 2]).taps(drafter.config.target_layer_ids)
        context = drafter.extend(drafter.empty(), taps)
        assert 1 < drafter.block(context, 3).std() < 10


def test_safetensors_reads_our_files(tiny_model):
    safetensors = pytest.importorskip("safetensors", reason="safetensors is not installed")
    model = tiny_model("flash-f32", 0)
    for shard in model.path.glob("model-*.safetensors"):
        with safetensors.safe_open(shard, "np") as file:
            for name in file.keys():  # noqa: SIM118
                np.testing.assert_array_equal(file.get_tensor(name), model.tensors[name].data)


def test_tokenizer_loads(tiny_model):
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    path = tiny_model("v26", 0).path
    tokenizer = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
    text = "<|im_start|>user\nthe naïve 🦀 reader<|im_end|>"
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert max(ids) < json.loads((path / "config.json").read_text())["vocab_size"]


@pytest.mark.torch
@pytest.mark.parametrize("preset", ["pro", "v25"])
def test_torch_loads_our_sidecar_and_we_load_torchs(tiny_model, tmp_path, preset):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    model = tiny_model(preset, 0)
    sidecar = model.path / "dflash" / "mask_embedding.pt"
    ours = reference.dflash.read_mask_embedding(sidecar.parent, model.preset.hidden)
    loaded = torch.load(sidecar, weights_only=True)
    vector = loaded["embedding"] if preset == "v25" else loaded
    assert vector.dtype == torch.bfloat16
    np.testing.assert_array_equal(vector.float().numpy(), ours)
    torch.save(loaded, tmp_path / "mask_embedding.pt")
    again = reference.dflash.read_mask_embedding(tmp_path, model.preset.hidden)
    np.testing.assert_array_equal(again, ours)
