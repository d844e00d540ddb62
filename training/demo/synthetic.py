"""Generated documents: arithmetic with written-out steps, and JSON tool calls, in chat format."""
# ruff: noqa: E501, SIM905 - sentences read better whole

from __future__ import annotations

import json
import random

CHAT_TEMPLATE = (
    "{%- if tools %}{{ '<|im_start|>system\\nTools:\\n' }}"
    "{%- for tool in tools %}{{ tool | tojson + '\\n' }}{%- endfor %}{{ '<|im_end|>\\n' }}{%- endif %}"
    "{%- for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"
)

_NAMES = (
    "Ada Ben Chloe Dan Eva Finn Grace Hugo Iris Jack Kim Leo Mia Noah Olga Paul Rosa Sam".split()
)
_THINGS = (
    "apples books cards coins cups eggs flowers marbles pens photos plates shells stamps "
    "stickers tickets toys"
).split()
_CITIES = (
    "Athens Berlin Cairo Delhi Dublin Geneva Kyoto Lagos Lima Lisbon Madrid Milan Nairobi Oslo "
    "Paris Prague Quito Rome Seoul Sofia Sydney Tokyo Vienna Warsaw Zurich"
).split()
_WORDS = (
    "report budget meeting launch review invoice draft garden kitchen engine weather travel music "
    "history design safety health energy market school"
).split()


def chat(turns: list[tuple[str, str]], tools: list[dict] | None = None) -> str:
    """Render (role, content) turns exactly as CHAT_TEMPLATE does."""
    text = ""
    if tools:
        lines = "".join(json.dumps(tool) + "\n" for tool in tools)
        text += f"<|im_start|>system\nTools:\n{lines}<|im_end|>\n"
    return text + "".join(f"<|im_start|>{role}\n{body}<|im_end|>\n" for role, body in turns)


def math_document(rng: random.Random) -> tuple[str, str]:
    """One arithmetic problem; (prompt up to the assistant's turn, answer)."""
    kind = rng.randrange(4)
    if kind == 0:
        question, steps, answer = _expression(rng)
    elif kind == 1:
        question, steps, answer = _addition(rng)
    else:
        question, steps, answer = _story(rng)
    body = "<think>\n" + "\n".join(steps) + f"\n</think>\nThe answer is {answer}."
    return _split(chat([("user", question), ("assistant", body)]))


def tool_document(rng: random.Random) -> tuple[str, str]:
    """One request answered by a tool call, sometimes with the result told back."""
    makers = [_weather, _send, _search, _convert, _event, _remind]
    maker = rng.choice(makers)
    request, call, result, reply = maker(rng)
    offered = rng.sample(makers, rng.randrange(0, 3))
    names = sorted({maker.__name__, *(m.__name__ for m in offered)})
    tools = [_SCHEMAS[n] for n in names]
    body = "<tool_call>\n" + json.dumps(call) + "\n</tool_call>"
    turns = [("user", request), ("assistant", body)]
    if rng.random() < 0.6:
        turns += [("tool", json.dumps(result)), ("assistant", reply)]
    return _split(chat(turns, tools))


def _split(text: str) -> tuple[str, str]:
    head, mark, tail = text.partition("<|im_start|>assistant\n")
    return head + mark, tail


def _expression(rng: random.Random) -> tuple[str, list[str], int]:
    a, b, c = rng.randrange(2, 60), rng.randrange(2, 30), rng.randrange(2, 13)
    forms = [
        (f"{a} + {b} * {c}", [f"{b} * {c} = {b * c}", f"{a} + {b * c} = {a + b * c}"], a + b * c),
        (
            f"({a} + {b}) * {c}",
            [f"{a} + {b} = {a + b}", f"{a + b} * {c} = {(a + b) * c}"],
            (a + b) * c,
        ),
        (f"{a} * {c} - {b}", [f"{a} * {c} = {a * c}", f"{a * c} - {b} = {a * c - b}"], a * c - b),
    ]
    text, steps, answer = rng.choice(forms)
    ask = rng.choice(["Compute {}.", "What is {}?", "Evaluate {} step by step."])
    return ask.format(text), steps, answer


def _addition(rng: random.Random) -> tuple[str, list[str], int]:
    """Column addition, digit by digit with carries."""
    a, b = rng.randrange(100, 10_000), rng.randrange(100, 10_000)
    steps, carry, x, y = [], 0, a, b
    for place in ("ones", "tens", "hundreds", "thousands"):
        if x == 0 and y == 0 and carry == 0:
            break
        total = x % 10 + y % 10 + carry
        steps.append(
            f"{place}: {x % 10} + {y % 10} + {carry} = {total}, write {total % 10}, carry {total // 10}"
        )
        carry, x, y = total // 10, x // 10, y // 10
    if carry:
        steps.append(f"write the last carry {carry}")
    return f"What is {a} + {b}?", [*steps, f"{a} + {b} = {a + b}"], a + b


def _story(rng: random.Random) -> tuple[str, list[str], int]:
    who, other = rng.sample(_NAMES, 2)
    thing = rng.choice(_THINGS)
    start, boxes, each = rng.randrange(5, 80), rng.randrange(2, 10), rng.randrange(2, 25)
    bought = boxes * each
    give = rng.randrange(1, start + bought)
    question = (
        f"{who} has {start} {thing} and buys {boxes} boxes with {each} {thing} in each box. "
        f"Then {who} gives {give} {thing} to {other}. How many {thing} does {who} have left?"
    )
    left = start + bought - give
    steps = [
        f"{who} starts with {start} {thing}.",
        f"The boxes hold {boxes} * {each} = {bought} {thing}.",
        f"Together that is {start} + {bought} = {start + bought} {thing}.",
        f"After giving away {give}: {start + bought} - {give} = {left}.",
    ]
    return question, steps, left


def _schema(name: str, description: str, **arguments: str) -> dict:
    return {"name": name, "description": description, "arguments": arguments}


_SCHEMAS = {
    "_weather": _schema(
        "get_weather", "Current weather of a city.", city="string", unit="celsius or fahrenheit"
    ),
    "_send": _schema("send_email", "Send an email.", to="string", subject="string", body="string"),
    "_search": _schema("search_files", "Find files by word.", query="string", limit="integer"),
    "_convert": _schema(
        "convert_currency",
        "Convert an amount of money.",
        amount="number",
        source="string",
        target="string",
    ),
    "_event": _schema(
        "create_event",
        "Add an event to the calendar.",
        title="string",
        date="string",
        start="string",
        minutes="integer",
    ),
    "_remind": _schema("set_reminder", "Remind the user later.", text="string", minutes="integer"),
}


def _call(name: str, **arguments: object) -> dict:
    return {"name": name, "arguments": arguments}


def _weather(rng: random.Random) -> tuple[str, dict, dict, str]:
    city, unit, degrees = (
        rng.choice(_CITIES),
        rng.choice(["celsius", "fahrenheit"]),
        rng.randrange(-5, 95),
    )
    sky = rng.choice(["clear", "cloudy", "rain", "snow", "wind"])
    ask = rng.choice(
        ["What is the weather in {}, in {}?", "How warm is it in {} right now? Use {}."]
    )
    reply = f"It is {degrees} degrees {unit} in {city} with {sky}."
    return (
        ask.format(city, unit),
        _call("get_weather", city=city, unit=unit),
        {"city": city, "temperature": degrees, "sky": sky},
        reply,
    )


def _send(rng: random.Random) -> tuple[str, dict, dict, str]:
    who, topic, day = rng.choice(_NAMES), rng.choice(_WORDS), rng.randrange(1, 29)
    to = f"{who.lower()}@example.com"
    body = f"Hi {who}, please send the {topic} by day {day}. Thanks!"
    return (
        f"Email {who} ({to}) and ask for the {topic} by day {day}.",
        _call("send_email", to=to, subject=f"{topic} by day {day}", body=body),
        {"status": "sent", "to": to},
        f"I sent an email to {who} about the {topic}.",
    )


def _search(rng: random.Random) -> tuple[str, dict, dict, str]:
    word, limit = rng.choice(_WORDS), rng.randrange(2, 21)
    count = rng.randrange(1, limit + 1)
    return (
        f"Find up to {limit} files about {word}.",
        _call("search_files", query=word, limit=limit),
        {"query": word, "count": count, "first": f"{word}_{count}.txt"},
        f"I found {count} files about {word}. The first is {word}_{count}.txt.",
    )


def _convert(rng: random.Random) -> tuple[str, dict, dict, str]:
    source, target = rng.sample(["USD", "EUR", "JPY", "GBP", "CHF", "INR", "BRL"], 2)
    amount, rate = rng.randrange(5, 5000), rng.randrange(2, 9)
    return (
        f"How much is {amount} {source} in {target}?",
        _call("convert_currency", amount=amount, source=source, target=target),
        {"amount": amount * rate, "currency": target},
        f"{amount} {source} is {amount * rate} {target}.",
    )


def _event(rng: random.Random) -> tuple[str, dict, dict, str]:
    word, month, day, hour = (
        rng.choice(_WORDS),
        rng.randrange(1, 13),
        rng.randrange(1, 29),
        rng.randrange(7, 20),
    )
    minutes, date = rng.choice([15, 30, 45, 60, 90]), f"2026-{month:02d}-{day:02d}"
    return (
        f"Put a {word} meeting on {date} at {hour:02d}:00 for {minutes} minutes.",
        _call(
            "create_event",
            title=f"{word} meeting",
            date=date,
            start=f"{hour:02d}:00",
            minutes=minutes,
        ),
        {"status": "created", "date": date},
        f"The {word} meeting is in your calendar on {date} at {hour:02d}:00.",
    )


def _remind(rng: random.Random) -> tuple[str, dict, dict, str]:
    word, minutes = rng.choice(_WORDS), rng.randrange(5, 180)
    return (
        f"Remind me about the {word} in {minutes} minutes.",
        _call("set_reminder", text=f"Check the {word}", minutes=minutes),
        {"status": "set", "minutes": minutes},
        f"I will remind you about the {word} in {minutes} minutes.",
    )
