"""Routes of the form: what it describes as YAML, its plan and cost, a dry run, uploads, and into the queue."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, Response
from starlette.datastructures import UploadFile

from raybench import registry
from raybench.errors import UserError
from raybench.plan.records import Estimate
from raybench.plan.view import cost_lines
from raybench.serve.children import Answer, answer
from raybench.serve.form import CHOICES, PARTS, STAGES, STRATEGIES, FormError, Wanted, read_form, recipes
from raybench.serve.parts import Parts
from raybench.serve.queue import Queue
from raybench.serve.runs import Runs
from raybench.serve.uploads import Uploads
from raybench.sweep.data_roots import ROOT_VARIABLE

SHOWN_CELLS = 60
MOST_FIELDS = 500
PLANNING = 4  # forms read at a time; those that wait take no thread from the pages
Values = Mapping[str, list[str]]  # of a form: field -> its values
SENDING = 2  # files received at a time: each lies on the disk until it is checked


@dataclass(frozen=True)
class Planned:
    """A form that was read, and what a run would do."""

    wanted: Wanted
    plan: Mapping[str, Any]
    notes: tuple[str, ...]

    @property
    def to_run(self) -> int:
        """Number of cells that a run would start."""
        return int(self.plan["counts"].get("planned", 0))

    @property
    def cost(self) -> list[str]:
        """The estimate as lines; empty without earlier timings."""
        return cost_lines(Estimate(**self.plan["cost"])) if self.plan["cost"] else []


def add_new(app: FastAPI, parts: Parts) -> None:
    """Add the form and what it sends to."""
    runs, queue, uploads = parts.runs, parts.queue, parts.uploads
    assert runs is not None and queue is not None and uploads is not None  # noqa: PT018  one of them is all
    _add_form(app, parts, runs, queue, uploads)
    _add_uploads(app, parts, uploads)


def _add_form(app: FastAPI, parts: Parts, runs: Runs, queue: Queue, uploads: Uploads) -> None:
    waiting = anyio.CapacityLimiter(PLANNING)

    def planned(values: Values) -> Planned:
        wanted = read_form(values, parts.settings, uploads)
        return plan_of(wanted, parts.store.storage.url)

    def shown(values: Values) -> Response:
        found = planned(values)
        return HTMLResponse(parts.fragment("planned.html", found=found, cells=found.plan["cells"][:SHOWN_CELLS]))

    def inspected(values: Values) -> Response:
        wanted = read_form(values, parts.settings, uploads)
        found = inspect(wanted, parts.settings.work)
        return HTMLResponse(parts.fragment("inspected.html", wanted=wanted, found=found.found, notes=found.notes))

    def queued(values: Values) -> Response:
        queue.check_room()
        found = planned(values)
        if not found.to_run:
            raise UserError("nothing to run: every cell of this sweep is done or skipped; change the form")
        one = runs.add(found.wanted, found.plan)
        queue.notify()
        return HTMLResponse("", headers={"hx-redirect": f"run.html?id={one.id}"})

    async def answered(request: Request, work: Callable[[Values], Response]) -> Response:
        """What `work` makes of the form, in a thread of its own; the mistakes that it finds."""
        values = await _values(request)

        def tried() -> Response:
            try:
                return work(values)
            except UserError as error:
                return HTMLResponse(parts.fragment("problems.html", problems=_problems(error)), 422)

        return await anyio.to_thread.run_sync(tried, limiter=waiting)

    @app.get("/new.html")
    def page() -> Response:
        return parts.page("new", "new", "New run", "new.html", **_choices(), uploads=uploads.all())

    @app.post("/preview")
    async def preview(request: Request) -> Response:
        return await answered(request, shown)

    @app.post("/dryrun")
    async def dry_run(request: Request) -> Response:
        return await answered(request, inspected)

    @app.post("/queue")
    async def enqueue(request: Request) -> Response:
        return await answered(request, queued)


def _add_uploads(app: FastAPI, parts: Parts, uploads: Uploads) -> None:
    receiving = 0

    @app.post("/upload")
    async def upload(request: Request) -> Response:
        nonlocal receiving
        if receiving >= SENDING:
            raise HTTPException(503, f"{SENDING} files are being uploaded already: wait a moment.")
        receiving += 1
        try:
            return await received(request)
        finally:
            receiving -= 1

    async def received(request: Request) -> Response:
        form = await request.form(max_files=1, max_fields=5)
        file = form.get("file")
        try:
            if not isinstance(file, UploadFile) or not file.size:
                raise UserError("upload: found no file, expected one with weights")
            one = await uploads.add(file.filename or "", _chunks(file))
        except UserError as error:
            return HTMLResponse(parts.fragment("problems.html", problems=_problems(error)), 422)
        finally:
            await form.close()
        return HTMLResponse(parts.fragment("uploads.html", uploads=uploads.all(), chosen=one.key))

    @app.post("/forget")
    def forget(key: str = "") -> Response:
        uploads.remove(key)
        return HTMLResponse(parts.fragment("uploads.html", uploads=uploads.all(), chosen=""))


def plan_of(wanted: Wanted, storage: str) -> Planned:
    """What a run of a form's sweep would do, from a process of its own; UserError with the mistakes that it finds."""
    with tempfile.TemporaryDirectory(prefix="raybench-plan-") as folder:
        file = Path(folder) / "sweep.yaml"
        file.write_text(wanted.yaml, "utf-8")
        arguments = ["plan", str(file), "--storage", storage, "--format", "json"]
        found = answer(arguments, wanted.folder or Path(folder), hide=file)
    return Planned(wanted, found.found, found.notes)


def inspect(wanted: Wanted, work: Path) -> Answer:
    """What of a form's model can be pruned, from a process of its own."""
    arguments = ["inspect", wanted.model, f"--dataset={wanted.dataset}", "--format", "json"]
    arguments += [f"--image-size={wanted.image_size}"] if wanted.image_size else []
    for option, values in (("--keep", wanted.keep), ("--only", wanted.only), ("--prune", wanted.prune)):
        arguments += [option, *values] if values else []
    return answer(arguments, wanted.folder or work)


async def _values(request: Request) -> dict[str, list[str]]:
    form = await request.form(max_files=0, max_fields=MOST_FIELDS)
    return {name: [value for value in form.getlist(name) if isinstance(value, str)] for name in form}


async def _chunks(file: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await file.read(2**20):
        yield chunk


def _problems(error: UserError) -> list[str]:
    return list(error.problems) if isinstance(error, FormError) else str(error).splitlines()


def _choices() -> dict[str, Any]:
    """What the form's lists hold."""
    models: dict[str, list[Any]] = {}
    for entry in registry.model.entries().values():
        models.setdefault(entry.facts.get("task", "classification"), []).append(entry)
    datasets = [(entry, _place(entry)) for entry in registry.dataset.entries().values()]
    return {
        "models": models,
        "datasets": sorted(datasets, key=lambda pair: (pair[1] != "ready", pair[0].name)),
        "criteria": list(registry.importance.entries().values()),
        "regularizers": list(registry.regularizer.entries().values()),
        "selections": list(registry.selection.entries().values()),
        "tokens": list(registry.token.entries().values()),
        "strategies": STRATEGIES,
        "choices": CHOICES,
        "parts": PARTS,
        "recipes": recipes(),
        "stages": STAGES,
    }


def _place(entry: Any) -> str:
    """Whether a dataset can be used as it is: ready, or needs a folder."""
    root = os.environ.get(ROOT_VARIABLE)
    ready = entry.facts.get("embedded") or (root and (Path(root).expanduser() / entry.name).is_dir())
    return "ready" if ready else "needs its folder"
