"""Constrained output of the demo checkpoint: every text is valid, and the same with speculation.

Random schemas x {off, auto, block 8} x {greedy, T = 1}. The oracle is the `jsonschema` package,
which shares nothing with the engine's grammars.
"""

import json
import random
import re

import pytest

import kilotok
from kilotok import Engine, SamplingParams

SCHEMAS = 16
PROMPT = "import json\n\nexample = "
SPECULATION = ["off", "auto", 8]


@pytest.fixture(scope="module")
def demo():
    """The demo checkpoint, one engine for all tests here."""
    with Engine(progress=False, max_batch=8, threads=1) as engine:
        yield engine


def random_schema(rng, depth=0):
    """A schema whose values are all short, so that every text can come to its end."""
    kinds = ["string", "pattern", "enum", "integer", "number", "boolean", "null", "const"]
    if depth < 2:
        kinds += ["object", "array", "anyOf", "object", "array"]
    kind = rng.choice(kinds) if depth else "object"
    if kind == "string":
        return {"type": "string", "minLength": rng.randint(0, 2), "maxLength": rng.randint(2, 8)}
    if kind == "pattern":
        return {
            "type": "string",
            "pattern": rng.choice(["^[a-f]{2,5}$", "^x[0-9]{3}$", "^(yes|no)$"]),
        }
    if kind == "enum":
        return {"enum": rng.sample(["a", "b c", 'q"', "é", 1, 2.5, None, True, [1], {"k": 0}], 3)}
    if kind == "const":
        return {"const": rng.choice(["fixed", 7, {"a": [True]}])}
    if kind == "integer":
        low = rng.randint(-50, 50)
        return {"type": "integer", "minimum": low, "maximum": low + rng.randint(0, 200)}
    if kind == "number":
        return {"type": "number", "minimum": 0, "exclusiveMaximum": 10, "multipleOf": 0.25}
    if kind == "anyOf":
        return {"anyOf": [random_schema(rng, depth + 1) for _ in range(2)]}
    if kind == "array":
        low = rng.randint(0, 2)
        items = random_schema(rng, depth + 1)
        return {"type": "array", "items": items, "minItems": low, "maxItems": low + 2}
    if kind == "object":
        names = rng.sample(["name", "value", "tags", "a_b", "x y", "ü"], rng.randint(1, 3))
        properties = {name: random_schema(rng, depth + 1) for name in names}
        required = [name for name in names if rng.random() < 0.7]
        return {
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        }
    return {"type": kind}


@pytest.mark.timeout(900)
def test_random_schemas_are_obeyed_and_lossless(demo):
    jsonschema = pytest.importorskip("jsonschema", reason="the oracle is not installed")
    rng = random.Random(5)
    valid = 0
    for number in range(SCHEMAS):
        schema = random_schema(rng)
        oracle = jsonschema.Draft202012Validator(schema)
        for temperature in (0.0, 1.0):
            params = SamplingParams(
                max_tokens=1200, temperature=temperature, seed=number, json_schema=schema
            )
            outputs = [
                demo.generate(PROMPT, params, speculation=speculation)
                for speculation in SPECULATION
            ]
            assert outputs[0].finish_reason == "stop", (schema, outputs[0].text)
            for output in outputs:
                assert output.token_ids == outputs[0].token_ids, (schema, temperature)
            oracle.validate(json.loads(outputs[0].text))
            valid += 1
    assert valid == 2 * SCHEMAS


def test_batched_with_others_is_the_same(demo):
    schema = random_schema(random.Random(3))
    params = SamplingParams(max_tokens=600, temperature=1.0, seed=9, json_schema=schema, n=4)
    alone = [
        demo.generate(
            PROMPT, SamplingParams(max_tokens=600, temperature=1.0, seed=9 + i, json_schema=schema)
        )
        for i in range(4)
    ]
    together = demo.generate(PROMPT, params)
    assert [c.token_ids for c in together.completions] == [out.token_ids for out in alone]


@pytest.mark.parametrize("speculation", SPECULATION)
def test_other_rules(demo, speculation):
    def text(**rule):
        params = SamplingParams(max_tokens=80, temperature=1.0, seed=1, **rule)
        out = demo.generate(PROMPT, params, speculation=speculation)
        assert out.finish_reason == "stop"
        return out.text

    assert re.fullmatch("[a-z]{3}-[0-9]{2}", text(regex="[a-z]{3}-[0-9]{2}"))
    assert text(choice=["tea", "coffee"]) in {"tea", "coffee"}
    assert re.fullmatch("(ab)+c", text(grammar='start: "ab"~1..4 "c"'))
    assert json.loads(text(json_schema='{"enum": [[1, 2]]}')) == [1, 2]


def test_classes_with_a_schema(demo):
    class Point:
        @classmethod
        def model_json_schema(cls):
            return {
                "type": "object",
                "properties": {"x": {"type": "boolean"}},
                "required": ["x"],
                "additionalProperties": False,
            }

    out = demo.generate(PROMPT, SamplingParams(json_schema=Point))
    assert set(json.loads(out.text)) == {"x"}


def test_chat_thinks_first(demo):
    for seed in range(8):
        params = SamplingParams(
            max_tokens=200,
            temperature=1.0,
            seed=seed,
            choice=["yes", "no"],
            thinking_budget=12,
            skip_special_tokens=False,
        )
        out = demo.chat([{"role": "user", "content": "Is it?"}], params)
        text = re.sub(r"<\|(im_end|endoftext)\|>$", "", out.text)
        answer = text.split("</think>")[-1].strip("\n")
        assert answer in {"yes", "no"}, out.text


def test_the_end_is_the_rules_even_with_ignore_eos(demo):
    params = SamplingParams(max_tokens=50, choice=["tea"], ignore_eos=True)
    out = demo.generate(PROMPT, params)
    assert (out.text, out.finish_reason) == ("tea", "stop")


def test_max_tokens_may_cut_a_text_off(demo):
    params = SamplingParams(max_tokens=2, regex="[a-z]{200}")
    assert demo.generate(PROMPT, params).finish_reason == "length"


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        ({"json_schema": {"type": "huh"}}, "json_schema"),
        ({"json_schema": "{"}, "json_schema"),
        ({"json_schema": 5}, "json_schema"),
        ({"json_schema": {"a": object()}}, "json_schema"),
        ({"regex": "("}, "regex"),
        ({"regex": 5}, "regex"),
        ({"choice": []}, "choice"),
        ({"choice": "abc"}, "choice"),
        ({"choice": [1]}, "choice"),
        ({"grammar": "start: missing"}, "grammar"),
        ({"regex": "a", "choice": ["a"]}, "choice"),
        ({"thinking_budget": -1}, "thinking_budget"),
        ({"thinking_budget": 5}, "thinking_budget"),
    ],
)
def test_wrong_rules_name_the_parameter(demo, rule, name):
    with pytest.raises(kilotok.InvalidRequestError) as caught:
        demo.generate(PROMPT, SamplingParams(**rule))
    assert caught.value.parameter == name


def test_without_a_tokenizer_there_are_no_rules(ids_engine):
    with pytest.raises(kilotok.InvalidRequestError) as caught:
        ids_engine.generate([1, 2], SamplingParams(regex="a"))
    assert caught.value.parameter == "regex"


def test_priority_decides_who_waits():
    with Engine(progress=False, max_batch=1, threads=1, speculation="off") as engine:
        long = SamplingParams(max_tokens=60, ignore_eos=True)
        short = SamplingParams(max_tokens=2, ignore_eos=True)
        first = engine.stream("a", long)
        next(first)
        waiting = {
            name: engine.stream("a", short, priority=priority)
            for name, priority in [("late", 5), ("normal", 0), ("soon", -5)]
        }
        first.close()
        ends = {}
        for name, stream in waiting.items():
            pieces = list(stream)
            ends[name] = pieces[-1].receipt.queue_ms
        done = sorted(ends, key=lambda name: ends[name])
        assert done == ["soon", "normal", "late"], ends
        for wrong in ("high", 1 << 40, True):
            with pytest.raises(kilotok.InvalidRequestError) as caught:
                engine.generate("a", short, priority=wrong)
            assert caught.value.parameter == "priority"
