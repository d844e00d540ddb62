"""Byte-level BPE tokenizer of the demo model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from training.demo.synthetic import CHAT_TEMPLATE

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<|MASK|>",
)
END_OF_TEXT, IM_END, MASK = 0, 2, 9
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(documents: list[str], vocab: int) -> Tokenizer:
    """Train on documents; the special tokens get ids 0.. in the order of `SPECIAL`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    if tokenizer.get_vocab_size() > vocab:
        raise ValueError(f"tokenizer has {tokenizer.get_vocab_size()} entries, expected <= {vocab}")
    return tokenizer


def token_bytes(tokenizer: Tokenizer, vocab: int) -> np.ndarray:
    """Number of text bytes of every token id; 0 for special and unused ids. int64 [vocab]."""
    count = np.zeros(vocab, np.int64)
    for token, index in tokenizer.get_vocab().items():
        if index >= len(SPECIAL):
            # In the byte-level alphabet one character stands for one byte.
            count[index] = len(token)
    return count


def write_tokenizer(tokenizer: Tokenizer, directory: Path, max_position: int) -> None:
    """Write tokenizer.json and tokenizer_config.json as Hugging Face readers expect them."""
    tokenizer.save(str(directory / "tokenizer.json"), pretty=False)
    plain = {
        "lstrip": False,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
        "special": True,
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": {str(i): {"content": t, **plain} for i, t in enumerate(SPECIAL)},
        "additional_special_tokens": list(SPECIAL[1:]),
        "bos_token": None,
        "eos_token": SPECIAL[IM_END],
        "pad_token": SPECIAL[END_OF_TEXT],
        "unk_token": None,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_position,
        "chat_template": CHAT_TEMPLATE,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
