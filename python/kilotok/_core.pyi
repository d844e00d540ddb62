"""The extension module: a thin skin over the engine. Use `kilotok.Engine` instead."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, final

from kilotok.tensors import RawTensor

__version__: str

@final
class Event:
    @property
    def text(self) -> str | None: ...
    @property
    def token_ids(self) -> list[int]: ...
    @property
    def logprobs(self) -> list[tuple[float, list[tuple[int, float]]]] | None: ...
    @property
    def finish_reason(self) -> Literal["stop", "length"] | None: ...
    @property
    def stop_reason(self) -> int | str | None: ...
    @property
    def receipt(self) -> dict[str, Any] | None: ...

@final
class TokenStream:
    def next(self, timeout: float) -> Event | None: ...
    def poll(self) -> Event | None: ...
    def set_waker(self, waker: Callable[[], object]) -> None: ...
    def cancel(self) -> None: ...

@final
class Engine:
    def submit(
        self,
        prompt: Sequence[int],
        options: Mapping[str, Any],
        speculation: str | int | None = None,
        priority: int = 0,
        cache_salt: str | None = None,
        message: bool = False,
    ) -> TokenStream: ...
    def encode(self, text: str) -> list[int]: ...
    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool) -> str: ...
    def render_chat(self, json: str) -> list[int]: ...
    @property
    def has_tokenizer(self) -> bool: ...
    @property
    def max_positions(self) -> int: ...
    @property
    def queue_window(self) -> int: ...
    def stats(self) -> dict[str, Any]: ...
    def info(self) -> dict[str, Any]: ...
    def memory(self) -> dict[str, int]: ...
    def update_weights(self, tensors: Mapping[str, RawTensor], keep_kv: bool) -> None: ...
    def start_trace(self, ops: int) -> None: ...
    def end_trace(self, path: str) -> str: ...
    def close(self) -> None: ...

def open_engine(directory: str, options: Mapping[str, Any], drafter: str | None) -> Engine: ...
def engine_from_tensors(
    config: str,
    tensors: Mapping[str, RawTensor],
    options: Mapping[str, Any],
    drafter: tuple[str, Mapping[str, RawTensor]] | None,
    tokenizer: str | None,
) -> Engine: ...
def debug_forward(
    model_dir: str,
    token_ids: Sequence[int],
    chunk: int | None = None,
    threads: int | None = None,
    simd: str | None = None,
    beside: Sequence[Sequence[int]] | None = None,
    device: str = "cpu",
    mode: str = "persistent",
) -> dict[str, Any]: ...
def debug_draft(
    model_dir: str,
    token_ids: Sequence[int],
    anchor: int,
    drafts: int,
    threads: int | None = None,
    simd: str | None = None,
    device: str = "cpu",
    mode: str = "persistent",
) -> dict[str, Any]: ...

@final
class TapReader:
    @property
    def layers(self) -> list[int]: ...
    @property
    def hidden(self) -> int: ...
    def read(self, texts: Sequence[Sequence[int]]) -> list[bytes]: ...
    def draft(self, text: Sequence[int], starts: Sequence[int], drafts: int) -> list[list[int]]: ...

def open_taps(
    model_dir: str,
    layers: Sequence[int] | None = None,
    drafter: str | None = None,
    max_positions: int = 4096,
    max_rows: int = 256,
    threads: int | None = None,
    simd: str | None = None,
) -> TapReader: ...
def mxfp4_encode(values: bytes) -> tuple[bytes, bytes]: ...
def mxfp4_encode_matrix(
    values: bytes,
    cols: int,
    rule: Literal["max", "mse"] = "max",
    importance: bytes | None = None,
) -> tuple[bytes, bytes, tuple[float, float, float, int]]: ...
def mxfp4_decode(nibbles: bytes, scales: bytes) -> bytes: ...
def fp8_decode(codes: bytes) -> bytes: ...
def inspect(directory: str) -> dict[str, str]: ...
def plan(
    config: str,
    *,
    drafter: str = "auto",
    experts: str | None = None,
    gpu: str = "h200",
    tp: int = 1,
    context: int | None = None,
    block: int | None = None,
    tau: float | None = None,
    price: float | None = None,
    allreduce_us: float | None = None,
) -> dict[str, Any]: ...
def plan_bench(
    preset: str,
    rank_of: int,
    rows: Sequence[int],
    context: int,
    block: int,
    accept: Sequence[float],
    experts: Sequence[float] | None = None,
    gpu: str = "h200",
) -> dict[str, list[dict[str, float | None]]]: ...
def run_program(arguments: Sequence[str], demo: str | None) -> int: ...
def cpu_info() -> dict[str, Any]: ...
def gpu_report() -> dict[str, Any]: ...
def run_gpu_probe(device: int = 0) -> dict[str, Any]: ...
def gpu_memory(device: int = 0, fraction: float = 0.92) -> dict[str, Any]: ...
def bench_synthetic(
    preset: str,
    rank_of: int,
    mode: str,
    rows: Sequence[int],
    context: int,
    block: int,
    accept: Sequence[float],
    device: int = 0,
    trace: str | None = None,
    dry_run: bool = False,
) -> dict[str, Any]: ...

@final
class GpuProgram:
    @property
    def ops(self) -> bytes: ...
    @property
    def lines(self) -> dict[str, tuple[int, int]]: ...
    @property
    def regions(self) -> list[tuple[str, int, int]]: ...
    @property
    def pieces(self) -> list[tuple[int, int]]: ...
    @property
    def pass_rows(self) -> int: ...
    @property
    def block_rows(self) -> int: ...
    def read(self, address: int, bytes: int) -> bytes: ...
    def write(self, address: int, data: bytes) -> None: ...
    def step(self, record: bytes, command: bytes) -> bytes: ...

def gpu_program(
    model_dir: str,
    slots: int = 1,
    pages: int = 4,
    page_size: int = 16,
    max_positions: int = 64,
    blocks: int = 5,
) -> GpuProgram: ...
def gpu_op(
    kind: int,
    payload: bytes,
    places: Sequence[tuple[int, int]],
    buffers: Sequence[bytes],
    command: bytes,
    mailbox: bytes,
    blocks: int,
    repeats: int = 1,
    device: int = 0,
) -> tuple[list[bytes], bytes, bytes, float]: ...
