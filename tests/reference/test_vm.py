"""The GPU program in numpy: record by record what the engine's interpreter does, and its tokens."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from tiny import gpt_oss
from tiny.presets import PRESETS

from kilotok import Engine, SamplingParams
from kilotok.loading import demo_checkpoint
from kilotok.reference import Checkpoint, vm
from kilotok.reference.vm import records, steps

sys.path.insert(0, str(Path(__file__).parents[1] / "device"))

import program as header

PROMPT = [72, 101, 108, 108, 111, 32, 119, 111, 114, 108, 100]
#: Tiny models with heads of the sizes that a GPU takes.
WIDE = {"head_dim": 40, "v_head_dim": 24, "partial_rotary_factor": 0.4}
TINY = {
    "pro": PRESETS["pro"].but(**WIDE),
    "pro-fp8": PRESETS["pro-fp8"].but(**WIDE),
    "flash": PRESETS["flash"].but(head_dim=16, v_head_dim=8, partial_rotary_factor=0.5),
    "gptoss": replace(gpt_oss.PRESETS["gptoss"], head_dim=16),
}
MODELS = ["demo", *TINY]


@pytest.fixture(scope="module")
def demo():
    return vm.Vm.open(demo_checkpoint())


@pytest.fixture(scope="module")
def path(request, tmp_path_factory):
    """Directory of the model that a test is given the name of."""
    if request.param == "demo":
        return demo_checkpoint()
    path = tmp_path_factory.mktemp("model") / request.param
    tiny.write(path, TINY[request.param], seed=1)
    return path


def ops_of(machine, line, name):
    """Indices of the ops called ``name`` in a line."""
    return [i for i in machine.line(line) if records.name_of(machine.records[i]) == name]


def test_structs_and_kinds_are_those_of_the_header():
    for name, dtype in records.STRUCTS.items():
        wanted = header.STRUCTS[f"Kilotok{name}"]
        assert dtype.itemsize == wanted.itemsize, name
        assert dtype.names == wanted.names
        for field in dtype.names:
            assert dtype.fields[field][1] == wanted.fields[field][1], (name, field)
    for constant, value in header.CONSTANTS.items():
        name = constant.removeprefix("KILOTOK_")
        if name.startswith("OP_") and name != "OP_BYTES":
            assert records.KINDS[value][0] == name.removeprefix("OP_").lower()
            assert records.KINDS[value][0] in vm.OPS
        elif hasattr(records, name):
            assert getattr(records, name) == value, name


@pytest.mark.parametrize("path", MODELS, indirect=True)
def test_steps_hold_the_checkpoints_values(path):
    machine = vm.Vm.open(path)
    checkpoint = Checkpoint.open(path)
    head = records.payload_of(machine.records[machine.line("target")[-1]])
    got = steps.unpack(machine.machine.memory, head["weights"])
    tied = "lm_head.weight" not in checkpoint.tensors
    want = checkpoint.array("model.embed_tokens.weight" if tied else "lm_head.weight")
    assert np.array_equal(got[: want.shape[0], : want.shape[1]], want)
    assert not got[want.shape[0] :].any()
    assert not got[:, want.shape[1] :].any()
    if path.name == "gptoss":
        return  # Its experts are stored otherwise.
    formats = set()
    downs = ops_of(machine, "target", "moe_down")
    layers = [i for i in range(99) if f"model.layers.{i}.mlp.gate.weight" in checkpoint.tensors]
    assert len(downs) == len(layers) > 0
    for op, layer in zip(downs, layers, strict=True):
        matrix = records.payload_of(machine.records[op])["weights"]
        formats.add(int(matrix["format"]))
        for expert in (0, 3):
            got = steps.unpack(machine.machine.memory, matrix, expert)
            name = f"model.layers.{layer}.mlp.experts.{expert}.down_proj.weight"
            want = checkpoint.array(name)
            assert np.array_equal(got[: want.shape[0], : want.shape[1]], want), name
    assert formats <= {records.BF16, records.FP8, records.MXFP4}


@pytest.mark.parametrize("path", MODELS, indirect=True)
def test_every_op_of_every_line_is_that_of_the_engines_interpreter(path):
    machine = vm.Vm.open(path)
    vocab = int(records.payload_of(machine.records[machine.line("target")[-1]])["out_width"])
    tokens = [(37 * i + 11 * i * i) % vocab for i in range(12)]
    for start in range(0, 12, machine.program.pass_rows):
        part = tokens[start : start + machine.program.pass_rows]
        command = machine.command([(0, start + i, t) for i, t in enumerate(part)])
        for line in ("target", "context"):
            assert vm.first_difference(machine, line, command) is None
    if machine.program.block_rows:
        rows = [(0, 12, tokens[0])]
        rows += [(0, 12 + i, records.MASK_TOKEN) for i in range(1, machine.program.block_rows)]
        assert vm.first_difference(machine, "draft", machine.command(rows)) is None
    for line, temperature in (("round", 0.0), ("round", 0.8), ("plain_round", 0.7)):
        if line == "round" and not machine.program.block_rows:
            continue
        command = machine.command(skip=0 if line == "round" else records.FLAG_DRAFT)
        command["num_runs"] = 1
        run = command["run"][0]
        run["position"], run["anchor"], run["remaining"] = 12, tokens[3], 5
        run["drafts"], run["temperature"], run["seed"] = 3, temperature, 77
        assert vm.first_difference(machine, line, command) is None
        run["rules"] = records.RULE_BIAS | records.RULE_PENALTIES
        run["rules"] |= records.RULE_FILTERS if temperature else 0
        run["top_k"], run["top_p"], run["min_p"] = 40, 0.9, 0.01
        run["repetition"], run["presence"], run["frequency"] = 1.2, 0.3, 0.2
        assert vm.first_difference(machine, line, command) is None


def swap_out(args):
    args["x"], args["out"] = int(args["out"]), int(args["x"])


#: A field of a record, and what is wrong with it.
WRONG = [
    ("linear", lambda a: a["norm"].__setitem__("eps", 1e-2)),
    ("linear", lambda a: a["weights"].__setitem__("steps", int(a["weights"]["steps"]) + 4096)),
    ("linear", lambda a: a.__setitem__("out_width", int(a["out_width"]) - 16)),
    ("linear", swap_out),
    ("embed", lambda a: a["to"].__setitem__("norm_weight", int(a["to"]["norm_weight"]) + 4)),
    ("rope", lambda a: a.__setitem__("magnitude", 1.1)),
    ("attention", lambda a: a.__setitem__("scale", float(a["scale"]) * 1.05)),
    ("attention", lambda a: a.__setitem__("value_scale", 0.5)),
    ("attention", lambda a: a.__setitem__("keys", int(a["values"]))),
    ("attention", lambda a: a.__setitem__("pairs", int(a["pairs"]) - 4)),
    ("router", lambda a: a["norm"].__setitem__("eps", 1e-2)),
    ("moe_up", lambda a: a.__setitem__("router_scale", float(a["router_scale"]) * 1.01)),
    ("moe_up", lambda a: a.__setitem__("logits", int(a["logits"]) + 8)),
    ("moe_up", lambda a: a["activation"].__setitem__("kind", records.CLAMPED_SWIGLU)),
    ("moe_down", lambda a: a["to"].__setitem__("fresh", 1)),
    ("moe_down", lambda a: a["weights"].__setitem__("expert_bytes", 0)),
]


@pytest.mark.parametrize("at", [0, -1])
@pytest.mark.parametrize("case", range(len(WRONG)))
def test_a_wrong_record_is_the_op_that_is_named(demo, case, at):
    name, break_it = WRONG[case]
    machine = demo
    command = machine.command([(0, i, token) for i, token in enumerate(PROMPT[:5])])
    index = ops_of(machine, "target", name)[at]
    if name == "linear":
        # The projections to queries, keys and values are followed by attention.
        index = ops_of(machine, "target", "attention")[at] - 1
    sound = machine.records.copy()
    try:
        break_it(records.payload_of(machine.records[index]))
        difference = vm.first_difference(machine, "target", command)
    finally:
        machine.records[:] = sound
    assert difference is not None
    assert (difference.op, difference.name) == (index, name), difference
    assert vm.first_difference(machine, "target", command.copy()) is None


def test_swapped_layers_are_found_at_the_first(demo):
    machine = demo
    first, second = ops_of(machine, "target", "router")[:2]
    sound = machine.records.copy()
    machine.records[[first, second]] = machine.records[[second, first]]
    command = machine.command([(0, 0, 5)])
    difference = vm.first_difference(machine, "target", command)
    machine.records[:] = sound
    assert (difference.op, difference.region.split()[0]) == (first, "router")
    assert "op" in str(difference)


@pytest.mark.parametrize("drafts", [0, 7])
def test_greedy_tokens_are_those_of_the_cpu_engine(demo, drafts):
    with Engine(demo_checkpoint(), device="cpu", progress=False) as engine:
        params = SamplingParams(max_tokens=16, ignore_eos=True)
        want = engine.generate(PROMPT, params, speculation="off").token_ids
    assert demo.generate(PROMPT, 16, drafts) == list(want)


def test_what_does_not_fit_is_an_error(demo):
    with pytest.raises(ValueError, match="do not fit"):
        demo.generate(PROMPT, 4000)
    with pytest.raises(ValueError, match="drafts"):
        demo.generate(PROMPT, 4, drafts=99)
    with pytest.raises(IndexError, match="outside"):
        demo.machine.memory.bytes(16, 4)
    record = demo.records[0].copy()
    record["kind"] = 99
    with pytest.raises(ValueError, match="kind 99"):
        records.payload_of(record)
