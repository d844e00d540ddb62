"""A small byte-level BPE tokenizer: 256 bytes, a few merges and the chat tokens."""

from __future__ import annotations

from pathlib import Path

from .files import write_json

MERGES = ["t h", "th e", "i n", "Ġ Ġ", "e r", "r e", "o n", "d e"]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<|MASK|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_alphabet() -> list[str]:
    """The printable stand-in for each byte value, as GPT-2's byte-level alphabet defines it."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(spare)) for b in range(256)]


def write_tokenizer(path: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and generation_config.json."""
    pieces = byte_alphabet() + [merge.replace(" ", "") for merge in MERGES]
    added = [
        {
            "id": len(pieces) + i,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": token not in ("<think>", "</think>"),
        }
        for i, token in enumerate(SPECIAL)
    ]
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": False,
        "use_regex": True,
    }
    write_json(
        path / "tokenizer.json",
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": None,
            "pre_tokenizer": byte_level,
            "post_processor": None,
            "decoder": byte_level,
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": "",
                "end_of_word_suffix": "",
                "fuse_unk": False,
                "byte_fallback": False,
                "vocab": {piece: i for i, piece in enumerate(pieces)},
                "merges": MERGES,
            },
        },
    )
    write_json(
        path / "tokenizer_config.json",
        {
            "tokenizer_class": "Qwen2Tokenizer",
            "add_prefix_space": False,
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "chat_template": TEMPLATE,
        },
    )
    ids = {token["content"]: token["id"] for token in added}
    write_json(
        path / "generation_config.json",
        {
            "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]],
            "pad_token_id": ids["<|endoftext|>"],
            "temperature": 1.0,
            "top_p": 0.95,
        },
    )
