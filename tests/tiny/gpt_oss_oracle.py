"""``transformers`` as a second oracle for tiny gpt-oss checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np


class TransformersGptOss:
    """``GptOssForCausalLM`` in float32 with eager attention; MXFP4 experts are decoded."""

    def __init__(self, path: Path) -> None:
        import torch
        import transformers

        self.torch, self.version = torch, transformers.__version__
        options = {}
        config = transformers.AutoConfig.from_pretrained(path)
        if getattr(config, "quantization_config", None) is not None:
            options["quantization_config"] = transformers.Mxfp4Config(dequantize=True)
        self.model = transformers.GptOssForCausalLM.from_pretrained(
            path,
            dtype=torch.float32,
            attn_implementation="eager",
            experts_implementation="eager",
            **options,
        )
        kinds = {p.dtype for p in self.model.parameters()}
        if kinds != {torch.float32}:
            raise AssertionError(f"transformers left parameters as {kinds}")
        self.residuals: list[np.ndarray] = []
        for layer in self.model.model.layers:
            layer.register_forward_hook(self._keep)

    def _keep(self, _module: object, _inputs: object, output: object) -> None:
        self.residuals.append(output[0].numpy() if output.ndim == 3 else output.numpy())

    def forward(self, token_ids: Sequence[int]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Logits [T, V] and the residual [T, H] after each layer, before the final norm."""
        self.residuals = []
        with self.torch.no_grad():
            logits = self.model(self.torch.tensor([list(token_ids)]), use_cache=False).logits
        return logits[0].numpy(), self.residuals

    def generate(self, prompt: Sequence[int], tokens: int) -> list[int]:
        """Greedy decoding with its own cache; without it for windows of one key."""
        out = self.model.generate(
            self.torch.tensor([list(prompt)]),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            use_cache=self.model.config.sliding_window > 1,
        )
        return out[0, len(prompt) :].tolist()
