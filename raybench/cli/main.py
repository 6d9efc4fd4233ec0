"""Entry point `raybench VERB ...`: each verb is one file in this package, imported only when it is used."""

from __future__ import annotations

import atexit
import errno
import importlib
import logging
import os
import signal
import sys
import sysconfig
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from raybench.cli.parser import Parser
from raybench.cli.printable_output import lossy_errors, printable_output
from raybench.errors import RaybenchError, UserError, handled_warnings, nearest, printable
from raybench.execution.interrupt import INTERRUPTED, LIMIT_S, end_process, interrupts

GROUPS = {
    "sweeps": {
        "run": "run the missing cells of a sweep, on Ray or in this process",
        "plan": "show what a run would do, without running it",
        "validate": "check a sweep file and list all its mistakes",
        "search": "find depth, width and image size for a target cost",
        "schema": "print the JSON Schema of sweep files",
    },
    "one model": {
        "inspect": "list what of a model can be pruned, and what stays whole",
        "sensitivity": "show what accuracy each group of channels costs when it is cut",
        "prune": "prune one model without a sweep file",
        "export": "write a pruned network as safetensors, ONNX or a program",
    },
    "results": {
        "watch": "show the progress of a run from its storage",
        "leaderboard": "rank the methods in a storage",
        "report": "write the results as pages for a browser, which work offline",
        "serve": "serve the same pages live, with a form that queues runs",
        "plot": "draw results as SVG, PDF or PNG",
        "findings": "compare results with the claims of PruningBench's paper",
        "show": "print the full result of one cell",
        "query": "run an SQL query over results",
        "compare": "compare results with published figures: PruningBench and papers",
        "merge": "copy the results of other storages into one",
        "compact": "merge small result files into a few large ones",
        "gc": "list or remove what killed processes left in a storage",
    },
    "clusters": {
        "submit": "run a sweep as a job of a Ray cluster",
        "jobs": "list the sweeps submitted to a cluster",
        "status": "show the status of a submitted sweep",
        "logs": "print the output of a submitted sweep",
        "stop": "stop a submitted sweep",
    },
    "methods, models, data": {
        "methods": "list importance criteria and regularizers",
        "new-method": "write a template for your own criterion or regularizer",
        "models": "list models",
        "datasets": "list datasets",
        "recipes": "list training recipes, or print one as a start for your own",
        "data": "download and verify a dataset",
    },
    "this program": {
        "completion": "print the completion of verbs and options for bash, zsh or fish",
    },
}
NOT_OURS = {  # errors of a disk, a network or a person who forbade it; None: those of an object store
    None, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.ELOOP,
    errno.ENAMETOOLONG, errno.EMFILE, errno.ENFILE, errno.ENOTCONN, errno.ETIMEDOUT, errno.ECONNREFUSED, errno.EISDIR,
    errno.ENOTDIR, errno.EFBIG,
}  # fmt: skip
VERBS = {verb: summary for verbs in GROUPS.values() for verb, summary in verbs.items()}


def main(argv: list[str] | None = None) -> int:
    """Entry point of the `raybench` command; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(_usage())
        return 0
    if arguments[0] in {"-V", "--version"}:
        print(f"raybench {version('raybench')}")
        return 0
    verb, *rest = arguments
    if verb not in VERBS:
        print(f"raybench: unknown verb {verb!r}.{nearest(verb, VERBS)} See raybench --help", file=sys.stderr)
        return 2
    with lossy_errors():
        code = _guarded(verb, rest)
    if argv is None and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command is over; libraries clean up behind it
    if argv is None and (code == INTERRUPTED or (code and "ray" in sys.modules)):
        _end_without_python(code)
    return code


def _end_without_python(code: int) -> NoReturn:
    """End the process, in LIMIT_S at most. In Python's own end crash libraries' threads that lost what they work on."""
    clock = threading.Timer(LIMIT_S, end_process, (code,))
    clock.daemon = True
    clock.start()
    atexit._run_exitfuncs()  # temporary folders, Ray
    clock.cancel()
    end_process(code)


def _guarded(verb: str, arguments: list[str]) -> int:
    """Run the verb; returns its exit code. A mistake of the user, or Ctrl-C, prints one sentence."""

    def say_interrupted() -> None:
        print(f"raybench {verb}: interrupted", file=sys.stderr)

    try:
        with interrupts(say_interrupted) as found:
            try:
                code = _run(verb, arguments)
            except RaybenchError as error:
                if "--verbose" in arguments:
                    traceback.print_exc()
                print(printable(f"raybench {verb}: {error}"), file=sys.stderr)
                return error.exit_code
            except BrokenPipeError:  # `raybench ... | head`
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return 0
            except Exception as error:
                if found.requested:  # after Ctrl-C libraries raise errors of any kind
                    raise KeyboardInterrupt from None
                if refused := _refused_variable(error):
                    print(printable(f"raybench {verb}: {refused}"), file=sys.stderr)
                    return 2
                if not isinstance(error, OSError) or error.errno not in NOT_OURS:
                    raise
                print(printable(f"raybench {verb}: {error}"), file=sys.stderr)
                return 1
            if found.requested and code != INTERRUPTED:
                raise KeyboardInterrupt  # a library swallowed it
            return code
    except KeyboardInterrupt:
        say_interrupted()
        return INTERRUPTED


def _refused_variable(error: Exception) -> str:
    """What is wrong with TORCH_LOGS, which torch reads as it is imported; empty for other errors."""
    frames = traceback.extract_tb(error.__traceback__)
    value = os.environ.get("TORCH_LOGS")
    if not value or not frames or "_logging" not in Path(frames[-1].filename).parts:
        return ""
    return f"TORCH_LOGS: found {value!r}, expected names of torch's logs or modules, such as dynamo, or no TORCH_LOGS"


def _run(verb: str, arguments: list[str]) -> int:
    """Import the verb, parse its arguments and run it; returns its exit code."""
    module = importlib.import_module(f"raybench.cli.{verb.replace('-', '_')}")
    summary = VERBS[verb]
    parser = Parser(prog=f"raybench {verb}", description=f"{summary[0].upper()}{summary[1:]}.")
    module.arguments(parser)
    parsed = parser.parse_args(arguments)
    if parsed.no_color:
        os.environ["NO_COLOR"] = "1"  # which rich and most libraries follow
    if parsed.quiet and parsed.verbose:
        raise UserError("--verbose: found --quiet beside it, expected one of the two")
    with _quiet(parsed.quiet), _verbose(parsed.verbose), plain_warnings(), printable_output():
        return module.run(parsed) or 0


@contextmanager
def _quiet(quiet: bool) -> Iterator[None]:
    """Drop what the verb prints on standard error: progress, hints, warnings. Errors are printed after it."""
    if not quiet:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
        yield


@contextmanager
def _verbose(verbose: bool) -> Iterator[None]:
    """Print raybench's log on standard error, down to level DEBUG, which also makes every epoch a line."""
    if not verbose:
        yield
        return
    logger, handler = logging.getLogger("raybench"), logging.StreamHandler()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Print raybench's own warnings as one line ``warning: ...`` on standard error, each text once for a command.

    Warnings of installed libraries concern raybench, which calls them: they go to the log, at level DEBUG. Those
    of other code, a user's own, are shown as usual.
    """
    package = str(Path(__file__).parents[1])
    libraries = tuple({sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib")})
    seen: set[str] = set()  # every stage traces the same network

    def printed(message: str, category: type[Warning], filename: str) -> bool:
        if filename.startswith(package) and issubclass(category, UserWarning):
            if message not in seen:
                print(printable(f"warning: {message}"), file=sys.stderr)
            seen.add(message)
            return True
        if filename.startswith(libraries):
            logging.getLogger(__name__).debug("%s: %s: %s", filename, category.__name__, message)
            return True
        return False

    with handled_warnings(printed):
        yield


def _usage() -> str:
    width = max(map(len, VERBS))
    lines = ["usage: raybench VERB ... (options: raybench VERB --help, raybench --version)"]
    for group, verbs in GROUPS.items():
        lines += ["", f"{group}:", *(f"  {verb:<{width}}  {summary}" for verb, summary in verbs.items())]
    return "\n".join(lines)
