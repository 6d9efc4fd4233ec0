"""Servers that the tests of `raybench serve` share: without a socket, and without processes for plans."""

import contextlib
import io
import json
import threading

from starlette.testclient import TestClient

from raybench.cli.main import main
from raybench.errors import UserError
from raybench.serve.app import make_app
from raybench.serve.children import Answer, message
from raybench.serve.guard import CSRF, csrf_token

ONE = threading.Lock()
HERE = "http://127.0.0.1:8765"
FORM = {
    "name": "mine", "dataset": "digits", "model": "test-convnet", "weights": "trained", "method": ["magnitude-l2"],
    "strategy": ["protected-global"], "speedups": "2", "seeds": "0", "recipe": "quick",
}  # fmt: skip


class Browser(TestClient):
    """A client that sends the CSRF token as the pages do; `guest` is one that doesn't."""

    def __init__(self, settings, **more):
        super().__init__(make_app(settings), base_url=HERE, **more)
        self.parts = self.app.state.parts
        self.guest = TestClient(self.app, base_url=HERE)
        self.headers[CSRF] = csrf_token(settings)


def in_process(arguments, folder, *, hide=None):
    """What `children.answer` returns, without a process of its own: that takes seconds on a busy machine.

    One at a time: the folder and the output are the whole process's.
    """
    out, err = io.StringIO(), io.StringIO()
    with ONE, contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(arguments))
    if code:
        raise UserError(message(err.getvalue(), arguments[0], hide))
    return Answer(json.loads(out.getvalue()), ())
