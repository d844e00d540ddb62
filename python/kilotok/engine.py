"""The engine as Python sees it."""

import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack, overload

from kilotok import _core
from kilotok.chat import Message, template_input
from kilotok.errors import InvalidRequestError
from kilotok.generation import Generation
from kilotok.loading import resolve
from kilotok.options import EngineOptions, Speculation, core_options, json_text, require
from kilotok.output import Output, Piece
from kilotok.progress import ProgressCallback
from kilotok.prompts import Prompts, as_prompts
from kilotok.sampling import SamplingParams
from kilotok.tensors import raw_tensors
from kilotok.trace import Trace

__all__ = ["Engine"]


class Engine:
    r"""A loaded model that answers requests from any number of threads and tasks.

    Parameters
    ----------
    model : str, path or None
        A checkpoint directory, a Hugging Face hub id, or ``None`` for the demo checkpoint.
    drafter : "auto", path or None
        Where the DFlash drafter is: ``"auto"`` takes the checkpoint's own if it has one.
    revision : str, optional
        Branch, tag or commit of a hub id.
    device : str
        ``"cpu"``, ``"cuda"``, or ``"auto"``: a GPU where one is there and the model fits.
    mode : str
        How a GPU runs the model: ``"graph"`` (one launch per op, as CUDA graphs),
        ``"persistent"`` (one kernel that stays on the device), or ``"auto"``.
    speculation : "off", "auto" or int
        Rows of a block (anchor and drafted tokens); ``"auto"`` adapts it to measured acceptance
        and cost. The tokens are the same whatever is chosen. A request may choose its own.
    threads : int, optional
        Threads that compute; all cores by default.
    max_batch : int, optional
        Sequences that run at once; more wait in a bounded queue.
    max_positions : int, optional
        Longest sequence, prompt and output together; by default the model's own limit, but no
        more than 8192.
    kv_tokens : int, optional
        Positions that the cache holds for all sequences together; four of full length by default.
    prefill_chunk : int, optional
        Prompt positions fed in one round at most; as many as fit by default.
    prefix_cache_mib : int, optional
        MiB for what the prefix cache saves beside the pages it shares, so that a prompt that
        begins like an earlier one is fed from where they part; 256 by default, 0 turns it off.
        The tokens are the same with and without it.
    progress : bool or callable
        A bar on stderr where that is a terminal, or a function of (bytes done, bytes in all).
    simd : str, optional
        Instruction set of the CPU backend: ``"avx512"``, ``"avx2"``, ``"neon"`` or ``"scalar"``;
        the best one here by default.

    Raises
    ------
    ModelFormatError
        The checkpoint is missing, damaged or not understood.
    InvalidRequestError
        An option is out of range.
    OutOfMemoryError
        The cache does not fit, or the model does not fit on the GPU.
    NoGpuError
        A GPU was asked for and none can be used.

    Examples
    --------
    >>> with Engine() as engine:  # doctest: +SKIP
    ...     print(engine.generate("import os\\n").text)
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        drafter: str | os.PathLike[str] | None = "auto",
        revision: str | None = None,
        device: str = "auto",
        mode: str = "auto",
        speculation: Speculation = "auto",
        threads: int | None = None,
        max_batch: int | None = None,
        max_positions: int | None = None,
        kv_tokens: int | None = None,
        prefill_chunk: int | None = None,
        prefix_cache_mib: int | None = None,
        progress: bool | ProgressCallback = True,
        simd: str | None = None,
    ) -> None:
        directory = resolve(model, revision=revision)
        if drafter is not None and drafter != "auto":
            drafter = str(resolve(drafter))
        options = core_options(
            label=f"loading {directory.name}",
            device=device,
            mode=mode,
            speculation=speculation,
            threads=threads,
            max_batch=max_batch,
            max_positions=max_positions,
            kv_tokens=kv_tokens,
            prefill_chunk=prefill_chunk,
            prefix_cache_mib=prefix_cache_mib,
            progress=progress,
            simd=simd,
        )
        self._core = _core.open_engine(str(directory), options, drafter)

    @classmethod
    def from_tensors(
        cls,
        config: Mapping[str, Any],
        tensors: Mapping[str, Any],
        *,
        drafter: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None,
        tokenizer: str | os.PathLike[str] | None = None,
        **options: Unpack[EngineOptions],
    ) -> Self:
        """Make an engine from tensors in memory.

        Parameters
        ----------
        config : mapping
            Contents of `config.json`.
        tensors : mapping of str to numpy.ndarray, torch.Tensor or (str, numpy.ndarray)
            Named and laid out as in a checkpoint; a pair such as ``("BF16", uint16 array)`` names
            a stored type that numpy has not. They are used in place where they are contiguous and
            in host memory: do not change them while the engine lives.
        drafter : (mapping, mapping), optional
            Config and tensors of a DFlash drafter, maybe with `mask_embedding` among them.
        tokenizer : path, optional
            Directory with tokenizer files; without one, token ids go in and come out.
        **options
            As in `Engine`.
        """
        engine = cls.__new__(cls)
        parts = None
        if drafter is not None:
            parts = (json_text("drafter", drafter[0]), raw_tensors(drafter[1]))
        engine._core = _core.engine_from_tensors(
            json_text("config", config),
            raw_tensors(tensors),
            core_options(label="loading", **options),
            parts,
            None if tokenizer is None else str(Path(tokenizer)),
        )
        return engine

    @overload
    def generate(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams | None = None,
        *,
        speculation: Speculation | None = None,
        priority: int = 0,
        cache_salt: str | None = None,
    ) -> Output: ...

    @overload
    def generate(
        self,
        prompt: list[str] | list[list[int]],
        params: SamplingParams | None = None,
        *,
        speculation: Speculation | None = None,
        priority: int = 0,
        cache_salt: str | None = None,
    ) -> list[Output]: ...

    def generate(
        self,
        prompt: Prompts,
        params: SamplingParams | None = None,
        *,
        speculation: Speculation | None = None,
        priority: int = 0,
        cache_salt: str | None = None,
    ) -> Output | list[Output]:
        """Generate to the end.

        Parameters
        ----------
        prompt : str, list of str, token ids, or list of token ids
            One prompt, or several that run as one batch.
        params : SamplingParams, optional
            Greedy decoding of 128 tokens by default.
        speculation : "off", "auto" or int, optional
            For these requests, in place of the engine's.
        priority : int, optional
            Place in the queue where requests have to wait: lower values first, then in order of
            arrival.
        cache_salt : str, optional
            Not empty. Prefixes are shared with requests of the same salt only, so that the time
            that one takes tells nothing about the prompts of others.

        Returns
        -------
        Output or list of Output
            A list in gives a list out, in order.

        Raises
        ------
        InvalidRequestError
            Names the parameter that is out of range.
        OutOfMemoryError
            The request can never fit into the cache, or the queue is full.
        EngineDeadError
            The engine was closed or has failed.
        """
        prompts, is_single = as_prompts(prompt)
        running: list[Generation] = []
        outputs: list[Output] = []
        try:
            for item in prompts:
                if len(running) - len(outputs) >= self._core.queue_window:
                    outputs.append(running[len(outputs)].wait())
                running.append(self._submit(item, params, speculation, priority, cache_salt))
            outputs.extend(running[i].wait() for i in range(len(outputs), len(running)))
        finally:
            for generation in running[len(outputs) :]:
                generation.cancel()
        return outputs[0] if is_single else outputs

    def stream(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams | None = None,
        *,
        speculation: Speculation | None = None,
        priority: int = 0,
        cache_salt: str | None = None,
    ) -> Iterator[Piece]:
        """Generate piece by piece, one per round; closing the iterator frees the slot.

        The request starts at once, and is checked before this returns. Parameters and errors are
        those of `generate`, for one prompt.
        """
        return self._submit(_only(prompt), params, speculation, priority, cache_salt).pieces()

    @overload
    async def generate_async(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams | None = None,
        *,
        speculation: Speculation | None = None,
        priority: int = 0,
        cache_salt: str | None = None,
    ) -> Output: ...

    @overload
    async def generate_async(
        self,
        prompt: list[str] | list[list[int]],
        params: SamplingParams | None = None,
        *,
        speculation: Speculation | None = None,
        priority: int = 0,
        cache_salt: str | None = None,
    ) -> list[Output]: ...

    async def generate_async(
        self,
        prompt: Prompts,
        params: SamplingParams | None = None,
        *,
        speculation: Speculation | None = None,
        priority: int = 0,
        cache_salt: str | None = None,
    ) -> Output | list[Output]:
        """As `generate`, without blocking the event loop; cancelling the task frees the slots."""
        import asyncio

        prompts, is_single = as_prompts(prompt)
        window = asyncio.Semaphore(self._core.queue_window)

        async def run(item: str | list[int]) -> Output:
            async with window:
                return await self._submit(
                    item, params, speculation, priority, cache_salt
                ).wait_async()

        if is_single:
            return await run(prompts[0])
        tasks = [asyncio.ensure_future(run(item)) for item in prompts]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def stream_async(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams | None = None,
        *,
        speculation: Speculation | None = None,
        priority: int = 0,
        cache_salt: str | None = None,
    ) -> AsyncIterator[Piece]:
        """As `stream`, as an asynchronous iterator."""
        return self._submit(_only(prompt), params, speculation, priority, cache_salt).pieces_async()

    def chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template_args: Mapping[str, Any] | None = None,
        speculation: Speculation | None = None,
        priority: int = 0,
        cache_salt: str | None = None,
    ) -> Output:
        """Generate the next message of a conversation.

        Parameters
        ----------
        messages : sequence of mapping
            Each with a `role` and a `content`, rendered with the checkpoint's own chat template in
            a sandbox.
        params : SamplingParams, optional
            As in `generate`.
        tools : sequence of mapping, optional
            Function schemas for the template.
        template_args : mapping, optional
            Further variables of the template.
        speculation, priority, cache_salt : optional
            As in `generate`.

        Raises
        ------
        InvalidRequestError
            A message is malformed, the template refuses it, or the model has no chat template.
        """
        prompt = self._chat_prompt(messages, tools, template_args)
        return self._submit(prompt, params, speculation, priority, cache_salt, message=True).wait()

    def stream_chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template_args: Mapping[str, Any] | None = None,
        speculation: Speculation | None = None,
        priority: int = 0,
        cache_salt: str | None = None,
    ) -> Iterator[Piece]:
        """As `chat`, piece by piece as in `stream`."""
        prompt = self._chat_prompt(messages, tools, template_args)
        return self._submit(
            prompt, params, speculation, priority, cache_salt, message=True
        ).pieces()

    async def chat_async(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template_args: Mapping[str, Any] | None = None,
        speculation: Speculation | None = None,
        priority: int = 0,
        cache_salt: str | None = None,
    ) -> Output:
        """As `chat`, without blocking the event loop."""
        prompt = self._chat_prompt(messages, tools, template_args)
        return await self._submit(
            prompt, params, speculation, priority, cache_salt, message=True
        ).wait_async()

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, as `generate` would see it."""
        return self._core.encode(text)

    def encode_chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        template_args: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Token ids of a conversation, as `chat` would see it."""
        return self._chat_prompt(messages, tools, template_args)

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of token ids; bytes that are not UTF-8 become U+FFFD."""
        return self._core.decode(list(token_ids), skip_special_tokens)

    @property
    def has_tokenizer(self) -> bool:
        """Whether text can go in and come out; without a tokenizer, token ids do."""
        return self._core.has_tokenizer

    def info(self) -> dict[str, Any]:
        """The model and the backend it runs on: family, shapes, device, instruction set."""
        return self._core.info()

    def memory(self) -> dict[str, int]:
        """Bytes held: `weights`, `kv_cache`, and so on."""
        return self._core.memory()

    def stats(self) -> dict[str, Any]:
        """Counters since the start and what is in flight now: sequences, queue, pages."""
        return self._core.stats()

    def update_weights(self, tensors: Mapping[str, Any], *, keep_kv: bool = False) -> None:
        """Replace weights between two rounds, all of `tensors` or none.

        Everything is checked and converted first, beside the running rounds; the swap itself is a
        pointer. Requests in flight go on with the new weights from the next round on.

        Parameters
        ----------
        tensors : mapping of str to numpy.ndarray, torch.Tensor or (str, numpy.ndarray)
            Any subset of the target's weights, named and laid out as in a checkpoint (tensors that
            hold all experts of a layer included), as in `from_tensors`. A matrix keeps the format
            that it was loaded in: BF16 and F32 values for experts in MXFP4 are rounded to MXFP4
            by the OCP rule; U8 nibbles with their `weight_scale` are taken as they are. The values
            are copied: change the tensors as you like once this has returned.
        keep_kv : bool
            What becomes of the keys and values that the old weights made for requests in flight.
            ``False`` feeds their tokens again, so that every further token is what the new weights
            say after the same text; ``True`` keeps them, which is cheaper and mixes both. Prefixes
            that are kept for later requests are forgotten in either case.

        Raises
        ------
        ModelFormatError
            A tensor is unknown, has another shape or dtype than the model allows, or holds a value
            that is not finite. The old weights stay.
        UnsupportedError
            The backend cannot change its weights.
        EngineDeadError
            The engine was closed or has failed.

        Examples
        --------
        >>> engine.update_weights(dict(model.named_parameters()))  # doctest: +SKIP
        """
        self._core.update_weights(raw_tensors(tensors), keep_kv)

    def trace(self, path: str | os.PathLike[str], *, ops: int = 1024) -> Trace:
        """Trace what a GPU does while a ``with`` block runs.

        Every block of the resident kernel notes when it entered an op, knew its experts, had its
        first weights, was through, and had waited for the others. Requests of all threads are
        traced, at some cost in speed; outside of the block there is none.

        Parameters
        ----------
        path : str or path
            Where the timeline goes when the block ends, one track per SM, for ui.perfetto.dev or
            chrome://tracing; some 250 bytes per op and SM.
        ops : int
            Ops to keep, the newest ones: 1 to 4096. A token of a large model takes some hundreds.

        Returns
        -------
        Trace
            To enter; its `summary` says afterwards where the time went.

        Raises
        ------
        UnsupportedError
            On entering, where nothing can be traced: on a CPU, on a GPU in graph mode, in a build
            without the traced kernel, or while another trace runs.
        InvalidRequestError
            On entering, for a number of ops out of range.
        OSError
            The path cannot be written to.
        EngineDeadError
            The engine was closed or has failed.

        Examples
        --------
        >>> with engine.trace("trace.json") as trace:  # doctest: +SKIP
        ...     engine.generate("import os")
        >>> print(trace.summary)  # doctest: +SKIP
        """
        require("ops", ops, int)
        if not 0 <= ops < 1 << 32:
            raise InvalidRequestError("ops", f"{ops} is not within 1 to 4096")
        return Trace(self._core, path, ops)

    def close(self) -> None:
        """Stop the engine and free its memory before returning.

        Requests in flight end with `EngineDeadError`, and so does every later call. Closing twice
        is fine.
        """
        self._core.close()

    def __enter__(self) -> Self:
        self._core.stats()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _submit(
        self,
        prompt: str | list[int],
        params: SamplingParams | None,
        speculation: Speculation | None,
        priority: int = 0,
        cache_salt: str | None = None,
        *,
        message: bool = False,
    ) -> Generation:
        if params is None:
            params = SamplingParams()
        require("params", params, SamplingParams)
        require("priority", priority, int)
        if not -(1 << 31) <= priority < 1 << 31:
            raise InvalidRequestError("priority", f"{priority} is not within 32 bits")
        if cache_salt is not None:
            require("cache_salt", cache_salt, str)
            if not cache_salt:
                raise InvalidRequestError(
                    "cache_salt", "it is empty; without one prefixes are shared"
                )
        token_ids = self._core.encode(prompt) if isinstance(prompt, str) else prompt
        room = self._core.max_positions - len(token_ids)
        seed = int.from_bytes(os.urandom(8), "little") if params.seed is None else params.seed
        streams: list[_core.TokenStream] = []
        try:
            for index in range(params.n):
                options = params.request(index, seed, room)
                streams.append(
                    self._core.submit(
                        token_ids, options, speculation, priority, cache_salt, message
                    )
                )
        except BaseException:
            for stream in streams:
                stream.cancel()
            raise
        return Generation(token_ids, streams)

    def _chat_prompt(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None,
        template_args: Mapping[str, Any] | None,
    ) -> list[int]:
        return self._core.render_chat(template_input(messages, tools, template_args))


def _only(prompt: str | Sequence[int]) -> str | list[int]:
    prompts, is_single = as_prompts(prompt)
    if not is_single:
        raise InvalidRequestError("prompt", "expected one prompt, found a list of them")
    return prompts[0]
