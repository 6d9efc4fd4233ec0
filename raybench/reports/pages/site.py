"""Renders the pages of a report and writes them: a folder of files, or everything in one file."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from raybench.errors import UserError, counted, failure
from raybench.reports.board_text import board_notes
from raybench.reports.comparison import TOLERANCE, boards
from raybench.reports.drawing.svg import key_path
from raybench.reports.pages.blocks import packed, table_block, trial_blocks
from raybench.reports.pages.board_pages import board_pages, difference_bar
from raybench.reports.pages.content import Content, read_content
from raybench.reports.pages.method_pages import method_pages
from raybench.reports.pages.overview import best_rows, board_lines, reasons
from raybench.reports.pages.rank_views import ScopeView, scope_views
from raybench.reports.pages.render import environment, policy, static
from raybench.reports.pages.tables import Table, report_tables
from raybench.reports.pruned_text import target_of
from raybench.reports.published import SOURCE, STRATEGY
from raybench.reports.statistics.intervals import EQUIVALENT
from raybench.reports.text import signed
from raybench.reports.unfinished import unfinished
from raybench.results.encoding import parquet_bytes
from raybench.results.store import Store

NAVIGATION = (
    ("index", "Overview"), ("boards", "Boards"), ("ranks", "Ranks"), ("methods", "Methods"), ("findings", "Findings"),
    ("compare", "Published"), ("trials", "Trials"), ("failures", "Failures"), ("downloads", "Downloads"),
)  # fmt: skip
PACKED_FROM = 1_000_000  # characters of all pages
LISTED = 500  # failed and skipped cells on their page; the list of trials has all


@dataclass(frozen=True)
class Page:
    """One rendered page. `nav` is the entry of the navigation that it belongs to."""

    name: str
    title: str
    nav: str
    body: str
    packed: bool = False  # the body is in the block `page-NAME`


@dataclass(frozen=True, eq=False)
class Site:
    """The pages of a store without their frame, the packed data that they load, and the tables to download."""

    content: Content
    pages: tuple[Page, ...]
    blocks: tuple[tuple[str, str], ...]
    tables: tuple[Table, ...]


@dataclass(frozen=True)
class Report:
    """A report that has been written."""

    path: Path
    pages: int
    bytes: int


def write_report(store: Store, out: Path, *, single: bool = False, about: Path | None = None) -> Report:
    """Make a report of a store.

    Args:
        store: the results.
        out: folder to write, made if it isn't there; with `single` a file.
        single: one file with everything, trials included.
        about: the store's local folder, so that trials link to their files; None: no links.

    Returns:
        What was written.

    Raises:
        UserError: `out` can't be written, or is a file where a folder is needed, or the other way round.
    """
    _check(out, single)
    site = render_site(store, single=single)
    networks = about is not None and (about / "artifacts").is_dir()  # a merged store has none
    links = "" if single or about is None or not networks else f"{os.path.relpath(about.resolve(), out.resolve())}/"
    frame = partial(frame_of(site.content, single=single), files=links.replace(os.sep, "/"))
    try:
        if single:
            pages, bodies = _packed(site.pages)
            out.write_text(frame(pages=pages, blocks=[*site.blocks, *bodies], title="raybench"), encoding="utf-8")
            return Report(out, len(site.pages), out.stat().st_size)
        return _write_folder(out, frame, site)
    except OSError as error:
        raise UserError(f"-o {error.filename or out}: can't be written: {error.strerror or error}") from error


def render_site(store: Store, *, single: bool = False) -> Site:
    """Read a store and render its pages, without the frame around them; with `single` their links are of one file."""
    content = read_content(store)
    scopes = scope_views(content)
    tables = report_tables(content, scopes, single)
    blocks = [*trial_blocks(content), *((one.name, table_block(one.rows)) for one in tables if one.rows is not None)]
    pages = _pages(content, scopes, tables, single, unfinished(store.storage))
    return Site(content, tuple(pages), tuple(blocks), tuple(tables))


def _check(out: Path, single: bool) -> None:
    if single and out.is_dir():
        raise UserError(f"--single-file {out}: found a folder, expected the name of a file such as report.html")
    if not single and out.exists() and not out.is_dir():
        raise UserError(f"-o {out}: found a file, expected a folder; a report of one file: --single-file FILE")


def _packed(pages: Sequence[Page]) -> tuple[list[Page], list[tuple[str, str]]]:
    """(pages, blocks): of a large report all pages but the first are packed, and unpacked when they are opened."""
    if sum(len(page.body) for page in pages) < PACKED_FROM:
        return list(pages), []
    first, *others = pages
    return [first, *(replace(page, body="", packed=True) for page in others)], [
        (f"page-{page.name}", packed(str(page.body))) for page in others
    ]


def _write_folder(out: Path, frame: Callable[..., str], site: Site) -> Report:
    (out / "data").mkdir(parents=True, exist_ok=True)
    written = {f"{page.name}.html": frame(pages=[page], title=page.title).encode() for page in site.pages}
    written |= {name: static(name).encode() for name in ("report.css", "report.js")}
    written |= {f"data/{name}.js": block_script(name, text) for name, text in site.blocks}
    written |= {f"data/{one.name}.parquet": parquet_bytes(one.table) for one in site.tables}
    for name, data in written.items():
        (out / name).write_bytes(data)
    return Report(out, len(site.pages), sum(map(len, written.values())))


def block_script(name: str, text: str) -> bytes:
    """The script file that hands a block of data to a page."""
    return f'raybench.block("{name}","{text}")\n'.encode()


def frame_of(content: Content, *, single: bool = False) -> Callable[..., str]:
    """The page around the pages, with all that is the same in every one.

    Left to the caller: `pages`, `title`, with `single` `blocks`, and `files`, the address of the store's files. A
    server adds to `navigation`, and gives `live`, what its pages load and show besides.
    """
    return partial(
        environment(single).get_template("frame.html").render,
        single=single,
        source=content.source,
        quoted=shlex.quote(content.source),
        files="",
        live=None,
        version=version("raybench"),
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        counts=content.counts,
        navigation=NAVIGATION,
        policy=policy(),
        css=static("report.css"),
        js=static("report.js"),
    )


def _pages(
    content: Content, scopes: Sequence[ScopeView], tables: Sequence[Table], single: bool, growing: Sequence[str]
) -> Iterator[Page]:
    """Every page, the overview first."""
    render = partial(_render, environment(single), quoted=shlex.quote(content.source))
    ranked = board_pages(content)
    methods = method_pages(content, ranked)
    lines, why = board_lines(ranked), reasons(content)
    amounts, best = best_rows(ranked)
    figure = max(scopes, key=lambda one: (one.size, STRATEGY in one.name, "average" in one.name), default=None)
    seeds = content.distinct("seed")
    yield render("index", "index", "raybench", "overview.html",
                 heading=_heading(content), counts=content.counts, methods=content.distinct("method"),
                 models=content.distinct("model"), datasets=content.distinct("dataset"), boards=lines,
                 seeds=", ".join(map(str, seeds[:8])) + (", ..." if len(seeds) > 8 else ""), best=best, amounts=amounts,
                 conditions=content.by_speedup.conditions if content.counts["ok"] else (), failures=why,
                 unfinished=growing,
                 figure=figure and {"svg": figure.ranks, "blocks": figure.blocks,
                                    "caption": f"{figure.name}. {figure.ranks_note}"})  # fmt: skip
    yield render("boards", "boards", "Boards", "boards.html", boards=lines)
    for page in ranked:
        yield render(page.name, "boards", page.title, "board.html", page=page, notes_of=board_notes,
                     bar_of=difference_bar, key_of=key_path, equivalent=EQUIVALENT)  # fmt: skip
    yield render("ranks", "ranks", "Ranks", "ranks.html", scopes=_chosen(scopes, figure))
    yield render("methods", "methods", "Methods", "methods.html", methods=methods)
    for method in methods:
        yield render(method.name, "methods", method.method, "method.html", m=method)
    yield render("findings", "findings", "Findings", "findings.html", findings=content.found)
    yield _compare(content, render)
    yield render("trials", "trials", "Trials", "trials.html")
    yield render("trial", "trials", "Trial", "trial.html")
    failed = content.missing
    shown, more = [_failed(row) for row in failed[:LISTED]], max(len(failed) - LISTED, 0)
    yield render("failures", "failures", "Failures", "failures.html", reasons=why, rows=shown, more=more)
    yield render("downloads", "downloads", "Downloads", "downloads.html", tables=tables)


def _chosen(scopes: Sequence[Any], figure: Any) -> list[dict[str, Any]]:
    return [{**vars(one), "chosen": one is figure} for one in scopes]


def _heading(content: Content) -> str:
    """The last part of the store's address, without a bucket's options."""
    bare = content.source.partition("?")[0] if "://" in content.source else content.source
    return bare.rstrip("/").rpartition("/")[2] or content.source


def _failed(row: Mapping[str, Any]) -> dict[str, Any]:
    why = row["reason"] if row["status"] == "skipped" else failure(row["error_type"], row["error_message"])
    return {**row, "why": (why or "no reason given")[:400], "asked": target_of(row)}


def _compare(content: Content, render: Callable[..., Page]) -> Page:
    found = content.compared
    agreement = [
        f"Rank correlation {signed(value)} over {counted(n, 'method')}: {board.model} on {board.dataset}, "
        f"{board.speedup:g}x, {board.track}, protocol {board.protocol}"
        for board, n, value in found.agreement
    ]
    values = [value for _, _, value in found.agreement]
    average = signed(sum(values) / len(values)) if values else ""
    return render("compare", "compare", "Against published figures", "compare.html", rows=found.rows,
                  literature=found.literature, agreement=agreement, mean_agreement=average, tolerance=f"{TOLERANCE:g}",
                  inside=sum(row.inside for row in found.rows), source_of_published=SOURCE,
                  published_strategy=STRATEGY, published_boards=boards())  # fmt: skip


def _render(templates: Any, name: str, nav: str, title: str, template: str, **values: Any) -> Page:
    from markupsafe import Markup

    return Page(name, title, nav, Markup(templates.get_template(template).render(**values)))
