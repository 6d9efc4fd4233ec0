"""The pages of a report, rendered again when the storage has grown; the last ones are shown meanwhile."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass

from raybench.reports.pages.site import Page, Site, render_site
from raybench.results.store import Store
from raybench.serve.pulse import Pulse

PATIENCE_S = 1.5  # that a page waits for new rows, before it is shown without them
PATIENCE_FOR_ROW_S = 20.0  # of a page that somebody opens to see a row that has just come
KEPT = 3  # renderings, so that a page that is open finds its data


@dataclass(frozen=True, eq=False)
class Rendered:
    """The pages of one moment."""

    version: str
    site: Site
    pages: dict[str, Page]
    blocks: dict[str, str]


class Live:
    """Renders a storage's pages, one rendering at a time."""

    def __init__(self, store: Store, pulse: Pulse) -> None:
        self._store, self._pulse = store, pulse
        self._lock = threading.Lock()
        self._work = ThreadPoolExecutor(1, "render")
        self._kept: OrderedDict[str, Rendered] = OrderedDict()
        self._next: Future[Rendered] | None = None

    def warm(self) -> None:
        """Begin to render, so that the first page is there sooner."""
        with self._lock:
            self._next = self._work.submit(lambda: self._render(self._pulse.version.get()))

    def newest(self, patience: float = PATIENCE_S) -> Rendered:
        """The pages of now, or the last ones where the new ones take longer; the first ones are waited for."""
        version = self._pulse.version.get()
        with self._lock:
            if version in self._kept:
                return self._kept[version]
            if self._next is None or self._next.done():
                self._next = self._work.submit(self._render, version)
            coming, last = self._next, next(reversed(self._kept.values()), None)
        try:
            return coming.result(None if last is None else patience)
        except NotYet:
            assert last is not None  # else there is no limit
            return last

    def at(self, version: str) -> Rendered | None:
        """The pages of an earlier version; None where they are no longer kept."""
        with self._lock:
            return self._kept.get(version)

    def _render(self, version: str) -> Rendered:
        site = render_site(self._store)
        found = Rendered(version, site, {one.name: one for one in site.pages}, dict(site.blocks))
        with self._lock:
            self._kept[version] = found
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return found

    def close(self) -> None:
        """Render nothing more."""
        self._work.shutdown(wait=False, cancel_futures=True)
