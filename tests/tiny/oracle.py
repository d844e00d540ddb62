"""``transformers`` as a second oracle for split-projection (mimo_v2_flash) tiny checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .configs import target_config
from .presets import Preset


class Oracle:
    """A causal language model of transformers in float32; families say how it is loaded."""

    torch: Any
    model: Any
    residuals: list[np.ndarray]

    def _watch(self) -> None:
        """Keep the residual after every layer of the loaded model."""
        self.residuals = []
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
        """Greedy decoding with its own cache.

        Without it for windows of one key: the cache then keeps ``keys[-window + 1:]``, which is
        everything instead of nothing.
        """
        out = self.model.generate(
            self.torch.tensor([list(prompt)]),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            use_cache=self.model.config.sliding_window > 1,
        )
        return out[0, len(prompt) :].tolist()


class Transformers(Oracle):
    """``MiMoV2FlashForCausalLM`` in float32 with eager attention.

    Its ``sliding_window`` counts visible keys, the query's own included, but reading a hub config
    adds one to ``sliding_window_size`` from 5.23 on. So the config is always handed over in its own
    spelling, where the number means the same in every version.
    """

    def __init__(self, path: Path, preset: Preset) -> None:
        import torch
        import transformers

        self.torch, self.version = torch, transformers.__version__
        config = target_config(preset.but(spelling="transformers"))
        self.model = transformers.MiMoV2FlashForCausalLM.from_pretrained(
            path,
            config=transformers.MiMoV2FlashConfig(**config),
            dtype=torch.float32,
            attn_implementation="eager",
        )
        if self.model.config.sliding_window != preset.window:
            raise AssertionError("transformers changed the window")
        self._watch()
