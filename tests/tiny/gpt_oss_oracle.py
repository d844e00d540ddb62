"""``transformers`` as a second oracle for tiny gpt-oss checkpoints."""

from __future__ import annotations

from pathlib import Path

from .oracle import Oracle


class TransformersGptOss(Oracle):
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
        self._watch()
