"""Quantisation-aware training: bits, gradients, layouts, compilation, export."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="quantisation-aware training needs PyTorch")

from kilotok.errors import InvalidRequestError  # noqa: E402
from kilotok.reference.formats import decode_mxfp4, encode_mxfp4  # noqa: E402
from kilotok.training.qat import expert_weights, fake_quant_mxfp4, prepare_qat  # noqa: E402
from kilotok.training.qat_export import export_experts  # noqa: E402
from kilotok.training.quantize import dequantize_mxfp4, quantize_mxfp4  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))


def hard_values(seed: int = 0) -> np.ndarray:
    """Every magnitude, every tie, zeros of both signs, float32 [rows, 64]."""
    rng = np.random.default_rng(seed)
    spread = rng.normal(size=(512, 64)) * np.exp2(rng.integers(-148, 122, size=(512, 1)))
    ties = np.ldexp(rng.integers(-31, 32, (512, 64)) / 4, rng.integers(-130, 100, (512, 1)))
    edges = np.stack([np.full(64, v) for v in (0.0, -0.0, 3.4e38, -3.4e38, 1e-45, 2.0**-126)])
    return np.concatenate([spread, ties, edges]).astype(np.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_bits_are_those_of_the_codec_and_of_the_ocp_rule(dtype):
    weight = torch.from_numpy(hard_values()).to(dtype)
    weight[~weight.isfinite()] = 1.0
    got = fake_quant_mxfp4(weight)
    assert got.dtype == dtype
    values = weight.float().numpy()
    nibbles, scales, _ = quantize_mxfp4(values)
    engine = dequantize_mxfp4(nibbles, scales)
    oracle = decode_mxfp4(*encode_mxfp4(values))
    np.testing.assert_array_equal(got.float().numpy().view("u4"), engine.view("u4"))
    np.testing.assert_array_equal(engine.view("u4"), oracle.view("u4"))


def test_blocks_lie_along_the_axis_that_is_summed():
    weight = torch.randn(3, 64, 40, generator=torch.Generator().manual_seed(1))
    got = fake_quant_mxfp4(weight, dim=-2)
    want = fake_quant_mxfp4(weight.transpose(1, 2).contiguous()).transpose(1, 2)
    assert torch.equal(got, want)
    assert not torch.equal(got[..., :32], fake_quant_mxfp4(weight[..., :32].contiguous()))


def test_the_gradient_is_the_identity_s():
    weight = torch.randn(4, 64, requires_grad=True)
    given = torch.randn(4, 64)
    fake_quant_mxfp4(weight).backward(given)
    assert torch.equal(weight.grad, given)


def test_wrong_weights_are_refused():
    with pytest.raises(ValueError, match="multiple of 32"):
        fake_quant_mxfp4(torch.zeros(4, 33))
    with pytest.raises(ValueError, match="float16"):
        fake_quant_mxfp4(torch.zeros(4, 32, dtype=torch.float16))
    with pytest.raises(InvalidRequestError, match="no routed experts"):
        prepare_qat(torch.nn.Linear(32, 32))


class LinearExperts(torch.nn.Module):
    """Experts as a list of modules with a linear layer per matrix, as transformers 4 has them."""

    def __init__(self, names=("gate_proj", "up_proj", "down_proj")) -> None:
        super().__init__()
        self.names = names
        self.experts = torch.nn.ModuleList(
            torch.nn.ModuleDict(
                {
                    name: torch.nn.Linear(*((96, 64) if name == names[2] else (64, 96)), bias=False)
                    for name in names
                }
            )
            for _ in range(3)
        )
        self.shared_experts = torch.nn.Linear(64, 64)

    def forward(self, x):
        out = self.shared_experts(x)
        for expert in self.experts:
            gate, up, down = (expert[name] for name in self.names)
            out = out + down(torch.nn.functional.silu(gate(x)) * up(x))
        return out


@pytest.mark.parametrize("names", [("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2")])
def test_linear_experts(names):
    torch.manual_seed(2)
    model, x = LinearExperts(names), torch.randn(5, 64)
    before = {n: p.clone() for n, p in model.state_dict().items()}
    plain = model(x)
    prepare_qat(model)
    assert len(expert_weights(model)) == 9
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(p, before[n]) for n, p in model.state_dict().items())
    got = model(x)
    assert not torch.equal(got, plain)
    with torch.no_grad():
        for weight in expert_weights(model):
            weight.parameter.copy_(fake_quant_mxfp4(weight.parameter))
    reference = LinearExperts(names)
    reference.load_state_dict(model.state_dict())
    assert torch.equal(got, reference(x))
    model(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_preparing_twice_changes_nothing():
    torch.manual_seed(3)
    model, x = prepare_qat(LinearExperts()), torch.randn(5, 64)
    want = model(x)
    assert torch.equal(prepare_qat(model)(x), want)


class TestTransformers:
    """The layouts of transformers, each on a tiny random model."""

    FAMILIES = ("mimo_v2_flash", "gpt_oss", "qwen3_moe", "mixtral", "deepseek_v3")

    @pytest.fixture(autouse=True)
    def _needs(self):
        pytest.importorskip("transformers", minversion="5.0", reason="needs transformers 5")

    def make(self, family, **options):
        import moe_models

        return moe_models.make(family, **options), moe_models.batch()

    @pytest.mark.parametrize("family", FAMILIES)
    def test_equals_a_model_whose_experts_were_rounded_beforehand(self, family):
        model, ids = self.make(family)
        plain = model(ids).logits
        names = set(model.state_dict())
        prepare_qat(model)
        assert set(model.state_dict()) == names
        got = model(ids).logits
        assert not torch.equal(got, plain)
        other, _ = self.make(family)
        with torch.no_grad():
            for weight in expert_weights(other):
                weight.parameter.copy_(fake_quant_mxfp4(weight.parameter, weight.dim))
        assert torch.equal(got, other(ids).logits)

    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
    def test_what_is_exported_is_what_training_used(self, family, dtype):
        model, ids = self.make(family, dtype=dtype)
        prepare_qat(model).train()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        for _ in range(2):
            optimizer.zero_grad()
            model(ids, labels=ids).loss.backward()
            optimizer.step()
        exported = export_experts(model)
        seen = 0
        for weight in expert_weights(model):
            for name, matrix in weight.matrices(weight.rounded()):
                back = dequantize_mxfp4(
                    exported[f"{name}.weight"].numpy(), exported[f"{name}.weight_scale"].numpy()
                )
                np.testing.assert_array_equal(
                    matrix.float().numpy().view("u4"), back.view("u4"), err_msg=name
                )
                seen += 1
        assert seen == len(exported) // 2 > 0

    @pytest.mark.parametrize("family", FAMILIES)
    def test_training_lowers_the_loss_at_the_rounded_weights(self, family):
        model, ids = self.make(family)
        prepare_qat(model).train()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        losses = []
        for _ in range(30):
            optimizer.zero_grad()
            loss = model(ids, labels=ids).loss
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.6 * losses[0]
        for weight in expert_weights(model):
            assert weight.parameter.grad.abs().sum() > 0

    @pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
    def test_every_way_of_running_experts_sees_rounded_weights(self, implementation):
        model, ids = self.make("qwen3_moe")
        prepare_qat(model)
        want = model(ids).logits
        model.config._experts_implementation = implementation
        torch.testing.assert_close(model(ids).logits, want, rtol=1e-4, atol=1e-4)

    @pytest.mark.slow
    @pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss"])
    def test_compiled(self, family):
        """The compiled model computes, differentiates and exports as the eager one does."""
        model, ids = self.make(family)
        model.config._experts_implementation = "grouped_mm"
        prepare_qat(model).train()
        eager = model(ids, labels=ids)
        eager.loss.backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
        model.zero_grad()
        compiled = torch.compile(model, backend="aot_eager")
        loss = compiled(ids, labels=ids).loss
        loss.backward()
        torch.testing.assert_close(loss, eager.loss)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-3, atol=1e-5)
        assert expert_weights(model)[0].rounded_from == torch.float32
        assert set(export_experts(compiled)) == set(export_experts(model))


@pytest.mark.slow
def test_inductor_rounds_to_the_same_bits():
    weight = torch.from_numpy(hard_values(7))
    compiled = torch.compile(fake_quant_mxfp4, fullgraph=True)
    want = fake_quant_mxfp4(weight).numpy().view("u4")
    try:
        got = compiled(weight)
    except Exception as error:
        if "compiler" in str(error).lower():
            pytest.skip(f"no C++ compiler for inductor: {error}")
        raise
    np.testing.assert_array_equal(got.numpy().view("u4"), want)
