"""All that the routes of one server share: its settings, its storage, its queue, and how a page is put together."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from fastapi.responses import HTMLResponse
from markupsafe import Markup

from raybench.reports.pages.render import environment
from raybench.reports.pages.site import NAVIGATION, Page, frame_of
from raybench.results.store import Store
from raybench.serve.guard import CSRF, csrf_token
from raybench.serve.live import Live, Rendered
from raybench.serve.pulse import Pulse
from raybench.serve.queue import Queue
from raybench.serve.runs import Runs
from raybench.serve.settings import Settings
from raybench.serve.uploads import Uploads

HTMX = {
    "includeIndicatorStyles": False,  # an inline style sheet
    "allowEval": False,
    "selfRequestsOnly": True,
    "historyCacheSize": 0,
    "responseHandling": [
        {"code": "204", "swap": False},
        {"code": "[23]..", "swap": True},
        {"code": "422", "swap": True},  # a form's mistakes
        {"code": "...", "swap": False, "error": True},
    ],
}


@dataclass(frozen=True, eq=False)
class Parts:
    """What the routes share. Without `queue` the server only shows."""

    settings: Settings
    store: Store
    pulse: Pulse
    live: Live
    runs: Runs | None
    queue: Queue | None
    uploads: Uploads | None

    def page(self, name: str, nav: str, title: str, template: str, **values: Any) -> HTMLResponse:
        """One of the server's own pages, in the frame of the report."""
        body = Markup(self.fragment(template, **values))
        return self.framed(Page(name, title, nav, body), self.live.newest(), news=False)

    def framed(self, page: Page, rendered: Rendered, *, news: bool = True) -> HTMLResponse:
        """A page in its frame, with what a live page loads; with `news` it says when there are new rows."""
        banner = self.fragment("banner.html", version=rendered.version) if news else ""
        live = {
            "blocks": f"data/{rendered.version}/",
            "htmx": json.dumps(HTMX),
            "headers": json.dumps({CSRF: csrf_token(self.settings)}),
            "banner": Markup(banner),
        }
        frame = frame_of(rendered.site.content)
        return HTMLResponse(frame(pages=[page], title=page.title, live=live, files="files/",
                                  navigation=self._navigation()))  # fmt: skip

    def fragment(self, template: str, **values: Any) -> str:
        """A part of a page, every value escaped."""
        return str(_templates().get_template(template).render(settings=self.settings, **values))

    def _navigation(self) -> tuple[tuple[str, str], ...]:
        own = (("runs", "Runs"),) if self.queue is None else (("new", "New run"), ("runs", "Runs"))
        return (NAVIGATION[0], *own, *NAVIGATION[1:])


@cache
def _templates() -> Any:
    """The report's environment, for the templates of this package."""
    from jinja2 import BaseLoader, Environment
    from jinja2.exceptions import TemplateNotFound

    class Packaged(BaseLoader):
        def get_source(self, _: Environment, template: str) -> tuple[str, str | None, Callable[[], bool]]:
            file = files("raybench.serve") / "templates" / template
            if not file.is_file():
                raise TemplateNotFound(template)
            return file.read_text(encoding="utf-8"), None, lambda: True

    made = environment(False).overlay(loader=Packaged())
    made.filters["when"] = when
    return made


def when(moment: float | None) -> str:
    """A time as people read it, in the server's zone; a dash without one."""
    import time

    return "–" if moment is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


@cache
def own_static(name: str) -> bytes:
    """A script or style sheet of this package."""
    return (files("raybench.serve") / "static" / name).read_bytes()
