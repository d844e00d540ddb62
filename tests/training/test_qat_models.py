"""Models of transformers in and out: opening MiMo checkpoints, saving, input moments."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import tiny

torch = pytest.importorskip("torch", reason="quantisation-aware training needs PyTorch")
pytest.importorskip("transformers", minversion="5.0", reason="needs transformers 5")

from kilotok import Engine, InvalidRequestError, ModelFormatError, SamplingParams  # noqa: E402
from kilotok.reference import Checkpoint, open_target  # noqa: E402
from kilotok.training.calibrate import activation_moments, save_moments  # noqa: E402
from kilotok.training.convert import convert  # noqa: E402
from kilotok.training.qat import expert_weights, fake_quant_mxfp4, prepare_qat  # noqa: E402
from kilotok.training.qat_export import export_experts, save_checkpoint  # noqa: E402
from kilotok.training.qat_model import open_mimo  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))

IDS = list(range(5, 45))

#: Fused and split projections, equal and doubled key/value heads, one window for all layers.
PRESETS = {
    "fused, equal heads": tiny.PRESETS["pro"].but(window=9),
    "fused, doubled heads": tiny.PRESETS["v26"],
    "split": tiny.PRESETS["flash"].but(hidden=64, moe_intermediate=32),
    "transformers": tiny.PRESETS["flash-transformers"].but(hidden=64, moe_intermediate=32),
}


def logits(model, ids=IDS) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([ids]), use_cache=False).logits[0].float().numpy()


def close(got: np.ndarray, want: np.ndarray) -> None:
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-4 * np.abs(want).max())


class TestOpen:
    """MiMo checkpoints as models of transformers."""

    @pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
    def test_computes_what_the_reference_computes(self, tmp_path, preset):
        tiny.write(tmp_path, preset, seed=1)
        close(logits(open_mimo(tmp_path)), open_target(tmp_path).forward(IDS).logits)

    def test_the_demo(self):
        from kilotok import _core
        from kilotok.loading import demo_checkpoint

        out = _core.debug_forward(str(demo_checkpoint()), IDS)
        want = np.frombuffer(out["logits"], np.float32).reshape(len(IDS), -1)
        model = open_mimo(None)
        close(logits(model), want)
        # Its experts are on the grid already, so rounding changes no bit.
        plain = logits(model)
        np.testing.assert_array_equal(logits(prepare_qat(model)), plain)

    def test_other_families_are_refused(self, tmp_path):
        tiny.write(tmp_path, "gptoss", seed=2)
        with pytest.raises(ModelFormatError, match="not a MiMo-V2"):
            open_mimo(tmp_path)


class TestSave:
    """A trained model as a checkpoint that the engine loads."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
    @pytest.mark.parametrize("family", ["mimo_v2_flash", "gpt_oss"])
    def test_the_engine_computes_what_training_used(self, tmp_path, family, dtype):
        import moe_models

        model = prepare_qat(moe_models.make(family, dtype=dtype)).train()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        ids = moe_models.batch()
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        model.eval()
        want = logits(model.float())
        model.to(dtype)
        for module in model.modules():
            if hasattr(module, "_qat_dims"):
                module._qat_dtype = None
        report = save_checkpoint(model, tmp_path / "out")
        assert 0 < report.total.relative_error < 0.2
        saved = Checkpoint.open(tmp_path / "out")
        for name, codes in export_experts(model).items():
            np.testing.assert_array_equal(saved.tensors[name].data, codes.numpy())
        from kilotok import _core

        out = _core.debug_forward(str(tmp_path / "out"), IDS)
        got = np.frombuffer(out["logits"], np.float32).reshape(len(IDS), -1)
        close(got, want)
        assert not list(tmp_path.glob(".out-*"))

    def test_what_belongs_to_the_model_goes_with_it(self, tmp_path):
        tiny.write(tmp_path / "in", "v26", seed=3, teach_prompts=[[1, 2, 3]])
        model = open_mimo(tmp_path / "in")
        save_checkpoint(model, tmp_path / "out", like=tmp_path / "in")
        params = SamplingParams(max_tokens=24, ignore_eos=True)
        outputs = []
        for name in ("in", "out"):
            with Engine(tmp_path / name, progress=False, speculation=8) as engine:
                assert engine.info()["drafter"]
                outputs.append(engine.generate("abc", params))
        assert outputs[0].token_ids == outputs[1].token_ids

    def test_an_engine_takes_the_experts_live(self, tmp_path):
        tiny.write(tmp_path / "in", "v26", seed=4)
        model = prepare_qat(open_mimo(tmp_path / "in"))
        with torch.no_grad():
            for weight in expert_weights(model):
                weight.parameter.add_(torch.randn(weight.parameter.shape) * 0.1)
        save_checkpoint(model, tmp_path / "out", like=tmp_path / "in")
        params = SamplingParams(max_tokens=24, ignore_eos=True)
        with Engine(tmp_path / "in", progress=False) as engine:
            before = engine.generate(IDS, params).token_ids
            engine.update_weights(export_experts(model))
            live = engine.generate(IDS, params).token_ids
        with Engine(tmp_path / "out", progress=False) as engine:
            assert engine.generate(IDS, params).token_ids == live != before


class TestMoments:
    """Second moments of the inputs of expert matrices."""

    @pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss", "mixtral"])
    def test_are_those_of_a_naive_forward(self, family):
        import moe_models

        model, ids = moe_models.make(family), moe_models.batch()
        moments = activation_moments(model, [ids])
        experts = model.model.layers[0].mlp.experts
        seen = {}
        experts.register_forward_hook(lambda _m, args, _o: seen.update(args=args))
        with torch.no_grad():
            model(ids)
        hidden, index = seen["args"][0], seen["args"][1]
        for expert in range(experts.num_experts):
            rows = hidden[(index == expert).any(-1)]
            name = f"model.layers.0.mlp.experts.{expert}"
            if len(rows) == 0:
                assert f"{name}.gate_proj" not in moments
                continue
            torch.testing.assert_close(moments[f"{name}.gate_proj"], rows.square().mean(0))
            if family == "gpt_oss":
                gate_up = rows @ experts.gate_up_proj[expert] + experts.gate_up_proj_bias[expert]
                inner = experts._apply_gate(gate_up)
            else:
                gate, up = (rows @ experts.gate_up_proj[expert].T).chunk(2, -1)
                inner = torch.nn.functional.silu(gate) * up
            want = inner.square().mean(0).detach()
            torch.testing.assert_close(moments[f"{name}.down_proj"], want, rtol=1e-3, atol=1e-6)

    def test_weighted_rounding_of_the_saved_model_has_a_smaller_output_error(self, tmp_path):
        tiny.write(tmp_path / "in", tiny.PRESETS["v26"].but(experts_dtype="BF16"), seed=5)
        model = open_mimo(tmp_path / "in")
        rng = np.random.default_rng(6)
        text = torch.from_numpy(rng.integers(0, 200, (8, 64)))
        save_moments(activation_moments(model, [text]), tmp_path / "moments.safetensors")
        calibrate = tmp_path / "moments.safetensors"
        report = convert(tmp_path / "in", tmp_path / "a", calibrate=calibrate, progress=False)
        assert report.options["calibrated_matrices"] == report.total.matrices
        convert(tmp_path / "in", tmp_path / "b", scale="max", progress=False)
        want = logits(model, text[0].tolist())
        errors = [
            np.square(logits(open_mimo(tmp_path / name), text[0].tolist()) - want).mean()
            for name in ("a", "b")
        ]
        assert errors[0] < errors[1]

    def test_a_prepared_model_is_refused(self):
        import moe_models

        with pytest.raises(InvalidRequestError, match="before `prepare_qat`"):
            activation_moments(prepare_qat(moe_models.make("mixtral")), [])


def test_rounding_by_hand_is_the_same(tmp_path):
    """`save_checkpoint` of a model whose experts were rounded by hand keeps their values."""
    import moe_models

    model = moe_models.make("mimo_v2_flash")
    with torch.no_grad():
        for weight in expert_weights(model):
            weight.parameter.copy_(fake_quant_mxfp4(weight.parameter))
    report = save_checkpoint(model, tmp_path / "out")
    assert report.total.relative_error == 0
