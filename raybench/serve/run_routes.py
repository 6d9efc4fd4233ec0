"""Routes of the history and of one run: look, stop, retry, take its sweep file and log home."""

from __future__ import annotations

from typing import get_args

from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse, HTMLResponse, Response

from raybench.serve.events import run_parts, runs_part, runs_parts
from raybench.serve.parts import Parts
from raybench.serve.queue import Queue
from raybench.serve.runs import Runs, Status

TAKEN = {"sweep.yaml": "application/yaml", "log.txt": "text/plain; charset=utf-8"}


def add_runs(app: FastAPI, parts: Parts) -> None:
    """Add the pages of runs; without a queue only what runs now."""

    @app.get("/runs.html")
    def runs_page(status: str = "", words: str = "") -> Response:
        found = runs_parts(parts, status, words)
        return parts.page("runs", "runs", "Runs", "runs.html", parts=found, statuses=get_args(Status), status=status,
                          words=words, queue=parts.queue is not None)  # fmt: skip

    if parts.runs is not None and parts.queue is not None:
        _add_queued(app, parts, parts.runs, parts.queue)


def _add_queued(app: FastAPI, parts: Parts, runs: Runs, queue: Queue) -> None:
    @app.get("/run.html")
    def run_page(id: str = "") -> Response:
        one = runs.get(id)
        return parts.page("run", "runs", f"Run {one.name}", "run.html", run=one, parts=run_parts(parts, id),
                          yaml=runs.place(id, "sweep.yaml").read_text("utf-8"))  # fmt: skip

    @app.get("/history")
    def history(status: str = "", words: str = "") -> Response:
        return HTMLResponse(runs_part(parts, status, words))

    @app.post("/stop")
    def stop(id: str = "") -> Response:
        runs.get(id)
        return HTMLResponse(parts.fragment("run_state.html", run=queue.stop(id)))

    @app.post("/retry")
    def retry(id: str = "") -> Response:
        runs.get(id)
        return HTMLResponse(parts.fragment("run_state.html", run=queue.retry(id)))

    @app.get("/take/{id}/{name}")
    def take(id: str, name: str) -> Response:
        if name not in TAKEN or not (file := runs.place(id, name)).is_file():
            raise HTTPException(404, "There is no such file (yet).")
        return FileResponse(file, media_type=TAKEN[name], filename=f"{id}-{name}")
