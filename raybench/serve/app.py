"""The application: the report's pages live, their data and files, and the routes of the queue."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio.to_thread
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException as AnyHTTPException

from raybench.errors import UserError, printable
from raybench.reports.pages.render import static
from raybench.reports.pages.site import block_script
from raybench.results.encoding import parquet_bytes
from raybench.results.store import Store
from raybench.serve.events import add_events
from raybench.serve.guard import Guard
from raybench.serve.live import PATIENCE_FOR_ROW_S, PATIENCE_S, Live
from raybench.serve.login import add_login
from raybench.serve.new_routes import add_new
from raybench.serve.parts import Parts, own_static
from raybench.serve.places import inside
from raybench.serve.pulse import Pulse
from raybench.serve.queue import Queue
from raybench.serve.run_routes import add_runs
from raybench.serve.runs import Runs
from raybench.serve.settings import Settings
from raybench.serve.uploads import Uploads
from raybench.storage.local import LocalStorage
from raybench.storage.open import open_storage

TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
REPORT = ("report.css", "report.js")
OWN = ("serve.css", "serve.js", "htmx.min.js", "sse.min.js")
FILES = {"model.safetensors": "application/octet-stream", "pruned.json": "application/json"}  # of a pruned network
CHUNK = 2**20
ID = re.compile(r"[0-9a-f]{8,64}")


def make_app(settings: Settings) -> FastAPI:
    """The application for `settings`. Its queue starts at once, and ends with the application.

    Raises:
        UserError: the storage or the work folder can't be used.
    """
    parts = _parts(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        parts.live.warm()
        yield
        close(parts)

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.state.parts = parts
    app.add_middleware(Guard, settings=settings)
    app.add_exception_handler(UserError, _mistake)
    app.add_exception_handler(OSError, _unreadable)
    app.add_exception_handler(AnyHTTPException, _said)
    add_login(app, parts)
    add_events(app, parts)
    if parts.queue is not None:
        add_new(app, parts)
    add_runs(app, parts)
    _add_pages(app, parts)
    _add_data(app, parts)
    _add_files(app, parts)
    return app


def close(parts: Parts) -> None:
    """End what works in the background."""
    parts.live.close()
    if parts.queue is not None:
        parts.queue.close()
    if parts.runs is not None:
        parts.runs.close()


def _parts(settings: Settings) -> Parts:
    store = Store(open_storage(settings.storage))
    pulse = Pulse(store)
    live = Live(store, pulse)
    if settings.read_only:
        return Parts(settings, store, pulse, live, None, None, None)
    runs = Runs(settings.work)
    return Parts(settings, store, pulse, live, runs, Queue(settings, runs), Uploads(settings.work / "uploads"))


async def _mistake(request: Request, error: Exception) -> Response:
    """A user's mistake: a page where one was asked for, else a part of one."""
    return await anyio.to_thread.run_sync(_answer, request, str(error), 422)


async def _unreadable(_: Request, error: Exception) -> Response:
    """A disk or a bucket that doesn't answer."""
    return PlainTextResponse(f"The storage can't be read now: {printable(str(error))}", 503)


async def _said(request: Request, error: Exception) -> Response:
    assert isinstance(error, AnyHTTPException)
    return await anyio.to_thread.run_sync(_answer, request, str(error.detail), error.status_code)


def _answer(request: Request, text: str, status: int) -> Response:
    parts: Parts = request.app.state.parts
    if request.method == "GET" and request.url.path.endswith(".html"):
        title = "Not found" if status in (404, 422) else "Not possible"
        with suppress(UserError, OSError):  # the storage can't be read: no frame
            page = parts.page("said", "", title, "said.html", heading=title, text=text)
            return HTMLResponse(page.body, status)
    return HTMLResponse(parts.fragment("problem.html", text=text), status)


def _add_pages(app: FastAPI, parts: Parts) -> None:
    """The pages of the report, and what tells an open one that there are newer results."""

    @app.get("/")
    def start() -> Response:
        return RedirectResponse("index.html", 303)

    @app.get("/{name}.html")
    def page(name: str) -> Response:
        rendered = parts.live.newest(PATIENCE_FOR_ROW_S if name == "trial" else PATIENCE_S)
        if name not in rendered.pages:
            raise HTTPException(404, f"There is no page {name} (any more). The overview has all boards.")
        return parts.framed(rendered.pages[name], rendered)

    @app.get("/news")
    def news(seen: str = "") -> Response:
        changed = parts.pulse.version.get() != seen
        return HTMLResponse(parts.fragment("news.html") if changed else "", headers={"cache-control": "no-store"})


def _add_data(app: FastAPI, parts: Parts) -> None:
    """The tables of the pages: as scripts that the pages read, and as files to keep."""

    @app.get("/data/{version}/{name}.js")
    def block(version: str, name: str) -> Response:
        rendered = parts.live.at(version)
        if rendered is None or name not in rendered.blocks:
            raise HTTPException(404, "this page is old: load it again")
        return Response(block_script(name, rendered.blocks[name]), media_type=TYPES["js"])

    @app.get("/data/{name}.parquet")
    def table(name: str) -> Response:
        found = [one for one in parts.live.newest().site.tables if one.name == name]
        if not found:
            raise HTTPException(404, f"There is no table {name}.")
        return Response(parquet_bytes(found[0].table), media_type="application/octet-stream",
                        headers=_download(f"{name}.parquet"))  # fmt: skip


def _add_files(app: FastAPI, parts: Parts) -> None:
    """The files of pruned networks; style and script of the pages."""

    @app.get("/files/artifacts/{trial}/{name}")
    def artifact(trial: str, name: str) -> Response:
        if not ID.fullmatch(trial) or name not in FILES:
            raise HTTPException(404, "There is no such file.")
        return _stored(parts.store, f"artifacts/{trial}/{name}", f"{trial[:12]}-{name}", FILES[name])

    @app.get("/{name}.{kind}")
    def static_file(name: str, kind: str) -> Response:
        file = f"{name}.{kind}"
        if file in REPORT:
            return Response(static(file), media_type=TYPES[kind], headers={"cache-control": "no-cache"})
        if file in OWN:
            return Response(own_static(file), media_type=TYPES[kind], headers={"cache-control": "no-cache"})
        raise HTTPException(404, "There is no such file.")


def _stored(store: Store, key: str, name: str, kind: str) -> Response:
    """A file of the storage as a download; one that a link leads out of the storage is not there."""
    storage = store.storage
    if isinstance(storage, LocalStorage) and not inside(storage.root, storage.root / key):
        raise HTTPException(404, "There is no such file.")
    found = storage.open(key)
    if found is None:
        raise HTTPException(404, "There is no such file: the run may have been started without keeping networks.")

    def chunks() -> Iterator[Any]:
        with found:
            while chunk := found.read(CHUNK):
                yield chunk

    return StreamingResponse(chunks(), media_type=kind, headers=_download(name))


def _download(name: str) -> dict[str, str]:
    return {"content-disposition": f'attachment; filename="{name}"'}
