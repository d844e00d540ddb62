"""One prompt on its way through the engine: waiting, streaming and cancelling."""

import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from kilotok._core import Event, TokenStream
from kilotok.output import Completion, Output, Piece, TokenLogprobs
from kilotok.receipt import Receipt

__all__ = ["Generation"]

# How long a wait may ignore signals: Ctrl-C is noticed within this time.
_SIGNAL_S = 0.05


class Generation:
    """The `n` token streams of one prompt.

    Whoever stops reading before the end cancels: every iterator here frees the slots when it is
    closed, when its task is cancelled or when it raises.
    """

    def __init__(self, prompt_token_ids: list[int], streams: list[TokenStream]) -> None:
        self._prompt_token_ids = prompt_token_ids
        self._streams = streams

    def cancel(self) -> None:
        """Free the slots at the next round; streams that have ended are not affected."""
        for stream in self._streams:
            stream.cancel()

    def pieces(self) -> Iterator[Piece]:
        """Stream pieces of all texts as they come."""
        wake = threading.Event()
        poll = self._poll(wake.set if len(self._streams) > 1 else None)
        try:
            if len(self._streams) == 1:
                yield from self._pieces_of_one()
                return
            while True:
                wake.clear()
                batch = poll()
                if batch is None:
                    return
                yield from batch
                if not batch:
                    wake.wait(_SIGNAL_S)
        finally:
            self.cancel()

    async def pieces_async(self) -> AsyncIterator[Piece]:
        """Stream pieces of all texts without blocking the event loop."""
        import asyncio

        loop = asyncio.get_running_loop()
        wake = asyncio.Event()
        poll = self._poll(lambda: loop.call_soon_threadsafe(wake.set))
        try:
            while True:
                wake.clear()
                batch = poll()
                if batch is None:
                    return
                for piece in batch:
                    yield piece
                if not batch:
                    await wake.wait()
        finally:
            self.cancel()

    def wait(self) -> Output:
        """Block until every text has ended."""
        gathered = _Gathered(self._prompt_token_ids, len(self._streams))
        for piece in self.pieces():
            gathered.add(piece)
        return gathered.output()

    async def wait_async(self) -> Output:
        """Wait until every text has ended, without blocking the event loop."""
        gathered = _Gathered(self._prompt_token_ids, len(self._streams))
        async for piece in self.pieces_async():
            gathered.add(piece)
        return gathered.output()

    def _pieces_of_one(self) -> Iterator[Piece]:
        stream = self._streams[0]
        while True:
            event = stream.next(_SIGNAL_S)
            if event is not None:
                yield _piece(0, event)
                if event.finish_reason is not None:
                    return

    def _poll(self, waker: Callable[[], object] | None) -> Callable[[], list[Piece] | None]:
        """A function that takes what is there; ``None`` once every text has ended."""
        live = dict(enumerate(self._streams))
        if waker is not None:
            for stream in self._streams:
                stream.set_waker(waker)

        def poll() -> list[Piece] | None:
            if not live:
                return None
            batch = []
            for index, stream in list(live.items()):
                while (event := stream.poll()) is not None:
                    batch.append(_piece(index, event))
                    if event.finish_reason is not None:
                        del live[index]
                        break
            return batch

        return poll


class _Gathered:
    """Pieces joined into completions."""

    def __init__(self, prompt_token_ids: list[int], n: int) -> None:
        self._prompt_token_ids = prompt_token_ids
        self._pieces: list[list[Piece]] = [[] for _ in range(n)]

    def add(self, piece: Piece) -> None:
        self._pieces[piece.index].append(piece)

    def output(self) -> Output:
        completions = tuple(_completion(pieces) for pieces in self._pieces)
        return Output(prompt_token_ids=self._prompt_token_ids, completions=completions)


def _completion(pieces: list[Piece]) -> Completion:
    last = pieces[-1]
    assert last.finish_reason is not None
    assert last.receipt is not None
    texts = [piece.text for piece in pieces if piece.text is not None]
    has_logprobs = any(piece.logprobs is not None for piece in pieces)
    return Completion(
        text=None if last.text is None else "".join(texts),
        token_ids=[token for piece in pieces for token in piece.token_ids],
        logprobs=[e for p in pieces for e in p.logprobs or ()] if has_logprobs else None,
        finish_reason=last.finish_reason,
        stop_reason=last.stop_reason,
        receipt=last.receipt,
    )


def _receipt(fields: dict[str, Any]) -> Receipt:
    receipt = Receipt(**fields)
    if receipt.warning is not None:
        warnings.warn(receipt.warning, RuntimeWarning, stacklevel=2)
    return receipt


def _piece(index: int, event: Event) -> Piece:
    logprobs = None
    if event.logprobs is not None:
        logprobs = [
            TokenLogprobs(token, chosen, tuple(top))
            for token, (chosen, top) in zip(event.token_ids, event.logprobs, strict=True)
        ]
    fields = event.receipt
    return Piece(
        text=event.text,
        token_ids=event.token_ids,
        logprobs=logprobs,
        index=index,
        finish_reason=event.finish_reason,
        stop_reason=event.stop_reason,
        receipt=None if fields is None else _receipt(fields),
    )
