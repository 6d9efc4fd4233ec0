"""Fixtures of all tests."""

import gc
import os
import signal
import tempfile
import threading

import pytest

# Read when torch is loaded: threads that wait for each other sleep. Where other processes use the cores, too, threads
# that spin while they wait took 79 s for a test of 34 s.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@pytest.fixture(autouse=True, scope="session")
def no_terminal():
    """pytest-xdist gives its workers a terminal's width: 80 columns. Tests print as into a pipe, unless they say so."""
    os.environ.pop("COLUMNS", None)


@pytest.fixture(autouse=True, scope="session")
def locks_of_this_process(tmp_path_factory):
    """Cells of two pytest-xdist workers would wait for each other's timings; the path is short, for Ray's sockets."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        yield
        return
    tmp_path_factory.getbasetemp()  # stays where it is
    with (
        tempfile.TemporaryDirectory(prefix="rb-", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patched,
    ):
        patched.setenv("TMPDIR", folder)
        patched.setattr(tempfile, "tempdir", None)
        yield


@pytest.fixture(autouse=True, scope="session")
def no_pictures_kept():
    """Photos of tests are decoded each time and leave nothing in the user's cache folder."""
    os.environ["RAYBENCH_PICTURE_CACHE_GIB"] = "0"


@pytest.fixture(autouse=True, scope="session")
def what_was_imported_stays_frozen():
    """Sweeps in this process thaw at their end what they froze: each would collect garbage among all imports anew."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(gc, "unfreeze", lambda: None)
        yield


@pytest.fixture(autouse=True)
def no_variables_left():
    """ultralytics' `YOLO(...)` sets a variable that changes numbers; the next test begins without it."""
    yield
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


@pytest.fixture(autouse=True, scope="session")
def interrupts_arrive():
    """Shells ignore SIGINT for commands in the background, and so would all that the tests start and interrupt."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, signal.SIG_IGN)
