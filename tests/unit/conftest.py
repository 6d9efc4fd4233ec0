"""Fixtures of all unit tests."""

import contextlib
import shutil
import sys

import pytest

from raybench import registry


@pytest.fixture(autouse=True)
def no_plugins_left():
    """Plug-in files that a test adds are forgotten after it."""
    yield
    for one in registry.KINDS:
        if one._plugins:
            one._plugins, one._entries = [], None


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium; where there is none the test is skipped with the reason."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_api.sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        except sync_api.Error as error:
            pytest.skip(f"no Chromium: apt-get install chromium ({str(error).splitlines()[0]})")
        yield started
        started.close()


@pytest.fixture
def serving(tmp_path, monkeypatch):
    """Makes a server over the storage `st` of the test's folder; its runs are programs given as `script`."""
    from raybench.serve import children, new_routes
    from raybench.serve.settings import Settings
    from tests.unit.serving import Browser, in_process

    opened = contextlib.ExitStack()
    monkeypatch.setattr(new_routes, "answer", in_process)

    def make(script="", **settings):
        monkeypatch.setattr(children, "command", lambda *given: [sys.executable, "-S", "-c", script, *given])
        wanted = {"storage": str(tmp_path / "st"), "work": tmp_path / "work", **settings}
        return opened.enter_context(Browser(Settings(**wanted)))

    with opened:
        yield make
