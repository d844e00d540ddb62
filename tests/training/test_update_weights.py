"""Weights of a running engine: all or nothing, between rounds, memory flat."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
from tiny.weights import Stored

from kilotok import Engine, EngineDeadError, InvalidRequestError, ModelFormatError, SamplingParams
from kilotok.reference import Checkpoint, formats

PRESET = tiny.PRESETS["v26"]
GPT_OSS = tiny.PRESETS["gptoss"]
PROMPT = [5, 9, 100, 7, 33]
GREEDY = SamplingParams(max_tokens=24, ignore_eos=True)


def given(tensors: dict[str, Stored]) -> dict[str, object]:
    return {name: (stored.dtype, stored.data) for name, stored in tensors.items()}


def wide_experts(directory: Path) -> dict[str, np.ndarray]:
    """Experts as float32, by name."""
    checkpoint = Checkpoint.open(directory)
    return {
        name: checkpoint.array(name)
        for name in checkpoint.tensors
        if ".experts." in name and name.endswith(".weight")
    }


@pytest.fixture
def pair(tmp_path):
    """Two checkpoints of one shape: `old` and `new`."""
    return [tiny.write(tmp_path / name, PRESET, seed) for seed, name in enumerate(["old", "new"])]


def open_engine(made: tiny.TinyModel, **options) -> Engine:
    return Engine(made.path, progress=False, threads=1, **options)


def ids(engine: Engine, prompt=PROMPT, params=GREEDY) -> list[int]:
    return engine.generate(list(prompt), params).token_ids


class TestValues:
    """What the engine computes with afterwards."""

    @pytest.mark.parametrize("preset", [PRESET, tiny.PRESETS["flash-f32"], GPT_OSS])
    def test_every_tensor_of_a_checkpoint_makes_that_model(self, tmp_path, preset):
        old, new = (tiny.write(tmp_path / str(seed), preset, seed) for seed in range(2))
        with open_engine(old) as engine, open_engine(new) as other:
            assert ids(engine) != ids(other)
            engine.update_weights(given(new.tensors))
            # The drafter is the old one, which changes no token (law 2).
            assert ids(engine) == ids(other)
            engine.update_weights(given(old.tensors))
            with open_engine(old) as again:
                assert ids(engine) == ids(again)

    @pytest.mark.parametrize("dtype", ["F32", "BF16"])
    def test_experts_in_wide_formats_are_rounded_as_conversion_rounds(self, tmp_path, dtype):
        from kilotok.training.convert import convert

        old = tiny.write(tmp_path / "old", PRESET, 0)
        wide = tiny.write(tmp_path / "wide", PRESET.but(experts_dtype="BF16"), 1)
        convert(wide.path, tmp_path / "want", progress=False)
        tensors = given(wide.tensors)
        if dtype == "F32":
            for name, values in wide_experts(wide.path).items():
                tensors[name] = values
        with open_engine(old) as engine, Engine(tmp_path / "want", progress=False) as want:
            engine.update_weights(tensors)
            assert ids(engine) == ids(want)
            for prompt in ([1], list(range(60))):
                assert ids(engine, prompt) == ids(want, prompt)

    def test_a_subset_changes_that_and_nothing_else(self, pair, tmp_path):
        old, new = pair
        names = [n for n in new.tensors if "layers.1.mlp.experts" in n or n == "lm_head.weight"]
        mixed = dict(old.tensors) | {name: new.tensors[name] for name in names}
        from tiny.files import write_json, write_safetensors

        (tmp_path / "mixed").mkdir()
        write_json(tmp_path / "mixed/config.json", old.config)
        write_safetensors(tmp_path / "mixed/model.safetensors", mixed)
        with open_engine(old) as engine, Engine(tmp_path / "mixed", progress=False) as want:
            engine.update_weights(given({name: new.tensors[name] for name in names}))
            assert ids(engine) == ids(want)

    def test_stacked_experts_of_transformers_are_taken(self, tmp_path):
        preset = PRESET.but(experts_dtype="BF16")
        old, new = (tiny.write(tmp_path / str(seed), preset, seed) for seed in range(2))
        tensors = given(new.tensors)
        for prefix in {n.split(".experts.")[0] + ".experts" for n in tensors if ".experts." in n}:
            each = [
                [tensors.pop(f"{prefix}.{e}.{p}_proj.weight")[1] for p in ("gate", "up", "down")]
                for e in range(preset.experts)
            ]
            both = np.stack([np.concatenate([gate, up]) for gate, up, _ in each])
            tensors[f"{prefix}.gate_up_proj"] = ("BF16", both)
            tensors[f"{prefix}.down_proj"] = ("BF16", np.stack([down for *_, down in each]))
        with open_engine(old) as engine, open_engine(new) as want:
            engine.update_weights(tensors)
            assert ids(engine) == ids(want)

    def test_the_tensors_may_be_changed_afterwards(self, pair):
        old, new = pair
        head = new.tensors["lm_head.weight"].data.copy()
        with open_engine(old) as engine:
            engine.update_weights({"lm_head.weight": ("BF16", head)})
            want = ids(engine)
            head[:] = 0
            assert ids(engine) == want

    def test_torch_parameters_are_taken(self, pair):
        torch = pytest.importorskip("torch", reason="PyTorch is not installed")
        old, new = pair
        tensors = {
            name: torch.nn.Parameter(torch.from_numpy(values))
            for name, values in wide_experts(new.path).items()
        }
        with open_engine(old) as engine, open_engine(old) as want:
            engine.update_weights(tensors)
            want.update_weights({n: t.detach().bfloat16() for n, t in tensors.items()})
            # Values of MXFP4 are exact in BF16, so both rounded the same numbers.
            assert ids(engine) == ids(want)


class TestRefusal:
    """An error leaves every old weight in place."""

    def wrong(self, new: tiny.TinyModel):
        experts = "model.layers.1.mlp.experts"
        values = np.ones((64, 160), np.float32)
        bad = values.copy()
        bad[3, 4] = np.nan
        yield {"model.layers.9.foo": values}, "model.layers.9.foo"
        yield {f"{experts}.0.up_proj.weight": values.T.copy()}, "shape"
        yield {f"{experts}.0.up_proj.weight": bad}, "not finite"
        yield {f"{experts}.0.up_proj.weight": values.astype(np.float16)}, "F16"
        yield {f"{experts}.0.up_proj.weight_scale": np.zeros((64, 5), np.uint8)}, "unexpected"
        nan = {
            f"{experts}.0.up_proj.weight": np.zeros((64, 80), np.uint8),
            f"{experts}.0.up_proj.weight_scale": np.full((64, 5), 255, np.uint8),
        }
        yield nan, "NaN"
        yield {"lm_head.weight": new.tensors[f"{experts}.0.up_proj.weight"].data}, "lm_head"
        yield {"model.norm.weight": np.full(160, np.inf, np.float32)}, "model.norm.weight"

    def test_all_or_nothing(self, pair):
        old, new = pair
        with open_engine(old) as engine:
            want = ids(engine)
            for tensors, text in self.wrong(new):
                good = given({"lm_head.weight": new.tensors["lm_head.weight"]})
                with pytest.raises(ModelFormatError, match=text):
                    engine.update_weights({**good, **tensors})
                assert ids(engine) == want, text
            engine.update_weights({})
            assert ids(engine) == want

    def test_what_is_no_tensor_is_refused(self, pair):
        with open_engine(pair[0]) as engine:
            with pytest.raises(InvalidRequestError, match="lm_head"):
                engine.update_weights({"lm_head.weight": [1.0]})
            engine.close()
            with pytest.raises(EngineDeadError):
                engine.update_weights({})


class TestInFlight:
    """Requests that run while weights change."""

    tokens = 200

    def params(self, done: int = 0) -> SamplingParams:
        return SamplingParams(max_tokens=self.tokens - done, ignore_eos=True)

    def generate_while(self, engine: Engine, act) -> list[int]:
        """Tokens of a request during which `act` runs once."""
        stream = engine.stream(list(PROMPT), self.params())
        out = list(next(stream).token_ids)
        act()
        for piece in stream:
            out.extend(piece.token_ids)
        return out

    def assert_switched(self, got: list[int], before: Engine, after: Engine) -> None:
        """`got` is the text of `before`, and from some token on that of `after` behind it."""
        plain = ids(before, PROMPT, self.params())
        same = next(i for i, (a, b) in enumerate(zip(got, plain, strict=True)) if a != b)
        assert any(
            ids(after, PROMPT + got[:at], self.params(at)) == got[at:] for at in range(same, 0, -1)
        )

    @pytest.mark.parametrize("keep_kv", [False, True])
    @pytest.mark.parametrize("speculation", ["off", 8])
    def test_the_same_weights_change_nothing(self, pair, keep_kv, speculation):
        old, _ = pair
        with open_engine(old, speculation=speculation) as engine:
            want = self.generate_while(engine, lambda: None)
            got = self.generate_while(
                engine, lambda: engine.update_weights(given(old.tensors), keep_kv=keep_kv)
            )
            assert got == want

    @pytest.mark.parametrize("speculation", ["off", 8])
    def test_without_old_kv_it_goes_on_as_the_new_model_would(self, pair, speculation):
        old, new = pair
        with (
            open_engine(old, speculation=speculation) as engine,
            open_engine(old) as before,
            open_engine(new) as after,
        ):
            got = self.generate_while(engine, lambda: engine.update_weights(given(new.tensors)))
            self.assert_switched(got, before, after)

    @pytest.mark.parametrize("keep_kv", [False, True])
    def test_keys_and_values_that_both_models_make_may_be_kept(self, pair, keep_kv):
        """Only the head changes, so kept and recomputed caches are the same."""
        old, new = pair
        head = given({"lm_head.weight": new.tensors["lm_head.weight"]})
        with open_engine(old) as engine, open_engine(old) as before, open_engine(old) as after:
            after.update_weights(head)
            got = self.generate_while(engine, lambda: engine.update_weights(head, keep_kv=keep_kv))
            self.assert_switched(got, before, after)

    def test_kept_keys_and_values_are_those_of_the_old_model(self, pair):
        """With other layers the text goes on, but as neither model would alone."""
        old, new = pair
        with open_engine(old) as engine, open_engine(old) as before, open_engine(new) as after:
            got = self.generate_while(
                engine, lambda: engine.update_weights(given(new.tensors), keep_kv=True)
            )
            assert len(got) == self.tokens
            with pytest.raises(AssertionError):
                self.assert_switched(got, before, after)

    @pytest.mark.parametrize("keep_kv", [False, True])
    def test_prefixes_that_the_old_weights_left_are_forgotten(self, pair, keep_kv):
        old, new = pair
        prompt = list(range(100))
        with open_engine(old) as engine, open_engine(new) as after:
            ids(engine, prompt)
            assert engine.generate(prompt, GREEDY).receipt.cached_tokens > 0
            engine.update_weights(given(new.tensors), keep_kv=keep_kv)
            assert ids(engine, prompt) == ids(after, prompt)
            assert engine.generate(prompt, GREEDY).receipt.cached_tokens > 0

    def test_many_requests_and_updates_at_once(self, pair):
        """Nothing is lost, and what starts afterwards is the last model's."""
        old, new = pair
        with open_engine(old, max_batch=4) as engine:
            params = SamplingParams(max_tokens=60, ignore_eos=True, temperature=0.8, seed=3)
            results, stop = [], threading.Event()

            def ask(at: int) -> None:
                while not stop.is_set():
                    prompt = [at + 1, *range(at, at + 40)]
                    results.append(len(engine.generate(prompt, params).token_ids))

            threads = [threading.Thread(target=ask, args=(at,)) for at in range(6)]
            for thread in threads:
                thread.start()
            for at in range(20):
                made = (new, old)[at % 2]
                engine.update_weights(given(made.tensors), keep_kv=at % 3 == 0)
            stop.set()
            for thread in threads:
                thread.join(60)
            assert results
            assert set(results) == {60}
            with open_engine(old) as want:
                assert ids(engine) == ids(want)


def resident() -> int:
    """Bytes of this process that are in memory and its own."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no RssAnon")


def test_memory_is_flat_over_a_hundred_updates(tmp_path):
    """Each update brings 9 MiB of BF16 experts, which become 2.4 MiB; 100 would be 240 MiB."""
    preset = tiny.PRESETS["v26"].but(hidden=256, moe_intermediate=256, experts=12, vocab=288)
    made = tiny.write(tmp_path, preset.but(draft=None), 0)
    rng = np.random.default_rng(0)
    tensors = {
        name: ("BF16", formats.encode_bf16(rng.normal(size=values.shape) * 0.05))
        for name, values in wide_experts(made.path).items()
    }
    assert sum(data.nbytes for _, data in tensors.values()) > 8 << 20
    with open_engine(made) as engine:
        for at in range(120):
            if at == 20:
                before = resident()
            engine.update_weights(tensors)
            engine.generate(PROMPT, SamplingParams(max_tokens=2, ignore_eos=True))
        time.sleep(0.1)
        assert resident() - before < 4 << 20
