"""Server-sent events: the parts of a page that change while somebody looks, each sent when it has changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import anyio
import anyio.to_thread
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse

from raybench.progress.view import pace, plain
from raybench.reports.pages.names import slug
from raybench.serve.parts import Parts
from raybench.serve.pulse import Cell, tally
from raybench.serve.runs import RunRecord

MOST = 64  # streams at a time
LOOKING = 8  # of them that read the storage at a time; those that wait take no thread from the pages
LOOK_S = 0.8
BEAT_LOOKS = 15  # a comment after so many looks without news, so that proxies keep the stream open
SHOWN_CELLS = 400
SHOWN_RUNS = 200


def run_parts(parts: Parts, run: str) -> dict[str, str]:
    """The changing parts of a run's page: name of an element -> its content."""
    assert parts.runs is not None
    one = parts.runs.get(run)
    cells = parts.pulse.cells(parts.runs.cells(run))
    counts = tally(cells)
    done = len(cells) - counts["waiting"]
    return {
        "state": parts.fragment("run_state.html", run=one),
        "tally": parts.fragment(
            "run_tally.html", run=one, counts=counts, total=len(cells), done=done, boards=_boards(one, cells)
        ),
        "cells": parts.fragment("run_cells.html", cells=cells[:SHOWN_CELLS], more=max(0, len(cells) - SHOWN_CELLS)),
        "now": _running_part(parts) if one.status in ("running", "stopping") else "",
        "log": parts.fragment("run_log.html", text=parts.runs.tail(run)),
    }


def _boards(run: RunRecord, cells: list[Cell]) -> list[tuple[str, str]]:
    """(page, strategy) of every board that shows a cell of the run."""
    found = dict.fromkeys(cell.strategy for cell in cells if cell.status == "ok")
    return [(slug("board", run.dataset, run.model, strategy), strategy) for strategy in found]


def now_part(parts: Parts) -> str:
    """What runs in the storage now, whoever started it."""
    return parts.fragment("now.html", lines=list(plain(parts.pulse.snapshot.get())))


def _running_part(parts: Parts) -> str:
    """The pace, and the units that run; the cells that have ended are a table of their own."""
    snapshot = parts.pulse.snapshot.get()
    lines = [pace(snapshot), *(line for line in plain(snapshot) if line.startswith("running "))]
    return parts.fragment("now.html", lines=lines)


def runs_parts(parts: Parts, status: str = "", words: str = "") -> dict[str, str]:
    """The changing parts of the history."""
    return {"now": now_part(parts)} | ({} if parts.runs is None else {"runs": runs_part(parts, status, words)})


def runs_part(parts: Parts, status: str, words: str) -> str:
    """The rows of the history that a filter leaves: a status, and words that all occur."""
    assert parts.runs is not None
    found = [
        one
        for one in parts.runs.all()
        if (not status or one.status == status) and all(word in one.text for word in words.lower().split())
    ]
    return parts.fragment("runs_rows.html", runs=found[:SHOWN_RUNS], more=max(0, len(found) - SHOWN_RUNS),
                          any=bool(parts.runs.all()))  # fmt: skip


def add_events(app: FastAPI, parts: Parts) -> None:
    """Add the stream: of one run, or with filters of the history."""
    open_streams, looking = 0, anyio.CapacityLimiter(LOOKING)

    @app.get("/events")
    async def events(request: Request, run: str = "", status: str = "", words: str = "") -> StreamingResponse:
        if open_streams >= MOST:
            raise HTTPException(503, "Too many pages are open.")
        if run and parts.runs is not None:
            parts.runs.get(run)  # UserError for an unknown one

        def read() -> dict[str, str]:
            return run_parts(parts, run) if run and parts.runs else runs_parts(parts, status, words)

        return StreamingResponse(counted_stream(request, read), media_type="text/event-stream",
                                 headers={"x-accel-buffering": "no"})  # fmt: skip

    async def counted_stream(request: Request, read: Callable[[], dict[str, str]]) -> AsyncIterator[str]:
        nonlocal open_streams
        open_streams += 1
        try:
            ending = request.is_disconnected
            async for text in stream(read, lambda: bool(getattr(app.state, "closing", False)), ending, looking):
                yield text
        finally:
            open_streams -= 1


async def stream(
    read: Callable[[], dict[str, str]],
    closing: Callable[[], bool],
    disconnected: Callable[[], Awaitable[bool]],
    looking: anyio.CapacityLimiter | None = None,
) -> AsyncIterator[str]:
    """Events for the parts that `read` returns, first all, then those that changed, until either side ends."""
    sent: dict[str, str] = {}
    quiet = 0
    while not closing() and not await disconnected():
        found = await anyio.to_thread.run_sync(read, limiter=looking)
        changed = {name: text for name, text in found.items() if sent.get(name) != text}
        for name, text in changed.items():
            yield event(name, text)
        sent, quiet = found, 0 if changed else quiet + 1
        if quiet >= BEAT_LOOKS:
            quiet = 0
            yield ": still here\n\n"
        await asyncio.sleep(LOOK_S)


def event(name: str, text: str) -> str:
    """One event; no line of the text can end it early or start another.

    Example:
        >>> event("log", "a\\nb")
        'event: log\\ndata: a\\ndata: b\\n\\n'
    """
    lines = "".join(f"data: {line}\n" for line in text.splitlines() or [""])
    return f"event: {name}\n{lines}\n"
