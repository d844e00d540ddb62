"""Sizes of the model, the drafter and the training run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class TargetConfig:
    """MiMo-V2-shaped target. `pattern`: 0 = full attention, 1 = sliding window."""

    vocab: int = 4096
    hidden: int = 384
    pattern: tuple[int, ...] = (0, 1, 1, 1, 0, 1, 1, 0)
    heads: int = 8
    kv_heads: int = 2
    head_dim: int = 48
    v_head_dim: int = 32
    rotary_factor: float = 0.334
    rope_theta: float = 100_000.0
    swa_rope_theta: float = 10_000.0
    window: int = 128
    value_scale: float = 0.707
    dense_inter: int = 1024
    experts: int = 16
    top_k: int = 2
    expert_inter: int = 160
    eps: float = 1e-5
    max_position: int = 4096

    @property
    def layers(self) -> int:
        """Number of layers."""
        return len(self.pattern)

    @property
    def rotary_dim(self) -> int:
        """Dimensions of a head that rotate; the rest passes through."""
        return int(self.head_dim * self.rotary_factor)

    @property
    def chunk_rows(self) -> int:
        """Rows of one fused-qkv chunk: its query heads, one key head, one value head."""
        group = self.heads // self.kv_heads
        return (group + 1) * self.head_dim + self.v_head_dim


@dataclass(frozen=True)
class DrafterConfig:
    """DFlash drafter; `taps` are 0-based target layers whose output residual it reads."""

    hidden: int = 384
    layers: int = 3
    heads: int = 6
    kv_heads: int = 2
    head_dim: int = 64
    inter: int = 768
    rotary_factor: float = 0.5
    rope_theta: float = 10_000.0
    window: int = 1024
    value_scale: float = 0.612
    block: int = 8
    taps: tuple[int, ...] = (0, 2, 5, 7)
    eps: float = 1e-5
    gamma: float = 4.0

    @property
    def rotary_dim(self) -> int:
        """Dimensions of a head that rotate; the rest passes through."""
        return int(self.head_dim * self.rotary_factor)


@dataclass(frozen=True)
class TrainConfig:
    """Run sizes. Seconds are wall-clock budgets of the loops, compilation excluded."""

    seq: int = 1024
    batch: int = 64
    trunk_seconds: float = 215.0
    branch_seconds: float = 100.0
    muon_lr: float = 0.015
    adam_lr: float = 3e-3
    bias_rate: float = 1e-3
    generate_seconds: float = 90.0
    generate_batch: int = 4096
    generate_seq: int = 512
    generate_prompts: tuple[int, ...] = (64, 128, 192)
    drafter_seconds: float = 300.0
    drafter_batch: int = 64
    anchors: int = 128
    drafter_muon_lr: float = 0.01
    drafter_adam_lr: float = 1e-3
    eval_tokens: int = 1_000_000
    eval_requests: int = 64
    eval_new_tokens: int = 128
    eval_prompt: tuple[int, int] = (128, 256)
    data_megabytes: int = 400
    synthetic_documents: int = 60_000
    #: Share of each training batch, by category.
    mix: dict[str, float] = field(
        default_factory=lambda: {"code": 0.66, "prose": 0.16, "math": 0.08, "tool": 0.10}
    )


@dataclass(frozen=True)
class Preset:
    """Everything one run needs to know."""

    target: TargetConfig
    drafter: DrafterConfig
    train: TrainConfig


FULL = Preset(TargetConfig(), DrafterConfig(), TrainConfig())
TOY = Preset(
    TargetConfig(
        vocab=512,
        hidden=64,
        pattern=(0, 1, 0),
        heads=4,
        kv_heads=2,
        head_dim=24,
        v_head_dim=16,
        window=16,
        dense_inter=96,
        experts=4,
        expert_inter=32,
    ),
    DrafterConfig(hidden=64, layers=1, heads=2, kv_heads=1, head_dim=16, inter=64, taps=(0, 2)),
    TrainConfig(
        seq=64,
        batch=8,
        trunk_seconds=6,
        branch_seconds=2,
        generate_seconds=2,
        generate_batch=32,
        generate_seq=64,
        generate_prompts=(16,),
        drafter_seconds=4,
        drafter_batch=8,
        anchors=8,
        eval_tokens=4096,
        eval_requests=4,
        eval_new_tokens=16,
        eval_prompt=(16, 32),
        data_megabytes=2,
        synthetic_documents=200,
    ),
)
#: Every stage of the full size, each for a few seconds: a smoke run for the training machine.
SMOKE = replace(
    FULL,
    train=replace(
        FULL.train,
        trunk_seconds=15,
        branch_seconds=5,
        generate_seconds=6,
        drafter_seconds=12,
        eval_tokens=200_000,
        eval_requests=16,
        data_megabytes=60,
        synthetic_documents=5000,
    ),
)
PRESETS = {"full": FULL, "smoke": SMOKE, "toy": TOY}
