"""Jinja2's environment of the pages: every value is escaped, and addresses are those of a folder or of one file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

from raybench.errors import counted, printable
from raybench.reports import formats
from raybench.reports.pages.names import slug


def _shown(value: Any) -> Any:
    """A value as it is printed: control characters and changes of the writing direction as escapes."""
    return printable(value) if type(value) is str else value  # what is markup already comes from a rendered page


@cache
def environment(single: bool) -> Any:
    """Jinja2's environment, which escapes every value, with the addresses of one of the two forms."""
    from jinja2 import BaseLoader, Environment, StrictUndefined
    from jinja2.exceptions import TemplateNotFound

    class Packaged(BaseLoader):
        def get_source(self, _: Environment, template: str) -> tuple[str, str | None, Callable[[], bool]]:
            file = files("raybench.reports.pages") / "templates" / template
            if not file.is_file():
                raise TemplateNotFound(template)
            return file.read_text(encoding="utf-8"), None, lambda: True

    made = Environment(loader=Packaged(), autoescape=True, undefined=StrictUndefined, trim_blocks=True, finalize=_shown)
    made.filters.update(formats.FILTERS)
    made.globals.update(
        to=(lambda name: f"#{name}") if single else (lambda name: f"{name}.html"),
        to_trial=(lambda one: f"#trial/{one}") if single else (lambda one: f"trial.html#{one}"),
        method_page=lambda method: slug("method", method),
        counted=counted,
        timing=formats.timing,
    )
    return made


@cache
def policy() -> str:
    """What a report in one file may do: its own style sheet and script, known by their hashes, and nothing else."""

    def digest(name: str) -> str:
        return base64.b64encode(hashlib.sha256(static(name).encode()).digest()).decode()

    script, style = digest("report.js"), digest("report.css")
    return f"default-src 'none';script-src 'sha256-{script}';style-src 'sha256-{style}';img-src data:;base-uri 'none'"


@cache
def static(name: str) -> str:
    """A style sheet or script of the pages."""
    return (files("raybench.reports.pages") / "static" / name).read_text(encoding="utf-8")
