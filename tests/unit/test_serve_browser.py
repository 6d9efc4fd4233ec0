"""`raybench serve` in headless Chromium: a form queues a run, its rows come; stopping; bad weights"""

import contextlib
import pickle
import re
import threading
import time

import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
pytest.importorskip("fastapi", reason="the extra serve is not installed")

from raybench.serve import new_routes
from raybench.serve.server import serve
from raybench.serve.settings import Settings
from tests.unit.browsing import CONTRAST
from tests.unit.report_stores import seeded, store
from tests.unit.result_rows import failure, trial
from tests.unit.serving import in_process

EXPECTED = re.compile(r"422|htmx:(afterRequest|sendAbort)")  # a refused form; a plan that a later one replaced
SMALL = {"base_epochs": "0", "base_warmup_epochs": "0", "finetune_epochs": "0", "finetune_warmup_epochs": "0"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a server with some results. Plans are made in this process; runs are real."""
    folder = tmp_path_factory.mktemp("serve")
    store(folder / "st", seeded(seeds=2), [failure(trial("hrank", speedup=8.0))])
    with listening_server(Settings(str(folder / "st"), folder / "work")) as url:
        yield url


@contextlib.contextmanager
def listening_server(settings):
    """The address of a server that listens until the context ends."""
    ready, found = threading.Event(), []

    def listening(url):
        found.append(url)
        ready.set()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(new_routes, "answer", in_process)
        started = []
        patched.setattr("raybench.serve.server.Server.run", _noted(started))
        thread = threading.Thread(target=serve, args=(settings, 0, listening), daemon=True)
        thread.start()
        assert ready.wait(60)
        yield found[0]
        started[0]._app.state.closing = started[0].should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def _noted(started):
    from raybench.serve.server import Server

    run = Server.run

    def noted(self, sockets=None):
        started.append(self)
        run(self, sockets)

    return noted


@pytest.fixture
def page(browser, server):
    """A page; anything that it reports as an error fails the test, but for refused forms."""
    context = browser.new_context(base_url=server, viewport={"width": 1400, "height": 900})
    opened = context.new_page()
    said = []
    opened.on("console", lambda m: said.append(m.text) if m.type == "error" and not EXPECTED.search(m.text) else None)
    opened.on("pageerror", lambda error: said.append(str(error)))
    yield opened
    assert not said
    context.close()


def fill(page, **fields):
    page.goto("new.html")
    for name, value in fields.items():
        place = page.locator(f"#wanted [name={name}]")
        if place.first.evaluate("one => one.tagName") == "SELECT":
            place.select_option(value)
        else:
            place.fill(value)


def test_a_run_goes_through_the_form_and_its_row_comes(page):
    fill(page, name="through-the-form", model="test-convnet", speedups="2", **SMALL)
    page.get_by_label("magnitude-l2").uncheck()
    page.locator("#plan pre", has_text="through-the-form").wait_for()
    page.locator("#plan", has_text=re.compile(r"1\s*cell to run")).wait_for()
    page.get_by_role("button", name="Queue this run").click()
    page.wait_for_url("**/run.html*")
    assert page.locator("#cells [data-status=waiting]").count() == 1
    page.locator("#cells [data-status=ok]").wait_for(timeout=200_000)
    page.locator("#state .s-ok").wait_for(timeout=60_000)
    with page.expect_download() as waiting:
        page.get_by_role("link", name="weights").click()
    assert waiting.value.path().stat().st_size > 1000
    page.get_by_role("link", name="lamp").click()
    page.locator(".trial pre").first.wait_for()
    assert "test-convnet" in page.locator(".trial").inner_text()


def test_a_run_is_stopped(page):
    fill(page, name="to-stop", model="test-convnet", speedups="2", seeds="1", base_epochs="5000", base_seeds="per-seed")
    page.locator("#plan pre", has_text="to-stop").wait_for()
    page.get_by_role("button", name="Queue this run").click()
    page.wait_for_url("**/run.html*")
    page.get_by_role("button", name="Stop").click()
    page.locator("#state .s-stopped").wait_for(timeout=60_000)
    page.goto("runs.html")
    page.get_by_label("Words").fill("to-stop")
    page.get_by_role("button", name="Filter").click()
    assert page.locator("tbody tr", has_text="to-stop").locator(".s-stopped").count() == 1


def test_a_browser_logs_in_with_the_token(browser, tmp_path):
    store(tmp_path / "st", seeded(seeds=1))
    token = "0123456789abcdef-long"
    with listening_server(Settings(str(tmp_path / "st"), tmp_path / "work", read_only=True, token=token)) as url:
        context = browser.new_context(base_url=url)
        page = context.new_page()
        page.goto("boards.html")
        page.get_by_label("Token").fill("not the token of it")
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("alert").filter(has_text="not the token").wait_for()
        page.get_by_label("Token").fill(token)
        page.keyboard.press("Enter")
        page.wait_for_url("**/index.html")
        assert page.get_by_role("link", name="New run").count() == 0
        context.close()


def test_mistakes_are_said_while_the_form_is_filled(page):
    fill(page, speedups="fast")
    page.locator("#plan .problems").wait_for()
    assert "speedups: found 'fast', expected a number" in page.locator("#plan").inner_text()
    page.locator("[name=model]").select_option("own")
    page.locator("[name=own_model]").fill("os:system")
    page.locator("#plan .problems", has_text="own model").wait_for()
    assert page.get_by_role("button", name="Queue this run").is_visible()


def test_bad_weights_are_refused(page, tmp_path):
    (tmp_path / "best.pt").write_bytes(pickle.dumps(time.sleep, protocol=2))
    page.goto("new.html")
    page.locator("input[type=file]").set_input_files(tmp_path / "best.pt")
    page.get_by_role("button", name="Upload").click()
    page.locator("#uploads [role=alert]").wait_for(timeout=60_000)
    assert "best.pt: refused to load: it would run time.sleep" in page.locator("#uploads").inner_text()
    assert page.locator("#weights option", has_text="upload").count() == 0


def test_new_rows_are_announced_and_shown(page, server):
    page.goto("index.html")
    page.evaluate(
        "document.querySelector('.news').setAttribute('hx-get', 'news?seen=old'); htmx.process(document.body)"
    )
    page.evaluate("htmx.ajax('GET', 'news?seen=old', '.news')")
    page.locator(".news a").click()
    page.locator(".news a").wait_for(state="detached")


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (360, "dark"), (800, "light"), (1600, "dark")])
def test_pages_fit_their_window_and_can_be_read(browser, server, width, scheme):
    context = browser.new_context(base_url=server, viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    for name in ("new", "runs"):
        page.goto(f"{name}.html")
        assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0, name
        assert page.evaluate(CONTRAST) == [], (name, scheme)
        unnamed = (
            "[...document.querySelectorAll('input,select,button')].filter(e => !e.labels?.length && "
            "!e.getAttribute('aria-label') && !e.textContent.trim()).map(e => e.outerHTML)"
        )
        assert page.evaluate(unnamed) == [], name
    context.close()
